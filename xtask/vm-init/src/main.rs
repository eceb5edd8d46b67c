//! First process of a guest of `cargo xtask vm`: makes the system usable, runs the plan's tests, says the results on the
//! result port, powers off. Must not run anywhere but as process 1, and must never end by itself: the kernel would panic.

mod machine;
mod mounts;
mod program;
mod results;
mod runner;
mod shell;

use std::fs;

use anyhow::{Context as _, Result, ensure};
use vm_init::frame::Frame;
use vm_init::plan::{PATH, Plan};

use crate::machine::note;
use crate::results::Results;

fn main() {
    if std::process::id() != 1 {
        note("vm-init: only the first process of a guest may run this");
        std::process::exit(2);
    }
    if let Err(error) = run() {
        note(&format!("vm-init: error: {error:#}"));
    }
    machine::power_off();
}

fn run() -> Result<()> {
    mounts::devices()?;
    let plan = fs::read_to_string(PATH).with_context(|| format!("read {PATH}"))?;
    let plan = Plan::parse(&plan)?;
    let mut results = Results::open(&plan.results)?;
    let outcome = work(&plan, &mut results);
    if let Err(error) = &outcome {
        results.send(&Frame::Error(format!("{error:#}")))?;
    }
    results.drain();
    outcome
}

fn work(plan: &Plan, results: &mut Results) -> Result<()> {
    mounts::kernel()?;
    for module in &plan.modules {
        machine::load_module(module)?;
    }
    machine::loopback_up()?;
    machine::make_room_for_time_wait()?;
    if plan.host_root {
        mounts::host_root()?;
    } else {
        mounts::scratch()?;
    }
    if plan.shell {
        return shell::run(&plan.console, &plan.environment);
    }
    ensure!(!plan.programs.is_empty(), "the plan names no program");
    let counts = runner::run(plan, results)?;
    results.send(&Frame::Done(counts))
}
