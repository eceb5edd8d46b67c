//! Which BPF programs, maps and links a process holds, and whether one still exists.

use std::fs;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use anyhow::{Context, Result, ensure};

/// A kind of object, by the name of its number in `/proc/PID/fdinfo`, and the commands of bpf(2) that open one.
const KINDS: [(&str, libc::c_int); 3] = [("prog_id", 13), ("map_id", 14), ("link_id", 30)];

/// An object in the kernel.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Object {
    kind: usize,
    id: u32,
}

impl Object {
    /// Its kind, as the kernel names its number.
    pub const fn kind(self) -> &'static str {
        KINDS[self.kind].0
    }

    /// Whether it still exists.
    pub fn exists(self) -> Result<bool> {
        match self.open() {
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error).with_context(|| format!("ask for {self:?}")),
        }
    }

    fn open(self) -> std::io::Result<OwnedFd> {
        // The first member of bpf_attr is the number; the rest may be zero.
        let fd = bpf(KINDS[self.kind].1, &mut [u64::from(self.id), 0])?;
        // SAFETY: it was just opened, and nobody else knows it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
    }
}

/// A command of bpf(2), with the first bytes of its attributes. What it returns.
fn bpf(command: libc::c_int, attributes: &mut [u64]) -> std::io::Result<libc::c_long> {
    // SAFETY: the attributes are alive and as long as we say; whoever calls vouches for addresses in them.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), size_of_val(attributes)) };
    if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(result) }
}

const MAP_LOOKUP_ELEM: libc::c_int = 1;
const MAP_UPDATE_ELEM: libc::c_int = 2;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;

/// An array map of another process, whose entries are words of 64 bits.
#[derive(Debug)]
pub struct ArrayMap {
    fd: OwnedFd,
    words: usize,
    /// How many entries.
    pub len: u32,
}

impl ArrayMap {
    /// The map of this name that a process holds.
    pub fn of(pid: u32, name: &str) -> Result<Self> {
        for object in held_by(pid)?.into_iter().filter(|object| object.kind() == "map_id") {
            let fd = object.open().context("open a map")?;
            // struct bpf_map_info: type, id, key_size, value_size, max_entries, map_flags, name.
            let mut info = [0u32; 32];
            let length_and_fd = fd.as_raw_fd() as u64 | (size_of_val(&info) as u64) << 32;
            bpf(OBJ_GET_INFO_BY_FD, &mut [length_and_fd, info.as_mut_ptr() as u64])
                .context("ask for a map")?;
            let found: Vec<u8> = info[6..10].iter().flat_map(|word| word.to_ne_bytes()).collect();
            if found.split(|&byte| byte == 0).next() == Some(name.as_bytes()) {
                return Ok(Self { fd, words: info[3] as usize / 8, len: info[4] });
            }
        }
        anyhow::bail!("process {pid} has no map {name}")
    }

    /// An entry.
    pub fn get(&self, index: u32) -> Result<Vec<u64>> {
        let mut entry = vec![0; self.words];
        self.access(MAP_LOOKUP_ELEM, index, &mut entry)?;
        Ok(entry)
    }

    /// Replaces an entry.
    pub fn set(&self, index: u32, entry: &mut [u64]) -> Result<()> {
        ensure!(entry.len() == self.words, "an entry has {} words", self.words);
        self.access(MAP_UPDATE_ELEM, index, entry)
    }

    fn access(&self, command: libc::c_int, index: u32, entry: &mut [u64]) -> Result<()> {
        let key = &raw const index as u64;
        let attributes = &mut [self.fd.as_raw_fd() as u64, key, entry.as_mut_ptr() as u64, 0];
        bpf(command, attributes).with_context(|| format!("entry {index} of a map"))?;
        Ok(())
    }
}

/// Everything that a process holds.
pub fn held_by(pid: u32) -> Result<Vec<Object>> {
    let mut objects = Vec::new();
    let folder = format!("/proc/{pid}/fdinfo");
    for entry in fs::read_dir(&folder).with_context(|| format!("read {folder}"))? {
        let Ok(text) = fs::read_to_string(entry.context("read a folder")?.path()) else { continue };
        for line in text.lines() {
            let Some((name, number)) = line.split_once(':') else { continue };
            let kind = KINDS.iter().position(|(known, _)| *known == name);
            if let (Some(kind), Ok(id)) = (kind, number.trim().parse()) {
                objects.push(Object { kind, id });
            }
        }
    }
    objects.sort_unstable();
    objects.dedup();
    Ok(objects)
}
