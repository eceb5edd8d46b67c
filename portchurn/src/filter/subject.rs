//! What rows and events answer when a filter asks for a field. Nothing is computed here that a table would show
//! differently.

use std::net::{IpAddr, SocketAddr};

use portchurn_common::record::FlowEvent;
use portchurn_common::tcp::CloseKind;

use crate::filter::fields::Field;
use crate::model::event::TraceEvent;
use crate::model::row::{Row, destination_text, file_name};
use crate::model::snapshot::{Destination, Role};

/// Whether a text is the one that is looked for.
pub(super) type Hit<'a> = &'a mut dyn FnMut(&str) -> bool;

/// Something that has fields.
pub(super) trait Subject {
    /// Whether one of the texts of a field is a hit.
    fn texts(&self, field: Field, hit: Hit<'_>) -> bool;

    /// The number in a field, durations in microseconds; `None` if it has none.
    fn number(&self, field: Field) -> Option<f64>;

    /// Remote address and port.
    fn remote(&self) -> (Option<IpAddr>, Option<u16>);
}

/// A row, looked at for one of its destinations.
pub(super) struct RowView<'a> {
    pub(super) row: &'a Row<'a>,
    pub(super) destination: Option<&'a Destination>,
}

impl Subject for RowView<'_> {
    fn texts(&self, field: Field, hit: Hit<'_>) -> bool {
        let row = self.row;
        match field {
            Field::Comm => is_program(&row.program, hit),
            Field::Exe => row.exe.is_some_and(|exe| is_path(exe, hit)),
            Field::Argv => is_command_line(row.argv, hit),
            Field::Unit => row.unit.is_some_and(|unit| is_unit(unit, hit)),
            Field::Container => row.container.is_some_and(|container| is_container(container, hit)),
            Field::Parent => row.parent.is_some_and(hit),
            _ => self.destination.is_some_and(|destination| destination_texts(destination, field, hit)),
        }
    }

    fn number(&self, field: Field) -> Option<f64> {
        let tally = &self.row.tally;
        match field {
            Field::Pid => self.row.tgid.map(f64::from),
            Field::Opens => Some(tally.opened_per_s),
            Field::Closes => Some(tally.closed_per_s),
            Field::Opened => Some(tally.opened as f64),
            Field::Closed => Some(tally.closed as f64),
            Field::Failed => Some(tally.failed as f64),
            Field::Open => Some(tally.open_now as f64),
            _ => self.destination.and_then(|destination| destination_number(destination, field)),
        }
    }

    fn remote(&self) -> (Option<IpAddr>, Option<u16>) {
        self.destination
            .map_or((None, None), |destination| (destination.remote_address, destination.remote_port))
    }
}

fn destination_texts(destination: &Destination, field: Field, hit: Hit<'_>) -> bool {
    match field {
        Field::Dest => hit(&destination_text(destination)),
        Field::Role => hit(role_name(destination.role)),
        Field::Closer => closers(destination.closed_by.mostly().map(|(name, _)| name), hit),
        Field::Error => destination.failed_by.iter().any(|(errno, &count)| count > 0 && hit(errno)),
        _ => false,
    }
}

fn destination_number(destination: &Destination, field: Field) -> Option<f64> {
    match field {
        Field::Dport => destination.remote_port.map(f64::from),
        Field::Lport => destination.local_port.map(f64::from),
        Field::Netns => known_netns(destination.netns),
        Field::Life => destination.lifetime_us.map(|life| life.p50 as f64),
        Field::Connect => destination.connect_us.map(|connect| connect.p50 as f64),
        _ => None,
    }
}

impl Subject for TraceEvent {
    fn texts(&self, field: Field, hit: Hit<'_>) -> bool {
        let process = &*self.process;
        match field {
            Field::Comm => is_program(&self.program, hit) || hit(&process.comm),
            Field::Exe => process.exe.as_deref().is_some_and(|exe| is_path(exe, hit)),
            Field::Argv => is_command_line(&process.argv, hit),
            Field::Unit => process.unit.as_deref().is_some_and(|unit| is_unit(unit, hit)),
            Field::Container => process.container.as_deref().is_some_and(|id| is_container(id, hit)),
            Field::Parent => process.parent_comm.as_deref().is_some_and(hit),
            Field::Dest => hit(&SocketAddr::new(self.remote_address, self.remote_port).to_string()),
            Field::Role => hit(role_name(self.role)),
            Field::Closer => closers(self.close.map(closer_of), hit),
            Field::Error => self.fail.is_some_and(|fail| hit(fail.name())),
            Field::Event => hit(self.event.name()),
            _ => false,
        }
    }

    fn number(&self, field: Field) -> Option<f64> {
        let duration_of = |events: &[FlowEvent]| {
            self.duration_us.filter(|_| events.contains(&self.event)).map(|duration_us| duration_us as f64)
        };
        match field {
            Field::Pid => Some(f64::from(self.process.id.tgid)),
            Field::Dport => Some(f64::from(self.remote_port)),
            Field::Lport => self.local_port.map(f64::from),
            Field::Netns => self.netns.and_then(known_netns),
            Field::Life => duration_of(&[FlowEvent::Close]),
            Field::Connect => duration_of(&[FlowEvent::Connect, FlowEvent::Fail]),
            _ => None,
        }
    }

    fn remote(&self) -> (Option<IpAddr>, Option<u16>) {
        (Some(self.remote_address), Some(self.remote_port))
    }
}

/// `python3 worker.py` is `python3` and `worker.py` too.
fn is_program(program: &str, hit: Hit<'_>) -> bool {
    hit(program)
        || program.split_once(' ').is_some_and(|(interpreter, script)| hit(interpreter) || hit(script))
}

fn is_path(path: &str, hit: Hit<'_>) -> bool {
    hit(path) || hit(file_name(path))
}

fn is_command_line(argv: &[String], hit: Hit<'_>) -> bool {
    argv.iter().any(|argument| hit(argument)) || (argv.len() > 1 && hit(&argv.join(" ")))
}

fn is_unit(unit: &str, hit: Hit<'_>) -> bool {
    hit(unit) || unit.rsplit_once('.').is_some_and(|(stem, _)| hit(stem))
}

/// `docker ps` shows the first 12 digits.
fn is_container(container: &str, hit: Hit<'_>) -> bool {
    hit(container) || (container.len() == 64 && container.get(..12).is_some_and(hit))
}

fn known_netns(netns: u32) -> Option<f64> {
    (netns != 0).then(|| f64::from(netns))
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Connect => "connect",
        Role::Accept => "accept",
    }
}

/// `simultaneous` is what JSON says, `both` what the column has room for.
fn closers(closer: Option<&'static str>, hit: Hit<'_>) -> bool {
    closer.is_some_and(|name| hit(name) || (name == "simultaneous" && hit("both")))
}

fn closer_of(kind: CloseKind) -> &'static str {
    match kind {
        CloseKind::Local => "local",
        CloseKind::Remote => "remote",
        CloseKind::Simultaneous => "simultaneous",
        CloseKind::ProcessExit => "exit",
        CloseKind::ResetLocal | CloseKind::ResetRemote | CloseKind::TimedOut => "reset",
    }
}
