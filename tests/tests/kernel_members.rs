//! Kernels whose types lack one member of a structure, each in turn: what only it tells is not told, what cannot be told
//! without it is said, and everything else is counted as always. Needs the privileges of a tracer.

use anyhow::{Context as _, Result, ensure};
use portchurn_tests::harness::compare::Precision;
use portchurn_tests::harness::counted::all_counted;
use portchurn_tests::harness::mounts::Tracefs;
use portchurn_tests::harness::programs::{offered_instead, run_portchurn};
use portchurn_tests::harness::tracer::Tracer;
use portchurn_tests::harness::{check, is_guest, skip};

const SPINE: &str = "inet_sock_set_state";

/// Opens and accepts, closes by each side and by the process's end, and failures with and without a port.
const WORKLOADS: &[&[&str]] = &[
    &["active-close", "--netns", "own"],
    &["refused"],
    &["no-port-left", "--count", "22", "--netns", "own"],
    &["process-exit"],
];

/// What is not known without a member.
fn precision_without(member: &str) -> Precision {
    match member {
        "sock.sk_err" => Precision { errno: false, ..Precision::FULL },
        "task_struct.flags" => Precision { exiting: false, ..Precision::FULL },
        "sock.__sk_common.skc_net.net" | "net.ns.inum" => Precision { netns: false, ..Precision::FULL },
        "task_struct.mm" | "mm_struct.arg_start" | "mm_struct.arg_end" => {
            Precision { argv: false, ..Precision::FULL }
        }
        _ => Precision::FULL,
    }
}

#[test]
fn without_a_member_all_else_is_counted() {
    check("without_a_member_all_else_is_counted", || {
        if is_guest() {
            return Err(skip("sixty starts take longer in an emulated guest than a test may"));
        }
        let best = {
            let tracer = Tracer::start(&[])?;
            let tier = tracer.latest.attached(SPINE).to_owned();
            tracer.stop()?;
            tier
        };
        if best == "tracepoint" {
            return Err(skip("this kernel has no types to hide a member of"));
        }
        let (mut without_types, mut others) = (Vec::new(), Vec::new());
        for member in offered_instead("--no-member", "no.such")? {
            let list = if is_needed_for_types(&member)? { &mut without_types } else { &mut others };
            list.push(member);
        }
        ensure!(without_types.len() >= 5, "addresses, ports and the protocol: {without_types:?}");
        ensure!(others.len() > without_types.len(), "a socket can be read without most: {without_types:?}");
        // They are all the same: no socket can be read.
        for member in without_types.iter().take(1).chain(&others) {
            counts_without(member, &best).with_context(|| format!("without {member}"))?;
        }
        Ok(())
    });
}

/// Hooks that can do nothing without a member.
const REFUSED: &[(&str, &str)] = &[
    ("task_struct.signal", "sched_process_exit"),
    ("signal_struct.live", "sched_process_exit"),
    ("task_struct.tgid", "sched_process_fork"),
];

/// Whether all is as without types when this member is missing. That is said, and so it is of a hook that is of no use then.
fn is_needed_for_types(member: &str) -> Result<bool> {
    let output = run_portchurn(["check", "-o", "json", "--no-member", member])?;
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).context("understand check")?;
    let hooks = said["hooks"].as_array().context("no hooks")?;
    let look = |name: &str| -> Result<(&str, &str)> {
        let hook = hooks.iter().find(|hook| hook["name"] == name).context("it is not in the list")?;
        Ok((hook["attached"].as_str().context("no way")?, hook["reason"].as_str().unwrap_or_default()))
    };
    for (_, name) in REFUSED.iter().filter(|(missing, _)| *missing == member) {
        let (attached, reason) = look(name)?;
        ensure!(
            attached == "none" && reason.contains(member),
            "{name} without {member}: {attached}: {reason}"
        );
    }
    let (attached, reason) = look(SPINE)?;
    let is_needed = !["tp_btf", "raw_tp"].contains(&attached);
    ensure!(!is_needed || reason.contains(member), "without {member} nobody says what is missing: {reason}");
    Ok(is_needed)
}

/// All counts are exact, whatever is missing.
fn counts_without(member: &str, best: &str) -> Result<()> {
    all_counted(WORKLOADS, &["--no-member", member], Tracefs::Mounted, |report| {
        let tier = report.attached(SPINE);
        if tier == "tracepoint" {
            return Ok(Precision::NO_TYPES);
        }
        ensure!(tier == best, "{SPINE} is attached by {tier}, not by {best}");
        Ok(precision_without(member))
    })
}
