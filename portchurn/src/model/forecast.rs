//! When ports run out, if everything goes on as now. Pure arithmetic over rates and the ages of what waits.

use crate::model::sockets::{AGE_STEP_S, AGE_STEPS, LATE_S, TIME_WAIT_S};

/// What goes on at one destination.
#[derive(Clone, Debug)]
pub struct Trend {
    /// Ports taken now.
    pub used: f64,
    /// Growth of what is alive: connects less ends, per second.
    pub live_per_s: f64,
    /// Ends that leave a TIME_WAIT, per second.
    pub waits_per_s: f64,
    /// Connects per second.
    pub opens_per_s: f64,
    /// TIME_WAIT sockets by age now.
    pub ages: [f64; AGE_STEPS],
    /// Age from which on a connect may take over a waiting port. Seconds.
    pub reuse_after_s: Option<f64>,
}

/// Nothing is foretold beyond this: no rate stays the same for longer. Seconds.
const HORIZON_S: f64 = 3600.0;
/// Growth below this is none: a few connections that happen to be under way at the end of the seconds that rates are
/// taken over. What grows as slowly takes hours. Ports per second.
const LEAST_GROWTH_PER_S: f64 = 0.5;
/// How long a TIME_WAIT really lasts. Seconds.
pub const LIFE_S: f64 = TIME_WAIT_S as f64 + LATE_S;
/// Step of the search. Seconds.
const STEP_S: f64 = 0.25;

impl Trend {
    /// Time until `level` ports are taken; 0: they are. `None`: not at this rate.
    pub fn seconds_to(&self, level: f64) -> Option<f64> {
        if let Some(after_s) = self.reuse_after_s {
            return self.seconds_with_reuse(level, after_s);
        }
        if self.used >= level {
            return Some(0.0);
        }
        // Most of thousands of destinations are far from any end: told at once, without the search.
        let grows = self.live_per_s >= LEAST_GROWTH_PER_S;
        let reach_s = if grows { HORIZON_S } else { LIFE_S + 2.0 * STEP_S };
        let most = self.used + self.live_per_s.max(0.0) * (reach_s + STEP_S) + self.waits_per_s * LIFE_S;
        if most < level {
            return None;
        }
        let mut before = self.used;
        let mut at_s = 0.0;
        while at_s < HORIZON_S {
            // After a life of TIME_WAIT, what waits now is gone and what comes and goes is steady.
            if at_s > LIFE_S + STEP_S && !grows {
                return None;
            }
            at_s += STEP_S;
            let used = self.used_after(at_s);
            if used >= level {
                let share = if used > before { (level - before) / (used - before) } else { 1.0 };
                return Some(at_s - STEP_S * (1.0 - share));
            }
            before = used;
        }
        None
    }

    /// Waiting ports are taken over as soon as they may be: only what is alive or too young counts.
    fn seconds_with_reuse(&self, level: f64, after_s: f64) -> Option<f64> {
        let waiting: f64 = self.ages.iter().sum();
        let held = (self.used - waiting).max(0.0) + self.waits_per_s * after_s;
        if held >= level {
            return Some((level - self.used).max(0.0) / self.opens_per_s.max(LEAST_GROWTH_PER_S));
        }
        if self.live_per_s < LEAST_GROWTH_PER_S {
            return None;
        }
        Some((level - held) / self.live_per_s).filter(|&at_s| at_s <= HORIZON_S)
    }

    fn used_after(&self, at_s: f64) -> f64 {
        let new = self.waits_per_s * at_s.min(LIFE_S);
        let live = (self.live_per_s * at_s).max(-self.alive());
        self.used + live + new - expired(&self.ages, at_s)
    }

    fn alive(&self) -> f64 {
        (self.used - self.ages.iter().sum::<f64>()).max(0.0)
    }
}

/// Of TIME_WAIT that came in this time at a steady rate, the share that is not over yet. A host with so many sockets and namespaces that a
/// list takes seconds is listed less often than once in a life of TIME_WAIT.
pub fn still_waits(since_s: f64) -> f64 {
    LIFE_S / since_s.max(LIFE_S)
}

/// How many of these TIME_WAIT sockets are gone after a time. Within a step they are taken to be spread evenly.
pub fn expired(ages: &[f64; AGE_STEPS], after_s: f64) -> f64 {
    let step_s = AGE_STEP_S as f64;
    let oldest_that_stays_s = LIFE_S - after_s;
    let gone = |(step, &count): (usize, &f64)| {
        let (young_s, old_s) = (step as f64 * step_s, (step + 1) as f64 * step_s);
        let share = ((old_s - oldest_that_stays_s.max(young_s)) / step_s).clamp(0.0, 1.0);
        // The last step has no end: its sockets wait for their timer's slot.
        if step == AGE_STEPS - 1 { count * (after_s / LATE_S).min(1.0) } else { count * share }
    };
    ages.iter().enumerate().map(gone).sum()
}

/// Ages so long after they were listed: a step older for each five seconds.
pub fn aged(ages: &[f64; AGE_STEPS], elapsed_s: f64) -> [f64; AGE_STEPS] {
    // What leaves within `left_s` from now leaves within `left_s + elapsed_s` from the reading.
    let mut gone = expired(ages, LIFE_S + elapsed_s);
    std::array::from_fn(|step| {
        let left_s = (LIFE_S - ((step as u64 + 1) * AGE_STEP_S) as f64).max(0.0);
        let gone_sooner = expired(ages, left_s + elapsed_s);
        (std::mem::replace(&mut gone, gone_sooner) - gone_sooner).max(0.0)
    })
}

/// Ages of what came since a list that long ago, evenly.
pub fn arrived(entered: f64, elapsed_s: f64) -> [f64; AGE_STEPS] {
    let since_s = elapsed_s.clamp(AGE_STEP_S as f64, LIFE_S);
    std::array::from_fn(|step| {
        let young_s = (step as u64 * AGE_STEP_S) as f64;
        let came_s = (young_s + AGE_STEP_S as f64).min(since_s) - young_s;
        entered * came_s.max(0.0) / since_s
    })
}

#[cfg(test)]
mod tests {
    use super::{Trend, aged, arrived, expired};
    use crate::model::sockets::{AGE_STEPS, LATE_S};

    #[test]
    fn a_step_takes_five_seconds_and_a_minute_ends_it() {
        let mut ages = [0.0; AGE_STEPS];
        (ages[0], ages[3]) = (100.0, 40.0);
        let sum = |ages: [f64; AGE_STEPS]| ages.iter().sum::<f64>();
        let steps = aged(&ages, 10.0);
        assert!((sum(steps) - 140.0).abs() < 1e-9 && sum(aged(&ages, 200.0)) == 0.0);
        // The timers go off a second late, so that steps are counted from their end.
        assert!((steps[2] + steps[1] - 100.0).abs() < 1e-9, "{steps:?}");
        assert!((steps[5] + steps[4] - 40.0).abs() < 1e-9, "{steps:?}");
        let came = arrived(60.0, 12.0);
        assert!((sum(came) - 60.0).abs() < 1e-9 && came[..4] == [25.0, 25.0, 10.0, 0.0], "{came:?}");
    }

    /// Constant churn of so many connects per second since `for_s`, each closed at once by us.
    fn churn(per_s: f64, for_s: f64) -> Trend {
        let ages = std::array::from_fn(|step| {
            let (young_s, old_s) = (step as f64 * 5.0, step as f64 * 5.0 + 5.0);
            per_s * (old_s.min(for_s).min(60.0) - young_s).max(0.0)
        });
        Trend {
            used: ages.iter().sum(),
            live_per_s: 0.0,
            waits_per_s: per_s,
            opens_per_s: per_s,
            ages,
            reuse_after_s: None,
        }
    }

    #[test]
    fn at_a_constant_rate_it_is_right_from_the_start() {
        for elapsed_s in [1.0, 5.0, 12.0, 20.0, 35.0] {
            let left_s = churn(50.0, elapsed_s).seconds_to(2000.0).unwrap();
            let expected_s = 40.0 - elapsed_s;
            assert!((left_s - expected_s).abs() < 0.3, "{elapsed_s}: {left_s} {expected_s}");
        }
    }

    #[test]
    fn a_rate_that_the_range_carries_never_runs_out() {
        for elapsed_s in [1.0, 30.0, 59.0, 61.0, 200.0] {
            assert_eq!(churn(32.0, elapsed_s).seconds_to(2000.0), None, "{elapsed_s}");
        }
        assert!(churn(34.0, 10.0).seconds_to(2000.0).is_some(), "34 × 60 > 2000");
    }

    #[test]
    fn what_was_left_by_an_earlier_burst_is_taken_off_again() {
        let mut trend = churn(10.0, 10.0);
        trend.ages[11] = 1000.0;
        trend.used += 1000.0;
        assert_eq!(trend.seconds_to(1500.0), None, "the burst ends before the slow churn fills the rest");
    }

    #[test]
    fn with_reuse_only_a_rate_that_outruns_the_delay_runs_out() {
        let slow = Trend { reuse_after_s: Some(1.0), ..churn(1900.0, 1.0) };
        assert_eq!(slow.seconds_to(2000.0), None);
        let fast = Trend { reuse_after_s: Some(1.0), ..churn(4000.0, 0.25) };
        assert!(fast.seconds_to(2000.0).unwrap() < 1.0);
    }

    #[test]
    fn with_reuse_ports_that_only_wait_are_no_end() {
        let full = Trend { used: 2000.0, reuse_after_s: Some(1.0), ..churn(40.0, 50.0) };
        assert_eq!(full.seconds_to(2000.0), None);
        assert_eq!(Trend { reuse_after_s: None, ..full }.seconds_to(2000.0), Some(0.0));
    }

    #[test]
    fn what_is_under_way_at_the_moment_is_no_growth() {
        let trend = Trend { reuse_after_s: Some(1.0), live_per_s: 0.125, ..churn(40.0, 8.0) };
        assert_eq!(trend.seconds_to(400.0), None);
    }

    #[test]
    fn connections_that_are_never_closed_fill_it_too() {
        let leak = Trend { live_per_s: 2.0, waits_per_s: 0.0, opens_per_s: 2.0, ..churn(0.0, 0.0) };
        assert!((leak.seconds_to(1000.0).unwrap() - 500.0).abs() < 1.0);
        let reuse = Trend { reuse_after_s: Some(1.0), ..leak };
        assert!((reuse.seconds_to(1000.0).unwrap() - 500.0).abs() < 1.0, "what is alive is not reused");
    }

    #[test]
    fn sockets_leave_in_the_order_of_their_age() {
        let mut ages = [0.0; AGE_STEPS];
        ages[0] = 10.0;
        ages[11] = 100.0;
        assert_eq!(expired(&ages, 0.0), 0.0);
        assert_eq!(expired(&ages, LATE_S), 0.0);
        assert_eq!(expired(&ages, LATE_S + 2.5), 50.0);
        assert_eq!(expired(&ages, LATE_S + 5.0), 100.0);
        assert_eq!(expired(&ages, LATE_S + 55.0), 100.0);
        assert_eq!(expired(&ages, LATE_S + 60.0), 110.0);
        ages[12] = 8.0;
        assert_eq!(expired(&ages, LATE_S / 2.0), 4.0, "they are due, and wait for the end of their slot");
    }
}
