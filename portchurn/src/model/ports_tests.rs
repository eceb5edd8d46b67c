//! Budgets by hand-written samples: a whole churn of known rate is played through, second by second, as the kernel would
//! show it, and what is foretold is compared with what the arithmetic of the churn says.

use portchurn_common::flow::{Address, ChurnKey, Role};
use portchurn_common::tcp::{CloseKind, FailKind};

use super::{Ports, available};
use crate::model::budget::{BudgetKind, PortBudget};
use crate::model::names::Names;
use crate::model::pools::{BINDS_BY_NAMESPACE, BINDS_NOT_VISIBLE};
use crate::model::rates::Rates;
use crate::model::sample::{Counts, Sample};
use crate::model::sockets::{
    AGE_STEPS, NamespaceReading, PoolReading, PortCount, SocketReading, Sysctls, TupleReading,
};
use crate::model::{Context, Model};

const S: u64 = 1_000_000_000;
const CLIENT: Address = Address::from_v4([10, 0, 0, 1]);
const SERVER: Address = Address::from_v4([10, 0, 0, 2]);
const LOOPBACK: Address = Address::from_v4([127, 0, 0, 1]);

/// A churn: connects per second, each closed at once by us, and what the kernel does about it.
#[derive(Clone)]
struct Churn {
    per_s: u32,
    remote: Address,
    sysctls: Sysctls,
    /// Every so many seconds the tables are read.
    read_every_s: u64,
    /// Whether the kernel counts ports that were taken over.
    recycles: bool,
}

impl Churn {
    fn new(per_s: u32) -> Self {
        let sysctls = Sysctls {
            port_low: 40_000,
            port_high: 41_999,
            max_tw_buckets: 100_000,
            timestamps: 1,
            ..Sysctls::default()
        };
        Self { per_s, remote: SERVER, sysctls, read_every_s: 1, recycles: false }
    }

    fn with(self, tw_reuse: u8, timestamps: u8, remote: Address) -> Self {
        Self { remote, sysctls: Sysctls { tw_reuse, timestamps, ..self.sysctls.clone() }, ..self }
    }

    fn tuple(&self, at_s: u64) -> TupleReading {
        let mut ages = [0; AGE_STEPS];
        for age_s in 0..at_s.min(60) {
            ages[(age_s / 5) as usize] += self.per_s;
        }
        let time_wait: u32 = ages.iter().sum();
        let first_half = time_wait.min(1000);
        TupleReading {
            source: CLIENT,
            remote: self.remote,
            port: 3306,
            time_wait,
            first_half,
            ages,
            ..TupleReading::default()
        }
    }

    fn sample(&self, at_s: u64) -> Sample {
        let key = ChurnKey {
            tgid: 7,
            netns: 5,
            remote: self.remote,
            port: 3306,
            role: Role::Connect as u8,
            ..ChurnKey::default()
        };
        let count = u64::from(self.per_s);
        let mut counts = Counts { attempts: count, opened: count, time_wait: count, ..Counts::ZERO };
        counts.closed[CloseKind::Local as usize] = count;
        let recycled = if self.recycles { Some(at_s) } else { self.sysctls.recycled };
        let namespace = NamespaceReading {
            netns: 5,
            sysctls: Some(Sysctls { recycled, ..self.sysctls.clone() }),
            tuples: vec![self.tuple(at_s)],
            ..NamespaceReading::default()
        };
        let reading = SocketReading {
            began_ns: at_s * S,
            at_ns: at_s * S,
            namespaces: vec![namespace],
            ..SocketReading::default()
        };
        let is_read = at_s.is_multiple_of(self.read_every_s);
        Sample {
            at_ns: at_s * S,
            churn: vec![(key, counts)],
            sockets: is_read.then_some(reading),
            ..Sample::default()
        }
    }

    /// The budget after so many seconds.
    fn after(&self, seconds: u64) -> PortBudget {
        let (mut ports, mut rates) = (Ports::default(), Rates::default());
        for at_s in 1..=seconds {
            let sample = self.sample(at_s);
            let share = if sample.sockets.is_some() { 0.0 } else { 1.0 };
            rates.apply(&sample, S, share);
            ports.apply(&sample, &rates, S);
        }
        ports.snapshot(&rates, &Names::default(), true).unwrap().remove(0)
    }
}

#[test]
fn what_came_since_a_list_long_ago_ends_as_it_came() {
    let steady = Churn { read_every_s: 50, ..Churn::new(30) }.after(345);
    assert_eq!(
        steady.seconds_to_exhaustion, None,
        "45 s after a list: 30 per second are 1,800 ports for ever"
    );
    let row = Churn { read_every_s: 200, ..Churn::new(30) }.after(380);
    assert!((1750..=1850).contains(&row.used), "30 per second for a minute: {}", row.used);
    assert_eq!(row.seconds_to_exhaustion, None);
}

#[test]
fn the_end_is_foretold_within_a_tenth_from_half_way_on() {
    for (per_s, end_s) in [(50, 40.0), (200, 10.0), (100, 20.0)] {
        for read_every_s in [1, 3] {
            let churn = Churn { read_every_s, ..Churn::new(per_s) };
            let half = (end_s / 2.0) as u64;
            for at_s in half..end_s as u64 {
                let row = churn.after(at_s.max(read_every_s));
                let predicted_s = at_s as f64 + row.seconds_to_exhaustion.unwrap();
                let off = (predicted_s - end_s).abs() / end_s;
                assert!(off < 0.1, "{per_s}/s at {at_s} s: {predicted_s}, should be {end_s}");
            }
        }
    }
}

#[test]
fn the_wall_is_half_of_the_range_and_its_alarm_comes_before() {
    let churn = Churn::new(50);
    let before = churn.after(17);
    assert!(!before.alarm);
    assert!((before.seconds_to_wall.unwrap() - 3.0).abs() < 0.3, "{:?}", before.seconds_to_wall);
    let near = churn.after(18);
    assert!(near.alarm && (0.45..0.5).contains(&near.pressure_ratio.unwrap()));
    assert_eq!(churn.after(20).seconds_to_wall, Some(0.0), "it is there");
}

#[test]
fn regimes_that_never_run_out_are_never_foretold_to() {
    for (tw_reuse, timestamps, remote, ends) in [
        (0, 1, SERVER, true),
        (1, 1, SERVER, false),
        (2, 1, SERVER, true),
        (2, 1, LOOPBACK, false),
        (1, 0, SERVER, true),
        (2, 0, LOOPBACK, true),
    ] {
        let churn = Churn::new(100).with(tw_reuse, timestamps, remote);
        let row = churn.after(8);
        assert_eq!(row.seconds_to_exhaustion.is_some(), ends, "{tw_reuse} {timestamps} {}", row.assumption);
        assert_eq!(row.seconds_to_wall.is_some(), ends, "{tw_reuse} {timestamps}");
        assert_eq!(row.reuse, !ends);
        assert!(row.assumption.contains(&row.reuse_because));
    }
    for at_s in [5, 30, 59, 61, 90] {
        let row = Churn::new(30).after(at_s);
        assert_eq!(row.seconds_to_exhaustion, None, "30/s × 60 s fit into 2,000, at {at_s}");
    }
}

#[test]
fn a_peer_without_timestamps_shows_by_what_does_not_happen() {
    let mut churn = Churn::new(100).with(1, 1, SERVER);
    churn.sysctls.recycled = Some(7);
    assert!(churn.after(9).reuse, "half of the range is not full yet: too early to tell");
    let row = churn.after(13);
    assert!(!row.reuse && row.reuse_because.contains("peer"), "{}", row.reuse_because);
    assert!(row.seconds_to_exhaustion.is_some());
}

#[test]
fn that_nothing_was_taken_over_only_a_reading_tells() {
    let churn = Churn { read_every_s: 5, recycles: true, ..Churn::new(100).with(1, 1, SERVER) };
    for at_s in 10..=30 {
        let row = churn.after(at_s);
        assert!(row.reuse, "at {at_s}: {}", row.reuse_because);
    }
}

#[test]
fn ports_are_counted_as_they_lie_in_the_range() {
    let of = |port_low, port_high, reserved: &[(u16, u16)]| {
        let sysctls = Sysctls { port_low, port_high, reserved: reserved.to_vec(), ..Sysctls::default() };
        let count = available(&sysctls, PortCount::default());
        let is_free = |port: &u16| !reserved.iter().any(|(low, high)| (low..=high).contains(&port));
        let free: Vec<u16> = (port_low..=port_high).filter(is_free).collect();
        let first_half = free.iter().filter(|&&port| port & 1 == port_low & 1).count();
        assert_eq!((count.all as usize, count.first_half as usize), (free.len(), first_half));
    };
    of(32_768, 60_999, &[]);
    of(1, u16::MAX, &[(1, 1), (3, 8), (65_535, 65_535)]);
    for (low, high) in [(10, 10), (10, 13), (11, 13), (11, 14)] {
        of(low, high, &[]);
        of(low, high, &[(1, 9), (11, 12), (14, 99), (200, 300)]);
        of(low, high, &[(1, 99)]);
    }
}

#[test]
fn what_is_reserved_listened_on_and_bound_is_no_part_of_the_limit() {
    let namespace = NamespaceReading {
        netns: 5,
        sysctls: Some(Sysctls {
            port_low: 40_000,
            port_high: 40_099,
            reserved: vec![(40_000, 40_009)],
            ..Sysctls::default()
        }),
        tuples: vec![TupleReading {
            source: CLIENT,
            remote: SERVER,
            port: 1,
            established: 45,
            bound: 2,
            ..TupleReading::default()
        }],
        pools: vec![PoolReading {
            source: CLIENT,
            used: 45,
            bound: 2,
            established: 45,
            ..PoolReading::default()
        }],
        blocked: PortCount { all: 5, first_half: 3 },
        blocked_everywhere: 3,
        ..NamespaceReading::default()
    };
    let reading = SocketReading { namespaces: vec![namespace], ..SocketReading::default() };
    let mut ports = Ports::default();
    ports.apply(&Sample { sockets: Some(reading), ..Sample::default() }, &Rates::default(), S);
    let rows = ports.snapshot(&Rates::default(), &Names::default(), false).unwrap();
    let connect = rows.iter().find(|row| row.kind == BudgetKind::Connect).unwrap();
    assert_eq!((connect.limit, connect.used), (Some(100 - 10 - 5 + 2), 45));
    let pool = rows.iter().find(|row| row.kind == BudgetKind::BindPool).unwrap();
    assert_eq!((pool.limit, pool.used, pool.remote_address), (Some(100 - 10 - 3), 45, None));
    assert_eq!((pool.failures_seen, pool.failed, pool.opened_per_s), (BINDS_NOT_VISIBLE, None, None));
}

/// A list of a pool of 1,000 ports in the given second, in which it has taken ten ports per second since second 0.
fn pool_at(second: u32, pool: PoolReading) -> Sample {
    let sysctls = Sysctls { port_low: 40_000, port_high: 40_999, ..Sysctls::default() };
    let namespace = NamespaceReading {
        netns: 5,
        sysctls: Some(sysctls),
        pools: vec![pool],
        ..NamespaceReading::default()
    };
    let at_ns = u64::from(second) * S;
    let reading =
        SocketReading { began_ns: at_ns, at_ns, namespaces: vec![namespace], ..SocketReading::default() };
    Sample { at_ns, sockets: Some(reading), ..Sample::default() }
}

fn end_of_pool(samples: &[Sample]) -> Option<f64> {
    let mut ports = Ports::default();
    samples.iter().for_each(|sample| ports.apply(sample, &Rates::default(), S));
    let rows = ports.snapshot(&Rates::default(), &Names::default(), false).unwrap();
    rows.iter().find(|row| row.kind == BudgetKind::BindPool).unwrap().seconds_to_exhaustion
}

#[test]
fn a_pool_is_foretold_by_what_lives_in_it_and_by_what_begins_to_wait() {
    let living = |second| {
        let used = 10 * second;
        pool_at(second, PoolReading { source: CLIENT, used, bound: used, ..PoolReading::default() })
    };
    assert_eq!(end_of_pool(&[living(50)]), None, "one list tells no growth");
    let end_s = end_of_pool(&[living(40), living(50)]).unwrap();
    assert!((end_s - 50.0).abs() < 1.0, "{end_s}");
    let later = Sample { at_ns: 60 * S, ..Sample::default() };
    let end_s = end_of_pool(&[living(40), living(50), later]).unwrap();
    assert!((end_s - 40.0).abs() < 1.0, "ten seconds after the list: {end_s}");
    assert_eq!(end_of_pool(&[living(40), living(100)]), Some(0.0));

    let waiting = |per_s: u32| {
        let mut ages = [0; AGE_STEPS];
        ages[..4].fill(5 * per_s);
        let used = 20 * per_s;
        pool_at(
            20,
            PoolReading {
                source: CLIENT,
                used,
                bound: used,
                time_wait: used,
                ages,
                ..PoolReading::default()
            },
        )
    };
    let end_s = end_of_pool(&[waiting(25)]).unwrap();
    assert!((end_s - 20.0).abs() < 1.0, "500 in 20 s, 500 are left: {end_s}");
    assert_eq!(end_of_pool(&[waiting(15)]), None, "900 wait at most");
}

#[test]
fn failed_binds_are_the_pool_s_where_there_is_one_and_the_namespace_s_where_there_are_more() {
    let sysctls = Sysctls { port_low: 40_000, port_high: 40_099, ..Sysctls::default() };
    let pool = |source| PoolReading { source, used: 45, bound: 45, ..PoolReading::default() };
    let rows = |pools: Vec<PoolReading>| {
        let namespace = NamespaceReading {
            netns: 5,
            sysctls: Some(sysctls.clone()),
            pools,
            ..NamespaceReading::default()
        };
        let reading = SocketReading { namespaces: vec![namespace], ..SocketReading::default() };
        let key = ChurnKey { tgid: 7, netns: 5, role: Role::Connect as u8, ..ChurnKey::default() };
        let mut counts = Counts { attempts: 4, failed: 4, ..Counts::ZERO };
        counts.failed_by[FailKind::Eaddrinuse as usize] = 4;
        let sample =
            Sample { at_ns: S, churn: vec![(key, counts)], sockets: Some(reading), ..Sample::default() };
        let (mut ports, mut rates) = (Ports::default(), Rates::default());
        rates.apply(&sample, S, 0.0);
        ports.apply(&sample, &rates, S);
        ports.snapshot(&rates, &Names::default(), true).unwrap()
    };
    let one = rows(vec![pool(CLIENT)]);
    assert_eq!((one.len(), one[0].failed, one[0].failures_seen), (1, Some(4), "exact"));
    let two = rows(vec![pool(CLIENT), pool(SERVER)]);
    assert!(
        two.len() == 2 && two.iter().all(|row| (row.failed, row.failures_seen) == (None, BINDS_BY_NAMESPACE))
    );
}

#[test]
fn a_namespace_whose_settings_cannot_be_read_has_numbers_but_no_limit() {
    let churn = Churn::new(10);
    let mut sample = churn.sample(3);
    sample.sockets.as_mut().unwrap().namespaces[0].sysctls = None;
    let (mut ports, mut rates) = (Ports::default(), Rates::default());
    rates.apply(&sample, S, 0.0);
    ports.apply(&sample, &rates, S);
    let row = ports.snapshot(&rates, &Names::default(), true).unwrap().remove(0);
    assert_eq!((row.used, row.limit, row.pressure_ratio, row.seconds_to_exhaustion), (30, None, None, None));
}

#[test]
fn failures_are_exact_and_shown_with_the_row() {
    let churn = Churn::new(10);
    let mut sample = churn.sample(3);
    sample.churn[0].1.failed_by[FailKind::Eaddrnotavail as usize] = 4;
    sample.churn[0].1.failed_by[FailKind::Econnrefused as usize] = 9;
    let (mut ports, mut rates) = (Ports::default(), Rates::default());
    rates.apply(&sample, S, 0.0);
    ports.apply(&sample, &rates, S);
    assert_eq!(ports.snapshot(&rates, &Names::default(), true).unwrap()[0].failed, Some(4));
}

#[test]
fn a_destination_shows_the_pressure_of_its_source_that_is_nearest_to_its_end() {
    let churn = Churn::new(10);
    let mut sample = churn.sample(30);
    let tuples = &mut sample.sockets.as_mut().unwrap().namespaces[0].tuples;
    let other = TupleReading { source: LOOPBACK, time_wait: 1500, ..tuples[0].clone() };
    tuples.push(other);
    let mut model = Model::new(Context::default());
    model.apply(&sample);
    let snapshot = model.snapshot();
    let most =
        snapshot.ports.as_ref().unwrap().iter().filter_map(|row| row.pressure_ratio).max_by(f64::total_cmp);
    assert!(most.unwrap() > 0.7, "{most:?}");
    assert_eq!(snapshot.programs[0].destinations[0].port_pressure_ratio, most);
}
