//! The table of call sites on the user side: reading what was counted, and taking entries back when their key was
//! retired.

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::maps::{HashMap, MapData, Queue};
use portchurn_common::stack::{At, Effort, Site, SiteKey, StackControl};

use crate::live::keys::{Keys, take};
use crate::live::sizes::Sizes;
use crate::live::tables::Table;
use crate::model::sample::SiteCount;

/// Hands out every index.
pub fn fill_free_sites(ebpf: &mut Ebpf, sites: u32) -> Result<()> {
    let map = ebpf.map_mut("FREE_SITES").context("the BPF object has no map FREE_SITES")?;
    let mut free: Queue<_, u32> = Queue::try_from(map)?;
    for index in 0..sites {
        free.push(index, 0).context("fill FREE_SITES")?;
    }
    Ok(())
}

/// Copies of native stacks per second: of one process, and of all. 32 KiB each.
#[derive(Clone, Copy, Debug)]
pub struct Copies {
    /// Of one process.
    pub per_process: u32,
    /// Of all.
    pub in_total: u32,
}

impl Default for Copies {
    fn default() -> Self {
        Self { per_process: 40, in_total: 500 }
    }
}

/// All call sites.
pub struct Sites {
    sites: Table<Site>,
    control: Table<StackControl>,
    by_key: HashMap<MapData, SiteKey, u32>,
    free: Queue<MapData, u32>,
    /// Counts as last read.
    known: Vec<u32>,
    copies: Copies,
}

impl Sites {
    /// Takes over the maps that call sites live in.
    pub fn new(ebpf: &mut Ebpf, sizes: &Sizes, copies: Copies) -> Result<Self> {
        let mut this = Self {
            sites: Table::map(ebpf, "SITES", sizes.sites)?,
            control: Table::map(ebpf, "STACK_CONTROL", 1)?,
            by_key: HashMap::try_from(take(ebpf, "SITE_KEYS")?)?,
            free: Queue::try_from(take(ebpf, "FREE_SITES")?)?,
            known: vec![0; sizes.sites as usize],
            copies,
        };
        this.set_effort(Effort::Full);
        Ok(this)
    }

    /// How much may be done from now on.
    pub fn set_effort(&mut self, effort: Effort) {
        self.control.set(
            0,
            StackControl {
                effort: effort as u32,
                copies_per_s_process: self.copies.per_process,
                copies_per_s_total: self.copies.in_total,
                zero: 0,
            },
        );
    }

    /// What was counted since the last call. To be read before the counters of the keys, so that a site never has more.
    pub fn read(&mut self, keys: &Keys) -> Result<Vec<SiteCount>> {
        let mut changed = Vec::new();
        for index in 0..self.sites.len() {
            let site = self.sites.get(index);
            let Some(at) = At::from_raw(site.key.at) else { continue };
            let count = site.count.wrapping_sub(self.known[index]);
            let Some(key) = keys.key_of(site.key.key_ref) else {
                self.recycle(index, &site)?;
                continue;
            };
            if count == 0 {
                continue;
            }
            self.known[index] = site.count;
            changed.push(SiteCount {
                key,
                at,
                stack: site.key.stack,
                count: u64::from(count),
                counted: site.key.counted != 0,
            });
        }
        Ok(changed)
    }

    /// The key is gone, so nothing can count here any more.
    fn recycle(&mut self, index: usize, site: &Site) -> Result<()> {
        let _ = self.by_key.remove(&site.key);
        self.sites.set(index, Site::default());
        self.known[index] = 0;
        self.free.push(index as u32, 0).context("give a call site back")
    }
}
