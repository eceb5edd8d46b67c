//! How often the kernel has run a process's BPF programs, by the kernel's own count: proof that a hook works, from somebody
//! else than portchurn.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use anyhow::{Context as _, Result, ensure};

/// Commands of bpf(2), and the kind of statistics that counts runs.
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const ENABLE_STATS: libc::c_int = 32;
const STATS_RUN_TIME: u32 = 0;
/// Where `bpf_prog_info` has the name, in units of 8 bytes, and how much of it is asked for.
const NAME: std::ops::Range<usize> = 8..10;
const INFO: usize = 10;

/// While it lives, the kernel counts runs.
#[derive(Debug)]
pub struct Counting {
    _fd: OwnedFd,
}

impl Counting {
    /// Lets the kernel count.
    pub fn start() -> Result<Self> {
        Ok(Self { _fd: bpf(ENABLE_STATS, STATS_RUN_TIME).context("let the kernel count runs")? })
    }
}

/// Sum of the runs of those programs whose name starts so. The kernel keeps 15 bytes of a name.
pub fn of_programs(pid: u32, name: &str) -> Result<u64> {
    let wanted = &name.as_bytes()[..name.len().min(15)];
    let mut runs = Vec::new();
    for program in programs_of(pid)? {
        if program_name(program.id)?.starts_with(wanted) {
            runs.push(program.runs);
        }
    }
    ensure!(!runs.is_empty(), "process {pid} holds no BPF program {name}");
    Ok(runs.iter().sum())
}

/// How often the kernel left out one of a process's programs, as a program was at work on that processor already; unknown
/// where the kernel does not count it.
pub fn left_out(pid: u32) -> Result<Option<u64>> {
    Ok(programs_of(pid)?.iter().map(|program| program.left_out).sum())
}

struct Program {
    id: u32,
    runs: u64,
    left_out: Option<u64>,
}

fn programs_of(pid: u32) -> Result<Vec<Program>> {
    let folder = format!("/proc/{pid}/fdinfo");
    let mut programs: Vec<Program> = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("read {folder}"))? {
        let Ok(text) = fs::read_to_string(entry.context("read a folder")?.path()) else { continue };
        let field =
            |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
        // A descriptor of a link names its program, too; only the program's own has a count.
        let (Some(id), Some(runs)) = (field("prog_id:"), field("run_cnt:")) else { continue };
        if programs.iter().all(|known| u64::from(known.id) != id) {
            programs.push(Program { id: id as u32, runs, left_out: field("recursion_misses:") });
        }
    }
    Ok(programs)
}

fn program_name(id: u32) -> Result<Vec<u8>> {
    let program = bpf(PROG_GET_FD_BY_ID, id).with_context(|| format!("open BPF program {id}"))?;
    let mut info = [0_u64; INFO];
    // bpf_attr: a descriptor and a length, 32 bits each; a pointer.
    let sizes = u64::from(size_of_val(&info) as u32) << 32 | u64::from(program.as_raw_fd().cast_unsigned());
    let sizes = if cfg!(target_endian = "little") { sizes } else { sizes.rotate_left(32) };
    let attributes = [sizes, info.as_mut_ptr() as u64];
    // SAFETY: the attributes are alive and as long as we say, and so is what they point to.
    let status = unsafe {
        libc::syscall(libc::SYS_bpf, OBJ_GET_INFO_BY_FD, attributes.as_ptr(), size_of_val(&attributes))
    };
    ensure!(status == 0, "ask for the name of BPF program {id}: {}", io::Error::last_os_error());
    Ok(info[NAME].iter().flat_map(|word| word.to_ne_bytes()).collect())
}

/// A command whose only argument is a number and whose result is a descriptor.
fn bpf(command: libc::c_int, number: u32) -> Result<OwnedFd> {
    // The first member of bpf_attr is the number; the rest may be zero.
    let attributes = [number, 0, 0, 0];
    // SAFETY: the attributes are alive and as long as we say.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), size_of_val(&attributes)) };
    ensure!(fd >= 0, "{}", io::Error::last_os_error());
    // SAFETY: it was just opened, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}
