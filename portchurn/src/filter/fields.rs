//! The fields of the filter language: one row each, from which parsing, suggestions and help come. A new field is one
//! row here, one variant, and its value in `subject`.

use portchurn_common::record::FlowEvent;
use portchurn_common::tcp::FailKind;

use crate::filter::Scope;

/// What a field holds, and with it the operators and values it takes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    /// Any text.
    Text,
    /// One of these names.
    Name(&'static [&'static str]),
    /// A number.
    Number,
    /// A port.
    Port,
    /// A duration, kept in microseconds.
    Duration,
    /// An address, perhaps with a port.
    Address,
}

/// A field.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Field {
    Pid,
    Comm,
    Exe,
    Argv,
    Unit,
    Container,
    Parent,
    Dest,
    Dport,
    Lport,
    Role,
    Netns,
    Closer,
    Error,
    Life,
    Connect,
    Opens,
    Closes,
    Opened,
    Closed,
    Failed,
    Open,
    Event,
}

/// One field, for help and suggestions.
#[derive(Clone, Copy, Debug)]
pub struct FieldInfo {
    /// Name.
    pub name: &'static str,
    /// Other names.
    pub aliases: &'static [&'static str],
    /// What it is.
    pub what: &'static str,
    /// A filter that uses it.
    pub example: &'static str,
    pub(super) field: Field,
    pub(super) kind: Kind,
    scopes: &'static [Scope],
}

impl FieldInfo {
    /// Whether it means something there.
    pub fn is_in(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }
}

const BOTH: &[Scope] = &[Scope::Rows, Scope::Events];
const ROWS: &[Scope] = &[Scope::Rows];
const EVENTS: &[Scope] = &[Scope::Events];

/// Who ended a connection, as column CLOSER says it.
const CLOSERS: &[&str] = &["local", "remote", "simultaneous", "both", "reset", "exit"];

/// The errors that the kernel side tells apart.
const ERRORS: &[&str] = &{
    let mut names = [""; FailKind::COUNT];
    let mut i = 0;
    while i < names.len() {
        names[i] = FailKind::ALL[i].name();
        i += 1;
    }
    names
};

const EVENT_NAMES: &[&str] =
    &[FlowEvent::Connect.name(), FlowEvent::Accept.name(), FlowEvent::Close.name(), FlowEvent::Fail.name()];

/// A row of the table, without the words.
const fn row(
    field: Field,
    kind: Kind,
    scopes: &'static [Scope],
    names: (&'static str, &'static [&'static str]),
    (what, example): (&'static str, &'static str),
) -> FieldInfo {
    FieldInfo { name: names.0, aliases: names.1, what, example, field, kind, scopes }
}

/// Every field, in the order of help.
#[rustfmt::skip]
pub const FIELDS: &[FieldInfo] = &[
    row(Field::Comm, Kind::Text, BOTH, ("comm", &["program", "prog"]),
        ("Program, or the script that it runs.", "comm=nginx")),
    row(Field::Exe, Kind::Text, BOTH, ("exe", &[]),
        ("Executable: its path, or its file name.", "exe=/usr/bin/*")),
    row(Field::Argv, Kind::Text, BOTH, ("argv", &["args", "cmdline"]),
        ("One argument, or the whole command line.", "argv~--config=.*prod")),
    row(Field::Pid, Kind::Number, BOTH, ("pid", &["tgid"]),
        ("Process, where a row is one.", "pid=4711")),
    row(Field::Unit, Kind::Text, BOTH, ("unit", &["service"]),
        ("systemd unit, with or without its ending.", "unit=php-fpm")),
    row(Field::Container, Kind::Text, BOTH, ("container", &[]),
        ("Container: id, its first 12 digits, or name.", "container=4d5b0e8a0c8f")),
    row(Field::Parent, Kind::Text, BOTH, ("parent", &[]),
        ("Program of the parent process.", "parent=cron")),
    row(Field::Dest, Kind::Address, BOTH, ("dest", &["destination", "remote"]),
        ("Remote address, network, or address and port.", "dest in 10.0.0.0/8,192.168.0.0/16")),
    row(Field::Dport, Kind::Port, BOTH, ("dport", &["remote_port"]),
        ("Remote port.", "dport=3306")),
    row(Field::Lport, Kind::Port, BOTH, ("lport", &["local_port"]),
        ("Local port; of a row, that which accepts.", "lport in 8000-8999")),
    row(Field::Role, Kind::Name(&["connect", "accept"]), BOTH, ("role", &[]),
        ("Side of the handshake: connect, accept.", "role=connect")),
    row(Field::Netns, Kind::Number, BOTH, ("netns", &[]),
        ("Network namespace, its inode number.", "netns=4026531840")),
    row(Field::Closer, Kind::Name(CLOSERS), BOTH, ("closer", &["closed_by"]),
        ("Who (mostly) ended it: local, remote, simultaneous, reset, exit.", "closer=local")),
    row(Field::Error, Kind::Name(ERRORS), BOTH, ("error", &["errno"]),
        ("Why connects failed; * is any reason.", "error=EADDRNOTAVAIL")),
    row(Field::Life, Kind::Duration, BOTH, ("life", &["lifetime"]),
        ("Life of closed connections; of a row, the median.", "life<10ms")),
    row(Field::Connect, Kind::Duration, BOTH, ("connect", &["connect_time"]),
        ("Duration of connects; of a row, the median.", "connect>=1s")),
    row(Field::Opens, Kind::Number, ROWS, ("opens", &["opened_per_s"]),
        ("Connects established per second.", "opens>100")),
    row(Field::Closes, Kind::Number, ROWS, ("closes", &["closed_per_s"]),
        ("Connections ended per second.", "closes>=1k")),
    row(Field::Opened, Kind::Number, ROWS, ("opened", &[]),
        ("Connects established since the attach.", "opened>=100")),
    row(Field::Closed, Kind::Number, ROWS, ("closed", &[]),
        ("Connections ended since the attach.", "closed>0")),
    row(Field::Failed, Kind::Number, ROWS, ("failed", &["failures"]),
        ("Connects that failed since the attach.", "failed>0")),
    row(Field::Open, Kind::Number, ROWS, ("open", &["open_now"]),
        ("Connections open now.", "open>=1000")),
    row(Field::Event, Kind::Name(EVENT_NAMES), EVENTS, ("event", &["state"]),
        ("What happened: connect, accept, close, fail.", "event=close")),
];

impl Field {
    /// Whether one destination of a row decides.
    pub(super) fn is_of_destination(self) -> bool {
        let what_it_is = matches!(self, Self::Dest | Self::Dport | Self::Lport | Self::Role | Self::Netns);
        what_it_is || matches!(self, Self::Closer | Self::Error | Self::Life | Self::Connect)
    }

    /// Its row.
    pub(super) fn info(self) -> &'static FieldInfo {
        FIELDS.iter().find(|info| info.field == self).unwrap_or(&FIELDS[0])
    }
}

/// The field of this name, in any case.
pub(super) fn find(name: &str) -> Option<&'static FieldInfo> {
    FIELDS.iter().find(|info| names(info).any(|known| known.eq_ignore_ascii_case(name)))
}

fn names(info: &'static FieldInfo) -> impl Iterator<Item = &'static str> {
    std::iter::once(info.name).chain(info.aliases.iter().copied())
}

/// `; did you mean 'dport'?`, or what there is.
pub(super) fn suggest_field(name: &str) -> String {
    let known: Vec<_> = FIELDS.iter().flat_map(names).collect();
    match nearest(name, &known) {
        Some(near) => format!("; did you mean '{near}'?"),
        None => {
            let all: Vec<_> = FIELDS.iter().map(|info| info.name).collect();
            format!("; there are {}", all.join(", "))
        }
    }
}

/// The name that was probably meant.
pub(super) fn nearest(typed: &str, known: &[&'static str]) -> Option<&'static str> {
    let typed = typed.to_ascii_lowercase();
    let distance = |name: &str| strsim::osa_distance(&typed, &name.to_ascii_lowercase());
    let near = known.iter().copied().min_by_key(|name| distance(name))?;
    // A third of the letters wrong is a slip; more is another word.
    (distance(near) <= near.len().div_ceil(3)).then_some(near)
}

/// The whole language.
pub(super) fn help() -> String {
    let mut help = String::from(
        "A filter is one or more terms. A space or 'and' between them means both, 'or' means either ('and' binds\n\
         tighter), '!' or 'not' before one means the opposite; parentheses group.\n\n\
         \x20 word                 program, executable or destination contain it, in any case\n\
         \x20 field=value  !=      * and ? as in a shell; \"quoted\" text is taken as it is; a,b is either\n\
         \x20 field>value  >= < <= numbers (1k, 3Ki) and durations (5ms, 2s, 1m)\n\
         \x20 field~regex  !~      anywhere in the text\n\
         \x20 field in list        a,b or (a, b); networks 10.0.0.0/8; ranges 8000-8999\n\n\
         Fields:\n",
    );
    for info in FIELDS {
        help += &format!("  {:<10} {:<66} {}\n", info.name, info.what, info.example);
    }
    help
}
