//! TIME_WAIT sockets of a server that go before their time: the peer connects from the same port again, and its SYN takes
//! them over. No counter of the kernel tells. How often it happens depends on how many ports the peers have, which nobody
//! here knows, so each list teaches it: what is missing from it, for each connection that was accepted since the one before.

use hashbrown::HashMap;
use portchurn_common::flow::{ChurnKey, Role};

use crate::model::sample::Counts;
use crate::model::sockets::SocketReading;

/// Below so many connections a list teaches nothing.
const ACCEPTED_MIN: f64 = 10.0;

/// The port of a server.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct ServerPort {
    /// Network namespace.
    pub netns: u32,
    /// Local port.
    pub port: u16,
}

impl ServerPort {
    /// Of the side that accepted; `None`: it connected.
    pub fn of(key: &ChurnKey) -> Option<Self> {
        (key.role == Role::Accept as u8).then_some(Self { netns: key.netns, port: key.port })
    }
}

#[derive(Debug, Default)]
struct Peers {
    /// Of the connections the share that comes from a port that waits.
    share: f64,
    /// Accepted since the list.
    accepted: f64,
    /// Of these in the latest interval.
    latest: f64,
    /// TIME_WAIT made since the list.
    entered: f64,
}

/// What was learned of each server port.
#[derive(Debug, Default)]
pub struct Recycling {
    ports: HashMap<ServerPort, Peers>,
}

impl Recycling {
    /// Takes in what an interval saw; `after_reading` is the share of it that lies after the latest list.
    pub fn apply(&mut self, churn: &[(ChurnKey, Counts)], after_reading: f64) {
        self.ports.values_mut().for_each(|peers| peers.latest = 0.0);
        for (key, counts) in churn.iter().filter(|(_, counts)| counts.accepted > 0 || counts.time_wait > 0) {
            let Some(port) = ServerPort::of(key) else { continue };
            let peers = self.ports.entry(port).or_default();
            peers.latest += counts.accepted as f64 * after_reading;
            peers.accepted += counts.accepted as f64 * after_reading;
            peers.entered += counts.time_wait as f64 * after_reading;
        }
    }

    /// Whether any sockets went in the latest interval.
    pub fn has_taken(&self) -> bool {
        self.ports.keys().any(|&port| self.taken(port).is_some())
    }

    /// How many sockets went in the latest interval, where any did.
    pub fn taken(&self, port: ServerPort) -> Option<f64> {
        self.ports.get(&port).map(|peers| peers.latest * peers.share).filter(|&taken| taken > 0.0)
    }

    /// Learns from a new list. `kept`: how many of the list before should still be there by their timers, at least. `has_room`:
    /// whether every end of a network namespace left a TIME_WAIT.
    pub fn learn(
        &mut self,
        kept: &HashMap<ServerPort, f64>,
        reading: &SocketReading,
        has_room: impl Fn(u32) -> bool,
    ) {
        let listed = listed(reading);
        let whole = reading.namespaces.iter().filter(|there| there.is_whole() && has_room(there.netns));
        // Those that wait for the peer's FIN came, too, and are not listed with the others.
        let closing: HashMap<u32, f64> = whole.map(|there| (there.netns, f64::from(there.closing))).collect();
        self.ports.retain(|_, peers| peers.accepted > 0.0);
        for (port, peers) in &mut self.ports {
            if let Some(closing) = closing.get(&port.netns).filter(|_| peers.accepted >= ACCEPTED_MIN) {
                let of = |sums: &HashMap<ServerPort, f64>| sums.get(port).copied().unwrap_or(0.0);
                let missing = of(kept) + peers.entered - of(&listed) - closing;
                peers.share = (missing / peers.accepted).clamp(0.0, 1.0);
            }
            *peers = Peers { share: peers.share, ..Peers::default() };
        }
    }
}

fn listed(reading: &SocketReading) -> HashMap<ServerPort, f64> {
    let mut sums = HashMap::new();
    for group in reading.namespaces.iter().flat_map(|namespace| &namespace.time_wait) {
        if let Some(port) = ServerPort::of(&group.key) {
            *sums.entry(port).or_default() += f64::from(group.count);
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use hashbrown::HashMap;
    use portchurn_common::flow::{ChurnKey, Role};

    use super::{Recycling, ServerPort};
    use crate::model::sample::Counts;
    use crate::model::sockets::{AGE_STEPS, NamespaceReading, Ownership, SocketReading, TimeWaitGroup};

    const PORT: ServerPort = ServerPort { netns: 5, port: 80 };

    fn key() -> ChurnKey {
        ChurnKey { tgid: 7, netns: 5, port: 80, role: Role::Accept as u8, ..ChurnKey::default() }
    }

    fn list(count: u32) -> SocketReading {
        let group = TimeWaitGroup {
            ownership: Ownership::Owned,
            key: key(),
            count,
            closed_local: count,
            closed_exit: 0,
            closed_both: 0,
            closed_by_other: 0,
            ages: [0; AGE_STEPS],
            sites: Vec::new(),
        };
        let there = NamespaceReading { netns: 5, time_wait: vec![group], ..NamespaceReading::default() };
        SocketReading { namespaces: vec![there], ..SocketReading::default() }
    }

    /// What goes of a hundred more, after a hundred were accepted and the list had `kept` before and `reading` after.
    fn taken(kept: f64, reading: &SocketReading, has_room: bool) -> Option<f64> {
        let mut recycling = Recycling::default();
        let hundred = [(key(), Counts { accepted: 100, time_wait: 100, ..Counts::ZERO })];
        recycling.apply(&hundred, 1.0);
        assert_eq!(recycling.taken(PORT), None, "nothing is foretold before a list has taught it");
        recycling.learn(&HashMap::from([(PORT, kept)]), reading, |_| has_room);
        recycling.apply(&hundred, 1.0);
        recycling.taken(PORT)
    }

    #[test]
    fn what_a_list_lacks_is_expected_to_go_again() {
        assert_eq!(taken(500.0, &list(500), true), Some(100.0), "each met one that waited");
        assert_eq!(taken(500.0, &list(560), true), Some(40.0));
    }

    #[test]
    fn where_nothing_is_missing_nothing_goes() {
        assert_eq!(taken(500.0, &list(600), true), None);
        assert_eq!(taken(500.0, &list(700), true), None, "a filter left some out");
    }

    #[test]
    fn a_list_that_lacks_some_for_another_reason_teaches_nothing() {
        assert_eq!(taken(500.0, &list(500), false), None, "the namespace was full");
        let mut cut = list(500);
        cut.namespaces[0].truncated = true;
        assert_eq!(taken(500.0, &cut, true), None);
        let mut closing = list(500);
        closing.namespaces[0].closing = 100;
        assert_eq!(taken(500.0, &closing, true), None, "they wait for the peer's FIN");
    }

    #[test]
    fn connects_are_none_of_it() {
        assert_eq!(ServerPort::of(&ChurnKey { role: Role::Connect as u8, ..key() }), None);
    }
}
