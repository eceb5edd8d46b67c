//! The pure core: [`sample::Sample`] in, [`snapshot::Snapshot`] out. No clock, no input or output, no aya, no tokio.
//! Time comes inside the samples, so live data and a recording go the same way.

use std::collections::BTreeMap;

use portchurn_common::loss::Loss;

use crate::model::churn::View;
use crate::model::culprit::Rules;
use crate::model::ledger::Ledger;
use crate::model::sample::{OwnCost, Sample};
use crate::model::snapshot::{HookState, Lost, SCHEMA_VERSION, Snapshot};

pub mod churn;
pub mod columns;
pub mod culprit;
pub mod event;
pub mod ledger;
pub mod program;
pub mod row;
pub mod sample;
pub mod site;
pub mod snapshot;

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
    /// When the attach was complete. Nanoseconds, CLOCK_MONOTONIC.
    pub attached_ns: u64,
}

/// Samples in, snapshots out.
#[derive(Debug)]
pub struct Model {
    context: Context,
    ledger: Ledger,
    last_ns: u64,
    window_s: f64,
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
            last_ns,
            window_s: 0.0,
            lost: [0; Loss::COUNT],
            own_cost: OwnCost::default(),
        }
    }

    /// Takes one interval in.
    pub fn apply(&mut self, sample: &Sample) {
        self.window_s = seconds(sample.at_ns.saturating_sub(self.last_ns));
        self.last_ns = sample.at_ns;
        self.lost = sample.lost;
        self.own_cost = sample.own_cost;
        self.ledger.apply(sample);
    }

    /// Counts from here on. What is open stays known, as if portchurn had been attached at this moment.
    pub fn restart(&mut self) {
        self.context.attached_ns = self.last_ns;
        self.ledger.restart();
    }

    /// Everything that can be shown, at this moment.
    pub fn snapshot(&self) -> Snapshot {
        let view = View {
            window_s: self.window_s,
            knows_errors: self.context.knows_errors,
            culprits: self.context.takes_stacks.then_some(&self.context.culprits),
        };
        let (totals, programs) = churn::programs(&self.ledger, view);
        Snapshot {
            schema_version: SCHEMA_VERSION,
            kernel: self.context.kernel.clone(),
            window_s: self.window_s,
            cumulative_s: seconds(self.last_ns.saturating_sub(self.context.attached_ns)),
            hooks: self.context.hooks.clone(),
            totals,
            programs,
            processes: churn::processes(&self.ledger, view),
            time_wait: None,
            ports: None,
            lost: lost(&self.lost),
            own_cost: snapshot::OwnCost {
                cpu_ratio: self.own_cost.cpu_ratio,
                rss_bytes: self.own_cost.rss_bytes,
                map_bytes: self.own_cost.map_bytes,
                bpf_ns_per_event: self.own_cost.bpf_ns_per_event,
                bpf_cpu_ratio: self.own_cost.bpf_cpu_ratio,
                stacks_named: self.own_cost.stacks_named,
                naming_p99_us: self.own_cost.naming_p99_us,
                naming_max_us: self.own_cost.naming_max_us,
            },
        }
    }
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

fn lost(by_reason: &[u64; Loss::COUNT]) -> Lost {
    let by_reason: BTreeMap<_, _> =
        Loss::ALL.into_iter().map(|loss| (loss.name(), by_reason[loss as usize])).collect();
    Lost { total: by_reason.values().sum(), by_reason }
}
