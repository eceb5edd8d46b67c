//! The workloads themselves, held to the kernel's own counters: whoever judges others must be right. Needs no tracer.

use anyhow::{Result, ensure};
use portchurn_tests::harness::check;
use portchurn_tests::harness::programs::run_workload;

/// Runs a workload in a namespace of its own, where the kernel counts nobody else, and compares.
fn agrees_with_the_kernel(name: &str, arguments: &[&str]) -> Result<()> {
    let truth = run_workload(&[&[name, "--netns", "own"], arguments].concat())?;
    let (sum, kernel) = (truth.sum(), truth.kernel.unwrap_or_default());
    let failed = |errno: &str| sum.failed_by.get(errno).copied().unwrap_or(0);
    let mut differences = Vec::new();
    let mut equal = |label: &str, ours: u64, theirs: u64| {
        if ours != theirs {
            differences.push(format!("{label}: {ours}, the kernel says {theirs}"));
        }
    };
    equal(
        "active opens",
        sum.opened + sum.failed() - failed("EADDRNOTAVAIL") - failed("tuple_taken"),
        kernel.active_opens,
    );
    equal("passive opens", sum.accepted, kernel.passive_opens);
    // A connect that the program gave up is no failure of the attempt to the kernel.
    equal("attempt fails", failed("ECONNREFUSED") + failed("ETIMEDOUT"), kernel.attempt_fails);
    equal("still open", 0, sum.open_now());
    if sum.closed_somehow == 0 {
        equal("TIME_WAIT", sum.time_wait(), kernel.time_wait);
    }
    ensure!(sum.opened + sum.failed() > 0, "nothing happened");
    ensure!(differences.is_empty(), "{}", differences.join("; "));
    Ok(())
}

macro_rules! workloads {
    ($($test:ident: $name:literal $($argument:literal)*;)*) => {$(
        #[test]
        fn $test() {
            check(stringify!($test), || agrees_with_the_kernel($name, &[$($argument),*]));
        }
    )*};
}

workloads! {
    active_close: "active-close";
    active_close_v6: "active-close" "--family" "v6";
    active_close_mapped: "active-close" "--family" "mapped";
    active_close_mptcp: "active-close" "--mptcp";
    passive_close: "passive-close";
    simultaneous_close: "simultaneous";
    unread_data: "unread-data";
    linger_zero: "linger-zero";
    silence: "silence" "--count" "7";
    impatient: "impatient";
    no_room: "no-room";
    refused: "refused";
    refused_v6: "refused" "--family" "v6";
    timed_out: "timed-out";
    abandoned: "abandoned";
    no_port_left: "no-port-left" "--count" "22";
    port_taken: "port-taken";
    nonblocking: "nonblocking";
    nonblocking_refused: "nonblocking-refused";
    reconnect: "reconnect";
    disconnect: "disconnect";
    process_exit: "process-exit";
    fork_child_first: "fork-child-first";
    fork_child_last: "fork-child-last";
    passed: "passed";
    prefork: "prefork";
    bulk_one: "bulk-one" "--count" "1009";
}
