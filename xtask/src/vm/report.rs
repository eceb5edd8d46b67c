//! The end of a run: what failed or was skipped and why, one table for all kernels, one line of totals. Must not change a
//! result.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use vm_init::frame::{Counts, Outcome};

use super::table::columns;
use super::verdict::{Test, Verdict};
use super::{say, support};

/// What became of one kernel line.
#[derive(Debug)]
pub(crate) enum Guest {
    /// It ran.
    Ran { verdict: Verdict, took: Duration, console: Vec<String> },
    /// It could not be had; whether that is a failure.
    Missing { reason: String, is_failure: bool },
    /// The harness failed.
    Broke(String),
}

/// A line's label, the release that ran, and what became of it.
pub(crate) struct Entry {
    pub(crate) label: String,
    pub(crate) release: String,
    pub(crate) guest: Guest,
}

/// Says everything; gives the totals.
pub(crate) fn show(entries: &[Entry]) -> Counts {
    let mut counts = Counts::default();
    for entry in entries {
        let own = counts_of(&entry.guest);
        counts.passed += own.passed;
        counts.failed += own.failed;
        counts.skipped += own.skipped;
        for line in details(entry) {
            say::result(&line);
        }
    }
    for line in skipped(entries) {
        say::result(&line);
    }
    say::result(&table(entries));
    say::result(&counts.to_string());
    counts
}

/// A guest without a complete result is one failure more, whatever its tests did before.
fn counts_of(guest: &Guest) -> Counts {
    match guest {
        Guest::Ran { verdict, .. } => {
            let mut counts = verdict.counts();
            counts.failed += u64::from(verdict.broken.is_some());
            counts
        }
        Guest::Missing { is_failure: false, .. } => Counts { skipped: 1, ..Counts::default() },
        Guest::Missing { .. } | Guest::Broke(_) => Counts { failed: 1, ..Counts::default() },
    }
}

fn details(entry: &Entry) -> Vec<String> {
    let label = &entry.label;
    match &entry.guest {
        Guest::Missing { reason, is_failure: true } => vec![format!("FAILED {label}: {reason}")],
        Guest::Missing { reason, .. } => vec![format!("SKIP {label}: {reason}")],
        Guest::Broke(reason) => vec![format!("FAILED {label}: {reason}")],
        Guest::Ran { verdict, console, .. } => {
            let mut lines = Vec::new();
            for test in verdict.tests.iter().filter(|test| test.outcome == Outcome::Failed) {
                lines.push(format!("---- {label}: {} failed: {}", test.name, test.reason));
                lines.extend(test.lines.iter().map(|line| format!("     {line}")));
            }
            if let Some(cause) = &verdict.broken {
                let during =
                    verdict.during.as_ref().map_or_else(String::new, |test| format!(" during {test}"));
                lines.push(format!("FAILED {label}{during}: {cause}; the last lines of its console:"));
                lines.extend(console.iter().map(|line| format!("     {line}")));
            }
            lines
        }
    }
}

/// Each test that was skipped, once for each reason, with the guests that gave it.
fn skipped(entries: &[Entry]) -> Vec<String> {
    let mut labels: BTreeMap<_, Vec<&str>> = BTreeMap::new();
    for entry in entries {
        for test in tests(&entry.guest).iter().filter(|test| test.outcome == Outcome::Skipped) {
            labels.entry((&test.name, &test.reason)).or_default().push(&entry.label);
        }
    }
    let line =
        |((name, reason), labels): (_, Vec<&str>)| format!("SKIP {}: {name}: {reason}", labels.join(", "));
    labels.into_iter().map(line).collect()
}

/// A column for each kernel; rows for each file of tests, for each test that failed somewhere, and for each hook in each
/// way that the matrix tried.
fn table(entries: &[Entry]) -> String {
    let ran: Vec<_> = entries.iter().map(|entry| tests(&entry.guest)).collect();
    let all = || ran.iter().copied().flatten();
    let row = |name: &str, cell: &dyn Fn(&[Test]) -> String| -> Vec<String> {
        std::iter::once(name.to_owned()).chain(ran.iter().map(|tests| cell(tests))).collect()
    };
    let about = |name: &str, cell: &dyn Fn(&Entry) -> String| -> Vec<String> {
        std::iter::once(name.to_owned()).chain(entries.iter().map(cell)).collect()
    };
    let mut rows =
        vec![about("", &|entry| entry.label.clone()), about("kernel", &|entry| entry.release.clone())];
    let files: BTreeSet<_> = all().map(file).collect();
    rows.extend(
        files
            .into_iter()
            .map(|name| row(name, &|tests| tally(tests.iter().filter(|test| file(test) == name)))),
    );
    let failed: BTreeSet<_> =
        all().filter(|test| test.outcome == Outcome::Failed).map(|test| test.name.as_str()).collect();
    rows.extend(
        failed
            .into_iter()
            .map(|name| row(name, &|tests| tally(tests.iter().filter(|test| test.name == name)))),
    );
    rows.extend(support::in_words(&ran));
    rows.push(about("guest", &|entry| summary(&entry.guest)));
    columns(&rows)
}

/// The file that a test stands in.
fn file(test: &Test) -> &str {
    test.name.split("::").next().unwrap_or_default()
}

fn tally<'a>(tests: impl Iterator<Item = &'a Test>) -> String {
    let mut counts = Counts::default();
    tests.for_each(|test| counts.add(test.outcome));
    let parts = [(counts.failed, "FAILED"), (counts.passed, "ok"), (counts.skipped, "skip")];
    let parts = parts.into_iter().filter(|(count, _)| *count > 0);
    let words: Vec<_> = parts.map(|(count, word)| format!("{count} {word}")).collect();
    if words.is_empty() { "-".to_owned() } else { words.join(", ") }
}

fn tests(guest: &Guest) -> &[Test] {
    match guest {
        Guest::Ran { verdict, .. } => &verdict.tests,
        Guest::Missing { .. } | Guest::Broke(_) => &[],
    }
}

fn summary(guest: &Guest) -> String {
    match guest {
        Guest::Ran { verdict: Verdict { broken: Some(_), .. }, took, .. } => {
            format!("BROKE after {}", seconds(*took))
        }
        Guest::Ran { took, .. } => seconds(*took),
        Guest::Missing { is_failure: false, .. } => "SKIP".to_owned(),
        Guest::Missing { .. } => "MISSING".to_owned(),
        Guest::Broke(_) => "FAILED".to_owned(),
    }
}

fn seconds(took: Duration) -> String {
    format!("{:.1} s", took.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Entry, Guest, counts_of, details, skipped, table};
    use crate::vm::verdict::{End, judge};

    fn ran(results: &str) -> Entry {
        let verdict = judge(results, "last words\n", &End::TimeOut);
        let console = vec!["last words".to_owned()];
        let guest = Guest::Ran { verdict, took: Duration::from_secs(2), console };
        Entry { label: "6.1".to_owned(), release: "6.1.0-1".to_owned(), guest }
    }

    #[test]
    fn a_guest_that_broke_is_a_failure_with_its_console() {
        let entry = ran("BEGIN a\nEND a 0 1\nBEGIN b\n");
        assert_eq!(counts_of(&entry.guest).failed, 1);
        let text = details(&entry).join("\n");
        assert!(text.contains("FAILED 6.1 during b: time-out") && text.contains("last words"), "{text}");
    }

    #[test]
    fn a_kernel_that_is_required_and_missing_is_a_failure() {
        let missing = |is_failure| counts_of(&Guest::Missing { reason: String::new(), is_failure });
        assert_eq!((missing(true).failed, missing(false).skipped), (1, 1));
    }

    #[test]
    fn the_table_counts_each_file_and_names_what_failed() {
        let entries = [
            ran("BEGIN x::a\nEND x::a 0 1\nBEGIN x::b\nEND x::b 0 1\nVM-DONE 2 0 0\n"),
            ran("BEGIN x::b\n| MATRIX hook way works runs=1\nEND x::b 1 1\nVM-DONE 0 1 0\n"),
        ];
        let text = table(&entries);
        let row = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            line[name.len()..].split_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(row("x "), "2 ok 1 FAILED", "{text}");
        assert_eq!(row("x::b"), "1 ok 1 FAILED", "{text}");
        assert_eq!(row("hook: way"), "- works", "{text}");
    }

    #[test]
    fn what_is_skipped_for_one_reason_is_said_once() {
        let entries = ["SKIP: no x", "SKIP: no x", "SKIP: no y"]
            .map(|line| ran(&format!("BEGIN a\n| {line}\nEND a 0 1\nVM-DONE 0 0 1\n")));
        assert_eq!(skipped(&entries), ["SKIP 6.1, 6.1: a: no x", "SKIP 6.1: a: no y"]);
    }
}
