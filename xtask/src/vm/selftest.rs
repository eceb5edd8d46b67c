//! Shows that the harness tells the truth: a healthy guest passes; tests that fail, hang or die are failures; a guest that
//! panics, freezes or can't start its first process is reported as that. Must not need the product.

use std::time::Duration;

use anyhow::{Result, ensure};
use vm_init::frame::Counts;

use super::guest::{self, Run};
use super::plan::Guests;
use super::say;
use super::verdict::Cause;

/// A guest with what it has to do and what must come out.
struct Case {
    name: &'static str,
    arguments: &'static [&'static str],
    /// Modules that the plan names although they are not there.
    modules: &'static [&'static str],
    limit_s: u64,
    is_as_expected: fn(&Run) -> bool,
}

/// One test may take so long in these guests.
const TEST_LIMIT_S: u64 = 3;

const CASES: [Case; 5] = [
    Case {
        name: "healthy",
        arguments: &[],
        modules: &[],
        limit_s: 120,
        is_as_expected: |run| {
            run.verdict.broken.is_none() && run.verdict.counts().failed == 0 && !run.verdict.tests.is_empty()
        },
    },
    Case {
        name: "bad-tests",
        arguments: &["says_skip", "fails", "hangs", "dies_of_a_signal", "leaves_a_child_behind"],
        modules: &[],
        limit_s: 120,
        is_as_expected: |run| {
            run.verdict.broken.is_none()
                && run.verdict.counts() == Counts { passed: 1, failed: 3, skipped: 1 }
                && run.verdict.tests.iter().any(|test| test.reason.starts_with("time-out"))
                && run.verdict.tests.iter().any(|test| test.reason == "signal 6")
        },
    },
    Case {
        name: "panic",
        arguments: &["says_skip", "panics_the_kernel"],
        modules: &[],
        limit_s: 120,
        is_as_expected: |run| {
            matches!(run.verdict.broken, Some(Cause::KernelPanic(_)))
                && run.verdict.during.as_deref() == Some("vm-selftest::panics_the_kernel")
                && run.console.iter().any(|line| line.contains("Kernel panic"))
        },
    },
    Case {
        name: "freeze",
        arguments: &["freezes_the_guest"],
        modules: &[],
        limit_s: 30,
        is_as_expected: |run| {
            matches!(run.verdict.broken, Some(Cause::TimeOut | Cause::Stall(_)))
                && run.took < Duration::from_secs(35)
        },
    },
    Case {
        name: "no-module",
        arguments: &[],
        modules: &["absent.ko"],
        limit_s: 120,
        is_as_expected: |run| matches!(&run.verdict.broken, Some(Cause::InitError(error)) if error.contains("absent.ko")),
    },
];

/// Runs every case on the first kernel, and the healthy one on the others: they differ in what works, not in how the
/// harness fails.
pub(crate) fn run(guests: &[Guests<'_>]) -> Result<()> {
    let mut failed = Vec::new();
    for (index, guests) in guests.iter().enumerate() {
        let cases = if index == 0 { &CASES[..] } else { &CASES[..1] };
        failed.extend(run_cases(guests, cases)?);
    }
    ensure!(
        failed.is_empty(),
        "the harness reported something else than what happened: {}",
        failed.join(", ")
    );
    Ok(())
}

fn run_cases(guests: &Guests<'_>, cases: &[Case]) -> Result<Vec<String>> {
    let mut failed = Vec::new();
    for case in cases {
        let mut plan = guests.plan();
        plan.test_limit_s = TEST_LIMIT_S;
        plan.arguments = case.arguments.iter().map(|&argument| argument.to_owned()).collect();
        plan.modules = case.modules.iter().map(|&module| module.to_owned()).collect();
        let label = format!("{} {}", guests.label(), case.name);
        let prepared = guests.prepare(&format!("selftest {label}").replace(' ', "-"), plan)?;
        let run = guest::run(&prepared.spec, &label, Duration::from_secs(case.limit_s))?;
        let seen =
            run.verdict.broken.as_ref().map_or_else(|| run.verdict.counts().to_string(), ToString::to_string);
        let outcome = if (case.is_as_expected)(&run) { "ok    " } else { "FAILED" };
        say::result(&format!("{outcome} {label:18} {:5.1} s   reported: {seen}", run.took.as_secs_f64()));
        if outcome == "FAILED" {
            failed.push(label);
        }
    }
    Ok(failed)
}
