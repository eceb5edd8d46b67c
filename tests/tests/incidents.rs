//! Five incidents that people had, made again: the same mistakes in Python, against real servers at the far end of a cable, with
//! few ports. The program, its destination, the line of code, who holds the ports and whose every TIME_WAIT is: what portchurn
//! says is held to what the scripts say of themselves, and to the kernel's own tables.

use anyhow::{Context as _, Result, ensure};
use portchurn_tests::harness::budgets::{
    Lister, budget_in, budget_of, equal, exhausted, in_namespace, owned_in,
};
use portchurn_tests::harness::lines::{Lines, found, truth};
use portchurn_tests::harness::report::{Program, Report};
use portchurn_tests::harness::servers::Server;
use portchurn_tests::harness::sites::{self, Destination, by_line, none_too_soon};
use portchurn_tests::harness::tracer::Tracer;
use portchurn_tests::harness::veth::{Cable, Guest, SERVER};
use portchurn_tests::harness::{Alone, check};
use serde::Deserialize;
use serde_json::Value;

/// What a script says in the end.
#[derive(Debug, Deserialize)]
struct End {
    pid: u32,
    /// What its driver said of each connect that failed.
    failed: Vec<String>,
}

/// An incident that happened: everything lives on, so that it can be looked at.
struct Incident {
    cable: Cable,
    tracer: Tracer,
    waits: Lister,
    ports: Lister,
    _script: Guest,
    name: &'static str,
    lines: Lines,
    end: End,
}

impl Incident {
    /// Makes the mistake, with a tracer that knows the script before it does anything.
    fn of(name: &'static str, cable: Cable, ports: &[u16]) -> Result<Self> {
        let ports: Vec<_> = ports.iter().map(u16::to_string).collect();
        let arguments: Vec<_> = [name, SERVER].into_iter().chain(ports.iter().map(String::as_str)).collect();
        let mut script = cable.script(&cable.client, "incidents.py", &arguments, &[])?;
        let (tracer, waits, ports) = (sites::start_all()?, Lister::start()?, Lister::of_ports()?);
        script.go()?;
        let mut account = String::new();
        let end = loop {
            let line = script.line()?;
            if line.starts_with('{') {
                break serde_json::from_str(&line).with_context(|| format!("understand {line}"))?;
            }
            account.push_str(&line);
        };
        Ok(Self { cable, tracer, waits, ports, _script: script, name, lines: truth(&account)?, end })
    }

    fn attempts(&self) -> u64 {
        self.lines.values().sum()
    }

    fn failures(&self) -> u64 {
        self.end.failed.len() as u64
    }

    /// That every failure is the one of the mission, in the words of the driver.
    fn found_no_port(&self) -> Result<()> {
        let says_so = |error: &String| error.contains("(99)") || error.contains("Errno 99");
        ensure!(!self.end.failed.is_empty(), "no connect failed");
        ensure!(self.end.failed.iter().all(says_so), "other failures: {:?}", self.end.failed);
        Ok(())
    }

    /// Waits until the lines that opened connections are those that the script says, each as often; then `also` must hold of
    /// the destinations.
    fn blames_the_line(&mut self, also: impl Fn(&[Destination]) -> Result<()>) -> Result<()> {
        let attempts = self.attempts();
        let Self { tracer, name, lines, .. } = self;
        sites::wait_for(tracer, name, |destinations| {
            none_too_soon(destinations)?;
            sites::opens_are(destinations, attempts)?;
            sites::are_those(&found(destinations)?.0, lines, 0)?;
            also(destinations)
        })?;
        Ok(())
    }

    /// Waits until this holds of what portchurn says, while the kernel's own tables change as they like.
    fn says(&mut self, what: impl Fn(&Cable, &Report) -> Result<()>) -> Result<()> {
        let Self { cable, tracer, .. } = self;
        tracer.wait_until(|report| what(cable, report))
    }

    /// Ends it. Every TIME_WAIT that the kernel has at both ends of the cable must have an owner, and these processes so many;
    /// those at the client and as many living connections hold its ports, where there is one destination with few.
    fn ends_with(self, owners: &[(u32, u64)], living: Option<u64>) -> Result<()> {
        let Self { cable, tracer, waits, ports, .. } = self;
        let held = |end| cable.time_wait(end);
        let held = [held(&cable.client)?, held(&cable.server)?];
        let (said, ports) = (waits.stop()?, ports.stop()?);
        if let Some(living) = living {
            let row = budget_of(&ports, cable.inode(&cable.client)?).context("no budget")?;
            equal("ports used", row["used"].as_u64().unwrap_or(0), held[0] + living)?;
        }
        for (end, held) in [&cable.client, &cable.server].into_iter().zip(held) {
            let (owned, all) = in_namespace(&said, cable.inode(end)?);
            ensure!((owned, all) == (held, held), "{end}: {owned} of {all} owned, the kernel has {held}");
        }
        for (pid, count) in owners {
            equal(&format!("TIME_WAIT of process {pid}"), owned_in(&said, *pid), *count)?;
        }
        tracer.stop().map(drop)
    }
}

/// Runs an incident, again if the interpreter was found too late.
fn incident(name: &'static str, run: impl Fn(&'static str) -> Result<()>) {
    check(name, || {
        sites::in_time(|| {
            let _alone = Alone::wait()?;
            run(name)
        })
    });
}

fn runs(program: &Program, name: &str) -> bool {
    program.argv.iter().any(|word| word == name)
}

/// The record of an exhaustion in which this process failed.
fn event_of(report: &Report, pid: u32) -> Result<&Value> {
    let mut events = report.exhaustion.as_array().into_iter().flatten();
    let has_failed = |event: &&Value| {
        event["failed"].as_array().is_some_and(|failed| failed.iter().any(|by| by["tgid"] == pid))
    };
    events.find(has_failed).context("no record of an exhaustion")
}

/// "Nearly all TIME_WAIT are to MySQL, but whose?": `getSession()` in a loop.
#[test]
fn incident_0() {
    incident("incident_0", |name| {
        let cable = Cable::new(&["tcp_tw_reuse=0"])?;
        let server = Server::mariadb_over(&cable)?;
        let mut incident = Incident::of(name, cable, &[server.port])?;
        ensure!(incident.lines.len() == 1, "it is one line: {:?}", incident.lines);
        incident.blames_the_line(|destinations| {
            let [to] = destinations else { anyhow::bail!("one destination: {destinations:?}") };
            ensure!(to.remote_port == Some(server.port), "{to:?}");
            equal("connections", to.opened, 40)?;
            equal("connections that were closed", to.closed, 40)
        })?;
        incident.says(|_, report| {
            let busiest = report.programs.iter().max_by_key(|program| program.tally.opened);
            let is_it = busiest.is_some_and(|program| runs(program, name));
            ensure!(is_it, "another program is in front: {busiest:?}");
            Ok(())
        })?;
        // Who of both closes first is a race: together they hold one for each connection.
        let client = incident.cable.time_wait(&incident.cable.client)?;
        let owners = [(incident.end.pid, client), (server.pid(), 40 - client)];
        incident.ends_with(&owners, None)
    });
}

/// "Can't connect to MySQL server (99)" now and then: connect and close in a loop, until the ports are used up.
#[test]
fn incident_1() {
    incident("incident_1", |name| {
        let cable = Cable::new(&["ip_local_port_range=40000 40059", "tcp_tw_reuse=0"])?;
        let server = Server::mariadb_over(&cable)?;
        let mut incident = Incident::of(name, cable, &[server.port])?;
        incident.found_no_port()?;
        let (pid, failures) = (incident.end.pid, incident.failures());
        incident.blames_the_line(|destinations| {
            let [to] = destinations else { anyhow::bail!("one destination: {destinations:?}") };
            equal("no port", to.failed_by.get("EADDRNOTAVAIL").copied().unwrap_or(0), failures)?;
            equal("no port, by line", by_line(&to.call_sites, "no_port").values().sum(), failures)
        })?;
        incident.says(|cable, report| {
            let row = budget_in(report, cable.inode(&cable.client)?).context("no budget")?;
            equal("ports there are", row["limit"].as_u64().unwrap_or(0), 60)?;
            equal("failures in the record", exhausted(report, pid), failures)?;
            let holder = &event_of(report, pid)?["holders"][0];
            ensure!(holder["tgid"] == pid && holder["ports"] == 60, "who held them: {holder}");
            Ok(())
        })?;
        let client = incident.cable.time_wait(&incident.cable.client)?;
        incident.ends_with(&[(pid, client)], Some(0))
    });
}

/// "No buffer space available: connect", and two suspects: one destination is used well, the other gets a client for each
/// request, which nobody closes.
#[test]
fn incident_2() {
    incident("incident_2", |name| {
        let cable = Cable::new(&["ip_local_port_range=40000 40059", "tcp_tw_reuse=1"])?;
        let (users, rows) = (Server::mariadb_over(&cable)?, Server::redis_over(&cable)?);
        let mut incident = Incident::of(name, cable, &[users.port, rows.port])?;
        incident.found_no_port()?;
        let (pid, failures) = (incident.end.pid, incident.failures());
        let leaked = incident.attempts() - 1 - failures;
        incident.blames_the_line(|destinations| {
            let to = |port| destinations.iter().find(|to| to.remote_port == Some(port));
            let (users, rows) = (to(users.port).context("no users")?, to(rows.port).context("no rows")?);
            equal("connections for users", users.opened, 1)?;
            equal("connections for rows", rows.opened, leaked)?;
            equal("of them closed", rows.closed + users.closed, 0)?;
            equal("no port", rows.failed_by.get("EADDRNOTAVAIL").copied().unwrap_or(0), failures)
        })?;
        incident.says(|cable, report| {
            let netns = cable.inode(&cable.client)?;
            let mut budgets = report.ports.as_array().into_iter().flatten();
            let is_it = |row: &&Value| row["netns"] == netns && row["remote_port"] == rows.port;
            let row = budgets.find(is_it).context("no budget")?;
            equal("ports with a living connection", row["established"].as_u64().unwrap_or(0), leaked)?;
            equal("ports in TIME_WAIT", row["time_wait"].as_u64().unwrap_or(1), 0)?;
            let holder = &event_of(report, pid)?["holders"][0];
            ensure!(holder["tgid"] == pid && holder["ports"] == leaked, "who held them: {holder}");
            Ok(())
        })?;
        incident.ends_with(&[(pid, 0)], None)
    });
}

/// "`tcp_tw_reuse` is set and does nothing": a parallel map with a connection for each item, without timestamps.
#[test]
fn incident_3() {
    incident("incident_3", |name| {
        let settings = ["ip_local_port_range=40000 40059", "tcp_tw_reuse=1", "tcp_timestamps=0"];
        let cable = Cable::new(&settings)?;
        let server = Server::mariadb_over(&cable)?;
        let mut incident = Incident::of(name, cable, &[server.port])?;
        incident.found_no_port()?;
        let failures = incident.failures();
        incident.blames_the_line(|destinations| {
            let failed = destinations.iter().filter_map(|to| to.failed_by.get("EADDRNOTAVAIL"));
            equal("no port", failed.sum(), failures)
        })?;
        incident.says(|cable, report| {
            let mut programs = report.programs.iter().filter(|program| runs(program, name));
            let program = programs.next().context("not seen")?;
            ensure!(programs.next().is_none(), "workers of one pool are one program");
            equal("workers", program.process_count, 3)?;
            let row = budget_in(report, cable.inode(&cable.client)?).context("no budget")?;
            let because = row["reuse_because"].as_str().unwrap_or_default();
            ensure!(because == "tcp_tw_reuse does nothing while tcp_timestamps=0", "{row}");
            Ok(())
        })?;
        incident.ends_with(&[], Some(0))
    });
}

/// TIME_WAIT on both ends, by "root, inode 0": what was deployed the day before never closes, and where the server hangs up first
/// it pays, while that costs no port here.
#[test]
fn incident_4() {
    incident("incident_4", |name| {
        let cable = Cable::new(&["ip_local_port_range=40000 40059", "tcp_tw_reuse=0"])?;
        let server = Server::mariadb_over(&cable)?;
        let mut incident = Incident::of(name, cable, &[server.port])?;
        ensure!(incident.lines.len() == 3, "it is three lines: {:?}", incident.lines);
        incident.blames_the_line(|destinations| {
            let all = || destinations.iter().flat_map(|to| to.sites("close"));
            let is_exit =
                |note: &Option<String>| note.as_deref().is_some_and(|note| note.starts_with("process exit"));
            let exits = all().filter(|site| is_exit(&site.note)).map(|site| site.count).sum();
            equal("connections that only the end of the process closed", exits, 13)
        })?;
        incident.says(|_, report| {
            // Another program starts what was deployed than what was there before: two rows.
            let mut programs = report.programs.iter().filter(|program| runs(program, name));
            let ended =
                |program: &Program| program.destinations.iter().map(|to| to.closed_by.process_exit).sum();
            let deployed = programs.find(|program| ended(program) > 0).context("not seen")?;
            equal("started", deployed.process_count, 13)?;
            equal("ended by the end of their process", ended(deployed), 13)
        })?;
        let there = incident.cable.time_wait(&incident.cable.server)?;
        ensure!(there > 0, "the server did not hang up first");
        // One port more for who told the server to hang up; none for what waits at the server.
        incident.ends_with(&[(server.pid(), there)], Some(1))
    });
}
