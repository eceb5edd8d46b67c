//! Programs into the kernel: tier after tier, all verified before the first one is attached. It keeps the kernel's answer;
//! it never guesses from a version.

use anyhow::{Context as _, Result, bail};
use aya::programs::{Program, ProgramError};
use aya::{Btf, Ebpf};
use portchurn_common::settings::Offsets;

use crate::live::btf::KernelTypes;
use crate::live::hooks::{Attachment, Forced, HOOKS, Hook, TIME_WAIT, Tier};
use crate::live::kprobe_misses::KprobeLink;
use crate::live::members::{Found, find};
use crate::live::preemption::Preemption;
use crate::live::preflight::{counts_skips_at_shared_guard, preempts_at_tracepoints};

/// A hook as it is.
#[derive(Clone, Debug)]
pub struct Attached {
    /// Which.
    pub hook: &'static Hook,
    /// How; `None`: not at all.
    pub attachment: Option<&'static Attachment>,
    /// Why a better tier, or any, was not to be had.
    pub reason: Option<String>,
    /// Its kprobes, as far as the kernel tells what they miss before they come to a program.
    pub kprobes: Vec<KprobeLink>,
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
        let attachment = self.attachment?;
        let is_told = !attachment.tier.is_kprobe() || self.kprobes.len() >= programs(attachment).count();
        Some(!attachment.tier.shares_guard() || self.counts_shared_guard && is_told)
    }
}

/// Whether the hook with this name is attached.
pub fn is_attached(hooks: &[Attached], name: &str) -> bool {
    hooks.iter().any(|hook| hook.hook.name == name && hook.tier().is_some())
}

/// Everything that the tiers share.
pub(super) struct Kernel {
    pub(super) btf: Result<Btf, String>,
    pub(super) offsets: Offsets,
    /// Names of members that its types lack.
    missing: Vec<String>,
    /// Unknown counts as no: what may be wrong must not be called exact.
    counts_shared_guard: bool,
    /// How its tracepoint programs keep their processor. `None`: they do anyway, or there is no way.
    pub(super) preemption: Option<Preemption>,
}

impl Kernel {
    /// `no_btf`, `no_members`: what is to be missing, as on another kernel.
    pub(super) fn read(no_btf: bool, no_members: &[String]) -> Self {
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let by_version = counts_skips_at_shared_guard(&release);
        let types = if no_btf {
            Err(anyhow::anyhow!("left out on request"))
        } else {
            KernelTypes::of_running_kernel()
        };
        let by_types = types.as_ref().is_ok_and(KernelTypes::counts_skips_at_shared_guard);
        let preempting = types.as_ref().ok().filter(|_| preempts_at_tracepoints(&release));
        let preemption = preempting.and_then(Preemption::find);
        let (btf, found) = match types.and_then(|types| find(&types, no_members)) {
            Ok(found) => (Btf::from_sys_fs().map_err(|err| err.to_string()), found),
            Err(err) => (Err(format!("{err:#}")), Found::NOTHING),
        };
        Self {
            btf,
            offsets: found.offsets,
            missing: found.missing,
            counts_shared_guard: by_version || by_types,
            preemption,
        }
    }

    fn attached(
        &self,
        hook: &'static Hook,
        attachment: Option<&'static Attachment>,
        reason: Option<String>,
        ebpf: &Ebpf,
    ) -> Attached {
        let tier =
            attachment.map_or_else(|| "not attached".to_owned(), |attachment| attachment.tier.to_string());
        let why = reason.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        log::info!("{}: {tier}{why}", hook.name);
        let kprobes = attachment.filter(|attachment| attachment.tier.is_kprobe()).into_iter();
        let ids = kprobes.flat_map(programs).filter_map(|name| Some(ebpf.program(name)?.info().ok()?.id()));
        let kprobes = ids.flat_map(KprobeLink::of_program).collect();
        Attached { hook, attachment, reason, kprobes, counts_shared_guard: self.counts_shared_guard }
    }
}

/// The tiers to try for a hook.
pub(super) fn candidates(hook: &'static Hook, forced: &[Forced]) -> Vec<&'static Attachment> {
    let wanted = forced.iter().rev().find(|forced| forced.hook == hook.name);
    hook.attachments.iter().filter(|a| wanted.is_none_or(|wanted| wanted.tier == Some(a.tier))).collect()
}

/// Attaches the hook of which the spine's programs must know whether it is there.
pub(super) fn attach_first(ebpf: &mut Ebpf, kernel: &Kernel, forced: &[Forced]) -> Attached {
    let hook = HOOKS.iter().find(|hook| hook.name == TIME_WAIT).expect("the table has this hook");
    Verified::new(ebpf, kernel, hook, forced).attach(ebpf, kernel)
}

/// Attaches the spine, and beside it what else can be had but `first`, which is. All programs are verified before the spine is
/// attached: that takes the most time, and what is counted meanwhile would have no line of code. The inner error is the
/// spine's.
pub(super) fn attach_all(
    mut ebpf: Ebpf,
    kernel: &Kernel,
    forced: &[Forced],
    spine: &'static Attachment,
    first: Attached,
) -> Result<Result<(Ebpf, Vec<Attached>)>> {
    let others = HOOKS[1..].iter().filter(|hook| hook.name != TIME_WAIT);
    let verified: Vec<_> = others.map(|hook| Verified::new(&mut ebpf, kernel, hook, forced)).collect();
    if let Err(err) = attach_programs(&mut ebpf, &HOOKS[0], spine) {
        return Ok(Err(err));
    }
    let mut hooks = vec![kernel.attached(&HOOKS[0], Some(spine), None, &ebpf)];
    let attached = verified.into_iter().map(|verified| verified.attach(&mut ebpf, kernel));
    for attached in std::iter::once(first).chain(attached) {
        let name = attached.hook.name;
        let asked_for = forced.iter().any(|forced| forced.hook == name && forced.tier.is_some());
        if asked_for && attached.attachment.is_none() {
            bail!("attach {name}: {}", attached.reason.unwrap_or_default());
        }
        hooks.push(attached);
    }
    Ok(Ok((ebpf, hooks)))
}

/// An optional hook on its way.
struct Verified {
    hook: &'static Hook,
    /// The first is in the kernel, not attached; the others were not tried.
    left: Vec<&'static Attachment>,
    refused: Vec<(Tier, anyhow::Error)>,
}

impl Verified {
    fn new(ebpf: &mut Ebpf, kernel: &Kernel, hook: &'static Hook, forced: &[Forced]) -> Self {
        let mut this = Self { hook, left: candidates(hook, forced), refused: Vec::new() };
        while let Some(attachment) = this.left.first().copied() {
            match load_programs(ebpf, kernel, hook, attachment) {
                Ok(()) => break,
                Err(err) => this.refused.push((attachment.tier, err)),
            }
            this.left.remove(0);
        }
        this
    }

    fn attach(mut self, ebpf: &mut Ebpf, kernel: &Kernel) -> Attached {
        for attachment in self.left {
            let tried = load_programs(ebpf, kernel, self.hook, attachment)
                .and_then(|()| attach_programs(ebpf, self.hook, attachment));
            match tried {
                Ok(()) => return kernel.attached(self.hook, Some(attachment), joined(&self.refused), ebpf),
                Err(err) => self.refused.push((attachment.tier, err)),
            }
        }
        let reason = joined(&self.refused).or_else(|| Some("left out on request".to_owned()));
        kernel.attached(self.hook, None, reason, ebpf)
    }
}

fn programs(attachment: &Attachment) -> impl Iterator<Item = &'static str> {
    std::iter::once(attachment.program).chain(attachment.again.iter().copied())
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Program> {
    ebpf.program_mut(name).with_context(|| format!("the BPF object has no program {name}"))
}

/// Has the kernel verify the programs of a tier, if it did not yet.
pub(super) fn load_programs(
    ebpf: &mut Ebpf,
    kernel: &Kernel,
    hook: &Hook,
    attachment: &Attachment,
) -> Result<()> {
    let btf = match &kernel.btf {
        Ok(btf) => Some(btf),
        Err(reason) if attachment.tier.needs_btf() || hook.needs_offsets => {
            bail!("no type information (BTF): {reason}")
        }
        Err(_) => None,
    };
    let is_missing = |name: &&&str| kernel.missing.iter().any(|missing| missing == **name);
    if let Some(name) = hook.needs_members.iter().find(is_missing) {
        bail!("the kernel's types lack {name}");
    }
    for name in programs(attachment) {
        let program = program(ebpf, name)?;
        if program.fd().is_ok() {
            continue;
        }
        let started = std::time::Instant::now();
        load_program(program, hook, btf).map_err(explain)?;
        let verified = program.info().ok().and_then(|info| info.verified_instruction_count());
        let verified =
            verified.map_or_else(|| "loaded".to_owned(), |count| format!("{count} instructions verified"));
        log::debug!("{name}: {verified} in {:?}", started.elapsed());
    }
    Ok(())
}

/// In this order: on one tracepoint programs run in the order in which they were attached.
fn attach_programs(ebpf: &mut Ebpf, hook: &Hook, attachment: &Attachment) -> Result<()> {
    programs(attachment).try_for_each(|name| attach_program(program(ebpf, name)?, hook).map_err(explain))
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
            if !log.trim().is_empty() {
                log::debug!("verifier:\n{log}");
            }
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

pub(super) fn joined(refused: &[(Tier, anyhow::Error)]) -> Option<String> {
    let mut reasons: Vec<_> = refused.iter().map(|(tier, err)| format!("{tier}: {err:#}")).collect();
    // Of a hook with two programs both are refused, and for the same reason.
    reasons.dedup();
    (!reasons.is_empty()).then(|| reasons.join("; "))
}

/// The spine must stand first, everything relies on it.
const _: () = assert!(matches!(HOOKS[0].name.as_bytes(), b"inet_sock_set_state"));
