//! Where in a code object → line. Three forms of line table: up to 3.9, 3.10, and from 3.11 on. Formats:
//! `Objects/lnotab_notes.txt` and `Objects/locations.md` of CPython.

/// The line of a position as the kernel side reports it: an index up to 3.10, bytes from 3.11 on; negative before the
/// first instruction. `is_cut`: the table is longer. `None`: it does not tell.
pub fn line(version: u32, first_line: u32, (table, is_cut): (&[u8], bool), position: i32) -> Option<u32> {
    let Ok(position) = u64::try_from(position) else { return Some(first_line) };
    let line = match version {
        ..=0x309 => lnotab(first_line, table, is_cut, position)?,
        0x30a => linetable(first_line, table, 2 * position)?,
        _ => locations(first_line, table, position / 2)?,
    };
    u32::try_from(line).ok()
}

/// Pairs: so many bytes of code further, so many lines further.
fn lnotab(first_line: u32, table: &[u8], is_cut: bool, offset: u64) -> Option<i64> {
    let (mut line, mut at) = (i64::from(first_line), 0u64);
    for pair in table.chunks_exact(2) {
        at += u64::from(pair[0]);
        if at > offset {
            return Some(line);
        }
        line += i64::from(pair[1].cast_signed());
    }
    // The last line is that of all that follows, if this was the last.
    (!is_cut).then_some(line)
}

/// Pairs: a stretch of so many bytes, so many lines further than the last; -128: of no line.
fn linetable(first_line: u32, table: &[u8], offset: u64) -> Option<i64> {
    let (mut line, mut end) = (i64::from(first_line), 0u64);
    for pair in table.chunks_exact(2) {
        let start = end;
        end += u64::from(pair[0]);
        let has_line = pair[1] != 0x80;
        if has_line {
            line += i64::from(pair[1].cast_signed());
        }
        if (start..end).contains(&offset) {
            return has_line.then_some(line);
        }
    }
    None
}

/// Entries of a first byte (kind, length in code units) and what the kind brings along.
fn locations(first_line: u32, table: &[u8], unit: u64) -> Option<i64> {
    let mut bytes = table.iter().copied();
    let (mut line, mut end) = (i64::from(first_line), 0u64);
    loop {
        let first = bytes.next()?;
        if first & 0x80 == 0 {
            return None;
        }
        let mut has_line = true;
        match first >> 3 & 15 {
            15 => has_line = false,
            14 => {
                line += signed(varint(&mut bytes)?);
                for _ in 0..3 {
                    varint(&mut bytes)?;
                }
            }
            13 => line += signed(varint(&mut bytes)?),
            kind @ 10..=12 => {
                line += i64::from(kind - 10);
                bytes.nth(1)?;
            }
            _ => {
                bytes.next()?;
            }
        }
        end += u64::from(first & 7) + 1;
        if unit < end {
            return has_line.then_some(line);
        }
    }
}

/// Six bits per byte, the lowest first; bit 6: more follow.
fn varint(bytes: &mut impl Iterator<Item = u8>) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..60).step_by(6) {
        let byte = bytes.next()?;
        value |= u64::from(byte & 63) << shift;
        if byte & 64 == 0 {
            return Some(value);
        }
    }
    None
}

/// The lowest bit is the sign.
fn signed(value: u64) -> i64 {
    let magnitude = (value >> 1).cast_signed();
    if value & 1 == 1 { -magnitude } else { magnitude }
}

#[cfg(test)]
mod tests {
    use super::line;

    #[test]
    fn before_the_first_instruction_it_is_the_first_line() {
        assert_eq!(line(0x30b, 7, (&[], false), -1), Some(7));
    }

    #[test]
    fn up_to_3_9_pairs_move_forward_and_back() {
        // 0..6: line 10, 6..50: 11, 50..: 8.
        let table = [6, 1, 44, 0xfd];
        assert_eq!(
            [0, 5, 6, 49, 50, 999].map(|at| line(0x308, 10, (&table, false), at)),
            [10, 10, 11, 11, 8, 8].map(Some)
        );
    }

    #[test]
    fn in_3_10_a_stretch_may_have_no_line() {
        // 0..4: line 11, 4..8: none, 8..12: 12. Positions count units of two bytes.
        let table = [4, 1, 4, 0x80, 4, 1];
        assert_eq!(
            [0, 1, 2, 4, 5].map(|at| line(0x30a, 10, (&table, false), at)),
            [Some(11), Some(11), None, Some(12), Some(12)]
        );
        assert_eq!(line(0x30a, 10, (&table, false), 6), None);
    }

    #[test]
    fn from_3_11_each_kind_of_entry_is_read() {
        let table = [
            0x80 | 1,
            0x00, // short form: two units on the first line
            0x80 | 11 << 3,
            1,
            2, // one line further, one unit
            0x80 | 13 << 3 | 1,
            0x04, // two lines further, two units
            0x80 | 14 << 3,
            0x07,
            0,
            0,
            0,              // three lines back, one unit
            0x80 | 15 << 3, // none, one unit
            0x80 | 13 << 3,
            0x40 | 0x28,
            0x01, // 0x68 >> 1 = 52 lines further
        ];
        let lines: Vec<_> = (0..8).map(|unit| line(0x30c, 100, (&table, false), 2 * unit)).collect();
        assert_eq!(
            lines,
            [Some(100), Some(100), Some(101), Some(103), Some(103), Some(100), None, Some(152)]
        );
        assert_eq!(line(0x30c, 100, (&table, false), 16), None);
    }

    #[test]
    fn a_table_that_is_cut_off_or_nonsense_tells_nothing() {
        assert_eq!(line(0x30b, 1, (&[0x80 | 14 << 3, 0x40], false), 0), None);
        assert_eq!(line(0x30b, 1, (&[0x12], false), 0), None);
        let endless = [0x80 | 13 << 3, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f, 0x7f];
        assert_eq!(line(0x30b, 1, (&endless, false), 0), None);
        // Before the cut it is known, behind it nobody knows.
        let cut = [6, 1, 44, 1];
        assert_eq!([5, 49, 50].map(|at| line(0x308, 10, (&cut, true), at)), [Some(10), Some(11), None]);
        assert_eq!(line(0x309, 1, (&[0, 0x80, 0, 0x80], false), 5), None, "lines below zero");
    }
}
