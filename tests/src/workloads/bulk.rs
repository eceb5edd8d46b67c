//! Connections as fast as the processors can.

use anyhow::Result;

use super::pair::{Ledger, connect_to_self, run_pair, start_pair};
use super::role::{Role, finish_all};
use super::sockets::listener;
use super::{Plan, Workload, orderly};
use crate::truth::ProcessTruth;

/// The workloads of this file.
pub const WORKLOADS: &[Workload] = &[
    Workload { name: "bulk", about: "a client and a server; the client closes first", run: bulk },
    Workload {
        name: "bulk-server-first",
        about: "a client and a server; the server closes first",
        run: server_first,
    },
    Workload { name: "bulk-one", about: "one process does both sides", run: one_process },
    Workload {
        name: "bulk-two-pairs",
        about: "two clients and two servers, each pair on a processor of its own",
        run: two_pairs,
    },
];

fn bulk(plan: &Plan) -> Result<Vec<ProcessTruth>> {
    run_pair(plan, orderly::close_second, orderly::call_and_close_first)
}

fn server_first(plan: &Plan) -> Result<Vec<ProcessTruth>> {
    run_pair(plan, orderly::close_first, orderly::call_and_close_second)
}

fn one_process(plan: &Plan) -> Result<Vec<ProcessTruth>> {
    let both = Role::start("both", plan.client_cpu, |truth| {
        let listeners =
            (0..plan.ports).map(|_| listener(plan.family, plan.mptcp)).collect::<Result<Vec<_>>>()?;
        for index in 0..plan.count {
            let (listener, target) = &listeners[index as usize % listeners.len()];
            let (near, far) = connect_to_self(plan, truth, listener, *target)?;
            let mut ledger = Ledger::new(plan, truth);
            ledger.close_first(near)?;
            ledger.close_second(far)?;
        }
        Ok(())
    })?;
    finish_all([both])
}

fn two_pairs(plan: &Plan) -> Result<Vec<ProcessTruth>> {
    let mut roles = Vec::new();
    for cpu in [0, 1] {
        roles.extend(start_pair(
            plan,
            Some(cpu),
            Some(cpu),
            orderly::close_second,
            orderly::call_and_close_first,
        )?);
    }
    finish_all(roles)
}
