//! Processes that live for one connection, and the server that they go to. These run in this process, not in a role of
//! it, as it is the process that counts here.

use std::io::{Write, stdout};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::event::{PollFd, PollFlags, poll};

use super::pair::{Connection, Ledger};
use super::role::{Role, finish_all, last};
use super::sockets::{accept_one, connect_to, listener, read_some, send_byte, stream};
use super::{Plan, Workload};
use crate::truth::{End, ProcessTruth};

/// The workloads of this file.
pub const WORKLOADS: &[Workload] = &[
    Workload { name: "once", about: "one connection to the server on --port", run: once },
    Workload { name: "serve", about: "prints 'listening PORT' and serves --count connections", run: serve },
    Workload {
        name: "soak",
        about: "for --seconds or --processes, a new process every 10 connections",
        run: soak,
    },
];

/// Connects, waits until the server has accepted, closes first.
fn call(plan: &Plan, truth: &mut ProcessTruth, target: SocketAddr) -> Result<()> {
    let socket = stream(plan.family, plan.mptcp)?;
    connect_to(&socket, target).context("connect")?;
    let connection = Connection { socket, end: End::connect(target) };
    truth.opened(connection.end);
    ensure!(matches!(read_some(&connection.socket)?, Ok(1)), "the server did not greet");
    Ledger::new(plan, truth).close_first(connection)
}

/// Accepts, tells the client so, closes second.
fn greet(plan: &Plan, truth: &mut ProcessTruth, listener: &OwnedFd, port: u16) -> Result<()> {
    let connection = Connection { socket: accept_one(listener)?, end: End::Accept(port) };
    truth.accepted(connection.end);
    send_byte(&connection.socket)?;
    Ledger::new(plan, truth).close_second(connection)
}

fn once(plan: &Plan) -> Result<Vec<ProcessTruth>> {
    let port = plan.port.context("once needs --port")?;
    let mut truth = ProcessTruth::new("client");
    call(plan, &mut truth, SocketAddr::new(plan.family.loopback(), port))?;
    Ok(vec![truth])
}

fn serve(plan: &Plan) -> Result<Vec<ProcessTruth>> {
    let mut truth = ProcessTruth::new("server");
    let (listener, address) = listener(plan.family, plan.mptcp)?;
    writeln!(stdout(), "listening {}", address.port()).context("tell the port")?;
    for _ in 0..plan.count {
        greet(plan, &mut truth, &listener, address.port())?;
    }
    Ok(vec![truth])
}

/// Connections per process.
const LIFE: u64 = 10;

fn soak(plan: &Plan) -> Result<Vec<ProcessTruth>> {
    let (listener, target) = listener(plan.family, plan.mptcp)?;
    let (stop, stopper) = std::io::pipe().context("make a pipe")?;
    let server = Role::start("server", None, |truth| {
        last(plan.seconds);
        loop {
            let mut polled = [PollFd::new(&listener, PollFlags::IN), PollFd::new(&stop, PollFlags::IN)];
            rustix::io::retry_on_intr(|| poll(&mut polled, None)).context("poll")?;
            if !polled[1].revents().is_empty() {
                return Ok(());
            }
            greet(plan, truth, &listener, target.port())?;
        }
    })?;
    drop(listener);
    // All clients in one: there are too many to name.
    let mut clients = ProcessTruth { role: "clients".to_owned(), ..ProcessTruth::default() };
    let end = Instant::now() + Duration::from_secs(plan.seconds);
    for _ in (0..plan.processes).take_while(|_| Instant::now() < end) {
        let client =
            Role::start("client", None, |truth| (0..LIFE).try_for_each(|_| call(plan, truth, target)))?;
        for (end, counts) in client.finish()?.ends {
            clients.at(end).add(&counts);
        }
    }
    (&stopper).write_all(&[1]).context("stop the server")?;
    let mut truths = finish_all([server])?;
    truths.push(clients);
    Ok(truths)
}
