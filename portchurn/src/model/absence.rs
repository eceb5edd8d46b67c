//! Connections whose end nobody saw (decision 0004): open in the books, and on no list of the kernel. Which are missing is for
//! others to find; here it is said when that is proof.

use hashbrown::HashMap;
use portchurn_common::conn::{Conn, flag};

/// How old a connection is when a list must show it, and how long one must be missing. The kernel takes a socket out of its
/// table just before it says that it closes. Nanoseconds.
const MOMENT_NS: u64 = 1_000_000_000;

/// Where the books have a connection.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Entry {
    /// Its place in the table; `None`: it is kept by its cookie alone.
    pub place: Option<usize>,
    /// Its cookie.
    pub cookie: u64,
}

/// Those that were missing in the last complete list.
#[derive(Debug, Default)]
pub struct Absences {
    /// What the books said then, and when they were missing first. Nanoseconds, CLOCK_MONOTONIC.
    missing: HashMap<Entry, (Conn, u64)>,
}

impl Absences {
    /// Whether a complete list that was begun then has to show this connection, if it lives.
    pub fn is_due(conn: &Conn, began_ns: u64) -> bool {
        conn.flags & flag::ESTABLISHED != 0 && conn.opened_ns.saturating_add(MOMENT_NS) < began_ns
    }

    /// Whether anybody was missing in the last list: the next one tells whether they are gone.
    pub fn is_pending(&self) -> bool {
        !self.missing.is_empty()
    }

    /// Takes in who is missing from a complete list. Gone are those that were missing in the list before, too, if the books
    /// have said the same of them all the time.
    pub fn judge(
        &mut self,
        missing: impl IntoIterator<Item = (Entry, Conn)>,
        began_ns: u64,
    ) -> Vec<(Entry, Conn)> {
        let before = std::mem::take(&mut self.missing);
        let mut gone = Vec::new();
        for (entry, conn) in missing {
            let since_ns = match before.get(&entry) {
                Some((known, since_ns)) if *known == conn => *since_ns,
                _ => began_ns,
            };
            if began_ns.saturating_sub(since_ns) >= MOMENT_NS {
                gone.push((entry, conn));
            } else {
                self.missing.insert(entry, (conn, since_ns));
            }
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use portchurn_common::conn::{Conn, flag};

    use super::{Absences, Entry, MOMENT_NS};

    const S: u64 = MOMENT_NS;

    fn conn(cookie: u64, opened_ns: u64) -> (Entry, Conn) {
        let flags = flag::CONNECT | flag::ESTABLISHED;
        (Entry { place: Some(7), cookie }, Conn { id: cookie, opened_ns, flags, ..Conn::default() })
    }

    #[test]
    fn who_is_missing_twice_is_gone_and_is_said_once() {
        let mut absences = Absences::default();
        assert!(absences.judge([conn(1, 0), conn(2, 0)], 10 * S).is_empty());
        assert!(absences.is_pending());
        assert_eq!(absences.judge([conn(1, 0), conn(2, 0)], 12 * S), [conn(1, 0), conn(2, 0)]);
        assert!(!absences.is_pending());
    }

    #[test]
    fn who_is_there_again_was_only_overlooked() {
        let mut absences = Absences::default();
        for round in 1..9 {
            // A list that is cut into parts may pass one by, once in a while.
            let missing = (round % 2 == 0).then(|| conn(1, 0));
            assert!(absences.judge(missing, round * 10 * S).is_empty());
        }
    }

    #[test]
    fn two_lists_at_one_moment_are_one() {
        let mut absences = Absences::default();
        assert!(absences.judge([conn(1, 0)], 10 * S).is_empty());
        assert!(absences.judge([conn(1, 0)], 10 * S + S / 2).is_empty());
        assert_eq!(absences.judge([conn(1, 0)], 11 * S).len(), 1);
    }

    #[test]
    fn what_changed_meanwhile_begins_anew() {
        let mut absences = Absences::default();
        absences.judge([conn(1, 0)], 10 * S);
        let (entry, known) = conn(1, 0);
        let closing = Conn { closer_tgid: 5, ..known };
        assert!(absences.judge([(entry, closing)], 12 * S).is_empty());
        assert_eq!(absences.judge([(entry, closing)], 14 * S), [(entry, closing)]);
    }

    #[test]
    fn only_what_was_established_before_the_list_is_due() {
        let (_, open) = conn(1, 5 * S);
        assert!(Absences::is_due(&open, 7 * S));
        assert!(!Absences::is_due(&open, 5 * S), "it began meanwhile");
        assert!(!Absences::is_due(&Conn { flags: flag::CONNECT, ..open }, 7 * S), "it is still connecting");
        let (_, early) = conn(1, 0);
        assert!(Absences::is_due(&early, 7 * S), "from before the attach: nobody knows when it began");
    }
}
