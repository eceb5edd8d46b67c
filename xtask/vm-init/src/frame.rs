//! The frames: what a guest says on its result port. Anything else on that port is an error of ours, so every line of a
//! test is marked as such. Must not judge a guest as a whole: the host does.

use std::fmt;

/// How a test's process ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// It was ended because its time was over.
    TimedOut,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "{code}"),
            Self::Signal(signal) => write!(f, "signal-{signal}"),
            Self::TimedOut => f.write_str("time-out"),
        }
    }
}

impl Exit {
    fn parse(text: &str) -> Option<Self> {
        if text == "time-out" {
            return Some(Self::TimedOut);
        }
        match text.strip_prefix("signal-") {
            Some(signal) => signal.parse().ok().map(Self::Signal),
            None => text.parse().ok().map(Self::Code),
        }
    }
}

/// Totals of a guest.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// Tests that did what they promise.
    pub passed: u64,
    /// Tests that did not.
    pub failed: u64,
    /// Tests that said why they cannot run here.
    pub skipped: u64,
}

impl Counts {
    /// Adds one test.
    pub const fn add(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Passed => self.passed += 1,
            Outcome::Failed => self.failed += 1,
            Outcome::Skipped => self.skipped += 1,
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// What became of one test.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// Exit code 0.
    Passed,
    /// Anything else.
    Failed,
    /// Exit code 0 after a line that says SKIP, or libtest ignored it.
    Skipped,
}

impl Outcome {
    /// From the end of the process and whether one of its lines was a [`skip_reason`].
    pub const fn judge(exit: Exit, said_skip: bool) -> Self {
        match exit {
            Exit::Code(0) if said_skip => Self::Skipped,
            Exit::Code(0) => Self::Passed,
            _ => Self::Failed,
        }
    }
}

/// The reason in a line with which a test says that it cannot run here: `SKIP: reason`, or libtest's `ignored`. libtest
/// puts `test name ... ` before the first line of a test that is not captured.
pub fn skip_reason(line: &str) -> Option<&str> {
    let named = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... "));
    let text = named.map_or(line, |(_, rest)| rest);
    if let Some(reason) = text.strip_prefix("SKIP") {
        return Some(reason.trim_start_matches([':', ' ']));
    }
    named.and_then(|_| text.strip_prefix("ignored")).map(|reason| {
        match reason.trim_start_matches([',', ' ']) {
            "" => "ignored by default",
            reason => reason,
        }
    })
}

/// One line on the result port.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Frame {
    /// A test starts.
    Begin(String),
    /// A line that it wrote.
    Line(String),
    /// It ended.
    End {
        /// Which test.
        name: String,
        /// How.
        exit: Exit,
        /// How long it ran. Milliseconds, by the guest's clock.
        took_ms: u64,
    },
    /// All tests were run.
    Done(Counts),
    /// The first process could not do its work.
    Error(String),
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Begin(name) => write!(f, "BEGIN {name}"),
            Self::Line(line) => write!(f, "| {line}"),
            Self::End { name, exit, took_ms } => write!(f, "END {name} {exit} {took_ms}"),
            Self::Done(counts) => {
                write!(f, "VM-DONE {} {} {}", counts.passed, counts.failed, counts.skipped)
            }
            Self::Error(text) => write!(f, "VM-ERROR {}", text.replace('\n', "; ")),
        }
    }
}

impl Frame {
    /// Reads one line; `None` if it is none of ours.
    pub fn parse(line: &str) -> Option<Self> {
        let line = line.trim_end_matches(['\r', '\n']);
        if line == "|" {
            return Some(Self::Line(String::new()));
        }
        let (key, rest) = line.split_once(' ')?;
        match key {
            "|" => Some(Self::Line(rest.to_owned())),
            "BEGIN" => Some(Self::Begin(rest.to_owned())),
            "END" => {
                let mut words = rest.rsplitn(3, ' ');
                let took_ms = words.next()?.parse().ok()?;
                let exit = Exit::parse(words.next()?)?;
                Some(Self::End { name: words.next()?.to_owned(), exit, took_ms })
            }
            "VM-DONE" => {
                let mut numbers = rest.split(' ').map(|word| word.parse().ok());
                let mut next = || numbers.next().flatten();
                Some(Self::Done(Counts { passed: next()?, failed: next()?, skipped: next()? }))
            }
            "VM-ERROR" => Some(Self::Error(rest.to_owned())),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Counts, Exit, Frame, Outcome, skip_reason};

    #[test]
    fn every_frame_survives_the_port() {
        for frame in [
            Frame::Begin("truth::a test".to_owned()),
            Frame::Line("END truth::a 0 1".to_owned()),
            Frame::Line(String::new()),
            Frame::End { name: "truth::a test".to_owned(), exit: Exit::Code(101), took_ms: 7 },
            Frame::End { name: "b".to_owned(), exit: Exit::Signal(9), took_ms: 7 },
            Frame::End { name: "b".to_owned(), exit: Exit::TimedOut, took_ms: 7 },
            Frame::Done(Counts { passed: 1, failed: 2, skipped: 3 }),
            Frame::Error("no module".to_owned()),
        ] {
            assert_eq!(Frame::parse(&format!("{frame}\r\n")), Some(frame));
        }
        assert_eq!(Frame::parse("[    1.2] kernel line"), None);
        assert_eq!(Frame::parse("END a 0"), None);
    }

    #[test]
    fn only_a_skip_at_the_start_of_a_line_is_one() {
        assert_eq!(skip_reason("SKIP: no fentry"), Some("no fentry"));
        assert_eq!(skip_reason("test a ... SKIP: no fentry"), Some("no fentry"));
        assert_eq!(skip_reason("test a ... ignored, needs MariaDB"), Some("needs MariaDB"));
        assert_eq!(skip_reason("test a ... ignored"), Some("ignored by default"));
        assert_eq!(skip_reason("test a ... ok"), None);
        assert_eq!(skip_reason("did not SKIP"), None);
        assert_eq!(skip_reason("ignored"), None);
    }

    #[test]
    fn a_test_that_says_skip_and_fails_has_failed() {
        assert_eq!(Outcome::judge(Exit::Code(0), true), Outcome::Skipped);
        assert_eq!(Outcome::judge(Exit::Code(1), true), Outcome::Failed);
        assert_eq!(Outcome::judge(Exit::TimedOut, false), Outcome::Failed);
        assert_eq!(Outcome::judge(Exit::Code(0), false), Outcome::Passed);
    }
}
