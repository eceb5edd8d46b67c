//! The last lines on stderr: what was seen, and what was not.

use portchurn_common::flow::ChurnKey;
use portchurn_common::stack::Effort;

use crate::model::sample::{Counts, ProcessId, Sample};

/// Sums over samples.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    started_ns: Option<u64>,
    ended_ns: u64,
    counts: Counts,
    unattributed: i64,
    lost: u64,
    /// Whether the kernel counts the state changes that it skips.
    counts_skips: bool,
    cpu_s: f64,
    /// In which not all stacks were taken, over `--max-cpu`.
    restricted_s: f64,
}

impl Summary {
    /// Starts at the attach. `counts_skips`: whether the kernel counts the state changes that it skips.
    pub fn new(attached_ns: u64, counts_skips: bool) -> Self {
        Self { started_ns: Some(attached_ns), ended_ns: attached_ns, counts_skips, ..Self::default() }
    }

    /// Takes one interval in.
    pub fn add(&mut self, sample: &Sample) {
        let elapsed_ns = sample.at_ns.saturating_sub(self.ended_ns);
        let elapsed_s = elapsed_ns as f64 / 1e9;
        self.cpu_s += sample.own_cost.cpu_ratio.unwrap_or(0.0) * elapsed_s;
        if sample.own_cost.stack_effort.is_some_and(|effort| effort != Effort::Full.name()) {
            self.restricted_s += elapsed_s;
        }
        self.ended_ns = sample.at_ns;
        self.lost = sample.lost.iter().sum();
        for (key, counts) in &sample.churn {
            self.counts.add(counts);
            self.unattributed += unattributed(key, counts);
        }
    }

    /// What was lost, all reasons.
    pub fn lost(&self) -> u64 {
        self.lost
    }
}

fn unattributed(key: &ChurnKey, counts: &Counts) -> i64 {
    if ProcessId::of(key) == ProcessId::UNATTRIBUTED {
        counts.opened.cast_signed() + counts.accepted
    } else {
        0
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let elapsed_s = self.ended_ns.saturating_sub(self.started_ns.unwrap_or(self.ended_ns)) as f64 / 1e9;
        let uncounted =
            if self.counts_skips { "" } else { " (runs that the kernel skips are not counted here)" };
        let cpu_percent = if elapsed_s > 0.0 { 100.0 * self.cpu_s / elapsed_s } else { 0.0 };
        write!(
            f,
            "portchurn: {elapsed_s:.1} s, {} opened, {} accepted, {} closed, {} failed, {} still open\n           {} \
             lost{uncounted}, {} not attributed, own CPU {cpu_percent:.1} %",
            self.counts.opened,
            self.counts.accepted,
            self.counts.closed_total(),
            self.counts.failed,
            self.counts.open_now().max(0),
            self.lost,
            self.unattributed.max(0),
        )?;
        if self.restricted_s >= 0.05 {
            write!(
                f,
                "\n           call sites not all taken for {:.1} s: over --max-cpu",
                self.restricted_s
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use portchurn_common::flow::ChurnKey;

    use super::Summary;
    use crate::model::sample::{Counts, OwnCost, Sample};

    #[test]
    fn it_says_for_how_long_stacks_were_left_out() {
        let mut summary = Summary::new(0, true);
        let sample = |at_s: u64, effort| Sample {
            at_ns: at_s * 1_000_000_000,
            own_cost: OwnCost { stack_effort: Some(effort), ..OwnCost::default() },
            ..Sample::default()
        };
        summary.add(&sample(2, "full"));
        assert!(!summary.to_string().contains("call sites"), "{summary}");
        summary.add(&sample(3, "interpreters"));
        summary.add(&sample(5, "none"));
        assert!(
            summary.to_string().ends_with("call sites not all taken for 3.0 s: over --max-cpu"),
            "{summary}"
        );
    }

    #[test]
    fn it_adds_up_and_says_what_is_missing() {
        let mut summary = Summary::new(1_000_000_000, true);
        let mut closed = Counts { opened: 3, attempts: 5, failed: 2, ..Counts::ZERO };
        closed.closed[1] = 2;
        let accepted = Counts { accepted: 4, ..Counts::ZERO };
        let owned = ChurnKey { tgid: 7, ..ChurnKey::default() };
        let churn = vec![(owned, closed), (ChurnKey::default(), accepted)];
        summary.add(&Sample {
            at_ns: 3_000_000_000,
            churn,
            lost: [1, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0],
            ..Sample::default()
        });
        let text = summary.to_string();
        assert!(text.contains("2.0 s, 3 opened, 4 accepted, 2 closed, 2 failed, 5 still open"), "{text}");
        assert!(text.contains("3 lost, 4 not attributed"), "{text}");
        let text = Summary::new(0, false).to_string();
        assert!(text.contains("0 lost (runs that the kernel skips are not counted here), "), "{text}");
    }
}
