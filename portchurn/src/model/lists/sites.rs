//! Lines of code that open and close connections, whatever program they are of: one row for a line and a destination, the most
//! passed first.

use crate::model::columns::Cell;
use crate::model::lists::{Field, Sheet, SheetRow, cells, heads, number, text};
use crate::model::row::{destination_text, display_name};
use crate::model::snapshot::{CallSite, Destination, Program, Snapshot};

struct Line {
    count: u64,
    share: f64,
    exact: bool,
    at: &'static str,
    call_site: String,
    program: String,
    destination: String,
}

impl Line {
    fn new(program: &Program, destination: &Destination, site: &CallSite) -> Self {
        Self {
            count: site.count,
            share: site.share,
            exact: site.exact,
            at: site.at,
            call_site: site.described(),
            program: display_name(&program.program, program.script.as_deref()).into_owned(),
            destination: destination_text(destination),
        }
    }
}

const FIELDS: &[Field<Line>] = &[
    number("count", "COUNT", 0, |line| Cell::Count(line.count)),
    number("share", "SHARE", 2, |line| Cell::Ratio(line.share)),
    text("how", "HOW", 4, |line| Cell::Text(if line.exact { "exact" } else { "sampled" }.to_owned())),
    text("at", "AT", 0, |line| Cell::Text(line.at.to_owned())),
    text("call_site", "CALL SITE", 0, |line| Cell::Text(line.call_site.clone())),
    text("program", "PROGRAM", 0, |line| Cell::Text(line.program.clone())),
    text("destination", "DESTINATION", 0, |line| Cell::Text(line.destination.clone())),
];

/// The list.
pub fn sheet(snapshot: &Snapshot) -> Sheet {
    let mut lines = Vec::new();
    for program in &snapshot.programs {
        for destination in &program.destinations {
            let sites = destination.call_sites.iter().flatten();
            lines.extend(sites.map(|site| Line::new(program, destination, site)));
        }
    }
    lines.sort_by_key(|line| std::cmp::Reverse(line.count));
    let rows = lines.iter().map(|line| SheetRow {
        cells: cells(FIELDS, line),
        alarm: line.at == "no_port",
        notes: Vec::new(),
    });
    let empty = "no line of code was seen yet, or they are not taken (`--stack off`)";
    Sheet { facts: Vec::new(), heads: heads(FIELDS), rows: rows.collect(), empty }
}
