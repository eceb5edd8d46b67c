//! Lists of frames that are kept once: where processes come and go the same few are named hundreds of times per second, and
//! all of a second wait until they are taken. Bounded.

use std::collections::HashSet;
use std::sync::Arc;

use crate::model::sample::Frame;

/// Frames of all lists, of some 200 bytes: those of some hundred stacks.
const FRAMES_MAX: usize = 8192;

/// The lists that came lately.
#[derive(Default)]
pub struct Shared {
    lists: HashSet<Arc<[Frame]>>,
    frames: usize,
}

impl Shared {
    /// The one list that is equal to this.
    pub fn of(&mut self, frames: Vec<Frame>) -> Arc<[Frame]> {
        if let Some(known) = self.lists.get(&*frames) {
            return Arc::clone(known);
        }
        if self.frames + frames.len() > FRAMES_MAX {
            *self = Self::default();
        }
        self.frames += frames.len();
        let list: Arc<[Frame]> = frames.into();
        self.lists.insert(Arc::clone(&list));
        list
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{FRAMES_MAX, Shared};
    use crate::model::sample::Frame;

    fn stack(line: u32) -> Vec<Frame> {
        vec![Frame::python("load", "/app/sync.py", line), Frame::python("main", "/app/sync.py", 1)]
    }

    #[test]
    fn equal_ones_are_kept_once_and_all_are_bounded() {
        let mut shared = Shared::default();
        let first = shared.of(stack(7));
        assert!(Arc::ptr_eq(&first, &shared.of(stack(7))));
        assert_eq!(first[..], stack(7));
        for line in 0..2 * FRAMES_MAX as u32 {
            assert_eq!(shared.of(stack(line))[0].line, Some(line));
            assert!(shared.frames <= FRAMES_MAX && 2 * shared.lists.len() == shared.frames);
        }
    }
}
