//! Connections that stay open until somebody says otherwise.

use std::io::{Read, Write, stdin, stdout};
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result};

use super::pair::{Client, Server};
use super::role::{Role, finish_all};
use super::{Plan, Workload};
use crate::truth::ProcessTruth;

/// The workloads of this file.
pub const WORKLOADS: &[Workload] = &[Workload {
    name: "hold",
    about: "prints 'open CLIENT SERVER' when all are open, and closes after a line on stdin",
    run: hold,
}];

fn hold(plan: &Plan) -> Result<Vec<ProcessTruth>> {
    let (server_wire, client_wire) = UnixStream::pair().context("make a wire")?;
    let (mut gate, mut client_gate) = UnixStream::pair().context("make a wire")?;
    let server = Role::start("server", plan.server_cpu, |truth| {
        let mut server = Server::open(plan, truth, server_wire)?;
        for index in 0..plan.count {
            let connection = server.accept(index)?;
            server.ledger.keep(connection);
        }
        for connection in server.ledger.take_kept() {
            server.ledger.close_second(connection)?;
        }
        Ok(())
    })?;
    let client = Role::start("client", plan.client_cpu, |truth| {
        let mut client = Client::open(plan, truth, client_wire)?;
        for index in 0..plan.count {
            let connection = client.connect(index)?;
            client.ledger.keep(connection);
        }
        client_gate.write_all(&[1]).context("tell that all are open")?;
        client_gate.read_exact(&mut [0]).context("wait for the word")?;
        for connection in client.ledger.take_kept() {
            client.ledger.close_first(connection)?;
        }
        Ok(())
    })?;
    gate.read_exact(&mut [0]).context("wait until all are open")?;
    writeln!(stdout(), "open {} {}", client.pid(), server.pid()).context("tell that all are open")?;
    stdin().read_line(&mut String::new()).context("wait for a line")?;
    gate.write_all(&[1]).context("give the word")?;
    let mut truths = finish_all([server, client])?;
    if plan.is_early {
        for (_, counts) in truths.iter_mut().flat_map(|truth| &mut truth.ends) {
            counts.before_attach = counts.opened + counts.accepted;
            (counts.opened, counts.accepted) = (0, 0);
        }
    }
    Ok(truths)
}
