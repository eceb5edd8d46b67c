//! The command line that shows the same as the screen. Only writes the text; nothing is run or copied.

use std::time::Duration;

use crate::model::row::Level;
use crate::sinks::text::{is_hostile, quoted};
use crate::sinks::tui::place::PlaceWords;
use crate::sinks::view::View;

/// The command line for a view, and for the place inside of it as far as a filter can say it. `filter_is_valid` asks
/// the filter language, so that nothing is offered that it would refuse. `base` is what a view does not know of:
/// `portchurn top -D 3306`.
pub(super) fn command_line(
    base: &str,
    view: &View,
    place: Option<(&PlaceWords, Level)>,
    interval: Duration,
    filter_is_valid: impl Fn(&str) -> bool,
) -> String {
    let mut words = vec![base.to_owned()];
    let level = match place {
        // Only rows of processes know a PID.
        Some((words, _)) if words.tgid.is_some() => Level::Process,
        Some((_, level)) => level,
        None => view.level,
    };
    let filter = filters(view, place.map(|(words, _)| words), filter_is_valid);
    // With a filter the usual level depends on what it asks for.
    if level != Level::Program || !filter.is_empty() {
        words.push(format!("--group-by {}", level.name()));
    }
    if !view.sort.is_empty() {
        let sign = |descending| if descending { "-" } else { "" };
        let keys: Vec<_> =
            view.sort.iter().map(|key| format!("{}{}", sign(key.descending), key.column.key)).collect();
        words.push(format!("--sort={}", keys.join(",")));
    }
    if !filter.is_empty() {
        words.push(format!("--filter {}", quoted(&filter)));
    }
    if let Some(columns) = &view.columns {
        let keys: Vec<_> = columns.iter().map(|column| column.key).collect();
        words.push(format!("--columns {}", keys.join(",")));
    }
    if view.names.is_some() {
        words.push("--names".to_owned());
    }
    if let Some(limit) = view.limit {
        words.push(format!("--limit {limit}"));
    }
    if interval != Duration::from_secs(1) {
        words.push(format!("--interval {}ms", interval.as_millis()));
    }
    words.join(" ")
}

fn filters(view: &View, place: Option<&PlaceWords>, is_valid: impl Fn(&str) -> bool) -> String {
    let mut terms: Vec<String> = Vec::new();
    if let Some(filter) = &view.filter {
        terms.push(if place.is_some() { format!("({})", filter.text) } else { filter.text.clone() });
    }
    if let Some(place) = place {
        terms.extend(
            place_terms(place).into_iter().filter(|term| !term.contains(is_hostile) && is_valid(term)),
        );
    }
    let all = terms.join(" and ");
    if is_valid(&all) {
        all
    } else {
        view.filter.as_ref().map_or(String::new(), |filter| filter.text.clone())
    }
}

fn place_terms(place: &PlaceWords) -> Vec<String> {
    let mut terms = Vec::new();
    terms.extend(place.program.as_ref().map(|name| format!("\"{}\"", name.replace(['"', '\\'], "?"))));
    terms.extend(place.container.as_ref().map(|name| format!("container={name}")));
    terms.extend(place.unit.as_ref().map(|name| format!("unit={name}")));
    terms.extend(place.tgid.map(|tgid| format!("pid={tgid}")));
    if let Some((address, port)) = place.remote {
        terms.extend([format!("dest={address}"), format!("dport={port}")]);
    }
    terms.extend(place.local_port.map(|port| format!("lport={port}")));
    terms
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::command_line;
    use crate::model::row::Level;
    use crate::sinks::tui::place::PlaceWords;
    use crate::sinks::view::{Filtering, View, parse_columns, parse_sort};

    const BASE: &str = "portchurn top";
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_is_usual_is_not_said() {
        assert_eq!(command_line(BASE, &View::new(Level::Program), None, SECOND, |_| true), "portchurn top");
    }

    #[test]
    fn everything_unusual_is_said_and_quoted() {
        let view = View {
            sort: parse_sort("-failed,program").unwrap(),
            columns: Some(parse_columns("program,failed", Level::Process, false).unwrap()),
            limit: Some(5),
            filter: Some(Filtering { text: "comm='x'".to_owned(), matches: Box::new(|_| true) }),
            ..View::new(Level::Process)
        };
        assert_eq!(
            command_line(BASE, &view, None, Duration::from_millis(500), |_| true),
            "portchurn top --group-by process --sort=-failed,program --filter 'comm='\\''x'\\''' \
             --columns program,failed --limit 5 --interval 500ms"
        );
    }

    #[test]
    fn a_place_becomes_a_filter_as_far_as_the_language_allows() {
        let words = PlaceWords {
            program: Some("python3 worker.py".to_owned()),
            remote: Some(("10.0.0.2".parse().unwrap(), 3306)),
            ..PlaceWords::default()
        };
        let view = View::new(Level::Program);
        let place = Some((&words, Level::Process));
        assert_eq!(
            command_line(BASE, &view, place, SECOND, |_| true),
            "portchurn top --group-by process --filter '\"python3 worker.py\" and dest=10.0.0.2 and dport=3306'"
        );
        let no_quotes = |text: &str| !text.contains('"') && !text.is_empty();
        assert_eq!(
            command_line(BASE, &view, place, SECOND, no_quotes),
            "portchurn top --group-by process --filter 'dest=10.0.0.2 and dport=3306'"
        );
    }
}
