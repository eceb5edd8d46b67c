//! When `/proc` must be asked which processes have ended: where nothing tells of their ends, and for a while after it is known
//! that one was not told. To ask of all of them each time would cost more than everything else.

use std::time::Duration;

/// So long a process may still look alive after its end.
const WHILE: Duration = Duration::from_secs(10);
/// How often it is asked at least where some ends are never told.
const EVERY: Duration = Duration::from_secs(10);
/// Less often than this for each process that is asked about, as an answer takes some 30 µs.
const EACH: Duration = Duration::from_millis(100);

/// What is known of ends that were not told.
#[derive(Debug)]
pub struct Unnoticed {
    /// Of so many processes ends are told; the kernel side has room for no more.
    told_max: usize,
    missed: u64,
    /// Nanoseconds.
    until_ns: u64,
    asked_ns: u64,
}

impl Unnoticed {
    /// `told_max`: of so many processes ends are told at most, none where there is no hook for them.
    pub fn new(told_max: usize) -> Self {
        Self { told_max, missed: 0, until_ns: 0, asked_ns: 0 }
    }

    /// Whether it is time to ask. `known`: so many processes are. `missed`: ends that were not told since the attach, as far as
    /// that is counted.
    pub fn is_due(&mut self, now_ns: u64, known: usize, missed: u64) -> bool {
        let nanoseconds = |duration: Duration| duration.as_nanos() as u64;
        if missed != self.missed {
            self.missed = missed;
            self.until_ns = now_ns + nanoseconds(WHILE);
        }
        let every = EACH.saturating_mul(u32::try_from(known).unwrap_or(u32::MAX)).min(EVERY);
        let is_due =
            now_ns < self.until_ns || known >= self.told_max && self.asked_ns + nanoseconds(every) <= now_ns;
        if is_due {
            self.asked_ns = now_ns;
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::Unnoticed;

    const S: u64 = 1_000_000_000;

    #[test]
    fn after_a_miss_it_is_asked_for_a_while_and_no_longer() {
        let mut unnoticed = Unnoticed::new(4096);
        assert!(!unnoticed.is_due(100 * S, 50, 0));
        assert!(unnoticed.is_due(101 * S, 50, 1));
        assert!(unnoticed.is_due(110 * S, 50, 1));
        assert!(!unnoticed.is_due(111 * S, 50, 1), "the count alone is no reason for ever");
        assert!(unnoticed.is_due(200 * S, 50, 3));
    }

    #[test]
    fn where_ends_are_not_told_it_is_asked_now_and_then() {
        for (told_max, known, every_s) in [(0, 10, 1), (0, 50, 5), (0, 1000, 10), (4096, 4096, 10)] {
            let mut unnoticed = Unnoticed::new(told_max);
            assert!(unnoticed.is_due(100 * S, known, 0));
            assert!(!unnoticed.is_due((100 + every_s) * S - 1, known, 0));
            assert!(unnoticed.is_due((100 + every_s) * S, known, 0));
        }
    }
}
