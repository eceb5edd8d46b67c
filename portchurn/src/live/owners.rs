//! Whose a socket is: its cookie, or where there is none its four-tuple → the connection that the kernel side followed. What
//! was proven once is remembered for as long as the TIME_WAIT lives, though its place in the table of connections may be
//! another's by then.

use hashbrown::{HashMap, HashSet};
use portchurn_common::conn::{CLOSED, Conn};
use rustix::time::ClockId;

use crate::live::closed::Closed;
use crate::live::owner::{Described, Numbered};
use crate::live::retired::RETIRED_MAX;
use crate::live::roll_call::RollCall;
use crate::live::runs::BuildRuns;
use crate::live::tuples::{End, Tuples};
use crate::live::unlisted::{PATIENCE, Unlisted};
use crate::model::sockets::{Ownership, SocketReading, Unowned};
use crate::sources::clock::now_ns;
use crate::sources::sock_diag::Socket;
use crate::sources::socket_count::{Resolved, Resolver};

/// TIME_WAIT sockets, and ends where sockets have no cookies, that are remembered: as many as a million places take, 18 MB. One more,
/// and the map would double.
const KNOWN_MAX: usize = 7 << 17;
/// Places that are looked at to see how fast the table turns over.
const PROBED_PLACES: usize = 256;
/// Sockets of a list after which the table is looked after.
const HARVEST_EVERY: u32 = 8192;
/// From the moment an end bears until the table shows it: the rest of one BPF program, which a soft interrupt can delay.
const END_MAX_NS: u64 = 50_000_000;
/// Sockets for which no memory is given back.
const KNOWN_SPARE: usize = 4096;

/// What is remembered of one ended connection. Eight bytes, as there may be hundreds of thousands.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// Number of its owner; [`Known::NOBODY`], [`Known::BEFORE`].
    owner: u32,
    /// Number of the reading that listed it last, or during or after which it was found: what ends while a list is read need
    /// not be on it. Wraps, but nothing is remembered for more than a few readings.
    touched: u16,
    /// Whether that reading listed it.
    is_listed: bool,
}

const _: () = assert!(size_of::<Known>() == 8);

impl Known {
    const NOBODY: u32 = u32::MAX;
    const BEFORE: u32 = u32::MAX - 1;
}

/// The memory of owners.
pub struct Owners {
    closed: Closed,
    owners: Numbered,
    /// By cookie, or what stands for one.
    known: HashMap<u64, Known, BuildRuns>,
    /// What may be on the next list.
    unlisted: Unlisted,
    /// Ends that the next harvest comes to once more.
    harvested: HashSet<u64, BuildRuns>,
    /// Sockets that were there at the first reading and that the kernel side does not follow.
    before: HashSet<u64>,
    reading: u32,
    probed: Vec<u64>,
    /// Monotonic clock: what ended before was read out of the table.
    harvested_ns: u64,
    /// Keys that had been taken back when the table was looked after last.
    retired: u64,
    /// Why a socket that is not found was not followed.
    otherwise: Unowned,
    resolved: u32,
    /// `None`: sockets have no cookies here.
    roll_call: Option<RollCall>,
    /// `None`: they have.
    tuples: Option<Tuples>,
}

impl Owners {
    /// Nothing known yet.
    pub fn new(
        closed: Closed,
        otherwise: Unowned,
        roll_call: Option<RollCall>,
        tuples: Option<Tuples>,
    ) -> Self {
        Self {
            closed,
            owners: Numbered::default(),
            known: HashMap::default(),
            unlisted: Unlisted::default(),
            harvested: HashSet::default(),
            before: HashSet::new(),
            reading: 0,
            probed: vec![0; PROBED_PLACES],
            harvested_ns: 0,
            retired: 0,
            otherwise,
            resolved: 0,
            roll_call,
            tuples,
        }
    }

    /// Network namespaces in which something was counted.
    pub fn namespaces(&self) -> Vec<u32> {
        self.closed.namespaces()
    }

    /// A new reading begins. The first is special: what nobody knows then was there before the attach.
    pub fn begin(&mut self) {
        self.reading += 1;
        self.take_ends();
        self.unlisted.begin();
        if let Some(roll_call) = &mut self.roll_call {
            roll_call.begin();
        }
    }

    /// All of it was read: who is open in the books and was not listed?
    pub fn compare(&mut self, reading: &SocketReading) {
        if let Some(roll_call) = &mut self.roll_call {
            roll_call.end(reading);
        }
    }

    /// The reading is over. What it did not list is no TIME_WAIT any more, in the namespaces of which it listed all.
    pub fn end(&mut self, listed: &HashSet<u32>, is_complete: bool) {
        let reading = self.reading as u16;
        let is_listed: Vec<_> = self.owners.netns().map(|netns| listed.contains(&netns)).collect();
        let is_listed = |owner: u32| is_listed.get(owner as usize).copied().unwrap_or(is_complete);
        let before = self.known.len();
        self.known.retain(|_, known| {
            // What one incomplete list missed, the next ones show.
            let patience = if is_listed(known.owner) { 0 } else { PATIENCE };
            usize::from(reading.wrapping_sub(known.touched)) <= patience
        });
        self.unlisted.end(is_listed);
        let kept = self.known.len();
        if before - kept > kept / 4 || self.known.capacity() > 4 * kept + KNOWN_SPARE {
            self.move_known();
        }
        if let Some(tuples) = &mut self.tuples {
            tuples.retain(|id| self.known.contains_key(&id));
        }
        self.forget_unused_owners();
    }

    /// To a map with room for half as much again. What was thrown out keeps its place in the old one, and one that is full of such
    /// places doubles.
    fn move_known(&mut self) {
        let room = (self.known.len() + self.known.len() / 2).min(KNOWN_MAX);
        let mut moved = HashMap::with_capacity_and_hasher(room, BuildRuns::default());
        moved.extend(self.known.drain());
        self.known = moved;
    }

    fn forget_unused_owners(&mut self) {
        let known = self.known.values().map(|known| known.owner);
        if !self.owners.are_mostly_unused(known.chain(self.unlisted.owners())) {
            return;
        }
        let mut renumber = self.owners.renumber();
        for known in self.known.values_mut() {
            known.owner = renumber(known.owner);
        }
        self.unlisted.renumber(renumber);
    }

    /// Remembers the ends that were sent, where no table keeps them.
    fn take_ends(&mut self) {
        let ends = self.tuples.as_mut().map(Tuples::take).unwrap_or_default();
        for End { id, owner } in ends {
            if self.known.len() >= KNOWN_MAX && !self.known.contains_key(&id) {
                continue;
            }
            let owner = self.owners.number(owner);
            self.known.insert(id, Known { owner, touched: self.reading as u16, is_listed: false });
        }
    }

    fn owner_of(&mut self, place: usize, conn: &Conn) -> Option<u32> {
        let described = Described::of(conn, self.closed.sites_of(place, conn));
        self.owners.number_of(described, |key_ref| self.closed.key(key_ref))
    }

    /// Whether there is hardly room for more ends, of which the next reading shows which to keep.
    pub fn is_crowded(&self) -> bool {
        // What a list showed no list clears.
        let is_known_crowded = self.tuples.is_some() && self.known.len() > KNOWN_MAX / 4 * 3;
        self.unlisted.is_crowded() || is_known_crowded
    }

    /// Reads ends out of the table before others take their places, or their keys are forgotten, if it turns over that
    /// fast. To be called a few times a second; it costs a look at some hundred places unless there is reason.
    pub fn harvest(&mut self) {
        if self.tuples.is_some() {
            return self.take_ends();
        }
        let stride = (self.closed.len() / PROBED_PLACES).max(1);
        let places = (0..self.closed.len()).step_by(stride).take(PROBED_PLACES);
        let now: Vec<_> = places.map(|place| self.closed.id_at(place) & !CLOSED).collect();
        let changed = now.iter().zip(&self.probed).filter(|(now, before)| now != before).count();
        let retired = self.closed.retired();
        if changed * 8 < now.len() && retired - self.retired < RETIRED_MAX as u64 / 2 {
            return;
        }
        self.retired = retired;
        self.probed = now;
        // Places that were passed already may end while others are still looked at.
        let next_ns = now_ns(ClockId::Monotonic).saturating_sub(END_MAX_NS);
        let mut again = HashSet::default();
        for place in 0..self.closed.len() {
            let Some(conn) = self.closed.waits_since(place, self.harvested_ns) else { continue };
            let cookie = conn.id & !CLOSED;
            if next_ns <= conn.closed_ns {
                again.insert(cookie);
            }
            if !self.harvested.contains(&cookie)
                && self.unlisted.has_room()
                && let Some(owner) = self.owner_of(place, &conn)
            {
                self.unlisted.push(cookie, owner);
            }
        }
        (self.harvested, self.harvested_ns) = (again, next_ns);
    }

    /// Whether this is a mini-socket of which only the ends that were harvested may tell. They are looked through for many at once.
    pub fn must_recall(&self, socket: &Socket) -> bool {
        let is_known = || self.known.get(&socket.cookie).is_some_and(|known| known.owner != Known::NOBODY);
        socket.expires_ms.is_some() && !self.unlisted.is_empty() && !is_known()
    }

    /// Looks for these among the ends that were harvested.
    pub fn recall(&mut self, sockets: &[Socket]) {
        if sockets.is_empty() {
            return;
        }
        for (cookie, owner) in self.unlisted.find(sockets.iter().map(|socket| socket.cookie)) {
            let before = self.known.get(&cookie).copied();
            if before.is_none() && self.known.len() >= KNOWN_MAX {
                continue;
            }
            // A list may have shown it before its end was written.
            let known = Known { owner, touched: self.reading as u16, is_listed: false };
            self.known.insert(cookie, before.map_or(known, |before| Known { owner, ..before }));
        }
    }

    /// A mini-socket: TIME_WAIT, or FIN_WAIT2 on its way there. `is_its`: whether it may be what the end left that is remembered.
    fn resolve_ended(&mut self, cookie: u64, is_its: bool) -> Resolved {
        let reading = self.reading as u16;
        let before = self.known.get_mut(&cookie).map(|known| {
            let before = *known;
            (known.touched, known.is_listed) = (reading, true);
            before
        });
        let known = match before {
            Some(known) if known.owner == Known::BEFORE || known.owner != Known::NOBODY && is_its => known,
            // What was not found once may have been about to be written.
            _ => {
                let known = Known { owner: self.find_ended(cookie), touched: reading, is_listed: true };
                if before.is_some() || self.known.len() < KNOWN_MAX {
                    self.known.insert(cookie, known);
                }
                known
            }
        };
        let is_repeated = |known: Known| known.touched == reading && known.is_listed;
        self.resolved(known.owner, before.is_some_and(is_repeated))
    }

    fn find_ended(&mut self, cookie: u64) -> u32 {
        let found = self.closed.find(cookie).and_then(|(place, conn)| self.owner_of(place, &conn));
        let is_before = self.reading <= 1 || self.before.contains(&cookie);
        found.unwrap_or(if is_before { Known::BEFORE } else { Known::NOBODY })
    }

    fn resolve_living(&mut self, cookie: u64) -> Resolved {
        let found = self.closed.find(cookie);
        if let Some(roll_call) = &mut self.roll_call {
            roll_call.answer(cookie, found.map(|(place, _)| place));
        }
        if found.is_none() && self.reading <= 1 {
            self.before.insert(cookie);
        }
        let owner = found.and_then(|(place, conn)| self.owner_of(place, &conn)).unwrap_or(Known::NOBODY);
        Resolved { closed: None, closed_by_other: false, ..self.resolved(owner, false) }
    }

    fn resolved(&self, number: u32, repeated: bool) -> Resolved {
        let owner = self.owners.get(number);
        let ownership = match owner {
            // Accepted by nobody that is known: the connection was followed, its owner never showed.
            Some(owner) if owner.key.tgid == 0 => Ownership::Unowned(Unowned::NotFollowed),
            Some(_) => Ownership::Owned,
            None if number == Known::BEFORE => Ownership::BeforeAttach,
            None => Ownership::Unowned(self.otherwise),
        };
        Resolved {
            ownership,
            key: owner.map(|owner| owner.key),
            sites: owner.map(|owner| owner.sites).unwrap_or_default(),
            closed: owner.and_then(|owner| owner.closed),
            closed_by_other: owner.is_some_and(|owner| owner.closed_by_other),
            bound: owner.is_some_and(|owner| owner.bound),
            repeated,
        }
    }
}

impl Owners {
    /// What it is remembered by, and whether it may be what the end left that is remembered. What ended a moment ago may not be yet.
    fn identify(&mut self, netns: u32, socket: &Socket) -> (u64, bool) {
        let Some(tuples) = &self.tuples else { return (socket.cookie, true) };
        let id = tuples.id_of(netns, socket);
        if socket.expires_ms.is_some() && !tuples.may_be(id, socket) {
            self.take_ends();
        }
        let is_its = self.tuples.as_ref().is_some_and(|tuples| tuples.may_be(id, socket));
        (id, is_its)
    }
}

impl Resolver for Owners {
    fn resolve(&mut self, netns: u32, socket: &Socket) -> Resolved {
        self.resolved = self.resolved.wrapping_add(1);
        // A long list on a busy host takes seconds, in which the table may turn over.
        if self.resolved.is_multiple_of(HARVEST_EVERY) {
            self.harvest();
        }
        let (id, is_its) = self.identify(netns, socket);
        if socket.expires_ms.is_some() { self.resolve_ended(id, is_its) } else { self.resolve_living(id) }
    }
}
