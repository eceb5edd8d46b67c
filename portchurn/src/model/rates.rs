//! What goes on at each destination over the last seconds: a single interval of a slow churn says little, and a long
//! memory would answer late.

use std::collections::VecDeque;

use hashbrown::HashMap;
use portchurn_common::flow::{Address, Role};

use crate::model::sample::{Counts, Sample};

/// Over how long rates are taken. Nanoseconds.
const WINDOW_NS: u64 = 8 * 1_000_000_000;
/// Destinations that are followed.
const DESTINATIONS_MAX: usize = 16_384;

/// A destination of connects.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Target {
    /// Network namespace.
    pub netns: u32,
    /// Remote address.
    pub remote: Address,
    /// Remote port.
    pub port: u16,
}

/// Sums of one interval, or rates.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Flow {
    /// Connects begun that did not fail.
    pub taken: f64,
    /// Connects established.
    pub opened: f64,
    /// Connections ended.
    pub closed: f64,
    /// Ends that left a TIME_WAIT.
    pub waits: f64,
}

impl Target {
    /// Where a `bind()` that found no port was to lead, nobody knows.
    pub const fn of_binds(netns: u32) -> Self {
        Self { netns, remote: Address::UNSPECIFIED, port: 0 }
    }

    /// Whether it is that of binds.
    pub fn is_of_binds(&self) -> bool {
        *self == Self::of_binds(self.netns)
    }
}

impl Flow {
    fn of(counts: &Counts) -> Self {
        Self {
            taken: counts.attempts.saturating_sub(counts.failed) as f64,
            opened: counts.opened as f64,
            closed: counts.closed_total() as f64,
            waits: counts.time_wait as f64,
        }
    }

    /// Adds another one.
    pub fn add(&mut self, other: Self) {
        self.taken += other.taken;
        self.opened += other.opened;
        self.closed += other.closed;
        self.waits += other.waits;
    }

    /// Times a factor.
    pub fn scaled(self, factor: f64) -> Self {
        Self {
            taken: self.taken * factor,
            opened: self.opened * factor,
            closed: self.closed * factor,
            waits: self.waits * factor,
        }
    }

    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// One destination.
#[derive(Debug, Default)]
pub struct Recent {
    /// End of each interval, its length in nanoseconds, and what it saw.
    intervals: VecDeque<(u64, u64, Flow)>,
    /// Since the latest reading of the socket tables.
    pub since_reading: Flow,
    /// Connects, or binds, that failed for want of a port, since the attach.
    pub exhausted: u64,
}

impl Recent {
    /// What the latest interval saw.
    pub fn latest(&self) -> Flow {
        self.intervals.back().map_or(Flow::default(), |&(_, _, flow)| flow)
    }

    /// Rates per second.
    pub fn per_s(&self) -> Flow {
        let mut sum = Flow::default();
        let mut length_ns = 0;
        for &(_, interval_ns, flow) in &self.intervals {
            sum.add(flow);
            length_ns += interval_ns;
        }
        if length_ns == 0 { Flow::default() } else { sum.scaled(1e9 / length_ns as f64) }
    }
}

/// Every destination at which something goes on.
#[derive(Debug, Default)]
pub struct Rates {
    targets: HashMap<Target, Recent>,
}

impl Rates {
    /// Takes one interval in; `after_reading` is the share of it that lies after the latest reading of the tables.
    pub fn apply(&mut self, sample: &Sample, interval_ns: u64, after_reading: f64) {
        let mut now: HashMap<Target, (Flow, u64)> = HashMap::new();
        for (key, counts) in &sample.churn {
            if key.role == Role::Connect as u8 {
                let target = Target { netns: key.netns, remote: key.remote, port: key.port };
                let (flow, exhausted) = now.entry(target).or_default();
                flow.add(Flow::of(counts));
                *exhausted += counts.no_port();
            }
        }
        for target in now.keys() {
            if self.targets.len() < DESTINATIONS_MAX {
                self.targets.entry(*target).or_default();
            }
        }
        for (target, recent) in &mut self.targets {
            let (flow, exhausted) = now.get(target).copied().unwrap_or_default();
            if sample.sockets.is_some() {
                recent.since_reading = Flow::default();
            }
            recent.since_reading.add(flow.scaled(after_reading));
            recent.exhausted += exhausted;
            recent.intervals.push_back((sample.at_ns, interval_ns, flow));
            let is_old = |&(at_ns, ..): &(u64, u64, Flow)| sample.at_ns.saturating_sub(at_ns) >= WINDOW_NS;
            while recent.intervals.len() > 1 && recent.intervals.front().is_some_and(is_old) {
                recent.intervals.pop_front();
            }
        }
        self.targets.retain(|_, recent| {
            recent.exhausted > 0 || recent.intervals.iter().any(|(.., flow)| !flow.is_nothing())
        });
    }

    /// Failures are counted from here on.
    pub fn restart(&mut self) {
        self.targets.values_mut().for_each(|recent| recent.exhausted = 0);
    }

    /// What goes on at a destination; `None`: nothing.
    pub fn at(&self, target: Target) -> Option<&Recent> {
        self.targets.get(&target)
    }

    /// Every destination.
    pub fn iter(&self) -> impl Iterator<Item = (&Target, &Recent)> {
        self.targets.iter()
    }
}
