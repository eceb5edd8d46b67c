//! What a process has mapped, held on to while it is there: the list, and the files, opened. Must not read a file: the next
//! process may be gone meanwhile. What the files say is `modules`, on the thread that names.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::{Arc, OnceLock, Weak};

use rustix::fs::{FileType, Mode, OFlags};

use crate::symbolize::elf::{ElfCache, FileId};
use crate::symbolize::maps::{Inode, Mapping, parse};
use crate::symbolize::modules::Modules;

/// Why nothing is known of the code that a stack ran.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Missing {
    /// There is no copy of the stack that could be looked at.
    NotCopied,
    /// The process was gone.
    Gone,
    /// The process had replaced its image.
    Replaced,
}

/// Everything that is mapped in a process at a moment.
pub struct Maps {
    tgid: u32,
    list: Vec<Mapping>,
}

impl Maps {
    /// Of a process. `None`: it is gone, or ended while the list was read, or may not be read.
    pub fn of(tgid: u32) -> Option<Self> {
        let list = parse(&std::fs::read(format!("/proc/{tgid}/maps")).ok()?);
        let this = Self { tgid, list };
        // The kernel gives the list in pieces, and no more of them when the process ends. The first thread's stack is among
        // the last; a program may have unmapped it.
        let is_whole = this.list.iter().any(|mapping| mapping.path == "[stack]") || is_there(tgid);
        (is_whole && !this.list.is_empty()).then_some(this)
    }

    /// Whether a thread that was at this instruction, with this stack, can have run what is mapped here.
    fn fits(&self, at: Place) -> bool {
        let has_code = |mapping: &&Mapping| mapping.executable && mapping.addresses.contains(&at.instruction);
        // Where the kernel places code at random, an instruction of another image is in no code of this one. Programs that
        // lie where their file says all lie there; but the stack of their first thread does not.
        self.list.iter().any(|mapping| has_code(&mapping))
            && (at.instruction >= PLACED_END
                || self.list.iter().any(|mapping| mapping.addresses.contains(&at.stack)))
    }

    /// The program itself is mapped first, whatever it is called.
    fn program(&self) -> Option<Inode> {
        self.list.iter().map(Mapping::inode).find(Option::is_some).flatten()
    }

    /// The mappings of those files that have code and are wanted.
    fn of_code(&self, wanted: impl Fn(&Mapping) -> bool) -> impl Iterator<Item = &Mapping> {
        let program = self.program();
        let is_code = |mapping: &&Mapping| {
            mapping.executable && mapping.inode().is_some() && (mapping.inode() == program || wanted(mapping))
        };
        let files: HashSet<_> = self.list.iter().filter(is_code).map(Mapping::inode).collect();
        self.list.iter().filter(move |mapping| files.contains(&mapping.inode()))
    }
}

/// Programs whose file says where they lie are below this; what the kernel places is far above.
const PLACED_END: u64 = 1 << 32;

/// Whether a process still has its memory.
fn is_there(tgid: u32) -> bool {
    use std::io::Read as _;
    let mut byte = [0];
    File::open(format!("/proc/{tgid}/maps"))
        .and_then(|mut file| file.read(&mut byte))
        .is_ok_and(|len| len > 0)
}

/// Where a thread was.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Place {
    /// Address of its instruction.
    pub instruction: u64,
    /// Its stack pointer.
    pub stack: u64,
}

/// A file with code.
pub struct HeldFile {
    /// The file itself.
    pub file: Arc<File>,
    /// Which.
    pub id: FileId,
    /// Its first mapping with code.
    pub mapping: Mapping,
}

/// A process's files with code, open, and where they are mapped.
pub struct Held {
    /// Process.
    pub tgid: u32,
    /// All mappings of these files.
    pub maps: Vec<Mapping>,
    /// The program itself.
    pub program: Option<Inode>,
    /// Each once.
    pub files: Vec<HeldFile>,
    modules: OnceLock<Modules>,
}

impl Held {
    /// Only what may have to do with an interpreter: the program, and files that are wanted. `None`: it is gone.
    pub fn some(tgid: u32, files: &mut Files, wanted: impl Fn(&Mapping) -> bool) -> Option<Self> {
        Self::open(Maps::of(tgid)?, files, wanted)
    }

    /// What a thread ran that was at this place a moment ago. `known`: what its process had mapped before, and whether it
    /// is sure that the process has not replaced its image since.
    ///
    /// # Errors
    /// When the process is gone or has become another, and `known` does not tell either.
    pub fn by(
        tgid: u32,
        at: Place,
        files: &mut Files,
        known: Option<(&Arc<Self>, bool)>,
    ) -> Result<Arc<Self>, Missing> {
        let is_sure = |(known, is_sure): &(&Arc<Self>, bool)| *is_sure && known.has_code_at(at.instruction);
        let before = || known.filter(is_sure).map(|(known, _)| Arc::clone(known));
        let Some(maps) = Maps::of(tgid) else { return before().ok_or(Missing::Gone) };
        if !maps.fits(at) {
            return before().ok_or(Missing::Replaced);
        }
        if let Some((known, _)) = known.filter(|(known, _)| known.is_as(&maps)) {
            return Ok(Arc::clone(known));
        }
        match Self::open(maps, files, |_| true) {
            Some(held) => Ok(Arc::new(held)),
            None => before().ok_or(Missing::Gone),
        }
    }

    /// `None`: it was gone before all files were open.
    fn open(maps: Maps, files: &mut Files, wanted: impl Fn(&Mapping) -> bool) -> Option<Self> {
        let (tgid, program) = (maps.tgid, maps.program());
        let maps: Vec<_> = maps.of_code(wanted).cloned().collect();
        let mut held: Vec<HeldFile> = Vec::new();
        let mut all = true;
        for mapping in maps.iter().filter(|mapping| mapping.executable) {
            if held.iter().any(|file| file.mapping.inode() == mapping.inode()) {
                continue;
            }
            match files.of(tgid, mapping) {
                Some((file, id)) => held.push(HeldFile { file, id, mapping: mapping.clone() }),
                None => all = false,
            }
        }
        // What cannot be opened in a process that is there has no names; the rest has.
        let is_whole = all || is_there(tgid);
        is_whole.then(|| Self { tgid, maps, program, files: held, modules: OnceLock::new() })
    }

    /// Whether the process has the same files at the same addresses still.
    pub fn is_unchanged(&self) -> bool {
        Maps::of(self.tgid).is_some_and(|maps| self.is_as(&maps))
    }

    fn is_as(&self, maps: &Maps) -> bool {
        self.maps.iter().map(Mapping::what).eq(maps.of_code(|_| true).map(Mapping::what))
    }

    fn has_code_at(&self, address: u64) -> bool {
        self.maps.iter().any(|mapping| mapping.executable && mapping.addresses.contains(&address))
    }

    /// What the files tell, read when it is first asked for.
    pub fn modules(&self, cache: &mut ElfCache) -> &Modules {
        self.modules.get_or_init(|| Modules::of(self, cache))
    }
}

/// The files that are open, so that a thousand processes that run the same need one descriptor for it, and the next one
/// that runs it need not be there any more when it is looked at.
#[derive(Default)]
pub struct Files {
    by_id: HashMap<FileId, Weak<File>>,
    /// Only files whose number is the same in a list of mappings and for who opens them. On some file systems it is not,
    /// and the former means several files.
    by_inode: HashMap<Inode, Weak<File>>,
}

/// Files that are remembered.
const FILES_MAX: usize = 4096;

impl Files {
    /// A mapped file of a process.
    fn of(&mut self, tgid: u32, mapping: &Mapping) -> Option<(Arc<File>, FileId)> {
        let inode = mapping.inode()?;
        // While a file is open nobody else gets its number.
        if let Some(file) = self.by_inode.get(&inode).and_then(Weak::upgrade) {
            // Its contents may have been written over.
            let id = FileId::of(&file)?;
            return Some((file, id));
        }
        let file = open(tgid, mapping)?;
        let id = FileId::of(&file)?;
        let is_telling = file.metadata().is_ok_and(|metadata| numbers(&metadata) == inode);
        let file = self.shared(id, file);
        if is_telling {
            self.by_inode.insert(inode, Arc::downgrade(&file));
        }
        Some((file, id))
    }

    /// The same file, where it is open already.
    fn shared(&mut self, id: FileId, file: File) -> Arc<File> {
        if let Some(known) = self.by_id.get(&id).and_then(Weak::upgrade) {
            return known;
        }
        if self.by_id.len() >= FILES_MAX {
            self.by_id.retain(|_, file| file.strong_count() > 0);
            self.by_inode.retain(|_, file| file.strong_count() > 0);
        }
        let file = Arc::new(file);
        self.by_id.insert(id, Arc::downgrade(&file));
        file
    }
}

/// As a list of mappings has them.
fn numbers(metadata: &std::fs::Metadata) -> Inode {
    let device = metadata.dev();
    ((rustix::fs::major(device), rustix::fs::minor(device)), metadata.ino())
}

fn open(tgid: u32, mapping: &Mapping) -> Option<File> {
    let root = format!("/proc/{tgid}");
    // The links have no leading zeros. They work for deleted files and in other mount namespaces.
    let link = format!("{root}/map_files/{:x}-{:x}", mapping.addresses.start, mapping.addresses.end);
    regular(Path::new(&link), |_| true).or_else(|| {
        let path = Path::new(&root).join("root").join(mapping.path.trim_start_matches('/'));
        // Another file may lie there by now. Devices are not compared: some file systems show others to who opens a file.
        let is_mapped = |inode| inode == mapping.inode;
        (!mapping.is_deleted).then(|| regular(&path, is_mapped)).flatten()
    })
}

/// A file to be read, once it is known what it is: to open a device may do something, and a pipe may wait for ever.
fn regular(path: &Path, is_it: impl FnOnce(u64) -> bool) -> Option<File> {
    let place = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let status = rustix::fs::fstat(&place).ok()?;
    let is_file = FileType::from_raw_mode(status.st_mode).is_file();
    // Nor is anybody waited for who holds a lease on it.
    let mut options = File::options();
    options.read(true).custom_flags((OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed());
    let open = || options.open(format!("/proc/self/fd/{}", place.as_raw_fd())).ok();
    (is_file && is_it(status.st_ino)).then(open).flatten()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;
    use std::sync::Arc;

    use super::{FileType, Files, Held, Maps, Missing, Mode, PLACED_END, Place, open, regular};
    use crate::symbolize::maps::{Mapping, parse};

    fn here() -> Place {
        let on_stack = 0u8;
        Place { instruction: here as *const () as u64, stack: std::ptr::from_ref(&on_stack).addr() as u64 }
    }

    #[test]
    fn our_own_files_are_opened_once_and_are_the_same_the_next_time() {
        let own = std::process::id();
        let mut files = Files::default();
        let held = Held::by(own, here(), &mut files, None).unwrap();
        assert!(held.files.len() > 1, "the program and its libraries");
        assert!(held.is_unchanged());
        let again = Held::by(own, here(), &mut files, Some((&held, false))).unwrap();
        assert!(Arc::ptr_eq(&held, &again));
        let afresh = Held::by(own, here(), &mut files, None).unwrap();
        let pairs = || held.files.iter().zip(&afresh.files);
        assert!(pairs().all(|(a, b)| Arc::ptr_eq(&a.file, &b.file) && a.id == b.id));
        let weak = Arc::downgrade(&held.files[0].file);
        drop((held, again, afresh));
        assert!(weak.upgrade().is_none(), "the list of open files alone does not keep one open");
    }

    #[test]
    fn a_process_that_is_gone_has_what_it_had_if_that_is_what_it_ran() {
        let gone = u32::MAX - 1;
        let mut files = Files::default();
        assert_eq!(Held::by(gone, here(), &mut files, None).err(), Some(Missing::Gone));
        let known = Held::by(std::process::id(), here(), &mut files, None).unwrap();
        let held = Held::by(gone, here(), &mut files, Some((&known, true))).unwrap();
        assert!(Arc::ptr_eq(&held, &known));
        let elsewhere = Place { instruction: 0x1234, ..here() };
        for (at, is_sure) in [(elsewhere, true), (here(), false)] {
            let missing = Held::by(gone, at, &mut files, Some((&known, is_sure))).err();
            assert_eq!(missing, Some(Missing::Gone));
        }
    }

    #[test]
    fn a_path_is_opened_only_if_the_mapped_file_lies_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        std::fs::write(&path, b"it").unwrap();
        let inode = std::fs::metadata(&path).unwrap().ino();
        let is_it = |found| found == inode;
        assert!(regular(&path, is_it).is_some());
        // A link to it is as good.
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(regular(&link, is_it).is_some());
        // An upgrade puts another one there.
        std::fs::write(folder.path().join("new"), b"other").unwrap();
        std::fs::rename(folder.path().join("new"), &path).unwrap();
        assert!(regular(&path, is_it).is_none());
        // A device, which is not opened, and a pipe, for which nobody would wait to the end.
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        assert!(regular(&path, |_| true).is_none());
        std::fs::remove_file(&path).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        assert!(regular(&path, |_| true).is_none());
        assert!(regular(folder.path(), |_| true).is_none());
    }

    #[test]
    fn without_the_links_a_file_is_opened_by_its_path_unless_it_was_deleted() {
        let own = std::process::id();
        let maps = Maps::of(own).unwrap();
        let known = maps.list.iter().find(|mapping| mapping.inode().is_some()).unwrap();
        // No such link: there is nothing at these addresses.
        let mapping = Mapping { addresses: 0x1000..0x2000, ..known.clone() };
        assert!(open(own, &mapping).is_some());
        assert!(open(own, &Mapping { inode: mapping.inode + 1, ..mapping.clone() }).is_none());
        assert!(open(own, &Mapping { is_deleted: true, ..mapping }).is_none());
    }

    #[test]
    fn what_ran_elsewhere_is_of_another_image() {
        let elsewhere = Place { instruction: 0x1234, ..here() };
        let missing = Held::by(std::process::id(), elsewhere, &mut Files::default(), None).err();
        assert_eq!(missing, Some(Missing::Replaced));
    }

    /// Two programs that are linked for the same address: only the stack tells them apart.
    #[test]
    fn where_all_programs_lie_the_stack_must_be_there_too() {
        let text = b"\
00400000-00421000 r-xp 00000000 fe:01 1234 /bin/loader\n\
7f1000000000-7f1000001000 r-xp 00001000 00:1f 77 /lib/libc.so.6\n\
7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0 [stack]\n";
        let maps = Maps { tgid: 1, list: parse(text) };
        let fits = |instruction, stack| maps.fits(Place { instruction, stack });
        assert!(fits(0x40_1000, 0x7ffd_0001_0000));
        assert!(!fits(0x40_1000, 0x7ffc_0001_0000));
        assert!(!fits(0x50_1000, 0x7ffd_0001_0000));
        // The stack of a thread that has ended since is not there any more.
        assert!(0x7f10_0000_0800 > PLACED_END && fits(0x7f10_0000_0800, 0x7f0f_0001_0000));
    }
}
