//! Exact also at the highest rate, and whoever shares a processor with whom. One at a time: they want it for
//! themselves. Needs the privileges of a tracer.

use std::io::{BufRead, BufReader};
use std::process::{ChildStdout, Command, Stdio};

use anyhow::{Context, Result, ensure};
use portchurn_tests::harness::blind::undisturbed;
use portchurn_tests::harness::compare::{
    Precision, adds_up, matches_as_a_program, matches_by_name, matches_truth, matches_where_crowded,
};
use portchurn_tests::harness::programs::{Running, run_workload, start_workload, workload};
use portchurn_tests::harness::report::{Process, Program, Report};
use portchurn_tests::harness::tracer::Tracer;
use portchurn_tests::harness::{Alone, check, check_where_possible, is_guest, skip};
use portchurn_tests::truth::Truth;

const CYCLES: Count = Count { here: "100000", in_guest: "5000" };
const ACCEPTS: Count = Count { here: "10000", in_guest: "3000" };

/// How many cycles: an emulated processor makes a few hundred in a second.
#[derive(Clone, Copy)]
struct Count {
    here: &'static str,
    in_guest: &'static str,
}

impl Count {
    fn get(self) -> &'static str {
        if is_guest() { self.in_guest } else { self.here }
    }
}

fn is_exact(name: &str, count: &str, arguments: &[&str]) -> Result<()> {
    needs_processors(arguments)?;
    let _alone = Alone::wait()?;
    let mut tracer = Tracer::start(&[])?;
    let common = [name, "--count", count, "--ports", "8", "--netns", "own"];
    let truth = run_workload(&[&common, arguments].concat())?;
    let count: u64 = count.parse()?;
    for process in &truth.processes {
        let sum = process.sum();
        ensure!([count, 2 * count].contains(&sum.closed()), "the workload itself is not complete");
    }
    tracer.wait_until(|report| matches_truth(&truth, report, Precision::FULL))?;
    tracer.stop()?;
    Ok(())
}

/// Stacks that come too late on a crowded machine are lost, and say so; a connection never is.
#[test]
fn hundred_thousand_cycles_are_counted_also_with_lines_of_code() {
    check("hundred_thousand_cycles_are_counted_also_with_lines_of_code", || {
        undisturbed(|| {
            let _alone = Alone::wait()?;
            let mut tracer = Tracer::start(&["--stack", "auto"])?;
            let truth = run_workload(&["bulk", "--count", CYCLES.get(), "--ports", "8", "--netns", "own"])?;
            tracer.wait_until(|report| {
                for process in &truth.processes {
                    let found = report.processes_of(process.tgid).next().context("not seen")?.tally;
                    let made = process.sum();
                    let (seen, wanted) = (
                        [found.opened, found.accepted, found.closed, found.lost],
                        [made.opened, made.accepted, made.closed(), 0],
                    );
                    ensure!(seen == wanted, "the {}: {seen:?}, should be {wanted:?}", process.role);
                }
                Ok(())
            })?;
            tracer.stop()?;
            Ok(())
        })
    });
}

/// Skips what is bound to a processor that is not there.
fn needs_processors(arguments: &[&str]) -> Result<()> {
    let have = std::thread::available_parallelism().context("count the processors")?.get();
    let wanted = arguments.iter().filter_map(|argument| argument.parse::<usize>().ok()).max();
    if wanted.is_some_and(|wanted| wanted >= have) {
        return Err(skip(format!("there are only {have} processors")));
    }
    Ok(())
}

macro_rules! bulks {
    ($($test:ident: $name:literal $count:ident $($argument:literal)*;)*) => {$(
        #[test]
        fn $test() {
            check(stringify!($test), || undisturbed(|| is_exact($name, $count.get(), &[$($argument),*])));
        }
    )*};
}

bulks! {
    hundred_thousand_cycles_v4: "bulk" CYCLES "--client-cpu" "0" "--server-cpu" "0";
    hundred_thousand_cycles_v6: "bulk" CYCLES "--client-cpu" "0" "--server-cpu" "0" "--family" "v6";
    one_process_does_both_v4: "bulk-one" CYCLES;
    one_process_does_both_v6: "bulk-one" CYCLES "--family" "v6";
    two_pairs_on_two_processors_v4: "bulk-two-pairs" CYCLES;
    two_pairs_on_two_processors_v6: "bulk-two-pairs" CYCLES "--family" "v6";
    server_owns_when_client_closes_first_on_one_processor: "bulk" ACCEPTS "--client-cpu" "1" "--server-cpu" "1";
    server_owns_when_client_closes_first_on_two_processors: "bulk" ACCEPTS "--client-cpu" "0" "--server-cpu" "1";
    server_owns_when_it_closes_first_on_one_processor:
        "bulk-server-first" ACCEPTS "--client-cpu" "1" "--server-cpu" "1";
    server_owns_when_it_closes_first_on_two_processors:
        "bulk-server-first" ACCEPTS "--client-cpu" "0" "--server-cpu" "1";
}

/// An end on one processor meets the change of owner at `accept()` on another: each row still adds up. Which of the two came first,
/// and with it whose the connection was, nobody knows.
#[test]
fn resets_while_another_process_accepts_leave_nothing_open() {
    check("resets_while_another_process_accepts_leave_nothing_open", || {
        undisturbed(|| {
            let arguments = ["--client-cpu", "0", "--server-cpu", "1", "--netns", "own"];
            needs_processors(&arguments)?;
            let _alone = Alone::wait()?;
            let mut tracer = Tracer::start(&[])?;
            if tracer.latest.attached("inet_sock_set_state") != "tp_btf" {
                return Err(skip("without cookies an end may meet accept(): decision 0003"));
            }
            let common = ["prefork-reset", "--count", ACCEPTS.get()];
            let truth = run_workload(&[&common[..], &arguments].concat())?;
            tracer.wait_until(|report| {
                matches_by_name(&truth, report)?;
                let here =
                    |process: &Process| process.destinations.iter().any(|there| there.netns == truth.netns);
                for process in report.processes.iter().filter(|process| here(process)) {
                    ensure!(
                        process.tally.open_now == 0,
                        "{} {}: {:?}",
                        process.comm,
                        process.tgid,
                        process.tally
                    );
                }
                Ok(())
            })?;
            tracer.stop()?;
            Ok(())
        })
    });
}

/// More processes than processors, coming and going: interrupts and preemption hit the kernel side in mid-event.
#[test]
fn crowded_processors_lose_nothing() {
    check_where_possible("crowded_processors_lose_nothing", || undisturbed(crowded_processors));
}

/// All of them together have to find room while nobody reads: a key each, of 16,384.
const CLIENTS_MAX: usize = 12_000;

/// Runs so many of these side by side, each for so many seconds at most.
fn soak_at_once(count: usize, seconds: &str) -> Result<Vec<Truth>> {
    let clients = (CLIENTS_MAX / count).to_string();
    let arguments = ["soak", "--seconds", seconds, "--processes", &clients, "--netns", "own"];
    let start = |_| start_workload(&arguments);
    let crowd = (0..count).map(start).collect::<Result<Vec<_>>>()?;
    crowd.into_iter().map(Running::finish).collect()
}

fn crowded_processors() -> Result<()> {
    let _alone = Alone::wait()?;
    let mut tracer = Tracer::start(&[])?;
    let truths = soak_at_once(4, "3")?;
    tracer.wait_until(|report| {
        truths.iter().try_for_each(|truth| {
            // What is missing may be anybody's.
            let may_be_missing = report.skipped_at_most() > 0;
            if may_be_missing {
                matches_where_crowded(truth, report)
            } else {
                matches_as_a_program(truth, report)
            }
        })
    })?;
    tracer.stop()?;
    Ok(())
}

/// Whoever writes waits for its reader, and what comes meanwhile must keep its name, though its process is gone by then.
#[test]
fn a_slow_reader_costs_no_names() {
    check("a_slow_reader_costs_no_names", || {
        undisturbed(|| {
            let _alone = Alone::wait()?;
            let mut tracer = Tracer::start_unread(&[])?;
            let truths = soak_at_once(2, "5")?;
            tracer.wait_until(|report| {
                truths.iter().try_for_each(|truth| matches_where_crowded(truth, report))
            })?;
            tracer.stop()?;
            Ok(())
        })
    });
}

/// Processes that the shell loop starts.
const SHORT_LIVED: u64 = 500;

/// A server for so many connections, each of a process of its own.
struct ShortLived {
    server: Running,
    /// Where it tells its truth in the end.
    _output: BufReader<ChildStdout>,
    port: u16,
    count: u64,
}

impl ShortLived {
    fn start(count: u64) -> Result<Self> {
        if !Command::new("sh").args(["-c", ":"]).status().is_ok_and(|status| status.success()) {
            return Err(skip("there is no shell"));
        }
        let mut server = start_workload(&["serve", "--count", &count.to_string()])?;
        let mut first = String::new();
        let mut output = BufReader::new(server.child.stdout.take().context("a pipe was asked for")?);
        output.read_line(&mut first).context("learn the port")?;
        let port = first.trim().rsplit(' ').next().context("learn the port")?;
        let port = port.parse().context("understand the port")?;
        Ok(Self { server, _output: output, port, count })
    }

    /// Starts one after the other; in between the shell does this.
    fn run(mut self, pause: &str) -> Result<()> {
        let (port, count) = (self.port, self.count);
        let script = format!(
            "i=0; while [ $i -lt {count} ]; do \"$0\" once --port {port} || exit; {pause} i=$((i+1)); done"
        );
        let status = Command::new("sh")
            .args(["-c", &script])
            .arg(workload()?)
            .stdout(Stdio::null())
            .status()
            .context("run the loop")?;
        ensure!(status.success(), "the loop failed: {status}");
        ensure!(self.server.child.wait().context("wait for the server")?.success(), "the server failed");
        Ok(())
    }
}

/// All of them are told as one program, each with its connection.
fn are_told(report: &Report, port: u16, count: u64) -> Result<()> {
    adds_up(report)?;
    let groups: Vec<&Program> = report.programs.iter().filter(|program| connects_to(program, port)).collect();
    ensure!(groups.len() == 1, "{} groups instead of one: {groups:#?}", groups.len());
    is_the_loop(groups[0], port, count)
}

#[test]
fn five_hundred_short_lived_processes_are_one_program() {
    check("five_hundred_short_lived_processes_are_one_program", || {
        let _alone = Alone::wait()?;
        let mut tracer = Tracer::start(&[])?;
        let short_lived = ShortLived::start(SHORT_LIVED)?;
        let port = short_lived.port;
        short_lived.run("")?;
        tracer.wait_until(|report| are_told(report, port, SHORT_LIVED))?;
        tracer.stop()?;
        Ok(())
    });
}

/// Far more than the keys that there is room for, in fewer intervals than would take them back.
const PASSING: u64 = 300;

#[test]
fn short_lived_processes_find_room_however_long_the_interval_is() {
    check("short_lived_processes_find_room_however_long_the_interval_is", || {
        let _alone = Alone::wait()?;
        let short_lived = ShortLived::start(PASSING)?;
        let port = short_lived.port;
        let only = port.to_string();
        let mut tracer = Tracer::start(&["--interval", "6s", "--max-keys", "128", "-D", &only])?;
        // A process has its key until portchurn has looked twice after its end.
        short_lived.run("sleep 0.02;")?;
        tracer.wait_until(|report| are_told(report, port, PASSING))?;
        tracer.stop()?;
        Ok(())
    });
}

fn connects_to(program: &Program, port: u16) -> bool {
    program.destinations.iter().any(|destination| destination.remote_port == Some(port))
}

fn is_the_loop(group: &Program, port: u16, count: u64) -> Result<()> {
    let tally = group.tally;
    ensure!(group.process_count == count, "{} processes", group.process_count);
    ensure!(group.exited_count == count, "{} of them ended", group.exited_count);
    ensure!((tally.opened, tally.closed, tally.failed, tally.open_now) == (count, count, 0, 0), "{tally:?}");
    ensure!(group.destinations.len() == 1, "{} destinations", group.destinations.len());
    ensure!(group.destinations[0].closed_by.local == count, "{:?}", group.destinations[0].closed_by);
    ensure!(group.program == "portchurn-workload", "the program is {}", group.program);
    // What a link called sh leads to differs, but its comm is how it was called.
    ensure!(group.parent_program.as_deref() == Some("sh"), "the parent is {:?}", group.parent_program);
    let arguments: Vec<&str> = group.argv.iter().skip(1).map(String::as_str).collect();
    ensure!(arguments == ["once", "--port", &port.to_string()], "the arguments are {:?}", group.argv);
    Ok(())
}
