//! One owner's TIME_WAIT sockets to one destination, carried on between two lists of the kernel: what was listed goes when
//! its timers go off or somebody takes its port, what ended since came in. Pure arithmetic.

use crate::model::budget::ClosedFirstBy;
use crate::model::forecast::{aged, arrived, expired};
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
        (self.left_by_timer(elapsed_s) * (1.0 - self.recycled_share) - self.taken_over).max(0.0)
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

    /// The steps of age so long after the list, so that they add up to what there is. Of the listed, what went before its time was
    /// the oldest.
    pub fn carried_on(&self, amount: Amount, elapsed_s: f64) -> [u64; AGE_STEPS] {
        let by_timer = (self.left_by_timer(elapsed_s).round() as u64).max(amount.left);
        let mut listed = whole(aged(&self.ages, elapsed_s), by_timer);
        let mut gone = listed.iter().sum::<u64>().saturating_sub(amount.left);
        for age in listed.iter_mut().rev() {
            (*age, gone) = (age.saturating_sub(gone), gone.saturating_sub(*age));
        }
        let came = whole(arrived(amount.since as f64, elapsed_s), amount.since);
        std::array::from_fn(|step| listed[step] + came[step])
    }

    /// Those of the list whose timers have not gone off.
    fn left_by_timer(&self, elapsed_s: f64) -> f64 {
        self.listed - expired(&self.ages, elapsed_s)
    }
}

/// Whole numbers in these proportions that add up to `total`; where there is nothing to go by, all in the first step.
fn whole(shares: [f64; AGE_STEPS], total: u64) -> [u64; AGE_STEPS] {
    let sum: f64 = shares.iter().sum();
    if sum <= 0.0 {
        return std::array::from_fn(|step| if step == 0 { total } else { 0 });
    }
    let (mut so_far, mut given) = (0.0, 0);
    shares.map(|share| {
        so_far += share;
        let until = ((total as f64 * so_far / sum).round() as u64).clamp(given, total);
        std::mem::replace(&mut given, until).abs_diff(until)
    })
}

#[cfg(test)]
mod tests {
    use super::Waiting;
    use crate::model::held::Amount;
    use crate::model::sockets::AGE_STEPS;

    fn listed(ages: &[(usize, f64)]) -> Waiting {
        let mut waiting = Waiting::default();
        for &(step, count) in ages {
            waiting.ages[step] = count;
            waiting.listed += count;
        }
        waiting
    }

    #[test]
    fn a_list_that_was_just_made_is_shown_as_it_is() {
        let waiting = listed(&[(0, 3.0), (7, 11.0), (AGE_STEPS - 1, 2.0)]);
        let ages = waiting.carried_on(Amount { listed: 16, left: 16, since: 0 }, 0.0);
        assert_eq!((ages[0], ages[7], ages[AGE_STEPS - 1]), (3, 11, 2));
    }

    #[test]
    fn what_was_listed_grows_older_and_what_came_since_came_evenly() {
        let waiting = listed(&[(0, 100.0), (11, 50.0)]);
        let amount = waiting.amount(20.0, 1.0);
        assert_eq!((amount.left, amount.since), (100, 0), "the old ones are over");
        let ages = waiting.carried_on(amount, 20.0);
        assert_eq!(ages.iter().sum::<u64>(), 100);
        assert_eq!(ages[4], 100, "0 to 5 s are 20 to 25 s by now: {ages:?}");
        let ages = waiting.carried_on(Amount { since: 80, ..amount }, 20.0);
        assert_eq!((ages[..4].iter().sum(), ages[4]), (80, 100), "{ages:?}");
        assert!(ages[..4].iter().all(|&count| count == 20), "{ages:?}");
    }

    #[test]
    fn what_went_before_its_time_was_the_oldest() {
        let waiting = listed(&[(0, 10.0), (1, 10.0)]);
        let ages = waiting.carried_on(Amount { listed: 20, left: 12, since: 0 }, 10.0);
        assert_eq!((ages[2], ages[3]), (10, 2), "{ages:?}");
    }
}
