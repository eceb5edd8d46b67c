//! Snapshots as JSON: the contract that scripts rely on. Adds nothing to a snapshot and humanises nothing; a filter
//! narrows the lists, never the totals.

use std::fmt::Write as _;
use std::io;
use std::io::{BufWriter, Write};

use serde::Serialize as _;
use serde_json::Serializer;
use serde_json::ser::Formatter;

use crate::model::row::Row;
use crate::model::snapshot::Snapshot;
use crate::sinks::Sink;
use crate::sinks::text::is_hostile;
use crate::sinks::view::View;

/// Starts JSON documents, indented on a terminal.
pub(super) fn open(out: Box<dyn Write>) -> Box<dyn Sink> {
    Box::new(Json { out, one_line: false })
}

/// Starts JSON lines.
pub(super) fn open_lines(out: Box<dyn Write>) -> Box<dyn Sink> {
    Box::new(Json { out, one_line: true })
}

struct Json {
    out: Box<dyn Write>,
    one_line: bool,
}

impl Sink for Json {
    fn snapshot(&mut self, view: &View, snapshot: &Snapshot) -> io::Result<()> {
        if view.page.terminal && !self.one_line {
            writeln!(self.out, "{}", document(view, snapshot)?)?;
        } else {
            // With whole stacks this is megabytes: never held as one text.
            let mut out = BufWriter::with_capacity(BUFFER_BYTES, &mut self.out);
            write_line(view, snapshot, &mut out)?;
            out.flush()?;
        }
        self.out.flush()
    }

    fn finish(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// What is written at once.
const BUFFER_BYTES: usize = 64 << 10;

/// One snapshot as an indented JSON text, without a line end.
fn document(view: &View, snapshot: &Snapshot) -> io::Result<String> {
    let narrowed = narrowed(view, snapshot);
    Ok(escaped(serde_json::to_string_pretty(narrowed.as_ref().unwrap_or(snapshot))?))
}

/// One snapshot as a line of JSON.
fn write_line(view: &View, snapshot: &Snapshot, out: &mut impl Write) -> io::Result<()> {
    let narrowed = narrowed(view, snapshot);
    let snapshot = narrowed.as_ref().unwrap_or(snapshot);
    snapshot.serialize(&mut Serializer::with_formatter(&mut *out, OneLine))?;
    out.write_all(b"\n")
}

/// Compact, and as safe as [`escaped`].
struct OneLine;

impl Formatter for OneLine {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, out: &mut W, fragment: &str) -> io::Result<()> {
        // Most have nothing but plain ASCII, which is seen many times as fast.
        let is_plain = fragment.bytes().all(|byte| byte < 0x7f);
        if !is_plain && fragment.chars().any(is_hostile) {
            out.write_all(escaped(fragment.to_owned()).as_bytes())
        } else {
            out.write_all(fragment.as_bytes())
        }
    }
}

/// The snapshot with only those programs and processes that are wanted; `None` if all are.
fn narrowed(view: &View, snapshot: &Snapshot) -> Option<Snapshot> {
    let filter = view.filter.as_ref()?;
    let programs = snapshot.programs.iter().filter(|program| (filter.matches)(&Row::of_program(program)));
    let processes = snapshot.processes.iter().filter(|process| (filter.matches)(&Row::of_process(process)));
    Some(Snapshot {
        programs: programs.cloned().collect(),
        processes: processes.cloned().collect(),
        kernel: snapshot.kernel.clone(),
        hooks: snapshot.hooks.clone(),
        time_wait: snapshot.time_wait.clone(),
        ports: snapshot.ports.clone(),
        exhaustion: snapshot.exhaustion.clone(),
        lost: snapshot.lost.clone(),
        ..*snapshot
    })
}

/// JSON escapes only what JSON needs; a terminal may obey more (C1 controls, direction overrides). These can stand
/// only inside strings, where `\u` says the same.
pub fn escaped(text: String) -> String {
    if !text.chars().any(|c| c != '\n' && is_hostile(c)) {
        return text;
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if c == '\n' || !is_hostile(c) {
            safe.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(safe, "\\u{unit:04x}").expect("writing to a String cannot fail");
            }
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use serde::Serialize as _;
    use serde_json::{Serializer, Value};

    use super::{OneLine, escaped};
    use crate::model::row::{Level, Row};
    use crate::sinks::tests::written;
    use crate::sinks::view::{Filtering, Page, View};
    use crate::sinks::{OutputFormat, sample_snapshot};

    fn keys(value: &Value) -> Vec<&str> {
        value.as_object().unwrap().keys().map(String::as_str).collect()
    }

    fn assert_has(value: &Value, expected: &[&str]) {
        for key in expected {
            assert!(value.get(key).is_some(), "{key} is missing of {:?}", keys(value));
        }
    }

    const COUNTERS: &[&str] = &["opened", "accepted", "closed", "failed", "open_now", "opened_per_s"];

    #[test]
    fn every_key_of_the_contract_is_there_even_if_null() {
        let text = written(OutputFormat::Json, &View::new(Level::Program), 1);
        let document: Value = serde_json::from_str(&text).unwrap();
        assert_has(&document, &["schema_version", "kernel", "window_s", "cumulative_s", "hooks", "totals"]);
        assert_has(&document, &["programs", "processes", "time_wait", "ports", "lost", "own_cost"]);
        for hook in document["hooks"].as_array().unwrap() {
            assert_has(hook, &["name", "attached", "required", "reason"]);
        }
        assert_has(&document["totals"], COUNTERS);
        for program in document["programs"].as_array().unwrap() {
            assert_has(program, &["program", "exe", "script", "unit", "container", "parent_program"]);
            assert_has(program, &["process_count", "exited_count"]);
            assert_owner(program);
        }
        for process in document["processes"].as_array().unwrap() {
            assert_has(process, &["tgid", "start_ns", "comm", "exe", "argv", "ppid", "parent_comm"]);
            assert_has(process, &["cgroup", "unit", "container", "exited"]);
            assert_owner(process);
        }
        assert_has(&document["lost"], &["total", "by_reason"]);
        assert_has(&document["own_cost"], &["cpu_ratio", "rss_bytes", "map_bytes", "bpf_ns_per_event"]);
        assert_has(&document["own_cost"], &["bpf_cpu_ratio"]);
        assert_eq!(document["time_wait"], Value::Null);
    }

    fn assert_owner(owner: &Value) {
        assert_has(owner, COUNTERS);
        for destination in owner["destinations"].as_array().unwrap() {
            assert_has(destination, COUNTERS);
            assert_has(destination, &["role", "netns", "remote_address", "remote_port", "local_port"]);
            assert_has(destination, &["closed_by", "time_wait_entered", "failed_by"]);
            assert_has(destination, &["lifetime_us", "connect_us", "call_sites"]);
            let closed_by = &destination["closed_by"];
            assert_has(closed_by, &["local", "remote", "simultaneous", "reset", "process_exit"]);
            for quantiles in [&destination["lifetime_us"], &destination["connect_us"]] {
                if !quantiles.is_null() {
                    assert_has(quantiles, &["p50", "p95", "p99", "max"]);
                }
            }
        }
    }

    #[test]
    fn call_sites_have_every_key_and_are_null_only_where_they_are_not_taken() {
        let view = View::new(Level::Program);
        let text = super::document(&view, &crate::sinks::sample_with_sites()).unwrap();
        let document: Value = serde_json::from_str(&text).unwrap();
        let destination = &document["programs"][0]["destinations"][0];
        for site in destination["call_sites"].as_array().unwrap() {
            assert_has(
                site,
                &["at", "count", "share", "exact", "sampled", "language", "culprit", "called_from"],
            );
            assert_has(site, &["note", "frames"]);
            assert!(site["frames"].is_array(), "empty, never null");
        }
        let first = &destination["call_sites"][0];
        assert_has(&first["culprit"], &["function", "file", "line"]);
        assert_has(&first["frames"][0], &["function", "file", "line", "module", "language"]);
        assert_has(
            &document["own_cost"],
            &["stacks_named", "naming_p99_us", "naming_max_us", "stack_effort"],
        );
        let off: Value = serde_json::from_str(&super::document(&view, &sample_snapshot()).unwrap()).unwrap();
        assert_eq!(off["programs"][0]["destinations"][0].get("call_sites"), Some(&Value::Null));
    }

    #[test]
    fn numbers_are_as_the_model_has_them() {
        let text = written(OutputFormat::Json, &View::new(Level::Program), 1);
        let document: Value = serde_json::from_str(&text).unwrap();
        let destination = &document["programs"][0]["destinations"][0];
        assert_eq!(destination["remote_address"], "10.0.0.2");
        assert_eq!(destination["lifetime_us"]["p50"], 4_100);
        assert_eq!(destination["role"], "connect");
        assert_eq!(document["programs"][0]["destinations"][0]["opened_per_s"], 2318.0);
    }

    #[test]
    fn lines_hold_one_document_each_and_only_a_terminal_gets_indentation() {
        let mut view = View { page: Page { terminal: true, ..Page::default() }, ..View::new(Level::Program) };
        let lines = written(OutputFormat::Jsonl, &view, 3);
        assert_eq!(lines.lines().count(), 3);
        for line in lines.lines() {
            assert_eq!(serde_json::from_str::<Value>(line).unwrap()["schema_version"], 1);
        }
        assert!(written(OutputFormat::Json, &view, 1).lines().count() > 100);
        view.page.terminal = false;
        assert_eq!(written(OutputFormat::Json, &view, 1).lines().count(), 1);
    }

    #[test]
    fn a_filter_narrows_the_lists_and_never_the_totals() {
        let matches = Box::new(|row: &Row<'_>| row.program.contains("nginx"));
        let filter = Some(Filtering { text: "nginx".to_owned(), matches });
        let view = View { filter, ..View::new(Level::Program) };
        let document: Value = serde_json::from_str(&written(OutputFormat::Json, &view, 1)).unwrap();
        let whole = serde_json::to_value(sample_snapshot()).unwrap();
        assert_eq!(document["programs"].as_array().unwrap().len(), 1);
        assert_eq!(document["processes"].as_array().unwrap().len(), 1);
        for (key, value) in whole.as_object().unwrap() {
            if key != "programs" && key != "processes" {
                assert_eq!(&document[key], value, "{key}");
            }
        }
    }

    #[test]
    fn hostile_names_survive_as_data_and_do_not_reach_a_terminal() {
        let name = "\u{1b}[31mevil\u{9b}2J\u{7f}\u{202e}gpj\u{e0041}";
        let text = escaped(serde_json::to_string(name).unwrap());
        assert!(text.is_ascii(), "{text}");
        assert_eq!(serde_json::from_str::<String>(&text).unwrap(), name);
        let mut line = Vec::new();
        name.serialize(&mut Serializer::with_formatter(&mut line, OneLine)).unwrap();
        assert_eq!(String::from_utf8(line).unwrap(), text, "a line is as safe");
    }
}
