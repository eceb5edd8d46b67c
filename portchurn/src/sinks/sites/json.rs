//! Call sites as one document, with every frame. Adds nothing to what the model says.

use std::io;
use std::io::Write;

use serde::Serialize;

use crate::model::row::destination_text;
use crate::model::snapshot::{CallSite, Lost, OwnCost, SCHEMA_VERSION};
use crate::sinks::json::escaped;
use crate::sinks::sites::{Report, SitesOutput};

/// The document.
pub(super) const OUTPUT: SitesOutput = SitesOutput { format: super::Format::Json, write };

#[derive(Serialize)]
struct Document<'a> {
    schema_version: u32,
    kernel: &'a str,
    cumulative_s: f64,
    sites: Vec<Entry<'a>>,
    lost: &'a Lost,
    own_cost: OwnCost,
}

#[derive(Serialize)]
struct Entry<'a> {
    program: &'a str,
    script: Option<&'a str>,
    destination: String,
    time_wait_entered: u64,
    #[serde(flatten)]
    site: &'a CallSite,
}

fn write(report: &Report<'_>, out: &mut dyn Write) -> io::Result<()> {
    let sites = report.lines.iter().map(|line| Entry {
        program: &line.program.program,
        script: line.program.script.as_deref(),
        destination: destination_text(line.destination),
        time_wait_entered: line.destination.time_wait_entered,
        site: line.site,
    });
    let snapshot = report.snapshot;
    let document = Document {
        schema_version: SCHEMA_VERSION,
        kernel: &snapshot.kernel,
        cumulative_s: snapshot.cumulative_s,
        sites: sites.collect(),
        lost: &snapshot.lost,
        own_cost: snapshot.own_cost,
    };
    writeln!(out, "{}", escaped(serde_json::to_string_pretty(&document)?))
}
