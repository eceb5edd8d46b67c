//! Every format on the common snapshot. What pprof gets is read back with a description of the format that is not ours.

use clap::ValueEnum as _;
use prost::Message;

use super::{Format, SITES_OUTPUTS, Weight, write};
use crate::sinks::text::is_hostile;
use crate::sinks::{sample_snapshot, sample_with_held};

fn bytes(format: Format, weight: Weight) -> Vec<u8> {
    let mut out = Vec::new();
    write(&sample_with_held(), format, weight, true, &mut out).unwrap();
    out
}

fn text(format: Format, weight: Weight) -> String {
    String::from_utf8(bytes(format, weight)).unwrap()
}

#[test]
fn every_format_has_exactly_one_row() {
    for format in Format::value_variants() {
        assert_eq!(SITES_OUTPUTS.iter().filter(|output| output.format == *format).count(), 1, "{format:?}");
    }
}

#[test]
fn no_format_lets_a_control_character_of_a_name_through() {
    for format in Format::value_variants() {
        let bytes = bytes(*format, Weight::Connections);
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.contains("evil"), "{format:?}");
        // Binary: only the bytes of the names are looked for.
        let hostile = match format {
            Format::Pprof => text.find("\u{1b}[2J").or_else(|| text.find('\u{202e}')).map(|_| ' '),
            _ => text.chars().find(|&c| !matches!(c, '\n' | '\t') && is_hostile(c)),
        };
        assert_eq!(hostile, None, "{format:?}: {text}");
    }
}

#[test]
fn a_table_names_the_line_and_the_one_above_it() {
    let table = text(Format::Table, Weight::Connections);
    let first = table.lines().nth(1).unwrap();
    for part in
        ["14002", "97.2%", "exact", "open", "10.0.0.2:3306", "db.py:31 getSession", "worker.py:87 main"]
    {
        assert!(first.contains(part), "{part}: {table}");
    }
    assert!(table.contains("(6 of 390 read)  [event loop:"), "{table}");
}

#[test]
fn folded_stacks_add_up_to_what_was_begun() {
    let folded = text(Format::Folded, Weight::Connections);
    let sum: u64 = folded.lines().map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum();
    assert_eq!(sum, 14_402);
    let first = folded.lines().find(|line| line.ends_with(" 14002")).unwrap();
    assert!(first.starts_with("python3 worker.py;main (worker.py:87);getSession (db.py:31);"), "{first}");
    assert!(first.ends_with(";10.0.0.2:3306 14002"), "{first}");
    for line in folded.lines() {
        assert!(!line.starts_with('#'));
    }
}

#[test]
fn weighed_by_time_wait_it_is_a_minute_for_each_socket_that_is_held() {
    let folded = text(Format::Folded, Weight::TimeWait);
    let sum: u64 = folded.lines().map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum();
    assert_eq!(sum, 14_400 * 60, "all that have an owner: {folded}");
    let most = "python3 worker.py;getSession (db.py:31);10.0.0.2:3306 588000";
    assert!(folded.lines().any(|line| line == most), "two processes, seven of ten each: {folded}");
}

#[cfg(feature = "flamegraph")]
#[test]
fn a_flame_graph_names_frames_and_escapes_markup() {
    let svg = text(Format::Svg, Weight::Connections);
    assert!(svg.starts_with("<?xml") && svg.trim_end().ends_with("</svg>"));
    assert!(svg.contains("getSession (db.py:31) (14,002 connections, 97.22%)"), "{svg}");
    assert!(svg.contains("evil&lt;/text&gt;"), "{svg}");
    assert_eq!(text(Format::Svg, Weight::Connections), svg, "equal runs make equal files");
    assert!(text(Format::Svg, Weight::TimeWait).contains("port seconds in TIME_WAIT, 68."));
}

#[test]
fn without_call_sites_nothing_is_drawn_and_that_is_said() {
    for format in Format::value_variants() {
        let mut out = Vec::new();
        write(&sample_snapshot(), *format, Weight::Connections, true, &mut out).unwrap();
        let text = String::from_utf8_lossy(&out);
        match format {
            Format::Table => assert!(text.contains("no connection was opened")),
            Format::Folded => assert_eq!(text, ""),
            Format::Json => assert!(text.contains("\"sites\": []")),
            Format::Pprof => assert_eq!(profile(&out).sample, []),
            #[cfg(feature = "flamegraph")]
            Format::Svg => assert!(text.contains("No connection was opened") && text.ends_with("</svg>\n")),
        }
    }
}

/// `perftools.profiles.Profile` of proto/profile.proto of github.com/google/pprof, the fields that are used.
#[derive(Clone, PartialEq, Message)]
struct Profile {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "3")]
    mapping: Vec<Mapping>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
}

#[derive(Clone, PartialEq, Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    r#type: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
    #[prost(message, repeated, tag = "3")]
    label: Vec<Label>,
}

#[derive(Clone, PartialEq, Message)]
struct Label {
    #[prost(int64, tag = "1")]
    key: i64,
    #[prost(int64, tag = "2")]
    str: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Mapping {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "5")]
    filename: i64,
    #[prost(int64, tag = "6")]
    build_id: i64,
    #[prost(bool, tag = "7")]
    has_functions: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    mapping_id: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

#[derive(Clone, PartialEq, Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function_id: u64,
    #[prost(int64, tag = "2")]
    line: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
    #[prost(int64, tag = "3")]
    system_name: i64,
    #[prost(int64, tag = "4")]
    filename: i64,
}

fn profile(bytes: &[u8]) -> Profile {
    Profile::decode(bytes).unwrap()
}

/// A sample as text: `getSession /srv/app/db.py:31`, innermost first.
fn told(profile: &Profile, sample: &Sample) -> Vec<String> {
    let string = |index: i64| profile.string_table[usize::try_from(index).unwrap()].as_str();
    let frame = |id: &u64| {
        let location = profile.location.iter().find(|location| location.id == *id).unwrap();
        let [line] = &location.line[..] else { panic!("one line for each location") };
        let function = profile.function.iter().find(|function| function.id == line.function_id).unwrap();
        assert_eq!(function.system_name, 0, "else names are taken for mangled ones");
        format!("{} {}:{}", string(function.name), string(function.filename), line.line)
    };
    sample.location_id.iter().map(frame).collect()
}

#[test]
fn a_profile_means_the_same_to_a_reader_that_is_not_ours() {
    let profile = profile(&bytes(Format::Pprof, Weight::Connections));
    let string = |index: i64| profile.string_table[usize::try_from(index).unwrap()].as_str();
    assert_eq!(profile.string_table[0], "", "the format demands it");
    let [kind] = &profile.sample_type[..] else { panic!("one value for each sample") };
    assert_eq!((string(kind.r#type), string(kind.unit)), ("connections", "count"));
    assert_eq!(profile.duration_nanos, 72_400_000_000);
    assert_eq!(profile.sample.iter().map(|sample| sample.value[0]).sum::<i64>(), 14_402);
    assert!(profile.sample.iter().all(|sample| sample.value.len() == 1 && !sample.location_id.is_empty()));
    assert!(profile.location.iter().all(|location| location.id != 0));
    let most = profile.sample.iter().max_by_key(|sample| sample.value[0]).unwrap();
    let frames = told(&profile, most);
    assert_eq!(frames[0], "connect /usr/lib/x86_64-linux-gnu/libc.so.6:0");
    assert_eq!(frames[3..], ["getSession /srv/app/db.py:31", "main /srv/app/worker.py:87"]);
    let labels: Vec<_> = most.label.iter().map(|label| (string(label.key), string(label.str))).collect();
    assert_eq!(labels, [("program", "python3 worker.py"), ("destination", "10.0.0.2:3306")]);
    let [mapping] = &profile.mapping[..] else { panic!("one file without names") };
    assert_eq!((string(mapping.filename), string(mapping.build_id)), ("/opt/agent", "8c1f2e\\x1b"));
    assert!(mapping.has_functions);
    let of_it: Vec<_> =
        profile.location.iter().filter(|location| location.mapping_id == mapping.id).collect();
    assert_eq!(of_it.len(), 1, "{of_it:?}");
    assert!(profile.location.iter().all(|location| [0, mapping.id].contains(&location.mapping_id)));
    let nameless = profile.sample.iter().find(|sample| sample.value[0] == 3).unwrap();
    assert_eq!(told(&profile, nameless), ["[no stack was taken] :0"]);
}
