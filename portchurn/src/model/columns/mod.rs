//! Columns: each is one value in one file, with everything that outputs need to know of it. A new column is one file
//! here and one row in [`COLUMNS`]; no output names a column.

use crate::model::row::{Level, Row};

mod accepts_per_s;
mod call_site;
mod closed;
mod closer;
mod closes_per_s;
mod connect_p50;
mod destination;
mod errors;
mod lifetime_p50;
mod open_now;
mod opened;
mod opens_per_s;
mod parent;
mod pid;
mod port_pressure;
mod processes;
mod program;
mod time_wait;
mod unit;

/// Where a cell's text stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// How text is cut when it does not fit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Cut {
    /// At the end.
    End,
    /// In the middle: addresses, whose two ends matter.
    Middle,
    /// At the start: paths.
    Start,
}

/// What a cell holds. How it is written is the output's business.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// Text.
    Text(String),
    /// A number of things.
    Count(u64),
    /// A number that names one thing, such as a PID: never grouped or shortened.
    Id(u64),
    /// A rate per second.
    PerSecond(f64),
    /// A duration in microseconds.
    Micros(u64),
    /// A time to come, in seconds.
    Seconds(f64),
    /// A share of something.
    Ratio(f64),
    /// Not known, or not applicable.
    Empty,
}

/// One column.
pub struct Column {
    /// Its name for `--columns`, `--sort` and CSV headers. Units stand in it.
    pub key: &'static str,
    /// Its name on the screen, short.
    pub header: &'static str,
    /// What it shows, one sentence.
    pub help: &'static str,
    /// Where its text stands.
    pub align: Align,
    /// How its text is cut.
    pub cut: Cut,
    /// Width it wants on the screen. Cells.
    pub width: u16,
    /// When the screen is narrow, columns with a higher number go first. 0 stays always.
    pub drop_order: u8,
    /// Whether it is shown unless `--columns` says otherwise.
    pub default: bool,
    /// Its value.
    pub cell: fn(&Row<'_>) -> Cell,
}

/// Every column, in the order in which they are shown.
pub const COLUMNS: &[&Column] = &[
    &program::COLUMN,
    &pid::COLUMN,
    &processes::COLUMN,
    &destination::COLUMN,
    &call_site::COLUMN,
    &opens_per_s::COLUMN,
    &accepts_per_s::COLUMN,
    &closes_per_s::COLUMN,
    &opened::COLUMN,
    &closed::COLUMN,
    &open_now::COLUMN,
    &errors::COLUMN,
    &lifetime_p50::COLUMN,
    &connect_p50::COLUMN,
    &closer::COLUMN,
    &time_wait::COLUMN,
    &port_pressure::COLUMN,
    &parent::COLUMN,
    &unit::COLUMN,
];

/// What is shown of rows of this level unless the user says otherwise. `with_sites`: call sites are taken.
pub fn defaults(level: Level, with_sites: bool) -> Vec<&'static Column> {
    let shown = |column: &&'static Column| match (level, column.key) {
        (_, "call_site") => with_sites,
        // How many processes one process is says nothing; which one it is does.
        (Level::Process, "pid") => true,
        (Level::Process, "processes") => false,
        _ => column.default,
    };
    COLUMNS.iter().copied().filter(shown).collect()
}

/// The column with this key.
pub fn find(key: &str) -> Option<&'static Column> {
    COLUMNS.iter().copied().find(|column| column.key == key)
}

#[cfg(test)]
mod tests {
    use super::COLUMNS;

    #[test]
    fn keys_are_unique_and_every_column_is_explained() {
        let mut keys: Vec<_> = COLUMNS.iter().map(|column| column.key).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), COLUMNS.len());
        for column in COLUMNS {
            assert!(column.help.ends_with('.'), "{}", column.key);
            assert!(column.header.len() <= usize::from(column.width), "{}", column.key);
        }
    }
}
