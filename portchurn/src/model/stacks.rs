//! The stacks that were read: each kept once, found by the number under which its passages are counted. Bounded.

use std::cell::OnceCell;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use crate::model::culprit::{Choice, Rules};
use crate::model::sample::Stack;

/// Stacks that are kept. Beyond, new ones stay without a name.
const STACKS_MAX: usize = 65_536;
/// Frames of all different stacks that are kept; each is some 200 bytes.
const STACK_FRAMES_MAX: usize = 262_144;
/// Different stacks that are kept for one fingerprint.
const VARIANTS_MAX: usize = 32;

/// One stack under a hash or fingerprint, and how often it was read there.
#[derive(Clone, Debug)]
pub struct Variant {
    /// The stack.
    pub stack: Arc<Stack>,
    /// How often.
    pub read: u64,
    chosen: OnceCell<Choice>,
}

impl Variant {
    /// Which of its frames stand for it: asked at each refresh for each destination, and always the same, as the rules of a run are.
    pub fn choice(&self, rules: &Rules) -> Choice {
        *self.chosen.get_or_init(|| rules.choose(&self.stack.frames))
    }
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
                variants.push(Variant { stack: stack.1, read: 1, chosen: OnceCell::new() });
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
    pub fn canonical(&self, id: u64) -> u64 {
        match self.of(id) {
            [only] if self.by_id.contains_key(&only.stack.id) => only.stack.id,
            _ => id,
        }
    }

    /// What was read under a number, the first one first.
    pub fn of(&self, id: u64) -> &[Variant] {
        self.by_id.get(&id).map_or(&[], Vec::as_slice)
    }
}
