//! What is foretold of local ports against what happens to them, in network namespaces with a cable between them. The
//! truth is the churn's own: its pace, the second of its first failure, its own measure of connect().

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use portchurn_tests::harness::budgets::budget_in;
use portchurn_tests::harness::report::Report;
use portchurn_tests::harness::tracer::Tracer;
use portchurn_tests::harness::veth::{Cable, Guest, Outcome};
use portchurn_tests::harness::{Alone, check, is_guest, skip};

use crate::ADDRESS;

const NEAR: &str = "127.0.0.1:7000";

/// Ports there are, and connects per second.
const PORTS: f64 = 400.0;
const PER_S: f64 = 40.0;
/// Share of the ports from which on the wall is near.
const ALARM: f64 = 0.45;
/// Enough for some failures at the end.
const CONNECTS: &str = "430";

/// Settings of the client, and what they come to.
struct Regime {
    tw_reuse: u8,
    timestamps: u8,
    /// Over the loopback device of the client's namespace.
    near: bool,
    /// Connects per second.
    per_s: f64,
    ends: bool,
}

const fn regime(tw_reuse: u8, timestamps: u8, near: bool, ends: bool) -> Regime {
    Regime { tw_reuse, timestamps, near, per_s: PER_S, ends }
}

/// Every setting, on either side of the line between near and far.
const REGIMES: &[Regime] = &[
    regime(0, 1, false, true),
    regime(0, 0, false, true),
    regime(1, 1, false, false),
    regime(1, 0, false, true),
    regime(2, 1, false, true),
    regime(2, 0, false, true),
    regime(2, 1, true, false),
    regime(2, 0, true, true),
    // 5 × 60 s are fewer than there are ports.
    Regime { tw_reuse: 0, timestamps: 1, near: false, per_s: 5.0, ends: false },
];

impl Regime {
    fn name(&self) -> String {
        let place = if self.near { "loopback" } else { "cable" };
        format!("tw_reuse={} timestamps={} {place} {}/s", self.tw_reuse, self.timestamps, self.per_s)
    }
}

/// What was said of one regime at one moment.
struct Said {
    at_s: f64,
    to_end_s: Option<f64>,
    to_wall_s: Option<f64>,
    reuse: bool,
}

/// One regime at work.
struct Run {
    regime: &'static Regime,
    netns: u64,
    client: Guest,
    _server: Guest,
    cable: Cable,
    begun: Instant,
    said: Vec<Said>,
    /// TIME_WAIT that the kernel counted itself when the alarm came.
    at_alarm: Option<u64>,
}

impl Run {
    fn start(regime: &'static Regime) -> Result<Self> {
        let reuse = format!("tcp_tw_reuse={}", regime.tw_reuse);
        let timestamps = format!("tcp_timestamps={}", regime.timestamps);
        let cable = Cable::new(&["ip_local_port_range=40000 40399", &reuse, &timestamps])?;
        let address = if regime.near { NEAR } else { ADDRESS };
        let server = cable.server_in(if regime.near { &cable.client } else { &cable.server }, address)?;
        let count = if regime.per_s < PER_S { "50" } else { CONNECTS };
        let mut client =
            cable.churn(&cable.client, &["connect", address, count, &regime.per_s.to_string()], &[])?;
        client.begun()?;
        let netns = cable.inode(&cable.client)?;
        Ok(Self {
            regime,
            netns,
            client,
            _server: server,
            cable,
            begun: Instant::now(),
            said: Vec::new(),
            at_alarm: None,
        })
    }

    fn listen(&mut self, report: &Report) -> Result<()> {
        if let Some(row) = budget_in(report, self.netns) {
            self.said.push(Said {
                at_s: self.begun.elapsed().as_secs_f64(),
                to_end_s: row["seconds_to_exhaustion"].as_f64(),
                to_wall_s: row["seconds_to_wall"].as_f64(),
                reuse: row["reuse"] == true,
            });
            if row["alarm"] == true && self.at_alarm.is_none() {
                self.at_alarm = Some(self.cable.many_time_wait(&self.cable.client)?);
            }
        }
        Ok(())
    }

    fn judge(&self, outcome: &Outcome) -> Result<()> {
        ensure!(!self.said.is_empty(), "nothing was said");
        match outcome.first_failure_s {
            Some(end_s) if self.regime.ends => self.judge_end(end_s),
            None if !self.regime.ends => self.judge_endless(),
            failure => anyhow::bail!("the kernel did not do what it should: first failure {failure:?}"),
        }
    }

    /// From half-way on within a tenth; the wall likewise, and its alarm between 45 and 50 %.
    fn judge_end(&self, end_s: f64) -> Result<()> {
        let wall_s = PORTS / 2.0 / PER_S;
        let mut looked = 0;
        for said in self.said.iter().filter(|said| said.at_s > end_s / 2.0 && said.at_s < end_s) {
            let predicted_s = said.at_s + said.to_end_s.context("no end was foretold")?;
            let off = (predicted_s - end_s).abs() / end_s;
            ensure!(off <= 0.1, "at {:.1} s: the end at {predicted_s:.1} s, was {end_s:.1} s", said.at_s);
            looked += 1;
        }
        ensure!(looked >= 5, "only {looked} forecasts in the second half");
        for said in self.said.iter().filter(|said| said.at_s > wall_s / 2.0 && said.at_s < wall_s) {
            let predicted_s = said.at_s + said.to_wall_s.context("no wall was foretold")?;
            ensure!(
                (predicted_s - wall_s).abs() / wall_s <= 0.1,
                "wall at {predicted_s:.1} s, is at {wall_s} s"
            );
        }
        let really = self.at_alarm.context("no alarm")? as f64 / PORTS;
        ensure!((ALARM..0.5).contains(&really), "the alarm came at {:.1} %", really * 100.0);
        Ok(())
    }

    fn judge_endless(&self) -> Result<()> {
        for said in &self.said {
            ensure!(
                said.to_end_s.is_none(),
                "at {:.1} s an end in {:?} s was foretold",
                said.at_s,
                said.to_end_s
            );
            ensure!(said.reuse == (self.regime.tw_reuse != 0), "reuse at {:.1} s: {}", said.at_s, said.reuse);
        }
        Ok(())
    }
}

#[test]
fn the_end_is_foretold_where_there_is_one_and_nowhere_else() {
    check("the_end_is_foretold_where_there_is_one_and_nowhere_else", || {
        if is_guest() {
            return Err(skip("an emulated processor keeps no pace that could be foretold"));
        }
        let _alone = Alone::wait()?;
        let mut tracer = Tracer::start(&[])?;
        let mut runs = REGIMES.iter().map(Run::start).collect::<Result<Vec<_>>>()?;
        let longest = std::time::Duration::from_secs_f64(430.0 / PER_S + 0.5);
        let begun = Instant::now();
        while begun.elapsed() < longest {
            let report = tracer.advance()?.clone();
            runs.iter_mut().try_for_each(|run| run.listen(&report))?;
        }
        let mut wrong = Vec::new();
        for run in &mut runs {
            let outcome = run.client.outcome()?;
            if let Err(error) = run.judge(&outcome) {
                wrong.push(format!("{}: {error:#}", run.regime.name()));
            }
        }
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        tracer.stop()?;
        Ok(())
    });
}

/// When the pool of this network namespace is said to be empty, from now on.
fn end_of_pool(report: &Report, netns: u64) -> Option<f64> {
    let rows = report.ports.as_array()?;
    let pool = rows.iter().find(|row| row["kind"] == "bind_pool" && row["netns"] == netns)?;
    pool["seconds_to_exhaustion"].as_f64()
}

#[test]
fn the_end_of_a_pool_of_bound_ports_is_foretold() {
    check("the_end_of_a_pool_of_bound_ports_is_foretold", || {
        if is_guest() {
            return Err(skip("an emulated processor keeps no pace that could be foretold"));
        }
        let _alone = Alone::wait()?;
        let cable = Cable::new(&["ip_local_port_range=40000 40399", "tcp_tw_reuse=0"])?;
        let mut tracer = Tracer::start(&[])?;
        let _server = cable.server(ADDRESS, false)?;
        let pace = PER_S.to_string();
        let mut client = cable.churn(&cable.client, &["connect", ADDRESS, CONNECTS, &pace, "bind"], &[])?;
        client.begun()?;
        let (begun, netns) = (Instant::now(), cable.inode(&cable.client)?);
        let mut said = Vec::new();
        while begun.elapsed().as_secs_f64() < PORTS / PER_S {
            let to_end_s = end_of_pool(tracer.advance()?, netns);
            let at_s = begun.elapsed().as_secs_f64();
            said.extend(to_end_s.map(|to_end_s| (at_s, at_s + to_end_s)));
        }
        let outcome = client.outcome()?;
        let end_s = outcome.first_failure_s.context("every bind found a port")?;
        ensure!(outcome.errno_98 > 0 && outcome.errno_99 + outcome.other == 0, "{outcome:?}");
        let late: Vec<_> = said.iter().filter(|(at_s, _)| *at_s > end_s / 2.0 && *at_s < end_s).collect();
        ensure!(late.len() >= 3, "only {} forecasts in the second half: {said:?}", late.len());
        let is_right = |(_, predicted_s): &&(f64, f64)| (predicted_s - end_s).abs() <= 0.1 * end_s;
        ensure!(late.iter().all(is_right), "the end was at {end_s:.1} s, and said at: {said:?}");
        tracer.stop()?;
        Ok(())
    });
}

#[test]
fn the_wall_shows_in_the_histogram_of_connect() {
    check("the_wall_shows_in_the_histogram_of_connect", || {
        let _alone = Alone::wait()?;
        // The range of a host as it comes, of which half are 14,116 ports; an emulated processor takes a minute for those.
        let (range, up_to_wall) = if is_guest() { ("32768 36863", 2000) } else { ("32768 60999", 14_000) };
        let cable = Cable::new(&["tcp_tw_reuse=0", &format!("ip_local_port_range={range}")])?;
        let mut tracer = Tracer::start(&[])?;
        let _server = cable.server(ADDRESS, false)?;
        // One client up to the wall, another one behind it.
        let mut measure = |opened: u64| -> Result<(Outcome, u64)> {
            let count = opened.to_string();
            let mut client = cable.churn(&cable.client, &["connect", ADDRESS, &count, "0", "stay"], &[])?;
            let outcome = client.outcome()?;
            let connect = |report: &Report| {
                let process = report.processes_of(outcome.pid).next()?;
                Some(process.destinations.first()?.connect_us.filter(|_| process.tally.opened == opened)?.p50)
            };
            tracer.wait_until(|report| connect(report).context("not all are counted yet").map(drop))?;
            let p50 = connect(&tracer.latest).context("it is gone")?;
            Ok((outcome, p50))
        };
        let (near, before) = measure(up_to_wall)?;
        let (far, after) = measure(2000)?;
        let (first, last) = (near.connect_us_medians[0], far.connect_us_medians[1]);
        if last >= first * 10 {
            // The steps of the histogram are powers of two.
            let is_seen = after >= last / 2 && after >= before * 4;
            ensure!(is_seen, "a jump from {first} to {last} µs: half of all from {before} to {after} µs");
        } else {
            ensure!(after < before.max(1) * 10, "no jump ({first}, {last} µs): from {before} to {after} µs");
        }
        tracer.stop()?;
        Ok(())
    });
}
