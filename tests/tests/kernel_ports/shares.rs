//! Whose each TIME_WAIT is, by cookie and by four-tuple, against the kernel's own tables. Needs the privileges of a tracer.

use std::collections::HashSet;
use std::io::{Write as _, stderr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use portchurn_tests::harness::budgets::{Lister, budget, equal, owned, owned_in};
use portchurn_tests::harness::mounts::Tracefs;
use portchurn_tests::harness::tracer::Tracer;
use portchurn_tests::harness::veth::Cable;
use portchurn_tests::harness::{Alone, check, skip};

use crate::{ADDRESS, ADDRESS_V6};

/// Two programs to one destination, one of which ends: both keep their exact shares, which add up to what the kernel
/// holds, whatever the settings are.
fn shares(address: &str, (reuse, timestamps): (u8, u8), arguments: &[&str], tracefs: Tracefs) -> Result<()> {
    let _alone = Alone::wait()?;
    let reuse = format!("tcp_tw_reuse={reuse}");
    let timestamps = format!("tcp_timestamps={timestamps}");
    let cable = Cable::new(&["ip_local_port_range=40000 40999", &reuse, &timestamps])?;
    let mut tracer = Tracer::start_with(arguments, tracefs)?;
    let _server = cable.server(address, false)?;
    let begun = Instant::now();
    let mut ends = cable.churn(&cable.client, &["connect", address, "41", "0"], &[])?;
    let one = ends.outcome()?;
    ends.wait()?;
    let mut stays = cable.churn(&cable.client, &["connect", address, "53", "0", "stay"], &[])?;
    let other = stays.outcome()?;
    ensure!((one.ok, other.ok) == (41, 53), "the workload itself is not complete: {one:?} {other:?}");
    // Half a minute later the first ones may be over before the last ones begin.
    let is_slow = begun.elapsed() > Duration::from_secs(30);
    cable.await_time_wait(&cable.client, 41 + 53).map_err(|error| {
        if is_slow { skip(format!("this machine is too slow: {error:#}")) } else { error }
    })?;
    tracer.wait_until(|report| {
        equal("TIME_WAIT of the one that ended", owned(report, one.pid), 41)?;
        equal("TIME_WAIT of the other", owned(report, other.pid), 53)?;
        let row = budget(report, other.pid).context("no budget")?;
        equal("ports used", row["used"].as_u64().unwrap_or(0), 41 + 53)?;
        equal("ports there are", row["limit"].as_u64().unwrap_or(0), 1000)
    })?;
    tracer.stop()?;
    Ok(())
}

macro_rules! shares {
    ($($test:ident: $address:ident $reuse:literal $timestamps:literal;)*) => {$(
        #[test]
        fn $test() {
            check(stringify!($test), || shares($address, ($reuse, $timestamps), &[], Tracefs::AsItIs));
        }
    )*};
}

shares! {
    both_keep_their_shares_without_reuse: ADDRESS 0 1;
    both_keep_their_shares_with_reuse: ADDRESS 1 1;
    both_keep_their_shares_with_reuse_on_loopback: ADDRESS 2 1;
    both_keep_their_shares_without_timestamps: ADDRESS 1 0;
    both_keep_their_shares_without_either: ADDRESS 0 0;
    both_keep_their_shares_without_timestamps_for_loopback: ADDRESS 2 0;
    both_keep_their_shares_v6: ADDRESS_V6 0 1;
}

/// The kernel leaves out what comes while a program of this kind runs on the same processor, which nobody can mend: then all is done
/// once more.
pub(crate) fn by_tracepoint(test: impl Fn(Tracefs) -> Result<()>) -> Result<()> {
    test(Tracefs::Mounted).or_else(|error| {
        let _ = stderr().write_all(format!("once more by the classic tracepoint: {error:#}\n").as_bytes());
        test(Tracefs::Mounted)
    })
}

/// Where a kernel gives no cookie, the four-tuple must do.
fn by_four_tuple(tier: &str, tracefs: Tracefs) -> Result<()> {
    shares(ADDRESS, (0, 1), &["--attach", &format!("inet_sock_set_state={tier}")], tracefs)
}

#[test]
fn both_keep_their_shares_by_raw_tp() {
    check("both_keep_their_shares_by_raw_tp", || by_four_tuple("raw_tp", Tracefs::AsItIs));
}

#[test]
fn both_keep_their_shares_by_tracepoint() {
    check("both_keep_their_shares_by_tracepoint", || {
        by_tracepoint(|tracefs| by_four_tuple("tracepoint", tracefs))
    });
}

/// From half of the range on a connect takes over the port of a TIME_WAIT that is older than a second: whoever connected last owns
/// it. Which ports that are, the programs say, and which wait, the kernel.
fn taken_over(arguments: &[&str], tracefs: Tracefs) -> Result<()> {
    let _alone = Alone::wait()?;
    let settings = ["ip_local_port_range=40000 40099", "tcp_tw_reuse=1", "tcp_timestamps=1"];
    let cable = Cable::new(&settings)?;
    // Between two lists it is an estimate whose are taken over; what it says last is none.
    let lister = Lister::start_with(arguments, tracefs)?;
    let _server = cable.server(ADDRESS, false)?;
    let mut ends = cable.churn(&cable.client, &["connect", ADDRESS, "67", "0"], &[])?;
    let one = ends.outcome()?;
    ends.wait()?;
    std::thread::sleep(Duration::from_millis(2100));
    let mut stays = cable.churn(&cable.client, &["connect", ADDRESS, "71", "0", "stay"], &[])?;
    let other = stays.outcome()?;
    ensure!((one.ok, other.ok) == (67, 71), "the workload itself is not complete: {one:?} {other:?}");
    let (first, second) = (HashSet::from_iter(one.ports), HashSet::from_iter(other.ports));
    ensure!(!first.is_disjoint(&second), "no port was taken over");
    cable.await_all_closed(&cable.client)?;
    let waiting = cable.ports_in_time_wait(&cable.client)?;
    let of_second = waiting.intersection(&second).count();
    ensure!(waiting.iter().all(|port| first.contains(port) || second.contains(port)), "{waiting:?}");
    let time_wait = lister.stop()?;
    equal("the kernel's own count, afterwards", cable.time_wait(&cable.client)?, waiting.len() as u64)?;
    let owned = |pid| owned_in(&time_wait, pid);
    equal("TIME_WAIT of the second", owned(other.pid), of_second as u64)
        .with_context(|| format!("of the first {}: {}", owned(one.pid), time_wait))?;
    equal("TIME_WAIT of the first", owned(one.pid), (waiting.len() - of_second) as u64)
        .with_context(|| format!("of {}: {time_wait}", one.pid))
}

#[test]
fn who_takes_over_a_port_owns_it() {
    check("who_takes_over_a_port_owns_it", || taken_over(&[], Tracefs::AsItIs));
}

#[test]
fn who_takes_over_a_port_owns_it_by_raw_tp() {
    check("who_takes_over_a_port_owns_it_by_raw_tp", || {
        taken_over(&["--attach", "inet_sock_set_state=raw_tp"], Tracefs::AsItIs)
    });
}

#[test]
fn who_takes_over_a_port_owns_it_by_tracepoint() {
    check("who_takes_over_a_port_owns_it_by_tracepoint", || {
        by_tracepoint(|tracefs| taken_over(&["--attach", "inet_sock_set_state=tracepoint"], tracefs))
    });
}
