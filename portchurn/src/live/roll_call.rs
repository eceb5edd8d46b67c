//! Calls the roll of the open connections while the kernel's tables are listed: who is open in the books and on no list ended
//! where no program saw it (decision 0004). It asks for no list of its own, and whatever it does not know for certain it
//! leaves alone: namespaces that were not listed whole, connections without a cookie.

use std::collections::{HashMap as StdHashMap, HashSet};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use aya::maps::{HashMap, MapData};
use portchurn_common::conn::{CLOSED, Conn};
use portchurn_common::flow::KeyRef;

use crate::live::closed::Closed;
use crate::model::absence::{Absences, Entry};
use crate::model::sockets::{NamespaceReading, SocketReading};

/// How often, unless somebody was missing: it looks at every place of the table, which takes a millisecond.
const EVERY: Duration = Duration::from_secs(10);

/// The roll.
pub struct RollCall {
    closed: Closed,
    /// Connections that have no place in the table, by cookie: those from before the attach, and overflow.
    apart: HashMap<MapData, u64, Conn>,
    /// By place: whether the connection there was listed as living.
    present: Vec<bool>,
    present_apart: StdHashMap<u64, bool>,
    is_on: bool,
    next: Instant,
    absences: Absences,
    gone: Sender<KeyRef>,
}

impl RollCall {
    /// Under which key each connection counts whose end nobody saw goes to `gone`.
    pub fn new(closed: Closed, apart: HashMap<MapData, u64, Conn>, gone: Sender<KeyRef>) -> Self {
        Self {
            closed,
            apart,
            present: Vec::new(),
            present_apart: StdHashMap::new(),
            is_on: false,
            next: Instant::now(),
            absences: Absences::default(),
            gone,
        }
    }

    /// The tables are about to be listed.
    pub fn begin(&mut self) {
        self.is_on = Instant::now() >= self.next || self.absences.is_pending();
        if self.is_on {
            self.present.clear();
            self.present.resize(self.closed.len(), false);
            self.present_apart = self.apart.keys().flatten().map(|cookie| (cookie, false)).collect();
        }
    }

    /// A living socket was listed; `place`: where the table has it.
    pub fn answer(&mut self, cookie: u64, place: Option<usize>) {
        if !self.is_on {
            return;
        }
        if let Some(present) = place.and_then(|place| self.present.get_mut(place)) {
            *present = true;
        }
        // The place may be that of an earlier life of the same socket.
        if let Some(present) = self.present_apart.get_mut(&cookie) {
            *present = true;
        }
    }

    /// The tables were listed.
    pub fn end(&mut self, reading: &SocketReading) {
        if !std::mem::take(&mut self.is_on) {
            return;
        }
        self.next = Instant::now() + EVERY;
        let is_usable = |one: &&NamespaceReading| one.is_whole() && one.netns != 0;
        let whole: HashSet<u32> = reading.namespaces.iter().filter(is_usable).map(|one| one.netns).collect();
        let mut missing = self.missing();
        missing.retain(|(_, conn)| {
            let netns = || self.closed.key(conn.key_ref).map(|key| key.netns);
            Absences::is_due(conn, reading.began_ns) && netns().is_some_and(|netns| whole.contains(&netns))
        });
        for (entry, conn) in self.absences.judge(missing, reading.began_ns) {
            if self.strike_out(entry) {
                // Nobody listens any more when the tracer ends.
                let _ = self.gone.send(conn.key_ref);
            }
        }
    }

    /// Open in the books now, and not listed.
    fn missing(&self) -> Vec<(Entry, Conn)> {
        let absent = self.present.iter().enumerate().filter(|(_, present)| !**present);
        let is_open = |place: usize| {
            let id = self.closed.id_at(place);
            id != 0 && id & CLOSED == 0
        };
        let placed = absent.filter(|(place, _)| is_open(*place)).filter_map(|(place, _)| {
            let conn = self.closed.at(place).filter(|conn| conn.id & CLOSED == 0)?;
            // Of two lives of one socket only the first place answers to its name.
            let (first, _) = self.closed.find(conn.id)?;
            (first == place).then_some((Entry { place: Some(place), cookie: conn.id }, conn))
        });
        let absent_apart = self.present_apart.iter().filter(|(_, present)| !**present);
        let apart = absent_apart.filter_map(|(&cookie, _)| {
            Some((Entry { place: None, cookie }, self.apart.get(&cookie, 0).ok()?.plain()))
        });
        placed.chain(apart).collect()
    }

    /// False: the kernel side saw it end at this moment.
    fn strike_out(&mut self, entry: Entry) -> bool {
        match entry.place {
            Some(place) => self.closed.end(place, entry.cookie),
            None => self.apart.remove(&entry.cookie).is_ok(),
        }
    }
}
