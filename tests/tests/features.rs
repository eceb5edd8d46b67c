//! What portchurn can tell on this kernel, attached as it chooses by itself: each is shown by a known workload, or by the hook that
//! it takes and that is not here. Needs the privileges of a tracer.

use std::io::{Write as _, stderr};

use anyhow::{Result, ensure};
use portchurn_tests::harness::budgets::{equal, exhausted, owned, start_with_cookies};
use portchurn_tests::harness::compare::{Precision, matches_truth};
use portchurn_tests::harness::programs::{Held, run_workload};
use portchurn_tests::harness::report::{Destination, Report};
use portchurn_tests::harness::tracer::Tracer;
use portchurn_tests::harness::{Alone, Skip, check_where_possible, skip};
use portchurn_tests::truth::Truth;
use serde_json::Value;

const BINDS: &str = "inet_csk_get_port";
const CALL_SITES: &str = "call_sites";

macro_rules! features {
    ($($test:ident: $name:literal $arguments:expr, $shows:expr;)*) => {$(
        #[test]
        fn $test() {
            check_where_possible(stringify!($test), || {
                let _alone = Alone::wait()?;
                tell($name, Tracer::start(&$arguments).and_then($shows))
            });
        }
    )*};
}

features! {
    why_a_connect_failed: "why-a-connect-failed" [], errors;
    who_sent_a_reset: "who-sent-a-reset" [], resets;
    in_which_network_namespace: "network-namespaces" [], namespaces;
    whose_a_time_wait_is: "owners-of-TIME_WAIT" [], time_wait;
    that_a_bind_found_no_port: "binds-that-find-no-port" [], binds;
    lines_of_native_code: "lines-of-native-code" ["--stack", "native"], lines;
    what_the_kernel_skipped: "what-the-kernel-skipped" [], skips;
}

#[test]
fn sockets_from_before_the_attach() {
    check_where_possible("sockets_from_before_the_attach", || {
        let _alone = Alone::wait()?;
        tell("sockets-from-before-the-attach", early())
    });
}

fn early() -> Result<()> {
    let held = Held::open("hold", &["--early", "--count", "31", "--netns", "own"])?;
    let mut tracer = start_with_cookies()?;
    let (client, server) = (held.client, held.server);
    tracer.wait_until(|report| {
        for tgid in [client, server] {
            let found = report.processes_of(tgid).map(|process| process.tally.before_attach).sum();
            equal("connections from before the attach", found, 31)?;
        }
        Ok(())
    })?;
    held.close()?;
    tracer.stop().map(drop)
}

/// Says for machines what came of it.
fn tell(name: &str, outcome: Result<()>) -> Result<()> {
    let line = match &outcome {
        Ok(()) => "works".to_owned(),
        Err(error) if error.is::<Skip>() => format!("unavailable {error}"),
        Err(error) => format!("failed {}", format!("{error:#}").lines().next().unwrap_or_default()),
    };
    let _ = stderr().write_all(format!("\nMATRIX tells {name} {line}\n").as_bytes());
    outcome
}

/// A hook that something takes.
fn needs(tracer: &Tracer, hook: &str) -> Result<()> {
    match tracer.latest.attached(hook) {
        "none" => Err(skip(format!("{hook} is not attached"))),
        _ => Ok(()),
    }
}

fn destinations<'a>(truth: &'a Truth, report: &'a Report) -> impl Iterator<Item = &'a Destination> {
    let processes = truth.processes.iter().flat_map(|process| report.processes_of(process.tgid));
    processes.flat_map(|process| &process.destinations)
}

fn errors(mut tracer: Tracer) -> Result<()> {
    let truth = run_workload(&["refused", "--count", "29"])?;
    tracer.wait_until(|report| {
        let refused = destinations(&truth, report).filter_map(|to| to.failed_by.get("ECONNREFUSED")).sum();
        equal("connects that were refused", refused, 29)
    })?;
    tracer.stop().map(drop)
}

fn resets(mut tracer: Tracer) -> Result<()> {
    let truth = run_workload(&["linger-zero", "--count", "23"])?;
    tracer.wait_until(|report| {
        let by = |side: fn(&Destination) -> Option<u64>| destinations(&truth, report).filter_map(side).sum();
        equal("resets from here", by(|to| to.reset_by.map(|by| by.local)), 23)?;
        equal("resets of the peer", by(|to| to.reset_by.map(|by| by.remote)), 23)
    })?;
    tracer.stop().map(drop)
}

fn namespaces(mut tracer: Tracer) -> Result<()> {
    let truth = run_workload(&["active-close", "--count", "11", "--netns", "own"])?;
    ensure!(truth.netns != 0, "the workload does not know where it was");
    tracer.wait_until(|report| {
        let there = destinations(&truth, report).filter(|to| to.netns == truth.netns).count();
        equal("destinations in its namespace", there as u64, 2)
    })?;
    tracer.stop().map(drop)
}

fn time_wait(mut tracer: Tracer) -> Result<()> {
    let truth = run_workload(&["passive-close", "--count", "31"])?;
    tracer.wait_until(|report| {
        for process in &truth.processes {
            let (found, entered) = (owned(report, process.tgid), process.sum().time_wait());
            equal(&format!("TIME_WAIT of the {}", process.role), found, entered)?;
        }
        Ok(())
    })?;
    tracer.stop().map(drop)
}

fn binds(mut tracer: Tracer) -> Result<()> {
    needs(&tracer, BINDS)?;
    let truth = run_workload(&["bind-first", "--count", "24", "--netns", "own"])?;
    let failed = truth.sum().failed_by.get("EADDRINUSE").copied().unwrap_or(0);
    ensure!(failed > 0, "no bind failed: {truth:?}");
    tracer.wait_until(|report| {
        matches_truth(&truth, report, Precision::FULL)?;
        let found = truth.processes.iter().map(|process| exhausted(report, process.tgid)).sum();
        equal("binds in vain", found, failed)
    })?;
    tracer.stop().map(drop)
}

fn lines(mut tracer: Tracer) -> Result<()> {
    needs(&tracer, CALL_SITES)?;
    let truth = run_workload(&["active-close", "--count", "101"])?;
    tracer.wait_until(|report| {
        let sites = destinations(&truth, report).flat_map(|to| to.call_sites.iter().flatten());
        let opens: Vec<_> = sites.filter(|site| site["at"] == "open").collect();
        let count = |site: &&&Value| site["count"].as_u64().unwrap_or(0);
        equal("connects", opens.iter().map(|site| count(&site)).sum(), 101)?;
        // A stack that comes too late on a crowded machine has no name, and is counted all the same.
        let is_named = |site: &&&Value| site["culprit"]["function"].is_string();
        let named: u64 = opens.iter().filter(is_named).map(|site| count(&site)).sum();
        ensure!(named > 50, "the function of {named} connects is known: {:?}", opens.first());
        Ok(())
    })?;
    tracer.stop().map(drop)
}

fn skips(tracer: Tracer) -> Result<()> {
    match tracer.latest.nested() {
        Some(_) => tracer.stop().map(drop),
        None => Err(skip("this kernel does not count them")),
    }
}
