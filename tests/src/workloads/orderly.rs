//! Connections that end with a FIN from each side.

use anyhow::Result;

use super::pair::{Client, Server, run_pair};
use super::{Plan, Workload};
use crate::truth::ProcessTruth;

/// The workloads of this file.
pub const WORKLOADS: &[Workload] = &[
    Workload { name: "active-close", about: "the client closes first", run: active_close },
    Workload { name: "passive-close", about: "the server closes first", run: passive_close },
];

fn active_close(plan: &Plan) -> Result<Vec<ProcessTruth>> {
    run_pair(plan, close_second, call_and_close_first)
}

fn passive_close(plan: &Plan) -> Result<Vec<ProcessTruth>> {
    run_pair(plan, close_first, call_and_close_second)
}

/// The server's part when the client closes first.
pub(super) fn close_second(server: &mut Server<'_>, index: u64) -> Result<()> {
    let connection = server.accept(index)?;
    server.ledger.close_second(connection)
}

/// The client's part when it closes first.
pub(super) fn call_and_close_first(client: &mut Client<'_>, index: u64) -> Result<()> {
    let connection = client.connect(index)?;
    client.ledger.close_first(connection)
}

/// The server's part when it closes first.
pub(super) fn close_first(server: &mut Server<'_>, index: u64) -> Result<()> {
    let connection = server.accept(index)?;
    server.ledger.close_first(connection)
}

/// The client's part when the server closes first.
pub(super) fn call_and_close_second(client: &mut Client<'_>, index: u64) -> Result<()> {
    let connection = client.connect(index)?;
    client.ledger.close_second(connection)
}
