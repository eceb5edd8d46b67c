//! Whose TIME_WAIT there are: one row for a program and a destination.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::model::budget::{ClosedFirstBy, TimeWait, TimeWaitDestination, TimeWaitOwner};
use crate::model::columns::Cell;
use crate::model::held::SINCE;
use crate::model::lists::{Field, Sheet, SheetRow, cells, heads, number, text};
use crate::model::snapshot::{CallSite, Role, Snapshot};
use crate::model::sockets::Unowned;

/// One row.
#[derive(Default)]
struct Row {
    program: String,
    destination: String,
    netns: u32,
    total: u64,
    count: u64,
    processes: u64,
    ended: u64,
    tgid: Option<u32>,
    closed_first_by: ClosedFirstBy,
    ages: Vec<u64>,
    /// Sockets by the line that opened their connection.
    opened_at: Lines,
    /// Sockets by the line that closed it.
    closed_at: Lines,
}

/// Sockets by line, and how many may have one: all that were listed.
#[derive(Default)]
struct Lines {
    by_line: BTreeMap<String, u64>,
    listed: u64,
}

impl Lines {
    fn add(&mut self, site: &CallSite) {
        // What came since the list has lines that the next one shows.
        if site.note.as_deref() == Some(SINCE) {
            return;
        }
        self.listed += site.count;
        if let Some(place) = &site.culprit {
            *self.by_line.entry(place.to_string()).or_default() += site.count;
        }
    }
}

const FIELDS: &[Field<Row>] = &[
    number("time_wait", "TIME_WAIT", 0, |row| Cell::Count(row.count)),
    number("share_ratio", "SHARE", 3, |row| Cell::Ratio(row.count as f64 / row.total.max(1) as f64)),
    text("program", "PROGRAM", 0, |row| Cell::Text(row.program.clone())),
    number("processes", "PROCS", 4, |row| Cell::Count(row.processes)),
    number("processes_ended", "ENDED", 6, |row| Cell::Count(row.ended)),
    number("pid", "PID", 5, |row| row.tgid.map_or(Cell::Empty, |tgid| Cell::Id(tgid.into()))),
    text("destination", "DESTINATION", 0, |row| Cell::Text(row.destination.clone())),
    text("closed_first_by", "CLOSED BY", 0, |row| Cell::Text(closer(&row.closed_first_by))),
    number("age_below_15_s", "<15 s", 7, |row| Cell::Count(aged(row, 0..3))),
    number("age_below_30_s", "<30 s", 7, |row| Cell::Count(aged(row, 3..6))),
    number("age_below_45_s", "<45 s", 7, |row| Cell::Count(aged(row, 6..9))),
    number("age_from_45_s", ">45 s", 7, |row| Cell::Count(aged(row, 9..13))),
    number("netns", "NETNS", 8, |row| Cell::Id(row.netns.into())),
];

/// Where call sites are taken.
const SITE_FIELDS: &[Field<Row>] = &[
    text("opened_at", "OPENED AT", 1, |row| most(&row.opened_at)),
    text("closed_at", "CLOSED AT", 4, |row| most(&row.closed_at)),
];

/// The line that holds the most, and its share.
fn most(lines: &Lines) -> Cell {
    let most = lines.by_line.iter().max_by_key(|&(_, &count)| count);
    most.map_or(Cell::Empty, |(line, &count)| {
        Cell::Text(format!("{:.0}% {line}", 100.0 * count as f64 / lines.listed.max(1) as f64))
    })
}

const FILTERED: &str = Unowned::Filtered.name();

/// The list.
pub fn sheet(snapshot: &Snapshot) -> Sheet {
    let empty = "no TIME_WAIT in the network namespaces that were read";
    let Some(time_wait) = &snapshot.time_wait else {
        let facts = vec!["the socket tables were not read yet".to_owned()];
        return Sheet { facts, heads: heads(FIELDS), rows: Vec::new(), empty };
    };
    let mut rows: BTreeMap<(String, String, u32), Row> = BTreeMap::new();
    // What a filter leaves out is a sum above the list.
    for owner in time_wait.owners.iter().filter(|owner| owner.ownership != FILTERED) {
        for destination in &owner.destinations {
            add(&mut rows, owner, destination, time_wait.total);
        }
    }
    let mut rows: Vec<_> = rows.into_values().collect();
    rows.sort_by(|a, b| {
        b.count.cmp(&a.count).then_with(|| (&a.program, &a.destination).cmp(&(&b.program, &b.destination)))
    });
    let sites = if has_sites(time_wait) { SITE_FIELDS } else { &[] };
    let rows = rows.iter().map(|row| SheetRow {
        cells: [cells(FIELDS, row), cells(sites, row)].concat(),
        alarm: false,
        notes: Vec::new(),
    });
    let heads = [heads(FIELDS), heads(sites)].concat();
    Sheet { facts: facts(time_wait), heads, rows: rows.collect(), empty }
}

fn has_sites(time_wait: &TimeWait) -> bool {
    let mut destinations = time_wait.owners.iter().flat_map(|owner| &owner.destinations);
    destinations.any(|destination| destination.call_sites.is_some())
}

fn add(
    rows: &mut BTreeMap<(String, String, u32), Row>,
    owner: &TimeWaitOwner,
    destination: &TimeWaitDestination,
    total: u64,
) {
    let (program, to) = (program(owner), destination_text(destination));
    let row = rows.entry((program.clone(), to.clone(), destination.netns)).or_insert_with(|| Row {
        program,
        destination: to,
        netns: destination.netns,
        total,
        ages: vec![0; destination.ages.len()],
        ..Row::default()
    });
    row.count += destination.count;
    row.processes += destination.processes;
    row.ended += if owner.exited == Some(true) { destination.processes } else { 0 };
    // Of several processes none is named.
    row.tgid = if row.processes == 1 { owner.tgid } else { None };
    let by = &destination.closed_first_by;
    row.closed_first_by.local += by.local;
    row.closed_first_by.process_exit += by.process_exit;
    row.closed_first_by.simultaneous += by.simultaneous;
    for site in destination.call_sites.iter().flatten() {
        let lines = if site.at == "open" { &mut row.opened_at } else { &mut row.closed_at };
        lines.add(site);
    }
    for (sum, one) in row.ages.iter_mut().zip(&destination.ages) {
        *sum += one;
    }
}

fn program(owner: &TimeWaitOwner) -> String {
    match (owner.tgid, &owner.program) {
        (_, Some(program)) => program.clone(),
        (Some(tgid), None) => format!("(process {tgid})"),
        (None, _) => match owner.ownership {
            "before_attach" => "(before the attach)".to_owned(),
            "no_cookie" => "(not known: this kernel gives no cookie)".to_owned(),
            _ => "(not known)".to_owned(),
        },
    }
}

/// Where to, or where from.
pub fn destination_text(destination: &TimeWaitDestination) -> String {
    match (destination.role, destination.remote_address, destination.remote_port) {
        (Role::Connect, Some(address), Some(port)) => SocketAddr::new(address, port).to_string(),
        _ => format!(":{}", destination.local_port.unwrap_or(0)),
    }
}

/// The commonest, in words.
fn closer(by: &ClosedFirstBy) -> String {
    let kinds = [("our close()", by.local), ("our exit", by.process_exit), ("both at once", by.simultaneous)];
    let total: u64 = kinds.iter().map(|(_, count)| count).sum();
    match kinds.into_iter().max_by_key(|&(_, count)| count).filter(|&(_, count)| count > 0) {
        None => "not known".to_owned(),
        Some((name, count)) if count == total => name.to_owned(),
        Some((name, count)) => format!("{name} {:.0} %", count as f64 * 100.0 / total as f64),
    }
}

fn aged(row: &Row, steps: std::ops::Range<usize>) -> u64 {
    row.ages.get(steps).map_or(0, |ages| ages.iter().sum())
}

fn facts(time_wait: &TimeWait) -> Vec<String> {
    let percent =
        time_wait.coverage_ratio.map_or(String::new(), |ratio| format!(" ({:.1} %)", ratio * 100.0));
    let filtered = time_wait.unowned_by.get(FILTERED).copied().unwrap_or(0);
    let left_out = if filtered > 0 { format!(", {filtered} left out by a filter") } else { String::new() };
    let mut unowned = format!("{} not known", time_wait.unowned.saturating_sub(filtered));
    let reasons: Vec<_> = time_wait
        .unowned_by
        .iter()
        .filter(|&(&why, &count)| count > 0 && why != FILTERED)
        .map(|(why, count)| format!("{why} {count}"))
        .collect();
    if !reasons.is_empty() {
        unowned = format!("{unowned} ({})", reasons.join(", "));
    }
    let mut facts = vec![format!(
        "{} TIME_WAIT: {} owned{percent}, {} from before the attach{left_out}, {unowned}; tables read {:.1} s ago in {:.1} ms",
        time_wait.total,
        time_wait.owned,
        time_wait.before_attach,
        time_wait.read_ago_s,
        time_wait.read_cpu_ms,
    )];
    facts.extend(time_wait.incomplete_because.iter().map(|why| format!("not complete: {why}")));
    if time_wait.repeated > 0 {
        facts
            .push(format!("{} sockets were listed twice by the kernel and counted once", time_wait.repeated));
    }
    facts
}
