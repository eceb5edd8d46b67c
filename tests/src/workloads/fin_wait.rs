//! Connections that our side closes first, and that go from FIN_WAIT2 to CLOSE without a TIME_WAIT: to the states they look
//! like any other.

use anyhow::{Context, Result, ensure};
use rustix::net::{Shutdown, shutdown};

use super::orderly::{call_and_close_first, close_second};
use super::pair::{Client, Server, run_pair};
use super::sockets::{await_state, never_wait_in_fin_wait2, state};
use super::{Plan, Workload, netns};
use crate::truth::{CloseKind, End, ProcessTruth};

/// The workloads of this file.
pub const WORKLOADS: &[Workload] = &[
    Workload {
        name: "impatient",
        about: "the client closes first and won't wait for the server's FIN (TCP_LINGER2)",
        run: impatient,
    },
    Workload {
        name: "no-room",
        about: "the client closes first, but TIME_WAIT sockets are too many",
        run: no_room,
    },
];

fn impatient(plan: &Plan) -> Result<Vec<ProcessTruth>> {
    fn serve(server: &mut Server<'_>, index: u64) -> Result<()> {
        let connection = server.accept(index)?;
        // The client's FIN comes at once; what is waited for is that it has closed, too.
        server.await_step()?;
        await_state(&connection.socket, state::CLOSE)?;
        server.ledger.end(connection, CloseKind::ResetRemote);
        Ok(())
    }
    fn call(client: &mut Client<'_>, index: u64) -> Result<()> {
        let connection = client.connect(index)?;
        never_wait_in_fin_wait2(&connection.socket)?;
        shutdown(&connection.socket, Shutdown::Write).context("shutdown")?;
        await_state(&connection.socket, state::FIN_WAIT2)?;
        client.ledger.end_without_time_wait(connection, CloseKind::Local);
        client.step()
    }
    run_pair(plan, serve, call)
}

/// How many TIME_WAIT sockets there may be.
const ROOM: u64 = 11;

fn no_room(plan: &Plan) -> Result<Vec<ProcessTruth>> {
    ensure!(plan.own_netns, "no-room needs --netns own");
    netns::set("net/ipv4/tcp_max_tw_buckets", &ROOM.to_string())?;
    let mut truths = run_pair(plan, close_second, call_and_close_first)?;
    let client = truths.iter_mut().find(|truth| truth.role == "client").context("a role is missing")?;
    let connects = client.ends.iter_mut().filter(|(end, _)| matches!(end, End::Connect(..)));
    // More than one would have to share the room, and the kernel does not tell which had it.
    let [(_, counts)] = &mut connects.collect::<Vec<_>>()[..] else {
        anyhow::bail!("no-room takes one port")
    };
    counts.without_time_wait = counts.time_wait_by_kind().saturating_sub(ROOM);
    Ok(truths)
}
