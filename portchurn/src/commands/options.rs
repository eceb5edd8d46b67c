//! Arguments that several subcommands share, and what they mean to the loader.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::ValueEnum as _;
use portchurn_common::flow::Role;
use portchurn_common::glob::{Glob, PATTERN_LEN};
use portchurn_common::settings::{Filters, port_filter_key};

use crate::commands::Usage;
use crate::filter::{Filter, Scope};
use crate::live::hooks::{CALL_SITES, FORK, Forced};
use crate::live::loader::{Options, StackMode};
use crate::live::members::known;
use crate::live::sites::Copies;
use crate::live::sizes::{Host, Wanted};
use crate::model::culprit::Rules;
use crate::sinks::text::quoted;
use crate::sources::netns::network_namespaces;
use crate::sources::procfs::thread_group;
use crate::sources::sockstat;

/// Which connections. All is decided in the kernel and costs nothing per connection.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Which connections")]
pub struct SelectArgs {
    /// Only these processes
    #[arg(short, long = "pid", value_name = "PID", value_delimiter = ',')]
    pub pids: Vec<u32>,
    /// Only processes whose name matches: * any run, ? one character
    #[arg(short, long, value_name = "GLOB", value_parser = parse_glob)]
    pub comm: Option<String>,
    /// Connects to these remote ports; without -L no accepts
    #[arg(short = 'D', long = "dport", value_name = "PORT", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..))]
    pub dports: Vec<u16>,
    /// Accepts on these local ports; without -D no connects
    #[arg(short = 'L', long = "lport", value_name = "PORT", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..))]
    pub lports: Vec<u16>,
    /// Only IPv4 (an IPv4-mapped IPv6 socket is IPv4)
    #[arg(short = '4', long, conflicts_with = "ipv6")]
    pub ipv4: bool,
    /// Only IPv6
    #[arg(short = '6', long)]
    pub ipv6: bool,
    /// Only this network namespace: a name of `ip netns`, a path, a PID's as `pid:N`, or an inode number
    #[arg(long, value_name = "NETNS", value_parser = parse_netns)]
    pub netns: Option<u32>,
}

impl SelectArgs {
    /// The command line that selects the same.
    pub fn command_line(&self, command: &str) -> String {
        let list = |flag: &str, items: Vec<String>| {
            (!items.is_empty()).then(|| format!("{flag} {}", items.join(",")))
        };
        let parts = [
            list("-p", self.pids.iter().map(ToString::to_string).collect()),
            self.comm.as_ref().map(|glob| format!("-c '{glob}'")),
            list("-D", self.dports.iter().map(ToString::to_string).collect()),
            list("-L", self.lports.iter().map(ToString::to_string).collect()),
            self.ipv4.then(|| "-4".to_owned()),
            self.ipv6.then(|| "-6".to_owned()),
            self.netns.map(|inode| format!("--netns {inode}")),
        ];
        parts.into_iter().flatten().fold(command.to_owned(), |line, part| line + " " + &part)
    }
}

/// Which rows or events.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Which connections")]
pub struct FilterArgs {
    /// Only what matches, for example `dport=3306 life<10ms` or `dest in 10.0.0.0/8 and !comm=nginx`; `help` explains it
    #[arg(short, long, value_name = "EXPR", value_parser = parse_filter)]
    pub filter: Option<Filter>,
}

impl FilterArgs {
    /// Whether the language is to be explained instead.
    pub fn is_help(&self) -> bool {
        self.filter.as_ref().is_some_and(|filter| filter.text() == "help")
    }

    /// Refuses a filter that asks for what these things do not have: single events in `top`, rates in `trace`.
    ///
    /// # Errors
    /// A [`Usage`], with a caret at the place.
    pub fn check(&self, scope: Scope) -> Result<()> {
        match self.filter.as_ref().map(|filter| filter.check(scope)) {
            Some(Err(err)) => Err(Usage(format!("--filter:\n{err}")).into()),
            _ => Ok(()),
        }
    }
}

/// How to trace.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "How to trace")]
pub struct TracerArgs {
    /// Room for this many pairs of process and destination at a time, and a quarter as many listeners, up to 1048576
    /// [default: 16384]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(16..=1 << 20))]
    pub max_keys: Option<u32>,
    /// Room for this many connections at a time, up to 4194304 [default: 131072, or twice what is open]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1024..=1 << 22))]
    pub max_connections: Option<u32>,
    /// Lines of code: none, of compiled programs only, or of interpreters, too [default: auto; off in `trace`]
    #[arg(long, value_enum, value_name = "WHICH")]
    pub stack: Option<Stack>,
    /// Code under this part of a path is the application's, whatever else it looks like
    #[arg(long, value_name = "PATH")]
    pub app_path: Vec<String>,
    /// Code under this part of a path is never the application's
    #[arg(long, value_name = "PATH")]
    pub skip_path: Vec<String>,
    /// Past this much of one processor, in percent, lines of code are no longer taken; counting goes on
    #[arg(long, value_name = "PERCENT", value_parser = parse_percent)]
    pub max_cpu: Option<f64>,
    /// Attach a hook in one way only: HOOK=TIER, or HOOK=none
    #[arg(long, value_name = "HOOK=TIER", hide = true)]
    pub attach: Vec<Forced>,
    /// As on a kernel without type information
    #[arg(long, hide = true)]
    pub no_btf: bool,
    /// As on a kernel whose type information lacks this member
    #[arg(long, value_name = "STRUCT.PATH", hide = true, value_parser = known)]
    pub no_member: Vec<String>,
    /// As with an interpreter whose thread-specific data leads nowhere
    #[arg(long, hide = true)]
    pub search_threads: bool,
}

impl TracerArgs {
    /// The command line that takes the same call sites.
    pub fn command_line(&self, command: &str) -> String {
        let name = self.stack.and_then(|stack| stack.to_possible_value());
        let stack = name.map(|name| format!(" --stack {}", name.get_name())).into_iter();
        let app = self.app_path.iter().map(|path| format!(" --app-path {}", quoted(path)));
        let skip = self.skip_path.iter().map(|path| format!(" --skip-path {}", quoted(path)));
        let max_cpu = self.max_cpu.iter().map(|percent| format!(" --max-cpu {percent}"));
        stack.chain(app).chain(skip).chain(max_cpu).fold(command.to_owned(), |line, part| line + &part)
    }
}

/// `--stack`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum Stack {
    /// None; costs nothing
    Off,
    /// Compiled code
    Native,
    /// Compiled code and Python
    Auto,
}

impl From<Stack> for StackMode {
    fn from(stack: Stack) -> Self {
        match stack {
            Stack::Off => Self::Off,
            Stack::Native => Self::Native,
            Stack::Auto => Self::Auto,
        }
    }
}

/// When to stop.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "When to stop")]
pub struct StopArgs {
    /// Stop by itself after this time, such as 30s or 5m
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub duration: Option<Duration>,
    /// Exit with status 6 if anything was lost
    #[arg(long)]
    pub strict: bool,
}

/// What the loader is to do.
pub fn loader_options(select: &SelectArgs, tracer: &TracerArgs, trace: bool) -> Result<Options> {
    for &pid in &select.pids {
        match thread_group(pid) {
            Some(tgid) if tgid == pid => {}
            Some(tgid) => {
                return Err(Usage(format!("{pid} is a thread of process {tgid}: give that")).into());
            }
            None => return Err(Usage(format!("there is no process {pid}")).into()),
        }
    }
    // A line per connection comes before where it was opened is known, so `trace` waits for that only when asked to.
    let stack = tracer.stack.unwrap_or(if trace { Stack::Off } else { Stack::Auto });
    Ok(Options {
        filters: kernel_filters(select),
        filter_tgids: select.pids.clone(),
        filter_comm: select.comm.as_deref().and_then(Glob::new),
        filter_ports: port_filters(select),
        trace,
        forced: forced(tracer, stack),
        no_btf: tracer.no_btf,
        no_members: tracer.no_member.clone(),
        search_threads: tracer.search_threads,
        stacks: stack.into(),
        culprits: Rules { app_paths: tracer.app_path.clone(), skip_paths: tracer.skip_path.clone() },
        max_cpu_ratio: tracer.max_cpu.map(|percent| percent / 100.0),
        copies: Copies::default(),
        wanted: Wanted {
            keys: tracer.max_keys,
            conns: tracer.max_connections,
            trace,
            stacks: stack != Stack::Off,
        },
        host: host()?,
    })
}

/// Without call sites their programs are not even loaded, unless one was asked for.
fn forced(tracer: &TracerArgs, stack: Stack) -> Vec<Forced> {
    let mut forced = Vec::new();
    if stack != Stack::Auto {
        forced.push(Forced { hook: FORK, tier: None });
    }
    if stack == Stack::Off {
        forced.push(Forced { hook: CALL_SITES, tier: None });
    }
    forced.extend(tracer.attach.iter().cloned());
    forced
}

fn kernel_filters(select: &SelectArgs) -> Filters {
    let comm_glob =
        select.comm.as_deref().and_then(Glob::new).map_or(Filters::NONE.comm_glob, |glob| glob.masks);
    let (by_dport, by_lport) = (!select.dports.is_empty(), !select.lports.is_empty());
    Filters {
        tgids: u32::from(!select.pids.is_empty()),
        comm: u32::from(select.comm.is_some()),
        connect_ports: u32::from(by_dport),
        accept_ports: u32::from(by_lport),
        no_connects: u32::from(by_lport && !by_dport),
        no_accepts: u32::from(by_dport && !by_lport),
        ip_version: if select.ipv4 {
            4
        } else if select.ipv6 {
            6
        } else {
            0
        },
        netns: select.netns.unwrap_or(0),
        comm_glob,
    }
}

fn port_filters(select: &SelectArgs) -> Vec<u32> {
    let connects = select.dports.iter().map(|&port| port_filter_key(Role::Connect, port));
    let accepts = select.lports.iter().map(|&port| port_filter_key(Role::Accept, port));
    connects.chain(accepts).collect()
}

fn host() -> Result<Host> {
    let possible =
        std::fs::read_to_string("/sys/devices/system/cpu/possible").context("count the processors")?;
    let cpus =
        possible.trim().rsplit(['-', ',']).next().and_then(|last| last.parse::<u32>().ok()).unwrap_or(0) + 1;
    let sockstat = std::fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let tcp_sockets = sockstat::allocated(&sockstat).unwrap_or(0).try_into().unwrap_or(u32::MAX);
    Ok(Host { cpus, tcp_sockets })
}

/// The end of any time that is asked for: clocks cannot tell every one. A hundred years.
const LONGEST: Duration = Duration::from_secs(100 * 31_557_600);

/// A duration as `500ms`, `2s`, `1m30s`, or a number of seconds. Zero is refused.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().map(Duration::try_from_secs_f64);
    let duration = match seconds {
        Some(seconds) => seconds.map_err(|err| err.to_string())?,
        None => humantime::parse_duration(text).map_err(|err| err.to_string())?,
    };
    if duration.is_zero() {
        return Err("must be more than 0".to_owned());
    }
    if duration > LONGEST { Err("must be 100 years at most".to_owned()) } else { Ok(duration) }
}

/// A share of one processor, also a part of a percent.
fn parse_percent(text: &str) -> Result<f64, String> {
    match text.trim_end_matches('%').parse::<f64>() {
        Ok(percent) if percent > 0.0 && percent.is_finite() => Ok(percent),
        _ => Err("must be a number more than 0, such as 0.5 or 20".to_owned()),
    }
}

fn parse_glob(text: &str) -> Result<String, String> {
    match Glob::new(text) {
        Some(_) => Ok(text.to_owned()),
        None => Err(format!("must have 1 to {PATTERN_LEN} bytes")),
    }
}

fn parse_filter(text: &str) -> Result<Filter, String> {
    Filter::parse(text).map_err(|err| format!("\n{err}"))
}

/// The file system of namespaces (include/uapi/linux/magic.h).
const NSFS_MAGIC: rustix::fs::FsWord = 0x6e73_6673;

/// The inode number by which the kernel knows a network namespace.
pub(super) fn parse_netns(text: &str) -> Result<u32, String> {
    use std::os::unix::fs::MetadataExt as _;
    if let Ok(inode) = text.parse() {
        let is_there = network_namespaces().iter().any(|one| one.inode == inode);
        return if is_there { Ok(inode) } else { Err("no process and no name leads to it".to_owned()) };
    }
    let path = match text.strip_prefix("pid:") {
        Some(pid) => PathBuf::from(format!("/proc/{pid}/ns/net")),
        None if text.contains('/') => PathBuf::from(text),
        None => PathBuf::from("/run/netns").join(text),
    };
    let is_not = || format!("{} is no network namespace", path.display());
    // Where nobody has named one yet, the folder itself is not there.
    if text.is_empty() {
        return Err(is_not());
    }
    // The link of a process leads to one; a name is a file on which one is mounted.
    let kind = rustix::fs::statfs(&path).map_err(|err| format!("{}: {err}", path.display()))?.f_type;
    let metadata = path.metadata().map_err(|err| format!("{}: {err}", path.display()))?;
    if kind != NSFS_MAGIC {
        return Err(is_not());
    }
    u32::try_from(metadata.ino()).map_err(|_| is_not())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser as _;

    use super::{TracerArgs, parse_duration, parse_glob, parse_netns, parse_percent};

    #[test]
    fn durations_have_units_or_are_seconds() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("2"), Ok(Duration::from_secs(2)));
        assert_eq!(parse_duration("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("100years"), Ok(Duration::from_secs(100 * 31_557_600)));
        for nonsense in ["0", "0s", "-1", "soon", "", "1e300", "NaN", "10000000000000000000", "101years"] {
            assert!(parse_duration(nonsense).is_err(), "{nonsense}");
        }
    }

    #[test]
    fn a_share_of_a_processor_is_more_than_nothing() {
        assert_eq!(parse_percent("0.5"), Ok(0.5));
        assert_eq!(parse_percent("20%"), Ok(20.0));
        for nonsense in ["0", "-1", "NaN", "inf", "much", ""] {
            assert!(parse_percent(nonsense).is_err(), "{nonsense}");
        }
    }

    #[derive(clap::Parser)]
    struct Only {
        #[command(flatten)]
        tracer: TracerArgs,
    }

    #[test]
    fn what_call_sites_are_taken_with_can_be_had_again() {
        let words = "top --stack native --app-path /it's --skip-path /lib --max-cpu 5".split(' ');
        let line = Only::try_parse_from(words).unwrap().tracer.command_line("portchurn top");
        let wanted = r"portchurn top --stack native --app-path '/it'\''s' --skip-path '/lib' --max-cpu 5";
        assert_eq!(line, wanted);
    }

    #[test]
    fn a_name_too_long_for_the_kernel_is_refused() {
        assert!(parse_glob(&"x".repeat(32)).is_err());
        assert!(parse_glob(&"x".repeat(31)).is_ok());
        assert!(parse_glob("").is_err());
    }

    #[test]
    fn network_namespaces_are_found() {
        let own = parse_netns(&format!("pid:{}", std::process::id())).unwrap();
        assert_eq!(parse_netns("/proc/self/ns/net"), Ok(own));
        assert_eq!(parse_netns(&own.to_string()), Ok(own));
        for nonsense in ["no-such-namespace", "", "/etc/passwd", "pid:"] {
            assert!(parse_netns(nonsense).is_err(), "{nonsense}");
        }
    }
}
