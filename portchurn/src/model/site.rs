//! Call sites as the model holds them: counts per stack, what the stacks are, and both brought together into lines of
//! code. Which frame is to blame is [`crate::model::culprit`]'s to say.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use portchurn_common::stack::{At, STACK_EXITING, STACK_FIRST, STACK_NONE};

use crate::model::culprit::Rules;
use crate::model::sample::{Frame, SiteCount, Stack};
use crate::model::snapshot::{CallSite, Place};

/// Sites that are kept one by one for each destination. The rest is counted as one.
const SITES_MAX: usize = 256;
/// Stacks that are kept. Beyond, new ones stay without a name.
const STACKS_MAX: usize = 65_536;
/// Frames of all different stacks that are kept; each is some 200 bytes.
const STACK_FRAMES_MAX: usize = 262_144;
/// Different stacks that are kept for one fingerprint.
const VARIANTS_MAX: usize = 32;
/// What is folded together for want of room.
const STACK_FOLDED: u64 = 0;

/// How often a site was passed.
#[derive(Clone, Copy, Debug, Default)]
struct SiteStats {
    count: u64,
    /// Whether the stack's identity is a hash of all its frames, not a fingerprint.
    counted: bool,
}

/// The sites of one destination.
#[derive(Clone, Debug, Default)]
pub struct Sites(HashMap<(At, u64), SiteStats>);

impl Sites {
    /// Adds what was counted.
    pub fn record(&mut self, site: &SiteCount) {
        self.add((site.at, site.stack), SiteStats { count: site.count, counted: site.counted });
    }

    /// Adds another destination's. Equal stacks of several processes become one line only when they are named, so there
    /// is no limit here; see [`Sites::settle`].
    pub fn merge(&mut self, other: &Self) {
        for (key, stats) in &other.0 {
            self.add_to(*key, *stats);
        }
    }

    /// Counts equal stacks as one for good, and keeps within the limit: for what is kept of processes that are gone.
    pub fn settle(&mut self, stacks: &Stacks) {
        for ((at, id), stats) in std::mem::take(&mut self.0) {
            self.add((at, stacks.canonical(id)), stats);
        }
    }

    /// The stacks that are counted here.
    pub fn ids(&self) -> impl Iterator<Item = u64> {
        self.0.keys().map(|(_, id)| *id)
    }

    fn add(&mut self, key: (At, u64), stats: SiteStats) {
        let has_room = self.0.len() < SITES_MAX || self.0.contains_key(&key);
        self.add_to(if has_room { key } else { (key.0, STACK_FOLDED) }, stats);
    }

    fn add_to(&mut self, key: (At, u64), stats: SiteStats) {
        let entry = self.0.entry(key).or_insert(SiteStats { count: 0, counted: true });
        entry.count += stats.count;
        entry.counted &= stats.counted;
    }

    /// All counts of one moment.
    fn total(&self, at: At) -> u64 {
        self.0.iter().filter(|((site_at, _), _)| *site_at == at).map(|(_, stats)| stats.count).sum()
    }
}

/// One stack under a hash or fingerprint, and how often it was read there.
#[derive(Clone, Debug)]
struct Variant {
    stack: Arc<Stack>,
    read: u64,
}

/// Every stack that has a name.
#[derive(Debug, Default)]
pub struct Stacks {
    by_id: HashMap<u64, Vec<Variant>>,
    /// Each different stack once: processes that run the same code share it.
    distinct: HashSet<Distinct>,
    /// Of all that are distinct.
    frames: usize,
}

/// A stack that is equal to another when their frames are, and what is said of them.
#[derive(Debug)]
struct Distinct(Arc<Stack>);

impl Hash for Distinct {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.0.frames, &self.0.note).hash(state);
    }
}

impl PartialEq for Distinct {
    fn eq(&self, other: &Self) -> bool {
        (&self.0.frames, &self.0.note) == (&other.0.frames, &other.0.note)
    }
}

impl Eq for Distinct {}

impl Stacks {
    /// Takes a stack in that was read.
    pub fn add(&mut self, stack: &Stack) {
        if self.is_full() && !self.by_id.contains_key(&stack.id) {
            return;
        }
        let stack = self.shared(stack);
        let variants = self.by_id.entry(stack.0).or_default();
        let known = variants.iter().position(|variant| Arc::ptr_eq(&variant.stack, &stack.1));
        match known {
            Some(index) => variants[index].read += 1,
            None if variants.len() < VARIANTS_MAX => {
                variants.push(Variant { stack: stack.1, read: 1 });
            }
            None => {}
        }
    }

    /// The number under which it is counted, and the one stack that is equal to it.
    fn shared(&mut self, stack: &Stack) -> (u64, Arc<Stack>) {
        let candidate = Distinct(Arc::new(stack.clone()));
        match self.distinct.get(&candidate) {
            Some(known) => (stack.id, Arc::clone(&known.0)),
            None => {
                let shared = Arc::clone(&candidate.0);
                self.frames += shared.frames.len();
                self.distinct.insert(candidate);
                (stack.id, shared)
            }
        }
    }

    /// Whether there is no room for a new one.
    pub fn is_full(&self) -> bool {
        self.by_id.len() >= STACKS_MAX || self.frames >= STACK_FRAMES_MAX
    }

    /// Forgets every stack under which nothing is counted any more.
    pub fn keep(&mut self, used: &HashSet<u64>) {
        self.by_id.retain(|id, _| used.contains(id));
        let by_id = &self.by_id;
        let held: HashSet<*const Stack> =
            by_id.values().flatten().map(|variant| Arc::as_ptr(&variant.stack)).collect();
        self.distinct.retain(|stack| held.contains(&Arc::as_ptr(&stack.0)));
        self.frames = self.distinct.iter().map(|stack| stack.0.frames.len()).sum();
    }

    /// One number for all that are the same stack: the first under which it was read, while that is kept.
    fn canonical(&self, id: u64) -> u64 {
        match self.of(id) {
            [only] if self.by_id.contains_key(&only.stack.id) => only.stack.id,
            _ => id,
        }
    }

    fn of(&self, id: u64) -> &[Variant] {
        self.by_id.get(&id).map_or(&[], Vec::as_slice)
    }
}

/// Lines of code of one destination, most passed first. `opens`, `closes`: what was counted for the destination;
/// where sites were counted less often, the difference is a line of its own, so that the sum is always that.
pub fn call_sites(sites: &Sites, stacks: &Stacks, rules: &Rules, opens: u64, closes: u64) -> Vec<CallSite> {
    let mut list = Vec::new();
    for (at, expected) in [(At::Open, opens), (At::Close, closes)] {
        let total = sites.total(at);
        let mut found = grouped(sites, stacks, at);
        let missing = expected.saturating_sub(total);
        if missing > 0 && (total > 0 || at == At::Open) {
            let note = if at == At::Open { NOT_TAKEN } else { NOT_OURS };
            found.push(Group {
                frames: None,
                count: missing,
                read: missing,
                counted: true,
                note: Some(note.to_owned()),
            });
        }
        let whole = total.max(expected);
        list.extend(found.into_iter().map(|group| group.into_site(at, whole, rules)));
    }
    list.sort_by(|a, b| {
        a.at.cmp(b.at).reverse().then(b.count.cmp(&a.count)).then_with(|| a.culprit.cmp(&b.culprit))
    });
    list
}

/// One single passage, for `trace`. `None`: its stack has no name (yet).
pub fn passage(at: At, id: u64, counted: bool, stacks: &Stacks, rules: &Rules) -> Option<CallSite> {
    let variants = stacks.of(id);
    let group = match variants.first() {
        None if id < STACK_FIRST => Group::of_note(note_of(id), SiteStats { count: 1, counted: true }),
        None => return None,
        // Of several stacks under one fingerprint it is not known which this was.
        Some(variant) => Group {
            frames: Some(Arc::clone(&variant.stack)),
            count: 1,
            read: 0,
            counted,
            note: variant.stack.note.clone(),
        },
    };
    Some(group.into_site(at, 1, rules))
}

/// A passage whose stack was not read in time.
pub fn unread(at: At, rules: &Rules) -> CallSite {
    Group::of_note(UNREAD, SiteStats { count: 1, counted: true }).into_site(at, 1, rules)
}

const NOT_TAKEN: &str = "no stack was taken";
const NOT_OURS: &str = "ended by the peer, or by a process that was not seen closing";
const UNREAD: &str = "not read: over the budget for copies of stacks, or not in time";
const FOLDED: &str = "more places than are kept one by one";
const EXITING: &str = "process exit: the code never closed it";
const NO_USER_STACK: &str = "no user stack: a kernel worker acted for the process, as with io_uring";

/// Sites that turned out to be one and the same stack.
struct Group {
    frames: Option<Arc<Stack>>,
    count: u64,
    read: u64,
    counted: bool,
    note: Option<String>,
}

impl Group {
    fn of_note(note: &str, stats: SiteStats) -> Self {
        Self {
            frames: None,
            count: stats.count,
            read: stats.count,
            counted: true,
            note: Some(note.to_owned()),
        }
    }

    fn into_site(self, at: At, whole: u64, rules: &Rules) -> CallSite {
        let frames = self.frames.as_ref().map_or(&[][..], |stack| &stack.frames);
        let chosen = rules.choose(frames);
        let exact = self.counted || self.read >= self.count;
        CallSite {
            at: at.name(),
            count: self.count,
            share: if whole > 0 { self.count as f64 / whole as f64 } else { 0.0 },
            exact,
            sampled: (!exact).then_some(self.read),
            language: chosen.language,
            culprit: chosen.culprit.map(|index| place(&frames[index])),
            called_from: chosen.called_from.map(|index| place(&frames[index])),
            note: self.note.or_else(|| chosen.note.map(str::to_owned)),
            frames: self.frames,
        }
    }
}

fn place(frame: &Frame) -> Place {
    Place { function: frame.function.clone(), file: frame.file.clone(), line: frame.line }
}

fn grouped(sites: &Sites, stacks: &Stacks, at: At) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let mut by_stack: HashMap<Distinct, usize> = HashMap::new();
    for ((_, id), stats) in sites.0.iter().filter(|((site_at, _), _)| *site_at == at) {
        let variants = stacks.of(*id);
        if variants.is_empty() {
            groups.push(Group::of_note(note_of(*id), *stats));
            continue;
        }
        for (variant, count) in shared_out(stats.count, variants) {
            let slot = *by_stack.entry(Distinct(Arc::clone(&variant.stack))).or_insert_with(|| {
                groups.push(Group {
                    frames: Some(Arc::clone(&variant.stack)),
                    count: 0,
                    read: 0,
                    counted: true,
                    note: variant.stack.note.clone(),
                });
                groups.len() - 1
            });
            let group = &mut groups[slot];
            group.count += count;
            group.read += variant.read.min(count);
            group.counted &= stats.counted;
        }
    }
    joined(groups)
}

/// Groups that are only a note are one line per note.
fn joined(groups: Vec<Group>) -> Vec<Group> {
    let mut list: Vec<Group> = Vec::new();
    for group in groups {
        let same = list
            .iter_mut()
            .find(|known| known.frames.is_none() && group.frames.is_none() && known.note == group.note);
        match same {
            Some(known) => known.count += group.count,
            None => list.push(group),
        }
    }
    for group in list.iter_mut().filter(|group| group.frames.is_none()) {
        group.read = group.count;
    }
    list
}

fn note_of(id: u64) -> &'static str {
    match id {
        STACK_FOLDED => FOLDED,
        STACK_EXITING => EXITING,
        STACK_NONE => NO_USER_STACK,
        id if id < STACK_FIRST => NOT_TAKEN,
        _ => UNREAD,
    }
}

/// A count shared out over the stacks that were read under it, in their proportion. The sum stays the count.
fn shared_out(count: u64, variants: &[Variant]) -> Vec<(&Variant, u64)> {
    let read: u64 = variants.iter().map(|variant| variant.read).sum();
    let mut left = count;
    let mut shares: Vec<_> = variants
        .iter()
        .map(|variant| {
            let share = (u128::from(count) * u128::from(variant.read) / u128::from(read.max(1))) as u64;
            left -= share;
            (variant, share)
        })
        .collect();
    for (_, share) in shares.iter_mut().take(left as usize) {
        *share += 1;
    }
    shares.retain(|(_, share)| *share > 0);
    shares
}

#[cfg(test)]
mod tests {
    use portchurn_common::stack::{At, STACK_EXITING};

    use super::{Sites, Stacks, call_sites};
    use crate::model::culprit::Rules;
    use crate::model::sample::{Frame, SiteCount, Stack};

    fn stack(id: u64, function: &str) -> Stack {
        Stack { id, frames: vec![Frame::python(function, "/app/sync.py", 41)], note: None }
    }

    fn count(stack: u64, count: u64, counted: bool) -> SiteCount {
        SiteCount { at: At::Open, stack, count, counted, ..SiteCount::default() }
    }

    #[test]
    fn equal_stacks_of_different_processes_are_one_line_and_the_sum_is_the_count() {
        let (mut sites, mut stacks) = (Sites::default(), Stacks::default());
        stacks.add(&stack(100, "load"));
        stacks.add(&stack(200, "load"));
        sites.record(&count(100, 3, true));
        sites.record(&count(200, 4, true));
        let list = call_sites(&sites, &stacks, &Rules::default(), 10, 0);
        assert_eq!(list.iter().map(|site| site.count).collect::<Vec<_>>(), [7, 3]);
        assert_eq!(list[0].culprit.as_ref().map(|place| place.function.as_str()), Some("load"));
        assert!(list[0].exact && list[1].note.is_some());
    }

    #[test]
    fn a_fingerprint_that_means_two_stacks_is_shared_out_and_says_that_it_is_sampled() {
        let (mut sites, mut stacks) = (Sites::default(), Stacks::default());
        for _ in 0..3 {
            stacks.add(&stack(100, "a"));
        }
        stacks.add(&stack(100, "b"));
        sites.record(&count(100, 101, false));
        let list = call_sites(&sites, &stacks, &Rules::default(), 101, 0);
        assert_eq!(
            list.iter().map(|site| (site.count, site.sampled)).collect::<Vec<_>>(),
            [(76, Some(3)), (25, Some(1))]
        );
    }

    #[test]
    fn a_fingerprint_that_was_read_each_time_is_exact() {
        let (mut sites, mut stacks) = (Sites::default(), Stacks::default());
        stacks.add(&stack(100, "a"));
        sites.record(&count(100, 1, false));
        assert!(call_sites(&sites, &stacks, &Rules::default(), 1, 0)[0].exact);
    }

    #[test]
    fn stacks_without_frames_are_counted_by_their_reasons() {
        let (mut sites, mut stacks) = (Sites::default(), Stacks::default());
        for (id, note) in [(100, "gone"), (200, "gone"), (300, "not in memory")] {
            stacks.add(&Stack { id, frames: Vec::new(), note: Some(note.to_owned()) });
            sites.record(&count(id, 1, false));
        }
        let list = call_sites(&sites, &stacks, &Rules::default(), 3, 0);
        let found: Vec<_> = list.iter().map(|site| (site.count, site.note.as_deref())).collect();
        assert_eq!(found, [(2, Some("gone")), (1, Some("not in memory"))]);
    }

    #[test]
    fn a_close_at_process_exit_says_so() {
        let mut sites = Sites::default();
        sites.record(&SiteCount { at: At::Close, ..count(STACK_EXITING, 2, true) });
        let list = call_sites(&sites, &Stacks::default(), &Rules::default(), 0, 2);
        assert_eq!((list.len(), list[0].at, list[0].count), (1, "close", 2));
        assert!(list[0].note.as_deref().is_some_and(|note| note.starts_with("process exit")));
    }

    #[test]
    fn places_beyond_the_limit_are_counted_as_one() {
        let mut sites = Sites::default();
        for stack in 100..1100 {
            sites.record(&count(stack, 1, true));
        }
        let list = call_sites(&sites, &Stacks::default(), &Rules::default(), 1000, 0);
        assert_eq!(list.iter().map(|site| site.count).sum::<u64>(), 1000);
    }
}
