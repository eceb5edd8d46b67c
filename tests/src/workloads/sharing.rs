//! Sockets that more than one process has to do with, and processes that end without closing.

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result, ensure};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

use super::pair::{Client, Connection, Server, run_pair};
use super::role::{Role, finish_all};
use super::sockets::{listener, stream, wait_for_end};
use super::{Plan, Workload, orderly};
use crate::truth::{CloseKind, ProcessTruth};

/// The workloads of this file.
pub const WORKLOADS: &[Workload] = &[
    Workload { name: "process-exit", about: "the client ends with all its sockets open", run: process_exit },
    Workload {
        name: "fork-child-first",
        about: "a child has the socket too and ends; then the parent closes",
        run: fork_child_first,
    },
    Workload {
        name: "fork-child-last",
        about: "the parent closes; then a child that has the socket too ends",
        run: fork_child_last,
    },
    Workload {
        name: "passed",
        about: "accepted by one process, closed by another one that got it as a message",
        run: passed,
    },
    Workload { name: "prefork", about: "one process listens, another one accepts and closes", run: prefork },
    Workload {
        name: "prefork-reset",
        about: "one process listens, another one accepts while the peer resets",
        run: prefork_reset,
    },
];

fn process_exit(plan: &Plan) -> Result<Vec<ProcessTruth>> {
    fn serve(server: &mut Server<'_>, index: u64) -> Result<()> {
        let connection = server.accept(index)?;
        server.ledger.keep(connection);
        if index + 1 == server.ledger.plan.count {
            for connection in server.ledger.take_kept() {
                server.ledger.close_second(connection)?;
            }
        }
        Ok(())
    }
    fn call(client: &mut Client<'_>, index: u64) -> Result<()> {
        let Connection { socket, end } = client.connect(index)?;
        client.ledger.truth.closed(end, CloseKind::ProcessExit);
        // Open until the process ends.
        mem::forget(socket);
        Ok(())
    }
    run_pair(plan, serve, call)
}

fn fork_child_first(plan: &Plan) -> Result<Vec<ProcessTruth>> {
    fn call(client: &mut Client<'_>, index: u64) -> Result<()> {
        let connection = client.connect(index)?;
        Role::start("child", None, |_| Ok(()))?.finish()?;
        client.ledger.close_first(connection)
    }
    run_pair(plan, orderly::close_second, call)
}

fn fork_child_last(plan: &Plan) -> Result<Vec<ProcessTruth>> {
    fn call(client: &mut Client<'_>, index: u64) -> Result<()> {
        let Connection { socket, end } = client.connect(index)?;
        let (mut told, mut tell) = UnixStream::pair().context("make a wire")?;
        let child =
            Role::start("child", None, |_| told.read_exact(&mut [0]).context("wait for the parent's close"))?;
        drop(socket);
        client.ledger.truth.closed(end, CloseKind::ProcessExit);
        tell.write_all(&[1]).context("tell the child")?;
        child.finish()?;
        Ok(())
    }
    run_pair(plan, orderly::close_second, call)
}

fn passed(plan: &Plan) -> Result<Vec<ProcessTruth>> {
    let (server_wire, client_wire) = UnixStream::pair().context("make a wire")?;
    let (sender, receiver) = UnixStream::pair().context("make a wire")?;
    let acceptor = Role::start("acceptor", plan.server_cpu, |truth| {
        let mut server = Server::open(plan, truth, server_wire)?;
        for index in 0..plan.count {
            let Connection { socket, end } = server.accept_silently(index)?;
            send_socket(&sender, &socket)?;
            drop(socket);
            server.ledger.truth.closed(end, CloseKind::Remote);
            server.step()?;
        }
        Ok(())
    })?;
    let closer = Role::start("receiver", None, |_| {
        for _ in 0..plan.count {
            wait_for_end(&receive_socket(&receiver)?)?;
        }
        Ok(())
    })?;
    let client = Role::start("client", plan.client_cpu, |truth| {
        let mut client = Client::open(plan, truth, client_wire)?;
        (0..plan.count).try_for_each(|index| orderly::call_and_close_first(&mut client, index))
    })?;
    finish_all([acceptor, closer, client])
}

fn prefork(plan: &Plan) -> Result<Vec<ProcessTruth>> {
    accept_elsewhere(plan, orderly::close_second, orderly::call_and_close_first)
}

fn prefork_reset(plan: &Plan) -> Result<Vec<ProcessTruth>> {
    fn serve(server: &mut Server<'_>, index: u64) -> Result<()> {
        let connection = server.accept_silently(index)?;
        server.ledger.await_abort(connection)?;
        server.step()
    }
    fn call(client: &mut Client<'_>, index: u64) -> Result<()> {
        let socket = stream(client.ledger.plan.family, client.ledger.plan.mptcp)?;
        client.reset_at_once(index, socket)
    }
    accept_elsewhere(plan, serve, call)
}

/// This process listens, and does nothing else; another one accepts.
fn accept_elsewhere(
    plan: &Plan,
    serve: fn(&mut Server<'_>, u64) -> Result<()>,
    call: fn(&mut Client<'_>, u64) -> Result<()>,
) -> Result<Vec<ProcessTruth>> {
    let (server_wire, client_wire) = UnixStream::pair().context("make a wire")?;
    let (socket, address) = listener(plan.family, plan.mptcp)?;
    let worker = Role::start("worker", plan.server_cpu, |truth| {
        let mut server = Server::with_listeners(plan, truth, server_wire, vec![(socket, address.port())])?;
        (0..plan.count).try_for_each(|index| serve(&mut server, index))
    })?;
    let client = Role::start("client", plan.client_cpu, |truth| {
        let mut client = Client::open(plan, truth, client_wire)?;
        (0..plan.count).try_for_each(|index| call(&mut client, index))
    })?;
    finish_all([worker, client])
}

fn send_socket(wire: &UnixStream, socket: &OwnedFd) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let sockets = [socket.as_fd()];
    ensure!(control.push(SendAncillaryMessage::ScmRights(&sockets)), "no space for one socket");
    sendmsg(wire, &[IoSlice::new(&[1])], &mut control, SendFlags::empty()).context("pass a socket")?;
    Ok(())
}

fn receive_socket(wire: &UnixStream) -> Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(wire, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)
        .context("get a socket")?;
    control
        .drain()
        .find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
            _ => None,
        })
        .context("a message without a socket")
}
