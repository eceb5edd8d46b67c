//! How a tracer comes and goes: what was there before it, what it leaves behind, how it ends, and whether two of them
//! get along. Needs the privileges of a tracer.

use std::fs::Permissions;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use portchurn_tests::harness::bpf::{Object, held_by};
use portchurn_tests::harness::budgets;
use portchurn_tests::harness::compare::{Precision, adds_up, matches_truth};
use portchurn_tests::harness::folder::Folder;
use portchurn_tests::harness::mounts::Tracefs;
use portchurn_tests::harness::privileges::{CAP_BPF, CAP_PERFMON, only, only_with_little_memory};
use portchurn_tests::harness::programs::{Held, bound, portchurn, run_workload};
use portchurn_tests::harness::report::Tally;
use portchurn_tests::harness::tracer::Tracer;
use portchurn_tests::harness::veth::Cable;
use portchurn_tests::harness::{check, check_where_possible, is_guest, skip};
use rustix::process::{Pid, Signal, kill_process};

const OPEN: u64 = 101;

#[test]
fn sockets_from_before_the_attach_have_owners_and_their_closes_count() {
    check("sockets_from_before_the_attach_have_owners_and_their_closes_count", || {
        early("v4", "host")?;
        early("v6", "host")?;
        early("mapped", "host")
    });
}

#[test]
fn sockets_from_before_the_attach_in_another_netns() {
    check("sockets_from_before_the_attach_in_another_netns", || early("v4", "own"));
}

fn early(family: &str, netns: &str) -> Result<()> {
    let count = OPEN.to_string();
    let held = Held::open("hold", &["--early", "--count", &count, "--family", family, "--netns", netns])?;
    let mut tracer = budgets::start_with_cookies()?;
    let (client, server) = (held.client, held.server);
    tracer
        .wait_until(|report| {
            for tgid in [client, server] {
                let tally = report.processes_of(tgid).next().map(|process| process.tally);
                let expected = Tally { before_attach: OPEN, open_now: OPEN, ..Tally::default() };
                ensure!(tally == Some(expected), "{tgid}: {tally:?}");
            }
            adds_up(report)
        })
        .context("while they are open")?;
    let truth = held.close()?;
    tracer
        .wait_until(|report| matches_truth(&truth, report, Precision::FULL))
        .context("when they are closed")?;
    tracer.stop()?;
    Ok(())
}

#[test]
fn open_connections_are_open_now() {
    check("open_connections_are_open_now", || {
        let mut tracer = Tracer::start(&[])?;
        let held = Held::open("hold", &["--count", &OPEN.to_string()])?;
        let (client, server) = (held.client, held.server);
        tracer.wait_until(|report| {
            let sides = [
                (client, Tally { opened: OPEN, open_now: OPEN, ..Tally::default() }),
                (server, Tally { accepted: OPEN, open_now: OPEN, ..Tally::default() }),
            ];
            for (tgid, expected) in sides {
                let tally = report.processes_of(tgid).next().map(|process| process.tally);
                ensure!(tally == Some(expected), "{tgid}: {tally:?}");
            }
            adds_up(report)
        })?;
        let truth = held.close()?;
        tracer.wait_until(|report| matches_truth(&truth, report, Precision::FULL))
    });
}

#[test]
fn two_tracers_are_both_exact() {
    check("two_tracers_are_both_exact", || {
        let mut first = Tracer::start(&[])?;
        let mut second = Tracer::start(&["--attach", "inet_sock_set_state=raw_tp"])?;
        let truth = run_workload(&["active-close", "--count", "1009", "--netns", "own"])?;
        for tracer in [&mut first, &mut second] {
            tracer.wait_until(|report| matches_truth(&truth, report, Precision::FULL))?;
        }
        // One that ends takes nothing from the other.
        first.stop()?;
        let truth = run_workload(&["passive-close", "--count", "101"])?;
        second.wait_until(|report| matches_truth(&truth, report, Precision::FULL))?;
        second.stop()?;
        Ok(())
    });
}

#[test]
fn the_two_capabilities_that_it_asks_for_are_enough() {
    check("the_two_capabilities_that_it_asks_for_are_enough", || {
        let folder = Folder::new()?;
        let mut command = for_everybody(&folder)?;
        only(&mut command, &[CAP_BPF, CAP_PERFMON]);
        let mut tracer = Tracer::start_by(command, &[], Tracefs::AsItIs)?;
        let truth = run_workload(&["active-close", "--netns", "own"])?;
        tracer.wait_until(|report| matches_truth(&truth, report, Precision::FULL))?;
        tracer.stop()?;
        Ok(())
    });
}

/// portchurn where nobody can start it.
fn for_everybody(folder: &Folder) -> Result<Command> {
    let copy = folder.path().join("portchurn");
    std::fs::copy(portchurn()?, &copy).context("copy portchurn")?;
    for path in [folder.path(), &copy] {
        std::fs::set_permissions(path, Permissions::from_mode(0o755)).context("let others in")?;
    }
    Ok(Command::new(&copy))
}

#[test]
fn where_maps_are_charged_to_locked_memory_too_little_of_it_is_named() {
    check_where_possible("where_maps_are_charged_to_locked_memory_too_little_of_it_is_named", || {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").context("read the release")?;
        if !release.starts_with("5.10.") {
            return Err(skip(format!("{} does not charge maps to it", release.trim())));
        }
        let folder = Folder::new()?;
        let mut command = for_everybody(&folder)?;
        only_with_little_memory(&mut command, &[CAP_BPF, CAP_PERFMON]);
        bound(command.args(["top", "--once"]));
        let output = command.output().context("run portchurn")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(4), "{}: {said}", output.status);
        ensure!(said.contains("locked memory") && said.contains("ulimit -l unlimited"), "{said}");
        Ok(())
    });
}

#[test]
fn kill_nine_leaves_nothing_behind() {
    check("kill_nine_leaves_nothing_behind", || {
        let tracer = Tracer::start(&[])?;
        let held = held_by(tracer.pid())?;
        for kind in ["prog_id", "map_id", "link_id"] {
            ensure!(held.iter().any(|object| object.kind() == kind), "it holds no {kind}: {held:?}");
        }
        tracer.kill()?;
        // The kernel frees them a moment after the last holder is gone.
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let mut left: Vec<Object> = Vec::new();
            for object in &held {
                if object.exists()? {
                    left.push(*object);
                }
            }
            if left.is_empty() {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "left behind: {left:?}");
            std::thread::yield_now();
        }
    });
}

#[test]
fn ctrl_c_prints_the_summary_and_ends_well() {
    check("ctrl_c_prints_the_summary_and_ends_well", || {
        let mut tracer = Tracer::start(&[])?;
        let truth = run_workload(&["active-close"])?;
        tracer.wait_until(|report| matches_truth(&truth, report, Precision::FULL))?;
        let summary = tracer.stop()?;
        // An emulated processor may have kept a change from every program.
        let lost = if is_guest() { " lost, " } else { "0 lost" };
        for word in ["opened", "closed", "still open", lost] {
            ensure!(summary.contains(word), "the summary lacks '{word}': {summary}");
        }
        Ok(())
    });
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    check("a_reader_that_goes_away_ends_it_quietly", || {
        // Fails as the other tests do where a tracer cannot run.
        Tracer::start(&[])?.stop()?;
        for format in ["table", "jsonl", "csv"] {
            let mut child = Command::new(portchurn()?)
                .args(["top", "-b", "-i", "200ms", "-o", format])
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .context("start portchurn")?;
            let mut line = String::new();
            BufReader::new(child.stdout.take().context("a pipe was asked for")?)
                .read_line(&mut line)
                .context("read one line")?;
            ensure!(!line.is_empty(), "{format}: it printed nothing");
            // The pipe is closed now, as by `head -1`.
            let output = child.wait_with_output().context("wait for portchurn")?;
            let complaint = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "{format}: {}: {complaint}", output.status);
            let is_quiet = !complaint.to_lowercase().contains("pipe") && !complaint.contains("panicked");
            ensure!(is_quiet, "{format}: {complaint}");
        }
        Ok(())
    });
}

/// The first signal waits for whoever reads the output.
#[test]
fn the_second_ctrl_c_ends_it_also_while_nobody_reads() {
    check("the_second_ctrl_c_ends_it_also_while_nobody_reads", || {
        // Fails as the other tests do where a tracer cannot run.
        Tracer::start(&[])?.stop()?;
        let mut command = Command::new(portchurn()?);
        command.args(["top", "-b", "-i", "10ms", "-o", "jsonl"]).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        bound(&mut command);
        let mut child = command.spawn().context("start portchurn")?;
        let (pid, path) = (Pid::from_child(&child), format!("/proc/{}/syscall", child.id()));
        let is_writing = || -> Result<bool> {
            let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
            let mut words = text.split_whitespace();
            Ok(words.next() == Some(&libc::SYS_write.to_string()) && words.next() == Some("0x1"))
        };
        // Full is the pipe when it waits for the same word twice.
        let mut times = 0;
        while times < 5 {
            std::thread::sleep(Duration::from_millis(20));
            times = if is_writing()? { times + 1 } else { 0 };
        }
        kill_process(pid, Signal::INT).context("send a signal to portchurn")?;
        kill_process(pid, Signal::INT).context("send a signal to portchurn")?;
        // Two that come at once may be one.
        while child.try_wait().context("wait for portchurn")?.is_none() {
            std::thread::sleep(Duration::from_millis(20));
            let _ = kill_process(pid, Signal::INT);
        }
        let status = child.wait().context("wait for portchurn")?;
        ensure!(status.code() == Some(128 + libc::SIGINT), "{status}");
        Ok(())
    });
}

#[test]
fn a_count_of_refreshes_is_kept() {
    check("a_count_of_refreshes_is_kept", || {
        let mut tracer = Tracer::start(&["-n", "3"])?;
        tracer.advance()?;
        tracer.advance()?;
        ensure!(tracer.advance().is_err(), "a fourth object came");
        tracer.finish()?;
        Ok(())
    });
}

/// Listeners at a time, and how many times.
const LISTENERS: (usize, usize) = (8, 6);

/// Test servers, debug ports: their keys must not stay behind.
#[test]
fn listeners_that_nobody_calls_are_taken_back() {
    check("listeners_that_nobody_calls_are_taken_back", || {
        let cable = Cable::new(&[])?;
        let mut tracer = Tracer::start(&["--netns", &cable.client, "--max-keys", "16"])?;
        for _ in 0..LISTENERS.1 {
            let ports = (0..LISTENERS.0).map(|at| format!("10.77.0.1:{}", 7000 + at));
            let servers: Vec<_> =
                ports.map(|address| cable.server_in(&cable.client, &address)).collect::<Result<_>>()?;
            tracer.advance()?;
            drop(servers);
            // Noticed, taken out, taken back.
            for _ in 0..4 {
                tracer.advance()?;
            }
        }
        let _server = cable.server_in(&cable.client, "10.77.0.1:7000")?;
        let client =
            cable.churn(&cable.client, &["connect", "10.77.0.1:7000", "7", "0", "stay"], &[])?.outcome()?;
        tracer.wait_until(|report| {
            let opened: u64 = report.processes_of(client.pid).map(|process| process.tally.opened).sum();
            ensure!(opened == 7, "{opened} opened");
            ensure!(report.lost.by_reason["keys_full"] == Some(0), "{:?}", report.lost);
            Ok(())
        })?;
        tracer.stop()?;
        Ok(())
    });
}
