//! One owner's TIME_WAIT sockets to one destination, carried on between two lists of the kernel: what was listed goes when
//! its timers go off or somebody takes its port, what ended since came in. Pure arithmetic.

use crate::model::budget::ClosedFirstBy;
use crate::model::forecast::expired;
use crate::model::held::{Amount, Held};
use crate::model::sockets::{AGE_STEPS, Ages};

/// Those of one owner to one destination.
#[derive(Clone, Debug, Default)]
pub struct Waiting {
    /// That the list had.
    pub listed: f64,
    /// The same by age.
    pub ages: [f64; AGE_STEPS],
    /// Who closed those first.
    pub closed_first_by: ClosedFirstBy,
    /// The lines of code by which those are held.
    pub held: Held,
    /// Processes that it stands for.
    pub processes: u64,
    /// That came since the list, and are still there.
    pub entered: f64,
    /// Of the listed those whose port a connect of ours took over since: the oldest. An estimate.
    pub taken_over: f64,
    /// Of the listed the share that a peer's SYN took over since: of any age. An estimate.
    pub recycled_share: f64,
}

impl Waiting {
    /// Those of the list that are still there so long after it.
    pub fn left(&self, elapsed_s: f64) -> f64 {
        let by_timer = self.listed - expired(&self.ages, elapsed_s);
        (by_timer * (1.0 - self.recycled_share) - self.taken_over).max(0.0)
    }

    /// All that are there; `entered_share` is that of those that came for which the kernel had room.
    pub fn amount(&self, elapsed_s: f64, entered_share: f64) -> Amount {
        let left = self.left(elapsed_s);
        let count = (left + self.entered * entered_share).round() as u64;
        let left = (left.round() as u64).min(count);
        Amount { listed: self.listed as u64, left, since: count - left }
    }

    /// Adds sockets of a list by their age.
    pub fn add_ages(&mut self, ages: &Ages) {
        for (sum, &one) in self.ages.iter_mut().zip(ages) {
            *sum += f64::from(one);
        }
    }

    /// Takes so large a share of all of them away.
    pub fn recycle(&mut self, share: f64) {
        self.recycled_share = 1.0 - (1.0 - self.recycled_share) * (1.0 - share);
        self.entered *= 1.0 - share;
    }

    /// The steps of age, so that they add up to what there is: what came since the list is the youngest, what went was the
    /// oldest.
    pub fn carried_on(&self, amount: Amount) -> [u64; AGE_STEPS] {
        let mut ages = self.ages.map(|count| count as u64);
        let mut gone = ages.iter().sum::<u64>().saturating_sub(amount.left);
        for age in ages.iter_mut().rev() {
            (*age, gone) = (age.saturating_sub(gone), gone.saturating_sub(*age));
        }
        ages[0] += amount.since;
        ages
    }
}
