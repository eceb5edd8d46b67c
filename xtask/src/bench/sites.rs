//! What lines of code cost: the same load untraced, with `--stack off` and with stacks, in turns, from a loop in Python, from one
//! in compiled code, and from one whose connects are all refused. What is compared are the sides of one round.

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::load::{self, Load, Program};
use super::report::{fastest, row, spread_row};
use super::stats::{Spread, spread};
use super::tracer::{Kind, Tracer};
use super::{Agent, Plan};

/// `--stack` of each; the first is without portchurn.
const MODES: [&str; 4] = ["untraced", "off", "native", "auto"];
const UNTRACED: usize = 0;
const OFF: usize = 1;

/// One round of each mode.
#[derive(Default, Serialize)]
struct Round {
    /// CPU of the load per connection, in the order of [`MODES`]. Microseconds.
    cpu_us: [f64; MODES.len()],
    /// The same for each batch.
    #[serde(skip)]
    batches_us: [Vec<f64>; MODES.len()],
    /// CPU of portchurn, of one processor.
    agent_cpu_ratio: [f64; MODES.len()],
    /// What portchurn's counts lack, and what it counted under no line.
    missed: [u64; MODES.len()],
}

/// All rounds of one load.
#[derive(Serialize)]
pub(crate) struct Series {
    load: Program,
    rounds: Vec<Round>,
}

/// Runs all of them.
pub(crate) fn measure(plan: &Plan, extra: &[String]) -> Result<Vec<Series>> {
    let mut all = Vec::new();
    for program in [Program::Python, Program::Native, Program::Refused] {
        if !program.is_here() {
            eprintln!("bench: no Python here, so none is measured");
            continue;
        }
        eprintln!("bench: call sites, {}: warm-up", program.name());
        load::run(program, plan.cycles, plan.cpu)?;
        let mut rounds = Vec::new();
        for pair in 1..=plan.pairs {
            rounds.push(round(plan, extra, program, pair % 2 == 0)?);
            eprintln!(
                "bench: call sites, {}, {pair}/{}: {}",
                program.name(),
                plan.pairs,
                rounds[pair - 1].line()
            );
        }
        all.push(Series { load: program, rounds });
    }
    Ok(all)
}

/// One run in each mode, perhaps backwards, so that what changes slowly favours nobody.
fn round(plan: &Plan, extra: &[String], program: Program, backwards: bool) -> Result<Round> {
    let mut round = Round::default();
    let mut turns: Vec<_> = (0..MODES.len()).collect();
    if backwards {
        turns.reverse();
    }
    for turn in turns {
        if turn == UNTRACED {
            round.note(turn, &load::run(program, plan.cycles, plan.cpu)?);
            continue;
        }
        let kind = Kind::portchurn(plan.portchurn.clone(), MODES[turn], extra);
        let (load, agent, counted) = traced(&kind, plan, program)?;
        round.note(turn, &load);
        round.agent_cpu_ratio[turn] = agent.cpu_ratio;
        round.missed[turn] = kind.expects(&load).saturating_sub(counted);
    }
    Ok(round)
}

fn traced(kind: &Kind, plan: &Plan, program: Program) -> Result<(Load, Agent, u64)> {
    let mut tracer = Tracer::start(kind)?;
    let at = tracer.usage()?;
    let load = load::run(program, plan.cycles, plan.cpu)?;
    let agent = Agent::between(&at, &tracer.usage()?);
    tracer.wait_for_count(&load);
    let (counted, _) = tracer.stop_and_count(&load)?;
    Ok((load, agent, counted))
}

impl Round {
    fn note(&mut self, turn: usize, load: &Load) {
        self.cpu_us[turn] = load.cpu_us_per_cycle();
        self.batches_us[turn] = load.batches_us_per_cycle().collect();
    }

    fn line(&self) -> String {
        let [untraced, with @ ..] = self.cpu_us;
        let more: Vec<_> =
            MODES[OFF..].iter().zip(with).map(|(mode, us)| format!("{mode} {:+.2}", us - untraced)).collect();
        format!("untraced {untraced:.2} µs, {}", more.join(", "))
    }
}

impl Series {
    fn spread(&self, value: impl Fn(&Round) -> f64) -> Result<Spread> {
        spread(self.rounds.iter().map(value)).context("no rounds")
    }

    fn fastest(&self) -> Result<[f64; MODES.len()]> {
        let mut all = [0.0; MODES.len()];
        for (mode, us) in all.iter_mut().enumerate() {
            *us = fastest(self.rounds.iter().flat_map(|round| &round.batches_us[mode]))?;
        }
        Ok(all)
    }

    /// Prints the rows.
    pub(crate) fn print(&self) -> Result<()> {
        println!("\n{:<34}{:>10}   quartiles", format!("call sites, {}", self.load.name()), "median");
        for (mode, name) in MODES.iter().enumerate() {
            let label = format!("  CPU per connection, {name}, µs");
            spread_row(&label, self.spread(|round| round.cpu_us[mode])?, 1.0, 2);
        }
        for (mode, name) in MODES.iter().enumerate().skip(OFF) {
            let label = format!("  {name} minus untraced, µs");
            spread_row(&label, self.spread(|round| round.cpu_us[mode] - round.cpu_us[UNTRACED])?, 1.0, 2);
        }
        for (mode, name) in MODES.iter().enumerate().skip(OFF + 1) {
            let label = format!("  {name} minus off, µs");
            spread_row(&label, self.spread(|round| round.cpu_us[mode] - round.cpu_us[OFF])?, 1.0, 2);
            let label = format!("  agent CPU, {name}, % of one");
            spread_row(&label, self.spread(|round| round.agent_cpu_ratio[mode])?, 100.0, 2);
        }
        let [untraced, with @ ..] = self.fastest()?;
        for (mode, us) in MODES[OFF..].iter().zip(with) {
            let label = format!("  fastest tenths: {mode} − untraced, µs");
            row(&label, &format!("{:.2}", us - untraced), &format!("{untraced:.2} → {us:.2} µs"));
        }
        let missed: u64 = self.rounds.iter().flat_map(|round| round.missed).sum();
        row("  missing from the counts", &missed.to_string(), self.load.moments());
        Ok(())
    }
}
