//! The workloads: one file per family of them, one row per workload. Each makes a known number of connections in a
//! known way and tells what it did. A new one is a function and a row.

use std::error::Error;
use std::fmt;

use anyhow::{Context, Result};

use crate::truth::{ProcessTruth, Truth};

pub mod aborts;
pub mod bulk;
pub mod connects;
pub mod fin_wait;
pub mod hold;
pub mod netns;
pub mod orderly;
pub mod pair;
pub mod role;
pub mod sharing;
pub mod simultaneous;
pub mod sockets;
pub mod turnover;

pub use sockets::Family;

/// A workload.
#[derive(Debug)]
pub struct Workload {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it does, half a sentence.
    pub about: &'static str,
    run: fn(&Plan) -> Result<Vec<ProcessTruth>>,
}

/// Every workload.
pub fn all() -> impl Iterator<Item = &'static Workload> {
    [
        orderly::WORKLOADS,
        simultaneous::WORKLOADS,
        aborts::WORKLOADS,
        fin_wait::WORKLOADS,
        connects::WORKLOADS,
        sharing::WORKLOADS,
        bulk::WORKLOADS,
        turnover::WORKLOADS,
        hold::WORKLOADS,
    ]
    .into_iter()
    .flatten()
}

/// What is asked of a workload.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How often.
    pub count: u64,
    /// With which addresses.
    pub family: Family,
    /// MPTCP instead of TCP.
    pub mptcp: bool,
    /// How many listening ports to spread over.
    pub ports: usize,
    /// In a network namespace of its own.
    pub own_netns: bool,
    /// Speed matters: the state of the sockets is not checked.
    pub is_bulk: bool,
    /// The connections of `hold` are there before the tracer.
    pub is_early: bool,
    /// The processor that clients stay on.
    pub client_cpu: Option<usize>,
    /// The processor that servers stay on.
    pub server_cpu: Option<usize>,
    /// The port of a server that runs already.
    pub port: Option<u16>,
    /// How long `soak` goes on, at most.
    pub seconds: u64,
    /// How many clients `soak` starts, at most.
    pub processes: u64,
}

impl Workload {
    /// Does it.
    pub fn run(&self, plan: &Plan) -> Result<Truth> {
        if plan.own_netns {
            netns::enter_new()?;
            netns::set("net/ipv4/ip_local_port_range", "1024 65535")?;
            // A machine with little memory has room for two thousand, and drops what comes after.
            netns::set("net/ipv4/tcp_max_tw_buckets", "262144")?;
            // On a crowded machine a FIN is sent twice, and what the second one brings about ends a TIME_WAIT at once (RFC 1337).
            netns::set("net/ipv4/tcp_rfc1337", "1")?;
        }
        let processes = (self.run)(plan)?;
        Ok(Truth {
            workload: self.name.to_owned(),
            netns: netns::inode()?,
            own_netns: plan.own_netns,
            kernel: plan.own_netns.then(netns::counters).transpose().context("ask the kernel")?,
            processes,
        })
    }
}

/// This workload cannot run on this machine: no failure, but no proof either.
#[derive(Debug)]
pub struct Unavailable(String);

impl Unavailable {
    /// The exit code that says so, as in Automake's test driver.
    pub const EXIT_CODE: i32 = 77;
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Unavailable {}

fn unavailable(why: String) -> anyhow::Error {
    Unavailable(why).into()
}
