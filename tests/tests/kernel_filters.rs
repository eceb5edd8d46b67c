//! Filters that run in the kernel: what is asked for is counted exactly, and nothing else is. Needs the privileges of a
//! tracer.

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};

use anyhow::{Context, Result, ensure};
use portchurn_tests::harness::budgets::Trace;
use portchurn_tests::harness::compare::{Precision, adds_up, matches_truth};
use portchurn_tests::harness::named_netns::Named;
use portchurn_tests::harness::programs::{Running, run_workload, start_workload};
use portchurn_tests::harness::report::{Destination, Report};
use portchurn_tests::harness::tracer::Tracer;
use portchurn_tests::harness::{check, check_where_possible, skip};

const CALLS: u64 = 7;

/// A server that waits for calls.
struct Server {
    workload: Running,
    port: u16,
}

impl Server {
    fn start(family: &str) -> Result<Self> {
        let mut workload = start_workload(&["serve", "--count", &CALLS.to_string(), "--family", family])?;
        let stdout = workload.child.stdout.as_mut().context("a pipe was asked for")?;
        let mut line = String::new();
        // Nothing follows until the calls are over, so nothing that others should read is taken.
        BufReader::new(stdout).read_line(&mut line).context("learn the port")?;
        let port = line.trim().rsplit(' ').next().and_then(|word| word.parse().ok());
        Ok(Self { workload, port: port.context("learn the port")? })
    }
}

/// What of the calls is to be seen.
#[derive(Clone, Copy, Debug)]
struct Sides {
    connects: bool,
    accepts: bool,
}

const BOTH: Sides = Sides { connects: true, accepts: true };
const CONNECTS: Sides = Sides { connects: true, accepts: false };
const ACCEPTS: Sides = Sides { connects: false, accepts: true };
const NOTHING: Sides = Sides { connects: false, accepts: false };

fn counts_only(family: &str, flags: impl Fn(&Server) -> Vec<String>, sides: Sides) -> Result<()> {
    let server = Server::start(family)?;
    // This one sees everything, so it tells when all is over.
    let mut everything = Tracer::start(&[])?;
    let flags = flags(&server);
    let mut filtered = Tracer::start(&flags.iter().map(String::as_str).collect::<Vec<_>>())?;
    let port = server.port;
    for _ in 0..CALLS {
        run_workload(&["once", "--port", &port.to_string(), "--family", family])?;
    }
    server.workload.finish()?;
    everything.wait_until(|report| sees(report, port, BOTH)).context("without a filter")?;
    filtered.catch_up()?;
    filtered.wait_until(|report| sees(report, port, sides)).with_context(|| flags.join(" "))?;
    filtered.stop()?;
    Ok(())
}

fn sees(report: &Report, port: u16, sides: Sides) -> Result<()> {
    let destinations: Vec<&Destination> =
        report.programs.iter().flat_map(|program| &program.destinations).collect();
    let expected = |seen: bool| if seen { CALLS } else { 0 };
    let connects =
        || destinations.iter().filter(|there| there.remote_port == Some(port)).map(|there| there.tally);
    let accepts =
        || destinations.iter().filter(|there| there.local_port == Some(port)).map(|there| there.tally);
    let opened: u64 = connects().map(|tally| tally.opened).sum();
    let accepted: u64 = accepts().map(|tally| tally.accepted).sum();
    ensure!(opened == expected(sides.connects), "{opened} connects instead of {sides:?}");
    ensure!(accepted == expected(sides.accepts), "{accepted} accepts instead of {sides:?}");
    let closed: u64 = connects().chain(accepts()).map(|tally| tally.closed).sum();
    ensure!(closed == opened + accepted, "{closed} of {} closed", opened + accepted);
    adds_up(report)
}

macro_rules! filters {
    ($($test:ident: $family:literal, $flags:expr, $sides:ident;)*) => {$(
        #[test]
        fn $test() {
            check(stringify!($test), || counts_only($family, $flags, $sides));
        }
    )*};
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

filters! {
    remote_port: "v4", |server: &Server| words(&["-D", &server.port.to_string()]), CONNECTS;
    local_port: "v4", |server: &Server| words(&["-L", &server.port.to_string()]), ACCEPTS;
    both_ports: "v6", |server: &Server| words(&["-D", &format!("1,{}", server.port), "-L", &server.port.to_string()]), BOTH;
    another_port: "v4", |_: &Server| words(&["-D", "1", "-L", "1"]), NOTHING;
    process: "v4", |server: &Server| words(&["-p", &server.workload.child.id().to_string()]), ACCEPTS;
    another_process: "v4", |_: &Server| words(&["-p", &std::process::id().to_string()]), NOTHING;
    name: "v4", |_: &Server| words(&["-c", "portchurn-w*"]), BOTH;
    another_name: "v4", |_: &Server| words(&["-c", "portchurn-?"]), NOTHING;
    ipv4_of_ipv4: "v4", |_: &Server| words(&["-4"]), BOTH;
    ipv6_of_ipv4: "v4", |_: &Server| words(&["-6"]), NOTHING;
    ipv6_of_ipv6: "v6", |_: &Server| words(&["-6"]), BOTH;
    ipv4_of_mapped: "mapped", |_: &Server| words(&["-4"]), BOTH;
    ipv6_of_mapped: "mapped", |_: &Server| words(&["-6"]), NOTHING;
    own_netns: "v4", |_: &Server| words(&["--netns", &format!("pid:{}", std::process::id())]), BOTH;
}

#[test]
fn another_netns() {
    check("another_netns", || {
        let other = format!("pct-{}-filter", std::process::id());
        let _named = Named::new(&other)?;
        counts_only("v4", |_| words(&["--netns", &other]), NOTHING)
    });
}

/// Also not of what somebody else accepts, who is not known yet when the connection arrives.
#[test]
fn trace_tells_only_of_whom_is_asked_for() {
    check("trace_tells_only_of_whom_is_asked_for", || {
        let server = Server::start("v4")?;
        let ours = std::process::id().to_string();
        let mut trace = Trace::start(&format!("pid:{ours}"), &["-p", &ours])?;
        for _ in 0..CALLS {
            run_workload(&["once", "--port", &server.port.to_string()])?;
        }
        server.workload.finish()?;
        let listener = TcpListener::bind("127.0.0.1:0").context("listen")?;
        let address = listener.local_addr()?;
        drop((TcpStream::connect(address).context("connect")?, listener.accept().context("accept")?));
        let lines = trace.wait_for(1, &format!("\"remote_port\":{}", address.port()))?;
        let of_others: Vec<_> =
            lines.iter().filter(|line| !line.contains(&format!("\"tgid\":{ours}"))).collect();
        ensure!(of_others.is_empty(), "events of others: {of_others:?}");
        trace.stop().map(drop)
    });
}

/// They have no destination whose version could be asked.
#[test]
fn binds_that_find_no_port_are_of_the_version_of_their_socket() {
    check_where_possible("binds_that_find_no_port_are_of_the_version_of_their_socket", || {
        let (mut v4, mut v6) = (Tracer::start(&["-4"])?, Tracer::start(&["-6"])?);
        if v4.latest.attached("inet_csk_get_port") == "none" {
            return Err(skip("binds that fail cannot be seen here"));
        }
        let truth = run_workload(&["bind-first", "--count", "24", "--netns", "own"])?;
        ensure!(truth.sum().failed_by.contains_key("EADDRINUSE"), "no bind failed: {truth:?}");
        v4.wait_until(|report| matches_truth(&truth, report, Precision::FULL)).context("-4")?;
        v6.catch_up()?;
        v6.wait_until(|report| {
            let of_it = truth.processes.iter().flat_map(|process| report.processes_of(process.tgid));
            ensure!(of_it.count() == 0, "-6 counted what is IPv4");
            Ok(())
        })?;
        v4.stop()?;
        v6.stop().map(drop)
    });
}

/// Destinations that nobody wants to know of, more than there is room for.
const UNWANTED: u16 = 64;

#[test]
fn what_is_not_wanted_takes_no_room() {
    check("what_is_not_wanted_takes_no_room", || {
        let listener = TcpListener::bind("127.0.0.1:0").context("listen")?;
        let port = listener.local_addr()?.port();
        let mut tracer = Tracer::start(&["-D", &port.to_string(), "--max-keys", "16"])?;
        for unwanted in (1..=UNWANTED).map(|port| ("127.0.0.1", port)) {
            // Nobody listens there, and if somebody does it is all the same.
            let _ = TcpStream::connect(unwanted);
        }
        for _ in 0..CALLS {
            drop(TcpStream::connect(("127.0.0.1", port)).context("connect")?);
            drop(listener.accept().context("accept")?);
        }
        tracer.wait_until(|report| {
            let own = report.processes_of(std::process::id()).flat_map(|process| &process.destinations);
            let to: Vec<_> = own.map(|to| (to.remote_port, to.tally.opened)).collect();
            ensure!(to == [(Some(port), CALLS)], "{to:?}");
            ensure!(report.lost.by_reason["keys_full"] == Some(0), "{:?}", report.lost);
            Ok(())
        })?;
        tracer.stop()?;
        Ok(())
    });
}
