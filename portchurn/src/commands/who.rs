//! `portchurn who ADDR:PORT`: which process opened the connection that a server's process list shows by its client port
//! alone. Asks every portchurn that runs, and the socket tables of this moment.

use std::io::Write as _;

use anyhow::Result;
use clap::ValueEnum;
use serde_json::json;

use crate::commands::options::parse_netns;
use crate::commands::session::open_output;
use crate::commands::{logger, terminal};
use crate::model::who::{Answer, Life, Query, merged};
use crate::sinks::text::clean;
use crate::sources::ask::ask_all;
use crate::sources::socket_search::{Living, living};

const EXAMPLES: &str = "\
Examples:
  portchurn who 10.0.0.7:43211            the client of this line in SHOW PROCESSLIST
  portchurn who :43211                    behind address translation: by the port alone
  portchurn who 10.0.0.7:43211 -o json | jq .answers

A connection that has ended is known to a portchurn that ran while it lived (`top`, `trace`, `timewait`, `ports`), for as
long as its place in the table was not taken by another.

Exit status: 0 found, 1 not found.";

/// Arguments of `who`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The client's address and port; an IPv6 address in brackets
    #[arg(value_name = "ADDR:PORT")]
    query: Query,
    /// Only in this network namespace: a name of `ip netns`, a path, a PID's as `pid:N`, or an inode number
    #[arg(long, value_name = "NETNS", value_parser = parse_netns)]
    netns: Option<u32>,
    /// Format of the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
enum Format {
    /// Lines, for people
    #[default]
    Text,
    /// One JSON document
    Json,
}

/// Asks, and tells.
pub fn run(args: &Args) -> Result<u8> {
    let query = Query { netns: args.netns, ..args.query };
    let mut asked = Asked::default();
    let mut answers = Vec::new();
    for reply in ask_all(&query) {
        match reply {
            Ok(reply) => {
                asked.running += 1;
                asked.history_s = asked.history_s.max(reply.history_s);
                answers.extend(reply.answers);
            }
            Err(error) => log::warn!("{error:#}"),
        }
    }
    let Living { answers: here, unread } = living(&query);
    answers.extend(here);
    let answers = merged(answers);
    let mut out = open_output(None)?;
    match args.output {
        Format::Json => {
            let unread: Vec<_> =
                unread.iter().map(|(netns, why)| json!({ "netns": netns, "reason": why })).collect();
            let document = json!({
                "schema_version": 1,
                "running": asked.running,
                "history_s": asked.history(),
                "unread": unread,
                "answers": answers,
            });
            writeln!(out, "{}", crate::sinks::json::escaped(document.to_string()))?;
        }
        Format::Text => {
            for answer in &answers {
                writeln!(out, "{}", text(answer))?;
            }
        }
    }
    out.flush()?;
    for (netns, why) in &unread {
        logger::note(&format!("network namespace {netns} could not be read: {why}"));
    }
    let known = answers.iter().any(|answer| answer.tgid.is_some());
    if !known {
        logger::note(&asked.why_not(&answers));
    }
    Ok(u8::from(!known))
}

#[derive(Default)]
struct Asked {
    running: usize,
    history_s: f64,
}

impl Asked {
    fn history(&self) -> Option<f64> {
        (self.running > 0).then_some(self.history_s)
    }

    fn why_not(&self, answers: &[Answer]) -> String {
        let found = match answers.first().map(|answer| answer.state) {
            Some(Life::TimeWait) => "it is in TIME_WAIT, and the kernel has forgotten whose it was",
            Some(_) => "no process holds it that we may see",
            None => "there is no such connection at this moment",
        };
        if self.running == 0 {
            return format!(
                "{found}; no portchurn runs that could remember it. Start one (sudo portchurn top) and ask again when \
                 it comes back"
            );
        }
        format!("{found}; {} portchurn asked, which remembers the last {:.0} s", self.running, self.history_s)
    }
}

fn text(answer: &Answer) -> String {
    let local = answer.local_address.map_or("*".to_owned(), bracketed);
    let arrow = if answer.role == "connect" { "->" } else { "<-" };
    let remote = bracketed(answer.remote_address);
    let verb = if answer.role == "connect" { "opened" } else { "accepted" };
    let mut text =
        format!("{local}:{} {arrow} {remote}:{}  {}", answer.local_port, answer.remote_port, life(answer));
    text += &match answer.tgid {
        Some(tgid) => {
            let program = answer.program.as_deref().unwrap_or("a process whose name is not known any more");
            let program = clean(program, terminal::speaks_unicode());
            let ended = if answer.exited == Some(true) { ", ended" } else { "" };
            format!("\n    {verb} by {program} (PID {tgid}{ended}){}", ago(answer.opened_ago_s))
        }
        None => format!("\n    {verb} by nobody known"),
    };
    if !answer.argv.is_empty() {
        text += &format!("\n    {}", clean(&answer.argv.join(" "), terminal::speaks_unicode()));
    }
    text
}

fn bracketed(address: std::net::IpAddr) -> String {
    if address.is_ipv6() { format!("[{address}]") } else { address.to_string() }
}

fn ago(seconds: Option<f64>) -> String {
    seconds.map_or(String::new(), |seconds| format!(", {seconds:.1} s ago"))
}

fn life(answer: &Answer) -> String {
    let state = match answer.state {
        Life::Open => return "open".to_owned(),
        Life::TimeWait => "TIME_WAIT",
        Life::Closed => "closed",
    };
    let by = answer.closed_by.as_ref().map_or(String::new(), |by| format!(" ({by})"));
    let closer = answer.closer_tgid.map_or(String::new(), |tgid| format!(" by PID {tgid}"));
    format!("{state}{by}{closer}{}", ago(answer.closed_ago_s))
}
