//! Code objects that the kernel side sent, within bounds. It sends each once, for as long as it remembers having done so: what is
//! in use must be kept for longer than that.

use std::collections::HashMap;
use std::sync::Arc;

use crate::symbolize::record::RawCode;

/// Which one: image of the process, address, check.
type Key = (u64, u64, u32);

/// Code objects in one generation: more than the kernel side remembers having sent.
const CODES_MAX: usize = 32_768;
/// Bytes in one generation.
const BYTES_MAX: usize = 32 << 20;

/// Two generations: what is asked for moves to the younger, and when that is full the older goes.
#[derive(Default)]
pub struct Codes {
    young: HashMap<Key, Arc<RawCode>>,
    old: HashMap<Key, Arc<RawCode>>,
    bytes: usize,
}

impl Codes {
    /// Keeps one.
    pub fn insert(&mut self, code: RawCode) {
        self.keep((code.image, code.code, code.check), Arc::new(code));
    }

    /// The one that is meant.
    pub fn get(&mut self, key: Key) -> Option<Arc<RawCode>> {
        if let Some(code) = self.young.get(&key) {
            return Some(Arc::clone(code));
        }
        let code = self.old.remove(&key)?;
        self.keep(key, Arc::clone(&code));
        Some(code)
    }

    fn keep(&mut self, key: Key, code: Arc<RawCode>) {
        let size = size_of::<RawCode>() + code.table.len() + code.file.len() + code.name.len();
        if self.young.len() >= CODES_MAX || self.bytes + size > BYTES_MAX {
            self.old = std::mem::take(&mut self.young);
            self.bytes = 0;
        }
        self.bytes += size;
        self.young.insert(key, code);
    }
}

#[cfg(test)]
mod tests {
    use super::{BYTES_MAX, CODES_MAX, Codes};
    use crate::symbolize::record::RawCode;

    fn code(address: u64, table_len: usize) -> RawCode {
        RawCode {
            version: 0x30b,
            image: 1,
            code: address,
            check: 0,
            first_line: 1,
            file: "/srv/app/sync.py".into(),
            name: "main".into(),
            table: vec![0; table_len],
            table_is_cut: false,
        }
    }

    #[test]
    fn what_is_in_use_stays_and_what_is_not_goes() {
        let mut codes = Codes::default();
        codes.insert(code(1, 0));
        codes.insert(code(2, 0));
        for address in 10..10 + 3 * CODES_MAX as u64 {
            codes.insert(code(address, 0));
            assert!(codes.get((1, 1, 0)).is_some());
        }
        assert!(codes.get((1, 2, 0)).is_none());
        assert!(codes.young.len() <= CODES_MAX && codes.old.len() <= CODES_MAX);
    }

    #[test]
    fn large_ones_are_bounded_by_their_bytes() {
        let mut codes = Codes::default();
        let each = 32 << 10;
        (0..4 * BYTES_MAX / each).for_each(|address| codes.insert(code(address as u64, each)));
        assert!((codes.young.len() + codes.old.len()) * each <= 2 * BYTES_MAX);
    }
}
