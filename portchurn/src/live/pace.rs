//! When the socket tables are to be read next: a list costs the more the more sockets there are, so it waits until it can
//! tell something new, and in any case until its cost is the share of a processor that it may have. It knows no clock.

use std::time::{Duration, Instant};

/// Processor time of a reading × this is the least time to the next one, while what is known is known to be wrong: half a
/// hundredth of a processor.
const SOON: u32 = 200;
/// The same while the kernel counts as many as are known: a tenth of a hundredth.
const LATER: u32 = 1000;
/// The same when ends would be forgotten before they are looked up: an eightieth.
const CROWDED: u32 = 80;
/// The same while there are namespaces of which no list was made yet, so that nothing at all is known: two hundredths.
const NEW: u32 = 50;
/// The same for the first reading that somebody waits for: a tenth.
const HURRIED: u32 = 10;
/// The least time between two readings that nobody asked for.
const SOONEST: Duration = Duration::from_secs(1);
/// The longest, unless a reading is dearer than this times [`AT_MOST`]. What came since a reading does not grow old in the
/// ledger, so none of it may be a minute old.
const LATEST: Duration = Duration::from_secs(55);
/// Processor time of a reading × this is the least time to the next one, however dear it is: a twentieth of a processor. Each
/// network namespace costs a walk through the sockets of all.
const AT_MOST: u32 = 20;
/// How much longer it rests while nothing changes.
const STILL: Duration = Duration::from_secs(10);
/// So long a comparison with the kernel's count holds.
const HOLDS: Duration = Duration::from_secs(12);
/// Sockets by which the ledger may be wrong, if that is more than its share: connections that come and go meanwhile.
const SLACK: u64 = 16;
/// The share: half a hundredth.
const SLACK_SHARE: u64 = 200;

/// Whether the ledger has as many TIME_WAIT as the kernel. `due`: so many may be gone, or not.
pub fn agree(expected: u64, counted: u64, due: u64) -> bool {
    expected.abs_diff(counted) <= (counted / SLACK_SHARE).max(SLACK) + due
}

/// A reading.
#[derive(Clone, Copy, Debug)]
pub struct Read {
    /// When it ended.
    pub ended: Instant,
    /// Processor time that it took.
    pub cost: Duration,
    /// Whether it showed the same as the one before.
    pub is_still: bool,
    /// Whether the model carries all of it on. Pools of bound ports it does not.
    pub is_carried: bool,
}

/// What is known about the last reading, and since.
#[derive(Debug)]
pub struct Pace {
    last: Read,
    /// Whether nothing has happened since, nor between it and the one before.
    is_still: bool,
    /// When it was last in agreement with the kernel; `None`: it is known not to be.
    agreed: Option<Instant>,
    is_crowded: bool,
    is_new: bool,
    is_hurried: bool,
    /// The last reading that was hurried: when it ended.
    hurried: Option<Instant>,
}

impl Pace {
    /// After a reading.
    pub fn after(before: Option<&Self>, last: Read) -> Self {
        let hurried =
            before.and_then(|before| if before.is_hurried { Some(last.ended) } else { before.hurried });
        Self {
            last,
            is_still: last.is_still,
            agreed: Some(last.ended),
            is_crowded: false,
            is_new: false,
            is_hurried: false,
            hurried,
        }
    }

    /// Something goes on: no time to rest.
    pub fn wake(&mut self) {
        self.is_still = false;
    }

    /// Somebody waits for it.
    pub fn hurry(&mut self) {
        self.is_hurried = true;
    }

    /// Ends that are not yet looked up take more memory than there is.
    pub fn crowd(&mut self) {
        self.is_crowded = true;
    }

    /// Something goes on in a namespace of which no list was made yet.
    pub fn discover(&mut self) {
        self.is_new = true;
    }

    /// Whether it makes a difference at this moment if the ledger is right.
    pub fn wants_check(&self, now: Instant) -> bool {
        now + HOLDS >= self.last.ended + self.spaced(SOON)
    }

    /// The ledger was compared with the kernel.
    pub fn check(&mut self, now: Instant, agrees: bool) {
        self.agreed = agrees.then_some(now);
    }

    /// When to read next, as things stand.
    pub fn due(&self, now: Instant) -> Instant {
        let agrees = self.agreed.is_some_and(|agreed| now < agreed + HOLDS);
        let is_known = agrees && (self.last.is_carried || self.is_still);
        let mut wait = self.spaced(if is_known { LATER } else { SOON });
        if self.is_still && self.agreed.is_some() {
            wait = (wait + STILL).min(LATEST.max(wait));
        }
        if self.is_crowded {
            wait = wait.min(self.spaced(CROWDED));
        }
        if self.is_new {
            wait = wait.min(self.spaced(NEW));
        }
        let due = self.last.ended + wait;
        if !self.is_hurried {
            return due;
        }
        // The first tells who holds the ports; while it goes on, no more is to be learned than usual.
        let next_hurried = self.hurried.map(|hurried| hurried + self.spaced(SOON));
        let soonest = self.last.ended + self.last.cost * HURRIED;
        due.min(next_hurried.map_or(soonest, |next| next.max(soonest)))
    }

    fn spaced(&self, times: u32) -> Duration {
        (self.last.cost * times).clamp(SOONEST, LATEST).max(self.last.cost * AT_MOST)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{HOLDS, LATEST, Pace, Read, SOONEST, STILL, agree};

    const MS: Duration = Duration::from_millis(1);
    const S: Duration = Duration::from_secs(1);

    fn read(ended: Instant, cost_ms: u32) -> Read {
        Read { ended, cost: MS * cost_ms, is_still: false, is_carried: true }
    }

    fn after(cost_ms: u32) -> (Pace, Instant) {
        let at = Instant::now();
        (Pace::after(None, read(at, cost_ms)), at)
    }

    #[test]
    fn what_agrees_is_read_rarely_and_what_does_not_soon() {
        let (mut pace, at) = after(20);
        assert_eq!(pace.due(at) - at, 20 * S, "a thousandth of a processor");
        pace.check(at + 3 * S, false);
        assert_eq!(pace.due(at + 3 * S) - at, 4 * S, "a two-hundredth");
        pace.check(at + 3 * S, true);
        assert_eq!(pace.due(at + 3 * S) - at, 20 * S);
        assert_eq!(pace.due(at + 3 * S + HOLDS) - at, 4 * S, "nobody has compared for long");
    }

    #[test]
    fn however_cheap_or_dear_it_stays_between_a_second_and_a_life_of_time_wait() {
        for (cost_ms, agrees, wait) in [
            (1, true, SOONEST),
            (1, false, SOONEST),
            (90, true, LATEST),
            (90, false, 18 * S),
            (900, false, LATEST),
            (50_000, false, 1000 * S),
        ] {
            let (mut pace, at) = after(cost_ms);
            pace.check(at, agrees);
            assert_eq!(pace.due(at) - at, wait, "{cost_ms} {agrees}");
        }
        assert!(LATEST < 60 * S);
    }

    #[test]
    fn where_nothing_happens_it_rests_until_something_does() {
        let at = Instant::now();
        let still = |cost_ms| Read { is_still: true, ..read(at, cost_ms) };
        let mut pace = Pace::after(None, still(2));
        assert_eq!(pace.due(at) - at, 2 * S + STILL);
        pace.check(at, false);
        assert_eq!(pace.due(at) - at, SOONEST, "it only seemed so");
        pace.check(at, true);
        pace.wake();
        assert_eq!(pace.due(at) - at, 2 * S);
        assert_eq!(Pace::after(None, still(90)).due(at) - at, LATEST);
    }

    #[test]
    fn what_nobody_carries_on_is_read_soon_while_anything_happens() {
        let at = Instant::now();
        let pools = Read { is_still: true, is_carried: false, ..read(at, 20) };
        let mut pace = Pace::after(None, pools);
        assert_eq!(pace.due(at) - at, 20 * S + STILL);
        pace.wake();
        assert_eq!(pace.due(at) - at, 4 * S);
    }

    #[test]
    fn who_asks_waits_once_and_not_for_as_long_as_it_goes_on() {
        let (mut pace, at) = after(90);
        pace.hurry();
        assert_eq!(pace.due(at) - at, 900 * MS);
        let later = at + S;
        let mut pace = Pace::after(Some(&pace), read(later, 90));
        pace.hurry();
        assert_eq!(pace.due(later) - later, 18 * S, "again only as often as what differs");
        let pace = Pace::after(Some(&Pace::after(Some(&pace), read(later, 90))), read(later, 2));
        assert_eq!(pace.due(later) - later, 2 * S, "nobody asked again");
    }

    #[test]
    fn what_would_be_forgotten_is_looked_up_before() {
        let (mut pace, at) = after(90);
        pace.crowd();
        assert_eq!(pace.due(at) - at, 7200 * MS);
    }

    #[test]
    fn where_no_list_was_made_yet_one_is_made_soon_and_once() {
        let (mut pace, at) = after(90);
        pace.discover();
        assert_eq!(pace.due(at) - at, 4500 * MS);
        let pace = Pace::after(Some(&pace), read(at, 90));
        assert_eq!(pace.due(at) - at, LATEST);
    }

    #[test]
    fn it_is_compared_only_when_that_makes_a_difference() {
        let (pace, at) = after(150);
        assert!(!pace.wants_check(at + 17 * S));
        assert!(pace.wants_check(at + 18 * S));
        let (cheap, at) = after(2);
        assert!(cheap.wants_check(at));
    }

    #[test]
    fn half_a_hundredth_is_near_enough_and_so_are_a_few() {
        assert!(agree(130_417, 131_072, 0) && agree(131_727, 131_072, 0));
        assert!(!agree(130_416, 131_072, 0) && !agree(131_728, 131_072, 0));
        assert!(agree(0, 16, 0) && !agree(0, 17, 0) && !agree(17, 0, 0));
        assert!(agree(0, 17, 1) && agree(17, 0, 1), "what is due may be gone or not");
    }
}
