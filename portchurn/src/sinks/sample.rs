//! One snapshot that every output is tested on: a busy program, a failing one that has ended, one that accepts, one
//! with a hostile name, one with a wide one. Its numbers keep the conservation that the model guarantees.

use std::collections::BTreeMap;

use crate::model::snapshot::{
    Bucket, ClosedBy, Destination, HookState, Lost, OwnCost, ProcessStats, Program, Quantiles, ResetBy, Role,
    SCHEMA_VERSION, Snapshot, Tally, Totals,
};

#[path = "sample_budget.rs"]
mod budget;
#[path = "sample_sites.rs"]
mod sites;

/// The common snapshot, with call sites.
pub(crate) fn sample_with_sites() -> Snapshot {
    let mut snapshot = sample_snapshot();
    sites::add(&mut snapshot);
    snapshot
}

/// The common snapshot, with TIME_WAIT and the call sites that hold it.
pub(crate) fn sample_with_held() -> Snapshot {
    let mut snapshot = sample_with_ports();
    sites::add(&mut snapshot);
    snapshot
}

/// The common snapshot, with TIME_WAIT and ports.
pub(crate) fn sample_with_ports() -> Snapshot {
    Snapshot { time_wait: Some(budget::time_wait()), ports: Some(budget::ports()), ..sample_snapshot() }
}

/// The common snapshot.
pub(crate) fn sample_snapshot() -> Snapshot {
    let programs = vec![worker(), curl(), nginx(), hostile(), wide()];
    let processes = processes(&programs);
    let tallies: Vec<_> = programs.iter().map(|program| program.tally).collect();
    Snapshot {
        schema_version: SCHEMA_VERSION,
        kernel: "6.18.5".to_owned(),
        window_s: 1.0,
        cumulative_s: 72.4,
        hooks: hooks(),
        totals: Totals { tally: sum(&tallies), connecting_now: 3 },
        programs,
        processes,
        time_wait: None,
        ports: None,
        is_narrow: false,
        exhaustion: Vec::new(),
        lost: Lost { total: 0, by_reason: [("keys_full", Some(0)), ("connections_full", Some(0))].into() },
        own_cost: OwnCost {
            cpu_ratio: Some(0.004),
            rss_bytes: Some(12_900_000),
            map_bytes: Some(4 << 20),
            bpf_ns_per_event: Some(310.4),
            bpf_cpu_ratio: Some(0.012),
            stacks_named: 0,
            naming_p99_us: None,
            naming_max_us: None,
            stack_effort: None,
        },
    }
}

fn hooks() -> Vec<HookState> {
    let attached = |name, required| HookState {
        name,
        attached: "tp_btf",
        required,
        reason: None,
        skips_counted: Some(true),
    };
    let accept = HookState {
        name: "inet_csk_accept",
        attached: "none",
        required: false,
        reason: Some("fexit: EPERM; no kprobes".to_owned()),
        skips_counted: None,
    };
    vec![
        attached("inet_sock_set_state", true),
        attached("sched_process_exec", false),
        attached("sched_process_exit", false),
        accept,
    ]
}

fn sum(tallies: &[Tally]) -> Tally {
    tallies.iter().fold(Tally::default(), |sum, one| Tally {
        opened: sum.opened + one.opened,
        accepted: sum.accepted + one.accepted,
        closed: sum.closed + one.closed,
        failed: sum.failed + one.failed,
        open_now: sum.open_now + one.open_now,
        before_attach: sum.before_attach + one.before_attach,
        lost: sum.lost + one.lost,
        opened_per_s: sum.opened_per_s + one.opened_per_s,
        accepted_per_s: sum.accepted_per_s + one.accepted_per_s,
        closed_per_s: sum.closed_per_s + one.closed_per_s,
        failed_per_s: sum.failed_per_s + one.failed_per_s,
    })
}

/// `opened = closed + open_now`.
fn connects(opened: u64, open_now: u64, per_s: f64) -> Tally {
    let closed = opened - open_now;
    Tally { opened, closed, open_now, opened_per_s: per_s, closed_per_s: per_s, ..Tally::default() }
}

fn quantiles(p50: u64) -> Option<Quantiles> {
    Some(Quantiles { p50, p95: p50 * 2, p99: p50 * 4, max: p50 * 9 })
}

fn destination(address: &str, port: u16, tally: Tally) -> Destination {
    Destination {
        role: Role::Connect,
        netns: 4_026_531_840,
        remote_address: Some(address.parse().unwrap()),
        remote_port: Some(port),
        local_port: None,
        tally,
        closed_by: ClosedBy { local: tally.closed, ..ClosedBy::default() },
        reset_by: Some(ResetBy::default()),
        port_pressure_ratio: None,
        time_wait_entered: tally.closed,
        failed_by: BTreeMap::new(),
        lifetime_us: None,
        connect_us: None,
        connect_histogram_us: Vec::new(),
        call_sites: None,
    }
}

fn program(name: &str, argv: &[&str], destinations: Vec<Destination>) -> Program {
    let tallies: Vec<_> = destinations.iter().map(|destination| destination.tally).collect();
    Program {
        program: name.to_owned(),
        exe: Some(format!("/usr/bin/{name}")),
        script: None,
        unit: None,
        container: None,
        parent_program: Some("systemd".to_owned()),
        argv: argv.iter().map(|&argument| argument.to_owned()).collect(),
        process_count: 1,
        exited_count: 0,
        tally: sum(&tallies),
        destinations,
    }
}

fn worker() -> Program {
    let database = Destination {
        port_pressure_ratio: Some(14_412.0 / 28_232.0),
        closed_by: ClosedBy { local: 14_002, remote: 381, reset: 7, process_exit: 2, simultaneous: 0 },
        reset_by: Some(ResetBy { local: 0, remote: 6, timed_out: 1 }),
        time_wait_entered: 14_000,
        lifetime_us: quantiles(4_100),
        connect_us: quantiles(850),
        connect_histogram_us: [(510, 6_000), (1022, 8_100), (4094, 302)]
            .map(|(le, count)| Bucket { le, count })
            .to_vec(),
        ..destination("10.0.0.2", 3306, connects(14_402, 10, 2318.0))
    };
    let cache = Destination {
        lifetime_us: quantiles(31_000_000),
        ..destination("2001:db8::6379", 6379, connects(30, 1, 0.3))
    };
    Program {
        script: Some("/srv/app/worker.py".to_owned()),
        unit: Some("app-worker.service".to_owned()),
        process_count: 2,
        ..program("python3", &["python3", "/srv/app/worker.py", "--db", "10.0.0.2"], vec![database, cache])
    }
}

fn curl() -> Program {
    let tally = Tally { failed: 1_040, failed_per_s: 105.0, ..Tally::default() };
    let refused = Destination {
        failed_by: [("EADDRNOTAVAIL", 1_000), ("ECONNREFUSED", 40)].into(),
        ..destination("10.0.0.2", 3306, tally)
    };
    Program {
        process_count: 1_040,
        exited_count: 1_040,
        parent_program: Some("bash".to_owned()),
        ..program("curl", &["curl", "http://10.0.0.2:3306/"], vec![refused])
    }
}

fn nginx() -> Program {
    let tally = Tally {
        accepted: 1_230,
        closed: 1_201,
        open_now: 29,
        accepted_per_s: 41.0,
        closed_per_s: 38.0,
        ..Tally::default()
    };
    let listening = Destination {
        role: Role::Accept,
        remote_address: None,
        remote_port: None,
        local_port: Some(8080),
        closed_by: ClosedBy { remote: 1_201, ..ClosedBy::default() },
        time_wait_entered: 0,
        lifetime_us: quantiles(120_000),
        ..destination("0.0.0.0", 0, tally)
    };
    Program {
        container: Some("4f2a9c".to_owned()),
        ..program("nginx", &["nginx: worker process"], vec![listening])
    }
}

fn hostile() -> Program {
    let name = "\u{1b}[31mevil\n\u{202e}gpj";
    let one =
        Destination { lifetime_us: quantiles(10), ..destination("198.51.100.7", 443, connects(5, 2, 0.4)) };
    Program {
        exe: None,
        unit: Some("odd,\"name\".service".to_owned()),
        ..program(name, &[name, "\u{9b}2J", "--x\ty"], vec![one])
    }
}

fn wide() -> Program {
    let one = Destination {
        lifetime_us: quantiles(700),
        ..destination("192.168.100.200", 50_051, connects(1, 0, 0.0))
    };
    program("工作者", &["工作者"], vec![one])
}

/// A process for each program; two for the first, which share its connections.
fn processes(programs: &[Program]) -> Vec<ProcessStats> {
    let mut processes: Vec<_> =
        programs.iter().zip(2000..).map(|(program, tgid)| process(program, tgid)).collect();
    let (database, cache) = (programs[0].destinations[0].clone(), programs[0].destinations[1].clone());
    let second =
        ProcessStats { tally: cache.tally, destinations: vec![cache], ..process(&programs[0], 2100) };
    processes[0].tally = database.tally;
    processes[0].destinations = vec![database];
    processes.insert(1, second);
    processes
}

fn process(program: &Program, tgid: u32) -> ProcessStats {
    ProcessStats {
        tgid,
        start_ns: u64::from(tgid) * 1_000_000,
        comm: program.program.chars().take(15).collect(),
        exe: program.exe.clone(),
        argv: program.argv.clone(),
        ppid: Some(1),
        parent_comm: program.parent_program.clone(),
        cgroup: Some("/system.slice".to_owned()),
        unit: program.unit.clone(),
        container: program.container.clone(),
        exited: program.exited_count == program.process_count,
        tally: program.tally,
        destinations: program.destinations.clone(),
    }
}
