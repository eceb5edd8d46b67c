//! What became of a guest, from its result port; the console only serves to name why a result is missing. Must not run
//! anything.

use std::fmt;

use vm_init::frame::{Counts, Exit, Frame, Outcome, skip_reason};

/// One test in one guest.
#[derive(Clone, Debug)]
pub(crate) struct Test {
    pub(crate) name: String,
    pub(crate) outcome: Outcome,
    /// Why it was skipped, or how it ended.
    pub(crate) reason: String,
    pub(crate) took_ms: u64,
    pub(crate) lines: Vec<String>,
}

/// Why a guest gave no complete result.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Cause {
    TimeOut,
    KernelPanic(String),
    Stall(String),
    InitError(String),
    /// Nothing of the above: QEMU's own last words.
    Ended(String),
    /// It is required, and all of its tests were skipped or left out.
    NothingRan,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimeOut => f.write_str("time-out"),
            Self::KernelPanic(line) => write!(f, "kernel panic: {line}"),
            Self::Stall(line) => write!(f, "soft lockup or RCU stall: {line}"),
            Self::InitError(line) => write!(f, "init error: {line}"),
            Self::NothingRan => f.write_str("it is required, and no test ran on it"),
            Self::Ended(text) => write!(f, "QEMU ended before the tests did: {text}"),
        }
    }
}

/// How QEMU came to its end.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum End {
    /// By itself; with its last words.
    Itself(String),
    /// We ended it.
    TimeOut,
    /// We ended it, as nothing more could come.
    Hopeless,
}

/// What became of a guest.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) tests: Vec<Test>,
    /// The test that ran when it broke.
    pub(crate) during: Option<String>,
    pub(crate) broken: Option<Cause>,
}

impl Verdict {
    pub(crate) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for test in &self.tests {
            counts.add(test.outcome);
        }
        counts
    }
}

/// Reads the result port's text.
pub(crate) fn judge(results: &str, console: &str, end: &End) -> Verdict {
    let mut reader = Reader::default();
    for line in results.lines() {
        reader.read(line);
    }
    let broken = match (&reader.done, &reader.error) {
        (_, Some(error)) => Some(Cause::InitError(error.clone())),
        (Some(counts), None) if *counts == reader.verdict.counts() => None,
        (Some(counts), None) => Some(Cause::InitError(format!("the result port lost lines of: {counts}"))),
        (None, None) => Some(cause(console, end)),
    };
    Verdict { broken, ..reader.verdict }
}

/// Whether a guest will not recover: the second soft lockup, or a panic that doesn't end QEMU.
pub(crate) fn is_hopeless(console: &str) -> bool {
    console.contains("end Kernel panic") || console.matches("soft lockup").count() > 1
}

fn cause(console: &str, end: &End) -> Cause {
    let line_with = |needle: &str| {
        let line = console.lines().find(|line| line.contains(needle))?;
        Some(line.split_once("] ").map_or(line, |(_, text)| text).trim().to_owned())
    };
    if let Some(line) = line_with("vm-init: error: ") {
        return Cause::InitError(line);
    }
    if let Some(line) = line_with("Kernel panic - not syncing") {
        return match line_with("Attempted to kill init") {
            Some(line) => Cause::InitError(line),
            None => Cause::KernelPanic(line),
        };
    }
    let stalls = [
        "soft lockup",
        "detected stall",
        "self-detected stall",
        "kthread starved",
        "detected expedited stall",
    ];
    if let Some(line) = stalls.into_iter().find_map(line_with) {
        return Cause::Stall(line);
    }
    match end {
        End::Itself(words) => Cause::Ended(words.clone()),
        End::TimeOut | End::Hopeless => Cause::TimeOut,
    }
}

#[derive(Default)]
struct Reader {
    verdict: Verdict,
    lines: Vec<String>,
    done: Option<Counts>,
    error: Option<String>,
}

impl Reader {
    fn read(&mut self, line: &str) {
        match Frame::parse(line) {
            Some(Frame::Begin(name)) => {
                self.lines.clear();
                self.verdict.during = Some(name);
            }
            Some(Frame::Line(line)) => self.lines.push(line),
            Some(Frame::End { name, exit, took_ms }) => {
                let lines = std::mem::take(&mut self.lines);
                self.verdict.during = None;
                self.verdict.tests.push(finished(name, exit, took_ms, lines));
            }
            Some(Frame::Done(counts)) => self.done = Some(counts),
            Some(Frame::Error(error)) => self.error = Some(error),
            None => self.error = Some(format!("no frame of ours on the result port: {line:?}")),
        }
    }
}

fn finished(name: String, exit: Exit, took_ms: u64, lines: Vec<String>) -> Test {
    let skipped = lines.iter().find_map(|line| skip_reason(line));
    // Tests may repeat their own name before the reason.
    let own_name = format!("{}: ", name.rsplit("::").next().unwrap_or_default());
    let skipped = skipped.map(|reason| reason.strip_prefix(own_name.as_str()).unwrap_or(reason));
    let outcome = Outcome::judge(exit, skipped.is_some());
    let reason = match (outcome, exit) {
        (Outcome::Skipped, _) => skipped.unwrap_or_default().to_owned(),
        (Outcome::Passed, _) => String::new(),
        (Outcome::Failed, Exit::TimedOut) => format!("time-out after {} s", took_ms / 1000),
        (Outcome::Failed, Exit::Code(code)) => format!("exit code {code}"),
        (Outcome::Failed, Exit::Signal(signal)) => format!("signal {signal}"),
    };
    Test { name, outcome, reason, took_ms, lines }
}

#[cfg(test)]
mod tests {
    use vm_init::frame::{Counts, Outcome};

    use super::{Cause, End, judge};

    const TWO: &str = "BEGIN a\r\n| test a ... ok\r\nEND a 0 5\nBEGIN b\n| SKIP: no fentry\nEND b 0 1\n";

    #[test]
    fn a_complete_result_is_what_its_frames_say() {
        let verdict = judge(&format!("{TWO}VM-DONE 1 0 1\n"), "", &End::Itself(String::new()));
        assert_eq!(verdict.broken, None);
        assert_eq!(verdict.counts(), Counts { passed: 1, failed: 0, skipped: 1 });
        assert_eq!(verdict.tests[1].outcome, Outcome::Skipped);
        assert_eq!(verdict.tests[1].reason, "no fentry");
    }

    #[test]
    fn lost_or_foreign_lines_break_a_result() {
        for results in [format!("{TWO}VM-DONE 2 0 1\n"), format!("{TWO}[ 1.0] kernel\nVM-DONE 1 0 1\n")] {
            let verdict = judge(&results, "", &End::Itself(String::new()));
            assert!(matches!(verdict.broken, Some(Cause::InitError(_))), "{results}");
        }
    }

    #[test]
    fn without_a_last_line_the_console_names_the_cause() {
        let cause = |console: &str, end: &End| judge("BEGIN a\n", console, end).broken.unwrap().to_string();
        let itself = End::Itself("no".to_owned());
        let panic = "[    9.1] Kernel panic - not syncing: sysrq triggered crash\n";
        assert_eq!(cause(panic, &itself), "kernel panic: Kernel panic - not syncing: sysrq triggered crash");
        let init = "[ 2.0] Kernel panic - not syncing: Attempted to kill init! exitcode=0x100\n";
        assert!(cause(init, &itself).starts_with("init error"));
        assert!(
            cause("[ 9.0] watchdog: BUG: soft lockup - CPU#0 stuck", &End::TimeOut)
                .starts_with("soft lockup")
        );
        assert_eq!(cause("", &End::TimeOut), "time-out");
        assert!(cause("", &itself).ends_with("no"));
    }

    #[test]
    fn the_test_that_ran_is_named() {
        let verdict = judge(&format!("{TWO}BEGIN c\n| x\n"), "", &End::TimeOut);
        assert_eq!(verdict.during.as_deref(), Some("c"));
        assert_eq!(verdict.tests.len(), 2);
    }
}
