//! portchurn as a child that prints one JSON object per interval. It counts the whole host; tests look at their own
//! processes only, so they may run side by side.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::lacks::refused;
use super::mounts::Tracefs;
use super::patience;
use super::programs::portchurn;
use super::report::Report;

/// How long the awaited may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Lines that are read ahead of the test.
const READ_AHEAD: usize = 4096;

/// A tracer at work.
#[derive(Debug)]
pub struct Tracer {
    child: Child,
    lines: Receiver<String>,
    complaint: Option<JoinHandle<String>>,
    /// What it said last.
    pub latest: Report,
    /// The same, as it came.
    pub text: String,
}

impl Tracer {
    /// Starts one with these extra arguments, and waits until it is attached.
    pub fn start(arguments: &[&str]) -> Result<Self> {
        Self::start_with(arguments, Tracefs::AsItIs)
    }

    /// The same, with tracefs or without.
    pub fn start_with(arguments: &[&str], tracefs: Tracefs) -> Result<Self> {
        Self::start_by(Command::new(portchurn()?), arguments, tracefs)
    }

    /// The same, by a command that becomes portchurn.
    pub fn start_by(command: Command, arguments: &[&str], tracefs: Tracefs) -> Result<Self> {
        Self::start_reading(command, arguments, tracefs, READ_AHEAD)
    }

    /// The same, whose output is read only as fast as the test does.
    pub fn start_unread(arguments: &[&str]) -> Result<Self> {
        Self::start_reading(Command::new(portchurn()?), arguments, Tracefs::AsItIs, 0)
    }

    fn start_reading(
        mut command: Command,
        arguments: &[&str],
        tracefs: Tracefs,
        read_ahead: usize,
    ) -> Result<Self> {
        command.args(["top", "-b", "-o", "jsonl"]).args(arguments);
        if !arguments.contains(&"--interval") {
            command.args(["--interval", "200ms"]);
        }
        // Where lines of code matter, a test asks for them: on a crowded machine some of their stacks come too late, and
        // then not all is recorded.
        if !arguments.contains(&"--stack") {
            command.args(["--stack", "off"]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).env_remove("RUST_LOG");
        tracefs.prepare(&mut command);
        let mut child = command.spawn().context("start portchurn")?;
        let stdout = BufReader::new(child.stdout.take().context("a pipe was asked for")?);
        let mut stderr = child.stderr.take().context("a pipe was asked for")?;
        let (sender, lines) = sync_channel(read_ahead);
        thread::spawn(move || {
            for line in stdout.lines().map_while(|line| line.ok()) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let complaint = Some(thread::spawn(move || {
            let mut text = String::new();
            let _ = stderr.read_to_string(&mut text);
            text
        }));
        let Ok(first) = lines.recv_timeout(patience(PATIENCE)) else {
            let _ = child.kill();
            let status = child.wait().context("wait for portchurn")?;
            let complaint = complaint.and_then(|reader| reader.join().ok()).unwrap_or_default();
            // Not permitted, or the kernel cannot.
            if matches!(status.code(), Some(4 | 5)) {
                return Err(refused(&complaint));
            }
            bail!("portchurn printed nothing ({status}): {complaint}");
        };
        let latest = parse(&first)?;
        Ok(Self { child, lines, complaint, latest, text: first })
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Reads the next object.
    pub fn advance(&mut self) -> Result<&Report> {
        match self.lines.recv_timeout(patience(PATIENCE)) {
            Ok(line) => {
                self.latest = parse(&line)?;
                self.text = line;
            }
            Err(RecvTimeoutError::Timeout) => bail!("portchurn fell silent"),
            Err(RecvTimeoutError::Disconnected) => bail!("portchurn ended"),
        }
        Ok(&self.latest)
    }

    /// Leaves behind what it printed until now: before a condition that held in the beginning, too. The object after those may
    /// have been begun before.
    pub fn catch_up(&mut self) -> Result<()> {
        while self.lines.try_recv().is_ok() {}
        self.advance()?;
        self.advance().map(drop)
    }

    /// Its memory, with what it maps of files and of the kernel. KiB.
    pub fn resident_kib(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))
            .context("read the memory of portchurn")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("find VmRSS")?;
        line.trim().trim_end_matches(" kB").parse().context("understand VmRSS")
    }

    /// Reads on until the condition holds; it says what is still wrong. Counters only grow, so it must still hold one
    /// object later.
    pub fn wait_until(&mut self, condition: impl Fn(&Report) -> Result<()>) -> Result<()> {
        self.wait_at_most(PATIENCE, condition)
    }

    /// The same for so long, or as much longer as the machine is slower.
    pub fn wait_at_most(
        &mut self,
        at_most: Duration,
        condition: impl Fn(&Report) -> Result<()>,
    ) -> Result<()> {
        let deadline = Instant::now() + patience(at_most);
        loop {
            let report = self.advance()?;
            match condition(report) {
                Ok(()) => break,
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => {}
            }
        }
        condition(self.advance()?).context("it was right, but then")
    }

    /// Reads on until the condition holds five times in a row: for numbers that are estimates between two lists of the
    /// kernel, and may be right by chance.
    pub fn wait_until_settled(&mut self, condition: impl Fn(&Report) -> Result<()>) -> Result<()> {
        let deadline = Instant::now() + patience(PATIENCE);
        let mut right = 0;
        while right < 5 {
            match condition(self.advance()?) {
                Ok(()) => right += 1,
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => right = 0,
            }
        }
        Ok(())
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).context("send a signal to portchurn")
    }

    /// Stops it as Ctrl-C does; it must end well. What it said on stderr.
    pub fn stop(self) -> Result<String> {
        self.signal(Signal::INT)?;
        self.finish().context("after Ctrl-C")
    }

    /// Ctrl-C, where it may end otherwise than well: how, and what it said on stderr.
    pub fn interrupt(mut self) -> Result<(ExitStatus, String)> {
        self.signal(Signal::INT)?;
        self.end().context("after Ctrl-C")
    }

    /// Waits until it ends by itself; it must end well. What it said on stderr.
    pub fn finish(mut self) -> Result<String> {
        let (status, complaint) = self.end()?;
        ensure!(status.success(), "it ended with {status}: {complaint}");
        Ok(complaint)
    }

    /// Ends it as nobody can prevent.
    pub fn kill(mut self) -> Result<()> {
        self.signal(Signal::KILL)?;
        self.end()?;
        Ok(())
    }

    fn end(&mut self) -> Result<(ExitStatus, String)> {
        // A full pipe would keep it from ending.
        while self.lines.recv_timeout(patience(PATIENCE)).is_ok() {}
        let status = self.child.wait().context("wait for portchurn")?;
        let complaint = self.complaint.take().and_then(|reader| reader.join().ok()).unwrap_or_default();
        ensure!(!complaint.contains("panicked"), "it panicked: {complaint}");
        Ok((status, complaint))
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn parse(line: &str) -> Result<Report> {
    let report: Report = serde_json::from_str(line).with_context(|| format!("understand {line}"))?;
    ensure!(report.schema_version == 1, "schema version {}", report.schema_version);
    Ok(report)
}
