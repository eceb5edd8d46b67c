//! Connections that end with a RST, or because nothing comes any more.

use anyhow::{Context, Result, bail};
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::sockopt::set_tcp_user_timeout;

use super::pair::{Client, Server, run_pair};
use super::sockets::{Incoming, let_in, read_some, send_byte, wait_for};
use super::{Plan, Workload};
use crate::truth::{CloseKind, ProcessTruth};

/// The workloads of this file.
pub const WORKLOADS: &[Workload] = &[
    Workload {
        name: "unread-data",
        about: "the server closes with data unread, which sends a RST",
        run: unread_data,
    },
    Workload {
        name: "linger-zero",
        about: "the client closes with linger 0, which sends a RST",
        run: linger_zero,
    },
    Workload {
        name: "silence",
        about: "the server's side falls silent until the client gives up",
        run: silence,
    },
];

fn unread_data(plan: &Plan) -> Result<Vec<ProcessTruth>> {
    fn serve(server: &mut Server<'_>, index: u64) -> Result<()> {
        let connection = server.accept(index)?;
        wait_for(&connection.socket, PollFlags::IN)?;
        server.ledger.end(connection, CloseKind::ResetLocal);
        Ok(())
    }
    fn call(client: &mut Client<'_>, index: u64) -> Result<()> {
        let connection = client.connect(index)?;
        send_byte(&connection.socket)?;
        client.ledger.await_abort(connection)
    }
    run_pair(plan, serve, call)
}

fn linger_zero(plan: &Plan) -> Result<Vec<ProcessTruth>> {
    fn serve(server: &mut Server<'_>, index: u64) -> Result<()> {
        let connection = server.accept(index)?;
        server.ledger.await_abort(connection)
    }
    fn call(client: &mut Client<'_>, index: u64) -> Result<()> {
        let connection = client.connect(index)?;
        client.ledger.abort(connection)
    }
    run_pair(plan, serve, call)
}

/// Milliseconds that data may stay unacknowledged.
const USER_TIMEOUT_MS: u32 = 200;

fn silence(plan: &Plan) -> Result<Vec<ProcessTruth>> {
    fn serve(server: &mut Server<'_>, index: u64) -> Result<()> {
        let connection = server.accept_silently(index)?;
        let_in(&connection.socket, Incoming::Nothing)?;
        server.step()?;
        server.await_step()?;
        server.ledger.abort(connection)
    }
    fn call(client: &mut Client<'_>, index: u64) -> Result<()> {
        let connection = client.connect(index)?;
        set_tcp_user_timeout(&connection.socket, USER_TIMEOUT_MS).context("TCP_USER_TIMEOUT")?;
        send_byte(&connection.socket)?;
        match read_some(&connection.socket)? {
            Err(Errno::TIMEDOUT) => client.ledger.end(connection, CloseKind::TimedOut),
            other => bail!("a timeout was to come, not {other:?}"),
        }
        client.step()
    }
    run_pair(plan, serve, call)
}
