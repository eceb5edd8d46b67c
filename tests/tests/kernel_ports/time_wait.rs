//! Whose every TIME_WAIT is, over time and in numbers: a minute of steady churn, more sockets than a table has places,
//! namespaces that go away or may not be entered. The truth is the kernel's own count.

use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use portchurn_tests::harness::budgets::{Lister, equal, in_namespace, owned, owned_in};
use portchurn_tests::harness::mounts::Tracefs;
use portchurn_tests::harness::programs::portchurn;
use portchurn_tests::harness::tracer::Tracer;
use portchurn_tests::harness::veth::Cable;
use portchurn_tests::harness::{Alone, check, check_where_possible, is_guest, skip};
use serde_json::Value;

use crate::ADDRESS;

/// How long one lasts.
const TIME_WAIT: Duration = Duration::from_secs(60);

/// 65 s after the attach every socket from before it has ended. Two programs churn on, one of them since before the
/// attach; a third has ended. `ss` says the same, and when the churn stops, to the last one.
#[test]
fn a_minute_after_the_attach_every_time_wait_has_an_owner() {
    check("a_minute_after_the_attach_every_time_wait_has_an_owner", || {
        let _alone = Alone::wait()?;
        // By itself a small guest has so low a limit that hardly an end gets in.
        let cable = Cable::new(&["tcp_tw_reuse=0", "tcp_max_tw_buckets=65536"])?;
        let netns = cable.inode(&cable.client)?;
        let server = cable.server(ADDRESS, false)?;
        let churn = |count: &str, per_s: &str| {
            let mut client = cable.churn(&cable.client, &["connect", ADDRESS, count, per_s], &[])?;
            client.begun().map(|()| client)
        };
        let early = churn("1000000", "120")?;
        // Some that nobody can own.
        std::thread::sleep(Duration::from_secs(1));
        // One for while it goes on, one for afterwards.
        let (running, stopped) = (Lister::start()?, Lister::start()?);
        let attached = Instant::now();
        let late = churn("1000000", "80")?;
        let mut ended = churn("2000", "50")?;
        let gone = ended.outcome()?;
        ended.wait()?;
        let ended_at = Instant::now();
        equal("connects of the one that ended", gone.ok, 2000)?;
        std::thread::sleep(Duration::from_secs(65).saturating_sub(attached.elapsed()));
        let earlier = cable.many_time_wait(&cable.client)?;
        let time_wait = running.stop()?;
        let later = cable.many_time_wait(&cable.client)?;
        let (with_owner, all) = in_namespace(&time_wait, netns);
        let coverage = with_owner as f64 / all as f64;
        ensure!(coverage >= 0.995, "coverage {coverage}: {}", without_owners(time_wait));
        // What is carried on counts with timers that go off in time.
        if !is_guest() {
            let (low, high) = (earlier.min(later) as f64 * 0.995, earlier.max(later) as f64 * 1.005);
            let is_same = (low..=high).contains(&(all as f64));
            ensure!(is_same, "{all} here, there {earlier} before and {later} after");
        }
        // On a crowded machine its last ones may be over, too.
        if ended_at.elapsed() < TIME_WAIT {
            let is_there = owned_in(&time_wait, gone.pid) > 0;
            ensure!(is_there, "the one that ended ({}) is forgotten: {time_wait}", gone.pid);
        }
        drop(early);
        drop(late);
        // What the servers still had to close is closed with them.
        drop(server);
        let earlier = cable.many_time_wait(&cable.client)?;
        let time_wait = stopped.stop()?;
        let later = cable.many_time_wait(&cable.client)?;
        let (with_owner, all) = in_namespace(&time_wait, netns);
        ensure!((later..=earlier).contains(&all), "all: {all}, the kernel went from {earlier} to {later}");
        equal("with an owner", with_owner, all)
    });
}

fn without_owners(mut time_wait: Value) -> String {
    time_wait["owners"] = Value::Null;
    time_wait.to_string()
}

/// More than a host makes by itself (`tcp_max_tw_buckets` is 131,072 or 262,144 by default), and more than the table of
/// connections has places.
const MANY: u64 = 200_000;

#[test]
fn of_two_hundred_thousand_none_is_lost_and_none_is_given_to_a_wrong_one() {
    check_where_possible("of_two_hundred_thousand_none_is_lost_and_none_is_given_to_a_wrong_one", || {
        if is_guest() {
            return Err(skip("an emulated processor does not make them before the first ones end"));
        }
        let _alone = Alone::wait()?;
        let cable = Cable::new(&["tcp_tw_reuse=0", "tcp_max_tw_buckets=262144"])?;
        let lister = Lister::start()?;
        let count = MANY.to_string();
        let mut fill = cable.churn(&cable.client, &["fill", "127.0.0.1:7000", &count, "0", "stay"], &[])?;
        let other = cable.churn(&cable.client, &["fill", "127.0.0.1:9000", "997", "0"], &[])?.outcome()?;
        let outcome = fill.outcome()?;
        if outcome.took_s.is_some_and(|took_s| took_s > 40.0) {
            return Err(skip("this machine is too slow to make them before the first ones end"));
        }
        let time_wait = lister.stop()?;
        equal("the kernel's own count, afterwards", cable.many_time_wait(&cable.client)?, MANY + 997)?;
        let (with_owner, all) = in_namespace(&time_wait, cable.inode(&cable.client)?);
        equal("all", all, MANY + 997)?;
        equal("of the one", owned_in(&time_wait, outcome.pid), MANY)
            .and_then(|()| equal("of the other", owned_in(&time_wait, other.pid), 997))
            .and_then(|()| equal("with an owner", with_owner, all))
            .with_context(|| without_owners(time_wait))
    });
}

/// By then nothing is counted under a process any more: two refreshes.
const FORGOTTEN: Duration = Duration::from_millis(2200);

/// On a host with many sockets a list is dear and waits for long. By then processes that came and went meanwhile are forgotten, and
/// what they left in a namespace of its own must be on it, as theirs.
#[test]
fn who_is_long_gone_at_the_next_list_owns_what_waits_elsewhere() {
    check_where_possible("who_is_long_gone_at_the_next_list_owns_what_waits_elsewhere", || {
        if is_guest() {
            return Err(skip("an emulated processor does not make as many before the first ones end"));
        }
        let _alone = Alone::wait()?;
        let cable = Cable::new(&["tcp_tw_reuse=0", "tcp_max_tw_buckets=262144"])?;
        let others: Result<Vec<_>, _> = (0..4).map(|_| Cable::new(&["tcp_tw_reuse=0"])).collect();
        let others = others?;
        let one_more = Cable::new(&["tcp_tw_reuse=0"])?;
        let mut tracer = Tracer::start(&[])?;
        let mut many = cable.churn(&cable.client, &["fill", "127.0.0.1:7000", "240000", "0", "stay"], &[])?;
        many.outcome()?;
        let mut left = Vec::new();
        for other in &others {
            let mut short = other.churn(&other.client, &["fill", "127.0.0.1:7000", "37", "0"], &[])?;
            left.push((short.outcome()?.pid, other));
            short.wait()?;
            let ended = Instant::now();
            while ended.elapsed() < FORGOTTEN {
                tracer.advance()?;
            }
        }
        let all_forgotten = Instant::now();
        // What is new somewhere is worth a list.
        one_more.churn(&one_more.client, &["fill", "127.0.0.1:7000", "37", "0"], &[])?.outcome()?;
        let is_listed = |ago_s: f64| ago_s < all_forgotten.elapsed().as_secs_f64();
        while !tracer.advance()?.time_wait["read_ago_s"].as_f64().is_some_and(is_listed) {
            ensure!(all_forgotten.elapsed() < TIME_WAIT / 2, "no list was made");
        }
        for (pid, other) in left {
            equal("the kernel's own count", other.time_wait(&other.client)?, 37)?;
            equal("TIME_WAIT of one that is gone", owned(&tracer.latest, pid), 37)?;
        }
        tracer.stop()?;
        Ok(())
    });
}

/// A server closes first, and its peer has so few ports that each of its connects comes from one that waits at the server:
/// its SYN takes that over. The kernel's own count stands still, while thousands come and go between two lists.
#[test]
fn what_a_peer_s_syn_takes_over_is_gone_between_two_lists_too() {
    check("what_a_peer_s_syn_takes_over_is_gone_between_two_lists_too", || {
        let _alone = Alone::wait()?;
        let cable = Cable::new(&["ip_local_port_range=40000 40399"])?;
        let netns = cable.inode(&cable.server)?;
        let mut tracer = Tracer::start(&[])?;
        let _server = cable.server(ADDRESS, true)?;
        let arguments = ["connect", ADDRESS, "1000000", "300"];
        let mut client = cable.churn(&cable.client, &arguments, &[("CHURN_SERVER_FIRST", "1")])?;
        client.begun()?;
        // After a list that has it as it stays, one more, by which it is learned what goes.
        let mut lists = 0;
        let mut accepted_at_list = 0;
        let mut most_between = 0;
        let mut before_s = f64::INFINITY;
        let deadline = Instant::now() + WATCHED;
        while most_between < 10 * PORTS && Instant::now() < deadline {
            let earlier = cable.many_time_wait(&cable.server)?;
            let report = tracer.advance()?;
            let later = cable.many_time_wait(&cable.server)?;
            let accepted = report.totals.accepted;
            let ago_s = report.time_wait["read_ago_s"].as_f64().unwrap_or(f64::INFINITY);
            let is_new = ago_s < before_s;
            before_s = ago_s;
            if is_new {
                lists += u64::from(earlier > PORTS * 9 / 10);
                accepted_at_list = accepted;
            }
            if lists < 2 {
                continue;
            }
            let (_, all) = in_namespace(&report.time_wait, netns);
            let (low, high) = (earlier.min(later) * 9 / 10, earlier.max(later) * 11 / 10);
            ensure!((low..=high).contains(&all), "{all} here, there {earlier} before and {later} after");
            most_between = most_between.max(accepted - accepted_at_list);
        }
        ensure!(most_between > PORTS, "no more than {most_between} came between two of {lists} lists");
        tracer.stop()?;
        Ok(())
    });
}

/// Ports of that peer: half of its range, as nothing waits on its own side.
const PORTS: u64 = 200;
/// For so long at most: an emulated processor makes a list every ten seconds.
const WATCHED: Duration = Duration::from_secs(100);

#[test]
fn a_namespace_that_goes_away_takes_its_sockets_with_it() {
    check("a_namespace_that_goes_away_takes_its_sockets_with_it", || {
        let _alone = Alone::wait()?;
        let mut tracer = Tracer::start(&[])?;
        let stays = Cable::new(&["tcp_tw_reuse=0"])?;
        let goes = Cable::new(&["tcp_tw_reuse=0"])?;
        let netns = goes.inode(&goes.client)?;
        let mut pids = Vec::new();
        for (cable, count) in [(&stays, "31"), (&goes, "43")] {
            let mut fill = cable.churn(&cable.client, &["fill", "127.0.0.1:7000", count, "0"], &[])?;
            pids.push(fill.outcome()?.pid);
            fill.wait()?;
        }
        tracer.wait_until(|report| {
            equal("of the one that stays", owned(report, pids[0]), 31)?;
            equal("of the one that goes", owned(report, pids[1]), 43)
        })?;
        drop(goes);
        tracer.wait_until(|report| {
            equal("of the one that is gone", owned(report, pids[1]), 0)?;
            equal("in its namespace", in_namespace(&report.time_wait, netns).1, 0)
        })?;
        // Its number may be another's now; the one that stays is counted as before.
        let mut fill = stays.churn(&stays.client, &["fill", "127.0.0.1:8000", "47", "0"], &[])?;
        let later = fill.outcome()?;
        tracer.wait_until(|report| equal("of a later one", owned(report, later.pid), 47))?;
        tracer.stop()?;
        Ok(())
    });
}

/// Without CAP_SYS_ADMIN no other namespace can be entered: what is in it is not counted, and that is said.
#[test]
fn a_namespace_that_may_not_be_entered_is_said() {
    check("a_namespace_that_may_not_be_entered_is_said", || {
        let _alone = Alone::wait()?;
        let cable = Cable::new(&["tcp_tw_reuse=0"])?;
        let netns = cable.inode(&cable.client)?;
        let mut fill = cable.churn(&cable.client, &["fill", "127.0.0.1:7000", "37", "0"], &[])?;
        let early = fill.outcome()?;
        fill.wait()?;
        let mut command = Command::new(portchurn()?);
        // SAFETY: system calls only.
        unsafe { command.pre_exec(drop_sys_admin) };
        let mut tracer = Tracer::start_by(command, &[], Tracefs::AsItIs)?;
        let mut fill = cable.churn(&cable.client, &["fill", "127.0.0.1:8000", "41", "0", "stay"], &[])?;
        let late = fill.outcome()?;
        tracer.wait_until(|report| {
            let because = report.time_wait["incomplete_because"].to_string();
            ensure!(report.time_wait["complete"] == false, "it is said to be complete");
            ensure!(because.contains(&netns.to_string()) && because.contains("CAP_SYS_ADMIN"), "{because}");
            equal("counts do not suffer", report.processes_of(late.pid).map(|p| p.tally.opened).sum(), 41)?;
            equal("nobody is guessed for the early ones", owned(report, early.pid), 0)
        })?;
        tracer.stop()?;
        Ok(())
    });
}

fn drop_sys_admin() -> std::io::Result<()> {
    const CAP_SYS_ADMIN: libc::c_ulong = 21;
    // SAFETY: a plain system call. Out of the bounding set it is gone with the next exec of root.
    if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, CAP_SYS_ADMIN, 0, 0, 0) } < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}
