//! Loads the BPF object and attaches the hooks, each in the best way that this kernel grants. It tries and keeps the
//! kernel's answer; it never guesses from a version. Nothing is pinned: when the process ends, all is gone.

use anyhow::{Context as _, Result, bail};
use aya::maps::{Array, HashMap};
use aya::programs::{Program, ProgramError};
use aya::{Btf, Ebpf, EbpfLoader, VerifierLogLevel, include_bytes_aligned};
use portchurn_common::glob::Glob;
use portchurn_common::settings::{Filters, Offsets, Registers, Settings, TracepointLayout};

use crate::live::btf::KernelTypes;
use crate::live::error::LoadError;
use crate::live::hooks::{Attachment, Forced, HOOKS, Hook, Tier};
use crate::live::preflight::counts_skips_at_shared_guard;
use crate::live::sites::Copies;
use crate::live::sizes::{Host, Sizes, Wanted};
use crate::live::tracefs;
use crate::model::culprit::Rules;

/// The kernel side, built by `cargo xtask ebpf`.
static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/bpf/portchurn.bpf.o"));

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

/// A hook as it is.
#[derive(Clone, Debug)]
pub struct Attached {
    /// Which.
    pub hook: &'static Hook,
    /// How; `None`: not at all.
    pub attachment: Option<&'static Attachment>,
    /// Why a better tier, or any, was not to be had.
    pub reason: Option<String>,
    /// Whether the kernel counts what it skips at the guard that some tiers share.
    counts_shared_guard: bool,
}

impl Attached {
    /// How; `None`: not at all.
    pub fn tier(&self) -> Option<Tier> {
        self.attachment.map(|attachment| attachment.tier)
    }

    /// Whether the kernel counts the runs that it skips because the processor is in a program already. `None`: there are
    /// no runs.
    pub fn skips_counted(&self) -> Option<bool> {
        self.tier().map(|tier| !tier.shares_guard() || self.counts_shared_guard)
    }
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

/// Everything that the tiers share.
struct Kernel {
    btf: Result<Btf, String>,
    offsets: Offsets,
    /// Unknown counts as no: what may be wrong must not be called exact.
    counts_shared_guard: bool,
}

impl Kernel {
    fn read(no_btf: bool) -> Self {
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let by_version = counts_skips_at_shared_guard(&release);
        if no_btf {
            let btf = Err("left out on request".to_owned());
            return Self { btf, offsets: Offsets::UNKNOWN, counts_shared_guard: by_version };
        }
        let types = KernelTypes::of_running_kernel().map_err(|err| format!("{err:#}"));
        let btf = types
            .as_ref()
            .map_err(Clone::clone)
            .and_then(|_| Btf::from_sys_fs().map_err(|err| err.to_string()));
        let by_types = types.as_ref().is_ok_and(KernelTypes::counts_skips_at_shared_guard);
        let offsets = types.map_or(Offsets::UNKNOWN, |types| types.offsets());
        Self { btf, offsets, counts_shared_guard: by_version || by_types }
    }

    fn attached(
        &self,
        hook: &'static Hook,
        attachment: Option<&'static Attachment>,
        reason: Option<String>,
    ) -> Attached {
        Attached { hook, attachment, reason, counts_shared_guard: self.counts_shared_guard }
    }
}

/// Loads and attaches everything that this kernel grants.
///
/// # Errors
/// When the spine cannot be attached in any way, or a hook that was asked for cannot be attached in that way.
pub fn load(options: &Options) -> Result<Loaded> {
    let kernel = Kernel::read(options.no_btf);
    let spine = &HOOKS[0];
    let mut refused = Vec::new();
    for attachment in candidates(spine, &options.forced) {
        match load_spine(options, &kernel, spine, attachment) {
            Ok((ebpf, sizes, settings)) => {
                let first = kernel.attached(spine, Some(attachment), joined(&refused));
                return attach_rest(ebpf, first, &kernel, options, sizes, settings);
            }
            Err(err) => refused.push((attachment.tier, err)),
        }
    }
    Err(LoadError::from_refusals(refused).into())
}

/// The tiers to try for a hook.
fn candidates(hook: &'static Hook, forced: &[Forced]) -> Vec<&'static Attachment> {
    let wanted = forced.iter().rev().find(|forced| forced.hook == hook.name);
    hook.attachments.iter().filter(|a| wanted.is_none_or(|wanted| wanted.tier == Some(a.tier))).collect()
}

fn load_spine(
    options: &Options,
    kernel: &Kernel,
    hook: &Hook,
    attachment: &Attachment,
) -> Result<(Ebpf, Sizes, Settings)> {
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
    let settings = Settings {
        offsets: kernel.offsets,
        tracepoint,
        registers: Registers::OF_THIS_MACHINE,
        filters: options.filters,
        conns_mask: sizes.conns - 1,
        shards_log2: sizes.shards_log2,
        cookies: u32::from(cookies),
        trace: u32::from(options.trace),
        stack_interpreters: u32::from(options.stacks == StackMode::Auto),
        stack_native: u32::from(options.stacks != StackMode::Off),
    };
    let mut ebpf = create_maps(kernel, &sizes, &settings)?;
    fill_filters(&mut ebpf, options)?;
    crate::live::keys::fill_free_keys(&mut ebpf, sizes.keys)?;
    crate::live::sites::fill_free_sites(&mut ebpf, sizes.sites)?;
    attach(&mut ebpf, kernel, hook, attachment)?;
    Ok((ebpf, sizes, settings))
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
    loader.load(OBJECT).context("create the BPF maps")
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

fn attach_rest(
    mut ebpf: Ebpf,
    spine: Attached,
    kernel: &Kernel,
    options: &Options,
    sizes: Sizes,
    settings: Settings,
) -> Result<Loaded> {
    let mut hooks = vec![spine];
    for hook in &HOOKS[1..] {
        let attached = attach_optional(&mut ebpf, kernel, hook, &options.forced);
        let asked_for = options.forced.iter().any(|forced| forced.hook == hook.name && forced.tier.is_some());
        if asked_for && attached.attachment.is_none() {
            bail!("attach {}: {}", hook.name, attached.reason.unwrap_or_default());
        }
        hooks.push(attached);
    }
    Ok(Loaded { ebpf, hooks, sizes, settings })
}

fn attach_optional(ebpf: &mut Ebpf, kernel: &Kernel, hook: &'static Hook, forced: &[Forced]) -> Attached {
    let mut refused = Vec::new();
    for attachment in candidates(hook, forced) {
        match attach(ebpf, kernel, hook, attachment) {
            Ok(()) => {
                return kernel.attached(hook, Some(attachment), joined(&refused));
            }
            Err(err) => refused.push((attachment.tier, err)),
        }
    }
    let reason = joined(&refused).or_else(|| Some("left out on request".to_owned()));
    kernel.attached(hook, None, reason)
}

/// Loads one program and attaches it.
fn attach(ebpf: &mut Ebpf, kernel: &Kernel, hook: &Hook, attachment: &Attachment) -> Result<()> {
    let btf = match &kernel.btf {
        Ok(btf) => Some(btf),
        Err(reason) if attachment.tier.needs_btf() || hook.needs_offsets => {
            bail!("no type information (BTF): {reason}")
        }
        Err(_) => None,
    };
    // In this order: on one tracepoint programs run in the order in which they were attached.
    for name in std::iter::once(attachment.program).chain(attachment.again.iter().copied()) {
        let program =
            ebpf.program_mut(name).with_context(|| format!("the BPF object has no program {name}"))?;
        let started = std::time::Instant::now();
        load_program(program, hook, btf).map_err(explain)?;
        let verified = program.info().ok().and_then(|info| info.verified_instruction_count());
        log::debug!("{name}: the verifier went through {verified:?} instructions in {:?}", started.elapsed());
        attach_program(program, hook).map_err(explain)?;
    }
    Ok(())
}

fn load_program(program: &mut Program, hook: &Hook, btf: Option<&Btf>) -> Result<(), ProgramError> {
    match (program, btf) {
        (Program::BtfTracePoint(program), Some(btf)) => program.load(hook.target(), btf),
        (Program::FEntry(program), Some(btf)) => program.load(hook.target(), btf),
        (Program::FExit(program), Some(btf)) => program.load(hook.target(), btf),
        (Program::RawTracePoint(program), _) => program.load(),
        (Program::TracePoint(program), _) => program.load(),
        (Program::KProbe(program), _) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

fn attach_program(program: &mut Program, hook: &Hook) -> Result<(), ProgramError> {
    match program {
        Program::BtfTracePoint(program) => program.attach().map(drop),
        Program::FEntry(program) => program.attach().map(drop),
        Program::FExit(program) => program.attach().map(drop),
        Program::RawTracePoint(program) => program.attach(hook.target()).map(drop),
        Program::TracePoint(program) => {
            program.attach(hook.category.unwrap_or_default(), hook.target()).map(drop)
        }
        Program::KProbe(program) => program.attach(hook.target(), 0).map(drop),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

/// The kernel's own words, short: its error, and the verifier's last line where it spoke.
fn explain(err: ProgramError) -> anyhow::Error {
    match err {
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            log::debug!("verifier:\n{log}");
            let verdict = log.trim().lines().rev().find(|line| !is_statistics(line)).unwrap_or_default();
            let said =
                if verdict.is_empty() { "load refused".to_owned() } else { format!("verifier: {verdict}") };
            anyhow::Error::new(io_error).context(said)
        }
        ProgramError::KProbeError(err) if err.to_string().contains("devices/kprobe/type") => {
            anyhow::anyhow!("this kernel has no kprobes")
        }
        ProgramError::SyscallError(err) => {
            anyhow::Error::new(err.io_error).context(format!("{} refused", err.call))
        }
        err => anyhow::Error::new(err),
    }
}

/// What the verifier adds after its verdict.
fn is_statistics(line: &str) -> bool {
    ["processed ", "stack depth ", "verification time "].iter().any(|start| line.starts_with(start))
}

fn joined(refused: &[(Tier, anyhow::Error)]) -> Option<String> {
    let reasons: Vec<_> = refused.iter().map(|(tier, err)| format!("{tier}: {err:#}")).collect();
    (!reasons.is_empty()).then(|| reasons.join("; "))
}

/// The spine must stand first, everything relies on it.
const _: () = assert!(matches!(HOOKS[0].name.as_bytes(), b"inet_sock_set_state"));
