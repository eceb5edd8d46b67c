//! Connects that fail, that are not waited for, and sockets that connect again.

use std::io::{Write as _, stdin, stdout};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;

use anyhow::{Context, Result, bail, ensure};
use rustix::io::Errno;
use rustix::net::{bind, connect_unspec, sockopt::set_socket_reuseaddr};

use super::pair::{Client, Connection, Ledger, Server, connect_to_self, connect_to_self_with, run_pair};
use super::role::{Role, finish_all};
use super::sockets::{
    Incoming, begin_connect, bind_any, connect_to, end_connect, expect_state, let_in, listener,
    set_syn_retries, state, stream,
};
use super::{Plan, Workload, netns, orderly};
use crate::truth::{CloseKind, End, ProcessTruth};

/// The workloads of this file.
pub const WORKLOADS: &[Workload] = &[
    Workload { name: "refused", about: "nobody listens", run: refused },
    Workload { name: "timed-out", about: "connects into a black hole, all at once", run: timed_out },
    Workload { name: "abandoned", about: "connects into a black hole, closed at once", run: abandoned },
    Workload {
        name: "no-port-left",
        about: "as many as there are ports, then 7 more (--netns own)",
        run: no_port_left,
    },
    Workload {
        name: "bind-first",
        about: "as many binds to any port as there are ports, then 7 more (--netns own)",
        run: bind_first,
    },
    Workload {
        name: "bind-and-hold",
        about: "the same, but connected; prints 'open CLIENT SERVER' when no port is left, and closes after a line on stdin",
        run: bind_and_hold,
    },
    Workload { name: "port-taken", about: "bound to a port whose four-tuple is taken", run: port_taken },
    Workload { name: "nonblocking", about: "connects that are polled for", run: nonblocking },
    Workload { name: "nonblocking-refused", about: "the same, and nobody listens", run: nonblocking_refused },
    Workload { name: "reconnect", about: "each socket is refused first, then accepted", run: reconnect },
    Workload {
        name: "disconnect",
        about: "each socket is disconnected by connect(AF_UNSPEC), then used again",
        run: disconnect,
    },
];

fn solo(plan: &Plan, body: impl FnOnce(&mut ProcessTruth) -> Result<()>) -> Result<Vec<ProcessTruth>> {
    finish_all([Role::start("client", plan.client_cpu, body)?])
}

/// An address where nobody listens, and the socket that sees to it that nobody will.
fn nobody(plan: &Plan) -> Result<(OwnedFd, SocketAddr)> {
    let holder = stream(plan.family, false)?;
    let address = bind_any(&holder, plan.family)?;
    Ok((holder, address))
}

/// An address where whatever arrives vanishes.
fn black_hole(plan: &Plan) -> Result<(OwnedFd, SocketAddr)> {
    let (hole, address) = listener(plan.family, false)?;
    let_in(&hole, Incoming::Nothing)?;
    Ok((hole, address))
}

fn expect_failure(
    truth: &mut ProcessTruth,
    target: SocketAddr,
    outcome: rustix::io::Result<()>,
    expected: Errno,
) -> Result<()> {
    match outcome {
        Err(errno) if errno == expected => {
            truth.failed(End::connect(target), name(errno)?);
            Ok(())
        }
        other => bail!("the connect was to fail with {expected}, not {other:?}"),
    }
}

fn name(errno: Errno) -> Result<&'static str> {
    Ok(match errno {
        Errno::ADDRNOTAVAIL => "EADDRNOTAVAIL",
        Errno::CONNREFUSED => "ECONNREFUSED",
        Errno::TIMEDOUT => "ETIMEDOUT",
        other => bail!("{other} has no name here"),
    })
}

fn refused(plan: &Plan) -> Result<Vec<ProcessTruth>> {
    solo(plan, |truth| {
        let (_holder, target) = nobody(plan)?;
        for _ in 0..plan.count {
            let socket = stream(plan.family, plan.mptcp)?;
            expect_failure(truth, target, connect_to(&socket, target), Errno::CONNREFUSED)?;
        }
        Ok(())
    })
}

fn nonblocking_refused(plan: &Plan) -> Result<Vec<ProcessTruth>> {
    solo(plan, |truth| {
        let (_holder, target) = nobody(plan)?;
        for _ in 0..plan.count {
            let socket = stream(plan.family, plan.mptcp)?;
            begin_connect(&socket, target)?;
            expect_failure(truth, target, end_connect(&socket)?, Errno::CONNREFUSED)?;
        }
        Ok(())
    })
}

fn timed_out(plan: &Plan) -> Result<Vec<ProcessTruth>> {
    solo(plan, |truth| {
        let (_hole, target) = black_hole(plan)?;
        let sockets = (0..plan.count).map(|_| begin(plan, target)).collect::<Result<Vec<_>>>()?;
        for socket in sockets {
            expect_failure(truth, target, end_connect(&socket)?, Errno::TIMEDOUT)?;
        }
        Ok(())
    })
}

/// A connect that is given up after one SYN was sent again: 3 s.
fn begin(plan: &Plan, target: SocketAddr) -> Result<OwnedFd> {
    let socket = stream(plan.family, false)?;
    set_syn_retries(&socket, 1)?;
    begin_connect(&socket, target)?;
    Ok(socket)
}

fn abandoned(plan: &Plan) -> Result<Vec<ProcessTruth>> {
    solo(plan, |truth| {
        let (_hole, target) = black_hole(plan)?;
        for _ in 0..plan.count {
            let socket = begin(plan, target)?;
            expect_state(&socket, state::SYN_SENT)?;
            drop(socket);
            truth.failed(End::connect(target), "aborted");
        }
        Ok(())
    })
}

/// Connects that are one too many.
const TOO_MANY: u64 = 7;

fn no_port_left(plan: &Plan) -> Result<Vec<ProcessTruth>> {
    ensure!(plan.own_netns, "no-port-left needs --netns own");
    // Of a range of odd length the kernel searches all but one, and which one is chance (__inet_hash_connect).
    ensure!(plan.count.is_multiple_of(2), "no-port-left needs an even --count");
    solo(plan, |truth| {
        // The server's port is taken before the range shrinks to what the clients will use up.
        let (listener, target) = listener(plan.family, plan.mptcp)?;
        netns::set("net/ipv4/tcp_tw_reuse", "0")?;
        netns::set("net/ipv4/ip_local_port_range", &format!("20000 {}", 20000 + plan.count - 1))?;
        for _ in 0..plan.count {
            let (near, far) = connect_to_self(plan, truth, &listener, target)?;
            let mut ledger = Ledger::new(plan, truth);
            ledger.close_first(near)?;
            ledger.close_second(far)?;
        }
        for _ in 0..TOO_MANY {
            let socket = stream(plan.family, plan.mptcp)?;
            expect_failure(truth, target, connect_to(&socket, target), Errno::ADDRNOTAVAIL)?;
        }
        Ok(())
    })
}

/// A port that is bound before the connect is gone for every destination at once.
fn bind_first(plan: &Plan) -> Result<Vec<ProcessTruth>> {
    ensure!(plan.own_netns, "bind-first needs --netns own");
    solo(plan, |truth| {
        netns::set("net/ipv4/ip_local_port_range", &format!("20000 {}", 20000 + plan.count - 1))?;
        let mut bound = Vec::new();
        for _ in 0..plan.count {
            let socket = stream(plan.family, false)?;
            bind_any(&socket, plan.family)?;
            bound.push(socket);
        }
        for _ in 0..TOO_MANY {
            binds_in_vain(plan, truth)?;
        }
        // A certain port that is taken says nothing about how many are left.
        let socket = stream(plan.family, false)?;
        let certain = bind(&socket, &SocketAddr::new(plan.family.loopback(), 20000));
        ensure!(certain == Err(Errno::ADDRINUSE), "port 20000 was to be taken, not {certain:?}");
        Ok(())
    })
}

/// One process at both ends, whose connections hold all ports while it asks for more.
fn bind_and_hold(plan: &Plan) -> Result<Vec<ProcessTruth>> {
    ensure!(plan.own_netns, "bind-and-hold needs --netns own");
    solo(plan, |truth| {
        let (listener, target) = listener(plan.family, false)?;
        netns::set("net/ipv4/ip_local_port_range", &format!("20000 {}", 20000 + plan.count - 1))?;
        let mut held = Vec::new();
        for _ in 0..plan.count {
            let socket = stream(plan.family, false)?;
            bind_any(&socket, plan.family)?;
            held.push(connect_to_self_with(truth, socket, &listener, target)?);
        }
        for _ in 0..TOO_MANY {
            binds_in_vain(plan, truth)?;
        }
        let own = std::process::id();
        writeln!(stdout(), "open {own} {own}").context("tell that all are open")?;
        stdin().read_line(&mut String::new()).context("wait for a line")?;
        let mut ledger = Ledger::new(plan, truth);
        for (near, far) in held {
            ledger.close_first(near)?;
            ledger.close_second(far)?;
        }
        Ok(())
    })
}

/// A bind to any port that finds none. Where it was to lead it does not say.
fn binds_in_vain(plan: &Plan, truth: &mut ProcessTruth) -> Result<()> {
    let socket = stream(plan.family, false)?;
    let any_port = bind(&socket, &SocketAddr::new(plan.family.loopback(), 0));
    ensure!(any_port == Err(Errno::ADDRINUSE), "the bind was to fail, not {any_port:?}");
    truth.failed(End::Connect(Ipv4Addr::UNSPECIFIED.into(), 0), "EADDRINUSE");
    Ok(())
}

fn port_taken(plan: &Plan) -> Result<Vec<ProcessTruth>> {
    solo(plan, |truth| {
        let (listener, target) = listener(plan.family, false)?;
        for _ in 0..plan.count {
            let first = shared_port(plan)?;
            let source = bind_any(&first, plan.family)?;
            let (near, far) = connect_to_self_with(truth, first, &listener, target)?;
            let second = shared_port(plan)?;
            bind(&second, &source).context("bind to a port in use")?;
            let outcome = connect_to(&second, target);
            ensure!(outcome == Err(Errno::ADDRNOTAVAIL), "the connect was to fail, not {outcome:?}");
            // The errno of an exhaustion, and none: every other port is free.
            truth.failed(End::connect(target), "tuple_taken");
            let mut ledger = Ledger::new(plan, truth);
            ledger.close_first(near)?;
            ledger.close_second(far)?;
        }
        Ok(())
    })
}

/// A socket that may be bound where another one is.
fn shared_port(plan: &Plan) -> Result<OwnedFd> {
    let socket = stream(plan.family, false)?;
    set_socket_reuseaddr(&socket, true).context("SO_REUSEADDR")?;
    Ok(socket)
}

fn nonblocking(plan: &Plan) -> Result<Vec<ProcessTruth>> {
    fn call(client: &mut Client<'_>, index: u64) -> Result<()> {
        let plan = client.ledger.plan;
        let socket = stream(plan.family, plan.mptcp)?;
        begin_connect(&socket, client.target(index))?;
        end_connect(&socket)?.context("connect")?;
        let connection = client.opened(index, socket)?;
        client.ledger.close_first(connection)
    }
    run_pair(plan, orderly::close_second, call)
}

fn reconnect(plan: &Plan) -> Result<Vec<ProcessTruth>> {
    let (_holder, nowhere) = nobody(plan)?;
    run_pair(plan, orderly::close_second, |client, index| {
        let socket = stream(plan.family, plan.mptcp)?;
        expect_failure(client.ledger.truth, nowhere, connect_to(&socket, nowhere), Errno::CONNREFUSED)?;
        let connection = client.connect_with(index, socket)?;
        client.ledger.close_first(connection)
    })
}

fn disconnect(plan: &Plan) -> Result<Vec<ProcessTruth>> {
    fn serve(server: &mut Server<'_>, index: u64) -> Result<()> {
        let connection = server.accept(index)?;
        server.ledger.await_abort(connection)?;
        orderly::close_second(server, index)
    }
    fn call(client: &mut Client<'_>, index: u64) -> Result<()> {
        let Connection { socket, end } = client.connect(index)?;
        connect_unspec(&socket).context("disconnect")?;
        client.ledger.truth.closed(end, CloseKind::ResetLocal);
        let connection = client.connect_with(index, socket)?;
        client.ledger.close_first(connection)
    }
    run_pair(plan, serve, call)
}
