//! What the agent itself uses: on an idle host, on one where TIME_WAIT sockets wait, and beside as many connections as one
//! processor and all of them make.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::Plan;
use super::load::{self, Held, Load, Program};
use super::proc::Usage;
use super::report::mib;
use super::tracer::{Kind, Tracer};

/// TIME_WAIT sockets that wait: the usual limit of a network namespace, and what the design asks for.
const WAITING: [u32; 2] = [131_072, 200_000];
/// Connections per second on top of those that wait, and for how long.
const PER_S: u32 = 20_000;
const BUSY_S: u32 = 20;
/// What the design asks for, and how long: in a minute memory of ends has come to its limit a few times.
const STEADY_PER_S: u32 = 60_000;
const STEADY_S: u32 = 60;
/// How long each waits.
const TIME_WAIT: Duration = Duration::from_secs(60);
/// Reports after which a tracer is taken to have settled.
const SETTLED: usize = 2;

/// What an agent used between two moments.
#[derive(Serialize)]
pub(crate) struct Agent {
    /// Of one processor.
    pub(crate) cpu_ratio: f64,
    /// Of that, for lists of sockets.
    pub(crate) lists_ratio: f64,
    pub(crate) rss_bytes: u64,
}

impl Agent {
    pub(crate) fn between(begin: &Usage, end: &Usage) -> Self {
        let wall_ns = (end.at - begin.at).as_nanos() as f64;
        let cpu_ns = end.cpu_ns.saturating_sub(begin.cpu_ns) as f64;
        let lists_ns = end.lists_ns.saturating_sub(begin.lists_ns) as f64;
        Self { cpu_ratio: cpu_ns / wall_ns, lists_ratio: lists_ns / wall_ns, rss_bytes: end.rss_bytes }
    }
}

/// One situation.
#[derive(Serialize)]
pub(crate) struct Situation {
    name: String,
    stack: &'static str,
    agent: Agent,
    lost: Option<u64>,
    /// Share of the TIME_WAIT sockets since the attach whose owner is known. `None`: there are none.
    owned_ratio: Option<f64>,
    attach_ms: f64,
    map_bytes: Option<u64>,
}

impl Situation {
    /// Prints its row.
    pub(crate) fn print(&self) {
        let lost = self.lost.map_or("not told".to_owned(), |lost| lost.to_string());
        let name = format!("{}, --stack {}", self.name, self.stack);
        let (percent, rss) = (100.0 * self.agent.cpu_ratio, mib(self.agent.rss_bytes));
        let maps = self.map_bytes.map_or_else(String::new, |bytes| format!(", maps {}", mib(bytes)));
        let owned =
            self.owned_ratio.map_or_else(String::new, |ratio| format!(", owned {:.1} %", 100.0 * ratio));
        let attach_ms = self.attach_ms;
        let lists = 100.0 * self.agent.lists_ratio;
        println!(
            "  {name:<56}{percent:>8.2} %{rss:>12}   lists {lists:.2} %, lost {lost}{owned}{maps}, attached in {attach_ms:.0} ms"
        );
    }
}

/// All situations, counts alone and with the lines of code that come by default.
pub(crate) fn measure(plan: &Plan, extra: &[String]) -> Result<Vec<Situation>> {
    let mut all = Vec::new();
    for stack in ["off", "auto"] {
        let bench = Bench { kind: Kind::portchurn(plan.portchurn.clone(), stack, extra), stack, plan };
        all.push(bench.idle()?);
        let waiting = if plan.is_quick { &[][..] } else { &WAITING };
        for &count in waiting {
            all.extend(bench.waiting(count)?);
        }
        if !plan.is_quick {
            all.push(bench.waiting_and_busy(WAITING[0])?);
        }
        let every_cpu: Vec<_> = (0..load::processors()?).collect();
        for cpus in [&[plan.cpu][..], &every_cpu] {
            for program in [Program::Native, Program::Reset] {
                all.push(bench.busy(program, cpus)?);
            }
        }
        if !plan.is_quick {
            all.push(bench.steady(&every_cpu)?);
        }
    }
    Ok(all)
}

fn sleep_until(then: Instant) {
    thread::sleep(then.saturating_duration_since(Instant::now()));
}

struct Bench<'a> {
    kind: Kind,
    stack: &'static str,
    plan: &'a Plan,
}

impl Bench<'_> {
    fn idle(&self) -> Result<Situation> {
        let (mut tracer, at) = self.settled()?;
        thread::sleep(self.plan.idle);
        let idle = self.end("idle host".to_owned(), &mut tracer, &at)?;
        tracer.stop()?;
        Ok(idle)
    }

    /// While they wait; and from the end of that until they are gone.
    fn waiting(&self, count: u32) -> Result<[Situation; 2]> {
        let (mut tracer, _) = self.settled()?;
        let begun = Instant::now();
        let held = Held::fill(count, self.plan.cpu)?;
        let filled = Instant::now();
        tracer.wait_for_reports(SETTLED)?;
        let at = tracer.usage()?;
        sleep_until(begun + TIME_WAIT - Duration::from_secs(2));
        let waiting = self.end(format!("{count} TIME_WAIT wait"), &mut tracer, &at)?;
        let at = tracer.usage()?;
        sleep_until(filled + TIME_WAIT + Duration::from_secs(4));
        let going = self.end(format!("{count} TIME_WAIT go"), &mut tracer, &at)?;
        held.release()?;
        tracer.stop()?;
        Ok([waiting, going])
    }

    fn waiting_and_busy(&self, count: u32) -> Result<Situation> {
        let (mut tracer, _) = self.settled()?;
        let held = Held::fill(count, self.plan.cpu)?;
        tracer.wait_for_reports(SETTLED)?;
        let at = tracer.usage()?;
        let load = load::run_paced(PER_S, PER_S * BUSY_S, self.plan.cpu)?;
        let name = format!("{count} TIME_WAIT wait, {:.0}/s on top", load.cycles_per_s());
        let situation = self.end(name, &mut tracer, &at)?;
        held.release()?;
        tracer.stop()?;
        Ok(situation)
    }

    fn busy(&self, program: Program, cpus: &[usize]) -> Result<Situation> {
        let cycles = self.plan.cycles.saturating_mul(6);
        self.beside(cpus, program.name(), |cpu| load::run(program, cycles, cpu))
    }

    fn steady(&self, cpus: &[usize]) -> Result<Situation> {
        let per_s = STEADY_PER_S / cpus.len() as u32;
        let name = format!("for {STEADY_S} s");
        self.beside(cpus, &name, |cpu| load::run_paced(per_s, per_s * STEADY_S, cpu))
    }

    /// A load on each of these processors.
    fn beside(
        &self,
        cpus: &[usize],
        what: &str,
        load: impl Fn(usize) -> Result<Load> + Copy + Send,
    ) -> Result<Situation> {
        let (mut tracer, at) = self.settled()?;
        let loads = thread::scope(|scope| {
            let running: Vec<_> = cpus.iter().map(|&cpu| scope.spawn(move || load(cpu))).collect();
            let joined = running.into_iter().map(|load| load.join().ok().context("a load panicked")?);
            joined.collect::<Result<Vec<_>>>()
        })?;
        let per_s: f64 = loads.iter().map(Load::cycles_per_s).sum();
        let name = format!("{per_s:.0}/s, {what}, on {}", cpus.len());
        let situation = self.end(name, &mut tracer, &at)?;
        tracer.stop()?;
        Ok(situation)
    }

    /// The start itself is not what an idle host costs.
    fn settled(&self) -> Result<(Tracer<'_>, Usage)> {
        let mut tracer = Tracer::start(&self.kind)?;
        tracer.wait_for_reports(SETTLED)?;
        let at = tracer.usage()?;
        Ok((tracer, at))
    }

    fn end(&self, name: String, tracer: &mut Tracer<'_>, at: &Usage) -> Result<Situation> {
        let agent = Agent::between(at, &tracer.usage()?);
        tracer.read_on();
        let (own, attach_ms) = (tracer.own_figures(), 1e3 * tracer.attach.as_secs_f64());
        let (stack, lost, owned_ratio, map_bytes) = (self.stack, own.lost, own.owned_ratio, own.map_bytes);
        let situation = Situation { name, stack, agent, lost, owned_ratio, attach_ms, map_bytes };
        eprintln!(
            "bench: {}, --stack {}: {:.2} %",
            situation.name,
            self.stack,
            100.0 * situation.agent.cpu_ratio
        );
        Ok(situation)
    }
}
