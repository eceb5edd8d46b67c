//! What is made of call sites: every output tells of the same passages, a profile that another program reads, and a budget
//! past which stacks stop and counts do not. Truth comes from the program that connects. Needs the privileges of a tracer.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use portchurn_tests::harness::folder::Folder;
use portchurn_tests::harness::printer::{Printer, links_of};
use portchurn_tests::harness::programs::portchurn;
use portchurn_tests::harness::{check, check_where_possible, patience, python, servers, sites, skip};
use serde_json::Value;

/// No test is about time: this only ends one that has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// Has a name with angle brackets, as much of Rust, C++ and Python has.
trait Blame {
    fn line_to_blame(&self) -> Result<()>;
}

impl Blame for TcpListener {
    /// One connection, in lock-step: connect, accept, close, close.
    #[inline(never)]
    fn line_to_blame(&self) -> Result<()> {
        let near = TcpStream::connect(self.local_addr()?).context("connect")?;
        let (far, _) = self.accept().context("accept")?;
        drop(near);
        drop(far);
        Ok(())
    }
}

/// portchurn, writing to a file.
struct Traced {
    child: Child,
    output: PathBuf,
}

impl Traced {
    fn start(port: u16, folder: &Path, arguments: &[&str]) -> Result<Self> {
        let output = folder.join("snapshots.jsonl");
        let port = port.to_string();
        let mut command = Command::new(portchurn()?);
        command.args(["top", "-b", "-o", "jsonl", "--interval", "200ms", "-D", &port]).args(arguments);
        command.stdin(Stdio::null()).stdout(File::create(&output)?).stderr(Stdio::null());
        let mut this = Self { child: command.spawn().context("start portchurn")?, output };
        let first = this.wait_for(|snapshot| !snapshot.is_null())?;
        let hooks = first["hooks"].as_array().context("hooks")?;
        let hook = hooks.iter().find(|hook| hook["name"] == "call_sites").context("no such hook")?;
        if hook["attached"] == "none" {
            return Err(skip(&hook["reason"]));
        }
        Ok(this)
    }

    /// The first whole snapshot that is as wanted.
    fn wait_for(&mut self, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let deadline = Instant::now() + patience(PATIENCE);
        loop {
            let text = std::fs::read_to_string(&self.output)?;
            let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
            let last = whole.lines().last().map_or(Ok(Value::Null), serde_json::from_str)?;
            if wanted(&last) {
                return Ok(last);
            }
            if let Some(status) = self.child.try_wait()? {
                ensure!(matches!(status.code(), Some(4 | 5)), "portchurn ended with {status}");
                return Err(skip("not permitted, or the kernel cannot"));
            }
            ensure!(Instant::now() < deadline, "waited in vain; last: {last}");
            thread::yield_now();
        }
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes so many connections and returns the one destination when they have all ended.
fn counted(tracer: &mut Traced, listener: &TcpListener, connections: u64) -> Result<Value> {
    for _ in 0..connections {
        listener.line_to_blame()?;
    }
    let snapshot = tracer.wait_for(|snapshot| snapshot["totals"]["closed"].as_u64() >= Some(connections))?;
    // Names may come one snapshot after the counts.
    let seen = snapshot["cumulative_s"].as_f64();
    let snapshot = tracer.wait_for(|snapshot| snapshot["cumulative_s"].as_f64() > seen)?;
    Ok(snapshot["programs"][0]["destinations"][0].clone())
}

/// Of all opens: how many, and how many of them with a stack.
fn opens(destination: &Value) -> Result<(u64, u64)> {
    let sites = destination["call_sites"].as_array().context("call_sites")?;
    let opens = sites.iter().filter(|site| site["at"] == "open");
    Ok(opens.fold((0, 0), |(all, known), site| {
        let count = site["count"].as_u64().unwrap_or(0);
        let has_frames = site["frames"].as_array().is_some_and(|frames| !frames.is_empty());
        (all + count, known + if has_frames { count } else { 0 })
    }))
}

#[test]
fn past_the_budget_stacks_stop_and_counts_are_exact() {
    const CONNECTIONS: u64 = 1009;
    check("past_the_budget_stacks_stop_and_counts_are_exact", || {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        // The control: with a budget that is never reached there are stacks.
        let folder = Folder::new()?;
        let mut generous = Traced::start(port, folder.path(), &["--stack", "auto", "--max-cpu", "10000"])?;
        let destination = counted(&mut generous, &listener, CONNECTIONS)?;
        let (all, known) = opens(&destination)?;
        ensure!(all == CONNECTIONS && known > 0, "{known} of {all} with a stack: {destination}");
        drop(generous);

        let folder = Folder::new()?;
        let mut tight = Traced::start(port, folder.path(), &["--stack", "auto", "--max-cpu", "0.0001"])?;
        tight.wait_for(|snapshot| snapshot["own_cost"]["stack_effort"] == "none")?;
        let destination = counted(&mut tight, &listener, CONNECTIONS)?;
        for key in ["opened", "closed"] {
            ensure!(destination[key] == CONNECTIONS, "{key}: {destination}");
        }
        ensure!(opens(&destination)? == (CONNECTIONS, 0), "{destination}");
        let site = &destination["call_sites"][0];
        ensure!(site["note"] == "no stack was taken" && site["count"] == CONNECTIONS, "{site}");
        Ok(())
    });
}

/// How often each line of `often` and `seldom` was passed, as one output has it.
type ByLine = BTreeMap<u64, u64>;

/// The line in `often (load.py:12)`.
fn line_in(frame: &str) -> Option<u64> {
    let rest = ["often (load.py:", "seldom (load.py:"].iter().find_map(|start| frame.strip_prefix(start))?;
    rest.split(')').next()?.parse().ok()
}

fn in_folded(text: &str) -> ByLine {
    let mut lines = ByLine::new();
    for (stack, count) in text.lines().filter_map(|line| line.rsplit_once(' ')) {
        if let Some(line) = stack.split(';').find_map(line_in) {
            *lines.entry(line).or_default() += count.parse().unwrap_or(0);
        }
    }
    lines
}

/// From its titles: `often (load.py:12) (1,714 connections, 85.70%)`.
fn in_svg(text: &str) -> ByLine {
    let mut lines = ByLine::new();
    for title in text.split("<title>").skip(1) {
        let count = title.split(" connections").next().and_then(|start| start.rsplit('(').next());
        if let (Some(line), Some(count)) = (line_in(title), count) {
            *lines.entry(line).or_default() += count.replace(',', "").parse().unwrap_or(0);
        }
    }
    lines
}

fn in_sites<'a>(sites: impl Iterator<Item = &'a Value>) -> ByLine {
    let mut lines = ByLine::new();
    for site in sites.filter(|site| site["at"] == "open" && site["language"] == "python") {
        let count = site["count"].as_u64().unwrap_or(1);
        *lines.entry(site["culprit"]["line"].as_u64().unwrap_or(0)).or_default() += count;
    }
    lines
}

fn in_json(text: &str) -> Result<ByLine> {
    let document: Value = serde_json::from_str(text)?;
    Ok(in_sites(document["sites"].as_array().context("sites")?.iter()))
}

fn in_trace(text: &str) -> Result<ByLine> {
    let events: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let connects: Vec<_> = events.iter().filter(|event| event["event"] == "connect").collect();
    ensure!(connects.len() as u64 == PASSAGES, "{} connects, it was {PASSAGES}", connects.len());
    Ok(in_sites(connects.into_iter().map(|event| &event["call_site"])))
}

/// How often the program connects.
const PASSAGES: u64 = 2003;

#[test]
fn every_output_tells_of_the_same_passages() {
    check("every_output_tells_of_the_same_passages", || sites::in_time(all_tell_of_the_same));
}

fn all_tell_of_the_same() -> Result<()> {
    let folder = Folder::new()?;
    let port = servers::accepting()?;
    // Before the attach, so that it is known when it begins.
    let arguments = [port.to_string(), PASSAGES.to_string(), "wait".to_owned()];
    let script = python::Waiting::start(&python::system()?, "load.py", arguments)?;
    let mut tracer = sites::start(port, &[])?;
    let links = links_of(tracer.pid())?;
    let formats = ["sites -o folded", "sites -o svg", "sites -o json", "trace -o jsonl"];
    let start = |format: &&str| {
        let words: Vec<_> = format.split(' ').collect();
        Printer::start(&words, port, folder.path())
    };
    let mut printers = formats.iter().map(start).collect::<Result<Vec<_>>>()?;
    printers.iter_mut().try_for_each(|printer| printer.wait(links))?;
    let truth: Vec<(u64, u64)> = serde_json::from_str(&script.finish()?)?;
    let truth: ByLine = truth.into_iter().collect();
    sites::wait_for(&mut tracer, "", |destinations| sites::opens_are(destinations, PASSAGES))?;
    tracer.stop()?;
    for (printer, format) in printers.into_iter().zip(formats) {
        let text = String::from_utf8(printer.finish()?.0)?;
        let found = match format {
            "sites -o folded" => in_folded(&text),
            "sites -o svg" => in_svg(&text),
            "sites -o json" => in_json(&text)?,
            _ => in_trace(&text)?,
        };
        // Each portchurn looks at the script soon after it is attached; the first passages may come before.
        let rest = PASSAGES.saturating_sub(found.values().sum());
        sites::not_most(rest, PASSAGES)?;
        sites::are_those(&found, &truth, rest).with_context(|| format.to_owned())?;
        sites::say_named(format, PASSAGES - rest, PASSAGES, "the rest came too soon");
    }
    Ok(())
}

#[test]
fn go_reads_the_profile() {
    check_where_possible("go_reads_the_profile", || {
        if Command::new("go").arg("version").stdout(Stdio::null()).status().is_err() {
            return Err(skip("Go is not installed"));
        }
        let folder = Folder::new()?;
        let listener = Arc::new(TcpListener::bind("127.0.0.1:0")?);
        let port = listener.local_addr()?.port().to_string();
        let file = folder.path().join("sites.pb");
        let mut command = Command::new(portchurn()?);
        command.args(["-q", "sites", "--duration", "2s", "-o", "pprof", "-D", &port, "-w"]).arg(&file);
        let mut child = command.stdin(Stdio::null()).spawn().context("start portchurn")?;
        let stop = Arc::new(AtomicBool::new(false));
        let load = {
            let (listener, stop) = (Arc::clone(&listener), Arc::clone(&stop));
            thread::spawn(move || while !stop.load(Ordering::Relaxed) && listener.line_to_blame().is_ok() {})
        };
        let status = child.wait().context("wait for portchurn");
        stop.store(true, Ordering::Relaxed);
        let _ = load.join();
        match status?.code() {
            Some(0) => {}
            Some(4 | 5) => return Err(skip("not permitted, or the kernel cannot")),
            code => bail!("portchurn ended with {code:?}"),
        }
        let name = "TcpListener as call_site_outputs::Blame>::line_to_blame";
        for (how, wanted) in [("-top", name), ("-traces", &*format!("127.0.0.1:{port}"))] {
            let output = Command::new("go").args(["tool", "pprof", how]).arg(&file).output()?;
            let text = String::from_utf8(output.stdout)?;
            ensure!(output.status.success() && text.contains("Type: connections"), "{how}: {text}");
            ensure!(text.contains(wanted), "{how} has no {wanted}: {text}");
        }
        Ok(())
    });
}
