//! Tables that are full: what finds no room is counted, by reason and at its place, and the books balance. Needs the privileges
//! of a tracer.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpStream};

use anyhow::{Context as _, Result, bail, ensure};
use portchurn_tests::harness::budgets::equal;
use portchurn_tests::harness::programs::Held;
use portchurn_tests::harness::report::{Report, Tally};
use portchurn_tests::harness::tracer::Tracer;
use portchurn_tests::harness::{Alone, check, check_where_possible, skip};

/// The smallest table of connections; without cookies there is nothing beside it.
const ROOM: u64 = 1024;
/// Connections, each with two ends: fewer than the files that a process may usually have.
const HELD: u64 = 809;

fn tally(report: &Report, pid: u32) -> Result<Tally> {
    let process = report.processes_of(pid).next().with_context(|| format!("process {pid} is not told"))?;
    ensure!(process.tally.is_conserved(), "connections appear or vanish: {:?}", process.tally);
    Ok(process.tally)
}

fn lost_by(report: &Report, reason: &str) -> Result<u64> {
    report.lost.by_reason.get(reason).copied().flatten().with_context(|| format!("{reason} is not told"))
}

#[test]
fn connections_that_find_no_room_are_lost_and_counted_at_their_end() {
    check_where_possible("connections_that_find_no_room_are_lost_and_counted_at_their_end", || {
        let _alone = Alone::wait()?;
        let options = ["--attach", "inet_sock_set_state=raw_tp", "--max-connections", &ROOM.to_string()];
        let mut tracer = Tracer::start(&options)?;
        let held = Held::open("hold", &["--count", &HELD.to_string(), "--netns", "own"])?;
        let (client, server) = (held.client, held.server);
        tracer.wait_until(|report| equal("opened", tally(report, client)?.opened, HELD))?;
        if lost_by(&tracer.latest, "connections_full")? == 0 {
            return Err(skip("this host has so many sockets that the table is larger"));
        }
        tracer.wait_until(|report| {
            let (near, far) = (tally(report, client)?, tally(report, server)?);
            equal("opened", near.opened, HELD)?;
            equal("accepted", far.accepted, HELD)?;
            equal("what a server opened", far.opened, 0)?;
            equal("lost", near.lost + far.lost, lost_by(report, "connections_full")?)?;
            ensure!(
                near.lost + far.lost >= 2 * HELD - ROOM,
                "more found room than there is: {near:?} {far:?}"
            );
            ensure!(report.totals.is_conserved(), "{:?}", report.totals);
            Ok(())
        })?;
        held.close()?;
        tracer.wait_until(|report| {
            let (near, far) = (tally(report, client)?, tally(report, server)?);
            equal("open", near.open_now + far.open_now, 0)?;
            equal("closed or lost", near.closed + near.lost + far.closed + far.lost, 2 * HELD)
        })?;
        tracer.stop()?;
        Ok(())
    });
}

/// Destinations where nobody listens, many times what there is room for.
const DESTINATIONS: u8 = 97;

#[test]
fn destinations_that_find_no_room_are_counted_together() {
    check("destinations_that_find_no_room_are_counted_together", || {
        let _alone = Alone::wait()?;
        let ours = std::process::id();
        let mut tracer = Tracer::start(&["--strict", "--max-keys", "16", "-p", &ours.to_string()])?;
        for last in 1..=DESTINATIONS {
            match TcpStream::connect((Ipv4Addr::new(127, 0, 7, last), 1)) {
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                outcome => bail!("it was to be refused, but: {outcome:?}"),
            }
        }
        tracer.wait_until(|report| {
            equal("failed", report.totals.failed, DESTINATIONS.into())?;
            let own: u64 = report.processes_of(ours).map(|process| process.tally.failed).sum();
            equal("of no certain process", report.totals.failed - own, lost_by(report, "keys_full")?)?;
            ensure!(own > 0 && own < DESTINATIONS.into(), "{own} of them have a place of their own");
            equal("lost otherwise", report.lost.total, lost_by(report, "keys_full")?)
        })?;
        let (status, said) = tracer.interrupt()?;
        ensure!(status.code() == Some(6) && said.contains("--strict"), "{status}: {said}");
        Ok(())
    });
}
