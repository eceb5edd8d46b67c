//! One line of a table: what a program, a destination or a process looks like to columns, filters and sorting.
//! Made from a snapshot; owns nothing of it but what it shows.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::model::churn::busier;
use crate::model::host_names::HostNames;
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
    /// A container and all its programs; outside of containers a systemd unit.
    Container,
}

impl Level {
    /// Every level, in the order in which one goes through them.
    pub const ALL: [Self; 4] = [Self::Program, Self::Destination, Self::Process, Self::Container];

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Program => "program",
            Self::Destination => "destination",
            Self::Process => "process",
            Self::Container => "container",
        }
    }

    /// Several of it.
    pub const fn plural(self) -> &'static str {
        match self {
            Self::Program => "programs",
            Self::Destination => "destinations",
            Self::Process => "processes",
            Self::Container => "containers and units",
        }
    }
}

/// What a row was made from: what outputs need to find it again in the next snapshot.
#[derive(Clone, Copy, Debug)]
pub enum Owner<'a> {
    /// A group of processes.
    Program(&'a Program),
    /// One process.
    Process(&'a ProcessStats),
    /// The programs of a container or unit.
    Container(RunsIn<&'a str>),
}

/// Where a program runs, by the name of that.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum RunsIn<S> {
    /// A container.
    Container(S),
    /// A systemd unit, of what is in no container.
    Unit(S),
    /// Neither.
    Host,
}

impl<'a> RunsIn<&'a str> {
    /// Where this one runs.
    pub fn of(program: &'a Program) -> Self {
        match (&program.container, &program.unit) {
            (Some(container), _) => Self::Container(container),
            (None, Some(unit)) => Self::Unit(unit),
            (None, None) => Self::Host,
        }
    }

    /// Its name.
    pub fn name(self) -> &'a str {
        match self {
            Self::Container(name) | Self::Unit(name) => name,
            Self::Host => "(no container, no unit)",
        }
    }

    /// To be kept beyond the snapshot.
    pub fn to_owned(self) -> RunsIn<String> {
        match self {
            Self::Container(name) => RunsIn::Container(name.to_owned()),
            Self::Unit(name) => RunsIn::Unit(name.to_owned()),
            Self::Host => RunsIn::Host,
        }
    }
}

impl RunsIn<String> {
    /// Whether both are the same place.
    pub fn is(&self, other: RunsIn<&str>) -> bool {
        match (self, other) {
            (Self::Container(a), RunsIn::Container(b)) | (Self::Unit(a), RunsIn::Unit(b)) => a == b,
            (Self::Host, RunsIn::Host) => true,
            _ => false,
        }
    }
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
    pub destinations: Vec<&'a Destination>,
    /// What addresses and ports are called, where they are to be named.
    pub names: Option<Arc<HostNames>>,
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
            destinations: program.destinations.iter().collect(),
            names: None,
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
            destinations: process.destinations.iter().collect(),
            names: None,
        }
    }

    /// What runs in one place. None of the programs: nothing.
    fn of_place(place: RunsIn<&'a str>, programs: &[&'a Program]) -> Self {
        let mut tally = Tally::default();
        programs.iter().for_each(|program| tally.add(&program.tally));
        // Of each program the busiest comes first.
        let busiest = programs.iter().filter_map(|program| program.destinations.first());
        let destinations: Vec<_> = programs.iter().flat_map(|program| &program.destinations).collect();
        Self {
            level: Level::Container,
            owner: Owner::Container(place),
            program: place.name().into(),
            exe: None,
            argv: &[],
            unit: programs.first().and_then(|program| program.unit.as_deref()),
            container: programs.first().and_then(|program| program.container.as_deref()),
            parent: None,
            tgid: None,
            process_count: programs.iter().map(|program| program.process_count).sum(),
            exited: programs.iter().all(|program| program.exited_count == program.process_count),
            tally,
            destination: busiest.min_by(|a, b| busier(&a.tally, &b.tally)),
            destination_count: destinations.len(),
            destinations,
            names: None,
        }
    }

    /// The same owner, narrowed to one of its destinations.
    pub fn narrowed(&self, destination: &'a Destination) -> Self {
        Self {
            level: Level::Destination,
            owner: self.owner,
            program: self.program.clone(),
            exe: self.exe,
            argv: self.argv,
            unit: self.unit,
            container: self.container,
            parent: self.parent,
            tgid: self.tgid,
            process_count: self.process_count,
            exited: self.exited,
            tally: destination.tally,
            destination: Some(destination),
            destination_count: 1,
            destinations: vec![destination],
            names: self.names.clone(),
        }
    }

    /// Where to, or where from, in words.
    pub fn destination_text(&self, destination: &Destination) -> String {
        named(destination, self.names.as_deref())
    }

    /// Who ended the connections behind this row.
    pub fn closed_by(&self) -> ClosedBy {
        let mut sum = ClosedBy::default();
        for destination in &self.destinations {
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

    /// Share of the local ports that are taken for the destination behind this row that is nearest to its end; `None` where
    /// none is known to take any.
    pub fn port_pressure_ratio(&self) -> Option<f64> {
        self.destinations
            .iter()
            .filter_map(|destination| destination.port_pressure_ratio)
            .max_by(f64::total_cmp)
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
            .flat_map(|row| row.destinations.iter().map(|one| row.narrowed(one)).collect::<Vec<_>>())
            .collect(),
        Level::Container => {
            let mut places: BTreeMap<RunsIn<&str>, Vec<&Program>> = BTreeMap::new();
            snapshot
                .programs
                .iter()
                .for_each(|program| places.entry(RunsIn::of(program)).or_default().push(program));
            places.iter().map(|(place, programs)| Row::of_place(*place, programs)).collect()
        }
    }
}

/// `10.0.0.2:3306`, `[fe80::1]:80`, or `:8080` for accepts on a local port.
pub fn destination_text(destination: &Destination) -> String {
    named(destination, None)
}

/// The same with names where there are any: `db1:mysql`.
fn named(destination: &Destination, names: Option<&HostNames>) -> String {
    let port_text =
        |port| names.and_then(|names| names.port(port)).map_or_else(|| port.to_string(), str::to_owned);
    match (destination.role, destination.remote_address, destination.remote_port) {
        (Role::Accept, ..) => match destination.local_port {
            Some(port) => format!(":{}", port_text(port)),
            None => "(other ports)".to_owned(),
        },
        (Role::Connect, Some(address), Some(port)) => {
            match (names.and_then(|names| names.address(address)), address) {
                (Some(name), _) => format!("{name}:{}", port_text(port)),
                (None, IpAddr::V4(address)) => format!("{address}:{}", port_text(port)),
                (None, IpAddr::V6(address)) => format!("[{address}]:{}", port_text(port)),
            }
        }
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
