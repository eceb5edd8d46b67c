//! The lines of code behind connects that found no port, behind every TIME_WAIT, and behind one connection: against what a
//! program says of its own lines, and what the kernel counts.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use portchurn_tests::harness::budgets::{Trace, equal, exhausted, owned};
use portchurn_tests::harness::programs::{churn, run_portchurn};
use portchurn_tests::harness::report::Report;
use portchurn_tests::harness::sites::{self, Site, by_line, nothing_lost};
use portchurn_tests::harness::tracer::Tracer;
use portchurn_tests::harness::veth::{Cable, Guest};
use portchurn_tests::harness::{Alone, check, is_guest, python};
use serde::Deserialize;
use serde_json::Value;

use crate::ADDRESS;

/// Of nobody else: what is not counted takes no place in the table, and a busy host forgets nothing of ours.
const PORT: u16 = 7000;

/// What the script says of one of its lines.
#[derive(Clone, Debug, Deserialize)]
struct Line {
    ok: u64,
    errno_99: u64,
    other: u64,
    ports: Vec<u16>,
}

/// What it says of all.
#[derive(Clone, Debug, Deserialize)]
struct Said {
    pid: u32,
    open: BTreeMap<u64, Line>,
    close: BTreeMap<u64, Line>,
}

impl Said {
    /// Lets the script do its work.
    fn of(guest: &mut Guest) -> Result<Self> {
        guest.go()?;
        let line = guest.line()?;
        let said: Self = serde_json::from_str(&line).with_context(|| format!("understand {line}"))?;
        ensure!(said.open.values().all(|line| line.other == 0), "other failures: {said:?}");
        Ok(said)
    }

    /// Counts by line.
    fn counts(lines: &BTreeMap<u64, Line>, count: impl Fn(&Line) -> u64) -> BTreeMap<u64, u64> {
        lines.iter().map(|(line, said)| (*line, count(said))).filter(|(_, count)| *count > 0).collect()
    }

    /// The line that used this local port.
    fn line_of(lines: &BTreeMap<u64, Line>, port: u16) -> Option<u64> {
        lines.iter().find(|(_, said)| said.ports.contains(&port)).map(|(line, _)| *line)
    }
}

fn two_lines(cable: &Cable, first: &str, second: &str, environment: &[(&str, &str)]) -> Result<Guest> {
    cable.script(&cable.client, "ports.py", &["10.77.0.2", "7000", first, second], environment)
}

fn same(what: &str, found: &BTreeMap<u64, u64>, truth: &BTreeMap<u64, u64>) -> Result<()> {
    ensure!(found == truth, "{what} by line: {found:?}, it was {truth:?}");
    Ok(())
}

/// Who failed, by process, in the record of the exhaustion.
fn failed_by(report: &Report, pid: u32) -> Result<Vec<Site>> {
    let events = report.exhaustion.as_array().into_iter().flatten();
    let mut failed = events.flat_map(|event| event["failed"].as_array().into_iter().flatten());
    let by = failed.find(|by| by["tgid"] == pid).context("nobody failed")?;
    serde_json::from_value(by["call_sites"].clone()).context("understand the lines that failed")
}

#[test]
fn connects_without_a_port_are_counted_by_line() {
    check("connects_without_a_port_are_counted_by_line", || sites::in_time(no_port_by_line));
}

fn no_port_by_line() -> Result<()> {
    let _alone = Alone::wait()?;
    let cable = Cable::new(&["ip_local_port_range=40000 40099", "tcp_tw_reuse=0"])?;
    let _server = cable.server(ADDRESS, false)?;
    let mut script = two_lines(&cable, "71", "89", &[("STAY", "1")])?;
    let mut tracer = sites::start(PORT, &[])?;
    let said = Said::of(&mut script)?;
    let failures = Said::counts(&said.open, |line| line.errno_99);
    equal("connects that found no port", failures.values().sum(), 71 + 89 - 100)?;
    ensure!(failures.len() == 2, "both lines fail: {failures:?}");
    let word = python::script("ports.py").display().to_string();
    sites::wait_for(&mut tracer, &word, |destinations| {
        sites::none_too_soon(destinations)?;
        let [to] = destinations else { anyhow::bail!("one destination: {destinations:?}") };
        equal("failures", to.failed_by.get("EADDRNOTAVAIL").copied().unwrap_or(0), 60)?;
        same("no port", &by_line(&to.call_sites, "no_port"), &failures)?;
        let opens = Said::counts(&said.open, |line| line.ok + line.errno_99);
        same("opens", &by_line(&to.call_sites, "open"), &opens)?;
        let mut exact = to.sites("no_port");
        ensure!(exact.all(|site| site.exact), "they are counted: {to:?}");
        Ok(())
    })?;
    tracer.wait_until(|report| {
        equal("failures in the record", exhausted(report, said.pid), 60)?;
        same("no port in the record", &by_line(&failed_by(report, said.pid)?, "no_port"), &failures)?;
        nothing_lost(report)
    })?;
    tracer.stop()?;
    Ok(())
}

/// A compiled program has one such line: its function is named, and the count is the program's own.
#[test]
fn connects_of_a_native_program_without_a_port_are_counted() {
    check("connects_of_a_native_program_without_a_port_are_counted", || {
        let _alone = Alone::wait()?;
        // Of an odd number of ports connect() leaves one out, but not always (`__inet_hash_connect`).
        let cable = Cable::new(&["ip_local_port_range=40000 40047", "tcp_tw_reuse=0"])?;
        let mut tracer = sites::start(PORT, &[])?;
        let _server = cable.server(ADDRESS, false)?;
        let mut client = cable.churn(&cable.client, &["connect", ADDRESS, "100", "0", "stay"], &[])?;
        let outcome = client.outcome()?;
        equal("connects that found no port", outcome.errno_99, 52)?;
        let program = churn()?.display().to_string();
        sites::wait_for(&mut tracer, &program, |destinations| {
            let [to] = destinations else { anyhow::bail!("one destination: {destinations:?}") };
            equal("no port", to.sum("no_port"), outcome.errno_99)?;
            equal("opens", to.sum("open"), 100)?;
            // A stack that comes too late in a crowded guest has no name, and is counted all the same.
            let is_late = |site: &Site| {
                is_guest() && site.note.as_deref().is_some_and(|note| note.starts_with("not read"))
            };
            let mut read =
                to.sites("no_port").chain(to.sites("open")).filter(|site| !is_late(site)).peekable();
            ensure!(read.peek().is_some(), "no stack was read");
            for site in read {
                let place = site.culprit.as_ref().with_context(|| format!("a line: {site:?}"))?;
                // Without debug information nobody knows what was inlined into what.
                let known =
                    if place.line.is_some() { "portchurn_churn::one" } else { "portchurn_churn::connect" };
                ensure!(place.function == known, "{place:?}");
            }
            Ok(())
        })?;
        tracer.stop()?;
        Ok(())
    });
}

#[test]
fn an_alert_names_the_line_that_finds_no_port() {
    check("an_alert_names_the_line_that_finds_no_port", || {
        let _alone = Alone::wait()?;
        // Whether stacks can be taken at all.
        sites::start(PORT, &[])?.stop()?;
        let cable = Cable::new(&["ip_local_port_range=40000 40019", "tcp_tw_reuse=0"])?;
        let _server = cable.server(ADDRESS, false)?;
        let mut script = two_lines(&cable, "33", "0", &[("STAY", "1")])?;
        let mut trace = Trace::start(&cable.client, &["--stack", "auto"])?;
        let said = Said::of(&mut script)?;
        let line = said.open.keys().next().context("a line")?;
        trace.wait_for(13, "EADDRNOTAVAIL")?;
        let alert = trace.alert()?;
        for part in ["NO LOCAL PORT LEFT", "EADDRNOTAVAIL", &format!("ports.py:{line} first"), ": 20"] {
            ensure!(alert.contains(part), "`{part}` is missing: {alert}");
        }
        trace.stop()?;
        Ok(())
    });
}

/// The lines by which a process holds its TIME_WAIT.
fn holding(report: &Report, pid: u32) -> Result<Vec<Site>> {
    let owners = report.time_wait["owners"].as_array().into_iter().flatten();
    let mut lines = Vec::new();
    for owner in owners.filter(|owner| owner["ownership"] == "owned" && owner["tgid"] == pid) {
        for to in owner["destinations"].as_array().into_iter().flatten() {
            let sites: Vec<Site> =
                serde_json::from_value(to["call_sites"].clone()).context("lines that hold it")?;
            for at in ["open", "close"] {
                let sum = by_line(&sites, at).values().sum();
                equal(&format!("TIME_WAIT by line of the {at}"), sum, to["count"].as_u64().unwrap_or(0))?;
            }
            lines.extend(sites);
        }
    }
    Ok(lines)
}

fn held_as_said(report: &Report, said: &Said, total: u64) -> Result<()> {
    equal("TIME_WAIT of the process", owned(report, said.pid), total)?;
    let lines = holding(report, said.pid)?;
    same("opened", &by_line(&lines, "open"), &Said::counts(&said.open, |line| line.ok))?;
    same("closed", &by_line(&lines, "close"), &Said::counts(&said.close, |line| line.ok))
}

/// What a running portchurn says of a connection of the client's.
fn asked(cable: &Cable, port: u16) -> Result<Value> {
    let query = format!("10.77.0.1:{port}");
    let seen = run_portchurn(["who", &query, "--netns", &cable.client, "-o", "json"])?;
    let mut reply: Value = serde_json::from_slice(&seen.stdout).context("read the answer")?;
    Ok(reply["answers"][0].take())
}

#[test]
fn every_time_wait_is_held_by_the_line_that_opened_and_by_the_one_that_closed_it() {
    check("every_time_wait_is_held_by_the_line_that_opened_and_by_the_one_that_closed_it", || {
        let _alone = Alone::wait()?;
        let cable = Cable::new(&["ip_local_port_range=40000 40999", "tcp_tw_reuse=0"])?;
        let _server = cable.server(ADDRESS, false)?;
        let mut script = two_lines(&cable, "53", "41", &[("STAY", "1")])?;
        let mut tracer = sites::start(PORT, &[])?;
        let said = Said::of(&mut script)?;
        cable.await_time_wait(&cable.client, 53 + 41)?;
        tracer.wait_until_settled(|report| held_as_said(report, &said, 53 + 41))?;
        // Its end makes room in the tables of keys and sites, which others take.
        drop(script);
        let others = others_take_its_place(&cable, &mut tracer)?;
        cable.await_time_wait(&cable.client, 53 + 41 + others)?;
        tracer.wait_until_settled(|report| held_as_said(report, &said, 53 + 41))?;
        for lines in [&said.open, &said.close] {
            ensure!(lines.values().all(|line| !line.ports.is_empty()), "{said:?}");
        }
        for port in said.open.values().filter_map(|line| line.ports.first()) {
            let answer = asked(&cable, *port)?;
            ensure!(answer["tgid"] == said.pid && answer["exited"] == true, "{answer}");
            for (key, lines) in [("opened_at", &said.open), ("closed_at", &said.close)] {
                let line = Said::line_of(lines, *port).context("a line used this port")?;
                ensure!(
                    answer[key]["culprit"]["line"] == line,
                    "{key} of port {port}: line {line}, but {answer}"
                );
            }
        }
        tracer.stop()?;
        Ok(())
    });
}

/// Processes that come and go until all that was known of an earlier one is taken back and used again.
fn others_take_its_place(cable: &Cable, tracer: &mut Tracer) -> Result<u64> {
    let mut made = 0;
    for _ in 0..5 {
        // Four intervals of the tracer: noticed, taken out, taken back, handed out.
        for _ in 0..4 {
            tracer.advance()?;
        }
        let mut other = two_lines(cable, "3", "2", &[])?;
        let said = Said::of(&mut other)?;
        other.wait()?;
        made += 5;
        // It may be too young for its lines to be known.
        tracer.wait_until_settled(|report| {
            equal("TIME_WAIT of a later one", owned(report, said.pid), 5)?;
            holding(report, said.pid).map(drop)
        })?;
    }
    Ok(made)
}

/// A connection that lives has no line that closed it; one that ended with its process has none either, and that is said.
#[test]
fn who_tells_the_line_of_a_living_connection_and_that_an_exit_has_none() {
    check("who_tells_the_line_of_a_living_connection_and_that_an_exit_has_none", || {
        let _alone = Alone::wait()?;
        let cable = Cable::new(&["ip_local_port_range=40000 40001", "tcp_tw_reuse=0"])?;
        let _server = cable.server(ADDRESS, false)?;
        let mut script = cable.script(&cable.client, "holds.py", &["10.77.0.2", "7000"], &[])?;
        let mut tracer = sites::start(PORT, &[])?;
        script.go()?;
        let said: Value = serde_json::from_str(&script.line()?).context("understand the script")?;
        let port = said["port"].as_u64().and_then(|port| u16::try_from(port).ok()).context("a port")?;
        // Names come a moment after the connection.
        tracer.wait_until(|_| {
            let answer = asked(&cable, port)?;
            ensure!(answer["state"] == "open" && answer["tgid"] == said["pid"], "{answer}");
            ensure!(answer["opened_at"]["culprit"]["line"] == said["line"], "{answer}");
            ensure!(answer["closed_at"].is_null(), "{answer}");
            Ok(())
        })?;
        drop(script);
        tracer.wait_until(|_| {
            let answer = asked(&cable, port)?;
            ensure!(
                answer["state"] != "open" && answer["opened_at"]["culprit"]["line"] == said["line"],
                "{answer}"
            );
            let note = answer["closed_at"]["note"].as_str().unwrap_or_default();
            ensure!(note.starts_with("process exit") && answer["closed_at"]["culprit"].is_null(), "{answer}");
            Ok(())
        })?;
        tracer.stop()?;
        Ok(())
    });
}
