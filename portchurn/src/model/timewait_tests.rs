//! The ledger of TIME_WAIT by hand-written samples: what the kernel listed, and what happened since.

use portchurn_common::flow::{Address, ChurnKey, Role};

use super::Ledger;
use crate::model::budget::TimeWait;
use crate::model::names::Names;
use crate::model::rates::Rates;
use crate::model::sample::{Counts, Process, ProcessId, Sample};
use crate::model::sockets::{
    AGE_STEPS, NamespaceReading, Ownership, SocketReading, Sysctls, TimeWaitGroup, Unowned, Unread,
};
use crate::model::stacks::Stacks;

const S: u64 = 1_000_000_000;
const SERVER: Address = Address::from_v4([10, 0, 0, 2]);

fn key(tgid: u32) -> ChurnKey {
    ChurnKey {
        tgid,
        start_ns: u64::from(tgid),
        netns: 5,
        remote: SERVER,
        port: 3306,
        role: Role::Connect as u8,
        ..ChurnKey::default()
    }
}

fn group(ownership: Ownership, tgid: u32, count: u32, step: usize) -> TimeWaitGroup {
    let mut ages = [0; AGE_STEPS];
    ages[step] = count;
    TimeWaitGroup {
        ownership,
        key: key(tgid),
        count,
        closed_local: count,
        closed_exit: 0,
        closed_both: 0,
        closed_by_other: 0,
        ages,
        sites: Vec::new(),
    }
}

fn reading(at_s: u64, groups: Vec<TimeWaitGroup>) -> SocketReading {
    let sysctls = Sysctls { port_low: 1, port_high: 1000, max_tw_buckets: 1000, ..Sysctls::default() };
    let namespace = NamespaceReading {
        netns: 5,
        sysctls: Some(sysctls),
        time_wait: groups,
        ..NamespaceReading::default()
    };
    SocketReading {
        began_ns: at_s * S,
        at_ns: at_s * S,
        namespaces: vec![namespace],
        ..SocketReading::default()
    }
}

fn entered(tgid: u32, count: u64) -> (ChurnKey, Counts) {
    (key(tgid), Counts { time_wait: count, opened: count, ..Counts::ZERO })
}

fn after(samples: Vec<Sample>) -> TimeWait {
    let (ledger, names) = applied(samples);
    ledger.snapshot(&names, &Stacks::default(), None).unwrap()
}

/// One sample per second, as the model would hand it on.
fn applied(samples: Vec<Sample>) -> (Ledger, Names) {
    let (mut ledger, rates, mut names) = (Ledger::default(), Rates::default(), Names::default());
    for sample in samples {
        names.apply(&sample);
        let share = if sample.sockets.is_some() { 0.0 } else { 1.0 };
        ledger.apply(&sample, &rates, &names, share);
    }
    (ledger, names)
}

fn sample(at_s: u64) -> Sample {
    Sample { at_ns: at_s * S, ..Sample::default() }
}

#[test]
fn coverage_is_what_is_proven_of_what_the_kernel_holds() {
    let groups = vec![
        group(Ownership::Owned, 7, 90, 0),
        group(Ownership::BeforeAttach, 0, 6, 0),
        group(Ownership::Unowned(Unowned::NotFollowed), 0, 4, 0),
    ];
    let process =
        Process { id: ProcessId { tgid: 7, start_ns: 7 }, comm: "app".into(), ..Process::default() };
    let first = Sample { sockets: Some(reading(1, groups)), processes: vec![process], ..sample(1) };
    let seen = after(vec![first, Sample { exits: vec![ProcessId { tgid: 7, start_ns: 7 }], ..sample(1) }]);
    assert_eq!((seen.total, seen.owned, seen.before_attach, seen.unowned), (100, 90, 6, 4));
    assert_eq!((seen.coverage_ratio, seen.unowned_by["not_followed"]), (Some(0.9), 4));
    let owner = &seen.owners[0];
    assert_eq!((owner.tgid, owner.program.as_deref(), owner.exited), (Some(7), Some("app"), Some(true)));
    assert_eq!((owner.destinations[0].count, owner.destinations[0].closed_first_by.local), (90, 90));
    assert_eq!(seen.owners[1].tgid, None, "nobody is named for what nobody is proven to own");
    assert!(seen.complete);
}

#[test]
fn nothing_is_said_before_the_first_reading_and_no_ratio_of_nothing() {
    let mut ledger = Ledger::default();
    ledger.apply(
        &Sample { churn: vec![entered(7, 5)], ..sample(1) },
        &Rates::default(),
        &Names::default(),
        1.0,
    );
    assert!(ledger.snapshot(&Names::default(), &Stacks::default(), None).is_none());
    let seen = after(vec![Sample { sockets: Some(reading(1, Vec::new())), ..sample(1) }]);
    assert_eq!((seen.total, seen.coverage_ratio), (0, None));
}

#[test]
fn between_readings_it_carries_on_and_the_next_one_corrects_it() {
    let first = Sample { sockets: Some(reading(1, vec![group(Ownership::Owned, 7, 100, 11)])), ..sample(1) };
    let later = Sample { churn: vec![entered(7, 30), entered(8, 20)], ..sample(3) };
    let seen = after(vec![first.clone(), later.clone()]);
    assert_eq!(
        seen.total, 130,
        "their timers are a second late, and a second later a fifth of five seconds' is gone"
    );
    assert_eq!(seen.owners[0].count, 110);
    let last = Sample { sockets: Some(reading(4, vec![group(Ownership::Owned, 8, 17, 0)])), ..sample(4) };
    let seen = after(vec![first, later, last]);
    assert_eq!((seen.total, seen.owners.len(), seen.owners[0].tgid), (17, 1, Some(8)));
}

#[test]
fn at_the_limit_the_kernel_makes_no_more() {
    let first = Sample { sockets: Some(reading(1, vec![group(Ownership::Owned, 7, 900, 0)])), ..sample(1) };
    let later = Sample { churn: vec![entered(7, 400), entered(8, 100)], ..sample(2) };
    assert_eq!(after(vec![first, later]).total, 1000);
}

fn expected(samples: Vec<Sample>) -> Vec<(u32, Option<u64>)> {
    let there = applied(samples).0.expected().unwrap().namespaces;
    there.into_iter().map(|there| (there.netns, there.count)).collect()
}

#[test]
fn the_sum_is_foretold_for_each_namespace_until_ends_find_no_room() {
    assert!(Ledger::default().expected().is_none());
    let first = Sample { sockets: Some(reading(1, vec![group(Ownership::Owned, 7, 900, 0)])), ..sample(1) };
    assert_eq!(expected(vec![first.clone()]), [(5, Some(900))]);
    let elsewhere = (ChurnKey { netns: 6, ..key(7) }, Counts { time_wait: 3, ..Counts::ZERO });
    let later = Sample { churn: vec![entered(7, 60), entered(8, 40), elsewhere], ..sample(2) };
    let known = [(5, Some(960)), (6, Some(0))];
    assert_eq!(expected(vec![first.clone(), later.clone()]), known, "8 is new, and so is what is elsewhere");
    let full = Sample { churn: vec![entered(7, 1)], ..sample(3) };
    assert_eq!(expected(vec![first, later, full]), [(5, None), (6, Some(0))], "whose got in is not known");
    let empty = Sample { sockets: Some(reading(1, Vec::new())), ..sample(1) };
    assert_eq!(expected(vec![empty]), [(5, Some(0))]);
}

#[test]
fn what_came_into_a_namespace_that_a_list_left_out_is_expected_on_the_next() {
    let mut elsewhere = entered(8, 37);
    elsewhere.0.netns = 6;
    // All of it was counted before the list, which does not have that namespace.
    let listed = Sample { sockets: Some(reading(1, Vec::new())), churn: vec![elsewhere], ..sample(1) };
    let (ledger, _) = applied(vec![listed.clone()]);
    let has_any: Vec<_> =
        ledger.expected().unwrap().namespaces.iter().map(|there| (there.netns, there.has_any)).collect();
    assert_eq!(has_any, [(5, false), (6, true)]);
    assert_eq!(after(vec![listed, sample(2)]).total, 37);
}

#[test]
fn while_timers_go_off_the_kernel_may_be_ahead_or_behind_by_a_lot_of_them() {
    // They are 50 to 55 seconds old, a second after the attach.
    let first = Sample { sockets: Some(reading(1, vec![group(Ownership::Owned, 7, 500, 10)])), ..sample(1) };
    let due_at = |at_s| applied(vec![first.clone(), sample(at_s)]).0.expected().unwrap().namespaces[0].due;
    assert_eq!((due_at(2), due_at(20)), (0, 0), "none is due yet, and all are gone");
    assert_eq!(due_at(10), 500, "any of them may be gone by now, or not");
    let late = Sample { sockets: Some(reading(1, vec![group(Ownership::Owned, 7, 500, 12)])), ..sample(1) };
    assert_eq!(
        applied(vec![late, sample(2)]).0.expected().unwrap().namespaces[0].due,
        500,
        "no more than there are"
    );
    let busy = Sample { churn: vec![entered(7, 1)], ..sample(10) };
    assert_eq!(applied(vec![first, busy]).0.expected().unwrap().namespaces[0].due, 0, "more come");
}

#[test]
fn a_list_that_is_not_whole_says_so() {
    let mut cut = reading(1, vec![group(Ownership::Owned, 7, 9, 0)]);
    cut.namespaces[0].truncated = true;
    cut.namespaces[0].interrupted = true;
    cut.namespaces[0].repeated = 3;
    cut.unread.push(Unread { netns: 6, reason: "enter it (needs CAP_SYS_ADMIN)".into() });
    let seen = after(vec![Sample { sockets: Some(cut), ..sample(1) }]);
    assert_eq!((seen.complete, seen.incomplete_because.len(), seen.repeated), (false, 3, 3));
    assert!(seen.incomplete_because[0].contains("CAP_SYS_ADMIN"));
}

#[test]
fn what_was_accepted_by_nobody_known_is_not_owned() {
    let first = Sample { sockets: Some(reading(1, Vec::new())), ..sample(1) };
    let nobody = (ChurnKey { tgid: 0, start_ns: 0, ..key(0) }, Counts { time_wait: 3, ..Counts::ZERO });
    let seen = after(vec![first, Sample { churn: vec![nobody], ..sample(2) }]);
    assert_eq!((seen.owned, seen.unowned), (0, 3));
}

/// One living process, and one ended process for each number from 1000 on, with a socket each.
fn turnover(ended: u32) -> TimeWait {
    let process = |tgid| Process {
        id: ProcessId { tgid, start_ns: tgid.into() },
        comm: "job".into(),
        ..Process::default()
    };
    let all = (1000..1000 + ended).chain([7]);
    let groups = all.clone().map(|tgid| group(Ownership::Owned, tgid, 1, 0)).collect();
    let exits = (1000..1000 + ended).map(|tgid| ProcessId { tgid, start_ns: tgid.into() });
    after(vec![
        Sample { processes: all.map(process).collect(), exits: exits.collect(), ..sample(1) },
        Sample { sockets: Some(reading(2, groups)), ..sample(2) },
    ])
}

#[test]
fn a_thousand_ended_processes_are_told_one_by_one() {
    let seen = turnover(1000);
    assert_eq!((seen.total, seen.owners.len()), (1001, 1001));
}

#[test]
fn more_ended_processes_become_one_owner_and_nothing_is_lost() {
    let seen = turnover(1001);
    assert_eq!((seen.total, seen.owned, seen.owners.len()), (1002, 1002, 2));
    let [ended, living] = &seen.owners[..] else { panic!("{:?}", seen.owners) };
    assert_eq!((ended.tgid, ended.program.as_deref(), ended.exited), (None, Some("job"), Some(true)));
    assert_eq!((ended.count, ended.destinations[0].processes), (1001, 1001));
    assert_eq!(ended.destinations[0].closed_first_by.local, 1001);
    assert_eq!((living.tgid, living.exited, living.count), (Some(7), Some(false), 1));
}

/// A server of which a peer with five hundred ports has every one in TIME_WAIT, so that each connection meets one.
#[test]
fn what_the_peers_syn_takes_over_goes_once_a_list_has_shown_it() {
    let served = |tgid| ChurnKey { role: Role::Accept as u8, port: 80, ..key(tgid) };
    let waiting = || TimeWaitGroup { key: served(7), ..group(Ownership::Owned, 7, 500, 0) };
    let hundred = |at_s| Sample {
        churn: vec![(served(7), Counts { accepted: 100, time_wait: 100, ..Counts::ZERO })],
        ..sample(at_s)
    };
    let first = Sample { sockets: Some(reading(1, vec![waiting()])), ..sample(1) };
    let mut samples = vec![first, hundred(2)];
    assert_eq!(after(samples.clone()).total, 600, "nobody could know");
    samples.push(Sample { sockets: Some(reading(3, vec![waiting()])), ..sample(3) });
    samples.extend((4..40).map(hundred));
    let seen = after(samples);
    assert_eq!((seen.total, seen.owners[0].count), (500, 500), "3,600 came, and as many went");
}
