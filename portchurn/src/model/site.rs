//! Call sites as the model holds them: counts per stack, brought together with what the stacks are into lines of code.
//! Which frame is to blame is [`crate::model::culprit`]'s to say.

use std::sync::Arc;

use hashbrown::HashMap;
use portchurn_common::stack::{At, STACK_EXITING, STACK_FIRST, STACK_NONE};

use crate::model::culprit::{Choice, Rules};
use crate::model::sample::{SiteCount, Stack};
use crate::model::snapshot::{CallSite, Place};
use crate::model::stacks::{Stacks, Variant};

/// Sites that are kept one by one for each destination. The rest is counted as one.
const SITES_MAX: usize = 256;
/// What is folded together for want of room.
const STACK_FOLDED: u64 = STACK_FIRST - 1;

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

    /// The same, of which no more than `places` are kept one by one.
    pub fn record_few(&mut self, site: &SiteCount, places: usize) {
        self.add_within(
            (site.at, site.stack),
            SiteStats { count: site.count, counted: site.counted },
            places,
        );
    }

    /// The stacks that are counted here.
    pub fn ids(&self) -> impl Iterator<Item = u64> {
        self.0.keys().map(|(_, id)| *id)
    }

    fn add(&mut self, key: (At, u64), stats: SiteStats) {
        self.add_within(key, stats, SITES_MAX);
    }

    fn add_within(&mut self, key: (At, u64), stats: SiteStats, places: usize) {
        let has_room = self.0.len() < places || self.0.contains_key(&key);
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

/// What was counted for a destination, whether a stack was taken or not.
#[derive(Clone, Copy, Debug, Default)]
pub struct Expected {
    /// Connects begun.
    pub opens: u64,
    /// Connections ended, by whomever.
    pub closes: u64,
    /// Connects that found no local port.
    pub no_port: u64,
}

/// Lines of code of one destination, most passed first. Where sites were counted less often than is expected, the
/// difference is a line of its own, so that the sum is always that.
pub fn call_sites(sites: &Sites, stacks: &Stacks, rules: &Rules, expected: Expected) -> Vec<CallSite> {
    // Who ends a connection need not be ours; without any close that was seen, a line would only say so.
    let closes = if sites.total(At::Close) > 0 { expected.closes } else { 0 };
    let mut list = lines(sites, stacks, rules, (At::Open, expected.opens, NOT_TAKEN));
    list.extend(lines(sites, stacks, rules, (At::NoPort, expected.no_port, NOT_TAKEN)));
    list.extend(lines(sites, stacks, rules, (At::Close, closes, NOT_OURS)));
    list
}

/// Lines of code of one moment, most passed first. What is missing to the expected sum is a line with this note.
pub fn lines(
    sites: &Sites,
    stacks: &Stacks,
    rules: &Rules,
    (at, expected, why_missing): (At, u64, &str),
) -> Vec<CallSite> {
    let total = sites.total(at);
    let mut found = grouped(sites, stacks, rules, at);
    let missing = expected.saturating_sub(total);
    if missing > 0 {
        found.push(Group::of_note(why_missing, missing));
    }
    let whole = total.max(expected);
    let mut list: Vec<_> = found.into_iter().map(|group| group.into_site(at, whole)).collect();
    list.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.culprit.cmp(&b.culprit)));
    list
}

/// One single passage, for `trace`. `None`: its stack has no name (yet).
pub fn passage(at: At, id: u64, counted: bool, stacks: &Stacks, rules: &Rules) -> Option<CallSite> {
    let variants = stacks.of(id);
    let group = match variants.first() {
        None if id < STACK_FIRST => Group::of_note(note_of(id), 1),
        None => return None,
        // Of several stacks under one fingerprint it is not known which this was.
        Some(variant) => Group { count: 1, counted, ..Group::of(variant, rules) },
    };
    Some(group.into_site(at, 1))
}

/// A passage whose stack was not read in time.
pub fn unread(at: At) -> CallSite {
    Group::of_note(UNREAD, 1).into_site(at, 1)
}

/// A count that has no line of code, and why.
pub fn remark(at: At, count: u64, note: &str) -> CallSite {
    Group::of_note(note, count).into_site(at, count)
}

/// Why a count has no line.
pub const NOT_TAKEN: &str = "no stack was taken";
const NOT_OURS: &str = "ended by the peer, or no stack was taken";
const UNREAD: &str = "not read: over the budget for copies of stacks, or not in time";
/// What is counted as one.
pub const FOLDED: &str = "more places than are kept one by one";
const EXITING: &str = "process exit: the code never closed it";
const NO_USER_STACK: &str = "no user stack: a kernel worker acted for the process, as with io_uring";

/// Sites that turned out to be one and the same stack.
struct Group {
    frames: Option<Arc<Stack>>,
    chosen: Choice,
    count: u64,
    read: u64,
    counted: bool,
    note: Option<String>,
}

impl Group {
    fn of_note(note: &str, count: u64) -> Self {
        let (frames, chosen) = (None, Choice::default());
        Self { frames, chosen, count, read: count, counted: true, note: Some(note.to_owned()) }
    }

    /// None passed yet.
    fn of(variant: &Variant, rules: &Rules) -> Self {
        Self {
            frames: Some(Arc::clone(variant.stack())),
            chosen: variant.choice(rules),
            count: 0,
            read: 0,
            counted: true,
            note: variant.stack().note.clone(),
        }
    }

    fn into_site(self, at: At, whole: u64) -> CallSite {
        let frames = self.frames.as_ref().map_or(&[][..], |stack| &stack.frames);
        let chosen = self.chosen;
        let exact = self.counted || self.read >= self.count;
        CallSite {
            at: at.name(),
            count: self.count,
            share: if whole > 0 { self.count as f64 / whole as f64 } else { 0.0 },
            exact,
            sampled: (!exact).then_some(self.read),
            language: chosen.language,
            culprit: chosen.culprit.map(|index| Place::of(&frames[index])),
            called_from: chosen.called_from.map(|index| Place::of(&frames[index])),
            note: self.note.or_else(|| chosen.note.map(str::to_owned)),
            frames: self.frames,
        }
    }
}

fn grouped(sites: &Sites, stacks: &Stacks, rules: &Rules, at: At) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    // Equal stacks are kept once, so each is known by where it lies.
    let mut by_stack: HashMap<*const Stack, usize> = HashMap::new();
    for ((_, id), stats) in sites.0.iter().filter(|((site_at, _), _)| *site_at == at) {
        let variants = stacks.of(*id);
        if variants.is_empty() {
            groups.push(Group::of_note(note_of(*id), stats.count));
            continue;
        }
        for (variant, count) in shared_out(stats.count, variants) {
            let slot = *by_stack.entry(Arc::as_ptr(variant.stack())).or_insert_with(|| {
                groups.push(Group::of(variant, rules));
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

/// Why a number has no stack.
pub fn note_of(id: u64) -> &'static str {
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

    use super::{Expected, Sites, Stacks, call_sites};
    use crate::model::culprit::Rules;
    use crate::model::sample::{Frame, SiteCount, Stack};

    fn stack(id: u64, function: &str) -> Stack {
        Stack { id, frames: [Frame::python(function, "/app/sync.py", 41)].into(), note: None }
    }

    fn expected(opens: u64, closes: u64) -> Expected {
        Expected { opens, closes, no_port: 0 }
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
        let list = call_sites(&sites, &stacks, &Rules::default(), expected(10, 0));
        assert_eq!(list.iter().map(|site| site.count).collect::<Vec<_>>(), [7, 3]);
        assert_eq!(list[0].culprit.as_ref().map(|place| &*place.function), Some("load"));
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
        let list = call_sites(&sites, &stacks, &Rules::default(), expected(101, 0));
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
        assert!(call_sites(&sites, &stacks, &Rules::default(), expected(1, 0))[0].exact);
    }

    #[test]
    fn stacks_without_frames_are_counted_by_their_reasons() {
        let (mut sites, mut stacks) = (Sites::default(), Stacks::default());
        for (id, note) in [(100, "gone"), (200, "gone"), (300, "not in memory")] {
            stacks.add(&Stack { id, frames: [].into(), note: Some(note.to_owned()) });
            sites.record(&count(id, 1, false));
        }
        let expected = Expected { opens: 3, ..Expected::default() };
        let list = call_sites(&sites, &stacks, &Rules::default(), expected);
        let found: Vec<_> = list.iter().map(|site| (site.count, site.note.as_deref())).collect();
        assert_eq!(found, [(2, Some("gone")), (1, Some("not in memory"))]);
    }

    #[test]
    fn a_close_at_process_exit_says_so() {
        let mut sites = Sites::default();
        sites.record(&SiteCount { at: At::Close, ..count(STACK_EXITING, 2, true) });
        let list = call_sites(&sites, &Stacks::default(), &Rules::default(), expected(0, 2));
        assert_eq!((list.len(), list[0].at, list[0].count), (1, "close", 2));
        assert!(list[0].note.as_deref().is_some_and(|note| note.starts_with("process exit")));
    }

    #[test]
    fn places_beyond_the_limit_are_counted_as_one() {
        let mut sites = Sites::default();
        for stack in 100..1100 {
            sites.record(&count(stack, 1, true));
        }
        let list = call_sites(&sites, &Stacks::default(), &Rules::default(), expected(1000, 0));
        assert_eq!(list.iter().map(|site| site.count).sum::<u64>(), 1000);
    }

    #[test]
    fn connects_without_a_port_are_told_apart_from_all_that_were_begun() {
        let (mut sites, mut stacks) = (Sites::default(), Stacks::default());
        stacks.add(&stack(100, "load"));
        stacks.add(&stack(200, "save"));
        sites.record(&count(100, 30, true));
        sites.record(&count(200, 20, true));
        sites.record(&SiteCount { at: At::NoPort, ..count(100, 7, true) });
        let wanted = Expected { opens: 50, closes: 0, no_port: 9 };
        let list = call_sites(&sites, &stacks, &Rules::default(), wanted);
        let seen: Vec<_> = list
            .iter()
            .map(|site| (site.at, site.count, site.culprit.as_ref().map(|place| &*place.function)))
            .collect();
        assert_eq!(
            seen,
            [
                ("open", 30, Some("load")),
                ("open", 20, Some("save")),
                ("no_port", 7, Some("load")),
                ("no_port", 2, None)
            ]
        );
    }
}
