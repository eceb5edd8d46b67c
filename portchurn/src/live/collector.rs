//! What the kernel side counted and sent → [`Sample`]. It reads and adds up; what that means is the model's business.

use std::collections::HashMap as StdHashMap;
use std::time::Duration;

use anyhow::Result;
use aya::maps::{HashMap, MapData, RingBuf};
use portchurn_common::conn::Conn;
use portchurn_common::flow::ChurnKey;
use portchurn_common::loss::Loss;
use portchurn_common::record::{FlowRecord, FlowSiteRecord};
use portchurn_common::settings::{Settings, UNKNOWN};
use portchurn_common::stack::Effort;

use crate::live::attach::{Attached, is_attached};
use crate::live::closed::Closed;
use crate::live::drain::{Drain, FlowUse};
use crate::live::hooks::{CALL_SITES, EXIT};
use crate::live::keys::{Keys, take};
use crate::live::listing::{Listing, ends};
use crate::live::loader::{Loaded, Options, load};
use crate::live::records::{ArgvBytes, CgroupId, Record};
use crate::live::search::{Found, search, search_ends};
use crate::live::seed;
use crate::live::sites::Sites;
use crate::live::stacks::{StackThread, Watchers};
use crate::live::tables::Table;
use crate::live::unnoticed::Unnoticed;
use crate::live::usage::Usage;
use crate::model::sample::{Counts, Process, ProcessId, Sample};
use crate::model::sockets::Expected;
use crate::model::who::Query;
use crate::sources::procfs::{Presence, Procfs, cut_to_ticks};

/// How long an ended process is remembered, at least; longer while anything may still be counted for it. Nanoseconds.
const FORGET_AFTER_NS: u64 = 5 * 1_000_000_000;

/// The kernel side of `PROCESSES`, byte for byte.
#[derive(Clone, Copy)]
#[repr(C)]
struct ProcessKey {
    start_ns: u64,
    tgid: u32,
    zero: u32,
}

// SAFETY: `repr(C)`, integers only, no hidden padding.
unsafe impl aya::Pod for ProcessKey {}

/// What is remembered of a process that was told of.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    /// Its start as the kernel side has it; 0 if it came from `/proc`.
    exact_start_ns: u64,
    /// When its end was noticed. Nanoseconds, CLOCK_MONOTONIC.
    ended_ns: Option<u64>,
}

/// The running kernel side.
pub struct Collector {
    keys: Keys,
    sites: Sites,
    stacks: Option<StackThread>,
    records: Drain,
    losses: Table<u64>,
    introduced: HashMap<MapData, ProcessKey, u8>,
    usage: Usage,
    procfs: Procfs,
    listing: Option<Listing>,
    closed: Closed,
    /// Connections by cookie, until the thread that reads the socket tables takes them. `None`: there are no cookies.
    by_id: Option<HashMap<MapData, u64, Conn>>,
    ends_unseen: u64,
    /// Connections from before the attach for which there was no room.
    left_out: u64,
    settings: Settings,
    hooks: Vec<Attached>,
    knows_errors: bool,
    /// Processes that were told of.
    processes: StdHashMap<ProcessId, Told>,
    unnoticed: Unnoticed,
    pending: Sample,
    lost: [u64; Loss::COUNT],
    flows: Vec<FlowRecord>,
    flow_sites: Vec<FlowSiteRecord>,
    /// Its `Drop` detaches.
    loaded: aya::Ebpf,
}

impl Collector {
    /// Attaches, and reads the sockets that are there already.
    ///
    /// # Errors
    /// As [`load`].
    pub fn attach(options: &Options, watchers: Option<Watchers>, now_ns: u64) -> Result<Self> {
        let Loaded { mut ebpf, hooks, sizes, settings } = load(options)?;
        // Before the maps are taken out of the object: it adds up their memory.
        let usage = Usage::new(&ebpf, &hooks, now_ns)?;
        let keys = Keys::new(&mut ebpf, &sizes)?;
        let sites = Sites::new(&mut ebpf, &sizes, options.copies)?;
        let stacks = match watchers {
            Some(watchers) if is_attached(&hooks, CALL_SITES) => {
                Some(StackThread::attach(&mut ebpf, watchers)?)
            }
            _ => None,
        };
        let told_max = if is_attached(&hooks, EXIT) { sizes.processes as usize } else { 0 };
        let ends = settings.cookies == 0;
        // What a filter leaves out may have had the same four-tuple since.
        let history = ends && !settings.filters.are_set();
        let flow_use = FlowUse { lines: settings.trace != 0, ends, history };
        let mut this = Self {
            closed: Closed::new(&ebpf, &sizes, keys.slots(), keys.retired())?,
            keys,
            sites,
            stacks,
            records: Drain::start(RingBuf::try_from(take(&mut ebpf, "RECORDS")?)?, flow_use)?,
            losses: Table::map(&ebpf, "LOSSES", Loss::COUNT as u32)?,
            introduced: HashMap::try_from(take(&mut ebpf, "PROCESSES")?)?,
            usage,
            procfs: Procfs::default(),
            listing: None,
            by_id: None,
            ends_unseen: 0,
            left_out: 0,
            settings,
            hooks,
            knows_errors: settings.offsets.sk_err != UNKNOWN,
            processes: StdHashMap::new(),
            unnoticed: Unnoticed::new(told_max),
            pending: Sample::default(),
            lost: [0; Loss::COUNT],
            flows: Vec::new(),
            flow_sites: Vec::new(),
            loaded: ebpf,
        };
        if settings.cookies == 0 {
            log::warn!(
                "this way into the kernel gives no socket cookies: connections from before the attach are not followed"
            );
        } else {
            let by_id = this.by_id.insert(HashMap::try_from(take(&mut this.loaded, "CONNS_BY_ID")?)?);
            let seeded = seed::sockets(by_id, &mut this.keys, &this.procfs, this.closed.conns(), options)?;
            this.left_out = seeded.left_out;
            for process in seeded.holders {
                // The kernel side knows its start to the nanosecond, /proc does not: 0 stands for any.
                let key = ProcessKey { start_ns: 0, tgid: process.id.tgid, zero: 0 };
                // Without room it is told once more at its first connect.
                let _ = this.introduced.insert(key, 1, 0);
                this.note_process(process, 0);
            }
        }
        Ok(this)
    }

    /// Begins to read the socket tables. To be called right after the attach: what the first reading finds and nobody
    /// followed counts as there before.
    ///
    /// # Errors
    /// When the tables cannot be mapped or no thread can be started.
    pub fn read_sockets(&mut self) -> Result<()> {
        self.listing =
            Some(Listing::start(&self.closed, self.by_id.take(), &self.settings, self.records.ends())?);
        Ok(())
    }

    /// Connections with this address and port, living and ended, as far back as they are known.
    pub fn search(&self, query: &Query, now_ns: u64) -> Found {
        if self.settings.cookies != 0 {
            return search(&self.closed, query, now_ns);
        }
        self.records.with_history(|ends| search_ends(ends, query, now_ns))
    }

    /// Waits until the socket tables were read once more, for the next sample.
    pub fn read_sockets_now(&mut self) {
        if let Some(listing) = &mut self.listing {
            listing.reader.read_now();
        }
    }

    /// Says how many TIME_WAIT there should be: as long as the kernel counts as many, its tables need not be read.
    pub fn expect(&self, expected: Expected) {
        if let Some(listing) = &self.listing {
            listing.reader.expect(expected);
        }
    }

    /// Asks for a fresh reading, which a later sample will hold: somebody looks.
    pub fn hurry_reading(&self) {
        if let Some(listing) = &self.listing {
            listing.reader.hurry();
        }
    }

    /// Whether the kernel tells the error of a socket.
    pub fn knows_errors(&self) -> bool {
        self.knows_errors
    }

    /// All hooks, attached or not.
    pub fn hooks(&self) -> &[Attached] {
        &self.hooks
    }

    /// Whether call sites are taken.
    pub fn takes_stacks(&self) -> bool {
        self.stacks.is_some()
    }

    /// Waits until the stacks that were taken so far are with the watcher.
    pub fn flush_stacks(&self) {
        if let Some(stacks) = &self.stacks {
            stacks.flush(FLUSH_PATIENCE);
        }
    }

    /// How much may be done for call sites from now on.
    pub fn set_effort(&mut self, effort: Effort) {
        self.sites.set_effort(effort);
    }

    /// After a sample: how soon the next pump should come, where it matters.
    pub fn pump_in(&self) -> Option<Duration> {
        self.usage.statistics_last()
    }

    /// Takes what came through the ring buffer, and says how many records that were. To be called ten times a second while there
    /// are any: what is to be read of a process in `/proc` goes with it.
    pub fn pump(&mut self, now_ns: u64) -> u64 {
        self.usage.stop_statistics();
        let records = self.records.take();
        let count = records.len() as u64;
        for record in records {
            match record {
                Record::Process(process, cgroup, argv) => self.introduce(*process, cgroup, argv),
                Record::Exit(id) => self.note_exit(cut(id), now_ns),
                Record::Flow(flow) => {
                    self.flows.push(FlowRecord { start_ns: cut_to_ticks(flow.start_ns), ..flow });
                }
                Record::FlowSite(site) => self.flow_sites.push(site),
            }
        }
        count
    }

    /// Processes that ended since the last sample ÷ keys that there is room for: what they have in the tables waits for it.
    pub fn turnover(&self) -> f64 {
        self.pending.exits.len() as f64 / self.keys.room() as f64
    }

    fn introduce(&mut self, mut process: Process, cgroup: CgroupId, argv: ArgvBytes) {
        let exact_start_ns = process.id.start_ns;
        process.id = cut(process.id);
        self.procfs.enrich(&mut process);
        if process.cgroup.is_none() {
            self.procfs.locate(&mut process, cgroup.0);
        }
        self.procfs.inherit_argv(&mut process, argv.0);
        self.note_process(process, exact_start_ns);
    }

    fn note_process(&mut self, process: Process, exact_start_ns: u64) {
        self.processes.entry(process.id).or_default().exact_start_ns = exact_start_ns;
        self.pending.processes.push(process);
    }

    fn note_exit(&mut self, id: ProcessId, now_ns: u64) {
        self.processes.entry(id).or_default().ended_ns = Some(now_ns);
        self.pending.exits.push(id);
    }

    /// Events since the last call, when `trace` was asked for.
    pub fn take_flows(&mut self) -> Vec<FlowRecord> {
        std::mem::take(&mut self.flows)
    }

    /// Where in the code these and later events happened, since the last call.
    pub fn take_flow_sites(&mut self) -> Vec<FlowSiteRecord> {
        std::mem::take(&mut self.flow_sites)
    }

    /// Everything since the last sample. What ended processes have in the tables is taken back here, see
    /// [`Collector::turnover`].
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn sample(&mut self, now_ns: u64) -> Result<Sample> {
        let sites = self.sites.read(&self.keys)?;
        // Counters first: a process whose connection is counted was introduced before.
        let mut churn = self.keys.read(now_ns);
        self.note_unseen(&mut churn);
        self.pump(now_ns);
        self.find_unnoticed_exits(now_ns);
        let processes = &self.processes;
        self.keys.retire(now_ns, |id| processes.get(&id).is_some_and(|told| told.ended_ns.is_some()))?;
        self.forget_processes(now_ns);
        let mut sample = std::mem::take(&mut self.pending);
        self.name_strangers(&churn, &mut sample);
        sample.at_ns = now_ns;
        self.lost = self.read_losses();
        sample.lost = self.lost;
        let ends = churn.iter().map(|(_, counts)| ends(counts)).sum();
        sample.own_cost = self.usage.measure(now_ns, ends);
        self.usage.start_statistics(now_ns);
        sample.sockets = self.listing.as_mut().and_then(|listing| listing.take(&churn));
        sample.churn = churn;
        sample.sites = sites;
        Ok(sample)
    }

    /// Ends that nobody saw, found since the last sample.
    fn note_unseen(&mut self, churn: &mut Vec<(ChurnKey, Counts)>) {
        let before = churn.len();
        let found = self.listing.iter().flat_map(Listing::unseen);
        churn.extend(found.filter_map(|key_ref| self.keys.end_unseen(key_ref)));
        self.ends_unseen += (churn.len() - before) as u64;
    }

    /// A process without an introduction (its record was lost): `/proc` may know it.
    fn name_strangers(&mut self, churn: &[(ChurnKey, Counts)], sample: &mut Sample) {
        for (key, _) in churn {
            let id = ProcessId::of(key);
            if id.tgid == 0 || self.processes.contains_key(&id) {
                continue;
            }
            self.processes.insert(id, Told::default());
            let mut process = Process { id, ..Process::default() };
            if matches!(self.procfs.enrich(&mut process), Presence::Same { .. }) {
                sample.processes.push(process);
            }
        }
    }

    /// Without the exit hook, or when its record was lost or the kernel skipped it, `/proc` tells.
    fn find_unnoticed_exits(&mut self, now_ns: u64) {
        let missed = self.lost[Loss::ExitRecord as usize] + self.usage.missed_exits();
        if !self.unnoticed.is_due(now_ns, self.processes.len(), missed) {
            return;
        }
        let ended: Vec<_> = self
            .processes
            .iter()
            .filter(|(id, told)| told.ended_ns.is_none() && !self.procfs.is_alive(**id))
            .map(|(id, _)| *id)
            .collect();
        for id in ended {
            self.note_exit(id, now_ns);
        }
    }

    /// Lets the kernel side forget ended processes too.
    fn forget_processes(&mut self, now_ns: u64) {
        let (introduced, keys) = (&mut self.introduced, &self.keys);
        self.processes.retain(|id, told| {
            let ended_lately =
                told.ended_ns.is_none_or(|at_ns| now_ns.saturating_sub(at_ns) < FORGET_AFTER_NS);
            let keep = ended_lately || keys.has_keys(*id);
            if !keep {
                let _ =
                    introduced.remove(&ProcessKey { start_ns: told.exact_start_ns, tgid: id.tgid, zero: 0 });
            }
            keep
        });
    }

    fn read_losses(&self) -> [u64; Loss::COUNT] {
        let mut lost = [0; Loss::COUNT];
        for loss in Loss::ALL {
            lost[loss as usize] = self.losses.get(loss as usize);
        }
        lost[Loss::Nested as usize] += self.usage.nested();
        lost[Loss::CloseUnseen as usize] += self.ends_unseen;
        lost[Loss::ConnsFull as usize] += self.left_out;
        lost
    }
}

/// How long to wait for stacks that are on their way.
const FLUSH_PATIENCE: Duration = Duration::from_millis(500);

/// An id as `/proc` would give it.
fn cut(id: ProcessId) -> ProcessId {
    ProcessId { start_ns: cut_to_ticks(id.start_ns), ..id }
}
