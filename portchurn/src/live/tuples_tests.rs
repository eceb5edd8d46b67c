//! A mini-socket is an end's if the four-tuple and the time are.

use std::net::IpAddr;

use portchurn_common::flow::{Address, Role};
use portchurn_common::record::{FlowEvent, FlowRecord, RecordKind};
use portchurn_common::tcp::{CloseKind, TcpState};
use rustix::time::ClockId;

use super::Tuples;
use crate::sources::clock::now_ns;
use crate::sources::sock_diag::Socket;

const NETNS: u32 = 4_026_531_840;

fn address(text: &str) -> Address {
    Address::from(text.parse::<IpAddr>().unwrap())
}

/// Ended this long ago.
fn record(ago_s: u64) -> FlowRecord {
    FlowRecord {
        kind: RecordKind::Flow as u32,
        tgid: 42,
        start_ns: 9,
        at_ns: now_ns(ClockId::Monotonic).saturating_sub(ago_s * 1_000_000_000),
        duration_ns: 0,
        cookie: 0,
        local: address("10.0.0.1"),
        remote: address("10.0.0.2"),
        local_port: 40_000,
        remote_port: 3306,
        netns: NETNS,
        closer_tgid: 43,
        event: FlowEvent::Close as u8,
        role: Role::Connect as u8,
        detail: CloseKind::Local as u8,
        flags: FlowRecord::TIME_WAIT | FlowRecord::BOUND,
    }
}

/// What is left of it, with so much of its minute to go.
fn waiting(rest_s: u32) -> Socket {
    Socket {
        cookie: 0,
        state: TcpState::TimeWait,
        local: address("10.0.0.1"),
        remote: address("10.0.0.2"),
        local_port: 40_000,
        remote_port: 3306,
        inode: 0,
        uid: 0,
        expires_ms: Some(rest_s * 1000),
    }
}

fn after(records: &[FlowRecord], is_narrow: bool) -> Tuples {
    let mut ends = records.to_vec();
    let mut tuples = Tuples::new(Box::new(move || std::mem::take(&mut ends)), is_narrow);
    assert_eq!(tuples.take().len(), records.len());
    tuples
}

#[test]
fn an_end_says_whose_it_was_and_how_it_came() {
    let accepted = FlowRecord { role: Role::Accept as u8, closer_tgid: 42, flags: 0, ..record(0) };
    let mut tuples = Tuples::new(Box::new(move || vec![record(0), accepted]), false);
    let [connect, accept] = tuples.take().try_into().ok().unwrap();
    assert_eq!(connect.id, tuples.id_of(NETNS, &waiting(60)));
    assert_eq!(
        (connect.owner.key.tgid, connect.owner.key.remote, connect.owner.key.port),
        (42, address("10.0.0.2"), 3306)
    );
    assert_eq!((connect.owner.closed, connect.owner.closed_by_other), (Some(CloseKind::Local), true));
    assert!(connect.owner.bound);
    assert_eq!((accept.owner.key.remote, accept.owner.key.port), (Address::UNSPECIFIED, 40_000));
    assert!(!accept.owner.closed_by_other && !accept.owner.bound);
}

#[test]
fn each_part_of_the_four_tuple_and_the_namespace_matter() {
    let tuples = after(&[record(0)], false);
    let id = tuples.id_of(NETNS, &waiting(60));
    let others = [
        tuples.id_of(NETNS + 1, &waiting(60)),
        tuples.id_of(NETNS, &Socket { local_port: 40_001, ..waiting(60) }),
        tuples.id_of(NETNS, &Socket { remote: address("10.0.0.3"), ..waiting(60) }),
        tuples.id_of(NETNS, &Socket { local: waiting(60).remote, remote: waiting(60).local, ..waiting(60) }),
    ];
    assert!(!others.contains(&id));
    assert!(others.iter().all(|&other| !tuples.may_be(other, &waiting(60))));
}

#[test]
fn it_is_as_old_as_the_end_that_left_it() {
    for is_narrow in [false, true] {
        let tuples = after(&[record(20)], is_narrow);
        let id = tuples.id_of(NETNS, &waiting(40));
        assert!(tuples.may_be(id, &waiting(40)));
        assert!(!tuples.may_be(id, &waiting(30)), "one from before");
        // The peer's FIN came late, or with a filter: somebody else had the port since.
        assert_eq!(tuples.may_be(id, &waiting(55)), !is_narrow);
    }
}

#[test]
fn the_last_end_counts_and_what_is_not_in_use_is_forgotten() {
    let mut tuples = after(&[record(50), record(5)], true);
    let id = tuples.id_of(NETNS, &waiting(55));
    assert!(tuples.may_be(id, &waiting(55)) && !tuples.may_be(id, &waiting(10)));
    tuples.retain(|_| false);
    assert!(!tuples.may_be(id, &waiting(55)));
}
