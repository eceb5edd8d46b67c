//! How many local ports are left: one row for a source address and a destination, or for a pool of bound ports.

use std::net::SocketAddr;

use crate::model::budget::{BudgetKind, Exhaustion, FailedBy, PortBudget, PortHolder};
use crate::model::columns::Cell;
use crate::model::lists::{Field, Sheet, SheetRow, cells, heads, number, text};
use crate::model::pools::BINDS_NOT_VISIBLE;
use crate::model::snapshot::Snapshot;

const FIELDS: &[Field<PortBudget>] = &[
    text("source_address", "FROM", 0, |row| {
        row.source_address.map_or(Cell::Empty, |address| Cell::Text(address.to_string()))
    }),
    text("destination", "TO", 0, |row| Cell::Text(destination(row))),
    number("pressure_ratio", "USED %", 0, |row| row.pressure_ratio.map_or(Cell::Empty, Cell::Ratio)),
    number("used", "USED", 1, |row| Cell::Count(row.used)),
    number("limit", "LIMIT", 2, |row| row.limit.map_or(Cell::Empty, Cell::Count)),
    number("time_wait", "TIME_WAIT", 5, |row| Cell::Count(row.time_wait)),
    number("established", "CONN", 6, |row| Cell::Count(row.established)),
    number("other", "OTHER", 7, |row| Cell::Count(row.other)),
    number("opened_per_s", "OPENS/s", 4, |row| row.opened_per_s.map_or(Cell::Empty, Cell::PerSecond)),
    text("reuse", "REUSE", 8, |row| Cell::Text(if row.reuse { "yes" } else { "no" }.to_owned())),
    number("seconds_to_wall", "WALL IN", 3, |row| row.seconds_to_wall.map_or(Cell::Empty, Cell::Seconds)),
    number("seconds_to_exhaustion", "EMPTY IN", 0, |row| {
        row.seconds_to_exhaustion.map_or(Cell::Empty, Cell::Seconds)
    }),
    number("failed", "FAILED", 3, |row| row.failed.map_or(Cell::Empty, Cell::Count)),
    number("netns", "NETNS", 9, |row| Cell::Id(row.netns.into())),
];

/// The list.
pub fn sheet(snapshot: &Snapshot) -> Sheet {
    let empty = "no connection holds a port of the local range";
    let Some(ports) = &snapshot.ports else {
        let facts = vec!["the socket tables were not read yet".to_owned()];
        return Sheet { facts, heads: heads(FIELDS), rows: Vec::new(), empty };
    };
    let rows = ports.iter().map(|row| SheetRow {
        cells: cells(FIELDS, row),
        alarm: row.alarm,
        notes: if row.alarm { notes(row) } else { Vec::new() },
    });
    let mut facts: Vec<_> = snapshot.exhaustion.iter().take(SHOWN_EVENTS).map(event_text).collect();
    if let Some(pool) =
        ports.iter().find(|row| row.kind == BudgetKind::BindPool && row.failures_seen == BINDS_NOT_VISIBLE)
    {
        facts.push(pool.failures_seen.to_owned());
    }
    if facts.is_empty() {
        facts.push("no connect failed for want of a port".to_owned());
    }
    Sheet { facts, heads: heads(FIELDS), rows: rows.collect(), empty }
}

/// Events that are said above the list.
const SHOWN_EVENTS: usize = 5;

fn destination(row: &PortBudget) -> String {
    match (row.remote_address, row.remote_port) {
        (Some(address), Some(port)) => SocketAddr::new(address, port).to_string(),
        _ => "(any: ports bound before the connect)".to_owned(),
    }
}

fn notes(row: &PortBudget) -> Vec<String> {
    let mut notes = vec![row.assumption.clone()];
    if !row.holders.is_empty() {
        notes.push(format!("held by {}", holders_text(&row.holders)));
    }
    notes
}

/// One short line for a screen that has little room: the row that is nearest to its end.
pub fn alarm_text(snapshot: &Snapshot) -> Option<String> {
    if let Some(event) = snapshot.exhaustion.iter().find(|event| event.ongoing) {
        return Some(event_text(event));
    }
    let row = snapshot.ports.iter().flatten().find(|row| row.alarm)?;
    let from = row.source_address.map_or(String::new(), |address| format!(" {address}"));
    let percent = row.pressure_ratio.unwrap_or(0.0) * 100.0;
    let wall = match row.seconds_to_wall {
        Some(0.0) => "; past the half-range wall, where connect() searches longer".to_owned(),
        Some(left_s) => format!("; half-range wall in {left_s:.0} s"),
        None => String::new(),
    };
    let end = match row.seconds_to_exhaustion {
        Some(0.0) => ", none is left".to_owned(),
        Some(left_s) => format!(", empty in {left_s:.0} s"),
        None if row.opened_per_s.is_some() => ", not running out at this rate".to_owned(),
        None => String::new(),
    };
    // What is cut off on a narrow screen is the wall.
    Some(format!("ports{from} to {}: {percent:.0} % used{end}{wall}", destination(row)))
}

/// What happened, who failed, and who held the ports.
pub fn event_text(event: &Exhaustion) -> String {
    let to = match (event.remote_address, event.remote_port) {
        (Some(address), Some(port)) => format!("to {}", SocketAddr::new(address, port)),
        _ => "for any destination".to_owned(),
    };
    let who = event.failed.first().map_or(String::new(), |by| {
        let more = if event.failed.len() > 1 {
            format!(" and {} more", event.failed.len() - 1)
        } else {
            String::new()
        };
        let program = by.program.as_deref().unwrap_or("a process");
        format!(" of {program} ({}){}{more}", by.tgid, failing_line(by))
    });
    let held = if event.holders.is_empty() {
        "holders not known".to_owned()
    } else {
        let late_s = event.holders_read_ago_s.map_or(0, |ago_s| -ago_s.round() as i64);
        let late = if late_s > 0 { format!(" (seen {late_s} s later)") } else { String::new() };
        format!("ports held by {}{late}", holders_text(&event.holders))
    };
    let now = if event.ongoing { "NO LOCAL PORT LEFT" } else { "no local port was left" };
    let what = if event.remote_address.is_some() { "connects" } else { "binds" };
    format!("{now} {to}: {} {what}{who} failed with {}; {held}", event.count, event.errno)
}

/// The line that failed most, if it is known.
fn failing_line(by: &FailedBy) -> String {
    let named = by.call_sites.iter().flatten().find_map(|site| Some((site, site.culprit.as_ref()?)));
    match named {
        Some((site, place)) if site.count == by.count => format!(" at {place}"),
        Some((site, place)) => format!(" at {place} ({:.0} %) and elsewhere", 100.0 * site.share),
        None => String::new(),
    }
}

fn holders_text(holders: &[PortHolder]) -> String {
    const NAMED: usize = 3;
    let named = holders.iter().take(NAMED).map(|holder| {
        let who = match (&holder.program, holder.tgid) {
            (Some(program), Some(tgid)) => format!("{program} ({tgid})"),
            (None, Some(tgid)) => format!("process {tgid}"),
            _ => "sockets of nobody known".to_owned(),
        };
        format!("{who}: {}", holder.ports)
    });
    named.collect::<Vec<_>>().join(", ")
}
