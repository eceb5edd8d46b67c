//! Every hook in every way that it can be attached: each forced in turn, each counting the same known connections to the
//! same exact numbers. A way that this kernel cannot give is skipped with the kernel's reason, but only where something
//! else than portchurn says so, too. Needs the privileges of a tracer.

use std::io::{Write as _, stderr};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use portchurn_tests::harness::compare::{Precision, matches_truth};
use portchurn_tests::harness::lacks::kernel_lacks;
use portchurn_tests::harness::mounts::Tracefs;
use portchurn_tests::harness::programs::{
    Held, complaint, offered_instead, portchurn, run_portchurn, run_workload,
};
use portchurn_tests::harness::report::Report;
use portchurn_tests::harness::run_counts::{self, Counting};
use portchurn_tests::harness::tracer::Tracer;
use portchurn_tests::harness::{Skip, check, check_where_possible, skip};
use serde::Deserialize;

/// Hooks with their ways, best first. portchurn's own list is held to it.
const HOOKS: &[(&str, &[&str])] = &[
    (SPINE, &["tp_btf", "raw_tp", "tracepoint"]),
    (TIME_WAIT, &["fentry", "kprobe"]),
    ("inet_csk_accept", &["fexit", "kretprobe"]),
    (BINDS, &["fexit", "kretprobe"]),
    ("tcp_connect", &["fentry", "kprobe"]),
    ("sched_process_exec", &["tp_btf", "raw_tp"]),
    ("sched_process_exit", &["tp_btf", "raw_tp"]),
    (FORK, &["tp_btf", "raw_tp"]),
];
/// It counts nothing by itself; `call_sites.rs` holds it to the interpreters' own account.
const CALL_SITES: &str = "call_sites";
const FORK: &str = "sched_process_fork";
const SPINE: &str = "inet_sock_set_state";
const BINDS: &str = "inet_csk_get_port";
const TIME_WAIT: &str = "tcp_time_wait";
/// What only [`TIME_WAIT`] can tell from a close that leaves a TIME_WAIT.
const IN_NO_TIME_WAIT: &[&[&str]] = &[&["impatient"], &["no-room", "--netns", "own"]];
/// What only [`BINDS`] sees.
const IN_VAIN: &[&str] = &["bind-first", "--count", "24", "--netns", "own"];

/// What is made and counted each time: both families, both closers, a failure, an end by the process's end.
const WORKLOADS: &[&[&str]] = &[
    &["active-close", "--count", "101"],
    &["passive-close", "--family", "v6"],
    &["refused", "--count", "29"],
    &["process-exit"],
];

/// How often counting may be tried where the kernel may leave out events.
const ATTEMPTS: u32 = 5;

macro_rules! matrix {
    ($($test:ident: $hook:literal $tier:literal;)*) => {
        $(
            #[test]
            fn $test() {
                check_where_possible(stringify!($test), || tell($hook, $tier, counts_when_forced($hook, $tier)));
            }
        )*

        const TESTED: &[(&str, &str)] = &[$(($hook, $tier)),*];
    };
}

matrix! {
    inet_sock_set_state_by_tp_btf: "inet_sock_set_state" "tp_btf";
    inet_sock_set_state_by_raw_tp: "inet_sock_set_state" "raw_tp";
    inet_sock_set_state_by_tracepoint: "inet_sock_set_state" "tracepoint";
    tcp_time_wait_by_fentry: "tcp_time_wait" "fentry";
    tcp_time_wait_by_kprobe: "tcp_time_wait" "kprobe";
    inet_csk_accept_by_fexit: "inet_csk_accept" "fexit";
    inet_csk_accept_by_kretprobe: "inet_csk_accept" "kretprobe";
    inet_csk_get_port_by_fexit: "inet_csk_get_port" "fexit";
    inet_csk_get_port_by_kretprobe: "inet_csk_get_port" "kretprobe";
    tcp_connect_by_fentry: "tcp_connect" "fentry";
    tcp_connect_by_kprobe: "tcp_connect" "kprobe";
    sched_process_exec_by_tp_btf: "sched_process_exec" "tp_btf";
    sched_process_exec_by_raw_tp: "sched_process_exec" "raw_tp";
    sched_process_exit_by_tp_btf: "sched_process_exit" "tp_btf";
    sched_process_exit_by_raw_tp: "sched_process_exit" "raw_tp";
    sched_process_fork_by_tp_btf: "sched_process_fork" "tp_btf";
    sched_process_fork_by_raw_tp: "sched_process_fork" "raw_tp";
}

#[test]
fn every_hook_of_portchurn_is_in_the_matrix_in_every_way_it_has() {
    check("every_hook_of_portchurn_is_in_the_matrix_in_every_way_it_has", || {
        let mut known: Vec<_> = HOOKS.iter().map(|(hook, _)| (*hook).to_owned()).collect();
        known.push(CALL_SITES.to_owned());
        let mut hooks = offered_instead("--attach", "no-such-hook=none")?;
        hooks.sort_unstable();
        known.sort_unstable();
        ensure!(hooks == known, "hooks: {hooks:?}");
        for (hook, tiers) in HOOKS {
            let mut has = offered_instead("--attach", &format!("{hook}=no-such-tier"))?;
            ensure!(has.pop().as_deref() == Some("none"), "{hook} cannot be left out");
            ensure!(has == *tiers, "{hook} has {has:?}, not {tiers:?}");
            for tier in *tiers {
                ensure!(TESTED.contains(&(hook, tier)), "no test of {hook} by {tier}");
            }
        }
        Ok(())
    });
}

#[test]
fn the_best_way_that_works_is_chosen() {
    check("the_best_way_that_works_is_chosen", || {
        let tracer = Tracer::start(&[])?;
        // Without lines of code nobody is interested in forks.
        let mut ways: Vec<_> = HOOKS.iter().copied().filter(|(hook, _)| *hook != FORK).collect();
        // All at once, as each question takes as long as a start: whoever is refused goes on to its next way.
        let first = |(hook, tiers): &(&'static str, &[&'static str])| Some((*hook, *tiers.first()?));
        while let Some(said) = refusal(&ways.iter().filter_map(first).collect::<Vec<_>>())? {
            let at = ways.iter().position(|(hook, _)| said.starts_with(&format!("attach {hook}: ")));
            // What cannot be left out has words of its own.
            let at = at.or_else(|| said.contains("TCP state program").then_some(0));
            let (hook, tiers) = &mut ways[at.with_context(|| said.clone())?];
            *tiers = tiers.get(1..).with_context(|| format!("{hook} has no way left: {said}"))?;
        }
        for (hook, tiers) in ways {
            let (chosen, best) = (tracer.latest.attached(hook), tiers.first().copied().unwrap_or("none"));
            ensure!(chosen == best, "{hook} is attached by {chosen}, but {best} works");
        }
        tracer.stop().map(drop)
    });
}

#[test]
fn without_types_the_classic_tracepoint_serves() {
    check("without_types_the_classic_tracepoint_serves", || {
        let outcome = || {
            let (tracer, _) = counted(&["--no-btf"], Tracefs::Mounted, Precision::NO_TYPES)?;
            let chosen = tracer.latest.attached(SPINE).to_owned();
            ensure!(chosen == "tracepoint", "{SPINE} is attached by {chosen}");
            tracer.stop()
        };
        tell("no-btf", "tracepoint", outcome().map(|_| 0))
    });
}

#[test]
fn check_names_every_hook_and_gives_a_reason_for_each_that_is_not_attached() {
    check("check_names_every_hook_and_gives_a_reason_for_each_that_is_not_attached", || {
        let output = run_portchurn(["check"])?;
        let text = String::from_utf8(output.stdout).context("read what check says")?;
        stderr().write_all(text.as_bytes()).context("show what check says")?;
        for hook in HOOKS.iter().map(|(hook, _)| *hook).chain([CALL_SITES]) {
            let mut lines = text.lines().skip_while(|line| line.split_whitespace().nth(1) != Some(hook));
            let line = lines.next().with_context(|| format!("{hook} is not named"))?;
            let is_explained =
                lines.take_while(|line| line.starts_with(' ')).any(|line| line.contains("why:"));
            ensure!(!line.ends_with(" none") || is_explained, "{hook} is not attached, and nobody says why");
        }
        tell_the_choice()
    });
}

#[test]
fn without_its_hook_time_wait_is_inferred() {
    check("without_its_hook_time_wait_is_inferred", || {
        let (mut tracer, _) = counted(&["--attach=tcp_time_wait=none"], Tracefs::AsItIs, Precision::FULL)?;
        ensure!(tracer.latest.attached(TIME_WAIT) == "none", "it is attached although it was left out");
        tells_ends_apart(&mut tracer)?;
        tracer.stop().map(drop)
    });
}

/// Says for machines how each hook is attached without anybody's choice, and why not better.
fn tell_the_choice() -> Result<()> {
    let found: Checked = serde_json::from_slice(&run_portchurn(["check", "-o", "json"])?.stdout)
        .context("understand check")?;
    for hook in found.hooks {
        let reason = hook.reason.unwrap_or_default().replace('\n', " ");
        let outcome = match hook.attached.as_str() {
            "none" => format!("unavailable {reason}"),
            tier if reason.is_empty() => format!("works {tier}"),
            tier => format!("works {tier}; {reason}"),
        };
        let line = format!("\nMATRIX {} automatic {outcome}\n", hook.name);
        stderr().write_all(line.as_bytes()).context("tell the choice")?;
    }
    Ok(())
}

/// Attaches a hook in one way, and counts. A refusal is looked into only where there is one: to load everything twice takes
/// an emulated processor as long as the rest.
fn counts_when_forced(hook: &str, tier: &str) -> Result<u64> {
    counts_by(hook, tier).or_else(|error| match refusal(&[(hook, tier)])? {
        Some(said) => match kernel_lacks(tier, &said) {
            Some(reason) => Err(skip(reason)),
            None => bail!("{hook} cannot be attached by {tier}: {said}"),
        },
        // Whatever it was: it was no refusal, and nothing to be skipped.
        None => bail!("{error:#}"),
    })
}

/// Attaches a hook in one way; how often the kernel has run its program, once all counts were right.
fn counts_by(hook: &str, tier: &str) -> Result<u64> {
    let _counting = Counting::start()?;
    let forced = format!("--attach={hook}={tier}");
    let mut arguments = vec![forced.as_str()];
    // The kernel keeps so little of a name that these two have the same.
    match hook {
        "sched_process_exec" => arguments.push("--attach=sched_process_exit=none"),
        "sched_process_exit" => arguments.push("--attach=sched_process_exec=none"),
        FORK => arguments.extend(["--stack", "auto"]),
        _ => {}
    }
    let (tracer, made) = counted(&arguments, tracefs_for(tier), Precision::FULL)?;
    let attached = tracer.latest.attached(hook);
    ensure!(attached == tier, "{hook} is attached by {attached}, although {tier} was forced");
    let mut tracer = tracer;
    if hook == BINDS {
        let truth = run_workload(IN_VAIN)?;
        tracer
            .wait_until(|report| matches_truth(&truth, report, Precision::FULL))
            .context("binds in vain")?;
        // Whose a socket is, its cookie proves; where there are none, nobody is named.
        if tracer.latest.attached(SPINE) == "tp_btf" {
            holders_are_named(&mut tracer).context("who holds the ports")?;
        }
    }
    if hook == TIME_WAIT {
        tells_ends_apart(&mut tracer)?;
    }
    let least = made.least_runs(hook);
    let runs = run_counts::of_programs(tracer.pid(), hook)?;
    // The counts are right also without a run that the kernel left out.
    let left_out = run_counts::left_out(tracer.pid())?.unwrap_or(0);
    ensure!(
        runs + left_out >= least,
        "the program of {hook} ran {runs} times, {left_out} runs were left out; what was made takes {least}"
    );
    tracer.stop()?;
    Ok(runs)
}

/// Whether it counts what really left a TIME_WAIT, or, without the hook, what by its states should have.
fn tells_ends_apart(tracer: &mut Tracer) -> Result<()> {
    for workload in IN_NO_TIME_WAIT {
        let truth = run_workload(workload)?;
        let sum = truth.sum();
        ensure!(sum.time_wait() < sum.time_wait_by_kind(), "the hook makes no difference: {sum:?}");
        tracer
            .wait_until(|report| matches_truth(&truth, report, Precision::FULL))
            .with_context(|| workload.join(" "))?;
    }
    Ok(())
}

/// One process binds and connects until no port is left: the record of it names that process, on both sides.
fn holders_are_named(tracer: &mut Tracer) -> Result<()> {
    let held = Held::open("bind-and-hold", &["--count", "24", "--netns", "own"])?;
    let pid = held.client;
    tracer.wait_until(|report| {
        let mut failures =
            report.exhaustion.as_array().into_iter().flatten().flat_map(|event| {
                event["failed"].as_array().into_iter().flatten().map(move |by| (event, by))
            });
        // The number of the namespace, and with it the record, may have been the workload's before.
        let (event, by) = failures.find(|(_, by)| by["tgid"] == pid).context("no record of it")?;
        ensure!(event["errno"] == "EADDRINUSE" && by["count"] == 7, "{event}");
        ensure!(event["holders"][0]["tgid"] == pid && event["holders"][0]["ports"] == 24, "{event}");
        Ok(())
    })?;
    held.close().map(drop)
}

/// What the workloads made.
#[derive(Default)]
struct Made {
    connects: u64,
    accepts: u64,
    time_waits: u64,
    processes: u64,
}

impl Made {
    /// How often a hook must have been run, at least.
    fn least_runs(&self, hook: &str) -> u64 {
        match hook {
            // Each connection comes and goes at both ends.
            SPINE => self.connects + self.accepts,
            "inet_csk_accept" => self.accepts,
            "tcp_connect" => self.connects,
            TIME_WAIT => self.time_waits,
            _ => self.processes,
        }
    }
}

/// A tracer that has counted workloads, the last one among them, to the exact numbers, and what those made; each was counted so
/// by one. With the classic tracepoint and with kprobes the kernel leaves out an event that comes while it handles another one,
/// which nobody can mend; portchurn must then say that it has lost one, or that this kernel does not count that, and the numbers
/// are held to the truth once more.
fn counted(arguments: &[&str], tracefs: Tracefs, precision: Precision) -> Result<(Tracer, Made)> {
    let (mut left, mut again) = (WORKLOADS, 0);
    loop {
        let mut tracer = Tracer::start_with(arguments, tracefs)?;
        let mut made = Made::default();
        while let Some((workload, rest)) = left.split_first() {
            if !counts(&mut tracer, workload, precision, &mut made)? {
                break;
            }
            (left, again) = (rest, 0);
        }
        if left.is_empty() {
            return Ok((tracer, made));
        }
        again += 1;
        let left_out = tracer.latest.nested();
        tracer.stop()?;
        ensure!(
            again < ATTEMPTS,
            "the kernel left out events {ATTEMPTS} times in a row; of {left_out:?} last"
        );
    }
}

/// Whether a workload was counted. Not where portchurn says that the kernel left out an event, or may have, and it may.
fn counts(tracer: &mut Tracer, workload: &[&str], precision: Precision, made: &mut Made) -> Result<bool> {
    // Of other ways `nested` is an upper bound: there the counts themselves tell.
    let is_guarded = tracer.latest.attached(SPINE) == "tracepoint";
    let has_lost = |report: &Report| is_guarded && report.nested().is_some_and(|count| count > 0);
    let truth = run_workload(workload)?;
    let is_right =
        |report: &Report| if has_lost(report) { Ok(()) } else { matches_truth(&truth, report, precision) };
    let outcome = tracer.wait_until(is_right);
    let left_out = run_counts::left_out(tracer.pid())?;
    let outcome = outcome.with_context(|| format!("{} (runs left out: {left_out:?})", workload.join(" ")));
    if has_lost(&tracer.latest) || outcome.is_err() && tracer.latest.may_miss_events() {
        return Ok(false);
    }
    outcome?;
    made.processes += 1;
    for process in &truth.processes {
        let sum = process.sum();
        made.connects += sum.opened;
        made.accepts += sum.accepted;
        made.time_waits += sum.time_wait();
    }
    Ok(true)
}

/// What portchurn says when a hook of these cannot be attached in its one way; nothing if all can.
fn refusal(forced: &[(&str, &str)]) -> Result<Option<String>> {
    let mut command = Command::new(portchurn()?);
    command.args(["check", "-o", "json", "--stack", "off"]).stdin(Stdio::null());
    for (hook, tier) in forced {
        command.arg(format!("--attach={hook}={tier}"));
        tracefs_for(tier).prepare(&mut command);
    }
    let output = command.output().context("run portchurn check")?;
    let said = complaint(&output)?;
    let found: Checked =
        serde_json::from_slice(&output.stdout).with_context(|| format!("understand check: {said}"))?;
    let is_attached = |(hook, tier): &(&str, &str)| {
        found.hooks.iter().any(|found| found.name == *hook && found.attached == *tier)
    };
    if output.status.success() && forced.iter().all(is_attached) {
        return Ok(None);
    }
    let reasons = found.hooks.into_iter().filter_map(|hook| hook.reason);
    let first_lines: Vec<_> =
        reasons.map(|reason| reason.lines().next().unwrap_or_default().to_owned()).collect();
    Ok(Some(first_lines.join("; ")))
}

/// What `check` says of hooks.
#[derive(Deserialize)]
struct Checked {
    hooks: Vec<CheckedHook>,
}

#[derive(Deserialize)]
struct CheckedHook {
    name: String,
    attached: String,
    reason: Option<String>,
}

fn tracefs_for(tier: &str) -> Tracefs {
    if tier == "tracepoint" { Tracefs::Mounted } else { Tracefs::AsItIs }
}

/// Says the outcome in a line for machines, too: the table of support is made from them.
fn tell(hook: &str, tier: &str, outcome: Result<u64>) -> Result<()> {
    let line = match &outcome {
        Ok(runs) => format!("works runs={runs}"),
        Err(error) if error.is::<Skip>() => format!("unavailable {error}"),
        Err(error) => format!("failed {}", format!("{error:#}").lines().next().unwrap_or_default()),
    };
    // Past libtest's capture, as with a skip.
    let _ = stderr().write_all(format!("\nMATRIX {hook} {tier} {line}\n").as_bytes());
    outcome.map(drop)
}
