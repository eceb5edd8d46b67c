//! Workloads, one after the other, each counted to its exact numbers.

use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::harness::compare::{Precision, matches_truth};
use crate::harness::mounts::Tracefs;
use crate::harness::programs::run_workload;
use crate::harness::report::Report;
use crate::harness::tracer::Tracer;

/// How often counting may be tried where the kernel may leave out events and portchurn says so.
const ATTEMPTS: u32 = 3;
/// How long such counts may take to come right: what was left out never comes.
const SOON: Duration = Duration::from_secs(10);

/// Starts a tracer, which `judge` looks at, and counts as exactly as that says.
pub fn all_counted(
    workloads: &[&[&str]],
    arguments: &[&str],
    tracefs: Tracefs,
    judge: impl Fn(&Report) -> Result<Precision>,
) -> Result<()> {
    for attempt in 1.. {
        let mut tracer = Tracer::start_with(arguments, tracefs)?;
        let precision = judge(&tracer.latest)?;
        let outcome = workloads.iter().try_for_each(|workload| {
            let truth = run_workload(workload).with_context(|| workload.join(" "))?;
            let is_right = |report: &Report| matches_truth(&truth, report, precision);
            let soon = tracer.wait_at_most(SOON, is_right);
            let is_over = soon.is_ok() || attempt < ATTEMPTS && tracer.latest.may_miss_events();
            let outcome = if is_over { soon } else { tracer.wait_until(is_right) };
            outcome.with_context(|| workload.join(" "))
        });
        let may_try_again = attempt < ATTEMPTS && tracer.latest.may_miss_events();
        tracer.stop()?;
        match outcome {
            Err(_) if may_try_again => {}
            outcome => return outcome,
        }
    }
    Ok(())
}
