//! The selected row in full: who it is, who ends its connections, how they fail, how long they live.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use crate::model::columns::Cut;
use crate::model::row::{Row, destination_text};
use crate::model::snapshot::{Bucket, Quantiles, ResetBy};
use crate::sinks::human;
use crate::sinks::text::{clean, fit, width};
use crate::sinks::tui::draw::{Ink, lines};

/// Lines that it needs.
pub(super) const HEIGHT: u16 = 7;

/// Cells of the words at the left.
pub(super) const LABEL: usize = 11;

const FREE: usize = usize::MAX;

/// Draws the pane; nothing if no row is selected.
pub(super) fn draw(buffer: &mut Buffer, area: Rect, row: Option<&Row<'_>>, ink: Ink) {
    let Some(row) = row else { return };
    let room = usize::from(area.width).saturating_sub(LABEL + 2);
    let text = |text: String| Span::raw(fit(&text, room, Cut::End, ink.glyphs).into_owned());
    let failures = failures(row, ink);
    let failed_style = if failures.is_some() { ink.theme.alarm() } else { Style::new() };
    let failed = Span::styled(failures.unwrap_or_else(|| "never".to_owned()), failed_style);
    let argv =
        row.argv.iter().map(|argument| clean(argument, ink.glyphs.unicode)).collect::<Vec<_>>().join(" ");
    // Which of them has this destination is not known here.
    let command = if argv.is_empty() {
        ink.glyphs.empty.to_owned()
    } else if row.tgid.is_none() && row.process_count > 1 {
        format!("one of {}: {argv}", human::count(row.process_count, FREE, ink.glyphs))
    } else {
        argv
    };
    let busiest = row.destination.map(destination_text).filter(|_| row.destination_count > 1);
    let of_busiest = busiest.map_or(String::new(), |text| format!("  of {text}"));
    let quantiles = |quantiles: Option<Quantiles>, more: &str| match quantiles {
        Some(quantiles) => text(quantiles_text(quantiles, ink) + &of_busiest + more),
        None => text(ink.glyphs.empty.to_owned()),
    };
    let destination = row.destination;
    let hills =
        destination.map_or(String::new(), |destination| hills(&destination.connect_histogram_us, ink));
    lines(
        buffer,
        area,
        [
            rule(&row.program, usize::from(area.width), ink),
            labelled("who", text(identity(row, ink)), ink),
            labelled("command", text(command), ink),
            labelled("closed by", text(closers(row, ink)), ink),
            labelled("failed", failed, ink),
            labelled("life", quantiles(destination.and_then(|destination| destination.lifetime_us), ""), ink),
            labelled(
                "connect",
                quantiles(destination.and_then(|destination| destination.connect_us), &hills),
                ink,
            ),
        ],
    );
}

/// `  30 µs ▂█▁▁▃ 510 µs`: the whole range of durations, doubling from bar to bar. What happened at all has a bar that shows.
fn hills(buckets: &[Bucket], ink: Ink) -> String {
    let (Some(first), Some(last)) = (buckets.first(), buckets.last()) else { return String::new() };
    let most = buckets.iter().map(|bucket| bucket.count).max().unwrap_or(1);
    let steps = ink.glyphs.spark.len() as u64 - 1;
    let mut bars = String::new();
    let mut le = first.le;
    while le <= last.le {
        let count = buckets.iter().find(|bucket| bucket.le == le).map_or(0, |bucket| bucket.count);
        let height = if count == 0 { 0 } else { (count * steps / most).max(1) };
        bars += ink.glyphs.spark[height as usize];
        le = 2 * le + 2;
    }
    let [from, to] = [first, last].map(|bucket| human::micros(bucket.le, ink.glyphs));
    format!("  {from} {bars} {to}")
}

/// The line above, with a name in it.
pub(super) fn rule(name: &str, max_width: usize, ink: Ink) -> Line<'static> {
    let rule = if ink.glyphs.unicode { "─" } else { "-" };
    let name = clean(name, ink.glyphs.unicode);
    let name = fit(&name, max_width.saturating_sub(8), Cut::End, ink.glyphs).into_owned();
    let fill = max_width.saturating_sub(width(&name) + 4);
    Line::from(vec![
        Span::styled(rule.repeat(2), ink.theme.quiet()),
        Span::styled(format!(" {name} "), ink.theme.strong()),
        Span::styled(rule.repeat(fill), ink.theme.quiet()),
    ])
}

/// A line with its word at the left.
pub(super) fn labelled(label: &str, value: Span<'static>, ink: Ink) -> Line<'static> {
    Line::from(vec![Span::styled(format!(" {label:LABEL$}"), ink.theme.quiet()), value])
}

fn joined(parts: Vec<String>, ink: Ink) -> String {
    parts.join(&format!(" {} ", ink.glyphs.dot))
}

fn identity(row: &Row<'_>, ink: Ink) -> String {
    let named = |what: &str, name: Option<&str>| {
        name.map(|name| format!("{what}{}", clean(name, ink.glyphs.unicode)))
    };
    let processes = match row.tgid {
        Some(0) => "owner not known (yet)".to_owned(),
        Some(tgid) => format!("pid {tgid}"),
        None if row.process_count == 1 => "1 process".to_owned(),
        None => format!("{} processes", human::count(row.process_count, FREE, ink.glyphs)),
    };
    let ended = row.exited.then(|| "ended".to_owned());
    let parts = [
        Some(processes),
        ended,
        named("", row.exe),
        named("unit ", row.unit),
        named("container ", row.container),
        named("parent ", row.parent),
    ];
    joined(parts.into_iter().flatten().collect(), ink)
}

fn closers(row: &Row<'_>, ink: Ink) -> String {
    let by = row.closed_by();
    let mut parts = [
        ("local", by.local),
        ("remote", by.remote),
        ("both", by.simultaneous),
        ("reset", by.reset),
        ("process exit", by.process_exit),
    ];
    let all: u64 = parts.iter().map(|(_, count)| count).sum();
    // The side that ends most of them is what one looks for.
    parts.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
    let said = parts.into_iter().filter(|&(_, count)| count > 0).map(|(name, count)| {
        let share = human::percent(count as f64 / all as f64);
        let details = if name == "reset" { resets(row, ink) } else { String::new() };
        format!("{name} {} ({share}{details})", human::count(count, FREE, ink.glyphs))
    });
    if all == 0 {
        return "none has ended".to_owned();
    }
    let time_wait = format!("{} to TIME_WAIT", human::count(row.time_wait_entered(), FREE, ink.glyphs));
    joined(said.chain([time_wait]).collect(), ink)
}

fn resets(row: &Row<'_>, ink: Ink) -> String {
    let mut sum = ResetBy::default();
    for by in row.destinations.iter().filter_map(|destination| destination.reset_by) {
        sum.local += by.local;
        sum.remote += by.remote;
        sum.timed_out += by.timed_out;
    }
    let parts = [("ours", sum.local), ("theirs", sum.remote), ("timed out", sum.timed_out)];
    let said = parts.into_iter().filter(|&(_, count)| count > 0);
    said.map(|(name, count)| format!(", {name} {}", human::count(count, FREE, ink.glyphs))).collect()
}

/// `None` if no connect failed.
fn failures(row: &Row<'_>, ink: Ink) -> Option<String> {
    let mut errnos: Vec<&'static str> =
        row.destinations.iter().flat_map(|destination| destination.failed_by.keys().copied()).collect();
    errnos.sort_unstable();
    errnos.dedup();
    let mut counted: Vec<_> = errnos.into_iter().map(|errno| (row.failed_by(errno), errno)).collect();
    counted.sort_by_key(|&(count, _)| std::cmp::Reverse(count));
    let parts =
        counted.iter().map(|(count, errno)| format!("{errno} {}", human::count(*count, FREE, ink.glyphs)));
    (!counted.is_empty()).then(|| joined(parts.collect(), ink))
}

fn quantiles_text(quantiles: Quantiles, ink: Ink) -> String {
    let parts =
        [("p50", quantiles.p50), ("p95", quantiles.p95), ("p99", quantiles.p99), ("max", quantiles.max)];
    let parts = parts.map(|(name, us)| format!("{name} {}", human::micros(us, ink.glyphs)));
    parts.join("  ")
}
