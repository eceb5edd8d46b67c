//! Connections whose end no program saw: they are found missing from the kernel's tables, counted as lost, and nobody who
//! lives is. Needs the privileges of a tracer.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;

use anyhow::{Context, Result, ensure};
use portchurn_tests::harness::bpf::ArrayMap;
use portchurn_tests::harness::budgets;
use portchurn_tests::harness::programs::Held;
use portchurn_tests::harness::report::{Report, Tally};
use portchurn_tests::harness::tracer::Tracer;
use portchurn_tests::harness::{check, skip};

/// As in portchurn-common/src/conn.rs: the mark of an ended connection.
const CLOSED: u64 = 1 << 63;

/// A connection to ourselves; both ends are ours.
struct Pair {
    client: TcpStream,
    _server: TcpStream,
    port: u16,
}

impl Pair {
    fn open() -> Result<Self> {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).context("listen")?;
        let address = listener.local_addr()?;
        let client = TcpStream::connect(address).context("connect")?;
        let (server, _) = listener.accept().context("accept")?;
        Ok(Self { client, _server: server, port: address.port() })
    }
}

fn cookie(socket: impl AsFd) -> Result<u64> {
    rustix::net::sockopt::socket_cookie(socket).context("ask for a cookie")
}

/// What is said of our connects to a port.
fn connects_to(report: &Report, port: u16) -> Option<Tally> {
    let own = report.processes_of(std::process::id()).next()?;
    let there = own.destinations.iter().find(|one| one.role == "connect" && one.remote_port == Some(port))?;
    Some(there.tally)
}

fn unseen(report: &Report) -> Option<u64> {
    report.lost.by_reason.get("close_unseen").copied().flatten()
}

/// Where the table has a connection.
fn place_of(conns: &ArrayMap, cookie: u64) -> Result<(u32, Vec<u64>)> {
    for place in 0..conns.len {
        let conn = conns.get(place)?;
        if conn[0] == cookie {
            return Ok((place, conn));
        }
    }
    Err(skip("connections are not found by their cookie here"))
}

/// What this machine hides now and then is hidden on purpose: while its entry is marked as ended, no program finds the
/// connection, and its end is ignored.
#[test]
fn an_end_that_nobody_saw_is_counted_as_lost() {
    check("an_end_that_nobody_saw_is_counted_as_lost", || {
        let mut tracer = Tracer::start(&[])?;
        let pair = Pair::open()?;
        let port = pair.port;
        let open = Tally { opened: 1, open_now: 1, ..Tally::default() };
        tracer.wait_until(|report| {
            ensure!(connects_to(report, port) == Some(open), "{:?}", connects_to(report, port));
            Ok(())
        })?;
        let before = unseen(&tracer.latest).context("close_unseen is a reason")?;
        let conns = ArrayMap::of(tracer.pid(), "CONNS")?;
        let (place, mut conn) = place_of(&conns, cookie(&pair.client)?)?;
        conn[0] |= CLOSED;
        conns.set(place, &mut conn)?;
        drop(pair);
        conn[0] &= !CLOSED;
        conns.set(place, &mut conn)?;
        let lost = Tally { opened: 1, lost: 1, ..Tally::default() };
        tracer.wait_until(|report| {
            ensure!(connects_to(report, port) == Some(lost), "{:?}", connects_to(report, port));
            ensure!(unseen(report) == Some(before + 1), "{:?}", report.lost);
            ensure!(report.totals.is_conserved(), "{:?}", report.totals);
            Ok(())
        })?;
        tracer.stop()?;
        Ok(())
    });
}

/// Longer than three roll calls.
const REPORTS: usize = 200;

#[test]
fn nobody_who_lives_is_declared_dead() {
    check("nobody_who_lives_is_declared_dead", || {
        let early = Held::open("hold", &["--early", "--count", "31", "--netns", "own"])?;
        let mut tracer = budgets::start_with_cookies()?;
        let namespaces = [
            Held::open("hold", &["--count", "53", "--netns", "own"])?,
            Held::open("hold", &["--count", "59", "--netns", "own", "--family", "v6"])?,
            Held::open("hold", &["--count", "61", "--family", "mapped"])?,
        ];
        let idle = Pair::open()?;
        let half = Pair::open()?;
        // FIN_WAIT2 here, CLOSE_WAIT there.
        half.client.shutdown(std::net::Shutdown::Write).context("close one side")?;
        let ours = [idle.port, half.port];
        let held: Vec<_> =
            namespaces.iter().chain([&early]).flat_map(|one| [one.client, one.server]).collect();
        for _ in 0..REPORTS {
            tracer.advance()?;
        }
        let report = tracer.latest.clone();
        for port in ours {
            let tally = connects_to(&report, port).with_context(|| format!("port {port} is listed"))?;
            ensure!((tally.open_now, tally.lost) == (1, 0), "port {port}: {tally:?}");
        }
        for tgid in held {
            let tally = report.processes_of(tgid).next().context("who holds connections is listed")?.tally;
            ensure!(tally.open_now >= 31 && tally.lost == 0, "{tgid}: {tally:?}");
        }
        for held in namespaces.into_iter().chain([early]) {
            held.close()?;
        }
        tracer.stop()?;
        Ok(())
    });
}
