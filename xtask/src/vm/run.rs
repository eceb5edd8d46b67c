//! The order of things: kernels, programs, guests a few at a time, report. Must not know how any of them is done.

use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use super::image::{self, Image};
use super::layout::{Layout, label};
use super::payload::Payload;
use super::plan::Guests;
use super::report::{self, Entry, Guest};
use super::verdict::{Cause, Verdict};
use super::{Args, accelerator, guest, say, selftest, support};

/// Runs what the command line asks for.
pub(crate) fn run(layout: &Layout, args: &Args) -> Result<()> {
    let (images, mut entries) = kernels(layout, args)?;
    let Some(first) = images.first() else { return end(&entries) };
    let accelerator = accelerator::choose(args.accel, &layout.vm, first)?;
    let payload =
        if args.selftest { Payload::selftest(layout, args.arch)? } else { Payload::product(layout, args)? };
    let guests =
        images.into_iter().map(|image| Guests { layout, args, image, payload: &payload, accelerator });
    let guests: Vec<_> = guests.collect();
    if args.shell {
        return shell(&guests);
    }
    let _alone = layout.alone()?;
    if args.selftest {
        return selftest::run(&guests);
    }
    entries.extend(all(&guests, args));
    entries.sort_by_key(|entry| position(args, &entry.label));
    end(&entries)
}

fn end(entries: &[Entry]) -> Result<()> {
    let counts = report::show(entries);
    ensure!(counts.failed == 0, "{} failed", counts.failed);
    Ok(())
}

/// The kernels that can be had; the others as entries of the report.
fn kernels(layout: &Layout, args: &Args) -> Result<(Vec<Image>, Vec<Entry>)> {
    let (mut images, mut missing) = (Vec::new(), Vec::new());
    for line in args.lines()? {
        match image::provide(&layout.vm, line, args.arch) {
            Ok(image) => images.push(image),
            Err(error) => {
                let reason = format!("{error:#}");
                say::progress(&format!("kernel {}: {reason}", line.name));
                let guest = Guest::Missing { reason, is_failure: args.requires(line.name) };
                missing.push(Entry { label: label(line.name, args.arch), release: String::new(), guest });
            }
        }
    }
    Ok((images, missing))
}

fn shell(guests: &[Guests<'_>]) -> Result<()> {
    let [only] = guests else { bail!("--shell takes one kernel: --kernel 6.1") };
    let prepared = only.prepare(&format!("shell-{}", only.label()), only.plan())?;
    guest::shell(&prepared.spec)
}

/// As many at a time as `--jobs` says. Each thread lives as long as its guests: they end with it.
fn all(guests: &[Guests<'_>], args: &Args) -> Vec<Entry> {
    let waiting = Mutex::new(guests.iter());
    let entries = Mutex::new(Vec::new());
    // A function of its own, so that the lock is not held while a guest runs.
    let next = || waiting.lock().ok().and_then(|mut waiting| waiting.next());
    let worker = || {
        while let Some(guests) = next() {
            let entry = one(guests, args);
            if let Ok(mut entries) = entries.lock() {
                entries.push(entry);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..args.jobs {
            scope.spawn(worker);
        }
    });
    entries.into_inner().unwrap_or_default()
}

fn one(guests: &Guests<'_>, args: &Args) -> Entry {
    let label = guests.label();
    let release = guests.image.release.clone();
    let run = guests.prepare(&label, guests.plan()).and_then(|prepared| {
        say::progress(&format!("{label:8} started: {release}, {} processors", args.cpus));
        guest::run(&prepared.spec, &label, Duration::from_secs(args.timeout_s)).context("run a guest")
    });
    let guest = match run.and_then(|run| Ok((judged(guests, args, run.verdict)?, run.took, run.console))) {
        Ok((verdict, took, console)) => Guest::Ran { verdict, took, console },
        Err(error) => Guest::Broke(format!("{error:#}")),
    };
    Entry { label, release, guest }
}

/// What the guest showed is kept and compared; a kernel that is required must have shown something.
fn judged(guests: &Guests<'_>, args: &Args, mut verdict: Verdict) -> Result<Verdict> {
    support::keep(guests, &verdict)?;
    let is_empty = verdict.broken.is_none() && verdict.counts().passed + verdict.counts().failed == 0;
    if is_empty && args.requires(guests.image.line) {
        verdict.broken = Some(Cause::NothingRan);
    }
    verdict.tests.extend(support::compare(guests, &verdict)?);
    Ok(verdict)
}

fn position(args: &Args, entry_label: &str) -> usize {
    let lines = args.lines().unwrap_or_default();
    lines.iter().position(|line| label(line.name, args.arch) == entry_label).unwrap_or(usize::MAX)
}
