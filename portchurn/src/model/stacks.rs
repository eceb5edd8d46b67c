//! The stacks that were read: each kept once, found by the number under which its passages are counted. Bounded.

use std::hash::{Hash, Hasher};
use std::slice::from_ref;
use std::sync::{Arc, OnceLock};

use hashbrown::hash_map::Entry;
use hashbrown::{HashMap, HashSet};

use crate::model::culprit::{Choice, Rules};
use crate::model::sample::Stack;

/// Numbers whose stacks are kept; a process has its own. Beyond, new ones stay without a name. One more, and the map would double.
const STACKS_MAX: usize = 7 << 13;
/// Frames of all different stacks that are kept; each is some 200 bytes.
const STACK_FRAMES_MAX: usize = 262_144;
/// Different stacks that are kept for one fingerprint.
const VARIANTS_MAX: usize = 32;

/// A stack as it is kept: what is the same for every number that it was read under.
#[derive(Debug)]
struct Kept {
    stack: Arc<Stack>,
    chosen: OnceLock<Choice>,
}

/// Equal to another when their frames are, and what is said of them.
impl PartialEq for Kept {
    fn eq(&self, other: &Self) -> bool {
        (&self.stack.frames, &self.stack.note) == (&other.stack.frames, &other.stack.note)
    }
}

impl Eq for Kept {}

impl Hash for Kept {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.stack.frames, &self.stack.note).hash(state);
    }
}

/// One stack under a hash or fingerprint, and how often it was read there.
#[derive(Clone, Debug)]
pub struct Variant {
    kept: Arc<Kept>,
    /// How often.
    pub read: u64,
}

impl Variant {
    /// The stack.
    pub fn stack(&self) -> &Arc<Stack> {
        &self.kept.stack
    }

    /// Which of its frames stand for it: asked at each refresh for each destination, and always the same, as the rules of a run are.
    pub fn choice(&self, rules: &Rules) -> Choice {
        *self.kept.chosen.get_or_init(|| rules.choose(&self.kept.stack.frames))
    }
}

/// What was read under one number. Where processes come and go there are tens of thousands of numbers, and nearly all have one.
#[derive(Debug)]
enum Variants {
    One(Variant),
    Several(Vec<Variant>),
}

impl Variants {
    fn list(&self) -> &[Variant] {
        match self {
            Self::One(only) => from_ref(only),
            Self::Several(list) => list,
        }
    }

    /// Notes that it was read once more.
    fn note(&mut self, kept: Arc<Kept>) {
        let list = match self {
            Self::One(only) => std::slice::from_mut(only),
            Self::Several(list) => list,
        };
        if let Some(known) = list.iter_mut().find(|variant| Arc::ptr_eq(&variant.kept, &kept)) {
            known.read += 1;
            return;
        }
        let new = Variant { kept, read: 1 };
        match self {
            Self::One(first) => *self = Self::Several(vec![first.clone(), new]),
            Self::Several(list) if list.len() < VARIANTS_MAX => list.push(new),
            Self::Several(_) => {}
        }
    }
}

/// Every stack that has a name.
#[derive(Debug, Default)]
pub struct Stacks {
    by_id: HashMap<u64, Variants>,
    /// Each different stack once: processes that run the same code share it.
    distinct: HashSet<Arc<Kept>>,
    /// Of all that are distinct.
    frames: usize,
}

impl Stacks {
    /// Takes a stack in that was read.
    pub fn add(&mut self, stack: &Stack) {
        if self.is_full() && !self.by_id.contains_key(&stack.id) {
            return;
        }
        let kept = self.kept(stack);
        match self.by_id.entry(stack.id) {
            Entry::Occupied(mut known) => known.get_mut().note(kept),
            Entry::Vacant(place) => {
                place.insert(Variants::One(Variant { kept, read: 1 }));
            }
        }
    }

    /// The one stack that is equal to it.
    fn kept(&mut self, stack: &Stack) -> Arc<Kept> {
        let candidate = Kept { stack: Arc::new(stack.clone()), chosen: OnceLock::new() };
        if let Some(known) = self.distinct.get(&candidate) {
            return Arc::clone(known);
        }
        let kept = Arc::new(candidate);
        self.frames += stack.frames.len();
        self.distinct.insert(Arc::clone(&kept));
        kept
    }

    /// Whether there is no room for a new one.
    pub fn is_full(&self) -> bool {
        self.by_id.len() >= STACKS_MAX || self.frames >= STACK_FRAMES_MAX
    }

    /// Forgets every stack under which nothing is counted any more.
    pub fn keep(&mut self, used: &HashSet<u64>) {
        self.by_id.retain(|id, _| used.contains(id));
        // What was thrown out keeps its place otherwise, and a map that is full of such places doubles.
        self.by_id = self.by_id.drain().collect();
        // Who shows a stack has it by itself.
        self.distinct.retain(|kept| Arc::strong_count(kept) > 1);
        self.frames = self.distinct.iter().map(|kept| kept.stack.frames.len()).sum();
    }

    /// One number for all that are the same stack: the first under which it was read, while that is kept.
    pub fn canonical(&self, id: u64) -> u64 {
        match self.of(id) {
            [only] if self.by_id.contains_key(&only.stack().id) => only.stack().id,
            _ => id,
        }
    }

    /// What was read under a number, the first one first.
    pub fn of(&self, id: u64) -> &[Variant] {
        self.by_id.get(&id).map_or(&[], Variants::list)
    }
}

#[cfg(test)]
mod tests {
    use hashbrown::HashSet;

    use super::{STACKS_MAX, Stacks, VARIANTS_MAX};
    use crate::model::sample::{Frame, Stack};

    fn stack(id: u64, line: u32) -> Stack {
        Stack { id, frames: [Frame::python("load", "/app/sync.py", line)].into(), note: None }
    }

    #[test]
    fn processes_that_run_the_same_code_take_a_number_each_and_nothing_more() {
        let mut stacks = Stacks::default();
        let ids = || 100..100 + 2 * STACKS_MAX as u64;
        // More than half of what there is room for, which no map makes room by shrinking, and few.
        for (round, kept) in [40_000, 1000, 1000].into_iter().enumerate() {
            let in_use: HashSet<_> = (100..100 + kept).collect();
            ids().for_each(|id| stacks.add(&stack(id, 7)));
            assert_eq!((stacks.by_id.len(), stacks.distinct.len(), stacks.frames), (STACKS_MAX, 1, 1));
            assert_eq!(stacks.by_id.capacity(), STACKS_MAX, "it does not double, round {round}");
            stacks.keep(&in_use);
            assert_eq!(stacks.by_id.len(), in_use.len());
        }
        assert_eq!((stacks.of(100)[0].read, stacks.canonical(1099)), (3, 100));
        stacks.keep(&HashSet::new());
        assert_eq!((stacks.distinct.len(), stacks.frames), (0, 0));
    }

    #[test]
    fn under_one_number_several_are_told_apart_and_bounded() {
        let mut stacks = Stacks::default();
        for line in [1, 1, 2, 1, 2] {
            stacks.add(&stack(100, line));
        }
        let seen = |stacks: &Stacks| {
            let variants = stacks.of(100).iter();
            variants.map(|variant| (variant.stack().frames[0].line, variant.read)).collect::<Vec<_>>()
        };
        assert_eq!(seen(&stacks), [(Some(1), 3), (Some(2), 2)]);
        (0..1000).for_each(|line| stacks.add(&stack(100, line)));
        assert_eq!(stacks.of(100).len(), VARIANTS_MAX);
        assert_eq!(seen(&stacks)[..2], [(Some(1), 4), (Some(2), 3)]);
    }
}
