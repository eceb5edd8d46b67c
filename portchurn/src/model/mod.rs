//! The pure core: [`sample::Sample`] in, [`snapshot::Snapshot`] out. No clock, no input or output, no aya, no tokio.
//! Time comes inside the samples, so live data and a recording go the same way.

use std::collections::BTreeMap;

use portchurn_common::loss::Loss;
use portchurn_common::stack::At;

use crate::model::budget::{Exhaustion, Pressure};
use crate::model::churn::View;
use crate::model::culprit::Rules;
use crate::model::exhaustion::Exhaustions;
use crate::model::ledger::Ledger;
use crate::model::names::Names;
use crate::model::ports::Ports;
use crate::model::rates::Rates;
use crate::model::sample::{OwnCost, ProcessId, Sample};
use crate::model::scope::Scope;
use crate::model::snapshot::{CallSite, HookState, Lost, SCHEMA_VERSION, Snapshot};
use crate::model::who::CodeLine;

pub mod absence;
pub mod budget;
pub mod call_site;
pub mod churn;
pub mod columns;
pub mod culprit;
pub mod destination;
pub mod event;
pub mod exhaustion;
pub mod forecast;
pub mod held;
pub mod host_names;
pub mod ledger;
pub mod lists;
pub mod names;
pub mod pools;
pub mod ports;
pub mod program;
pub mod rates;
pub mod recycling;
pub mod reuse;
pub mod row;
pub mod sample;
pub mod scope;
pub mod site;
pub mod snapshot;
pub mod sockets;
pub mod stacks;
pub mod timewait;
pub mod waiting;
pub mod who;

/// What does not change while portchurn runs.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// Release of the kernel.
    pub kernel: String,
    /// What is attached.
    pub hooks: Vec<HookState>,
    /// Whether the kernel tells the error of a socket.
    pub knows_errors: bool,
    /// Whether call sites are taken.
    pub takes_stacks: bool,
    /// Whose frames are the application's.
    pub culprits: Rules,
    /// What is counted.
    pub scope: Scope,
    /// When the attach was complete. Nanoseconds, CLOCK_MONOTONIC.
    pub attached_ns: u64,
}

impl Context {
    /// What was lost, as far as it can be known.
    fn lost(&self, by_reason: &[u64; Loss::COUNT]) -> Lost {
        let is_counted = |loss| loss != Loss::Nested || self.counts_skips();
        let known = |loss: Loss| is_counted(loss).then_some(by_reason[loss as usize]);
        let by_reason: BTreeMap<_, _> =
            Loss::ALL.into_iter().map(|loss| (loss.name(), known(loss))).collect();
        Lost { total: by_reason.values().flatten().sum(), by_reason }
    }

    /// Whether the kernel counts the state changes that it skips.
    fn counts_skips(&self) -> bool {
        self.hooks.iter().filter(|hook| hook.required).all(|hook| hook.skips_counted != Some(false))
    }

    /// Whether a `bind()` that finds no port is seen.
    fn sees_binds(&self) -> bool {
        self.hooks.iter().any(|hook| hook.name == "inet_csk_get_port" && hook.attached != "none")
    }
}

/// Samples in, snapshots out.
#[derive(Debug)]
pub struct Model {
    context: Context,
    ledger: Ledger,
    names: Names,
    rates: Rates,
    time_wait: timewait::Ledger,
    ports: Ports,
    exhaustions: Exhaustions,
    last_ns: u64,
    /// When the window began, and whether it is over: then the next sample begins another.
    window_ns: u64,
    window_is_over: bool,
    lost: [u64; Loss::COUNT],
    own_cost: OwnCost,
}

impl Model {
    /// Nothing seen yet.
    pub fn new(context: Context) -> Self {
        let last_ns = context.attached_ns;
        Self {
            context,
            ledger: Ledger::default(),
            names: Names::default(),
            rates: Rates::default(),
            time_wait: timewait::Ledger::default(),
            ports: Ports::default(),
            exhaustions: Exhaustions::default(),
            last_ns,
            window_ns: last_ns,
            window_is_over: true,
            lost: [0; Loss::COUNT],
            own_cost: OwnCost::default(),
        }
    }

    /// Takes a sample in with which a window is over.
    pub fn apply(&mut self, sample: &Sample) {
        self.carry_on(sample);
        self.window_is_over = true;
    }

    /// Takes a sample in with which the window goes on: who shows one in a minute must not wait so long for what ended in it.
    pub fn carry_on(&mut self, sample: &Sample) {
        let begins_window = std::mem::take(&mut self.window_is_over);
        if begins_window {
            self.window_ns = self.last_ns;
        }
        let interval_ns = sample.at_ns.saturating_sub(self.last_ns);
        self.last_ns = sample.at_ns;
        self.lost = sample.lost;
        let before = if begins_window { sample.own_cost } else { self.own_cost };
        let share = (seconds(interval_ns) / self.window_s()).min(1.0);
        self.own_cost = sample.own_cost.after(before, share);
        let (exhaustions, time_wait) = (&self.exhaustions, &self.time_wait);
        self.ledger.make_room_for_stacks(|| exhaustions.stack_ids().chain(time_wait.stack_ids()));
        if begins_window {
            self.ledger.apply(sample);
        } else {
            self.ledger.carry_on(sample);
        }
        self.names.apply(sample);
        let after_reading = share_after_reading(sample, interval_ns);
        self.rates.apply(sample, interval_ns, after_reading);
        self.time_wait.apply(sample, &self.rates, &self.names, after_reading);
        self.ports.apply(sample, &self.rates, interval_ns);
        self.exhaustions.apply(sample, &self.ports, &self.names);
    }

    fn window_s(&self) -> f64 {
        seconds(self.last_ns.saturating_sub(self.window_ns))
    }

    /// How many TIME_WAIT there should be by now; `None` before the first reading.
    pub fn expected_time_wait(&self) -> Option<sockets::Expected> {
        self.time_wait.expected()
    }

    /// Counts from here on. What is open stays known, as if portchurn had been attached at this moment.
    pub fn restart(&mut self) {
        self.context.attached_ns = self.last_ns;
        self.ledger.restart();
        self.rates.restart();
        self.exhaustions = Exhaustions::default();
    }

    /// What a process runs, or ran; its arguments; whether it has ended.
    pub fn process(&self, id: ProcessId) -> (Option<String>, Vec<String>, Option<bool>) {
        let argv = self.ledger.process(id).map(|entry| entry.identity.argv.clone()).unwrap_or_default();
        (self.names.program_of(id).map(str::to_owned), argv, self.names.has_ended(id))
    }

    /// Connects that failed because no local port was left, the latest first.
    pub fn exhaustion(&self) -> Vec<Exhaustion> {
        self.exhaustions.snapshot(self.context.attached_ns, self.ledger.stacks(), self.culprits())
    }

    /// Whose frames are the application's; `None`: call sites are not taken.
    fn culprits(&self) -> Option<&Rules> {
        self.context.takes_stacks.then_some(&self.context.culprits)
    }

    /// Where in the code a connection was opened, or closed. `None`: no stack was taken.
    pub fn line_of(&self, stack: u64) -> Option<CodeLine> {
        who::line_of(stack, self.ledger.stacks(), &self.context.culprits)
    }

    /// Where in the code one event happened. `None`: its stack has no name yet; see [`Model::unread_site`].
    pub fn passage(&self, at: At, stack: u64, counted: bool) -> Option<CallSite> {
        site::passage(at, stack, counted, self.ledger.stacks(), &self.context.culprits)
    }

    /// What is said of an event whose stack does not get a name.
    pub fn unread_site(&self, at: At) -> CallSite {
        site::unread(at)
    }

    /// Everything that can be shown, at this moment.
    pub fn snapshot(&self) -> Snapshot {
        let view = View {
            window_s: self.window_s(),
            knows_errors: self.context.knows_errors,
            culprits: self.culprits(),
        };
        let (totals, mut programs) = churn::programs(&self.ledger, view);
        let mut processes = churn::processes(&self.ledger, view);
        let sees_binds = self.context.sees_binds();
        let ports = self.ports.snapshot(&self.rates, &self.names, sees_binds);
        let ports = ports.map(|rows| self.context.scope.applied(rows));
        let pressure = Pressure::of(ports.as_deref().unwrap_or_default());
        programs.iter_mut().for_each(|program| pressure.note(&mut program.destinations));
        processes.iter_mut().for_each(|process| pressure.note(&mut process.destinations));
        Snapshot {
            schema_version: SCHEMA_VERSION,
            kernel: self.context.kernel.clone(),
            window_s: self.window_s(),
            cumulative_s: seconds(self.last_ns.saturating_sub(self.context.attached_ns)),
            hooks: self.context.hooks.clone(),
            totals,
            programs,
            processes,
            time_wait: self.time_wait.snapshot(&self.names, self.ledger.stacks(), self.culprits()),
            ports,
            is_narrow: self.context.scope.is_narrow(),
            exhaustion: self.exhaustion(),
            lost: self.context.lost(&self.lost),
            own_cost: snapshot::OwnCost {
                cpu_ratio: self.own_cost.cpu_ratio,
                rss_bytes: self.own_cost.rss_bytes,
                map_bytes: self.own_cost.map_bytes,
                bpf_ns_per_event: self.own_cost.bpf_ns_per_event,
                bpf_cpu_ratio: self.own_cost.bpf_cpu_ratio,
                stacks_named: self.own_cost.stacks_named,
                naming_p99_us: self.own_cost.naming_p99_us,
                naming_max_us: self.own_cost.naming_max_us,
                stack_effort: self.own_cost.stack_effort,
            },
        }
    }
}

/// Which share of an interval lies after the reading of the socket tables in it: that much of what was counted is not
/// in the reading.
fn share_after_reading(sample: &Sample, interval_ns: u64) -> f64 {
    let Some(reading) = &sample.sockets else { return 1.0 };
    if interval_ns == 0 {
        return 0.0;
    }
    let after_ns = sample.at_ns.saturating_sub(timewait::middle_ns(reading));
    (after_ns as f64 / interval_ns as f64).min(1.0)
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

#[cfg(test)]
#[path = "window_tests.rs"]
mod tests;
