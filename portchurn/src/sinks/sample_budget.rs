//! TIME_WAIT and ports of the common snapshot.

use std::net::IpAddr;

use crate::model::budget::{
    BudgetKind, ClosedFirstBy, PortBudget, PortHolder, TimeWait, TimeWaitDestination, TimeWaitOwner,
};
use crate::model::snapshot::Role;

fn server() -> IpAddr {
    "10.0.0.2".parse().unwrap()
}

fn destination(count: u64) -> TimeWaitDestination {
    TimeWaitDestination {
        role: Role::Connect,
        netns: 4_026_531_840,
        remote_address: Some(server()),
        remote_port: Some(3306),
        local_port: None,
        count,
        processes: 1,
        closed_first_by: ClosedFirstBy { local: count, ..ClosedFirstBy::default() },
        ages: vec![count / 12; 13],
        call_sites: None,
    }
}

fn owner(tgid: Option<u32>, program: &str, count: u64) -> TimeWaitOwner {
    TimeWaitOwner {
        ownership: if tgid.is_some() { "owned" } else { "before_attach" },
        tgid,
        program: tgid.map(|_| program.to_owned()),
        exited: tgid.map(|_| false),
        count,
        destinations: vec![destination(count)],
    }
}

pub(super) fn time_wait() -> TimeWait {
    TimeWait {
        total: 14_402,
        owned: 14_400,
        before_attach: 2,
        unowned: 0,
        unowned_by: [("filtered", 0), ("no_cookie", 0), ("not_followed", 0)].into(),
        coverage_ratio: Some(14_400.0 / 14_402.0),
        read_ago_s: 0.4,
        read_cpu_ms: 11.4,
        complete: true,
        incomplete_because: Vec::new(),
        repeated: 0,
        ages: vec![1_108; 13],
        age_step_s: 5,
        owners: vec![
            owner(Some(2000), "python3 worker.py", 10_000),
            owner(Some(2001), "python3 worker.py", 4_000),
            owner(Some(2003), "\u{1b}[31mevil\n\u{202e}gpj", 400),
            owner(None, "", 2),
        ],
    }
}

pub(super) fn ports() -> Vec<PortBudget> {
    let near = PortBudget {
        kind: BudgetKind::Connect,
        netns: 4_026_531_840,
        source_address: Some("10.0.0.1".parse().unwrap()),
        remote_address: Some(server()),
        remote_port: Some(3306),
        limit: Some(28_232),
        used: 14_412,
        time_wait: 14_402,
        established: 10,
        other: 0,
        pressure_ratio: Some(14_412.0 / 28_232.0),
        alarm: true,
        opened_per_s: Some(2318.0),
        reuse: false,
        reuse_because: "tcp_tw_reuse=2 is for loopback only".to_owned(),
        seconds_to_wall: Some(0.0),
        seconds_to_exhaustion: Some(5.96),
        assumption: "as in the last seconds: 2318.0 opens/s".to_owned(),
        failed: Some(0),
        failures_seen: "exact",
        holders: vec![PortHolder {
            tgid: Some(2000),
            program: Some("python3 worker.py".to_owned()),
            ports: 14_412,
            time_wait: 14_402,
            live: 10,
        }],
    };
    let far = PortBudget {
        remote_port: Some(6379),
        used: 30,
        time_wait: 29,
        established: 1,
        pressure_ratio: Some(30.0 / 28_232.0),
        alarm: false,
        opened_per_s: Some(0.3),
        seconds_to_wall: None,
        seconds_to_exhaustion: None,
        ..near.clone()
    };
    vec![near, far]
}
