//! Which files may be given to the library that names. It allocates as much as a file says its compressed sections are, unpacks
//! to the end whatever comes, and opens whatever other file a file names. All of that is looked at here first.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufReader, Read as _, Seek as _, SeekFrom};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use flate2::bufread::ZlibDecoder;
use object::elf::{CompressionHeader64, ELFCOMPRESS_ZLIB, SHF_COMPRESSED, SHT_NOBITS, SectionHeader64};
use object::read::elf::{CompressionHeader as _, ElfFile64, FileHeader as _, SectionHeader as _};
use object::{Endianness, ReadCache, ReadRef as _};
use rustix::fs::OFlags;

use crate::symbolize::elf::{Bounded, FileId};

/// Compressed sections of a file, together with what they become. As much as is read of a file that is not compressed. Bytes.
const UNPACKED_MAX: u64 = 256 << 20;
/// Names of files are no longer. Bytes.
const NAME_MAX: u64 = 255;
/// Where debug information lies that was packaged apart. The library looks there.
const DEBUG_FOLDERS: &[&str] = &["/usr/lib/debug", "/lib/debug"];

/// What may be read of a file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Readable {
    /// Its debug information, and not its symbols only.
    pub debug: bool,
    /// What it takes in memory besides itself: what it unpacks to, and the file that its debug information is in. Bytes.
    pub more: u64,
}

impl Readable {
    /// Of a file. `None`: nothing. `build_id`: in hexadecimal.
    pub fn of(file: &File, build_id: Option<&str>) -> Option<Self> {
        let own = Look::at(file)?;
        let apart = match &own.link {
            Link::Nowhere => Some(0),
            Link::File(name) => apart(file, OsStr::from_bytes(name), build_id),
            Link::Elsewhere => None,
        };
        let debug = own.is_known && apart.is_some();
        Some(Self { debug, more: own.unpacked + apart.unwrap_or(0) })
    }
}

/// Where a file says that its debug information is.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Link {
    Nowhere,
    /// In a file of this name.
    File(Vec<u8>),
    /// In a way that is not followed.
    Elsewhere,
}

struct Look {
    /// Bytes.
    unpacked: u64,
    /// Whether all of it is compressed in a way that the library knows.
    is_known: bool,
    link: Link,
}

impl Look {
    fn at(file: &File) -> Option<Self> {
        let cache = ReadCache::new(file);
        let data = Bounded::new(&cache);
        let elf = ElfFile64::<Endianness, _>::parse(data).ok()?;
        let (endian, header) = (elf.endian(), elf.elf_header());
        // The library takes the beginning of a file for a table of sections where there is none, and knows one byte order.
        if endian != Endianness::default() || header.e_shoff(endian) == 0 {
            return None;
        }
        let sections = header.section_headers(endian, data).ok()?;
        let names = header.section_strings(endian, data, sections).ok()?;
        let mut this = Self { unpacked: 0, is_known: true, link: Link::Nowhere };
        let mut left = UNPACKED_MAX;
        for section in sections {
            let is_packed = section.sh_flags(endian).contains(SHF_COMPRESSED);
            match section.name(endian, names) {
                Ok(b".gnu_debuglink") if !is_packed => this.note(linked(section, endian, data)),
                Ok(b".gnu_debuglink" | b".gnu_debugaltlink" | b".debug_sup") | Err(_) => this.note(None),
                Ok(_) => {}
            }
            if is_packed && section.sh_type(endian) != SHT_NOBITS {
                let (len, is_known) = unpacked(file, section, endian, &mut left)?;
                this.unpacked += len;
                this.is_known &= is_known;
            }
        }
        Some(this)
    }

    fn note(&mut self, name: Option<Vec<u8>>) {
        self.link = match (&self.link, name) {
            (Link::Nowhere, Some(name)) => Link::File(name),
            _ => Link::Elsewhere,
        };
    }
}

type Section = SectionHeader64<Endianness>;

/// The name in a `.gnu_debuglink`, which has no folders (GDB's manual, "Separate Debug Files").
fn linked(section: &Section, endian: Endianness, data: Bounded<'_>) -> Option<Vec<u8>> {
    let at = section.sh_offset(endian);
    let len = section.sh_size(endian).min(NAME_MAX + 1);
    let bytes = data.read_bytes_at(at, len).ok()?;
    let name = bytes.split(|&byte| byte == 0).next().filter(|name| name.len() < bytes.len())?;
    let is_plain = !matches!(name, b"" | b"." | b"..") && !name.contains(&b'/');
    is_plain.then(|| name.to_vec())
}

/// How long a section is when it is unpacked, and whether the library does that. `None`: too long, or not as long as it says.
fn unpacked(file: &File, section: &Section, endian: Endianness, left: &mut u64) -> Option<(u64, bool)> {
    const HEAD: u64 = size_of::<CompressionHeader64<Endianness>>() as u64;
    let (at, size) = (section.sh_offset(endian), section.sh_size(endian));
    let packed = size.checked_sub(HEAD)?;
    let mut head = [0; HEAD as usize];
    file.read_exact_at(&mut head, at).ok()?;
    let (head, _) = object::pod::from_bytes::<CompressionHeader64<Endianness>>(&head).ok()?;
    let stated = head.ch_size(endian);
    *left = left.checked_sub(stated)?.checked_sub(packed)?;
    if head.ch_type(endian) != ELFCOMPRESS_ZLIB {
        return Some((0, false));
    }
    let mut file = file;
    file.seek(SeekFrom::Start(at.checked_add(HEAD)?)).ok()?;
    let stream = ZlibDecoder::new(BufReader::new(file.take(packed)));
    let found = std::io::copy(&mut stream.take(stated + 1), &mut std::io::sink()).ok()?;
    (found == stated).then_some((stated, true))
}

/// What the file takes that a link leads to; 0 where there is none. `None`: it must not be opened.
fn apart(file: &File, name: &OsStr, build_id: Option<&str>) -> Option<u64> {
    let program = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()?;
    // Between this look and that of the library somebody may put anything else beside it, such as a pipe or a device.
    if !is_there(&program, file) || !is_ours(program.parent()?) {
        return None;
    }
    let mut candidates = candidates(&program, name, build_id);
    let Some(path) = candidates.find(|path| *path != program && path.exists()) else { return Some(0) };
    let options = OFlags::NONBLOCK | OFlags::NOCTTY;
    let target = File::options().read(true).custom_flags(options.bits().cast_signed()).open(&path).ok()?;
    let size = FileId::of(&target)?.size();
    let look = Look::at(&target)?;
    let is_packaged = DEBUG_FOLDERS.iter().any(|folder| path.starts_with(folder));
    (look.is_known && (is_packaged || look.link == Link::Nowhere)).then_some(size + look.unpacked)
}

/// Whether it is this file that lies there, and not one of the same path in another mount namespace.
fn is_there(path: &Path, file: &File) -> bool {
    let numbers = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
    let found = path.symlink_metadata().map(numbers);
    matches!((found, file.metadata().map(numbers)), (Ok(found), Ok(numbers)) if found == numbers)
}

/// Where the library looks, in its order.
fn candidates(program: &Path, name: &OsStr, build_id: Option<&str>) -> impl Iterator<Item = PathBuf> {
    let is_hex = |id: &&str| id.len() >= 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    let of_build = build_id.filter(is_hex).map(|id| format!(".build-id/{}/{}.debug", &id[..2], &id[2..]));
    let folders = || DEBUG_FOLDERS.iter().map(Path::new);
    let by_build = folders().filter_map(move |folder| Some(folder.join(of_build.as_ref()?)));
    let within = program.parent().and_then(|folder| folder.strip_prefix("/").ok()).unwrap_or(Path::new(""));
    let by_path = folders()
        .flat_map(move |folder| within.ancestors().map(move |within| folder.join(within).join(name)));
    by_build
        .chain(folders().map(move |folder| folder.join(name)))
        .chain([program.with_file_name(name)])
        .chain(by_path)
}

/// Whether nobody but root and ourselves can put a file there, or another folder in its place.
fn is_ours(folder: &Path) -> bool {
    let own = rustix::process::geteuid().as_raw();
    let is_safe = |path: &Path, sticky: u32| {
        let is_safe = |m: std::fs::Metadata| {
            (m.uid() == 0 || m.uid() == own) && (m.mode() & 0o022 == 0 || m.mode() & sticky != 0)
        };
        path.symlink_metadata().is_ok_and(is_safe)
    };
    is_safe(folder, 0) && folder.ancestors().skip(1).all(|above| is_safe(above, 0o1000))
}

#[cfg(test)]
pub(in crate::symbolize) mod tests {
    use std::ffi::OsStr;
    use std::fs::File;
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};

    use flate2::Compression;
    use flate2::write::ZlibEncoder;
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::{Readable, UNPACKED_MAX, candidates};

    /// A file with no code, and with these sections: name, flags, contents.
    pub(in crate::symbolize) fn elf(sections: &[(&str, u64, &[u8])]) -> Vec<u8> {
        const HEADER: usize = 64;
        let mut names = b"\0.shstrtab\0".to_vec();
        let mut contents = Vec::new();
        let mut table = vec![0; HEADER];
        let mut add = |name: usize, kind: u32, flags: u64, at: usize, len: usize| {
            let (words, longs) = ([name as u32, kind], [flags, 0, (HEADER + at) as u64, len as u64]);
            table.extend(words.iter().flat_map(|word| word.to_le_bytes()));
            table.extend(longs.iter().flat_map(|long| long.to_le_bytes()));
            table.extend([0; 24]);
        };
        for (name, flags, bytes) in sections {
            // `SHT_PROGBITS`
            add(names.len(), 1, *flags, contents.len(), bytes.len());
            names.extend([name.as_bytes(), b"\0"].concat());
            contents.extend_from_slice(bytes);
        }
        // `SHT_STRTAB`
        add(1, 3, 0, contents.len(), names.len());
        contents.extend(names);
        contents.resize(contents.len().next_multiple_of(8), 0);
        let mut header = b"\x7fELF\x02\x01\x01".to_vec();
        header.resize(16, 0);
        header.extend([3, 0, 62, 0, 1, 0, 0, 0]);
        header.extend([[0; 8], [0; 8], ((HEADER + contents.len()) as u64).to_le_bytes()].concat());
        let count = sections.len() as u8 + 2;
        header.extend([0, 0, 0, 0, 64, 0, 56, 0, 0, 0, 64, 0, count, 0, count - 1, 0]);
        [header, contents, table].concat()
    }

    const PACKED: u64 = 0x800;

    /// With its compression header.
    fn packed(kind: u32, stated: u64, bytes: &[u8]) -> Vec<u8> {
        let head = [&kind.to_le_bytes()[..], &[0; 4], &stated.to_le_bytes(), &1u64.to_le_bytes()];
        [&head.concat(), bytes].concat()
    }

    pub(in crate::symbolize) fn zlib(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn look(bytes: &[u8]) -> Option<Readable> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Readable::of(&file, None)
    }

    fn look_at_section(contents: &[u8]) -> Option<Readable> {
        look(&elf(&[(".debug_info", PACKED, contents)]))
    }

    #[test]
    fn a_file_that_says_it_unpacks_to_what_nobody_has_is_not_given_on() {
        let bytes = zlib(b"");
        for stated in [1, UNPACKED_MAX, UNPACKED_MAX + 1, 1 << 46, i64::MAX as u64 + 1, u64::MAX] {
            for kind in [1, 2] {
                let found = look_at_section(&packed(kind, stated, &bytes));
                // What is compressed in another way is not unpacked, however long it is: its symbols must do.
                let is_read = kind == 2 && stated < UNPACKED_MAX;
                assert_eq!(
                    found,
                    is_read.then_some(Readable { debug: false, more: 0 }),
                    "{kind} {stated:#x}"
                );
            }
        }
        assert_eq!(look_at_section(&[0; 23]), None);
    }

    #[test]
    fn what_unpacks_to_more_or_less_than_it_says_is_not_given_on() {
        let bytes = zlib(&vec![7; 1 << 20]);
        assert_eq!(
            look_at_section(&packed(1, 1 << 20, &bytes)),
            Some(Readable { debug: true, more: 1 << 20 })
        );
        for stated in [0, 100, (1 << 20) - 1, (1 << 20) + 1] {
            assert_eq!(look_at_section(&packed(1, stated, &bytes)), None, "{stated}");
        }
        // Sections count together.
        let half = packed(1, UNPACKED_MAX / 2, &bytes);
        assert_eq!(look(&elf(&[("a", PACKED, &half), ("b", PACKED, &half), ("c", PACKED, &half)])), None);
    }

    #[test]
    fn our_own_program_is_read_and_what_has_no_sections_is_not() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        assert_eq!(look(&own), Some(Readable { debug: true, more: 0 }));
        let without = |at: usize, bytes: &[u8]| {
            let mut own = own.clone();
            own[at..at + bytes.len()].copy_from_slice(bytes);
            look(&own)
        };
        // `e_shoff`; the byte order.
        assert_eq!(without(0x28, &[0; 8]), None);
        assert_eq!(without(5, &[2]), None);
        assert_eq!(look(&own[..1000]), None);
    }

    /// A program in a folder of ours, with a link.
    fn linking(folder: &Path, name: &str) -> File {
        let link = [name.as_bytes(), &[0; 8]].concat();
        let path = folder.join("program");
        std::fs::write(&path, elf(&[(".gnu_debuglink", 0, &link)])).unwrap();
        File::open(path).unwrap()
    }

    #[test]
    fn links_are_followed_only_to_files_that_nobody_else_can_replace() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let program = linking(folder.path(), "apart");
        let debug = || Readable::of(&program, None).unwrap().debug;
        assert!(debug(), "there is nothing there");
        let apart = folder.path().join("apart");
        let good = elf(&[(".debug_info", PACKED, &packed(1, 9, &zlib(&[7; 9])))]);
        std::fs::write(&apart, &good).unwrap();
        assert_eq!(Readable::of(&program, None).unwrap().more, good.len() as u64 + 9);
        assert!(debug());
        for bad in
            [elf(&[("a", PACKED, &packed(1, 1 << 46, &zlib(b"")))]), elf(&[(".gnu_debugaltlink", 0, b"/x")])]
        {
            std::fs::write(&apart, bad).unwrap();
            assert!(!debug());
        }
        std::fs::remove_file(&apart).unwrap();
        mknodat(CWD, &apart, FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert!(!debug(), "a pipe");
        std::fs::remove_file(&apart).unwrap();
        std::fs::write(&apart, &good).unwrap();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o777)).unwrap();
        assert!(!debug(), "anybody may replace it");
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        assert!(debug());
        // What lies there is not what runs.
        std::fs::rename(folder.path().join("program"), folder.path().join("old")).unwrap();
        linking(folder.path(), "apart");
        assert!(debug(), "it is where it is now");
        std::fs::remove_file(folder.path().join("old")).unwrap();
        assert!(!debug());
    }

    #[test]
    fn links_to_anywhere_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["/dev/watchdog", "../apart", "..", ""] {
            let program = linking(folder.path(), name);
            assert_eq!(Readable::of(&program, None), Some(Readable { debug: false, more: 0 }), "{name}");
        }
        for section in [".gnu_debugaltlink", ".debug_sup"] {
            let found = look(&elf(&[(section, 0, b"/dev/watchdog\0")]));
            assert_eq!(found, Some(Readable { debug: false, more: 0 }));
        }
        let twice = [(".gnu_debuglink", 0, &b"a\0"[..]), (".gnu_debuglink", 0, b"b\0")];
        assert_eq!(look(&elf(&twice)), Some(Readable { debug: false, more: 0 }));
    }

    #[test]
    fn the_folders_of_debug_information_come_first() {
        let found = |id| candidates(Path::new("/usr/bin/a"), OsStr::new("a.debug"), id).collect::<Vec<_>>();
        let by_id = found(Some("0123456789abcdef"));
        assert_eq!(by_id[0], PathBuf::from("/usr/lib/debug/.build-id/01/23456789abcdef.debug"));
        assert_eq!(by_id[4], PathBuf::from("/usr/bin/a.debug"));
        assert_eq!(by_id[5], PathBuf::from("/usr/lib/debug/usr/bin/a.debug"));
        // Go's are none of these.
        assert_eq!(found(Some("../../../../a/b/c/d")), found(None));
    }
}
