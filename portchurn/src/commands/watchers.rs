//! Where the threads of `live` that see stacks and processes meet the code of `symbolize` that understands them.

use crate::live::looks::{Look, Looker};
use crate::live::stacks::Watcher;
use crate::symbolize::Attach;
use crate::symbolize::front::Front;
use crate::symbolize::look;

/// Where the thread that takes stacks meets the code that understands them.
pub(super) struct Stacks(pub Front);

impl Watcher for Stacks {
    fn record(&mut self, bytes: &[u8]) {
        self.0.record(bytes);
    }

    fn replaced(&mut self, tgid: u32) {
        self.0.replaced(tgid);
    }

    fn hand_over(&mut self) -> bool {
        self.0.hand_over()
    }
}

/// The same for the thread that looks for interpreters.
pub(super) struct Looks {
    /// Reads what processes have mapped.
    pub looker: look::Looker,
    /// Whether the state of a thread is never taken from thread-specific data.
    pub search_threads: bool,
}

impl Looker for Looks {
    fn look(&mut self, tgid: u32) -> Look {
        answer(self.looker.look(tgid), self.search_threads)
    }
}

fn answer(found: Attach, search_threads: bool) -> Look {
    match found {
        Attach::Found(mut interpreter) => {
            if search_threads {
                interpreter.thread_key = 0;
            }
            Look::Found(interpreter)
        }
        Attach::Later => Look::Later,
        Attach::Absent | Attach::Refused(_) => Look::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use portchurn_common::stack::Interpreter;

    use super::{Attach, Look, answer};

    #[test]
    fn without_the_key_of_thread_specific_data_the_thread_is_searched_for() {
        let key = |search| {
            let found = Interpreter { thread_key: 0x1000, ..Interpreter::UNKNOWN };
            match answer(Attach::Found(Box::new(found)), search) {
                Look::Found(interpreter) => interpreter.thread_key,
                Look::Nothing | Look::Later => panic!("it was found"),
            }
        };
        assert_eq!((key(false), key(true)), (0x1000, 0));
    }
}
