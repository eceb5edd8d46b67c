//! Where the screen stands: at a level, or inside of a row. Rows are found again by what they are, never by where they
//! stood, as the next snapshot may order them differently.

use std::net::IpAddr;

use crate::model::program::ProgramKey;
use crate::model::row::{Level, Owner, Row, RunsIn};
use crate::model::sample::ProcessId;
use crate::model::snapshot::{Destination, ProcessStats, Program, Role, Snapshot};

/// Which destination.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct DestinationId {
    role: Role,
    netns: u32,
    remote_address: Option<IpAddr>,
    remote_port: Option<u16>,
    local_port: Option<u16>,
}

/// Whose row.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum OwnerId {
    Program(ProgramKey),
    Process(ProcessId),
    Container(RunsIn<String>),
}

/// Which row.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct RowId {
    owner: OwnerId,
    destination: Option<DestinationId>,
}

/// Inside of a row.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// For the line above the rows.
    pub(super) title: String,
    /// What can be typed as a filter to come near to it.
    pub(super) row_words: PlaceWords,
    owner: OwnerId,
    /// Set: the processes behind this destination. Not set: the owner's destinations.
    destination: Option<DestinationId>,
}

/// What a command line could say about a place.
#[derive(Clone, Debug, Default)]
pub(super) struct PlaceWords {
    pub(super) program: Option<String>,
    pub(super) container: Option<String>,
    pub(super) unit: Option<String>,
    pub(super) tgid: Option<u32>,
    pub(super) remote: Option<(IpAddr, u16)>,
    pub(super) local_port: Option<u16>,
}

impl DestinationId {
    pub(super) fn of(destination: &Destination) -> Self {
        Self {
            role: destination.role,
            netns: destination.netns,
            remote_address: destination.remote_address,
            remote_port: destination.remote_port,
            local_port: destination.local_port,
        }
    }
}

impl OwnerId {
    pub(super) fn of(owner: Owner<'_>) -> Self {
        match owner {
            Owner::Program(program) => Self::Program(key_of_program(program)),
            Owner::Process(process) => Self::Process(process_id(process)),
            Owner::Container(place) => Self::Container(place.to_owned()),
        }
    }

    fn is(&self, owner: Owner<'_>) -> bool {
        match (self, owner) {
            (Self::Program(key), Owner::Program(program)) => is_program(program, key),
            (Self::Process(id), Owner::Process(process)) => process_id(process) == *id,
            (Self::Container(id), Owner::Container(place)) => id.is(place),
            _ => false,
        }
    }
}

impl RowId {
    pub(super) fn of(row: &Row<'_>) -> Self {
        let destination = row.destination.filter(|_| row.level == Level::Destination);
        Self { owner: OwnerId::of(row.owner), destination: destination.map(DestinationId::of) }
    }

    /// Whether this row is it.
    pub(super) fn is(&self, row: &Row<'_>) -> bool {
        let destination = row.destination.filter(|_| row.level == Level::Destination);
        self.owner.is(row.owner) && self.destination == destination.map(DestinationId::of)
    }
}

impl Place {
    /// Where Enter leads from a row; `None` if there is nothing inside.
    pub(super) fn inside(row: &Row<'_>) -> Option<Self> {
        let owner = OwnerId::of(row.owner);
        let title = match (row.level, row.destination) {
            (Level::Destination, Some(destination)) => row.destination_text(destination),
            (Level::Process, _) => format!("{} {}", row.program, row.tgid.unwrap_or(0)),
            _ => row.program.to_string(),
        };
        let destination = match (row.level, &owner, row.destination) {
            (Level::Destination, OwnerId::Program(_), Some(destination)) => {
                Some(DestinationId::of(destination))
            }
            (Level::Destination, ..) => return None,
            _ => None,
        };
        Some(Self { title, row_words: PlaceWords::of(row, destination), owner, destination })
    }

    /// What its rows stand for.
    pub(super) fn level(&self) -> Level {
        match (&self.owner, self.destination) {
            (OwnerId::Container(_), _) => Level::Program,
            (_, Some(_)) => Level::Process,
            (_, None) => Level::Destination,
        }
    }

    /// Its rows.
    pub(super) fn rows<'a>(&self, snapshot: &'a Snapshot) -> Vec<Row<'a>> {
        match (&self.owner, self.destination) {
            (OwnerId::Program(key), Some(destination)) => processes_behind(snapshot, key, destination),
            (OwnerId::Program(key), None) => {
                let program = snapshot.programs.iter().find(|program| is_program(program, key));
                program.map(Row::of_program).map_or_else(Vec::new, |row| destinations_of(&row))
            }
            (OwnerId::Container(id), _) => {
                let programs = snapshot.programs.iter().filter(|program| id.is(RunsIn::of(program)));
                programs.map(Row::of_program).collect()
            }
            (OwnerId::Process(id), _) => {
                let process = snapshot.processes.iter().find(|process| process_id(process) == *id);
                process.map(Row::of_process).map_or_else(Vec::new, |row| destinations_of(&row))
            }
        }
    }
}

impl PlaceWords {
    fn of(row: &Row<'_>, destination: Option<DestinationId>) -> Self {
        let is_place = matches!(row.owner, Owner::Container(_));
        let connect = destination.filter(|destination| destination.role == Role::Connect);
        Self {
            program: (row.tgid.is_none() && !is_place).then(|| row.program.to_string()),
            container: row.container.filter(|_| is_place).map(str::to_owned),
            unit: row.unit.filter(|_| is_place && row.container.is_none()).map(str::to_owned),
            tgid: row.tgid,
            remote: connect.and_then(|destination| destination.remote_address.zip(destination.remote_port)),
            local_port: destination.and_then(|destination| destination.local_port),
        }
    }
}

/// An owner's destination, as it is now.
pub(super) fn destination_of<'a>(
    snapshot: &'a Snapshot,
    owner: &OwnerId,
    wanted: DestinationId,
) -> Option<&'a Destination> {
    let destinations = match owner {
        OwnerId::Program(key) => {
            &snapshot.programs.iter().find(|program| is_program(program, key))?.destinations
        }
        OwnerId::Process(id) => {
            &snapshot.processes.iter().find(|process| process_id(process) == *id)?.destinations
        }
        OwnerId::Container(_) => return None,
    };
    destinations.iter().find(|one| DestinationId::of(one) == wanted)
}

fn destinations_of<'a>(row: &Row<'a>) -> Vec<Row<'a>> {
    row.destinations.iter().map(|one| row.narrowed(one)).collect()
}

/// Processes of a program, as far as they have to do with a destination.
fn processes_behind<'a>(snapshot: &'a Snapshot, key: &ProgramKey, wanted: DestinationId) -> Vec<Row<'a>> {
    let processes = snapshot.processes.iter().filter(|process| ProgramKey::of_stats(process) == *key);
    processes
        .filter_map(|process| {
            let destination = process.destinations.iter().find(|one| DestinationId::of(one) == wanted)?;
            let narrowed = Row::of_process(process).narrowed(destination);
            Some(Row { level: Level::Process, ..narrowed })
        })
        .collect()
}

fn process_id(process: &ProcessStats) -> ProcessId {
    ProcessId { tgid: process.tgid, start_ns: process.start_ns }
}

fn is_program(program: &Program, key: &ProgramKey) -> bool {
    program.program == key.program
        && program.script == key.script
        && program.unit == key.unit
        && program.container == key.container
        && program.parent_program == key.parent_program
}

fn key_of_program(program: &Program) -> ProgramKey {
    ProgramKey {
        program: program.program.clone(),
        script: program.script.clone(),
        unit: program.unit.clone(),
        container: program.container.clone(),
        parent_program: program.parent_program.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Place, RowId};
    use crate::model::row::{Level, Row, rows};
    use crate::sinks::sample_snapshot;

    #[test]
    fn program_to_destination_to_process_and_its_destinations() {
        let snapshot = sample_snapshot();
        let worker = Row::of_program(&snapshot.programs[0]);
        let program = Place::inside(&worker).unwrap();
        let destinations = program.rows(&snapshot);
        assert_eq!((program.level(), destinations.len()), (Level::Destination, 2));
        let destination = Place::inside(&destinations[0]).unwrap();
        assert_eq!(destination.title, "10.0.0.2:3306");
        let processes = destination.rows(&snapshot);
        assert_eq!(processes.iter().map(|row| row.tgid).collect::<Vec<_>>(), [Some(2000)]);
        assert_eq!(processes[0].tally.opened, 14_402);
        let process = Place::inside(&processes[0]).unwrap();
        let innermost = process.rows(&snapshot);
        assert_eq!(innermost.len(), 1);
        assert!(Place::inside(&innermost[0]).is_none());
    }

    #[test]
    fn every_program_of_the_sample_finds_its_processes() {
        let snapshot = sample_snapshot();
        for row in rows(&snapshot, Level::Destination) {
            let place = Place::inside(&row).unwrap();
            assert!(!place.rows(&snapshot).is_empty(), "{}", row.program);
        }
    }

    #[test]
    fn rows_are_told_apart_and_found_again() {
        let snapshot = sample_snapshot();
        let again = snapshot.clone();
        for level in Level::ALL {
            let ids: Vec<_> = rows(&snapshot, level).iter().map(RowId::of).collect();
            for (at, id) in ids.iter().enumerate() {
                let found: Vec<_> = (0..).zip(rows(&again, level)).filter(|(_, row)| id.is(row)).collect();
                assert_eq!(found.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [at]);
            }
        }
    }

    #[test]
    fn a_place_whose_owner_is_gone_is_empty() {
        let mut snapshot = sample_snapshot();
        let place = Place::inside(&Row::of_program(&snapshot.programs[0])).unwrap();
        snapshot.programs.clear();
        assert!(place.rows(&snapshot).is_empty());
    }
}
