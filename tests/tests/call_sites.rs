//! The line of code behind each connection, against what the interpreter itself says. Truth comes from the programs,
//! never from portchurn. Needs the privileges of a tracer, and at least one Python.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use anyhow::{Context, Result, ensure};
use portchurn_tests::harness::folder::Folder;
use portchurn_tests::harness::programs::portchurn;
use portchurn_tests::harness::{check, skip};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// A stack as its names, files and lines, innermost first, and how often.
type Stacks = BTreeMap<Vec<(String, String, u64)>, u64>;

/// Accepts and closes, in lock-step with whoever connects.
fn server() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("listen")?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || listener.incoming().for_each(drop));
    Ok(port)
}

/// Every Python that can be found: those of pyenv and the system's.
fn pythons() -> Vec<PathBuf> {
    let mut found: Vec<_> =
        ["/usr/bin/python3"].map(PathBuf::from).into_iter().filter(|p| p.exists()).collect();
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    for entry in std::fs::read_dir(home.join(".pyenv/versions")).into_iter().flatten().flatten() {
        let python = entry.path().join("bin/python3");
        let minor = entry.file_name().to_string_lossy().split('.').nth(1).and_then(|m| m.parse::<u32>().ok());
        if entry.file_name().to_string_lossy().starts_with("3.") && minor >= Some(7) && python.exists() {
            found.push(python);
        }
    }
    found
}

struct Tracer {
    child: Child,
    output: PathBuf,
}

impl Tracer {
    fn start(port: u16, folder: &Path, arguments: &[&str]) -> Result<Self> {
        let output = folder.join("snapshots.jsonl");
        let mut command = Command::new(portchurn()?);
        command.args([
            "top",
            "-b",
            "--stack",
            "auto",
            "-o",
            "jsonl",
            "--interval",
            "200ms",
            "-D",
            &port.to_string(),
        ]);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(&output)?)
            .stderr(Stdio::piped());
        let mut this = Self { child: command.spawn().context("start portchurn")?, output };
        while this.last()?.is_null() {
            if let Some(status) = this.child.try_wait()? {
                ensure!(matches!(status.code(), Some(4 | 5)), "portchurn ended with {status}");
                return Err(skip("not permitted, or the kernel cannot"));
            }
        }
        let snapshot = this.last()?;
        let hooks = snapshot["hooks"].as_array().context("hooks")?;
        let hook =
            hooks.iter().find(|hook| hook["name"] == "call_sites").context("no hook for call sites")?;
        if hook["attached"] == "none" {
            return Err(skip(&hook["reason"]));
        }
        Ok(this)
    }

    /// The last whole snapshot; null: there is none yet.
    fn last(&self) -> Result<Value> {
        let text = std::fs::read_to_string(&self.output)?;
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        Ok(whole.lines().last().map(serde_json::from_str).transpose()?.unwrap_or(Value::Null))
    }

    /// The snapshot in which this many connections have ended.
    fn after(&mut self, closed: u64) -> Result<Value> {
        loop {
            let snapshot = self.last()?;
            if snapshot["totals"]["closed"].as_u64() >= Some(closed) {
                break;
            }
            ensure!(self.child.try_wait()?.is_none(), "portchurn ended");
            thread::yield_now();
        }
        // Names may come one snapshot after the counts.
        let seen = self.last()?["cumulative_s"].as_f64();
        while self.last()?["cumulative_s"].as_f64() == seen {
            thread::yield_now();
        }
        let snapshot = self.last()?;
        kill_process(Pid::from_child(&self.child), Signal::INT)?;
        self.child.wait()?;
        Ok(snapshot)
    }
}

/// The Python frames of every call site at this moment. Counts of one destination must add up.
fn call_sites(snapshot: &Value, at: &str) -> Result<Stacks> {
    let mut stacks = Stacks::new();
    for program in snapshot["programs"].as_array().context("programs")? {
        for destination in program["destinations"].as_array().context("destinations")? {
            let sites = destination["call_sites"].as_array().context("call_sites")?;
            let sites: Vec<_> = sites.iter().filter(|site| site["at"] == at).collect();
            let sum: u64 = sites.iter().filter_map(|site| site["count"].as_u64()).sum();
            if at == "open" {
                ensure!(
                    Some(sum) == destination["opened"].as_u64(),
                    "the sites' sum is {sum}: {destination}"
                );
            }
            for site in sites {
                let frames = site["frames"].as_array().context("frames")?;
                let python = frames.iter().filter(|frame| frame["language"] == "python");
                let text = |value: &Value| value.as_str().unwrap_or("(none)").to_owned();
                // Qualified names from 3.11 on: the interpreter's account has the last part.
                let stack = python.map(|frame| {
                    let name = text(&frame["function"]);
                    let name = name.rsplit('.').next().unwrap_or(&name).to_owned();
                    (name, text(&frame["file"]), frame["line"].as_u64().unwrap_or(0))
                });
                *stacks.entry(stack.collect()).or_default() += site["count"].as_u64().unwrap_or(0);
            }
        }
    }
    Ok(stacks)
}

fn account(path: &Path) -> Result<Stacks> {
    let mut stacks = Stacks::new();
    for line in std::fs::read_to_string(path)?.lines() {
        let value: Value = serde_json::from_str(line)?;
        let frames = value["stack"].as_array().context("stack")?.iter();
        let frame = |frame: &Value| {
            let text = |index: usize| frame[index].as_str().unwrap_or_default().to_owned();
            (text(0), text(1), frame[2].as_u64().unwrap_or(0))
        };
        *stacks.entry(frames.map(frame).collect()).or_default() += 1;
    }
    Ok(stacks)
}

fn equal(python: &Path) -> Result<()> {
    let folder = Folder::new()?;
    let port = server()?;
    let mut tracer = Tracer::start(port, folder.path(), &[])?;
    let written = folder.path().join("account.jsonl");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/python/truth.py");
    let mut command = Command::new(python);
    command.arg(script).arg(port.to_string()).arg(&written).arg("5").env("FORK", "1");
    ensure!(command.status()?.success(), "the script itself failed");
    let truth = account(&written)?;
    let snapshot = tracer.after(truth.values().sum())?;
    let found = call_sites(&snapshot, "open")?;
    for (stack, count) in &truth {
        ensure!(
            found.get(stack) == Some(count),
            "{python:?}: {count} of {stack:#?}, found {:?}",
            found.get(stack)
        );
    }
    ensure!(found.len() == truth.len(), "{python:?}: stacks that were not: {found:#?}");
    Ok(())
}

#[test]
fn python_frames_are_those_of_the_interpreter() {
    check("python_frames_are_those_of_the_interpreter", || {
        let pythons = pythons();
        if pythons.is_empty() {
            return Err(skip("there is no Python 3.7 or later here"));
        }
        pythons.iter().try_for_each(|python| equal(python))
    });
}
