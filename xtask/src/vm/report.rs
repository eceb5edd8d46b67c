//! The end of a run: what failed and why, one table of tests and kernels, one line of totals. Must not change a result.

use std::collections::BTreeSet;
use std::time::Duration;

use vm_init::frame::{Counts, Outcome};

use super::say;
use super::table::columns;
use super::verdict::{Test, Verdict};

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
            for test in verdict.tests.iter().filter(|test| test.outcome == Outcome::Skipped) {
                lines.push(format!("SKIP {label}: {}: {}", test.name, test.reason));
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

fn table(entries: &[Entry]) -> String {
    let ran: Vec<_> = entries.iter().map(|entry| (entry, tests(&entry.guest))).collect();
    let names: BTreeSet<_> = ran.iter().flat_map(|(_, tests)| tests.iter().map(|test| &test.name)).collect();
    let row = |name: &str, cell: &dyn Fn(&Entry, &[Test]) -> String| -> Vec<String> {
        std::iter::once(name.to_owned()).chain(ran.iter().map(|(entry, tests)| cell(entry, tests))).collect()
    };
    let mut rows =
        vec![row("", &|entry, _| entry.label.clone()), row("kernel", &|entry, _| entry.release.clone())];
    for name in names {
        rows.push(row(name, &|_, tests| {
            tests.iter().find(|test| test.name == *name).map_or_else(|| "-".to_owned(), cell)
        }));
    }
    rows.push(row("guest", &|entry, _| summary(&entry.guest)));
    columns(&rows)
}

fn tests(guest: &Guest) -> &[Test] {
    match guest {
        Guest::Ran { verdict, .. } => &verdict.tests,
        Guest::Missing { .. } | Guest::Broke(_) => &[],
    }
}

fn cell(test: &Test) -> String {
    match test.outcome {
        Outcome::Passed => "ok".to_owned(),
        Outcome::Failed => "FAILED".to_owned(),
        Outcome::Skipped => "skip".to_owned(),
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

    use super::{Entry, Guest, counts_of, details, table};
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
    fn the_table_has_a_row_for_each_test_and_a_dash_where_it_did_not_run() {
        let entries =
            [ran("BEGIN a\nEND a 0 1\nVM-DONE 1 0 0\n"), ran("BEGIN b\nEND b 1 1\nVM-DONE 0 1 0\n")];
        let text = table(&entries);
        let row = |name: &str| text.lines().find(|line| line.trim().starts_with(name)).unwrap().to_owned();
        assert!(row("a ").contains("ok") && row("a ").contains('-'));
        assert!(row("b ").contains("FAILED"));
    }
}
