//! Array maps as memory: reading a hundred thousand counters costs no system call. Entries are read and written whole;
//! the kernel side may change one at the same time, so a reader takes what it sees as a moment's truth.

use std::marker::PhantomData;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Map, MapData};
use aya::{Ebpf, Pod};
use memmap2::{MmapOptions, MmapRaw};

/// An array map of `T`. A clone is the same memory.
pub struct Table<T> {
    memory: Arc<MmapRaw>,
    len: usize,
    entry: PhantomData<fn() -> T>,
}

impl<T> Clone for Table<T> {
    fn clone(&self) -> Self {
        Self { memory: Arc::clone(&self.memory), len: self.len, entry: PhantomData }
    }
}

impl<T: Pod> Table<T> {
    /// Maps the array `name`, which has `len` entries.
    pub fn map(ebpf: &Ebpf, name: &str, len: u32) -> Result<Self> {
        let map = ebpf.map(name).with_context(|| format!("the BPF object has no map {name}"))?;
        let Map::Array(data) = map else { anyhow::bail!("map {name} is no array") };
        let len = len as usize;
        Ok(Self { memory: Arc::new(map_memory(data, len * size_of::<T>(), name)?), len, entry: PhantomData })
    }

    /// How many entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Reads an entry.
    pub fn get(&self, index: usize) -> T {
        // SAFETY: inside the mapping; `T` is plain bytes, so whatever the kernel writes meanwhile is a valid `T`.
        unsafe { self.entry(index).read_volatile() }
    }

    /// Writes an entry that the kernel side does not use.
    pub fn set(&mut self, index: usize, value: T) {
        // SAFETY: as in `get`.
        unsafe { self.entry(index).write_volatile(value) };
    }

    /// Where an entry lies.
    pub fn entry(&self, index: usize) -> *mut T {
        assert!(index < self.len, "index {index} of {}", self.len);
        // SAFETY: inside the mapping, which is page-aligned and whose entries are multiples of eight bytes.
        unsafe { self.memory.as_mut_ptr().cast::<T>().add(index) }
    }
}

fn map_memory(data: &MapData, len_bytes: usize, name: &str) -> Result<MmapRaw> {
    ensure!(len_bytes > 0, "map {name} is empty");
    let page = rustix::param::page_size();
    let fd = data.fd().as_fd().as_raw_fd();
    MmapOptions::new()
        .len(len_bytes.next_multiple_of(page))
        .map_raw(fd)
        .with_context(|| format!("map the memory of {name}"))
}
