//! What CPython from 3.13 on says of itself to debuggers: a table of words at the start of `_PyRuntime`
//! (`_Py_DebugOffsets`, Include/internal/pycore_debug_offsets.h). The table grows with each version, so each is a row here:
//! a version without one is refused, and so is a table that does not add up.

use portchurn_common::settings::UNKNOWN;
use portchurn_common::stack::Interpreter;

use crate::symbolize::python::layout::{Fields, OWNER_SHIM, fits};

/// The first word of a table.
const COOKIE: u64 = u64::from_le_bytes(*b"xdebugpy");
/// Words of the table, the same in every version: which it is, whether it has no global lock, and two groups.
const VERSION: usize = 1;
const FREE_THREADED: usize = 2;
const RUNTIME: usize = 3;
const INTERPRETER: usize = 6;
/// In the version: final releases and candidates for one, whose structures do not change any more.
const CANDIDATE: u64 = 0xc;
/// What the kernel side takes for granted of objects, bytes and text.
const OBJECT_TYPE: u32 = 8;
const BYTES: [u32; 2] = [16, 32];
const TEXT: [u32; 2] = [32, 16];
/// Behind the header of ASCII text, before other text: its length and address in UTF-8.
const UTF8: u32 = 16;

/// Where the other groups begin. Words; the first of each is the size of what it describes.
struct Table {
    version: u32,
    thread: usize,
    frame: usize,
    code: usize,
    object: usize,
    bytes: usize,
    text: usize,
    /// In the group of threads: `pthread_self()`.
    thread_id: usize,
    /// In `_PyRuntime`: the key of `autoTSSkey`, which the table does not have. The kernel side searches where it does not
    /// lead to the thread.
    thread_key: Option<u32>,
}

const TABLES: &[Table] = &[
    Table {
        version: 0x30d,
        thread: 19,
        frame: 28,
        code: 34,
        object: 44,
        bytes: 64,
        text: 67,
        thread_id: 5,
        thread_key: Some(2160 + 4),
    },
    Table {
        version: 0x30e,
        thread: 22,
        frame: 31,
        code: 39,
        object: 50,
        bytes: 74,
        text: 77,
        thread_id: 5,
        thread_key: Some(2336 + 4),
    },
    Table {
        version: 0x30f,
        thread: 22,
        frame: 39,
        code: 47,
        object: 58,
        bytes: 86,
        text: 89,
        thread_id: 8,
        thread_key: None,
    },
];

/// Reads the table of an interpreter of this version.
pub(super) fn interpreter(version: u32, words: &[u64], runtime: u64) -> Result<Interpreter, String> {
    let named = format!("CPython {}.{}", version >> 8, version & 0xff);
    let table = TABLES
        .iter()
        .find(|table| table.version == version)
        .ok_or_else(|| format!("{named} is not known: names are read from 3.7 to 3.15"))?;
    let word = |index: usize| words.get(index).copied().unwrap_or(0);
    if word(0) != COOKIE || word(VERSION) >> 16 != u64::from(version) {
        return Err(format!("{named} does not describe itself"));
    }
    if word(VERSION) >> 4 & 0xf < CANDIDATE {
        return Err(format!("{named} is not released: names are read from releases"));
    }
    if word(FREE_THREADED) != 0 {
        return Err(format!("{named} without a global lock (free-threaded) is not known"));
    }
    read(table, words, runtime).ok_or_else(|| format!("{named} does not describe itself as expected"))
}

fn read(table: &Table, words: &[u64], runtime: u64) -> Option<Interpreter> {
    let word = |index: usize| words.get(index).and_then(|&word| u32::try_from(word).ok());
    // A member lies within what its group describes.
    let member = |group: usize, index: usize| word(group + index).filter(|&at| Some(at) < word(group));
    let are =
        |group: usize, expected: [u32; 2]| [1, 2].map(|index| member(group, index)) == expected.map(Some);
    if member(table.object, 1) != Some(OBJECT_TYPE) || !are(table.bytes, BYTES) || !are(table.text, TEXT) {
        return None;
    }
    let fields = Fields {
        frame_back: member(table.frame, 1)?,
        frame_code: member(table.frame, 2)?,
        frame_position: member(table.frame, 3)?,
        frame_owner: member(table.frame, 5)?,
        frame_entry: UNKNOWN,
        file: member(table.code, 1)?,
        name: member(table.code, 3)?,
        table: member(table.code, 4)?,
        first_line: member(table.code, 5)?,
    };
    let text_ascii = member(table.text, 3)?;
    let found = fields.pack(Interpreter {
        version: table.version,
        interpreters: runtime + u64::from(member(RUNTIME, 2)?),
        thread_key: table.thread_key.map_or(0, |key| runtime + u64::from(key)),
        interpreter_next: member(INTERPRETER, 2)?,
        interpreter_threads: member(INTERPRETER, 3)?,
        thread_next: member(table.thread, 2)?,
        thread_frame: member(table.thread, 4)?,
        thread_id: member(table.thread, table.thread_id)?,
        shim_owner: OWNER_SHIM,
        position_is_pointer: 1,
        code_instructions: member(table.code, 9)?,
        text_ascii,
        text_compact: text_ascii + UTF8,
        ..Interpreter::UNKNOWN
    });
    fits(&found).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::{COOKIE, interpreter};

    /// The table of a 3.14.8 as it runs, from the size of the runtime up to the text.
    const OF_3_14_8: &str = "316616 784 808 225864 7280 7272 7344 7360 7408 7688 7672 7680 16 7784 0 7800 7792 7992 0 \
        832 0 8 16 72 152 160 232 32 88 8 0 56 80 74 64 0 216 112 120 128 136 68 52 96 104 208 0 16 8 416 24 88 168 \
        40 32 16 40 24 16 200 24 40 32 48 32 40 24 16 32 16 24 40 16 32 64 32 16 40";

    fn words() -> Vec<u64> {
        let words = OF_3_14_8.split_whitespace().map(|word| word.parse().unwrap());
        [COOKIE, 0x030e_08f0, 0].into_iter().chain(words).collect()
    }

    fn changed(index: usize, word: u64) -> String {
        let mut words = words();
        words[index] = word;
        interpreter(0x30e, &words, 0).unwrap_err()
    }

    #[test]
    fn the_table_of_a_release_is_read() {
        let found = interpreter(0x30e, &words(), 0x1000).unwrap();
        assert_eq!((found.interpreters, found.thread_key), (0x1000 + 808, 0x1000 + 2340));
        assert_eq!((found.interpreter_next, found.interpreter_threads), (7272, 7344));
        assert_eq!((found.thread_next, found.thread_frame, found.thread_id), (8, 72, 152));
        assert_eq!(
            (found.frame_base, found.frame_code, found.frame_back, found.frame_position),
            (0, 0, 8, 56)
        );
        assert_eq!((found.frame_owner, found.shim_owner, found.frame_len), (74, 3, 75));
        assert_eq!((found.code_base, found.code_first_line, found.code_len), (64, 4, 80));
        assert_eq!((found.code_file, found.code_name, found.code_table), (48, 64, 72));
        assert_eq!((found.code_instructions, found.text_ascii, found.text_compact), (208, 40, 56));
    }

    #[test]
    fn what_is_not_known_is_refused_politely() {
        assert!(interpreter(0x306, &[], 0).unwrap_err().contains("3.6 is not known"));
        assert!(interpreter(0x310, &[], 0).unwrap_err().contains("3.16 is not known"));
        assert!(interpreter(0x30f, &words(), 0).unwrap_err().contains("does not describe itself"));
        assert!(changed(0, 0).contains("does not describe itself"));
        assert!(changed(1, 0x030e_00b4).contains("not released"));
        assert!(changed(2, 1).contains("free-threaded"));
    }

    #[test]
    fn a_table_that_does_not_add_up_is_refused() {
        // Beyond its group, not where a word can lie, and not the text that is read.
        for (index, word) in [(36, 88), (26, 1 << 40), (34, 57), (32, 87), (44, 300), (78, 28), (51, 16)] {
            assert!(changed(index, word).contains("as expected"), "word {index} is {word}");
        }
        for length in [0, 1, 30, words().len() - 1] {
            assert!(interpreter(0x30e, &words()[..length], 0).is_err(), "{length} words");
        }
    }
}
