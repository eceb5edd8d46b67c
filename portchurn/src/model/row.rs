//! One line of a table: what a program, a destination or a process looks like to columns, filters and sorting.
//! Made from a snapshot; owns nothing of it but what it shows.

use std::borrow::Cow;

use crate::model::program::name_and_script;
use portchurn_common::tcp::FailKind;

use crate::model::snapshot::{ClosedBy, Destination, ProcessStats, Program, Role, Snapshot, Tally};

/// What a row stands for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Level {
    /// A group of processes and all its destinations.
    Program,
    /// A program (or process) and one destination.
    Destination,
    /// One process.
    Process,
}

/// What a row was made from: what outputs need to find it again in the next snapshot.
#[derive(Clone, Copy, Debug)]
pub enum Owner<'a> {
    /// A group of processes.
    Program(&'a Program),
    /// One process.
    Process(&'a ProcessStats),
}

/// One line of a table.
#[derive(Clone, Debug)]
pub struct Row<'a> {
    /// What it stands for.
    pub level: Level,
    /// What it was made from.
    pub owner: Owner<'a>,
    /// What runs, interpreter and script: `python3 worker.py`.
    pub program: Cow<'a, str>,
    /// Path of the executable.
    pub exe: Option<&'a str>,
    /// Arguments.
    pub argv: &'a [String],
    /// systemd unit.
    pub unit: Option<&'a str>,
    /// Container.
    pub container: Option<&'a str>,
    /// `comm` of the parent.
    pub parent: Option<&'a str>,
    /// Process, where the row is one.
    pub tgid: Option<u32>,
    /// Processes behind the row.
    pub process_count: u64,
    /// Whether all of them have ended.
    pub exited: bool,
    /// How many connections.
    pub tally: Tally,
    /// Where to, or where from: the single one, or the busiest.
    pub destination: Option<&'a Destination>,
    /// How many destinations are behind the row.
    pub destination_count: usize,
    /// Every destination behind the row.
    pub destinations: &'a [Destination],
}

impl<'a> Row<'a> {
    /// A group of processes.
    pub fn of_program(program: &'a Program) -> Self {
        Self {
            level: Level::Program,
            owner: Owner::Program(program),
            program: display_name(&program.program, program.script.as_deref()),
            exe: program.exe.as_deref(),
            argv: &program.argv,
            unit: program.unit.as_deref(),
            container: program.container.as_deref(),
            parent: program.parent_program.as_deref(),
            tgid: None,
            process_count: program.process_count,
            exited: program.exited_count == program.process_count,
            tally: program.tally,
            destination: program.destinations.first(),
            destination_count: program.destinations.len(),
            destinations: &program.destinations,
        }
    }

    /// One process.
    pub fn of_process(process: &'a ProcessStats) -> Self {
        let program: Cow<'_, str> = if process.tgid == 0 {
            "(not attributed)".into()
        } else {
            let (program, script) = name_and_script(&process.comm, process.exe.as_deref(), &process.argv);
            display_name(&program, script.as_deref()).into_owned().into()
        };
        Self {
            level: Level::Process,
            owner: Owner::Process(process),
            program,
            exe: process.exe.as_deref(),
            argv: &process.argv,
            unit: process.unit.as_deref(),
            container: process.container.as_deref(),
            parent: process.parent_comm.as_deref(),
            tgid: Some(process.tgid),
            process_count: 1,
            exited: process.exited,
            tally: process.tally,
            destination: process.destinations.first(),
            destination_count: process.destinations.len(),
            destinations: &process.destinations,
        }
    }

    /// The same owner, narrowed to one of its destinations.
    pub fn narrowed(&self, destination: &'a Destination) -> Self {
        Self {
            level: Level::Destination,
            tally: destination.tally,
            destination: Some(destination),
            destination_count: 1,
            destinations: std::slice::from_ref(destination),
            ..self.clone()
        }
    }

    /// Who ended the connections behind this row.
    pub fn closed_by(&self) -> ClosedBy {
        let mut sum = ClosedBy::default();
        for destination in self.destinations {
            let one = destination.closed_by;
            sum.local += one.local;
            sum.remote += one.remote;
            sum.simultaneous += one.simultaneous;
            sum.reset += one.reset;
            sum.process_exit += one.process_exit;
        }
        sum
    }

    /// Closes behind this row after which a TIME_WAIT is expected.
    pub fn time_wait_entered(&self) -> u64 {
        self.destinations.iter().map(|destination| destination.time_wait_entered).sum()
    }

    /// Who mostly ended the connections, and how many of them; `None` when none has ended.
    pub fn closer(&self) -> Option<(&'static str, u64)> {
        let (name, count) = self.closed_by().mostly()?;
        // The column has no room for the long word.
        Some((if name == "simultaneous" { "both" } else { name }, count))
    }

    /// Median life of the busiest destination. Microseconds.
    pub fn lifetime_p50_us(&self) -> Option<u64> {
        self.destination.and_then(|destination| destination.lifetime_us).map(|quantiles| quantiles.p50)
    }

    /// Median connect duration of the busiest destination. Microseconds.
    pub fn connect_p50_us(&self) -> Option<u64> {
        self.destination.and_then(|destination| destination.connect_us).map(|quantiles| quantiles.p50)
    }

    /// Failures behind this row with this errno name.
    pub fn failed_by(&self, errno: &str) -> u64 {
        self.destinations.iter().filter_map(|destination| destination.failed_by.get(errno)).sum()
    }
}

/// A snapshot as rows, one level of detail.
pub fn rows(snapshot: &Snapshot, level: Level) -> Vec<Row<'_>> {
    match level {
        Level::Program => snapshot.programs.iter().map(Row::of_program).collect(),
        Level::Process => snapshot.processes.iter().map(Row::of_process).collect(),
        Level::Destination => snapshot
            .programs
            .iter()
            .map(Row::of_program)
            .flat_map(|row| row.destinations.iter().map(move |d| row.narrowed(d)).collect::<Vec<_>>())
            .collect(),
    }
}

/// `10.0.0.2:3306`, `[fe80::1]:80`, or `:8080` for accepts on a local port.
pub fn destination_text(destination: &Destination) -> String {
    match (destination.role, destination.remote_address, destination.remote_port) {
        (Role::Accept, ..) => match destination.local_port {
            Some(port) => format!(":{port}"),
            None => "(other ports)".to_owned(),
        },
        (Role::Connect, Some(address), Some(port)) => std::net::SocketAddr::new(address, port).to_string(),
        (Role::Connect, ..) if is_of_binds(destination) => "(bind to any port)".to_owned(),
        (Role::Connect, ..) => "(other destinations)".to_owned(),
    }
}

/// A `bind()` that found no port says nothing of where it was to lead.
fn is_of_binds(destination: &Destination) -> bool {
    destination.failed_by.len() == 1 && destination.failed_by.contains_key(FailKind::Eaddrinuse.name())
}

/// A program as people call it, with its script: `python3 worker.py`.
pub fn display_name<'a>(program: &'a str, script: Option<&str>) -> Cow<'a, str> {
    match script {
        Some(script) => format!("{program} {}", file_name(script)).into(),
        None => program.into(),
    }
}

/// The last part of a path.
pub fn file_name(path: &str) -> &str {
    path.rsplit('/').find(|part| !part.is_empty()).unwrap_or(path)
}
