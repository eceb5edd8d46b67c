//! The load: one process on one processor makes connections to itself over loopback, in lock-step: connect, accept, close,
//! close. Both ends are traced: 11 state changes for each. It runs in a network namespace of its own, which takes its
//! TIME_WAIT sockets with it when it ends, so that every round begins with none.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::net::sockopt::set_socket_linger;
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
    /// Closes by a reset, which leaves no TIME_WAIT
    #[arg(long)]
    reset: bool,
    /// Connections per second, if it makes as many [default: as many as it can]
    #[arg(long)]
    per_s: Option<u32>,
    /// Stays until its input ends, and the TIME_WAIT sockets of its network namespace with it
    #[arg(long)]
    stay: bool,
}

/// What one round of load took.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Load {
    pub(crate) pid: u32,
    pub(crate) cycles: u32,
    /// Time of the processor in user and kernel mode, with the softirqs that ran on top of it.
    pub(crate) cpu_ns: u64,
    pub(crate) wall_ns: u64,
    /// The same time for each batch of [`BATCH`] cycles.
    pub(crate) batches_ns: Vec<u64>,
}

/// Cycles between two looks at the clock.
const BATCH: u32 = 500;

impl Load {
    pub(crate) fn cpu_us_per_cycle(&self) -> f64 {
        self.cpu_ns as f64 / 1e3 / f64::from(self.cycles)
    }

    pub(crate) fn batches_us_per_cycle(&self) -> impl Iterator<Item = f64> + '_ {
        self.batches_ns.iter().map(|&ns| ns as f64 / 1e3 / f64::from(BATCH))
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
    /// This one, closing by a reset.
    Reset,
}

/// The system's Python is what most hosts have.
const PYTHONS: [&str; 2] = ["/usr/bin/python3", "python3"];

impl Program {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Native => "native loop",
            Self::Python => "Python loop",
            Self::Refused => "native loop, refused",
            Self::Reset => "native loop, reset",
        }
    }

    /// The moments at which a stack is taken.
    pub(crate) fn moments(self) -> &'static str {
        match self {
            Self::Native | Self::Python | Self::Reset => "three stacks a connection: open, two closes",
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
            Self::Native | Self::Refused | Self::Reset => {
                let xtask = std::env::current_exe().context("find this program")?;
                let arguments = ["bench-load", "--cycles", &cycles, "--cpu", &cpu];
                let how = match self {
                    Self::Refused => Some("--refused"),
                    Self::Reset => Some("--reset"),
                    _ => None,
                };
                let arguments = arguments.into_iter().chain(how).map(OsString::from);
                std::iter::once(xtask.into()).chain(arguments).collect()
            }
            Self::Python => {
                let program = python().context("there is no Python here")?;
                let script = repo::root()?.join("xtask/src/bench/load.py");
                let fixed = [WARM_UP, RUN, DESTINATIONS, BATCH].map(|number| number.to_string());
                let numbers = [cycles, cpu].into_iter().chain(fixed);
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
    run_with(program.command_line(cycles, cpu)?)
}

/// The same at a pace.
pub(crate) fn run_paced(per_s: u32, cycles: u32, cpu: usize) -> Result<Load> {
    let mut command_line = Program::Native.command_line(cycles, cpu)?;
    command_line.extend(["--per-s".into(), per_s.to_string().into()]);
    run_with(command_line)
}

fn run_with(command_line: Vec<OsString>) -> Result<Load> {
    let mut command = in_own_netns("ip link set lo up", command_line)?;
    let said = capture(command.stdin(Stdio::null())).context("run the load")?;
    serde_json::from_str(&said).context("read what the load says")
}

fn in_own_netns(before: &str, command_line: Vec<OsString>) -> Result<Command> {
    ensure!(
        on_path("unshare").is_some() && on_path("ip").is_some(),
        "bench needs `unshare` and `ip`: install iproute2"
    );
    let mut command = Command::new("unshare");
    command.args(["--net", "--", "sh", "-c", &format!(r#"{before} && exec "$0" "$@""#)]);
    command.args(command_line);
    Ok(command)
}

/// Processors that loads may stay on.
pub(crate) fn processors() -> Result<usize> {
    Ok(std::thread::available_parallelism().context("count the processors")?.get())
}

/// A load that has ended and holds its TIME_WAIT sockets.
pub(crate) struct Held(Child);

impl Held {
    /// Makes `count` of them, more than the usual limit if need be.
    pub(crate) fn fill(count: u32, cpu: usize) -> Result<Self> {
        let room = "ip link set lo up && echo 1048576 > /proc/sys/net/ipv4/tcp_max_tw_buckets";
        let cycles = count.saturating_sub(WARM_UP);
        let mut command = in_own_netns(room, Program::Native.command_line(cycles, cpu)?)?;
        command.arg("--stay").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("start the load")?;
        let mut said = String::new();
        BufReader::new(child.stdout.take().context("a pipe was asked for")?)
            .read_line(&mut said)
            .context("wait for the load")?;
        ensure!(!said.is_empty(), "the load failed; its reason stands above");
        Ok(Self(child))
    }

    /// Ends it.
    pub(crate) fn release(mut self) -> Result<()> {
        drop(self.0.stdin.take());
        ensure!(self.0.wait().context("wait for the load")?.success(), "the load failed");
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Fails when it has ended, which is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The load itself. Prints a [`Load`].
pub(crate) fn generate(args: &Args) -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(args.cpu);
    sched_setaffinity(None, &cpus).with_context(|| format!("stay on processor {}", args.cpu))?;
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).context("listen")?;
    let port = listener.local_addr()?.port();
    let one = |index| if args.refused { refused(index) } else { cycle(&listener, port, index, args.reset) };
    (0..WARM_UP).try_for_each(one)?;
    let (cpu, wall) = (cpu_ns(), Instant::now());
    let (mut at, mut batches_ns, mut batch_began) = (WARM_UP, Vec::new(), cpu);
    let end = WARM_UP.saturating_add(args.cycles);
    while at < end {
        let next = at.saturating_add(BATCH).min(end);
        (at..next).try_for_each(one)?;
        let now = cpu_ns();
        if next - at == BATCH {
            batches_ns.push(now - batch_began);
        }
        if let Some(per_s) = args.per_s {
            let due = Duration::from_secs_f64(f64::from(next - WARM_UP) / f64::from(per_s));
            std::thread::sleep(due.saturating_sub(wall.elapsed()));
        }
        (at, batch_began) = (next, now);
    }
    let (cpu_ns, wall_ns) = (batch_began - cpu, wall.elapsed().as_nanos() as u64);
    let pid = getpid().as_raw_nonzero().get() as u32;
    println!("{}", serde_json::to_string(&Load { pid, cycles: args.cycles, cpu_ns, wall_ns, batches_ns })?);
    if args.stay {
        std::io::stdin().read_to_end(&mut Vec::new()).context("wait for the end of the input")?;
    }
    Ok(())
}

fn cycle(listener: &TcpListener, port: u16, index: u32, reset: bool) -> Result<()> {
    let target = target(index, port);
    let near = TcpStream::connect(target).with_context(|| format!("connect to {target}"))?;
    let far = loop {
        match listener.accept() {
            Ok((far, _)) => break far,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("accept"),
        }
    };
    if reset {
        set_socket_linger(&near, Some(Duration::ZERO)).context("ask for a reset")?;
    }
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
