//! `trace` against the truth: one line for each event of a known workload, no more and no fewer. Needs the privileges of a
//! tracer.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use portchurn_tests::harness::budgets::Trace;
use portchurn_tests::harness::programs::run_workload;
use portchurn_tests::harness::{Alone, check};
use portchurn_tests::truth::{Counts, Truth};
use serde_json::Value;

/// What is made.
const WORKLOADS: [&[&str]; 3] = [
    &["active-close", "--count", "101"],
    &["passive-close", "--count", "53", "--family", "v6"],
    &["refused", "--count", "29"],
];

/// Lines by process and event.
type Lines = BTreeMap<(u64, String), u64>;

fn expected(truths: &[Truth]) -> Lines {
    let mut lines = Lines::new();
    for process in truths.iter().flat_map(|truth| &truth.processes) {
        let sum: Counts = process.sum();
        for (event, count) in [
            ("connect", sum.opened),
            ("accept", sum.accepted),
            ("close", sum.closed()),
            ("fail", sum.failed()),
        ] {
            if count > 0 {
                lines.insert((process.tgid.into(), event.to_owned()), count);
            }
        }
    }
    lines
}

/// So many lines there are, if all is told.
const ALL: u64 = 4 * 101 + 4 * 53 + 29;

#[test]
fn each_event_is_one_line_and_the_last_one_ends_it() {
    check("each_event_is_one_line_and_the_last_one_ends_it", || {
        let _alone = Alone::wait()?;
        let ours = format!("pid:{}", std::process::id());
        let trace = Trace::start(&ours, &["-c", "portchurn-w*", "-n", &ALL.to_string()])?;
        let truths = WORKLOADS.iter().map(|workload| run_workload(workload)).collect::<Result<Vec<_>>>()?;
        let mut found = Lines::new();
        for line in trace.finish()? {
            let event: Value = serde_json::from_str(&line).with_context(|| format!("understand {line}"))?;
            let tgid = event["tgid"].as_u64().with_context(|| format!("whose is {line}"))?;
            let name = event["event"].as_str().with_context(|| format!("what is {line}"))?;
            *found.entry((tgid, name.to_owned())).or_default() += 1;
            let is_kind = |key: &str, of: &str| event[key].is_string() == (name == of);
            ensure!(is_kind("closed_by", "close") && is_kind("failed_by", "fail"), "{line}");
        }
        let wanted = expected(&truths);
        ensure!(wanted.values().sum::<u64>() == ALL, "the workloads are not complete: {wanted:?}");
        ensure!(found == wanted, "{found:?}, should be {wanted:?}");
        Ok(())
    });
}

#[test]
fn the_table_has_a_row_for_each_event() {
    check("the_table_has_a_row_for_each_event", || {
        let _alone = Alone::wait()?;
        let ours = format!("pid:{}", std::process::id());
        let trace = Trace::start_as("table", &ours, &["-c", "portchurn-w*", "-f", "event=fail", "-n", "29"])?;
        for workload in WORKLOADS {
            run_workload(workload)?;
        }
        let rows = trace.finish()?;
        let failures = rows.iter().filter(|row| row.contains("ECONNREFUSED")).count();
        ensure!(failures == 29, "{failures} rows: {rows:?}");
        ensure!(rows.len() <= 30, "more than a head and the rows: {rows:?}");
        Ok(())
    });
}
