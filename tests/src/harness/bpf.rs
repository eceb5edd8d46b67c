//! Which BPF programs, maps and links a process holds, and whether one still exists.

use std::fs;

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
        // The first member of bpf_attr is the number; the rest may be zero.
        let attributes = [self.id, 0, 0, 0];
        // SAFETY: the attributes are alive and as long as we say.
        let fd = unsafe {
            libc::syscall(libc::SYS_bpf, KINDS[self.kind].1, &raw const attributes, size_of_val(&attributes))
        };
        if fd >= 0 {
            // SAFETY: it was just opened, and nobody else knows it.
            unsafe { libc::close(fd as libc::c_int) };
            return Ok(true);
        }
        let error = std::io::Error::last_os_error();
        ensure!(error.raw_os_error() == Some(libc::ENOENT), "ask for {self:?}: {error}");
        Ok(false)
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
