//! The load: one process on one processor makes connections to itself over loopback, in lock-step: connect, accept, close,
//! close. Both ends are traced: 11 state changes for each. It runs in a network namespace of its own, which takes its
//! TIME_WAIT sockets with it when it ends, so that every round begins with none.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::getpid;
use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::repo;
use crate::run::{capture, on_path};

/// Connections before the clock starts.
pub(crate) const WARM_UP: u32 = 1_000;

/// Connections to one destination before the next has its turn; with [`DESTINATIONS`] it keeps the local ports of
/// each far below the half of their range, from which on the kernel searches.
const RUN: u32 = 500;
const DESTINATIONS: u32 = 100;

/// Arguments of the load itself.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[arg(long)]
    cycles: u32,
    #[arg(long)]
    cpu: usize,
    /// Connects where nobody listens
    #[arg(long)]
    refused: bool,
}

/// What one round of load took.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Load {
    pub(crate) pid: u32,
    pub(crate) cycles: u32,
    /// Time of the processor in user and kernel mode, with the softirqs that ran on top of it.
    pub(crate) cpu_ns: u64,
    pub(crate) wall_ns: u64,
}

impl Load {
    pub(crate) fn cpu_us_per_cycle(&self) -> f64 {
        self.cpu_ns as f64 / 1e3 / f64::from(self.cycles)
    }

    pub(crate) fn cycles_per_s(&self) -> f64 {
        1e9 * f64::from(self.cycles) / self.wall_ns as f64
    }
}

/// Which program makes which load.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Program {
    /// This one.
    Native,
    /// `load.py`
    Python,
    /// This one, where nobody listens.
    Refused,
}

/// The system's Python is what most hosts have.
const PYTHONS: [&str; 2] = ["/usr/bin/python3", "python3"];

impl Program {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Native => "native loop",
            Self::Python => "Python loop",
            Self::Refused => "native loop, refused",
        }
    }

    /// The moments at which a stack is taken.
    pub(crate) fn moments(self) -> &'static str {
        match self {
            Self::Native | Self::Python => "three stacks a connection: open, two closes",
            Self::Refused => "one stack a connect",
        }
    }

    /// Whether it can be run.
    pub(crate) fn is_here(self) -> bool {
        self != Self::Python || python().is_some()
    }

    /// The program and its arguments.
    fn command_line(self, cycles: u32, cpu: usize) -> Result<Vec<OsString>> {
        let (cycles, cpu) = (cycles.to_string(), cpu.to_string());
        Ok(match self {
            Self::Native | Self::Refused => {
                let xtask = std::env::current_exe().context("find this program")?;
                let arguments = ["bench-load", "--cycles", &cycles, "--cpu", &cpu];
                let refused = (self == Self::Refused).then_some("--refused");
                let arguments = arguments.into_iter().chain(refused).map(OsString::from);
                std::iter::once(xtask.into()).chain(arguments).collect()
            }
            Self::Python => {
                let program = python().context("there is no Python here")?;
                let script = repo::root()?.join("xtask/src/bench/load.py");
                let numbers =
                    [cycles, cpu].into_iter().chain([WARM_UP, RUN, DESTINATIONS].map(|n| n.to_string()));
                [program.into(), script.into()].into_iter().chain(numbers.map(OsString::from)).collect()
            }
        })
    }
}

fn python() -> Option<PathBuf> {
    PYTHONS.iter().find_map(|name| on_path(name))
}

/// Runs one round in a process of its own.
pub(crate) fn run(program: Program, cycles: u32, cpu: usize) -> Result<Load> {
    ensure!(
        on_path("unshare").is_some() && on_path("ip").is_some(),
        "bench needs `unshare` and `ip`: install iproute2"
    );
    let mut command = Command::new("unshare");
    command.args(["--net", "--", "sh", "-c", r#"ip link set lo up && exec "$0" "$@""#]);
    command.args(program.command_line(cycles, cpu)?);
    let said = capture(command.stdin(Stdio::null())).context("run the load")?;
    serde_json::from_str(&said).context("read what the load says")
}

/// The load itself. Prints a [`Load`].
pub(crate) fn generate(args: &Args) -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(args.cpu);
    sched_setaffinity(None, &cpus).with_context(|| format!("stay on processor {}", args.cpu))?;
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).context("listen")?;
    let port = listener.local_addr()?.port();
    let one = |index| if args.refused { refused(index) } else { cycle(&listener, port, index) };
    (0..WARM_UP).try_for_each(one)?;
    let (cpu, wall) = (cpu_ns(), Instant::now());
    (WARM_UP..WARM_UP.saturating_add(args.cycles)).try_for_each(one)?;
    let (cpu_ns, wall_ns) = (cpu_ns() - cpu, wall.elapsed().as_nanos() as u64);
    let pid = getpid().as_raw_nonzero().get() as u32;
    println!("{}", serde_json::to_string(&Load { pid, cycles: args.cycles, cpu_ns, wall_ns })?);
    Ok(())
}

fn cycle(listener: &TcpListener, port: u16, index: u32) -> Result<()> {
    let target = target(index, port);
    let near = TcpStream::connect(target).with_context(|| format!("connect to {target}"))?;
    let far = loop {
        match listener.accept() {
            Ok((far, _)) => break far,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("accept"),
        }
    };
    drop(near);
    drop(far);
    Ok(())
}

/// In a namespace of its own nobody listens there, and no connect chooses it.
const NOBODY_S_PORT: u16 = 1;

fn refused(index: u32) -> Result<()> {
    let target = target(index, NOBODY_S_PORT);
    match TcpStream::connect(target) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
        outcome => bail!("{target} was to refuse, but: {outcome:?}"),
    }
}

fn target(index: u32, port: u16) -> SocketAddr {
    let host = index / RUN % DESTINATIONS;
    SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(127, 0, 1, host as u8 + 1), port))
}

fn cpu_ns() -> u64 {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
