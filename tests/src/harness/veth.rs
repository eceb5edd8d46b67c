//! Two network namespaces with a cable between them, their settings, and programs in them. Gone when it is dropped.

use std::collections::HashSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::link;
use super::named_netns::Named;
use super::programs::{bound_to, churn};
use super::python;
use crate::workloads::netns;

/// Seconds after which a program in a namespace is ended, whatever it does.
const PATIENCE_S: u32 = 180;

/// Address of the server's end.
pub const SERVER: &str = "10.77.0.2";

/// Name of the cable at either end.
const DEVICE: &str = "v0";

static NEXT: AtomicU32 = AtomicU32::new(0);

/// The two namespaces: a client at 10.77.0.1 and fd77::1, a server at 10.77.0.2 and fd77::2.
#[derive(Debug)]
pub struct Cable {
    /// Name of the client's namespace.
    pub client: String,
    /// Name of the server's.
    pub server: String,
    ends: [Named; 2],
}

/// What a client says it did.
#[derive(Clone, Debug, Deserialize)]
pub struct Outcome {
    /// Its number.
    pub pid: u32,
    /// Connects that succeeded.
    pub ok: u64,
    /// Failed with EADDRNOTAVAIL.
    pub errno_99: u64,
    /// Failed with EADDRINUSE.
    pub errno_98: u64,
    /// Failed otherwise.
    pub other: u64,
    /// When the first one failed, since it said that it begins. Seconds.
    pub first_failure_s: Option<f64>,
    /// Median duration of connect(), of each thousand. Microseconds.
    #[serde(default)]
    pub connect_us_medians: Vec<u64>,
    /// Local ports of those that succeeded, in their order.
    #[serde(default)]
    pub ports: Vec<u16>,
    /// How long everything took, where that is told. Seconds.
    pub took_s: Option<f64>,
}

/// A program in a namespace; ended when this is dropped.
#[derive(Debug)]
pub struct Guest {
    /// The process.
    pub child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Guest {
    /// The next line that it says.
    pub fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line).context("read what it says")?;
        ensure!(!line.is_empty(), "a program in a namespace ended without a word");
        Ok(line)
    }

    /// Lets it begin.
    pub fn go(&mut self) -> Result<()> {
        let stdin = self.child.stdin.as_mut().context("a pipe was asked for")?;
        stdin.write_all(b"\n").context("let a program begin")
    }

    /// Waits until a client begins.
    pub fn begun(&mut self) -> Result<()> {
        let line = self.line()?;
        ensure!(line.trim() == "begins", "a client said {line}");
        Ok(())
    }

    /// What a client says at its end.
    pub fn outcome(&mut self) -> Result<Outcome> {
        let mut line = self.line()?;
        if line.trim() == "begins" {
            line = self.line()?;
        }
        serde_json::from_str(&line).with_context(|| format!("understand {line}"))
    }

    /// Waits until it is gone.
    pub fn wait(mut self) -> Result<()> {
        self.child.wait().context("wait for a program in a namespace").map(drop)
    }
}

impl Cable {
    /// Makes both; the client's namespace with these settings (`net.ipv4.…`).
    pub fn new(settings: &[&str]) -> Result<Self> {
        let id = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let (client, server) = (format!("pct-{id}-c"), format!("pct-{id}-s"));
        let ends = [Named::new(&client)?, Named::new(&server)?];
        let far = ends[1].open()?;
        ends[0].inside(|| link::make_pair(DEVICE, &far))?;
        for (end, last) in ends.iter().zip(1..) {
            end.inside(|| {
                netns::raise("lo")?;
                // A FIN that is sent twice, as on a crowded machine, must not end a TIME_WAIT (RFC 1337): ports are counted.
                set("tcp_rfc1337=1")?;
                link::set_up(DEVICE, Ipv4Addr::new(10, 77, 0, last))?;
                link::add_v6(DEVICE, Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, last.into()))
            })?;
        }
        ends[0].inside(|| settings.iter().try_for_each(|setting| set(setting)))?;
        Ok(Self { client, server, ends })
    }

    fn end(&self, netns: &str) -> &Named {
        &self.ends[usize::from(netns == self.server)]
    }

    /// Does something in one of them.
    pub fn inside<T: Send>(&self, netns: &str, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.end(netns).inside(work)
    }

    /// Starts a command in one of them.
    pub fn enter(&self, netns: &str, command: &mut Command) -> Result<()> {
        self.end(netns).enter(command)
    }

    /// Starts a churn program in one of them.
    pub fn churn(&self, netns: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Result<Guest> {
        self.program(netns, &churn()?, arguments, environment)
    }

    /// Starts one of our scripts in one of them, and waits until it is ready. A tracer that starts then knows it before
    /// it does anything.
    pub fn script(
        &self,
        netns: &str,
        name: &str,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<Guest> {
        let script = python::script(name);
        let arguments = [&[script.to_str().context("a path in UTF-8")?], arguments].concat();
        let mut guest = self.program(netns, &python::system()?, &arguments, environment)?;
        ensure!(guest.line()?.trim() == "ready");
        Ok(guest)
    }

    fn program(
        &self,
        netns: &str,
        program: &Path,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<Guest> {
        let mut command = Command::new(program);
        self.enter(netns, &mut command)?;
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        command.envs(environment.iter().copied());
        bound_to(&mut command, PATIENCE_S);
        let mut child = command.spawn().context("start a program in a namespace")?;
        let output = BufReader::new(child.stdout.take().context("a pipe was asked for")?);
        Ok(Guest { child, output })
    }

    /// Starts a server and waits until it listens.
    pub fn server(&self, address: &str, first: bool) -> Result<Guest> {
        let how: &[&str] = if first { &["first"] } else { &[] };
        let mut guest = self.churn(&self.server, &[&["serve", address], how].concat(), &[])?;
        ensure!(guest.line()?.trim() == "ready");
        Ok(guest)
    }

    /// Inode number of a namespace, by which portchurn calls it.
    pub fn inode(&self, netns: &str) -> Result<u64> {
        let metadata = std::fs::metadata(format!("/run/netns/{netns}")).context("look at a namespace")?;
        Ok(std::os::unix::fs::MetadataExt::ino(&metadata))
    }

    /// The same in either namespace, closing second.
    pub fn server_in(&self, netns: &str, address: &str) -> Result<Guest> {
        let mut guest = self.churn(netns, &["serve", address], &[])?;
        ensure!(guest.line()?.trim() == "ready");
        Ok(guest)
    }

    /// TIME_WAIT sockets of a namespace, as the kernel adds them up itself (`tw` of `sockstat`): for more than one would want
    /// to list.
    pub fn many_time_wait(&self, netns: &str) -> Result<u64> {
        let text = self.end(netns).inside(|| table("sockstat"))?;
        let tcp = text.lines().find(|line| line.starts_with("TCP:")).context("sockstat without TCP")?;
        let mut words = tcp.split_whitespace().skip_while(|word| *word != "tw").skip(1);
        words.next().and_then(|count| count.parse().ok()).context("sockstat without tw")
    }

    /// Waits until the kernel's own table has so many TIME_WAIT sockets in a namespace: the last ones still wait for the other
    /// side's FIN when their program is done.
    pub fn await_time_wait(&self, netns: &str, count: u64) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(PATIENCE_S.into());
        loop {
            let found = self.time_wait(netns)?;
            if found == count {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "the kernel has {found} TIME_WAIT, should have {count}");
            std::thread::yield_now();
        }
    }

    /// TIME_WAIT sockets of a namespace, as the kernel's own table counts them.
    pub fn time_wait(&self, netns: &str) -> Result<u64> {
        Ok(self.local_ports_in_time_wait(netns)?.len() as u64)
    }

    /// Their local ports.
    pub fn ports_in_time_wait(&self, netns: &str) -> Result<HashSet<u16>> {
        Ok(self.local_ports_in_time_wait(netns)?.into_iter().collect())
    }

    /// Waits until the kernel's own table has nothing else than TIME_WAIT there: the last ones still wait for the other side's FIN
    /// when their program is done.
    pub fn await_all_closed(&self, netns: &str) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(PATIENCE_S.into());
        let is_open = |line: &str| line.split_whitespace().nth(3).is_some_and(|state| state != "06");
        loop {
            let text = self.end(netns).inside(|| table("tcp"))?;
            if !text.lines().skip(1).any(is_open) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "connections stay open: {text}");
            std::thread::yield_now();
        }
    }

    fn local_ports_in_time_wait(&self, netns: &str) -> Result<Vec<u16>> {
        let text = self.end(netns).inside(|| Ok(table("tcp")? + &table("tcp6")?))?;
        // `sl local_address rem_address st`, where an address is `hex:port`; 06 is TIME_WAIT.
        let port = |line: &str| {
            let mut words = line.split_whitespace().skip(1);
            let (local, state) = (words.next()?, words.nth(1)?);
            u16::from_str_radix(local.rsplit(':').next()?, 16).ok().filter(|_| state == "06")
        };
        Ok(text.lines().filter_map(port).collect())
    }
}

/// A table of the network namespace of this thread.
fn table(name: &str) -> Result<String> {
    let path = format!("/proc/thread-self/net/{name}");
    std::fs::read_to_string(&path).with_context(|| format!("read {path}"))
}

/// Sets a variable of the network namespace of this thread.
fn set(setting: &str) -> Result<()> {
    let (name, value) = setting.split_once('=').context("a setting is NAME=VALUE")?;
    let path = format!("/proc/sys/net/ipv4/{name}");
    std::fs::write(&path, value).with_context(|| format!("set {setting}"))
}
