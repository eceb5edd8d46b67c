//! Failures and those who held the ports, by hand-written samples.

use portchurn_common::flow::{Address, ChurnKey, Role};
use portchurn_common::stack::At;
use portchurn_common::tcp::FailKind;

use super::Exhaustions;
use crate::model::budget::Exhaustion;
use crate::model::culprit::Rules;
use crate::model::names::Names;
use crate::model::ports::Ports;
use crate::model::rates::Rates;
use crate::model::sample::{Counts, Frame, Process, ProcessId, Sample, SiteCount, Stack};
use crate::model::sockets::{Holder, NamespaceReading, PoolReading, SocketReading, TupleReading};
use crate::model::stacks::Stacks;

const S: u64 = 1_000_000_000;
const SERVER: Address = Address::from_v4([10, 0, 0, 2]);
const HOG: ProcessId = ProcessId { tgid: 9, start_ns: 9 };

fn failing(at_s: u64, tgid: u32, kind: FailKind, count: u64) -> Sample {
    let key = ChurnKey {
        tgid,
        start_ns: u64::from(tgid),
        netns: 5,
        remote: SERVER,
        port: 3306,
        role: Role::Connect as u8,
        ..ChurnKey::default()
    };
    let mut counts = Counts { attempts: count, failed: count, ..Counts::ZERO };
    counts.failed_by[kind as usize] = count;
    Sample { at_ns: at_s * S, churn: vec![(key, counts)], ..Sample::default() }
}

fn read(at_s: u64, held: u32) -> Sample {
    let holders = vec![Holder { process: Some(HOG), time_wait: held, live: 0 }];
    let tuple =
        TupleReading { remote: SERVER, port: 3306, time_wait: held, holders, ..TupleReading::default() };
    let namespace = NamespaceReading { netns: 5, tuples: vec![tuple], ..NamespaceReading::default() };
    let reading = SocketReading {
        began_ns: at_s * S,
        at_ns: at_s * S,
        namespaces: vec![namespace],
        ..SocketReading::default()
    };
    let hog = Process { id: HOG, comm: "hog".into(), ..Process::default() };
    Sample { at_ns: at_s * S, sockets: Some(reading), processes: vec![hog], ..Sample::default() }
}

fn play(samples: &[Sample]) -> Exhaustions {
    let (mut events, mut ports, mut rates, mut names) =
        (Exhaustions::default(), Ports::default(), Rates::default(), Names::default());
    for sample in samples {
        names.apply(sample);
        rates.apply(sample, S, 1.0);
        ports.apply(sample, &rates, S);
        events.apply(sample, &ports, &names);
    }
    events
}

fn shown(events: &Exhaustions, attached_ns: u64) -> Vec<Exhaustion> {
    events.snapshot(attached_ns, &Stacks::default(), None)
}

#[test]
fn an_event_names_who_failed_and_who_held_the_ports_then() {
    let kind = FailKind::Eaddrnotavail;
    let events = play(&[read(1, 90), failing(2, 7, kind, 3), failing(3, 8, kind, 5), read(4, 100)]);
    let list = shown(&events, S);
    assert_eq!(list.len(), 1);
    let event = &list[0];
    assert_eq!((event.count, event.errno, event.ongoing), (8, "EADDRNOTAVAIL", true));
    assert_eq!((event.first_s, event.last_s), (1.0, 2.0));
    assert_eq!(event.failed.iter().map(|by| (by.tgid, by.count)).collect::<Vec<_>>(), [(8, 5), (7, 3)]);
    assert_eq!((event.holders[0].program.as_deref(), event.holders[0].ports), (Some("hog"), 100));
}

#[test]
fn once_it_is_over_the_holders_stay_those_of_that_moment() {
    let kind = FailKind::Eaddrnotavail;
    let events = play(&[read(1, 90), failing(2, 7, kind, 3), read(30, 1)]);
    let event = &shown(&events, 0)[0];
    assert_eq!((event.ongoing, event.holders[0].ports, event.holders_read_ago_s), (false, 90, Some(1.0)));
}

#[test]
fn where_nobody_looked_in_time_the_first_list_after_it_tells_the_holders_as_long_as_a_port_waits() {
    let kind = FailKind::Eaddrnotavail;
    for (read_s, ports) in [(30, Some(80)), (61, Some(80)), (62, None)] {
        let events = play(&[failing(2, 7, kind, 3), read(read_s, 80), read(read_s + 1, 70)]);
        let event = &shown(&events, 0)[0];
        assert_eq!(event.holders.first().map(|holder| holder.ports), ports, "read at {read_s} s");
        let ago_s = ports.map(|_| 2.0 - read_s as f64);
        assert_eq!(event.holders_read_ago_s, ago_s, "read at {read_s} s");
    }
}

#[test]
fn the_holders_of_one_time_are_not_those_of_the_next() {
    let kind = FailKind::Eaddrnotavail;
    let mut elsewhere = read(900, 5);
    elsewhere.sockets.as_mut().unwrap().namespaces[0].tuples[0].port = 80;
    let again = |later: &[Sample]| {
        let samples = [read(1, 90), failing(2, 7, kind, 3), elsewhere.clone(), failing(1000, 7, kind, 1)];
        shown(&play(&[&samples[..], later].concat()), 0)[0].clone()
    };
    assert!(again(&[]).holders.is_empty(), "the latest list shows nobody");
    let event = again(&[read(1007, 40)]);
    assert_eq!((event.holders[0].ports, event.holders_read_ago_s), (40, Some(-7.0)));
}

#[test]
fn other_failures_are_not_exhaustion() {
    let no_port = [FailKind::Eaddrnotavail, FailKind::Eaddrinuse];
    for kind in FailKind::ALL.into_iter().filter(|kind| !no_port.contains(kind)) {
        assert!(shown(&play(&[read(1, 90), failing(2, 7, kind, 3)]), 0).is_empty(), "{}", kind.name());
    }
}

#[test]
fn holders_that_were_never_read_are_not_known() {
    let event = &shown(&play(&[failing(2, 7, FailKind::Eaddrnotavail, 1)]), 0)[0];
    assert!(event.holders.is_empty() && event.holders_read_ago_s.is_none());
}

#[test]
fn a_bind_that_finds_no_port_has_no_destination_and_the_holders_of_the_fullest_pool() {
    let mut bind = failing(2, 7, FailKind::Eaddrinuse, 3);
    (bind.churn[0].0.remote, bind.churn[0].0.port) = (Address::UNSPECIFIED, 0);
    let mut first = read(1, 90);
    let holders = vec![Holder { process: Some(HOG), time_wait: 4, live: 3 }];
    let pools = &mut first.sockets.as_mut().unwrap().namespaces[0].pools;
    *pools = vec![
        PoolReading { used: 2, ..PoolReading::default() },
        PoolReading { used: 7, holders, ..PoolReading::default() },
    ];
    let event = &shown(&play(&[first, bind]), 0)[0];
    assert_eq!(
        (event.errno, event.count, event.remote_address, event.remote_port),
        ("EADDRINUSE", 3, None, None)
    );
    assert_eq!((event.holders[0].tgid, event.holders[0].ports), (Some(9), 7));
}

#[test]
fn who_failed_is_named_with_the_lines_and_what_has_none_is_counted_too() {
    let mut failed = failing(2, 7, FailKind::Eaddrnotavail, 9);
    let site = |at, stack, count| SiteCount { key: failed.churn[0].0, at, stack, count, counted: true };
    failed.sites = vec![
        site(At::NoPort, 101, 5),
        site(At::NoPort, 103, 3),
        site(At::Open, 101, 50),
        site(At::Close, 103, 7),
    ];
    let mut stacks = Stacks::default();
    for (id, function) in [(101, "load"), (103, "save")] {
        let frames = vec![Frame::python(function, "/app/sync.py", 41)];
        stacks.add(&Stack { id, frames: frames.into(), note: None });
    }
    let rules = Rules::default();
    let events = play(&[read(1, 90), failed.clone()]).snapshot(0, &stacks, Some(&rules));
    let sites = events[0].failed[0].call_sites.as_ref().unwrap();
    let seen: Vec<_> = sites
        .iter()
        .map(|site| (site.at, site.count, site.culprit.as_ref().map(|place| &*place.function)))
        .collect();
    assert_eq!(seen, [("no_port", 5, Some("load")), ("no_port", 3, Some("save")), ("no_port", 1, None)]);
    let off = play(&[read(1, 90), failed]).snapshot(0, &stacks, None);
    assert!(off[0].failed[0].call_sites.is_none(), "without call sites there are none");
}

#[test]
fn of_one_process_few_lines_are_kept_and_the_sum_stays() {
    let mut failed = failing(2, 7, FailKind::Eaddrnotavail, 300);
    let key = failed.churn[0].0;
    let of = |stack| SiteCount { key, at: At::NoPort, stack, count: 1, counted: true };
    failed.sites = (100..400).map(of).collect();
    let events = play(&[failed]).snapshot(0, &Stacks::default(), Some(&Rules::default()));
    let sites = events[0].failed[0].call_sites.as_ref().unwrap();
    assert_eq!(sites.iter().map(|site| site.count).sum::<u64>(), 300);
}
