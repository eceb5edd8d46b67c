//! Keys that were taken back, for as long as an ended connection may refer to them: an index is used again, with a
//! raised generation, so an old reference finds here what it meant. Bounded; the oldest go first.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use portchurn_common::flow::{ChurnKey, KeyRef};

/// How many are kept: a minute of 500 ended processes per second. 4 MB.
pub const RETIRED_MAX: usize = 32_768;

/// Shared between the thread that takes keys back and those that ask.
#[derive(Clone, Debug, Default)]
pub struct Retired(Arc<Mutex<History>>);

#[derive(Debug, Default)]
struct History {
    keys: HashMap<KeyRef, ChurnKey>,
    oldest_first: VecDeque<KeyRef>,
    noted: u64,
}

impl Retired {
    /// Notes what a reference meant. To be called before the index may be used again.
    pub fn note(&self, key_ref: KeyRef, key: ChurnKey) {
        let mut history = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        history.noted += 1;
        if history.keys.insert(key_ref, key).is_none() {
            history.oldest_first.push_back(key_ref);
        }
        if history.oldest_first.len() > RETIRED_MAX
            && let Some(oldest) = history.oldest_first.pop_front()
        {
            history.keys.remove(&oldest);
        }
    }

    /// How many were noted so far.
    pub fn noted(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).noted
    }

    /// What a reference meant.
    pub fn find(&self, key_ref: KeyRef) -> Option<ChurnKey> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).keys.get(&key_ref).copied()
    }
}

#[cfg(test)]
mod tests {
    use portchurn_common::flow::{ChurnKey, KeyRef};

    use super::{RETIRED_MAX, Retired};

    #[test]
    fn an_index_means_what_it_meant_in_its_generation() {
        let retired = Retired::default();
        for generation in 0..3 {
            retired.note(KeyRef::new(7, generation), ChurnKey { tgid: generation, ..ChurnKey::default() });
        }
        assert_eq!(retired.find(KeyRef::new(7, 1)).unwrap().tgid, 1);
        assert!(retired.find(KeyRef::new(7, 3)).is_none());
    }

    #[test]
    fn memory_is_bounded_and_the_newest_stay() {
        let retired = Retired::default();
        for index in 0..RETIRED_MAX as u32 + 10 {
            retired.note(KeyRef::new(index, 0), ChurnKey::default());
        }
        assert!(retired.find(KeyRef::new(9, 0)).is_none());
        assert!(retired.find(KeyRef::new(10, 0)).is_some());
    }
}
