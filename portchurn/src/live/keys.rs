//! The life of keys on the user side: handing out references, reading what was counted under them, and taking them back
//! when their process is gone, so that turnover of processes never fills the table.

use std::collections::HashMap as StdHashMap;
use std::collections::hash_map::Entry;

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::maps::{HashMap, MapData, Queue};
use portchurn_common::counters::Counters;
use portchurn_common::flow::{ChurnKey, KeyRef, KeySlot, ListenKey, Listener, Role};

use crate::live::retired::Retired;
use crate::live::sizes::Sizes;
use crate::live::tables::Table;
use crate::model::sample::{Counts, ProcessId};
use crate::sources::procfs::cut_to_ticks;

/// A key of a living process is taken back when nothing happened for this long. Nanoseconds.
const IDLE_NS: u64 = 300 * 1_000_000_000;

/// Hands out every reference but [`KeyRef::OVERFLOW`].
pub fn fill_free_keys(ebpf: &mut Ebpf, keys: u32) -> Result<()> {
    let map = ebpf.map_mut("FREE_KEYS").context("the BPF object has no map FREE_KEYS")?;
    let mut free: Queue<_, KeyRef> = Queue::try_from(map)?;
    for index in 1..keys {
        free.push(KeyRef::new(index, 0), 0).context("fill FREE_KEYS")?;
    }
    Ok(())
}

/// What is remembered of one entry between two readings.
#[derive(Default)]
struct Known {
    key_ref: KeyRef,
    key: ChurnKey,
    /// Sum over the shards, as last read.
    sum: Counters,
    changed_ns: u64,
    /// Connections whose end nobody saw. Wraps as the counters do.
    unseen: u32,
    /// Taken out of `KEYS`, so that no new connection finds it; waiting for the last run that may have.
    retiring: bool,
}

impl Known {
    /// Connections that still hold the reference, connects in progress included. Wrapping counters give a wrapping
    /// difference, which is right as long as it is below 2³¹.
    fn held(&self) -> u32 {
        let sum = &self.sum;
        let closed = sum.closed.iter().fold(0u32, |total, &count| total.wrapping_add(count));
        let begun = sum.attempts.wrapping_add(sum.accepted).wrapping_add(sum.before_attach);
        // What was lost sight of counts as an attempt, but not as accepted.
        let lost = if self.key.role == Role::Connect as u8 { sum.lost } else { 0 };
        begun.wrapping_sub(sum.failed).wrapping_sub(lost).wrapping_sub(closed).wrapping_sub(self.unseen)
    }
}

/// All keys.
pub struct Keys {
    slots: Table<KeySlot>,
    churn: Table<Counters>,
    by_key: HashMap<MapData, ChurnKey, KeyRef>,
    free: Queue<MapData, KeyRef>,
    listeners: HashMap<MapData, ListenKey, Listener>,
    retired: Retired,
    shards: usize,
    known: Vec<Option<Box<Known>>>,
    /// How many keys a process has.
    by_process: StdHashMap<ProcessId, u32>,
}

impl Keys {
    /// Takes over the maps that keys live in.
    pub fn new(ebpf: &mut Ebpf, sizes: &Sizes) -> Result<Self> {
        let shards = 1usize << sizes.shards_log2;
        Ok(Self {
            slots: Table::map(ebpf, "KEY_SLOTS", sizes.keys)?,
            churn: Table::map(ebpf, "CHURN", sizes.keys << sizes.shards_log2)?,
            by_key: HashMap::try_from(take(ebpf, "KEYS")?)?,
            free: Queue::try_from(take(ebpf, "FREE_KEYS")?)?,
            listeners: HashMap::try_from(take(ebpf, "LISTENERS")?)?,
            retired: Retired::default(),
            shards,
            known: std::iter::repeat_with(|| None).take(sizes.keys as usize).collect(),
            by_process: StdHashMap::new(),
        })
    }

    /// The table of keys, to look at.
    pub fn slots(&self) -> Table<KeySlot> {
        self.slots.clone()
    }

    /// For so many there is room.
    pub fn room(&self) -> usize {
        self.slots.len()
    }

    /// What references meant that were taken back.
    pub fn retired(&self) -> Retired {
        self.retired.clone()
    }

    /// What was counted since the last call, for each key that changed.
    pub fn read(&mut self, now_ns: u64) -> Vec<(ChurnKey, Counts)> {
        let mut changed = Vec::new();
        for index in 0..self.slots.len() {
            if let Some(change) = self.read_one(index, now_ns) {
                changed.push(change);
            }
        }
        changed
    }

    fn read_one(&mut self, index: usize, now_ns: u64) -> Option<(ChurnKey, Counts)> {
        let slot = self.slots.get(index);
        let is_used = slot.key.role != 0 || index == KeyRef::OVERFLOW.index() as usize;
        if !is_used {
            return None;
        }
        if !self.has_changed(index) {
            if self.known[index].is_none() && self.is_whole(&slot) {
                self.know(index, &slot, now_ns);
            }
            return None;
        }
        let sum = self.sum(index);
        let known = self.know(index, &slot, now_ns);
        let counts = Counts::between(Role::from_raw(slot.key.role), &known.sum, &sum);
        known.sum = sum;
        Some((cut(slot.key), counts))
    }

    /// Notes whose index this is. What was counted for it stays as it was read last: nothing, if it is new.
    fn know(&mut self, index: usize, slot: &KeySlot, now_ns: u64) -> &mut Known {
        if self.known[index].is_none() {
            *self.by_process.entry(ProcessId::of(&cut(slot.key))).or_default() += 1;
        }
        let known = self.known[index].get_or_insert_default();
        known.key_ref = slot.key_ref;
        known.key = slot.key;
        known.changed_ns = now_ns;
        known
    }

    /// Whether a key under which nothing was counted yet is all written: the kernel side enters it in the table before it fills
    /// the slot. It may stay like that, as of a listener that nobody connected to, and must be known to be taken back.
    fn is_whole(&self, slot: &KeySlot) -> bool {
        slot.key.role != 0 && self.by_key.get(&slot.key, 0).is_ok_and(|found| found == slot.key_ref)
    }

    /// Compares the first cache line only: every event touches it.
    fn has_changed(&self, index: usize) -> bool {
        let before = self.known[index].as_ref().map_or(&Counters::ZERO, |known| &known.sum);
        let mut now = [0u32; SUMMARY_WORDS];
        for shard in 0..self.shards {
            let entry = self.churn.entry(index * self.shards + shard).cast::<u32>();
            for (word, total) in now.iter_mut().enumerate() {
                // SAFETY: the summary is the first part of an entry.
                let one = unsafe { entry.add(word).read_volatile() };
                // Of the shards' maxima the greatest counts; their sum would look like a change for ever.
                *total = if word >= FIRST_MAXIMUM { one.max(*total) } else { total.wrapping_add(one) };
            }
        }
        now != summary(before)
    }

    fn sum(&self, index: usize) -> Counters {
        let mut sum = Counters::ZERO;
        for shard in 0..self.shards {
            add(&mut sum, &self.churn.get(index * self.shards + shard));
        }
        sum
    }

    /// Takes back what nobody needs: keys of ended processes and long idle ones. In two steps, at least one reading
    /// apart, because a run of the kernel side may have looked the reference up just before it was taken out.
    pub fn retire(&mut self, now_ns: u64, has_ended: impl Fn(ProcessId) -> bool) -> Result<()> {
        for index in 1..self.known.len() {
            let Some(known) = self.known[index].as_deref() else { continue };
            let is_due = || {
                let is_idle = now_ns.saturating_sub(known.changed_ns) > IDLE_NS;
                is_idle || has_ended(ProcessId::of(&cut(known.key)))
            };
            // Whether it is listened on is asked last: that is a call of the kernel's.
            if known.held() != 0 || !known.retiring && !is_due() || self.is_listened_on(known) {
                continue;
            }
            if known.retiring {
                self.recycle(index)?;
            } else {
                self.take_out(index);
            }
        }
        Ok(())
    }

    /// Whether anything may still be counted for this process.
    pub fn has_keys(&self, id: ProcessId) -> bool {
        self.by_process.contains_key(&id)
    }

    /// A listener hands its reference to what arrives, without looking the key up.
    fn is_listened_on(&self, known: &Known) -> bool {
        if known.key.role != Role::Accept as u8 {
            return false;
        }
        let listen_key = ListenKey { netns: known.key.netns, port: known.key.port, zero: 0 };
        self.listeners.get(&listen_key, 0).is_ok_and(|listener| listener.key_ref == known.key_ref)
    }

    fn take_out(&mut self, index: usize) {
        let Some(known) = self.known[index].as_deref_mut() else { return };
        if self.by_key.get(&known.key, 0).is_ok_and(|found| found == known.key_ref) {
            let _ = self.by_key.remove(&known.key);
        }
        known.retiring = true;
    }

    fn recycle(&mut self, index: usize) -> Result<()> {
        if self.has_changed(index) {
            return Ok(());
        }
        let Some(known) = self.known[index].take() else { return Ok(()) };
        if let Entry::Occupied(mut count) = self.by_process.entry(ProcessId::of(&cut(known.key))) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        for shard in 0..self.shards {
            self.churn.set(index * self.shards + shard, Counters::ZERO);
        }
        self.retired.note(known.key_ref, known.key);
        self.slots.set(index, KeySlot::default());
        let next = KeyRef::new(known.key_ref.index(), known.key_ref.generation().wrapping_add(1));
        self.free.push(next, 0).context("give a key back")
    }

    /// Counts a connection whose end nobody saw. To be called after [`Keys::read`], which knows it as open.
    pub fn end_unseen(&mut self, key_ref: KeyRef) -> Option<(ChurnKey, Counts)> {
        let known = self.known.get_mut(key_ref.index() as usize)?.as_deref_mut()?;
        if known.key_ref != key_ref {
            return None;
        }
        known.unseen = known.unseen.wrapping_add(1);
        Some((cut(known.key), Counts { unseen: 1, ..Counts::ZERO }))
    }

    /// The key behind a reference; `None` when it was retired.
    pub fn key_of(&self, key_ref: KeyRef) -> Option<ChurnKey> {
        let index = key_ref.index() as usize;
        if index >= self.slots.len() {
            return None;
        }
        let slot = self.slots.get(index);
        (slot.key_ref == key_ref).then(|| cut(slot.key))
    }

    /// The reference for a key from before the attach, made as the kernel side makes one. `None` when the table is full.
    pub fn intern(&mut self, key: &ChurnKey) -> Option<KeyRef> {
        if let Ok(key_ref) = self.by_key.get(key, 0) {
            return Some(key_ref);
        }
        let key_ref = self.free.pop(0).ok()?;
        if self.by_key.insert(key, key_ref, BPF_NOEXIST).is_ok() {
            self.slots.set(key_ref.index() as usize, KeySlot { key_ref, key: *key });
            return Some(key_ref);
        }
        let _ = self.free.push(key_ref, 0);
        self.by_key.get(key, 0).ok()
    }

    /// Counts a connection from before the attach.
    pub fn count_before_attach(&self, key_ref: KeyRef, change: i32) {
        let entry = self.churn.entry(key_ref.index() as usize * self.shards);
        // SAFETY: an aligned word inside the mapping; the kernel side changes it by atomic addition only.
        let counter = unsafe { std::sync::atomic::AtomicU32::from_ptr(&raw mut (*entry).before_attach) };
        counter.fetch_add(change.cast_unsigned(), std::sync::atomic::Ordering::Relaxed);
    }

    /// Notes who listens on a port since before the attach.
    pub fn add_listener(&mut self, listen_key: ListenKey, listener: Listener) -> Result<()> {
        self.listeners.insert(listen_key, listener, 0).context("note a listener")
    }

    /// The listener of a port.
    pub fn listener(&self, listen_key: ListenKey) -> Option<Listener> {
        self.listeners.get(&listen_key, 0).ok()
    }
}

const BPF_NOEXIST: u64 = 1;

/// The key with its start as `/proc` shows it.
fn cut(key: ChurnKey) -> ChurnKey {
    ChurnKey { start_ns: cut_to_ticks(key.start_ns), ..key }
}

/// Takes a map out of the object, which keeps the program side alive.
pub fn take(ebpf: &mut Ebpf, name: &str) -> Result<aya::maps::Map> {
    ebpf.take_map(name).with_context(|| format!("the BPF object has no map {name}"))
}

/// Words of the first cache line of [`Counters`].
const SUMMARY_WORDS: usize = 16;
/// The last of them are maxima, the others are sums.
const FIRST_MAXIMUM: usize = core::mem::offset_of!(Counters, lifetime_max_us) / 4;
const _: () = assert!(core::mem::offset_of!(Counters, connect_max_us) == 4 * (SUMMARY_WORDS - 1));
const _: () = assert!(FIRST_MAXIMUM == SUMMARY_WORDS - 2);

fn summary(counters: &Counters) -> [u32; SUMMARY_WORDS] {
    let words: *const [u32; SUMMARY_WORDS] = std::ptr::from_ref(counters).cast();
    // SAFETY: `Counters` is `repr(C)`, words only, and longer than this.
    unsafe { *words }
}

/// Adds the counters of one shard. Maxima are maxima, all else are sums.
fn add(sum: &mut Counters, shard: &Counters) {
    const WORDS: usize = size_of::<Counters>() / 4;
    let maxima =
        (sum.lifetime_max_us.max(shard.lifetime_max_us), sum.connect_max_us.max(shard.connect_max_us));
    let to: *mut [u32; WORDS] = std::ptr::from_mut(sum).cast();
    let from: *const [u32; WORDS] = std::ptr::from_ref(shard).cast();
    // SAFETY: `Counters` is `repr(C)` and consists of words and trailing padding, which was initialised with it.
    let (to, from) = unsafe { (&mut *to, &*from) };
    for (to, from) in to.iter_mut().zip(from) {
        *to = to.wrapping_add(*from);
    }
    (sum.lifetime_max_us, sum.connect_max_us) = maxima;
}
