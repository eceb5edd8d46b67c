//! Holding a report to the truth: every number of every process of a workload, and the sums that must come out for
//! anybody. Differences are listed all at once.

use std::collections::BTreeMap;
use std::fmt::Debug;

use anyhow::{Result, bail};

use super::report::{ClosedBy, Destination, Process, Report, ResetBy, Tally};
use crate::truth::{CloseKind, Counts, End, ProcessTruth, Truth};

/// How much the kernel lets portchurn know.
#[derive(Clone, Copy, Debug)]
pub struct Precision {
    /// What went wrong on a socket.
    pub errno: bool,
    /// Whether a process is ending.
    pub exiting: bool,
    /// The network namespace.
    pub netns: bool,
    /// The arguments of a process that has ended since.
    pub argv: bool,
}

impl Precision {
    /// Everything.
    pub const FULL: Self = Self { errno: true, exiting: true, netns: true, argv: true };
    /// What does not take types.
    pub const NO_TYPES: Self = Self { errno: false, exiting: false, netns: false, argv: false };
}

/// Whether the report says of the workload's processes exactly what they did, and adds up for everybody.
pub fn matches_truth(truth: &Truth, report: &Report, precision: Precision) -> Result<()> {
    let mut differences = Differences(Vec::new());
    for process in &truth.processes {
        compare_process(truth, process, report, precision, &mut differences);
    }
    if truth.own_netns && precision.netns {
        nobody_else(truth, report, &mut differences);
    }
    differences.settle_beside_losses(report)?;
    adds_up(report)
}

/// The same for a workload in a namespace of its own whose processes are too many to name: its program as a whole is
/// compared, and those that are named.
pub fn matches_as_a_program(truth: &Truth, report: &Report) -> Result<()> {
    let mut differences = Differences(Vec::new());
    for process in truth.processes.iter().filter(|process| process.tgid != 0) {
        let tally = report.processes_of(process.tgid).next().map(|found| found.tally);
        differences.equal(&process.role, Some(expected_tally(&process.sum())), tally);
    }
    differences.settle_beside_losses(report)?;
    matches_by_name(truth, report)
}

/// The same where so many processes end at once that none of them need be told one by one.
pub fn matches_by_name(truth: &Truth, report: &Report) -> Result<()> {
    let mut differences = Differences(Vec::new());
    differences.equal("the program in its namespace", expected_tally(&truth.sum()), by_name(truth, report));
    differences.settle_beside_losses(report)?;
    adds_up(report)
}

/// The same with more processes than processors: where the kernel preempts them inside a program, so much may be missing as
/// portchurn says, and nothing else.
pub fn matches_where_crowded(truth: &Truth, report: &Report) -> Result<()> {
    let at_most = report.skipped_at_most();
    if at_most == 0 {
        return matches_by_name(truth, report);
    }
    let (expected, seen) = (expected_tally(&truth.sum()), by_name(truth, report));
    let is_within = |expected: u64, seen: u64| (seen..=seen + at_most).contains(&expected);
    let mut differences = Differences(Vec::new());
    if !is_within(expected.opened, seen.opened)
        || !is_within(expected.accepted, seen.accepted)
        || !is_within(expected.closed, seen.closed)
        || seen.failed != 0
    {
        differences.0.push(format!("more than {at_most} missing: {seen:?} instead of {expected:?}"));
    }
    differences.settle()?;
    adds_up(report)
}

/// What is said of the workload's program in the workload's namespace.
fn by_name(truth: &Truth, report: &Report) -> Tally {
    let mut seen = Tally::default();
    for program in report.programs.iter().filter(|program| program.program == "portchurn-workload") {
        for destination in program.destinations.iter().filter(|there| there.netns == truth.netns) {
            seen.add(&destination.tally);
        }
    }
    seen
}

/// Whether every sum of the report comes out, and nothing was lost. Where two programs look at each change, `nested` says
/// how many were lost at most: whether any was is for the counts to tell.
pub fn adds_up(report: &Report) -> Result<()> {
    let mut differences = Differences(Vec::new());
    let at_most = if report.attached("inet_sock_set_state") == "tracepoint" { None } else { report.nested() };
    if report.lost.total > at_most.unwrap_or(0) {
        differences.0.push(format!("lost: {:?}", report.lost.by_reason));
    }
    differences.equal(
        "sum of lost.by_reason",
        report.lost.total,
        report.lost.by_reason.values().flatten().sum(),
    );
    let mut sum = Tally::default();
    differences.conserved("totals", &report.totals);
    for program in &report.programs {
        differences.conserved(&program.program, &program.tally);
        differences.destinations(&program.program, &program.tally, &program.destinations);
        sum.add(&program.tally);
    }
    differences.equal("totals as the sum of programs", sum, report.totals);
    for process in &report.processes {
        let label = format!("{} {}", process.comm, process.tgid);
        differences.conserved(&label, &process.tally);
        differences.destinations(&label, &process.tally, &process.destinations);
    }
    differences.settle()
}

struct Differences(Vec<String>);

impl Differences {
    fn equal<T: PartialEq + Debug>(&mut self, label: &str, expected: T, actual: T) {
        if expected != actual {
            self.0.push(format!("{label}: {actual:?} instead of {expected:?}"));
        }
    }

    fn conserved(&mut self, label: &str, tally: &Tally) {
        if !tally.is_conserved() {
            self.0.push(format!("{label}: connections appear or vanish: {tally:?}"));
        }
        self.equal(&format!("{label}: lost"), 0, tally.lost);
    }

    fn destinations(&mut self, label: &str, tally: &Tally, destinations: &[Destination]) {
        let mut sum = Tally::default();
        for destination in destinations {
            sum.add(&destination.tally);
            let at = format!("{label} at {}", place(destination));
            self.conserved(&at, &destination.tally);
            let tally = &destination.tally;
            self.equal(&format!("{at}: sum of closed_by"), tally.closed, destination.closed_by.sum());
            self.equal(
                &format!("{at}: sum of failed_by"),
                tally.failed,
                destination.failed_by.values().sum(),
            );
            if let Some(reset) = destination.reset_by {
                let resets = reset.local + reset.remote + reset.timed_out;
                self.equal(&format!("{at}: sum of reset_by"), destination.closed_by.reset, resets);
            }
            self.quantiles(&at, destination);
        }
        self.equal(&format!("{label}: sum of destinations"), *tally, sum);
    }

    fn quantiles(&mut self, at: &str, destination: &Destination) {
        for (name, values) in [("lifetime", destination.lifetime_us), ("connect", destination.connect_us)] {
            if let Some(values) = values
                && (values.p50 > values.p95 || values.p95 > values.p99)
            {
                self.0.push(format!("{at}: {name} percentiles out of order: {values:?}"));
            }
        }
    }

    /// What portchurn says it lost may be why they differ.
    fn settle_beside_losses(mut self, report: &Report) -> Result<()> {
        if !self.0.is_empty() && report.lost.total != 0 {
            self.0.push(format!("it says it lost {:?}", report.lost.by_reason));
        }
        self.settle()
    }

    fn settle(self) -> Result<()> {
        if !self.0.is_empty() {
            bail!("{}", self.0.join("\n  "));
        }
        Ok(())
    }
}

fn place(destination: &Destination) -> String {
    match (destination.remote_address, destination.remote_port, destination.local_port) {
        (Some(address), Some(port), _) => format!("{address} port {port}"),
        (_, _, Some(port)) => format!("own port {port}"),
        _ => "other".to_owned(),
    }
}

fn compare_process(
    truth: &Truth,
    process: &ProcessTruth,
    report: &Report,
    precision: Precision,
    differences: &mut Differences,
) {
    let label = format!("{} {}", process.role, process.tgid);
    let found: Vec<&Process> = report.processes_of(process.tgid).collect();
    if process.ends.is_empty() {
        for other in &found {
            differences.equal(&label, expected_tally(&Counts::default()), other.tally);
        }
        return;
    }
    differences.equal(&format!("{label}: entries"), 1, found.len());
    let [found] = found[..] else { return };
    differences.equal(&format!("{label}: comm"), "portchurn-workl", &found.comm);
    // Without types, arguments come from /proc, which a process that ended has left. So do those of a forked process on an
    // arm64 processor that does not set the access flag by itself, such as the one that is emulated.
    let may_be_unknown = !precision.argv || cfg!(target_arch = "aarch64");
    let is_told = found.argv.contains(&truth.workload) || may_be_unknown && found.argv.is_empty();
    differences.equal(&format!("{label}: argv {:?} has the workload", found.argv), true, is_told);
    differences.equal(&format!("{label}: exited"), true, found.exited);
    differences.equal(&label, expected_tally(&process.sum()), found.tally);
    for (end, counts) in &process.ends {
        let at = format!("{label} at {end:?}");
        let mut there = found.destinations.iter().filter(|destination| is_at(destination, *end));
        match there.next() {
            Some(there) => compare_end(&at, truth, counts, there, report, precision, differences),
            None => differences.equal(&at, "to be listed", "not listed"),
        }
        differences.equal(&format!("{at}: listed again"), 0, there.count());
    }
}

fn compare_end(
    at: &str,
    truth: &Truth,
    counts: &Counts,
    destination: &Destination,
    report: &Report,
    precision: Precision,
    differences: &mut Differences,
) {
    differences.equal(at, expected_tally(counts), destination.tally);
    if precision.netns || destination.netns != 0 {
        differences.equal(&format!("{at}: netns"), truth.netns, destination.netns);
    }
    differences.equal(
        &format!("{at}: failed_by"),
        expected_failures(counts, precision),
        destination.failed_by.clone(),
    );
    if counts.closed_somehow > 0 {
        return;
    }
    let (closed_by, reset_by) = expected_closes(counts, precision);
    differences.equal(&format!("{at}: closed_by"), closed_by, destination.closed_by);
    if precision.errno {
        differences.equal(&format!("{at}: reset_by"), Some(reset_by), destination.reset_by);
    }
    let has_hook = report.attached("tcp_time_wait") != "none";
    let time_wait = if has_hook { counts.time_wait() } else { counts.time_wait_by_kind() };
    differences.equal(&format!("{at}: time_wait_entered"), time_wait, destination.time_wait_entered);
    let (lived, connected) = (counts.closed() > counts.before_attach, counts.opened > 0);
    differences.equal(&format!("{at}: lifetime is known"), lived, destination.lifetime_us.is_some());
    differences.equal(&format!("{at}: connect time is known"), connected, destination.connect_us.is_some());
    let measured = destination.connect_histogram_us.iter().map(|bucket| bucket.count).sum();
    differences.equal(&format!("{at}: connects of which the time is known"), counts.opened, measured);
}

fn is_at(destination: &Destination, end: End) -> bool {
    match end {
        // A failed bind has no destination yet.
        End::Connect(_, 0) => destination.role == "connect" && destination.remote_port.is_none(),
        End::Connect(address, port) => {
            destination.role == "connect"
                && destination.remote_address == Some(address)
                && destination.remote_port == Some(port)
        }
        End::Accept(port) => destination.role == "accept" && destination.local_port == Some(port),
    }
}

fn expected_tally(counts: &Counts) -> Tally {
    Tally {
        opened: counts.opened,
        accepted: counts.accepted,
        closed: counts.closed(),
        failed: counts.failed(),
        open_now: counts.open_now(),
        before_attach: counts.before_attach,
        lost: 0,
    }
}

fn expected_closes(counts: &Counts, precision: Precision) -> (ClosedBy, ResetBy) {
    let of = |kind| counts.closed_by.get(&kind).copied().unwrap_or(0);
    let reset_by = ResetBy {
        local: of(CloseKind::ResetLocal),
        remote: of(CloseKind::ResetRemote),
        timed_out: of(CloseKind::TimedOut),
    };
    let mut closed_by = ClosedBy {
        local: of(CloseKind::Local),
        remote: of(CloseKind::Remote),
        simultaneous: of(CloseKind::Simultaneous),
        reset: reset_by.local + reset_by.remote + reset_by.timed_out,
        process_exit: of(CloseKind::ProcessExit),
    };
    if !precision.exiting {
        closed_by.local += std::mem::take(&mut closed_by.process_exit);
    }
    (closed_by, reset_by)
}

fn expected_failures(counts: &Counts, precision: Precision) -> BTreeMap<String, u64> {
    let mut expected = BTreeMap::new();
    for (errno, count) in &counts.failed_by {
        let is_known = precision.errno || errno == "EADDRNOTAVAIL";
        let name = if is_known { errno } else { "other" };
        *expected.entry(name.to_owned()).or_default() += count;
    }
    expected
}

/// What happens at the workload's own ends may be listed for the workload only. In a namespace of its own nobody else
/// can be there; but the number of a namespace that is gone is used again, so the port must be the same, too.
fn nobody_else(truth: &Truth, report: &Report, differences: &mut Differences) {
    let ours = |tgid| truth.processes.iter().any(|process| process.tgid == tgid);
    for process in report.processes.iter().filter(|process| !ours(process.tgid)) {
        for destination in process.destinations.iter().filter(|there| there.netns == truth.netns) {
            let mut ends = truth.processes.iter().flat_map(|process| &process.ends);
            if ends.any(|(end, _)| is_at(destination, *end)) {
                let label = format!("{} {} at {}", process.comm, process.tgid, place(destination));
                differences.equal(&label, Tally::default(), destination.tally);
            }
        }
    }
}
