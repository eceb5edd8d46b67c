//! Writes the archive that the kernel unpacks into its first root: "newc" without compression, as described in the kernel's
//! Documentation/driver-api/early-userspace/buffer-format.rst. Must not read the file system.

use std::collections::BTreeSet;

const DIRECTORY: u32 = 0o040_755;
const FILE: u32 = 0o100_644;
const PROGRAM: u32 = 0o100_755;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// An archive that grows. Parent directories are added by themselves.
#[derive(Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    next_inode: u32,
    directories: BTreeSet<String>,
}

impl Archive {
    /// Adds a directory.
    pub(crate) fn directory(&mut self, path: &str) {
        let path = path.trim_start_matches('/');
        let ends = path.match_indices('/').map(|(end, _)| end).chain([path.len()]);
        for end in ends.filter(|end| *end > 0) {
            if self.directories.insert(path[..end].to_owned()) {
                self.entry(&path[..end], DIRECTORY, (0, 0), &[]);
            }
        }
    }

    /// Adds a file.
    pub(crate) fn file(&mut self, path: &str, content: &[u8]) {
        self.in_its_directory(path, FILE, (0, 0), content);
    }

    /// Adds a file that can be executed.
    pub(crate) fn program(&mut self, path: &str, content: &[u8]) {
        self.in_its_directory(path, PROGRAM, (0, 0), content);
    }

    /// Adds a character device.
    pub(crate) fn character_device(&mut self, path: &str, numbers: (u32, u32)) {
        self.in_its_directory(path, CHARACTER_DEVICE, numbers, &[]);
    }

    /// The whole archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.next_inode = 0;
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn in_its_directory(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        let path = path.trim_start_matches('/');
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.directory(parent);
        }
        self.entry(path, mode, device, content);
    }

    fn entry(&mut self, path: &str, mode: u32, (major, minor): (u32, u32), content: &[u8]) {
        let links = 1;
        let name_length = path.len() as u32 + 1;
        // Inode, mode, user, group, links, time, size, device of the file system (two), own device (two), length of the
        // name with its end, checksum.
        let fields =
            [self.next_inode, mode, 0, 0, links, 0, content.len() as u32, 0, 0, major, minor, name_length, 0];
        self.next_inode += 1;
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").into_bytes());
        }
        self.bytes.extend(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        let length = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(length, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::Archive;

    #[test]
    fn names_contents_and_padding_are_where_newc_has_them() {
        let mut archive = Archive::default();
        archive.program("/bin/a", b"hello");
        let bytes = archive.finish();
        let text = String::from_utf8_lossy(&bytes);
        assert_eq!(bytes.len() % 4, 0);
        assert!(text.starts_with("070701") && text.contains("TRAILER!!!"));
        // The directory comes first: a header of 110 bytes, its name, its end.
        assert_eq!(&bytes[110..114], b"bin\0");
        let file = &bytes[116..];
        assert_eq!(&file[14..22], b"000081ed");
        assert_eq!(&file[54..62], b"00000005");
        assert_eq!(&file[110..116], b"bin/a\0");
        assert_eq!(&file[116..121], b"hello");
    }

    #[test]
    fn each_directory_is_there_once_and_before_its_files() {
        let mut archive = Archive::default();
        archive.file("/a/b/c", b"");
        archive.file("/a/b/d", b"");
        archive.directory("/a/b");
        let text = String::from_utf8_lossy(&archive.finish()).into_owned();
        assert_eq!(text.matches("070701").count(), 5);
        assert!(text.find("a/b\0") < text.find("a/b/c\0"));
    }
}
