//! What portchurn itself costs: processor time and memory of this process, memory of the maps, run time of the programs.
//! The kernel's own program statistics cost two clock readings per run, for every BPF program of the host, so they are
//! switched on only for a moment now and then.

use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd, RawFd};
use std::time::Duration;

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::sys::{Stats, enable_stats};

use crate::live::attach::Attached;
use crate::live::hooks::{CALL_SITES, EXIT};
use crate::live::kprobe_misses::{KprobeLink, fdinfo, field};
use crate::model::sample::OwnCost;
use crate::sources::own_cost::{own_cpu_ns, own_rss_bytes};

/// How often run times are measured. Nanoseconds.
const MEASURE_EVERY_NS: u64 = 10 * 1_000_000_000;

/// State changes of one end of a connection for each beginning and each end of it: five for a whole life.
const RUNS_PER_END: f64 = 2.5;

/// So many runs make a mean. What is measured costs more while it is, so no more are.
const RUNS_MEASURED: f64 = 500.0;
const MEASURE_AT_LEAST: Duration = Duration::from_millis(2);
const MEASURE_AT_MOST: Duration = Duration::from_millis(100);

/// Keeps what the next measurement is compared with.
pub struct Usage {
    /// The programs, the spine first.
    programs: Vec<Program>,
    map_bytes: u64,
    /// When processor time was read, and what it was. Nanoseconds.
    before: (u64, u64),
    nested_at_start: u64,
    /// Runs per second between the last two measurements.
    runs_per_s: f64,
    measurement: Option<Measurement>,
    statistics_ns: Option<u64>,
    ns_per_event: Option<f64>,
}

/// While it lives the kernel measures.
struct Measurement {
    _switch: OwnedFd,
    before: ProgramStats,
    lasts: Duration,
}

/// A program, and those that make good what it misses.
struct Program {
    hook: &'static str,
    fd: RawFd,
    again: Vec<RawFd>,
    /// Its kprobes, where it has some: what they miss does not come to the program.
    kprobes: Vec<KprobeLink>,
}

impl Program {
    /// What it missed, and those that follow it too.
    fn missed(&self) -> u64 {
        let each = std::iter::once(&self.fd).chain(&self.again).map(|&fd| program_stats(fd).nested);
        let by_kprobes: u64 = self.kprobes.iter().map(|link| link.missed()).sum();
        each.min().unwrap_or_default() + by_kprobes
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct ProgramStats {
    run_time_ns: u64,
    run_count: u64,
    nested: u64,
}

impl Usage {
    /// For the programs that are attached. Their descriptors live as long as the object.
    pub fn new(ebpf: &Ebpf, hooks: &[Attached], now_ns: u64) -> Result<Self> {
        let mut programs = Vec::new();
        // What the program for call sites skips shows as a difference between counts, where it matters.
        let counting = hooks.iter().filter(|hook| hook.hook.name != CALL_SITES);
        for (attached, attachment) in counting.filter_map(|attached| Some((attached, attached.attachment?))) {
            programs.push(Program {
                hook: attached.hook.name,
                fd: program_fd(ebpf, attachment.program)?,
                kprobes: attached.kprobes.clone(),
                again: attachment.again.iter().map(|name| program_fd(ebpf, name)).collect::<Result<_>>()?,
            });
        }
        let map_bytes = ebpf
            .maps()
            .filter_map(|(_, map)| map_fd(map))
            .filter_map(|fd| field(&fdinfo(fd)?, "memlock:"))
            .sum();
        let mut this = Self {
            programs,
            map_bytes,
            before: (now_ns, own_cpu_ns()),
            nested_at_start: 0,
            runs_per_s: 0.0,
            measurement: None,
            statistics_ns: None,
            ns_per_event: None,
        };
        this.nested_at_start = this.nested();
        this.switch_statistics_on(now_ns, MEASURE_AT_MOST);
        Ok(this)
    }

    /// What it cost since the last call, in which `ends` connections began or ended.
    pub fn measure(&mut self, now_ns: u64, ends: u64) -> OwnCost {
        let cpu_ns = own_cpu_ns();
        let (before_ns, cpu_before_ns) = std::mem::replace(&mut self.before, (now_ns, cpu_ns));
        let elapsed_ns = now_ns.saturating_sub(before_ns) as f64;
        let ratio = |ns: f64| (elapsed_ns > 0.0).then_some(ns / elapsed_ns);
        self.runs_per_s = ratio(1e9 * RUNS_PER_END * ends as f64).unwrap_or_default();
        OwnCost {
            cpu_ratio: ratio(cpu_ns.saturating_sub(cpu_before_ns) as f64),
            rss_bytes: own_rss_bytes(),
            map_bytes: Some(self.map_bytes),
            bpf_ns_per_event: self.ns_per_event,
            bpf_cpu_ratio: self.ns_per_event.and_then(|ns| ratio(ns * RUNS_PER_END * ends as f64)),
            ..OwnCost::default()
        }
    }

    /// Switches the kernel's statistics on, once in a while and only if something goes on: each time the kernel patches
    /// its own code on all processors.
    pub fn start_statistics(&mut self, now_ns: u64) {
        let is_due = self.statistics_ns.is_none_or(|at_ns| now_ns.saturating_sub(at_ns) > MEASURE_EVERY_NS);
        if is_due && self.runs_per_s > 0.0 {
            let lasts = Duration::from_secs_f64((RUNS_MEASURED / self.runs_per_s).min(1.0));
            self.switch_statistics_on(now_ns, lasts.clamp(MEASURE_AT_LEAST, MEASURE_AT_MOST));
        }
    }

    fn switch_statistics_on(&mut self, now_ns: u64, lasts: Duration) {
        self.statistics_ns = Some(now_ns);
        let switch = enable_stats(Stats::RunTime).ok();
        self.measurement = switch.map(|switch| Measurement { _switch: switch, before: self.spine(), lasts });
    }

    /// While they are on: how soon after that [`Usage::stop_statistics`] is to be called.
    pub fn statistics_last(&self) -> Option<Duration> {
        self.measurement.as_ref().map(|measurement| measurement.lasts)
    }

    /// Switches them off and reads them.
    pub fn stop_statistics(&mut self) {
        let Some(Measurement { before, .. }) = self.measurement.take() else { return };
        let after = self.spine();
        let runs = after.run_count.saturating_sub(before.run_count);
        if runs == 0 {
            // Nothing happened in that moment: the next one will do.
            self.statistics_ns = None;
            return;
        }
        self.ns_per_event = Some(after.run_time_ns.saturating_sub(before.run_time_ns) as f64 / runs as f64);
    }

    fn spine(&self) -> ProgramStats {
        let Some(spine) = self.programs.first() else { return ProgramStats::default() };
        let first = program_stats(spine.fd);
        let again: u64 = spine.again.iter().map(|&fd| program_stats(fd).run_time_ns).sum();
        ProgramStats { run_time_ns: first.run_time_ns + again, ..first }
    }

    /// Runs that the kernel skipped because the same processor was in one already, and that nobody made good, since
    /// the attach. Where further programs look, only what all missed is lost: at most as much as any of them missed. Ends
    /// of processes are not among them: see [`Usage::missed_exits`].
    pub fn nested(&self) -> u64 {
        let now: u64 = self.programs.iter().filter(|program| program.hook != EXIT).map(Program::missed).sum();
        now.saturating_sub(self.nested_at_start)
    }

    /// Ends of processes that were skipped in this way: where there is one, `/proc` must be asked. Kernels that preempt
    /// tracing programs skip the end of a process that comes while another's is being told.
    pub fn missed_exits(&self) -> u64 {
        self.programs.iter().filter(|program| program.hook == EXIT).map(Program::missed).sum()
    }
}

fn program_fd(ebpf: &Ebpf, name: &str) -> Result<RawFd> {
    let program = ebpf.program(name).with_context(|| format!("the BPF object has no program {name}"))?;
    Ok(program.fd()?.as_fd().as_raw_fd())
}

fn map_fd(map: &aya::maps::Map) -> Option<RawFd> {
    use aya::maps::Map;
    match map {
        Map::Array(data) | Map::HashMap(data) | Map::Queue(data) | Map::RingBuf(data) => {
            Some(data.fd().as_fd().as_raw_fd())
        }
        _ => None,
    }
}

fn program_stats(fd: RawFd) -> ProgramStats {
    let text = fdinfo(fd).unwrap_or_default();
    let number = |name| field(&text, name).unwrap_or_default();
    ProgramStats {
        run_time_ns: number("run_time_ns:"),
        run_count: number("run_cnt:"),
        nested: number("recursion_misses:"),
    }
}
