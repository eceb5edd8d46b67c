//! TIME_WAIT and local ports against the kernel's own tables and the programs' own counts, in network namespaces with a
//! cable between them. Needs the privileges of a tracer.

use std::os::unix::net::UnixStream;

use anyhow::{Context as _, Result, ensure};
use portchurn_tests::harness::budgets::{Trace, budget, equal, exhausted, owned, start_with_cookies};
use portchurn_tests::harness::compare::{Precision, matches_truth};
use portchurn_tests::harness::mounts::Tracefs;
use portchurn_tests::harness::programs::{complaint, run_portchurn, run_workload};
use portchurn_tests::harness::tracer::Tracer;
use portchurn_tests::harness::veth::Cable;
use portchurn_tests::harness::{Alone, check, check_where_possible, skip};
use serde_json::Value;

use crate::shares::by_tracepoint;
use crate::{ADDRESS, ADDRESS_V6};

#[test]
fn the_connect_after_the_last_port_fails_and_is_counted_with_those_who_hold_them() {
    check("the_connect_after_the_last_port_fails_and_is_counted_with_those_who_hold_them", || {
        last_port(ADDRESS)
    });
}

#[test]
fn the_connect_after_the_last_port_fails_and_is_counted_v6() {
    check("the_connect_after_the_last_port_fails_and_is_counted_v6", || last_port(ADDRESS_V6));
}

fn last_port(address: &str) -> Result<()> {
    let _alone = Alone::wait()?;
    let settings =
        ["ip_local_port_range=40000 40099", "tcp_tw_reuse=0", "ip_local_reserved_ports=40010-40019"];
    let cable = Cable::new(&settings)?;
    let mut tracer = Tracer::start(&[])?;
    let _server = cable.server(address, false)?;
    let mut hog = cable.churn(&cable.client, &["connect", address, "61", "0", "stay"], &[])?;
    let held = hog.outcome()?;
    let mut late = cable.churn(&cable.client, &["connect", address, "60", "0", "stay"], &[])?;
    let failed = late.outcome()?;
    equal("ports left for the second", failed.ok, 90 - 61)?;
    equal("failures that are no exhaustion", failed.other + failed.errno_98, 0)?;
    tracer.wait_until(|report| {
        equal("failures", exhausted(report, failed.pid), failed.errno_99)?;
        equal("failures of the other", exhausted(report, held.pid), 0)?;
        let row = budget(report, held.pid).context("no budget")?;
        equal("ports there are", row["limit"].as_u64().unwrap_or(0), 90)?;
        equal("ports used", row["used"].as_u64().unwrap_or(0), 90)?;
        let events = report.exhaustion.as_array().context("no event")?;
        let event =
            events.iter().find(|event| event["failed"][0]["tgid"] == failed.pid).context("no event")?;
        let holders: Vec<_> = event["holders"]
            .as_array()
            .context("no holders")?
            .iter()
            .map(|holder| (holder["tgid"].as_u64(), holder["ports"].as_u64()))
            .collect();
        let expected = [(Some(u64::from(held.pid)), Some(61)), (Some(u64::from(failed.pid)), Some(29))];
        ensure!(holders == expected, "holders {holders:?}, should be {expected:?}");
        Ok(())
    })?;
    tracer.stop()?;
    Ok(())
}

/// A loop that tries again with the socket that it has: the kernel leaves it the port of its last connect.
fn used_again(arguments: &[&str], tracefs: Tracefs) -> Result<()> {
    let _alone = Alone::wait()?;
    let cable = Cable::new(&["ip_local_port_range=40000 40019", "tcp_tw_reuse=0"])?;
    let mut tracer = Tracer::start_with(arguments, tracefs)?;
    let _server = cable.server(ADDRESS, false)?;
    let mut late = cable.churn(&cable.client, &["connect", ADDRESS, "31", "0", "again", "stay"], &[])?;
    let outcome = late.outcome()?;
    equal("connects that found a port", outcome.ok, 20)?;
    equal("connects that found none", outcome.errno_99, 11)?;
    tracer.wait_until(|report| {
        let process = report.processes_of(outcome.pid).next().context("not seen")?;
        equal("opened", process.tally.opened, 20)?;
        equal("refusals and failures", process.tally.failed, 31 + 11)?;
        equal("exhaustion", exhausted(report, outcome.pid), 11)
    })?;
    tracer.stop()?;
    Ok(())
}

#[test]
fn a_socket_that_is_used_again_runs_out_as_any_other() {
    check("a_socket_that_is_used_again_runs_out_as_any_other", || used_again(&[], Tracefs::AsItIs));
}

#[test]
fn a_socket_that_is_used_again_runs_out_by_raw_tp() {
    check("a_socket_that_is_used_again_runs_out_by_raw_tp", || {
        used_again(&["--attach", "inet_sock_set_state=raw_tp"], Tracefs::AsItIs)
    });
}

#[test]
fn a_socket_that_is_used_again_runs_out_by_tracepoint() {
    check("a_socket_that_is_used_again_runs_out_by_tracepoint", || {
        by_tracepoint(|tracefs| used_again(&["--attach", "inet_sock_set_state=tracepoint"], tracefs))
    });
}

#[test]
fn resets_refusals_and_timeouts_are_no_exhaustion() {
    check("resets_refusals_and_timeouts_are_no_exhaustion", || {
        let _alone = Alone::wait()?;
        let cable = Cable::new(&["ip_local_port_range=40000 40019", "tcp_tw_reuse=0"])?;
        let mut tracer = Tracer::start(&[])?;
        let _server = cable.server(ADDRESS, false)?;
        let mut aborts =
            cable.churn(&cable.client, &["connect", ADDRESS, "67", "0", "abort", "stay"], &[])?;
        let aborted = aborts.outcome()?;
        equal("connects that were reset", aborted.ok, 67)?;
        let mut nobody =
            cable.churn(&cable.client, &["connect", "10.77.0.2:7001", "43", "0", "stay"], &[])?;
        let refused = nobody.outcome()?;
        equal("connects that were refused", refused.other, 43)?;
        tracer.wait_until(|report| {
            let process = report.processes_of(refused.pid).next().context("not seen")?;
            equal("refusals", process.tally.failed, 43)?;
            equal("exhaustion", exhausted(report, refused.pid) + exhausted(report, aborted.pid), 0)
        })?;
        let truth = run_workload(&["timed-out", "--count", "17", "--netns", "own"])?;
        let timed_out = truth.sum().failed_by.get("ETIMEDOUT").copied().unwrap_or(0);
        equal("connects that timed out", timed_out, 17)?;
        tracer.wait_until(|report| {
            matches_truth(&truth, report, Precision::FULL)?;
            let of_it = truth.processes.iter().map(|process| exhausted(report, process.tgid)).sum();
            equal("exhaustion", of_it, 0)
        })?;
        tracer.stop()?;
        Ok(())
    });
}

#[test]
fn where_the_server_closes_first_it_owns_and_the_client_s_ports_are_free() {
    check("where_the_server_closes_first_it_owns_and_the_client_s_ports_are_free", || {
        let _alone = Alone::wait()?;
        let cable = Cable::new(&["ip_local_port_range=40000 40999", "tcp_tw_reuse=0"])?;
        let mut tracer = Tracer::start(&[])?;
        let server = cable.server(ADDRESS, true)?;
        let environment = [("CHURN_SERVER_FIRST", "1")];
        let mut client =
            cable.churn(&cable.client, &["connect", ADDRESS, "59", "0", "stay"], &environment)?;
        let outcome = client.outcome()?;
        equal("connects", outcome.ok, 59)?;
        cable.await_time_wait(&cable.server, 59)?;
        equal("the kernel's own count at the client", cable.time_wait(&cable.client)?, 0)?;
        let server_pid = server.child.id();
        tracer.wait_until(|report| {
            equal("TIME_WAIT of the server", owned(report, server_pid), 59)?;
            equal("TIME_WAIT of the client", owned(report, outcome.pid), 0)?;
            let used = budget(report, outcome.pid).and_then(|row| row["used"].as_u64()).unwrap_or(0);
            equal("ports of the client", used, 0)
        })?;
        tracer.stop()?;
        Ok(())
    });
}

#[test]
fn ports_bound_before_the_connect_are_a_pool_of_their_own() {
    check("ports_bound_before_the_connect_are_a_pool_of_their_own", || {
        let _alone = Alone::wait()?;
        let cable = Cable::new(&["ip_local_port_range=40000 40029", "tcp_tw_reuse=0"])?;
        let mut tracer = Tracer::start(&[])?;
        let _server = cable.server(ADDRESS, false)?;
        let environment = [("CHURN_SOURCE", "10.77.0.1")];
        let mut client =
            cable.churn(&cable.client, &["connect", ADDRESS, "37", "0", "bind", "stay"], &environment)?;
        let outcome = client.outcome()?;
        equal("binds that found a port", outcome.ok, 30)?;
        equal("binds that found none", outcome.errno_98, 7)?;
        tracer.wait_until(|report| {
            let rows = report.ports.as_array().context("no ports")?;
            let is_ours =
                |row: &&Value| row["kind"] == "bind_pool" && row["holders"][0]["tgid"] == outcome.pid;
            let pool = rows.iter().find(is_ours).context("no pool")?;
            equal("ports of the pool", pool["used"].as_u64().unwrap_or(0), 30)?;
            equal("ports there are", pool["limit"].as_u64().unwrap_or(0), 30)?;
            if report.attached("inet_csk_get_port") != "none" {
                equal("failures of the pool", pool["failed"].as_u64().unwrap_or(0), 7)?;
                equal("failures of the process", exhausted(report, outcome.pid), 7)?;
                let events = report.exhaustion.as_array().context("no event")?;
                let event = events.iter().find(|event| event["failed"][0]["tgid"] == outcome.pid);
                let event = event.context("no event")?;
                ensure!(event["errno"] == "EADDRINUSE" && event["remote_port"].is_null(), "{event}");
                ensure!(event["holders"][0]["tgid"] == outcome.pid, "{event}");
            } else {
                equal("exhaustion by connect", exhausted(report, outcome.pid), 0)?;
                ensure!(
                    pool["failures_seen"] != "exact",
                    "failed binds cannot be seen here, and that must be said"
                );
            }
            Ok(())
        })?;
        tracer.stop()?;
        Ok(())
    });
}

#[test]
fn trace_says_once_that_no_port_is_left_and_who_holds_them() {
    check("trace_says_once_that_no_port_is_left_and_who_holds_them", || {
        let _alone = Alone::wait()?;
        let cable = Cable::new(&["ip_local_port_range=40000 40019", "tcp_tw_reuse=0"])?;
        let _server = cable.server(ADDRESS, false)?;
        let mut trace = Trace::start(&cable.client, &[])?;
        let mut client = cable.churn(&cable.client, &["connect", ADDRESS, "33", "0", "stay"], &[])?;
        let outcome = client.outcome()?;
        equal("failures", outcome.errno_99, 13)?;
        trace.wait_for(13, "EADDRNOTAVAIL")?;
        let said = trace.alert()?;
        for part in
            ["NO LOCAL PORT LEFT", "10.77.0.2:7000", "EADDRNOTAVAIL", &outcome.pid.to_string(), ": 20"]
        {
            ensure!(said.contains(part), "`{part}` is missing: {said}");
        }
        let rest = trace.stop()?;
        ensure!(!rest.contains("NO LOCAL PORT LEFT"), "it is said again: {rest}");
        Ok(())
    });
}

#[test]
fn when_nobody_runs_and_the_connection_is_gone_who_says_so() {
    check_where_possible("when_nobody_runs_and_the_connection_is_gone_who_says_so", || {
        let _alone = Alone::wait()?;
        let cable = Cable::new(&["ip_local_port_range=40000 40001", "tcp_tw_reuse=0"])?;
        let _server = cable.server(ADDRESS, false)?;
        let mut client = cable.churn(&cable.client, &["connect", ADDRESS, "1", "0"], &[])?;
        client.outcome()?;
        client.wait()?;
        let ask = |port: &str| -> Result<(Option<i32>, String)> {
            let query = format!("10.77.0.1:{port}");
            let seen = run_portchurn(["who", &query, "--netns", &cable.client])?;
            let said = complaint(&seen)?;
            Ok((seen.status.code(), String::from_utf8(seen.stdout).context("read the answer")? + &said))
        };
        let running = std::fs::read_dir("/run/portchurn").into_iter().flatten().flatten();
        if running.map(|entry| UnixStream::connect(entry.path())).any(|line| line.is_ok()) {
            return Err(skip("somebody else's portchurn runs here"));
        }
        let (code, said) = ask("40000")?;
        ensure!(code == Some(1) && said.contains("the kernel has forgotten whose it was"), "{code:?} {said}");
        let (code, said) = ask("39999")?;
        ensure!(code == Some(1) && said.contains("no such connection at this moment"), "{code:?} {said}");
        ensure!(said.contains("no portchurn runs that could remember it"), "{said}");
        Ok(())
    });
}

#[test]
fn a_connection_is_known_by_its_port_also_after_its_end() {
    check("a_connection_is_known_by_its_port_also_after_its_end", || {
        let _alone = Alone::wait()?;
        let cable = Cable::new(&["ip_local_port_range=40000 40001", "tcp_tw_reuse=0"])?;
        let mut tracer = start_with_cookies()?;
        let server = cable.server(ADDRESS, false)?;
        let mut client = cable.churn(&cable.client, &["connect", ADDRESS, "1", "0"], &[])?;
        let outcome = client.outcome()?;
        client.wait()?;
        tracer.wait_until(|report| equal("TIME_WAIT", owned(report, outcome.pid), 1))?;
        let seen = run_portchurn(["who", "10.77.0.1:40000", "--netns", &cable.client, "-o", "json"])?;
        let here: Value = serde_json::from_slice(&seen.stdout).context("read the answer")?;
        ensure!(
            here["answers"][0]["tgid"] == outcome.pid && here["answers"][0]["state"] == "time_wait",
            "{here}"
        );
        let seen = run_portchurn(["who", "10.77.0.1:40000", "--netns", &cable.server, "-o", "json"])?;
        let there: Value = serde_json::from_slice(&seen.stdout).context("read the answer")?;
        ensure!(
            there["answers"][0]["tgid"] == server.child.id() && there["answers"][0]["role"] == "accept",
            "{there}"
        );
        tracer.stop()?;
        Ok(())
    });
}

/// Where a kernel gives no cookie, the record of the end must do: it names whose the TIME_WAIT is, and who closed.
fn known_without_a_cookie(tier: &str, tracefs: Tracefs) -> Result<()> {
    let _alone = Alone::wait()?;
    let cable = Cable::new(&["ip_local_port_range=40000 40001", "tcp_tw_reuse=0"])?;
    let mut tracer = Tracer::start_with(&["--attach", &format!("inet_sock_set_state={tier}")], tracefs)?;
    let _server = cable.server(ADDRESS, false)?;
    let mut client = cable.churn(&cable.client, &["connect", ADDRESS, "1", "0"], &[])?;
    let outcome = client.outcome()?;
    client.wait()?;
    tracer.wait_until(|report| equal("TIME_WAIT", owned(report, outcome.pid), 1))?;
    let seen = run_portchurn(["who", "10.77.0.1:40000", "--netns", &cable.client, "-o", "json"])?;
    let found: Value = serde_json::from_slice(&seen.stdout).context("read the answer")?;
    let answers = found["answers"].as_array().context("no answers")?;
    ensure!(answers.len() == 1, "one connection, {} answers: {found}", answers.len());
    let answer = &answers[0];
    ensure!(answer["tgid"] == outcome.pid && answer["owner_certain"] == true, "{answer}");
    ensure!(answer["state"] == "time_wait" && answer["closed_by"] == "local", "{answer}");
    tracer.stop()?;
    Ok(())
}

#[test]
fn a_connection_is_known_by_its_port_also_by_raw_tp() {
    check("a_connection_is_known_by_its_port_also_by_raw_tp", || {
        known_without_a_cookie("raw_tp", Tracefs::AsItIs)
    });
}

#[test]
fn a_connection_is_known_by_its_port_also_by_tracepoint() {
    check("a_connection_is_known_by_its_port_also_by_tracepoint", || {
        by_tracepoint(|tracefs| known_without_a_cookie("tracepoint", tracefs))
    });
}
