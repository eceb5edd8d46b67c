//! `/proc/PID/maps`: which file is mapped where. Paths may hold anything, also line breaks (the kernel writes them as
//! `\012`), so nothing is taken from them but a name for people.

use std::ops::Range;

/// One mapping of a file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Mapping {
    /// Addresses in the process.
    pub addresses: Range<u64>,
    /// Where in the file it begins. Bytes.
    pub file_offset: u64,
    /// Whether it holds code.
    pub executable: bool,
    /// Whether it can be written to.
    pub writable: bool,
    /// Device, as major and minor.
    pub device: (u32, u32),
    /// Inode; 0 for what is no file.
    pub inode: u64,
    /// Path as its process sees it, or a name in brackets.
    pub path: String,
    /// Whether there is nothing at this path any more, or another file.
    pub is_deleted: bool,
}

/// Device, as major and minor, and number of a file on it.
pub type Inode = ((u32, u32), u64);

impl Mapping {
    /// Which file; `None`: none.
    pub fn inode(&self) -> Option<Inode> {
        (self.inode != 0).then_some((self.device, self.inode))
    }

    /// What does not change as long as it is mapped: all but whether its path is still there.
    pub fn what(&self) -> impl Eq + use<'_> {
        let Self { addresses, file_offset, executable, writable, device, inode, path, is_deleted: _ } = self;
        (addresses, file_offset, executable, writable, device, inode, path)
    }

    /// Whether it can only be read.
    pub fn is_read_only_data(&self) -> bool {
        !self.executable && !self.writable
    }
}

/// Reads all of it. Lines that make no sense are left out.
pub fn parse(text: &[u8]) -> Vec<Mapping> {
    text.split(|&byte| byte == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<Mapping> {
    let line = String::from_utf8_lossy(line);
    let mut fields = line.splitn(6, ' ');
    let (start, end) = fields.next()?.split_once('-')?;
    let rights = fields.next()?;
    let file_offset = hex(fields.next()?)?;
    let (major, minor) = fields.next()?.split_once(':')?;
    let inode = fields.next()?.parse().ok()?;
    let path = fields.next().unwrap_or_default().trim_start();
    let before = path.strip_suffix(" (deleted)");
    Some(Mapping {
        addresses: hex(start)?..hex(end)?,
        file_offset,
        executable: rights.as_bytes().get(2) == Some(&b'x'),
        writable: rights.as_bytes().get(1) == Some(&b'w'),
        device: (u32::from_str_radix(major, 16).ok()?, u32::from_str_radix(minor, 16).ok()?),
        inode,
        path: before.unwrap_or(path).to_owned(),
        is_deleted: before.is_some(),
    })
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::parse;

    const TEXT: &[u8] = b"\
00400000-00421000 r--p 00000000 fe:01 1234                               /usr/bin/python3.11\n\
00421000-006be000 r-xp 00021000 fe:01 1234                               /usr/bin/python3.11\n\
7f0000000000-7f0000001000 rw-p 00000000 00:00 0 \n\
7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0                          [stack]\n\
7f1000000000-7f1000001000 r-xp 00001000 00:1f 77                         /tmp/a b\\012c.so (deleted)\n\
nonsense\n";

    #[test]
    fn files_code_and_names_are_read() {
        let maps = parse(TEXT);
        assert_eq!(maps.len(), 5);
        assert!(!maps[0].executable && maps[1].executable);
        assert_eq!((maps[1].addresses.clone(), maps[1].file_offset), (0x42_1000..0x6b_e000, 0x2_1000));
        assert_eq!((maps[1].device, maps[1].inode), ((0xfe, 1), 1234));
        assert_eq!(maps[3].path, "[stack]");
        assert_eq!(maps[4].path, "/tmp/a b\\012c.so");
        assert!(maps[4].is_deleted && !maps[1].is_deleted);
    }

    #[test]
    fn bytes_that_are_no_text_do_no_harm() {
        assert_eq!(parse(b"\xff\xfe\n-- -\n").len(), 0);
        assert_eq!(parse(b"1000-2000 r-xp 0 00:01 5 /x/\xff\xff")[0].inode, 5);
    }
}
