//! What portchurn says of TIME_WAIT and local ports, as a script would look it up in its JSON.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::lacks::refused;
use super::mounts::Tracefs;
use super::programs::{bound_to, portchurn};
use super::report::Report;
use super::skip;
use super::tracer::Tracer;

/// `portchurn timewait` or `ports` at work. When it is stopped it reads the tables once more, so what it says last is no
/// estimate.
#[derive(Debug)]
pub struct Lister {
    child: Child,
    /// The key of what it lists.
    part: &'static str,
    lines: BufReader<ChildStdout>,
}

impl Lister {
    /// Starts `timewait`, and waits until it is attached.
    pub fn start() -> Result<Self> {
        Self::start_with(&[], Tracefs::AsItIs)
    }

    /// The same with these extra arguments, with tracefs or without.
    pub fn start_with(arguments: &[&str], tracefs: Tracefs) -> Result<Self> {
        Self::start_as("timewait", "time_wait", arguments, tracefs)
    }

    /// The same of `ports`.
    pub fn of_ports() -> Result<Self> {
        Self::start_as("ports", "ports", &[], Tracefs::AsItIs)
    }

    fn start_as(name: &str, part: &'static str, arguments: &[&str], tracefs: Tracefs) -> Result<Self> {
        let mut command = Command::new(portchurn()?);
        command.args([name, "-o", "jsonl", "-i", "1s", "-q"]).args(arguments).env_remove("RUST_LOG");
        tracefs.prepare(&mut command);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        bound_to(&mut command, 180);
        let mut child = command.spawn().context("start portchurn")?;
        let mut lines = BufReader::new(child.stdout.take().context("a pipe was asked for")?);
        let mut first = String::new();
        lines.read_line(&mut first).context("read the first list")?;
        if first.is_empty() {
            let mut complaint = String::new();
            child.stderr.take().context("a pipe was asked for")?.read_to_string(&mut complaint)?;
            match child.wait()?.code() {
                Some(4 | 5) => return Err(refused(&complaint)),
                _ => bail!("portchurn {name} said nothing: {complaint}"),
            }
        }
        Ok(Self { child, part, lines })
    }

    /// Stops it as Ctrl-C does; `time_wait` or `ports` of what it says last.
    pub fn stop(mut self) -> Result<Value> {
        kill_process(Pid::from_child(&self.child), Signal::INT).context("send a signal to portchurn")?;
        let mut last = String::new();
        for line in self.lines.by_ref().lines() {
            last = line?;
        }
        ensure!(self.child.wait()?.success(), "it did not end well");
        let mut document: Value =
            serde_json::from_str(&last).with_context(|| format!("understand {last}"))?;
        Ok(document[self.part].take())
    }
}

impl Drop for Lister {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `portchurn trace` at work, for one network namespace.
#[derive(Debug)]
pub struct Trace {
    child: Child,
    events: BufReader<ChildStdout>,
    said: BufReader<ChildStderr>,
}

impl Trace {
    /// Starts it, and waits until it is attached: until it tells of a connection of ours.
    pub fn start(netns: &str, arguments: &[&str]) -> Result<Self> {
        Self::start_as("jsonl", netns, arguments)
    }

    /// The same in another format.
    pub fn start_as(format: &str, netns: &str, arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(portchurn()?);
        command.args(["trace", "-o", format, "--netns", netns]).args(arguments).env_remove("RUST_LOG");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        bound_to(&mut command, 60);
        let mut child = command.spawn().context("start portchurn")?;
        let events = BufReader::new(child.stdout.take().context("a pipe was asked for")?);
        let said = BufReader::new(child.stderr.take().context("a pipe was asked for")?);
        let mut this = Self { child, events, said };
        this.wait_until_attached()?;
        Ok(this)
    }

    /// Its counter is open as soon as everything is attached.
    fn wait_until_attached(&mut self) -> Result<()> {
        let socket = format!("/run/portchurn/{}.sock", self.child.id());
        while !std::path::Path::new(&socket).exists() {
            if let Some(status) = self.child.try_wait()? {
                let mut complaint = String::new();
                self.said.read_to_string(&mut complaint)?;
                match status.code() {
                    Some(4 | 5) => return Err(refused(&complaint)),
                    _ => bail!("portchurn trace ended: {complaint}"),
                }
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        Ok(())
    }

    /// Reads events until so many have this in them: all of them.
    pub fn wait_for(&mut self, count: usize, part: &str) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        let mut left = count;
        while left > 0 {
            let mut line = String::new();
            ensure!(self.events.read_line(&mut line)? > 0, "portchurn trace ended, {left} events too early");
            left -= usize::from(line.contains(part));
            lines.push(line);
        }
        Ok(lines)
    }

    /// The next line on stderr that is no warning of what this kernel cannot tell.
    pub fn alert(&mut self) -> Result<String> {
        let mut line = String::new();
        loop {
            line.clear();
            let read = self.said.read_line(&mut line).context("read what it says")?;
            if read == 0 || !line.starts_with("warning: ") {
                return Ok(line);
            }
        }
    }

    /// Waits until it ends by itself; the lines that were not read yet.
    pub fn finish(mut self) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        for line in self.events.by_ref().lines() {
            lines.push(line.context("read an event")?);
        }
        let mut rest = String::new();
        self.said.read_to_string(&mut rest)?;
        ensure!(self.child.wait()?.success(), "it did not end well: {rest}");
        Ok(lines)
    }

    /// Stops it; what else it said.
    pub fn stop(mut self) -> Result<String> {
        kill_process(Pid::from_child(&self.child), Signal::INT).context("send a signal to portchurn")?;
        let (mut rest, mut events) = (String::new(), String::new());
        self.events.read_to_string(&mut events)?;
        self.said.read_to_string(&mut rest)?;
        ensure!(self.child.wait()?.success(), "it did not end well: {rest}");
        Ok(rest)
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A tracer that knows connections by their cookie.
pub fn start_with_cookies() -> Result<Tracer> {
    let tracer = Tracer::start(&[])?;
    match tracer.latest.attached("inet_sock_set_state") {
        "tp_btf" => Ok(tracer),
        other => Err(skip(format!("attached as {other}, which gives no cookie"))),
    }
}

/// Says what is wrong with a number.
pub fn equal(what: &str, found: u64, expected: u64) -> Result<()> {
    ensure!(found == expected, "{what}: {found}, should be {expected}");
    Ok(())
}

/// TIME_WAIT sockets that portchurn gives to a process.
pub fn owned(report: &Report, pid: u32) -> u64 {
    owned_in(&report.time_wait, pid)
}

/// The same, of the part `time_wait`.
pub fn owned_in(time_wait: &Value, pid: u32) -> u64 {
    let owners = time_wait["owners"].as_array().into_iter().flatten();
    let of_process = owners.filter(|owner| owner["ownership"] == "owned" && owner["tgid"] == pid);
    of_process.filter_map(|owner| owner["count"].as_u64()).sum()
}

/// TIME_WAIT sockets in a network namespace: those with an owner, and all.
pub fn in_namespace(time_wait: &Value, netns: u64) -> (u64, u64) {
    let (mut with_owner, mut all) = (0, 0);
    for owner in time_wait["owners"].as_array().into_iter().flatten() {
        for destination in owner["destinations"].as_array().into_iter().flatten() {
            if destination["netns"] == netns {
                let count = destination["count"].as_u64().unwrap_or(0);
                all += count;
                with_owner += if owner["ownership"] == "owned" { count } else { 0 };
            }
        }
    }
    (with_owner, all)
}

/// The budget of connects in which a process holds ports.
pub fn budget(report: &Report, pid: u32) -> Option<&Value> {
    let is_holder = |row: &Value| {
        row["holders"].as_array().is_some_and(|holders| holders.iter().any(|holder| holder["tgid"] == pid))
    };
    report.ports.as_array()?.iter().find(|row| row["kind"] == "connect" && is_holder(row))
}

/// The budget of connects in a network namespace where there is one only.
pub fn budget_in(report: &Report, netns: u64) -> Option<&Value> {
    budget_of(&report.ports, netns)
}

/// The same, of the part `ports`.
pub fn budget_of(ports: &Value, netns: u64) -> Option<&Value> {
    ports.as_array()?.iter().find(|row| row["kind"] == "connect" && row["netns"] == netns)
}

/// Failures of a process for want of a port.
pub fn exhausted(report: &Report, pid: u32) -> u64 {
    let events = report.exhaustion.as_array().into_iter().flatten();
    let failed = events.flat_map(|event| event["failed"].as_array().into_iter().flatten());
    failed.filter(|by| by["tgid"] == pid).filter_map(|by| by["count"].as_u64()).sum()
}
