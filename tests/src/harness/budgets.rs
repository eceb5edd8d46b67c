//! What portchurn says of TIME_WAIT and local ports, as a script would look it up in its JSON.

use anyhow::{Result, ensure};
use serde_json::Value;

use super::report::Report;
use super::skip;
use super::tracer::Tracer;

/// A tracer that knows whose a TIME_WAIT is.
pub fn start() -> Result<Tracer> {
    let tracer = Tracer::start(&[])?;
    match tracer.latest.attached("inet_sock_set_state") {
        "tp_btf" => Ok(tracer),
        other => Err(skip(format!("attached as {other}, which gives no cookie"))),
    }
}

/// Says what is wrong with a number.
pub fn equal(what: &str, found: u64, expected: u64) -> Result<()> {
    ensure!(found == expected, "{what}: {found}, should be {expected}");
    Ok(())
}

/// TIME_WAIT sockets that portchurn gives to a process.
pub fn owned(report: &Report, pid: u32) -> u64 {
    let owners = report.time_wait["owners"].as_array().into_iter().flatten();
    let of_process = owners.filter(|owner| owner["ownership"] == "owned" && owner["tgid"] == pid);
    of_process.filter_map(|owner| owner["count"].as_u64()).sum()
}

/// TIME_WAIT sockets in a network namespace: those with an owner, and all.
pub fn in_namespace(report: &Report, netns: u64) -> (u64, u64) {
    let (mut with_owner, mut all) = (0, 0);
    for owner in report.time_wait["owners"].as_array().into_iter().flatten() {
        for destination in owner["destinations"].as_array().into_iter().flatten() {
            if destination["netns"] == netns {
                let count = destination["count"].as_u64().unwrap_or(0);
                all += count;
                with_owner += if owner["ownership"] == "owned" { count } else { 0 };
            }
        }
    }
    (with_owner, all)
}

/// The budget of connects in which a process holds ports.
pub fn budget(report: &Report, pid: u32) -> Option<&Value> {
    let is_holder = |row: &Value| {
        row["holders"].as_array().is_some_and(|holders| holders.iter().any(|holder| holder["tgid"] == pid))
    };
    report.ports.as_array()?.iter().find(|row| row["kind"] == "connect" && is_holder(row))
}

/// The budget of connects in a network namespace where there is one only.
pub fn budget_in(report: &Report, netns: u64) -> Option<&Value> {
    report.ports.as_array()?.iter().find(|row| row["kind"] == "connect" && row["netns"] == netns)
}

/// Failures of a process for want of a port.
pub fn exhausted(report: &Report, pid: u32) -> u64 {
    let events = report.exhaustion.as_array().into_iter().flatten();
    let failed = events.flat_map(|event| event["failed"].as_array().into_iter().flatten());
    failed.filter(|by| by["tgid"] == pid).filter_map(|by| by["count"].as_u64()).sum()
}
