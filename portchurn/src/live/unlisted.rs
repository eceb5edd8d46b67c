//! Ends that were read out of the table of connections and that no list has shown yet. Where a network namespace is at its limit,
//! a million of them leave a few thousand TIME_WAIT, and only the next list tells which. So they are written down one after the
//! other, and looked through once for each lot of sockets that somebody asks for: a map of them would be made for nothing.

use hashbrown::HashSet;

use crate::live::runs::BuildRuns;

/// Ends that are remembered: 19 MB, where all of it is in use. At 60,000 per second they last for 26 seconds, and the next list of a namespace at the usual
/// limit comes after 22.
const ENDS_MAX: usize = 3 << 19;
/// Readings for which an end is kept whose namespace could not be listed whole, the first one not counted.
pub const PATIENCE: usize = 3;
/// Ends beyond those in use, before memory is given back.
const SPARE: usize = 1 << 16;

/// One end. Without padding, as there may be more than a million.
#[derive(Clone, Copy)]
#[repr(C, packed(4))]
struct End {
    cookie: u64,
    /// Number of its owner.
    owner: u32,
}

const _: () = assert!(size_of::<End>() == 12);

/// The ends, in the order in which they were read.
#[derive(Default)]
pub struct Unlisted {
    ends: Vec<End>,
    /// How many there were when this reading began, and the ones before it.
    begun: [usize; PATIENCE + 1],
}

impl Unlisted {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Whether there is hardly room for more.
    pub fn is_crowded(&self) -> bool {
        self.ends.len() > ENDS_MAX / 8 * 7
    }

    /// Whether there is room for one more.
    pub fn has_room(&self) -> bool {
        self.ends.len() < ENDS_MAX
    }

    /// Writes one down, if there is room.
    pub fn push(&mut self, cookie: u64, owner: u32) {
        if self.has_room() {
            self.ends.push(End { cookie, owner });
        }
    }

    /// A reading begins. What is there by now must be on its list, or is no TIME_WAIT.
    pub fn begin(&mut self) {
        self.begun.rotate_right(1);
        self.begun[0] = self.ends.len();
    }

    /// Those with one of these cookies.
    pub fn find(&self, cookies: impl Iterator<Item = u64>) -> impl Iterator<Item = (u64, u32)> + '_ {
        let cookies = Cookies::of(cookies);
        self.ends
            .iter()
            .map(|end| (end.cookie, end.owner))
            .filter(move |(cookie, _)| cookies.contain(*cookie))
    }

    /// The reading is over: forgets what was there before it began. `is_listed`: whether it shows all sockets of that namespace;
    /// what one list missed, the next ones show.
    pub fn end(&mut self, mut is_listed: impl FnMut(u32) -> bool) {
        let begun = std::mem::take(&mut self.begun);
        let mut at = 0;
        self.ends.retain(|end| {
            let forgotten = if is_listed(end.owner) { begun[0] } else { begun[PATIENCE] };
            let is_kept = at >= forgotten;
            for (before, left) in begun.iter().zip(&mut self.begun) {
                *left += usize::from(is_kept && at < *before);
            }
            at += 1;
            is_kept
        });
        if self.ends.capacity() > 4 * self.ends.len() + SPARE {
            self.ends.shrink_to(2 * self.ends.len());
        }
    }

    /// Numbers of their owners.
    pub fn owners(&self) -> impl Iterator<Item = u32> + '_ {
        self.ends.iter().map(|end| end.owner)
    }

    /// Numbers their owners anew.
    pub fn renumber(&mut self, mut number: impl FnMut(u32) -> u32) {
        for end in &mut self.ends {
            end.owner = number(end.owner);
        }
    }
}

/// Bits of [`Cookies`]: as many as fit into the fastest cache.
const BITS: u64 = 1 << 18;

/// Cookies that are asked for. A bit tells of most others that they are not among them: the kernel hands cookies out in order, so few
/// of the same time share one.
struct Cookies {
    bits: Vec<u64>,
    cookies: HashSet<u64, BuildRuns>,
}

impl Cookies {
    fn of(cookies: impl Iterator<Item = u64>) -> Self {
        let cookies: HashSet<_, _> = cookies.collect();
        let mut bits = vec![0; (BITS / 64) as usize];
        for cookie in &cookies {
            bits[Self::word(*cookie)] |= 1 << (cookie % 64);
        }
        Self { bits, cookies }
    }

    const fn word(cookie: u64) -> usize {
        (cookie % BITS / 64) as usize
    }

    fn contain(&self, cookie: u64) -> bool {
        self.bits[Self::word(cookie)] >> (cookie % 64) & 1 != 0 && self.cookies.contains(&cookie)
    }
}

#[cfg(test)]
mod tests {
    use super::{BITS, ENDS_MAX, Unlisted};

    const LISTED: u32 = 0;
    const UNREAD: u32 = 1;

    fn found(ends: &Unlisted, cookies: &[u64]) -> Vec<(u64, u32)> {
        ends.find(cookies.iter().copied()).collect()
    }

    fn read(ends: &mut Unlisted) {
        ends.begin();
        ends.end(|owner| owner == LISTED);
    }

    #[test]
    fn who_is_asked_for_is_found() {
        let mut ends = Unlisted::default();
        for cookie in 1..=5 {
            ends.push(cookie, cookie as u32 * 10);
        }
        ends.push(2 + BITS, 70);
        assert_eq!(found(&ends, &[2, 4, 9]), [(2, 20), (4, 40)]);
    }

    #[test]
    fn what_ended_before_a_whole_list_is_forgotten_after_it_and_what_ended_meanwhile_is_not() {
        let mut ends = Unlisted::default();
        ends.push(1, LISTED);
        ends.begin();
        ends.push(2, LISTED);
        assert_eq!(found(&ends, &[1, 2]).len(), 2, "the list itself may ask for both");
        ends.end(|_| true);
        assert_eq!(found(&ends, &[1, 2]), [(2, LISTED)]);
        read(&mut ends);
        assert!(ends.is_empty());
    }

    #[test]
    fn what_no_list_could_show_waits_for_three_more() {
        let mut ends = Unlisted::default();
        let mut left = Vec::new();
        for reading in 0..8 {
            // What is listed lies between those that are not, and goes each time.
            for cookie in [10 * reading, 10 * reading + 1] {
                ends.push(cookie, UNREAD);
                ends.push(1000 + cookie, LISTED);
            }
            read(&mut ends);
            left.push(ends.ends.iter().map(|end| end.cookie).collect::<Vec<_>>());
        }
        assert_eq!(left[0], [0, 1]);
        assert_eq!(left[2], [0, 1, 10, 11, 20, 21]);
        assert_eq!(left[3], [10, 11, 20, 21, 30, 31], "the first ones were missing from four lists");
        assert_eq!(left[7], [50, 51, 60, 61, 70, 71]);
    }

    #[test]
    fn more_than_there_is_room_for_is_not_kept() {
        let mut ends = Unlisted::default();
        for cookie in 0..ENDS_MAX as u64 / 2 {
            ends.push(cookie, LISTED);
        }
        assert!(!ends.is_crowded());
        for cookie in ENDS_MAX as u64 / 2..ENDS_MAX as u64 + 9 {
            ends.push(cookie, LISTED);
        }
        assert!(ends.is_crowded());
        assert_eq!(found(&ends, &[3, ENDS_MAX as u64 - 1, ENDS_MAX as u64]).len(), 2);
        read(&mut ends);
        assert!(ends.ends.capacity() < ENDS_MAX);
    }
}
