//! Minutes of churn by processes that come and go: every connection is counted, and portchurn does not grow. Run by
//! hand, as it takes its time: `PORTCHURN_SOAK_MINUTES=10 cargo test -p portchurn-tests --test soak -- --ignored`.

use std::io::{Write, stderr};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use portchurn_tests::harness::compare::matches_as_a_program;
use portchurn_tests::harness::programs::start_workload;
use portchurn_tests::harness::report::Report;
use portchurn_tests::harness::tracer::Tracer;
use portchurn_tests::harness::{Alone, check};

/// With lines of code, as users have it, an object tells of a thousand processes with all their frames: 13 MB.
const ARGUMENTS: [&str; 4] = ["--stack", "auto", "--interval", "2s"];
/// Objects between two looks at the memory.
const LOOK_EVERY: u64 = 5;

#[test]
#[ignore = "takes minutes; see the top of the file"]
fn memory_is_flat_and_counts_are_exact() {
    check("memory_is_flat_and_counts_are_exact", || {
        let minutes = std::env::var("PORTCHURN_SOAK_MINUTES").map_or(Ok(10), |text| text.parse::<u64>());
        let seconds = (minutes.context("PORTCHURN_SOAK_MINUTES is a number")? * 60).to_string();
        let _alone = Alone::wait()?;
        let mut tracer = Tracer::start(&ARGUMENTS)?;
        // In a namespace of its own, so that what others do meanwhile is told apart by it.
        let workload = start_workload(&["soak", "--seconds", &seconds, "--netns", "own"])?;
        let (sender, receiver) = channel();
        thread::spawn(move || sender.send(workload.finish()));
        let started = Instant::now();
        let mut looks: Vec<u64> = Vec::new();
        let truth = loop {
            for _ in 0..LOOK_EVERY {
                tracer.advance()?;
            }
            looks.push(tracer.resident_kib()?);
            note(started, &tracer.latest, looks[looks.len() - 1]);
            if let Ok(truth) = receiver.try_recv() {
                break truth?;
            }
        };
        tracer.wait_until(|report| matches_as_a_program(&truth, report))?;
        tracer.stop()?;
        is_flat(&looks)
    });
}

/// One line per look, past libtest's capture, for the page that keeps the results.
fn note(started: Instant, report: &Report, resident_kib: u64) {
    let line = format!(
        "{:5} s  {:9} closed  {:7} processes in lists  {:3} programs  {resident_kib:7} KiB resident  {} lost\n",
        started.elapsed().as_secs(),
        report.totals.closed,
        report.processes.len(),
        report.programs.len(),
        report.lost.total,
    );
    let _ = stderr().write_all(line.as_bytes());
}

/// The last half may not rise above the half before by more than a tenth: what is kept must be bounded. The first
/// tenth is for warming up.
fn is_flat(looks: &[u64]) -> Result<()> {
    let warm = &looks[looks.len() / 10..];
    ensure!(warm.len() >= 4, "too short to tell: {looks:?}");
    let (before, after) = warm.split_at(warm.len() / 2);
    let highest = |part: &[u64]| part.iter().copied().max().unwrap_or(0);
    let (before, after) = (highest(before), highest(after));
    ensure!(after <= before + before / 10, "resident memory rose from {before} to {after} KiB: {looks:?}");
    Ok(())
}
