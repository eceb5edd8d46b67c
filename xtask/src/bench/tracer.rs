//! A tracer at work beside the load: portchurn itself, or tcplife for comparison. Started as a user would start it, its
//! output read and counted.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::load::{Load, WARM_UP};
use super::proc::{Usage, attached};
use crate::run::on_path;

/// How long anything may take before the bench gives up.
const PATIENCE: Duration = Duration::from_secs(30);
/// After this silence a tracer has said what it has to say; portchurn speaks once a second.
const SETTLE: Duration = Duration::from_secs(3);

/// Which tracer, and how it is called.
pub(crate) struct Kind {
    pub(crate) name: String,
    program: PathBuf,
    arguments: Vec<String>,
    speaks_json: bool,
}

impl Kind {
    /// `stack`: which lines of code it takes.
    pub(crate) fn portchurn(program: PathBuf, stack: &str, extra: &[String]) -> Self {
        let fixed = ["top", "-b", "-o", "jsonl", "--interval", "1s", "--stack", stack].map(str::to_owned);
        let arguments = fixed.into_iter().chain(extra.iter().cloned()).collect();
        Self { name: "portchurn".to_owned(), program, arguments, speaks_json: true }
    }

    /// The one of libbpf-tools, else the one that BCC runs in Python.
    pub(crate) fn tcplife() -> Option<Self> {
        ["tcplife", "tcplife-bpfcc"].iter().find_map(|name| {
            let program = on_path(name)?;
            Some(Self { name: (*name).to_owned(), program, arguments: Vec::new(), speaks_json: false })
        })
    }

    /// How many connections it should count: one of portchurn's counts has both ends, tcplife prints each end.
    pub(crate) fn expects(&self, load: &Load) -> u64 {
        let cycles = u64::from(load.cycles) + u64::from(WARM_UP);
        if self.speaks_json { cycles } else { 2 * cycles }
    }
}

/// What a tracer says of itself.
#[derive(Clone, Copy, Default)]
pub(crate) struct OwnFigures {
    pub(crate) map_bytes: Option<u64>,
    pub(crate) lost: Option<u64>,
    /// Share of the TIME_WAIT sockets that came since the attach. `None`: there are none.
    pub(crate) owned_ratio: Option<f64>,
}

/// A running tracer.
pub(crate) struct Tracer<'a> {
    kind: &'a Kind,
    child: Child,
    lines: Receiver<String>,
    last: Value,
    counted: u64,
    /// Processor time of all lists of sockets so far.
    lists_ns: u64,
    /// From start to the last program's attachment.
    pub(crate) attach: Duration,
}

impl<'a> Tracer<'a> {
    /// Starts it and waits until it is attached.
    pub(crate) fn start(kind: &'a Kind) -> Result<Self> {
        let mut command = Command::new(&kind.program);
        command.args(&kind.arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let begin = Instant::now();
        let mut child = command.spawn().with_context(|| format!("start {}", kind.program.display()))?;
        let stdout = BufReader::new(child.stdout.take().context("a pipe was asked for")?);
        let (sender, lines) = channel();
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut tracer =
            Self { kind, child, lines, last: Value::Null, counted: 0, lists_ns: 0, attach: Duration::ZERO };
        tracer.attach = tracer.wait_until_attached(begin)?;
        Ok(tracer)
    }

    /// Watches its links appear; attached it is when its first line is out, or a second has brought no more.
    fn wait_until_attached(&mut self, begin: Instant) -> Result<Duration> {
        let (mut links, mut latest) = (0, begin);
        loop {
            if let Some(status) = self.child.try_wait().context("look after the tracer")? {
                bail!("{} ended at once ({status}): start it by hand to see why", self.kind.name);
            }
            let now = attached(self.child.id());
            if now != links {
                (links, latest) = (now, Instant::now());
            }
            match self.lines.recv_timeout(Duration::from_micros(500)) {
                Ok(line) => self.read(&line),
                Err(RecvTimeoutError::Timeout) if links > 0 && latest.elapsed() > Duration::from_secs(1) => {}
                Err(RecvTimeoutError::Timeout) => {
                    ensure!(begin.elapsed() < PATIENCE, "{} does not attach", self.kind.name);
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => continue,
            }
            return Ok(latest - begin);
        }
    }

    fn read(&mut self, line: &str) {
        if !self.kind.speaks_json {
            return;
        }
        let before = self.list_ms();
        self.last = serde_json::from_str(line).unwrap_or_default();
        // No two take the same time to the nanosecond.
        if self.list_ms() != before {
            self.lists_ns += (1e6 * self.list_ms().unwrap_or_default()) as u64;
        }
    }

    /// Processor time of the latest list of sockets.
    fn list_ms(&self) -> Option<f64> {
        self.last["time_wait"]["read_cpu_ms"].as_f64()
    }

    /// Reads what it has said by now.
    pub(crate) fn read_on(&mut self) {
        while let Ok(line) = self.lines.try_recv() {
            self.read(&line);
        }
    }

    pub(crate) fn usage(&mut self) -> Result<Usage> {
        // Of others each line counts.
        if self.kind.speaks_json {
            self.read_on();
        }
        Usage::of(self.child.id(), self.lists_ns)
    }

    /// Waits for `count` more of portchurn's reports.
    pub(crate) fn wait_for_reports(&mut self, count: usize) -> Result<()> {
        for _ in 0..count {
            let line = self.lines.recv_timeout(PATIENCE).context("wait for a report")?;
            self.read(&line);
        }
        Ok(())
    }

    /// Reads on until it has counted all of `load`, or has nothing more to say.
    pub(crate) fn wait_for_count(&mut self, load: &Load) {
        while self.counted < self.kind.expects(load) {
            let Ok(line) = self.lines.recv_timeout(SETTLE) else { break };
            self.count(load, &line);
        }
    }

    fn count(&mut self, load: &Load, line: &str) {
        self.read(line);
        if self.kind.speaks_json {
            self.counted = self.counted.max(self.made_by(load.pid));
        } else {
            self.counted += u64::from(line.split_whitespace().next() == Some(load.pid.to_string().as_str()));
        }
    }

    /// Stops it. What it had kept in its buffer counts too. How many connections of `load` it counted, and how long it
    /// took to be gone.
    pub(crate) fn stop_and_count(mut self, load: &Load) -> Result<(u64, Duration)> {
        let took = self.end()?;
        while let Ok(line) = self.lines.recv_timeout(SETTLE) {
            self.count(load, &line);
        }
        Ok((self.counted, took))
    }

    /// Connections and failed connects of a process in the last report; 0 unless it closed what it opened and accepted.
    fn made_by(&self, pid: u32) -> u64 {
        let processes = self.last["processes"].as_array().map(Vec::as_slice).unwrap_or_default();
        let Some(process) = processes.iter().find(|process| process["tgid"] == pid) else { return 0 };
        let [opened, accepted, closed, failed] =
            ["opened", "accepted", "closed", "failed"].map(|key| process[key].as_u64().unwrap_or_default());
        if opened == accepted && closed == opened + accepted { opened + failed } else { 0 }
    }

    pub(crate) fn own_figures(&self) -> OwnFigures {
        let count = |of: &str| self.last["time_wait"][of].as_f64().unwrap_or_default();
        let since_attach = count("total") - count("before_attach");
        OwnFigures {
            map_bytes: self.last["own_cost"]["map_bytes"].as_u64(),
            lost: self.last["lost"]["total"].as_u64(),
            owned_ratio: (since_attach > 0.0).then(|| count("owned") / since_attach),
        }
    }

    /// Stops it.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.end().map(|_| ())
    }

    /// Ctrl-C, as a user would; how long it took to be gone.
    fn end(&mut self) -> Result<Duration> {
        let begin = Instant::now();
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::INT).with_context(|| format!("stop {}", self.kind.name))?;
        while begin.elapsed() < PATIENCE {
            if self.child.try_wait().context("wait for the tracer")?.is_some() {
                return Ok(begin.elapsed());
            }
            thread::sleep(Duration::from_micros(500));
        }
        bail!("{} does not stop", self.kind.name)
    }
}

impl Drop for Tracer<'_> {
    fn drop(&mut self) {
        // Fails when it has ended, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
