//! Where connections go or come from, and what was counted of each. Bounded: beyond a limit destinations are folded together.

use hashbrown::HashMap;
use portchurn_common::flow::{Address, ChurnKey, Role};

use crate::model::sample::Counts;
use crate::model::site::Sites;

/// Destinations that are kept one by one, for each process and each program.
pub const DESTINATIONS_MAX: usize = 8192;

/// A remote address and port that is connected to, or a local port that is accepted on.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct DestinationKey {
    /// Which side of the handshake.
    pub role: Role,
    /// Network namespace, inode number.
    pub netns: u32,
    /// Connect: remote address; unspecified for accepts and for what was folded together.
    pub remote: Address,
    /// Connect: remote port. Accept: local port. 0 for what was folded together.
    pub port: u16,
}

impl DestinationKey {
    /// That of a key.
    pub fn of(key: &ChurnKey) -> Self {
        let role = Role::from_raw(key.role).unwrap_or(Role::Connect);
        Self { role, netns: key.netns, remote: key.remote, port: key.port }
    }

    /// Where destinations go for which there is no room.
    pub fn folded(self) -> Self {
        Self { remote: Address::UNSPECIFIED, port: 0, netns: 0, ..self }
    }
}

/// Counts of one destination: since the attach, and in the window.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Since the attach.
    pub counts: Counts,
    /// Where in the code, since the attach.
    pub sites: Sites,
    /// In the window with number `window`.
    recent: Recent,
    window: u64,
}

/// What happened in one window.
#[derive(Clone, Copy, Debug, Default)]
pub struct Recent {
    /// Connects established.
    pub opened: u64,
    /// Passive opens established.
    pub accepted: i64,
    /// Connections ended.
    pub closed: u64,
    /// Connects failed.
    pub failed: u64,
}

impl Recent {
    /// Adds another destination's.
    pub fn add(&mut self, other: Self) {
        self.opened += other.opened;
        self.accepted += other.accepted;
        self.closed += other.closed;
        self.failed += other.failed;
    }
}

impl Stats {
    /// Adds what was counted in a window.
    pub fn record(&mut self, counts: &Counts, window: u64) {
        self.counts.add(counts);
        if self.window != window {
            (self.window, self.recent) = (window, Recent::default());
        }
        self.recent.add(Recent {
            opened: counts.opened,
            accepted: counts.accepted,
            closed: counts.closed_total(),
            failed: counts.failed,
        });
    }

    /// Adds another destination's.
    pub fn merge(&mut self, other: &Self) {
        self.counts.add(&other.counts);
        self.sites.merge(&other.sites);
        match self.window.cmp(&other.window) {
            std::cmp::Ordering::Less => (self.window, self.recent) = (other.window, other.recent),
            std::cmp::Ordering::Equal => self.recent.add(other.recent),
            std::cmp::Ordering::Greater => {}
        }
    }

    /// Whether there is anything to tell. A connection that moved to its real owner leaves an empty place behind.
    pub fn is_used(&self) -> bool {
        let counts = &self.counts;
        let lost = counts.lost + counts.accepts_lost;
        let begun = counts.attempts + counts.opened + counts.failed + lost + counts.closed_total();
        begun > 0 || counts.accepted != 0 || counts.before_attach != 0
    }

    /// What happened in the window with this number.
    pub fn recent(&self, window: u64) -> Recent {
        if self.window == window { self.recent } else { Recent::default() }
    }
}

/// Stats by destination, bounded. Boxed, as a map with one entry has room for four, and most processes have one.
pub type Destinations = HashMap<DestinationKey, Box<Stats>>;

/// The place of a destination, or where all go for which there is no room.
pub fn bounded(destinations: &mut Destinations, key: DestinationKey) -> &mut Stats {
    let has_room = destinations.len() < DESTINATIONS_MAX || destinations.contains_key(&key);
    destinations.entry(if has_room { key } else { key.folded() }).or_default()
}
