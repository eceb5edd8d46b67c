//! The language by example: what matches, what is refused and where the caret stands, and that no text breaks it. Here:
//! the row and the events that the examples are about.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use portchurn_common::flow::{Address, Role as FlowRole};
use portchurn_common::record::{FlowEvent, FlowRecord, RecordKind};

use super::Filter;
use crate::model::event::TraceEvent;
use crate::model::row::Row;
use crate::model::sample::{Process, ProcessId};
use crate::model::snapshot::{ClosedBy, Destination, Program, Quantiles, Role, Tally};

mod events;
mod mistakes;
mod rows;
mod survival;

const CONTAINER: &str = "4d5b0e8a0c8f4a33b6f1d2ce0a9e7b6c5d4e3f2a1b0c9d8e7f6a5b4c3d2e1f00";

fn destination(address: &str, port: u16) -> Destination {
    Destination {
        role: Role::Connect,
        netns: 4_026_531_840,
        remote_address: Some(address.parse().unwrap()),
        remote_port: Some(port),
        local_port: None,
        tally: Tally::default(),
        closed_by: ClosedBy::default(),
        reset_by: None,
        port_pressure_ratio: None,
        time_wait_entered: 0,
        failed_by: BTreeMap::new(),
        lifetime_us: None,
        connect_us: None,
        connect_histogram_us: Vec::new(),
        call_sites: None,
    }
}

fn quantiles(p50: u64) -> Option<Quantiles> {
    Some(Quantiles { p50, ..Quantiles::default() })
}

/// A worker that churns connections to a database, keeps some to a web server, and serves a port.
fn worker() -> Program {
    let database = Destination {
        closed_by: ClosedBy { local: 900, remote: 3, ..ClosedBy::default() },
        failed_by: BTreeMap::from([("EADDRNOTAVAIL", 4), ("ECONNREFUSED", 0)]),
        lifetime_us: quantiles(1_200),
        connect_us: quantiles(300),
        ..destination("10.0.0.2", 3306)
    };
    let web = Destination {
        closed_by: ClosedBy { remote: 3, ..ClosedBy::default() },
        lifetime_us: quantiles(60_000_000),
        ..destination("2001:db8::7", 443)
    };
    let serving = Destination {
        role: Role::Accept,
        remote_address: None,
        remote_port: None,
        local_port: Some(8080),
        closed_by: ClosedBy { simultaneous: 2, ..ClosedBy::default() },
        ..destination("0.0.0.0", 0)
    };
    Program {
        program: "python3".to_owned(),
        exe: Some("/usr/bin/python3.11".to_owned()),
        script: Some("/srv/worker.py".to_owned()),
        unit: Some("sync@7.service".to_owned()),
        container: Some(CONTAINER.to_owned()),
        parent_program: Some("cron".to_owned()),
        argv: ["python3", "/srv/worker.py", "--all", "a b"].map(str::to_owned).to_vec(),
        process_count: 3,
        exited_count: 1,
        tally: Tally {
            failed: 4,
            open_now: 12,
            opened_per_s: 812.5,
            closed_per_s: 800.0,
            ..Tally::default()
        },
        destinations: vec![database, web, serving],
    }
}

fn filter(text: &str) -> Filter {
    Filter::parse(text).unwrap_or_else(|error| panic!("{error}"))
}

fn check_rows(cases: &[(&str, bool)]) {
    let program = worker();
    let row = Row::of_program(&program);
    for (text, expected) in cases {
        assert_eq!(filter(text).matches(&row), *expected, "{text}");
    }
}

fn process() -> Arc<Process> {
    Arc::new(Process {
        id: ProcessId { tgid: 42, start_ns: 9 },
        comm: "python3".to_owned(),
        exe: Some("/usr/bin/python3.11".to_owned()),
        argv: vec!["python3".to_owned(), "worker.py".to_owned()],
        unit: Some("sync.service".to_owned()),
        parent_comm: Some("cron".to_owned()),
        ..Process::default()
    })
}

fn record(event: FlowEvent, detail: u8) -> FlowRecord {
    FlowRecord {
        kind: RecordKind::Flow as u32,
        tgid: 42,
        start_ns: 9,
        at_ns: 1_000,
        duration_ns: 5_000_900,
        cookie: 77,
        local: Address::from("10.0.0.9".parse::<IpAddr>().unwrap()),
        remote: Address::from("10.0.0.2".parse::<IpAddr>().unwrap()),
        local_port: 40_000,
        remote_port: 3306,
        netns: 4_026_531_840,
        closer_tgid: 42,
        event: event as u8,
        role: FlowRole::Connect as u8,
        detail,
        flags: FlowRecord::OWNER_CERTAIN,
    }
}

fn event(event: FlowEvent, detail: u8) -> TraceEvent {
    TraceEvent::new(&record(event, detail), process(), "python3 worker.py".into()).unwrap()
}
