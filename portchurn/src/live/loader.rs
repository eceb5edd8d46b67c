//! Loads the BPF object, its maps sized and filled, and has the hooks attached, each in the best way that this kernel
//! grants. Nothing is pinned: when the process ends, all is gone.

use anyhow::{Context as _, Result, bail};
use aya::maps::{Array, HashMap};
use aya::{Ebpf, EbpfLoader, VerifierLogLevel, include_bytes_aligned};
use portchurn_common::glob::Glob;
use portchurn_common::settings::{Filters, Registers, Settings, TracepointLayout};

use crate::live::attach::{Attached, Kernel, attach_all, attach_first, candidates, joined, load_programs};
use crate::live::error::LoadError;
use crate::live::hooks::{Attachment, Forced, HOOKS, Hook, Tier};
use crate::live::preemption::Preemption;
use crate::live::sites::Copies;
use crate::live::sizes::{Host, Sizes, Wanted};
use crate::live::tracefs;
use crate::model::culprit::Rules;

/// The kernel side, built by `cargo xtask ebpf`.
pub(super) static OBJECT: &[u8] =
    include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/bpf/portchurn.bpf.o"));

/// What to count, and how to attach.
#[derive(Clone, Debug)]
pub struct Options {
    /// Decided in the kernel.
    pub filters: Filters,
    /// `-p`.
    pub filter_tgids: Vec<u32>,
    /// `-c`.
    pub filter_comm: Option<Glob>,
    /// `-D`, `-L`: keys of `settings::port_filter_key`.
    pub filter_ports: Vec<u32>,
    /// Send one record for each event.
    pub trace: bool,
    /// Whether to take call sites, and which.
    pub stacks: StackMode,
    /// Whose frames are the application's.
    pub culprits: Rules,
    /// Past this share of one processor call sites stop.
    pub max_cpu_ratio: Option<f64>,
    /// How many native stacks are copied.
    pub copies: Copies,
    /// Hidden: hooks whose tier is given.
    pub forced: Vec<Forced>,
    /// Hidden: as on a kernel without type information.
    pub no_btf: bool,
    /// Hidden: members of the kernel's structures that are to be missing from its types.
    pub no_members: Vec<String>,
    /// Hidden: the states of an interpreter's threads are searched for, as where thread-specific data does not lead to them.
    pub search_threads: bool,
    /// Sizes that were asked for.
    pub wanted: Wanted,
    /// What sizes depend on.
    pub host: Host,
}

/// `--stack`: which call sites are taken.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum StackMode {
    /// None: their programs are not even loaded.
    Off,
    /// Native frames only.
    Native,
    /// Native frames, and those of interpreters.
    #[default]
    Auto,
}

/// What is in the kernel now.
pub struct Loaded {
    /// Programs and maps. Dropping it detaches everything.
    pub ebpf: Ebpf,
    /// All of `HOOKS`.
    pub hooks: Vec<Attached>,
    /// Entries of the maps.
    pub sizes: Sizes,
    /// What the programs were told.
    pub settings: Settings,
}

/// Loads and attaches everything that this kernel grants.
///
/// # Errors
/// When the spine cannot be attached in any way, or a hook that was asked for cannot be attached in that way.
pub fn load(options: &Options) -> Result<Loaded> {
    let mut kernel = Kernel::read(options.no_btf, &options.no_members);
    let ways_to_hold = if kernel.preemption.is_some() { vec![kernel.preemption, None] } else { vec![None] };
    let spine = &HOOKS[0];
    let mut refused = Vec::new();
    for attachment in candidates(spine, &options.forced) {
        for preemption in &ways_to_hold {
            kernel.preemption = *preemption;
            match load_with(options, &kernel, spine, attachment)? {
                Ok(mut loaded) => {
                    loaded.hooks[0].reason = joined(&refused);
                    return Ok(loaded);
                }
                Err(err) => refused.push((attachment.tier, err)),
            }
        }
    }
    Err(LoadError::from_refusals(refused).into())
}

/// The inner error is the spine's.
fn load_with(
    options: &Options,
    kernel: &Kernel,
    spine: &Hook,
    attachment: &'static Attachment,
) -> Result<Result<Loaded>> {
    let (ebpf, sizes, settings, first) = match load_spine(options, kernel, spine, attachment) {
        Ok(loaded) => loaded,
        Err(err) => return Ok(Err(err)),
    };
    let attached = attach_all(ebpf, kernel, &options.forced, attachment, first)?;
    Ok(attached.map(|(ebpf, hooks)| Loaded { ebpf, hooks, sizes, settings }))
}

fn load_spine(
    options: &Options,
    kernel: &Kernel,
    hook: &Hook,
    attachment: &Attachment,
) -> Result<(Ebpf, Sizes, Settings, Attached)> {
    let cookies = attachment.tier == Tier::TpBtf;
    let sizes = Sizes::new(options.host, options.wanted, cookies);
    let tracepoint = match attachment.tier {
        Tier::Tracepoint => tracefs::state_change_layout()?,
        _ => TracepointLayout::UNKNOWN,
    };
    if attachment.tier == Tier::RawTp
        && let Err(reason) = &kernel.btf
    {
        bail!("no type information (BTF): {reason}");
    }
    let mut settings = Settings {
        offsets: kernel.offsets,
        tracepoint,
        registers: Registers::OF_THIS_MACHINE,
        filters: options.filters,
        conns_mask: sizes.conns - 1,
        shards_log2: sizes.shards_log2,
        cookies: u32::from(cookies),
        time_wait_hook: 1,
        hold_preemption: u32::from(kernel.preemption.is_some()),
        trace: u32::from(options.trace),
        stack_interpreters: u32::from(options.stacks == StackMode::Auto),
        stack_native: u32::from(options.stacks != StackMode::Off),
    };
    let (mut ebpf, first) = create_with_first(kernel, &sizes, &mut settings, &options.forced)?;
    fill_filters(&mut ebpf, options)?;
    crate::live::keys::fill_free_keys(&mut ebpf, sizes.keys)?;
    crate::live::sites::fill_free_sites(&mut ebpf, sizes.sites)?;
    load_programs(&mut ebpf, kernel, hook, attachment)?;
    Ok((ebpf, sizes, settings, first))
}

/// Maps and programs, and the hook that the programs are told of. What they are told is frozen before the kernel sees them, and
/// only the attach shows what it grants: where it refuses, all begins again. The hook is there before the first count, so
/// that no close is judged by a mark that nobody could set.
fn create_with_first(
    kernel: &Kernel,
    sizes: &Sizes,
    settings: &mut Settings,
    forced: &[Forced],
) -> Result<(Ebpf, Attached)> {
    let mut ebpf = create_maps(kernel, sizes, settings)?;
    let first = attach_first(&mut ebpf, kernel, forced);
    if first.attachment.is_none() {
        drop(ebpf);
        settings.time_wait_hook = 0;
        ebpf = create_maps(kernel, sizes, settings)?;
    }
    Ok((ebpf, first))
}

fn create_maps(kernel: &Kernel, sizes: &Sizes, settings: &Settings) -> Result<Ebpf> {
    // With more than its verdict the verifier writes down each of a million steps, and is asked again and again with more
    // room for them: minutes, where a program is refused for its size.
    let steps = if log::log_enabled!(log::Level::Trace) {
        VerifierLogLevel::DEBUG
    } else {
        VerifierLogLevel::DISABLE
    };
    let mut loader = EbpfLoader::new();
    loader
        .verifier_log_level(VerifierLogLevel::STATS | steps)
        .btf(kernel.btf.as_ref().ok())
        .override_global("SETTINGS", settings, true)
        .map_max_entries("KEYS", sizes.keys)
        .map_max_entries("FREE_KEYS", sizes.keys)
        .map_max_entries("KEY_SLOTS", sizes.keys)
        .map_max_entries("CHURN", sizes.keys << sizes.shards_log2)
        .map_max_entries("CONNS", sizes.conns)
        .map_max_entries("CONN_SITES", sizes.conn_sites)
        .map_max_entries("CONNS_BY_ID", sizes.conns_by_id)
        .map_max_entries("LISTENERS", sizes.listeners)
        .map_max_entries("PROCESSES", sizes.processes)
        .map_max_entries("RECORDS", sizes.ring_bytes)
        .map_max_entries("SITE_KEYS", sizes.sites)
        .map_max_entries("FREE_SITES", sizes.sites)
        .map_max_entries("SITES", sizes.sites)
        .map_max_entries("INTERPRETERS", sizes.interpreters)
        .map_max_entries("LOOKS", sizes.looks)
        .map_max_entries("SCRATCH", sizes.scratch)
        .map_max_entries("STACKS", sizes.stack_ring_bytes);
    let object = Preemption::put_into(kernel.preemption.as_ref(), OBJECT);
    loader.load(&object).context("create the BPF maps")
}

fn fill_filters(ebpf: &mut Ebpf, options: &Options) -> Result<()> {
    for (name, keys) in [("FILTER_TGIDS", &options.filter_tgids), ("FILTER_PORTS", &options.filter_ports)] {
        let map = ebpf.map_mut(name).with_context(|| format!("the BPF object has no map {name}"))?;
        let mut map: HashMap<_, u32, u8> = HashMap::try_from(map)?;
        for key in keys {
            map.insert(key, 1, 0).with_context(|| format!("fill {name}"))?;
        }
    }
    if let Some(glob) = &options.filter_comm {
        let map = ebpf.map_mut("FILTER_COMM").context("the BPF object has no map FILTER_COMM")?;
        let mut map: Array<_, u32> = Array::try_from(map)?;
        for (byte, parts) in (0..).zip(glob.accept) {
            map.set(byte, parts, 0).context("fill FILTER_COMM")?;
        }
    }
    Ok(())
}
