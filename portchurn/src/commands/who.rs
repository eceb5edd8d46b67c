//! `portchurn who ADDR:PORT`: which process opened the connection that a server's process list shows by its client port
//! alone. Asks every portchurn that runs, and the socket tables of this moment.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::io::Write as _;

use anyhow::Result;
use clap::ValueEnum;
use serde_json::json;

use crate::commands::options::parse_netns;
use crate::commands::output::open_output;
use crate::commands::session::Session;
use crate::commands::{logger, terminal};
use crate::model::who::{Answer, CodeLine, Life, Query, merged};
use crate::sinks::text::clean;
use crate::sources::ask::{ask_all, is_refused};
use crate::sources::socket_search::{Living, living};

const EXAMPLES: &str = "\
Examples:
  portchurn who 10.0.0.7:43211            the client of this line in SHOW PROCESSLIST
  portchurn who :43211                    behind address translation: by the port alone
  portchurn who 10.0.0.7:43211 -o json | jq .answers

A connection that has ended is known only to a portchurn that ran while it lived and still runs
(`top`, `trace`, `timewait`, `ports`, `sites`), until another takes its place in the table.

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
            for line in lines(&answers) {
                writeln!(out, "{line}")?;
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

/// The same for a screen: what this tracer knows, and the socket tables of this moment.
pub fn found_by(session: &Session, query: &Query) -> Vec<String> {
    let reply = session.answer(query);
    let Living { answers: here, unread } = living(query);
    let answers = merged(reply.answers.into_iter().chain(here).collect());
    let mut text = lines(&answers);
    if !answers.iter().any(|answer| answer.tgid.is_some()) {
        text.push(Asked { running: 1, history_s: reply.history_s }.why_not(&answers));
    }
    text.extend(
        unread.iter().map(|(netns, why)| format!("network namespace {netns} could not be read: {why}")),
    );
    text
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
        if self.running == 0 && is_refused() {
            return format!(
                "{found}; if a portchurn runs that could remember it, only root may ask: sudo portchurn who …"
            );
        }
        if self.running == 0 {
            return format!(
                "{found}; no portchurn runs that could remember it. Start one (sudo portchurn top) and ask again when \
                 it comes back"
            );
        }
        let who = if self.running == 1 {
            "one running portchurn was".to_owned()
        } else {
            format!("{} running portchurns were", self.running)
        };
        format!("{found}; {who} asked: ended connections of the last {:.0} s are remembered", self.history_s)
    }
}

/// Connections that are told one by one. A port is used again and again, so there may be thousands.
const TOLD: usize = 4;

/// The latest ones in full, of the others how many there are of whom.
fn lines(answers: &[Answer]) -> Vec<String> {
    let mut text = Vec::new();
    let mut answers: Vec<_> = answers.iter().collect();
    // Who is known says more than what is not; else the order stays.
    answers.sort_by_key(|answer| answer.tgid.is_none());
    for answer in answers.iter().take(TOLD) {
        if !text.is_empty() {
            text.push(String::new());
        }
        text.extend(told(answer));
    }
    let rest = answers.get(TOLD..).unwrap_or_default();
    if rest.is_empty() {
        return text;
    }
    text.push(String::new());
    text.push(format!("and {} more, all of them with -o json:", rest.len()));
    let mut by_owner: BTreeMap<(String, &str), usize> = BTreeMap::new();
    for answer in rest {
        *by_owner.entry((owner(answer), verb(answer))).or_default() += 1;
    }
    let mut by_owner: Vec<_> = by_owner.into_iter().collect();
    by_owner.sort_by_key(|((owner, _), count)| (Reverse(*count), owner.clone()));
    text.extend(
        by_owner.iter().take(OWNERS).map(|((owner, verb), count)| format!("  {count} {verb} by {owner}")),
    );
    if by_owner.len() > OWNERS {
        text.push(format!("  and those of {} more processes", by_owner.len() - OWNERS));
    }
    text
}

/// Owners that are named of the rest.
const OWNERS: usize = 8;

fn told(answer: &Answer) -> Vec<String> {
    let local = answer.local_address.map_or("*".to_owned(), bracketed);
    let arrow = if answer.role == "connect" { "->" } else { "<-" };
    let remote = bracketed(answer.remote_address);
    let mut text = vec![
        format!("{local}:{} {arrow} {remote}:{}  {}", answer.local_port, answer.remote_port, life(answer)),
        format!("  {} by {}{}", verb(answer), owner(answer), ago(answer.opened_ago_s)),
    ];
    text.extend(answer.opened_at.as_ref().map(|line| format!("  opened at {}", code(line))));
    text.extend(answer.closed_at.as_ref().map(|line| format!("  closed at {}", code(line))));
    let has_all = [&answer.opened_at, &answer.closed_at].iter().all(|line| is_named(line.as_ref()));
    if is_fresh(answer) && (answer.program.is_none() || !has_all) {
        text.push("  names come within seconds: ask once more".to_owned());
    }
    if !answer.argv.is_empty() {
        text.push(format!("  {}", clean(&answer.argv.join(" "), terminal::speaks_unicode())));
    }
    text
}

/// `db.py:31 getSession, from worker.py:87 main`.
fn code(line: &CodeLine) -> String {
    let from = line.called_from.as_ref().map_or(String::new(), |place| format!(", from {place}"));
    let note = line.note.as_deref();
    let text = match &line.culprit {
        Some(place) => format!("{place}{from}{}", note.map_or(String::new(), |note| format!(" ({note})"))),
        None => format!("a line that is not known: {}", note.unwrap_or("it has no name")),
    };
    clean(&text, terminal::speaks_unicode()).into_owned()
}

fn verb(answer: &Answer) -> &'static str {
    if answer.role == "connect" { "opened" } else { "accepted" }
}

fn owner(answer: &Answer) -> String {
    let Some(tgid) = answer.tgid else { return "nobody known".to_owned() };
    let unknown = if is_fresh(answer) { "not known yet" } else { "not known any more" };
    let unknown = format!("a process whose name is {unknown}");
    let program = answer.program.as_deref().unwrap_or(&unknown);
    let program = clean(program, terminal::speaks_unicode());
    let ended = if answer.exited == Some(true) { ", ended" } else { "" };
    // The one that listens may have others accept.
    let likely = if answer.owner_certain { "" } else { ", which listens; who accepted it was not seen" };
    format!("{program} (PID {tgid}{ended}{likely})")
}

/// Whether the records of it may not all have been read.
fn is_fresh(answer: &Answer) -> bool {
    const SECONDS: f64 = 5.0;
    answer.closed_ago_s.or(answer.opened_ago_s).is_some_and(|ago_s| ago_s < SECONDS)
}

/// Whether a line is known, or there is none to know.
fn is_named(line: Option<&CodeLine>) -> bool {
    line.is_none_or(|line| line.culprit.is_some())
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

#[cfg(test)]
mod tests {
    use super::{Asked, lines};
    use crate::model::snapshot::Place;
    use crate::model::who::{Answer, CodeLine, Life};

    fn answer(tgid: Option<u32>) -> Answer {
        Answer {
            state: Life::TimeWait,
            role: "connect".into(),
            netns: 5,
            cookie: 1,
            local_address: Some("10.0.0.7".parse().unwrap()),
            local_port: 43_211,
            remote_address: "10.0.0.2".parse().unwrap(),
            remote_port: 3306,
            tgid,
            owner_certain: tgid.is_some(),
            program: tgid.map(|_| "worker".to_owned()),
            argv: Vec::new(),
            exited: Some(true),
            closer_tgid: None,
            closed_by: Some("local".into()),
            opened_ago_s: Some(3.0),
            closed_ago_s: Some(2.0),
            opened_at: None,
            closed_at: None,
        }
    }

    #[test]
    fn one_connection_is_told_in_full() {
        assert_eq!(
            lines(&[answer(Some(7))]),
            [
                "10.0.0.7:43211 -> 10.0.0.2:3306  TIME_WAIT (local), 2.0 s ago",
                "  opened by worker (PID 7, ended), 3.0 s ago"
            ]
        );
    }

    #[test]
    fn the_lines_of_code_that_opened_and_closed_it_are_told_if_they_are_known() {
        let place = |function: &str, line| Place {
            function: function.into(),
            file: Some("/srv/db.py".into()),
            line: Some(line),
        };
        let opened = CodeLine {
            culprit: Some(place("getSession", 31)),
            called_from: Some(place("main", 87)),
            note: None,
        };
        let closed =
            CodeLine { note: Some("process exit: the code never closed it".into()), ..CodeLine::default() };
        let text = lines(&[Answer { opened_at: Some(opened), closed_at: Some(closed), ..answer(Some(7)) }]);
        assert_eq!(text[2], "  opened at db.py:31 getSession, from db.py:87 main");
        assert!(text[3].starts_with("  closed at a line that is not known: process exit"), "{text:?}");
    }

    #[test]
    fn of_hundreds_a_few_are_told_and_the_rest_is_summed_up_and_those_with_an_owner_come_first() {
        let mut many = vec![answer(None); 40];
        many.extend(vec![answer(Some(7)); 90]);
        many.extend(vec![answer(Some(8)); 9]);
        let text = lines(&many);
        assert!(text.len() < 20 && text[1].contains("PID 7"), "{text:?}");
        let tail = &text[text.len() - 4..];
        assert_eq!(
            tail,
            [
                "and 135 more, all of them with -o json:",
                "  86 opened by worker (PID 7, ended)",
                "  40 opened by nobody known",
                "  9 opened by worker (PID 8, ended)"
            ]
        );
    }

    #[test]
    fn that_nobody_runs_is_said_plainly() {
        let nobody = Asked::default().why_not(&[answer(None)]);
        assert!(nobody.contains("the kernel has forgotten whose it was; no portchurn runs"), "{nobody}");
        let one = Asked { running: 1, history_s: 9.0 }.why_not(&[]);
        assert!(
            one.contains("no such connection") && one.contains("one running portchurn was asked"),
            "{one}"
        );
    }
}
