//! Runs the plan: every test of every program in a process of its own, so that one that hangs or dies takes no other with
//! it and its result is its exit code. Must not run two at a time.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use vm_init::frame::{Counts, Exit, Frame, Outcome, skip_reason};
use vm_init::plan::Plan;

use crate::machine::{end_all_others, note};
use crate::program;
use crate::results::Results;

/// Listing tests does nothing but print.
const LIST_LIMIT: Duration = Duration::from_secs(30);

/// Runs everything.
pub(crate) fn run(plan: &Plan, results: &mut Results) -> Result<Counts> {
    let mut counts = Counts::default();
    for (name, path) in &plan.programs {
        for test in list(plan, path)? {
            let mut command = command(plan, path);
            command.args(["--exact", &test, "--nocapture", "--test-threads=1"]);
            command.args(plan.arguments.iter().filter(|argument| selects_ignored(argument)));
            counts.add(one(plan, &format!("{name}::{test}"), command, results)?);
        }
    }
    Ok(counts)
}

fn one(plan: &Plan, name: &str, command: Command, results: &mut Results) -> Result<Outcome> {
    note(&format!("vm-init: {name}"));
    results.send(&Frame::Begin(name.to_owned()))?;
    let started = Instant::now();
    let mut said_skip = false;
    let exit = program::run(command, Duration::from_secs(plan.test_limit_s), |line| {
        said_skip |= skip_reason(&line).is_some();
        results.send(&Frame::Line(line))
    })?;
    end_all_others();
    let took_ms = started.elapsed().as_millis() as u64;
    results.send(&Frame::End { name: name.to_owned(), exit, took_ms })?;
    Ok(Outcome::judge(exit, said_skip))
}

fn list(plan: &Plan, path: &str) -> Result<Vec<String>> {
    let mut command = command(plan, path);
    command.args(["--list", "--format", "terse"]).args(&plan.arguments);
    let mut lines = Vec::new();
    let exit = program::run(command, LIST_LIMIT, |line| {
        lines.push(line);
        Ok(())
    })
    .with_context(|| format!("list the tests of {path}"))?;
    ensure!(exit == Exit::Code(0), "{path} --list ended with {exit}: {}", lines.join(" / "));
    Ok(lines.iter().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
}

fn command(plan: &Plan, path: &str) -> Command {
    let mut command = Command::new(path);
    command.current_dir("/tmp").env_clear();
    command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    command.envs([("HOME", "/tmp"), ("TERM", "dumb"), ("RUST_BACKTRACE", "1")]);
    command.envs(plan.environment.iter().map(|(key, value)| (key, value)));
    command
}

fn selects_ignored(argument: &str) -> bool {
    matches!(argument, "--ignored" | "--include-ignored")
}
