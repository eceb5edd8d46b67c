//! A window that is taken in by pieces is the same window.

use portchurn_common::flow::{Address, ChurnKey, Role};

use crate::model::sample::{Counts, OwnCost, Process, ProcessId, Sample};
use crate::model::snapshot::Snapshot;
use crate::model::{Context, Model};

const S: u64 = 1_000_000_000;
/// Processes that come and go in each second.
const EACH: u32 = 250;

/// One second of a host that starts a process for each connection; the one before has ended them.
fn second(number: u32) -> Sample {
    let tgids = number * EACH + 1..=(number + 1) * EACH;
    let id = |tgid: u32| ProcessId { tgid, start_ns: 1 };
    let process = |tgid| Process {
        id: id(tgid),
        comm: "curl".to_owned(),
        exe: Some("/usr/bin/curl".to_owned()),
        argv: vec!["curl".to_owned()],
        ..Process::default()
    };
    let key = |tgid| ChurnKey {
        tgid,
        start_ns: 1,
        remote: Address::from_v4([10, 0, 0, 1]),
        port: 3306,
        role: Role::Connect as u8,
        ..ChurnKey::default()
    };
    let mut counts = Counts { attempts: 1, opened: 1, time_wait: 1, ..Counts::ZERO };
    counts.closed[0] = 1;
    Sample {
        at_ns: u64::from(number + 1) * S,
        processes: tgids.clone().map(process).collect(),
        exits: tgids.clone().map(id).collect(),
        churn: tgids.map(|tgid| (key(tgid), counts)).collect(),
        own_cost: OwnCost { cpu_ratio: Some(f64::from(number)), ..OwnCost::default() },
        ..Sample::default()
    }
}

fn totals(snapshot: &Snapshot) -> (u64, u64, f64, f64) {
    let tally = &snapshot.totals.tally;
    (tally.opened, tally.closed, tally.opened_per_s, snapshot.window_s)
}

#[test]
fn a_long_window_in_pieces_counts_each_process_once_and_by_its_name() {
    const SECONDS: u32 = 60;
    let mut model = Model::new(Context::default());
    (0..SECONDS - 1).for_each(|number| model.carry_on(&second(number)));
    model.apply(&second(SECONDS - 1));
    let snapshot = model.snapshot();
    let all = u64::from(SECONDS * EACH);
    assert_eq!(totals(&snapshot), (all, all, f64::from(EACH), f64::from(SECONDS)));
    let [program] = &snapshot.programs[..] else { panic!("{:?}", snapshot.programs) };
    assert_eq!((program.program.as_str(), program.process_count, program.exited_count), ("curl", all, all));
    assert!(snapshot.processes.len() < 2000, "those who have gone are kept as their program");
    assert_eq!(snapshot.own_cost.cpu_ratio.map(f64::round), Some(f64::from(SECONDS / 2)), "over the window");
}

#[test]
fn after_a_window_the_next_one_begins_with_the_next_sample() {
    let mut model = Model::new(Context::default());
    model.carry_on(&second(0));
    model.apply(&second(1));
    model.carry_on(&second(2));
    let in_between = model.snapshot();
    assert_eq!(totals(&in_between), (3 * u64::from(EACH), 3 * u64::from(EACH), f64::from(EACH), 1.0));
    assert_eq!(in_between.own_cost.cpu_ratio, Some(2.0));
    model.apply(&Sample { at_ns: 5 * S, ..Sample::default() });
    let (opened, _, per_s, window_s) = totals(&model.snapshot());
    assert_eq!((opened, window_s), (3 * u64::from(EACH), 3.0));
    assert!((per_s - f64::from(EACH) / 3.0).abs() < 1e-9, "{per_s}");
    model.apply(&second(5));
    assert_eq!(totals(&model.snapshot()).3, 1.0);
}

#[test]
fn what_pieces_tell_is_what_one_sample_tells() {
    let (mut whole, mut pieces) = (Model::new(Context::default()), Model::new(Context::default()));
    let mut sum = second(0);
    pieces.carry_on(&sum);
    for number in 1..4 {
        let one = second(number);
        if number < 3 {
            pieces.carry_on(&one);
        } else {
            pieces.apply(&one);
        }
        sum.at_ns = one.at_ns;
        sum.processes.extend(one.processes);
        sum.exits.extend(one.exits);
        sum.churn.extend(one.churn);
    }
    whole.apply(&sum);
    let told = |model: &Model| {
        let snapshot = model.snapshot();
        (totals(&snapshot), format!("{:?}", snapshot.programs))
    };
    assert_eq!(told(&whole), told(&pieces));
}
