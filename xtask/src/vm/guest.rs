//! One run of one guest: starts QEMU, watches both ports, ends it when its time is over. Must not decide what a result
//! means.

use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use vm_init::frame::{Frame, Outcome};

use super::process::Process;
use super::qemu::{self, Console, Spec};
use super::say;
use super::verdict::{End, Verdict, is_hopeless, judge};

const POLL: Duration = Duration::from_millis(100);
/// How long a guest may take to power off once it has said everything.
const POWER_OFF: Duration = Duration::from_secs(20);
/// How much of the console is shown when a result is missing.
const CONSOLE_LINES: usize = 60;

/// What a run gave.
pub(crate) struct Run {
    pub(crate) verdict: Verdict,
    pub(crate) took: Duration,
    /// The console's last lines, where the result is not complete.
    pub(crate) console: Vec<String>,
}

/// Runs a guest to its end. `label` stands before each line of progress.
pub(crate) fn run(spec: &Spec, label: &str, limit: Duration) -> Result<Run> {
    let Console::Log(console_path) = &spec.console else {
        anyhow::bail!("a guest with tests needs a console log")
    };
    fs::write(&spec.results, "").with_context(|| format!("write {}", spec.results.display()))?;
    fs::write(console_path, "").with_context(|| format!("write {}", console_path.display()))?;
    let words_path = console_path.with_extension("qemu");
    let words = File::create(&words_path).with_context(|| format!("create {}", words_path.display()))?;
    let mut command = qemu::command(spec);
    command.stdout(Stdio::null()).stderr(words);
    let started = Instant::now();
    let mut process = Process::start(command)?;
    let mut progress = Progress::new(label);
    let end = loop {
        if process.ended()?.is_some() {
            break End::Itself(read(&words_path).trim().to_owned());
        }
        progress.show(&read(&spec.results));
        if started.elapsed() > limit {
            break End::TimeOut;
        }
        let is_late = progress.done_at.is_some_and(|at| at.elapsed() > POWER_OFF);
        if is_late || is_hopeless(&read(console_path)) {
            break End::Hopeless;
        }
        thread::sleep(POLL);
    };
    process.end();
    progress.show(&read(&spec.results));
    let console = read(console_path);
    let verdict = judge(&read(&spec.results), &console, &end);
    let console = if verdict.broken.is_some() { last_lines(&console) } else { Vec::new() };
    if read(&words_path).is_empty() {
        fs::remove_file(&words_path).with_context(|| format!("remove {}", words_path.display()))?;
    }
    Ok(Run { verdict, took: started.elapsed(), console })
}

/// Starts a guest with the console on this terminal, and waits for its end.
pub(crate) fn shell(spec: &Spec) -> Result<()> {
    // In our own process group: it must be able to read from the terminal.
    let status = qemu::command(spec).status().context("start QEMU")?;
    anyhow::ensure!(status.success(), "QEMU ended with {status}");
    Ok(())
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

fn last_lines(console: &str) -> Vec<String> {
    let lines: Vec<_> = console.lines().map(|line| line.trim_end().to_owned()).collect();
    lines[lines.len().saturating_sub(CONSOLE_LINES)..].to_vec()
}

/// Says each result once, as it comes.
struct Progress<'a> {
    label: &'a str,
    said: usize,
    read_bytes: usize,
    done_at: Option<Instant>,
}

impl<'a> Progress<'a> {
    const fn new(label: &'a str) -> Self {
        Self { label, said: 0, read_bytes: 0, done_at: None }
    }

    fn show(&mut self, results: &str) {
        if results.len() == self.read_bytes {
            return;
        }
        self.read_bytes = results.len();
        // The last line may not be complete yet.
        let complete = results.rfind('\n').map_or("", |end| &results[..end]);
        let verdict = judge(complete, "", &End::TimeOut);
        for test in &verdict.tests[self.said.min(verdict.tests.len())..] {
            let outcome = match test.outcome {
                Outcome::Passed => "ok     ",
                Outcome::Failed => "FAILED ",
                Outcome::Skipped => "skipped",
            };
            let reason = if test.reason.is_empty() { String::new() } else { format!(": {}", test.reason) };
            say::progress(&format!("{:8} {outcome} {} ({} ms){reason}", self.label, test.name, test.took_ms));
        }
        self.said = self.said.max(verdict.tests.len());
        let is_done = complete
            .lines()
            .last()
            .and_then(Frame::parse)
            .is_some_and(|frame| matches!(frame, Frame::Done(_) | Frame::Error(_)));
        if is_done && self.done_at.is_none() {
            self.done_at = Some(Instant::now());
        }
    }
}
