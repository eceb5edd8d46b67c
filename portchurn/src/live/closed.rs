//! What the table of connections still says of a connection that may have ended: by the socket cookie, which the kernel
//! keeps in TIME_WAIT, its place is found by arithmetic. A place that another connection took says nothing.

use std::sync::atomic::{AtomicU64, Ordering, fence};

use anyhow::Result;
use aya::Ebpf;
use portchurn_common::conn::{BUSY, CLOSED, Conn, ConnSites, PROBES, flag, place};
use portchurn_common::flow::{ChurnKey, KeyRef, KeySlot};

use crate::live::retired::Retired;
use crate::live::sizes::Sizes;
use crate::live::tables::Table;
use crate::model::sockets::SitePair;
use crate::sources::procfs::cut_to_ticks;

/// The connections, living and ended, and whose they are. A clone looks at the same memory, on any thread.
#[derive(Clone)]
pub struct Closed {
    conns: Table<Conn>,
    sites: Table<ConnSites>,
    slots: Table<KeySlot>,
    retired: Retired,
}

impl Closed {
    /// Maps the table of connections; who they are counted under is in `slots`.
    pub fn new(ebpf: &Ebpf, sizes: &Sizes, slots: Table<KeySlot>, retired: Retired) -> Result<Self> {
        let conns = Table::map(ebpf, "CONNS", sizes.conns)?;
        Ok(Self { conns, sites: Table::map(ebpf, "CONN_SITES", sizes.conn_sites)?, slots, retired })
    }

    /// The table of connections, for who fills it in.
    pub fn conns(&self) -> Table<Conn> {
        self.conns.clone()
    }

    /// How many places there are.
    pub fn len(&self) -> usize {
        self.conns.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.conns.is_empty()
    }

    /// The connection with this cookie, and its place, as long as that is its own.
    pub fn find(&self, cookie: u64) -> Option<(usize, Conn)> {
        let mask = self.conns.len() as u32 - 1;
        let place = (0..PROBES)
            .map(|probe| place(cookie, probe, mask) as usize)
            .find(|&place| self.id_at(place) & !CLOSED == cookie)?;
        self.at(place).filter(|conn| conn.id & !CLOSED == cookie).map(|conn| (place, conn))
    }

    /// Where in the code the connection at a place was opened and closed. Nothing, if the place is another one's by now:
    /// a writer changes `id` before all else, so what was read between two equal ids belongs together.
    pub fn sites_of(&self, place: usize, conn: &Conn) -> SitePair {
        let cookie = conn.id & !CLOSED;
        if place >= self.sites.len() || cookie == 0 {
            return SitePair::default();
        }
        let sites = self.sites.get(place);
        fence(Ordering::Acquire);
        let entry = self.sites.entry(place);
        // SAFETY: inside the mapping.
        let id_after = unsafe { (&raw const (*entry).id).read_volatile() };
        if sites.id != cookie || id_after != cookie {
            return SitePair::default();
        }
        SitePair { opened: sites.opened, closed: sites.closed }
    }

    /// The identity at a place.
    pub fn id_at(&self, place: usize) -> u64 {
        let conn = self.conns.entry(place);
        // SAFETY: inside the mapping.
        unsafe { (&raw const (*conn).id).read_volatile() }
    }

    /// The connection at a place; `None` if there is none, or it is being replaced at this moment. A claimer changes
    /// `id` before all else, so what was read between two equal ids belongs together.
    pub fn at(&self, place: usize) -> Option<Conn> {
        let conn = self.conns.get(place);
        fence(Ordering::Acquire);
        (conn.id != 0 && conn.id & BUSY == 0 && self.id_at(place) == conn.id).then_some(conn.plain())
    }

    /// The connection at a place, if it ended at this moment or later and left a TIME_WAIT. Looks before it copies: of a whole
    /// table few did.
    pub fn waits_since(&self, place: usize, since_ns: u64) -> Option<Conn> {
        let entry = self.conns.entry(place);
        // SAFETY: inside the mapping.
        let (id, flags, closed_ns) = unsafe {
            (
                (&raw const (*entry).id).read_volatile(),
                (&raw const (*entry).flags).read_volatile(),
                (&raw const (*entry).closed_ns).read_volatile(),
            )
        };
        let waits =
            |id, flags, closed_ns| id & CLOSED != 0 && flags & flag::TIME_WAIT != 0 && since_ns <= closed_ns;
        if !waits(id, flags, closed_ns) {
            return None;
        }
        self.at(place).filter(|conn| waits(conn.id, conn.flags, conn.closed_ns))
    }

    /// Marks the open connection at a place as ended, as the kernel side does at CLOSE. False: it did so itself meanwhile.
    pub fn end(&self, place: usize, cookie: u64) -> bool {
        let entry = self.conns.entry(place);
        // SAFETY: an aligned word inside the mapping; the kernel side changes it whole, too.
        let id = unsafe { AtomicU64::from_ptr(&raw mut (*entry).id) };
        id.compare_exchange(cookie, cookie | CLOSED, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Under which key a connection counts; `None` when that was too long ago, or the key table was full.
    pub fn key(&self, key_ref: KeyRef) -> Option<ChurnKey> {
        if key_ref == KeyRef::OVERFLOW || key_ref == KeyRef::FILTERED {
            return None;
        }
        let slot = self.slots.get((key_ref.index() as usize).min(self.slots.len() - 1));
        let key = if slot.key_ref == key_ref && slot.key.role != 0 {
            Some(slot.key)
        } else {
            self.retired.find(key_ref)
        };
        key.map(|key| ChurnKey { start_ns: cut_to_ticks(key.start_ns), ..key })
    }

    /// How many keys were taken back so far.
    pub fn retired(&self) -> u64 {
        self.retired.noted()
    }

    /// Network namespaces of the keys in use.
    pub fn namespaces(&self) -> Vec<u32> {
        let slots = (0..self.slots.len()).map(|index| self.slots.get(index).key);
        let mut found: Vec<_> = slots.filter(|key| key.role != 0).map(|key| key.netns).collect();
        found.sort_unstable();
        found.dedup();
        found
    }
}
