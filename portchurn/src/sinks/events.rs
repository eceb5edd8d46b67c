//! The output of `trace`: one line per event, for people or as JSON. Like the other outputs it writes what it is given,
//! and hands an error of its writer back as it is.

use std::io;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};

use clap::ValueEnum;
use serde::Serialize;

use crate::model::columns::Cut;
use crate::model::event::TraceEvent;
use crate::sinks::human::micros;
use crate::sinks::json::escaped;
use crate::sinks::text::{clean, pad};
use crate::sinks::view::Page;

/// The formats of `trace`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum EventFormat {
    /// Aligned columns, for people
    #[default]
    Table,
    /// One JSON document per line
    Jsonl,
}

/// Writes events.
pub struct EventSink {
    out: Box<dyn Write>,
    format: EventFormat,
    page: Page,
    has_heading: bool,
    /// Whether call sites are taken: then they have a column.
    with_sites: bool,
}

/// A JSON line: the event, and when it was by the clock on the wall.
#[derive(Serialize)]
struct Line<'a> {
    time: &'a str,
    #[serde(flatten)]
    event: &'a TraceEvent,
}

/// Heading and width of the columns before the last, which is as long as it is.
const COLUMNS: [(&str, usize, bool); 7] = [
    ("TIME", 15, false),
    ("EVENT", 7, false),
    ("PID", 8, true),
    ("PROGRAM", 20, false),
    ("LOCAL", 22, false),
    ("REMOTE", 22, false),
    ("DURATION", 9, true),
];

/// Cells that these take with a detail behind them.
const WIDE: usize = 117;

/// The same for a terminal that has no room for that: whole seconds, and no address of ours. 0: not shown.
const NARROW: [usize; COLUMNS.len()] = [8, 7, 7, 12, 0, 19, 8];

/// Width of the detail, where the call site stands behind it.
const DETAIL_WIDTH: usize = 16;

impl EventSink {
    /// On this writer, on this paper.
    pub fn new(out: Box<dyn Write>, format: EventFormat, page: Page, with_sites: bool) -> Self {
        let has_heading = format != EventFormat::Table || !page.header;
        Self { out, format, page, has_heading, with_sites }
    }

    /// Writes one event; `time` is the clock on the wall, `rfc3339` the same with its date.
    pub fn event(&mut self, event: &TraceEvent, time: &str, rfc3339: &str) -> io::Result<()> {
        if !self.has_heading {
            self.has_heading = true;
            self.line(COLUMNS.map(|(heading, ..)| heading.to_owned()), "DETAIL", "CALL SITE")?;
        }
        match self.format {
            EventFormat::Table => {
                let time = if self.narrow().is_some() { time.get(..NARROW[0]).unwrap_or(time) } else { time };
                self.line(cells(event, time, &self.page), &detail(event), &site(event, &self.page))
            }
            EventFormat::Jsonl => {
                let text = escaped(serde_json::to_string(&Line { time: rfc3339, event })?);
                self.out.write_all((text + "\n").as_bytes())
            }
        }
    }

    /// Writes what was held back.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Width of a terminal that has no room for everything.
    fn narrow(&self) -> Option<usize> {
        self.page.width.map(usize::from).filter(|&width| width < WIDE)
    }

    fn line(&mut self, cells: [String; COLUMNS.len()], last: &str, site: &str) -> io::Result<()> {
        let glyphs = self.page.glyphs();
        let narrow = self.narrow();
        let gap = if narrow.is_some() { " " } else { "  " };
        let mut used = 0;
        for ((cell, (_, wide, right)), slim) in cells.iter().zip(COLUMNS).zip(NARROW) {
            let width = if narrow.is_some() { slim } else { wide };
            if width == 0 {
                continue;
            }
            let is_free = self.page.width.is_none() && crate::sinks::text::width(cell) > width;
            let text = if is_free { cell.clone() } else { pad(cell, width, right, Cut::Middle, glyphs) };
            write!(self.out, "{text}{gap}")?;
            used += width + gap.len();
        }
        if self.with_sites {
            return writeln!(self.out, "{}{gap}{site}", pad(last, DETAIL_WIDTH, false, Cut::End, glyphs));
        }
        match narrow {
            Some(width) => {
                let left = width.saturating_sub(used).max(1);
                writeln!(self.out, "{}", pad(last, left, false, Cut::End, glyphs).trim_end())
            }
            None => writeln!(self.out, "{last}"),
        }
    }
}

fn cells(event: &TraceEvent, time: &str, page: &Page) -> [String; 7] {
    let tgid = event.process.id.tgid;
    let program = clean(&event.program, page.unicode);
    [
        time.to_owned(),
        event.event.name().to_owned(),
        if tgid == 0 { "-".to_owned() } else { tgid.to_string() },
        // The owner that the listener gives is no more than likely.
        if event.owner_certain { program.into_owned() } else { format!("{program}?") },
        endpoint(event.local_address, event.local_port),
        endpoint(event.remote_address, Some(event.remote_port)),
        event.duration_us.map_or_else(String::new, |duration_us| micros(duration_us, page.glyphs())),
    ]
}

fn endpoint(address: IpAddr, port: Option<u16>) -> String {
    match port {
        Some(port) => SocketAddr::new(address, port).to_string(),
        None => format!("{address}:-"),
    }
}

fn detail(event: &TraceEvent) -> String {
    let how = match (event.close, event.fail) {
        (Some(close), _) => close.name(),
        (_, Some(fail)) => fail.name(),
        _ => return String::new(),
    };
    match event.closer_tgid {
        Some(closer) if closer != event.process.id.tgid => format!("{how} by {closer}"),
        _ => how.to_owned(),
    }
}

/// The line of code, short: `db.py:31 getSession`.
fn site(event: &TraceEvent, page: &Page) -> String {
    let Some(site) = &event.call_site else { return String::new() };
    let place = site.culprit.as_ref().map(ToString::to_string);
    let from = site.called_from.as_ref().map(|place| format!("from {place}"));
    let how = (!site.exact).then(|| "(sampled)".to_owned());
    let note = site.note.as_ref().map(|note| format!("[{note}]"));
    let parts: Vec<_> = [place, from, how, note].into_iter().flatten().collect();
    clean(&parts.join("  "), page.unicode).into_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use portchurn_common::record::FlowEvent;
    use portchurn_common::tcp::CloseKind;

    use super::{EventFormat, EventSink};
    use crate::model::event::TraceEvent;
    use crate::model::sample::{Process, ProcessId};
    use crate::model::snapshot::Role;
    use crate::sinks::tests::Shared;
    use crate::sinks::text::width;
    use crate::sinks::view::Page;

    fn event() -> TraceEvent {
        TraceEvent {
            at_ns: 5,
            event: FlowEvent::Close,
            process: Arc::new(Process { id: ProcessId { tgid: 77, start_ns: 1 }, ..Process::default() }),
            program: "python3 sync.py\u{1b}[2J".into(),
            owner_certain: true,
            role: Role::Connect,
            local_address: "10.0.0.1".parse().unwrap(),
            local_port: None,
            remote_address: "fe80::1".parse().unwrap(),
            remote_port: 3306,
            netns: None,
            cookie: Some(9),
            duration_us: Some(4100),
            close: Some(CloseKind::Remote),
            fail: None,
            closer_tgid: Some(78),
            call_site: None,
        }
    }

    fn written(format: EventFormat) -> String {
        written_on(Page::default(), format)
    }

    fn written_on(page: Page, format: EventFormat) -> String {
        let shared = Shared::default();
        let mut sink = EventSink::new(Box::new(shared.clone()), format, page, false);
        for _ in 0..2 {
            sink.event(&event(), "12:00:00.000001", "2026-11-20T12:00:00.000001Z").unwrap();
        }
        shared.text()
    }

    #[test]
    fn a_line_tells_who_where_how_long_and_how() {
        let text = written(EventFormat::Table);
        assert_eq!(text.lines().count(), 3, "one heading");
        let line = text.lines().nth(1).unwrap();
        for part in
            ["12:00:00.000001", "close", "77", "10.0.0.1:-", "[fe80::1]:3306", "4.1 ms", "remote by 78"]
        {
            assert!(line.contains(part), "{part}: {line}");
        }
        assert!(!text.contains('\u{1b}'));
    }

    #[test]
    fn a_line_fits_a_narrow_terminal() {
        let text = written_on(Page { width: Some(80), ..Page::default() }, EventFormat::Table);
        assert!(text.lines().all(|line| width(line) <= 80), "{text}");
        let line = text.lines().nth(1).unwrap();
        for part in ["12:00:00 close", "77", "[fe80::1]:3306", "4.1 ms", "remote by 78"] {
            assert!(line.contains(part), "{part}: {line}");
        }
        assert!(!line.contains("10.0.0.1"), "{line}");
    }

    #[test]
    fn a_json_line_is_one_document() {
        let text = written(EventFormat::Jsonl);
        let line: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!(line["time"], "2026-11-20T12:00:00.000001Z");
        assert_eq!(line["closed_by"], "remote");
        assert_eq!(line["local_port"], serde_json::Value::Null);
    }
}
