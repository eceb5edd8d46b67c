//! Every kind of connection, made in a known number and counted by portchurn: each number of each process must be the
//! one that the workload itself tells. Needs the privileges of a tracer.

use anyhow::{Context, Result};
use portchurn_tests::harness::check;
use portchurn_tests::harness::compare::{Precision, matches_truth};
use portchurn_tests::harness::counted::all_counted;
use portchurn_tests::harness::mounts::Tracefs;
use portchurn_tests::harness::programs::run_workload;
use portchurn_tests::harness::report::Report;
use portchurn_tests::harness::tracer::Tracer;
use portchurn_tests::truth::Truth;

fn is_counted(arguments: &[&str]) -> Result<()> {
    let mut tracer = Tracer::start(&[])?;
    let truth = run_workload(arguments)?;
    tracer.wait_until(|report| matches_truth(&truth, report, Precision::FULL))?;
    tracer.stop()?;
    Ok(())
}

macro_rules! outcomes {
    ($($test:ident: $($argument:literal)*;)*) => {$(
        #[test]
        fn $test() {
            check(stringify!($test), || is_counted(&[$($argument),*]));
        }
    )*};
}

outcomes! {
    active_close: "active-close";
    active_close_v6: "active-close" "--family" "v6" "--count" "101";
    active_close_mapped: "active-close" "--family" "mapped";
    active_close_mptcp: "active-close" "--mptcp";
    active_close_other_netns: "active-close" "--netns" "own";
    passive_close: "passive-close" "--count" "101";
    passive_close_v6: "passive-close" "--family" "v6";
    passive_close_mapped: "passive-close" "--family" "mapped";
    passive_close_mptcp: "passive-close" "--mptcp";
    passive_close_other_netns: "passive-close" "--netns" "own";
    simultaneous_close: "simultaneous" "--netns" "own";
    reset_with_unread_data: "unread-data";
    reset_by_linger_zero: "linger-zero" "--count" "101";
    reset_by_linger_zero_v6: "linger-zero" "--family" "v6";
    silence_until_timeout: "silence" "--count" "7";
    fin_wait2_that_is_not_waited_in: "impatient";
    no_room_for_time_wait: "no-room" "--netns" "own";
    refused: "refused" "--count" "1009";
    refused_v6: "refused" "--family" "v6";
    refused_mapped: "refused" "--family" "mapped";
    timed_out: "timed-out";
    timed_out_v6: "timed-out" "--family" "v6";
    abandoned: "abandoned" "--count" "101";
    no_port_left: "no-port-left" "--count" "22" "--netns" "own";
    no_port_left_v6: "no-port-left" "--count" "22" "--netns" "own" "--family" "v6";
    port_taken: "port-taken";
    nonblocking: "nonblocking" "--count" "101";
    nonblocking_refused: "nonblocking-refused";
    refused_then_connected_on_one_socket: "reconnect";
    disconnected_then_connected_on_one_socket: "disconnect";
    process_exit_with_sockets_open: "process-exit" "--count" "101";
    fork_and_the_child_ends_first: "fork-child-first";
    fork_and_the_child_ends_last: "fork-child-last";
    several_destinations: "active-close" "--ports" "7" "--count" "1009";
}

/// Where accept() cannot be hooked, an accepted connection belongs to who closes it: nothing else is certain.
fn as_seen(truth: &Truth, report: &Report, acceptor: &str, closer: &str) -> Result<Truth> {
    let mut truth = truth.clone();
    if report.attached("inet_csk_accept") == "none" {
        let mut take = |role: &str| {
            let process = truth.processes.iter_mut().find(|process| process.role == role);
            process.map(|process| std::mem::take(&mut process.ends)).context("a role is missing")
        };
        let ends = take(acceptor)?;
        take(closer)?;
        let closer = truth.processes.iter_mut().find(|process| process.role == closer);
        closer.context("a role is missing")?.ends = ends;
    }
    Ok(truth)
}

#[test]
fn accepted_by_one_and_closed_by_another() {
    check("accepted_by_one_and_closed_by_another", || {
        let mut tracer = Tracer::start(&[])?;
        let truth = run_workload(&["passed", "--netns", "own"])?;
        let truth = as_seen(&truth, &tracer.latest, "acceptor", "receiver")?;
        tracer.wait_until(|report| matches_truth(&truth, report, Precision::FULL))
    });
}

#[test]
fn listened_by_one_and_accepted_by_another() {
    check("listened_by_one_and_accepted_by_another", || {
        let mut tracer = Tracer::start(&[])?;
        let truth = run_workload(&["prefork", "--netns", "own"])?;
        tracer.wait_until(|report| matches_truth(&truth, report, Precision::FULL))
    });
}

/// A subset that takes every path of the kernel side.
const CORE: &[&[&str]] = &[
    &["active-close", "--netns", "own"],
    &["passive-close", "--family", "v6"],
    &["active-close", "--family", "mapped"],
    &["linger-zero"],
    &["unread-data"],
    &["simultaneous", "--netns", "own"],
    &["refused"],
    &["abandoned"],
    &["no-port-left", "--count", "22", "--netns", "own"],
    &["process-exit"],
];

fn core_is_counted(arguments: &[&str], tracefs: Tracefs, tier: &str, precision: Precision) -> Result<()> {
    all_are_counted(CORE, arguments, tracefs, tier, precision)
}

/// MPTCP closes its connections from a kernel thread, which must not become their owner.
const MPTCP: &[&[&str]] = &[&["active-close", "--mptcp"], &["passive-close", "--mptcp"]];

fn all_are_counted(
    workloads: &[&[&str]],
    arguments: &[&str],
    tracefs: Tracefs,
    tier: &str,
    precision: Precision,
) -> Result<()> {
    all_counted(workloads, arguments, tracefs, |report| {
        let attached = report.attached("inet_sock_set_state");
        anyhow::ensure!(attached == tier, "attached by {attached}, not by {tier}");
        Ok(precision)
    })
}

#[test]
fn tier_tp_btf() {
    check("tier_tp_btf", || {
        let arguments = ["--attach", "inet_sock_set_state=tp_btf"];
        core_is_counted(&arguments, Tracefs::AsItIs, "tp_btf", Precision::FULL)
    });
}

#[test]
fn tier_raw_tp() {
    check("tier_raw_tp", || {
        let arguments = ["--attach", "inet_sock_set_state=raw_tp"];
        core_is_counted(&arguments, Tracefs::AsItIs, "raw_tp", Precision::FULL)
    });
}

#[test]
fn tier_tracepoint() {
    check("tier_tracepoint", || {
        let arguments = ["--attach", "inet_sock_set_state=tracepoint"];
        core_is_counted(&arguments, Tracefs::Mounted, "tracepoint", Precision::FULL)
    });
}

#[test]
fn tier_tracepoint_without_types() {
    check("tier_tracepoint_without_types", || {
        core_is_counted(&["--no-btf"], Tracefs::Mounted, "tracepoint", Precision::NO_TYPES)
    });
}

#[test]
fn mptcp_with_raw_tp() {
    check("mptcp_with_raw_tp", || {
        let arguments = ["--attach", "inet_sock_set_state=raw_tp"];
        all_are_counted(MPTCP, &arguments, Tracefs::AsItIs, "raw_tp", Precision::FULL)
    });
}

#[test]
fn mptcp_with_tracepoint() {
    check("mptcp_with_tracepoint", || {
        let arguments = ["--attach", "inet_sock_set_state=tracepoint"];
        all_are_counted(MPTCP, &arguments, Tracefs::Mounted, "tracepoint", Precision::FULL)
    });
}

#[test]
fn mptcp_with_tracepoint_without_types() {
    check("mptcp_with_tracepoint_without_types", || {
        all_are_counted(MPTCP, &["--no-btf"], Tracefs::Mounted, "tracepoint", Precision::NO_TYPES)
    });
}

#[test]
fn only_the_required_hook() {
    check("only_the_required_hook", || {
        let optional = [
            "tcp_time_wait",
            "inet_csk_accept",
            "inet_csk_get_port",
            "tcp_connect",
            "sched_process_exec",
            "sched_process_exit",
            "sched_process_fork",
            "call_sites",
        ];
        let left_out: Vec<String> = optional.iter().map(|hook| format!("--attach={hook}=none")).collect();
        let left_out: Vec<&str> = left_out.iter().map(String::as_str).collect();
        let tracer = Tracer::start(&[])?;
        let usual = tracer.latest.attached("inet_sock_set_state").to_owned();
        tracer.stop()?;
        core_is_counted(&left_out, Tracefs::AsItIs, &usual, Precision::FULL)
    });
}
