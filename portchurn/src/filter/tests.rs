//! The language by example: what matches, what is refused and where the caret stands, and that no text breaks it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use portchurn_common::flow::{Address, Role as FlowRole};
use portchurn_common::record::{FlowEvent, FlowRecord, RecordKind};
use portchurn_common::tcp::{CloseKind, FailKind};
use proptest::prelude::{any, prop_oneof, proptest};
use proptest::strategy::{Just, Strategy as _};
use unicode_width::UnicodeWidthStr as _;

use super::{FIELDS, Filter, Scope};
use crate::model::event::TraceEvent;
use crate::model::row::Row;
use crate::model::sample::{Process, ProcessId};
use crate::model::snapshot::{ClosedBy, Destination, Program, Quantiles, Role, Tally};

const CONTAINER: &str = "4d5b0e8a0c8f4a33b6f1d2ce0a9e7b6c5d4e3f2a1b0c9d8e7f6a5b4c3d2e1f00";

fn destination(address: &str, port: u16) -> Destination {
    Destination {
        role: Role::Connect,
        netns: 4_026_531_840,
        remote_address: Some(address.parse().unwrap()),
        remote_port: Some(port),
        local_port: None,
        tally: Tally::default(),
        closed_by: ClosedBy::default(),
        reset_by: None,
        time_wait_entered: 0,
        failed_by: BTreeMap::new(),
        lifetime_us: None,
        connect_us: None,
        call_sites: None,
    }
}

fn quantiles(p50: u64) -> Option<Quantiles> {
    Some(Quantiles { p50, ..Quantiles::default() })
}

/// A worker that churns connections to a database, keeps some to a web server, and serves a port.
fn worker() -> Program {
    let database = Destination {
        closed_by: ClosedBy { local: 900, remote: 3, ..ClosedBy::default() },
        failed_by: BTreeMap::from([("EADDRNOTAVAIL", 4), ("ECONNREFUSED", 0)]),
        lifetime_us: quantiles(1_200),
        connect_us: quantiles(300),
        ..destination("10.0.0.2", 3306)
    };
    let web = Destination {
        closed_by: ClosedBy { remote: 3, ..ClosedBy::default() },
        lifetime_us: quantiles(60_000_000),
        ..destination("2001:db8::7", 443)
    };
    let serving = Destination {
        role: Role::Accept,
        remote_address: None,
        remote_port: None,
        local_port: Some(8080),
        closed_by: ClosedBy { simultaneous: 2, ..ClosedBy::default() },
        ..destination("0.0.0.0", 0)
    };
    Program {
        program: "python3".to_owned(),
        exe: Some("/usr/bin/python3.11".to_owned()),
        script: Some("/srv/worker.py".to_owned()),
        unit: Some("sync@7.service".to_owned()),
        container: Some(CONTAINER.to_owned()),
        parent_program: Some("cron".to_owned()),
        argv: ["python3", "/srv/worker.py", "--all", "a b"].map(str::to_owned).to_vec(),
        process_count: 3,
        exited_count: 1,
        tally: Tally {
            failed: 4,
            open_now: 12,
            opened_per_s: 812.5,
            closed_per_s: 800.0,
            ..Tally::default()
        },
        destinations: vec![database, web, serving],
    }
}

fn filter(text: &str) -> Filter {
    Filter::parse(text).unwrap_or_else(|error| panic!("{error}"))
}

fn check_rows(cases: &[(&str, bool)]) {
    let program = worker();
    let row = Row::of_program(&program);
    for (text, expected) in cases {
        assert_eq!(filter(text).matches(&row), *expected, "{text}");
    }
}

#[test]
fn the_documented_examples_work() {
    check_rows(&[
        ("dport=3306 life<10ms", true),
        ("dest in 10.0.0.0/8 and !comm=nginx", true),
        ("error=EADDRNOTAVAIL", true),
        ("closer=local", true),
    ]);
    FIELDS.iter().for_each(|info| assert!(Filter::parse(info.example).is_ok(), "{}", info.example));
}

#[test]
fn texts_are_compared_whole_and_by_glob() {
    check_rows(&[
        ("comm=python3", true),
        ("comm=worker.py", true),
        ("comm=\"python3 worker.py\"", true),
        ("program=python", false),
        ("comm=py*", true),
        ("comm=PY*", false),
        ("comm='py*'", false),
        ("comm=python?", true),
        ("comm!=python3", false),
        ("comm!=nginx", true),
        ("comm=nginx,python3", true),
        ("comm in (nginx , python3)", true),
        ("comm!=nginx,haproxy", true),
        ("exe=/usr/bin/*", true),
        ("exe=python3.11", true),
        ("exe=python3", false),
        ("argv=--all", true),
        ("argv='a b'", true),
        ("argv=*worker.py?--all*", true),
        ("unit=sync@7", true),
        ("unit=sync@*.service", true),
        ("parent=cron", true),
        ("container=4d5b0e8a0c8f", true),
        ("container=4d5b0e8a", false),
        ("container=4d5b*", true),
    ]);
}

#[test]
fn regular_expressions_are_not_anchored() {
    check_rows(&[
        ("comm~worker", true),
        ("comm~^worker", true),
        ("comm~^py(thon)?3$", true),
        ("(comm~^py(thon)?3$)", true),
        ("comm!~ruby", true),
        (r#"comm~"\.py$""#, true),
        (r"exe~3\.\d+$", true),
        ("dest~^10[.]", true),
        ("dest~:443$", true),
        ("argv~--all.*b", true),
        ("error~^E", true),
        (r"comm~\)", false),
    ]);
}

#[test]
fn destinations_are_compared_as_addresses() {
    check_rows(&[
        ("dest=10.0.0.2", true),
        ("dest=10.0.0.3", false),
        ("dest=10.0.0.2:3306", true),
        ("dest=10.0.0.2:3307", false),
        ("dest=10.0.0.0/30", true),
        ("dest=10.0.*", true),
        ("dest=*:3306", true),
        ("dest=::ffff:10.0.0.2", true),
        ("dest=2001:db8::7", true),
        ("dest=[2001:db8::7]:443", true),
        ("dest in 2001:db8::/32", true),
        ("dest in 192.168.0.0/16,172.16.0.0/12", false),
        ("dest in (192.168.0.0/16, 10.0.0.0/8)", true),
        ("dest=:8080", true),
        ("dport=3306", true),
        ("dport in 3300-3310", true),
        ("dport in 80,443", true),
        ("dport>4000", false),
        ("lport=8080", true),
        ("lport=3306", false),
        ("role=accept", true),
        ("role=CONNECT", true),
        ("netns=4026531840", true),
    ]);
}

#[test]
fn numbers_and_durations_carry_units() {
    check_rows(&[
        ("life<10ms", true),
        ("dport=3306 life>=1200us", true),
        ("dport=3306 life>1200us", false),
        ("life<1.2ms", false),
        ("life<=1.2ms", true),
        ("life=1m", true),
        ("life>50s life<2m", true),
        ("connect>0", true),
        ("connect=300µs", true),
        ("opens>800", true),
        ("opens>0.8k", true),
        ("opens<1Ki", true),
        ("closes>=800", true),
        ("failed=4", true),
        ("open>10", true),
        ("open=10-12", true),
        ("pid=1", false),
    ]);
}

#[test]
fn who_closed_is_who_mostly_did() {
    check_rows(&[
        ("closer=local dport=3306", true),
        ("closer=remote dport=3306", false),
        ("closer=remote dport=443", true),
        ("closer=both", true),
        ("closer=simultaneous", true),
        ("closer=exit", false),
        ("closer=reset", false),
    ]);
}

#[test]
fn only_errors_that_happened_count() {
    check_rows(&[
        ("error=eaddrnotavail", true),
        ("error=ECONNREFUSED", false),
        ("error=*", true),
        ("error=E*AVAIL", true),
        ("error=ETIMEDOUT,EADDRNOTAVAIL", true),
    ]);
}

#[test]
fn one_destination_must_make_the_whole_true() {
    check_rows(&[
        ("dport=443 life<10ms", false),
        ("dport=3306 dport=443", false),
        ("dport=3306 or dport=9", true),
        ("!dport=3306", true),
        ("!dport=3306 role=connect life<10ms", false),
    ]);
}

#[test]
fn and_binds_tighter_than_or() {
    check_rows(&[
        ("comm=x and comm=y or comm=python3", true),
        ("comm=python3 or comm=x and comm=y", true),
        ("comm=python3 or comm=x comm=y", true),
        ("(comm=python3 or comm=x) comm=y", false),
        ("comm=python3 AND NOT comm=x", true),
        ("not not comm=python3", true),
        ("!(comm=python3 or comm=x)", false),
        ("! comm=x", true),
        ("comm = python3", true),
        ("  ", true),
        ("", true),
    ]);
}

#[test]
fn a_word_is_looked_for_where_people_look() {
    check_rows(&[
        ("WORKER", true),
        ("python3.11", true),
        ("10.0.0.2:33", true),
        ("db8::7", true),
        ("py*work", true),
        ("\"3 w\"", true),
        ("'py*work'", false),
        ("cron", false),
        ("nginx", false),
        ("!nginx", true),
        ("worker 3306", true),
        ("worker nginx", false),
        ("worker or nginx", true),
        ("android", false),
        ("\"and\"", false),
    ]);
}

#[test]
fn what_is_not_known_equals_nothing() {
    let program = Program { unit: None, exe: None, destinations: Vec::new(), ..worker() };
    let row = Row::of_program(&program);
    for (text, expected) in [
        ("unit=x", false),
        ("unit!=x", true),
        ("unit=*", false),
        ("exe~.", false),
        ("life<10s", false),
        ("!life<10s", true),
        ("dest=0.0.0.0/0", false),
        ("comm=python3", true),
    ] {
        assert_eq!(filter(text).matches(&row), expected, "{text}");
    }
}

fn process() -> Arc<Process> {
    Arc::new(Process {
        id: ProcessId { tgid: 42, start_ns: 9 },
        comm: "python3".to_owned(),
        exe: Some("/usr/bin/python3.11".to_owned()),
        argv: vec!["python3".to_owned(), "worker.py".to_owned()],
        unit: Some("sync.service".to_owned()),
        parent_comm: Some("cron".to_owned()),
        ..Process::default()
    })
}

fn record(event: FlowEvent, detail: u8) -> FlowRecord {
    FlowRecord {
        kind: RecordKind::Flow as u32,
        tgid: 42,
        start_ns: 9,
        at_ns: 1_000,
        duration_ns: 5_000_900,
        cookie: 77,
        local: Address::from("10.0.0.9".parse::<IpAddr>().unwrap()),
        remote: Address::from("10.0.0.2".parse::<IpAddr>().unwrap()),
        local_port: 40_000,
        remote_port: 3306,
        netns: 4_026_531_840,
        closer_tgid: 42,
        event: event as u8,
        role: FlowRole::Connect as u8,
        detail,
        owner_certain: 1,
    }
}

fn event(event: FlowEvent, detail: u8) -> TraceEvent {
    TraceEvent::new(&record(event, detail), process(), "python3 worker.py".into()).unwrap()
}

#[test]
fn events_are_filtered_by_the_same_language() {
    let close = event(FlowEvent::Close, CloseKind::ProcessExit as u8);
    let fail = event(FlowEvent::Fail, FailKind::Eaddrnotavail as u8);
    for (text, of_close, of_fail) in [
        ("event=close", true, false),
        ("state=fail", false, true),
        ("closer=exit", true, false),
        ("error=EADDRNOTAVAIL", false, true),
        ("life<10ms", true, false),
        ("life=5ms", true, false),
        ("connect=5ms", false, true),
        ("dport=3306 lport=40000 pid=42", true, true),
        ("dest in 10.0.0.0/8 and !comm=nginx", true, true),
        ("comm=worker.py unit=sync parent=cron argv=worker.py", true, true),
        ("role=connect netns=4026531840 exe=python3.11", true, true),
        ("10.0.0.2:3306", true, true),
        ("opens>1", false, false),
        ("container=x", false, false),
    ] {
        assert_eq!(filter(text).matches_event(&close), of_close, "{text}, close");
        assert_eq!(filter(text).matches_event(&fail), of_fail, "{text}, fail");
    }
}

#[test]
fn an_event_in_json_has_units_in_its_keys_and_null_for_the_unknown() {
    let close = event(FlowEvent::Close, CloseKind::Local as u8);
    let expected = serde_json::json!({
        "at_ns": 1000, "event": "close", "tgid": 42, "start_ns": 9, "program": "python3 worker.py",
        "comm": "python3", "exe": "/usr/bin/python3.11", "argv": ["python3", "worker.py"],
        "unit": "sync.service", "container": null, "owner_certain": true, "role": "connect",
        "local_address": "10.0.0.9", "local_port": 40000, "remote_address": "10.0.0.2",
        "remote_port": 3306, "netns": 4026531840u32, "cookie": 77, "duration_us": 5000,
        "closed_by": "local", "failed_by": null, "closer_tgid": 42,
    });
    assert_eq!(serde_json::to_value(close).unwrap(), expected);

    let nobody = FlowRecord {
        tgid: 0,
        cookie: 0,
        local_port: 0,
        closer_tgid: 0,
        netns: 0,
        ..record(FlowEvent::Accept, 0)
    };
    let nobody = TraceEvent::new(&nobody, Arc::default(), "(not attributed)".into()).unwrap();
    let json = serde_json::to_value(nobody).unwrap();
    for key in
        ["tgid", "start_ns", "comm", "exe", "local_port", "netns", "cookie", "duration_us", "closer_tgid"]
    {
        assert!(json[key].is_null(), "{key}");
    }
    assert_eq!(json["owner_certain"], false);
}

#[test]
fn a_record_with_numbers_that_mean_nothing_is_refused() {
    for bad in [
        FlowRecord { event: 0, ..record(FlowEvent::Close, 0) },
        FlowRecord { role: 9, ..record(FlowEvent::Close, 0) },
        record(FlowEvent::Close, 200),
        record(FlowEvent::Fail, 200),
    ] {
        assert_eq!(TraceEvent::new(&bad, process(), "x".into()), None);
    }
}

/// Text, the piece at which the caret must stand, and what must be said.
const REFUSED: &[(&str, &str, &str)] = &[
    ("dprot=3306", "dprot", "unknown field 'dprot'; did you mean 'dport'?"),
    ("zebra=1", "zebra", "unknown field 'zebra'; there are comm, exe"),
    ("comm=x porgram=y", "porgram", "did you mean 'program'?"),
    ("«ünï» dprot=1", "dprot", "did you mean 'dport'?"),
    ("数据库 dprot=1", "dprot", "did you mean 'dport'?"),
    ("dport=", "", "expected a value for 'dport', as in dport=3306"),
    ("dport= ", "", "expected a value for 'dport'"),
    ("dport=http", "http", "'dport' takes a number such as 80"),
    ("dport=80-", "80-", "takes a number"),
    ("dport=90-80", "90-80", "the range '90-80' is empty"),
    ("dport~80", "~", "'dport' takes =, !=, >, >=, <, <= or in"),
    ("comm<x", "<", "'comm' takes =, !=, ~, !~ or in"),
    ("life<10", "10", "'life' takes a duration such as 5ms, 2s or 1m, not '10'"),
    ("life<10kg", "10kg", "'life' takes a duration"),
    ("life<ms", "ms", "'life' takes a duration"),
    ("dest=example.org", "example.org", "names are not looked up"),
    ("dest in 10.0.0.0/8,10.0.0.0/99", "10.0.0.0/99", "is no address"),
    ("closer=lokal", "lokal", "unknown closer 'lokal'; did you mean 'local'?"),
    ("error=EADDRNOTAVIAL", "EADDRNOTAVIAL", "did you mean 'EADDRNOTAVAIL'?"),
    ("role=x", "x", "expected one of connect, accept"),
    ("comm~(", "(", "this is no regular expression"),
    ("comm~", "", "expected a regular expression after 'comm~'"),
    ("comm~(a{1000}){1000}", "(a{1000}", "this is no regular expression"),
    ("comm=x or", "", "expected a term"),
    ("or comm=x", "or", "expected a term before 'or'"),
    ("a and and b", "and b", "expected a term before 'and'"),
    ("a !", "", "expected a term"),
    ("(a or b", "(", "this '(' is never closed"),
    ("a or b)", ")", "this ')' closes nothing"),
    ("()", ")", "expected a term before ')'"),
    ("=5", "=", "expected a field or a word before '='"),
    ("comm=\"x", "\"x", "this quote is never closed"),
    ("comm in (a b)", "b)", "expected ',' or ')' in the list"),
    ("comm in (a,", "", "expected a value for 'comm'"),
    ("comm in (a", "(a", "this '(' is never closed"),
    ("comm=a,", "", "expected a value for 'comm'"),
];

#[test]
fn a_mistake_is_shown_where_it_is() {
    for (text, at, said) in REFUSED {
        let error = Filter::parse(text).expect_err(text);
        let offset = if at.is_empty() { text.len() } else { text.rfind(at).unwrap() };
        assert_eq!(error.offset, offset, "{text}: {error}");
        assert!(error.message.contains(said), "{text}: {}", error.message);
    }
}

#[test]
fn the_caret_stands_under_the_place() {
    for (text, caret_column) in
        [("dprot=1", 0), ("a dprot=1", 2), ("é dprot=1", 2), ("数据 dprot=1", 5), ("\u{1b}[1m dprot=1", 5)]
    {
        let shown = Filter::parse(text).unwrap_err().to_string();
        let (line, below) = shown.split_once('\n').unwrap();
        let column = below.find('^').unwrap();
        assert_eq!(column, caret_column, "{shown}");
        let before = &line[..line.find("dprot").unwrap()];
        assert_eq!(before.width(), column, "{shown}");
        assert!(!shown.replace('\n', "").contains(char::is_control), "nothing reaches the terminal unseen");
    }
    let shown = Filter::parse("comm=x\nand dprot=1").unwrap_err().to_string();
    assert_eq!(shown, "and dprot=1\n    ^ unknown field 'dprot'; did you mean 'dport'?");
}

#[test]
fn a_field_that_means_nothing_here_is_named() {
    let error = filter("comm=x or event=close").check(Scope::Rows).unwrap_err();
    assert_eq!(
        (error.offset, error.message.as_str()),
        (10, "'event' is a field of events (portchurn trace), not of rows of a table")
    );
    assert!(filter("!(comm=x state=fail)").check(Scope::Rows).is_err());
    assert!(filter("opens>1").check(Scope::Events).is_err());
    assert!(filter("comm=x dport=1 nginx").check(Scope::Rows).is_ok());
    assert!(filter("comm=x or !pid=1").asks_for_processes());
    assert!(!filter("comm=x pid").asks_for_processes());
}

#[test]
fn every_field_is_in_the_help() {
    let help = Filter::help();
    let mut names = Vec::new();
    for info in FIELDS {
        assert!(help.contains(info.name) && help.contains(info.example), "{}", info.name);
        assert!(info.what.ends_with('.') && info.what.len() <= 66, "{}", info.what);
        assert!(info.is_in(Scope::Rows) || info.is_in(Scope::Events));
        names.push(info.name);
        names.extend(info.aliases);
    }
    names.sort_unstable();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count, "two fields of one name");
}

#[test]
fn depth_is_bounded() {
    for piece in ["(", "!", "not ", "(!"] {
        let text = piece.repeat(100_000) + "a";
        assert!(Filter::parse(&text).unwrap_err().message.contains("inside each other"), "{piece}");
    }
    let flat = "a or !b ".repeat(5_000);
    assert!(Filter::parse(flat.trim()).is_ok(), "length is not depth");
}

/// Pieces from which a text is made that comes close to the language.
fn pieces() -> impl proptest::strategy::Strategy<Value = String> {
    let piece = prop_oneof![
        proptest::sample::select(vec![
            "comm",
            "dport",
            "dest",
            "life",
            "error",
            "event",
            "in",
            "and",
            "or",
            "not",
            "!",
            "=",
            "!=",
            "<",
            ">=",
            "~",
            "!~",
            "(",
            ")",
            ",",
            " ",
            "\"",
            "'",
            "\\",
            "*",
            "?",
            "10.0.0.0/8",
            "3306",
            "5ms",
            "E*",
            "-",
            "é",
            "数",
            "\u{a0}",
            "\n",
            ":",
            "[",
            "]",
            "µs",
            "80-90",
        ])
        .prop_map(str::to_owned),
        Just(String::new()),
        ".{0,3}",
    ];
    proptest::collection::vec(piece, 0..20).prop_map(|pieces| pieces.concat())
}

fn survives(text: &str) {
    match Filter::parse(text) {
        Ok(filter) => {
            let program = worker();
            filter.matches(&Row::of_program(&program));
            filter.matches_event(&event(FlowEvent::Close, 0));
            assert_eq!(filter.as_str(), text);
        }
        Err(error) => {
            assert!(text.is_char_boundary(error.offset), "{text:?} {}", error.offset);
            assert!(!error.message.is_empty());
            let shown = error.to_string();
            assert_eq!(shown.lines().count(), 2, "{shown:?}");
        }
    }
}

proptest! {
    #[test]
    fn no_text_breaks_it(text in any::<String>()) {
        survives(&text);
    }

    #[test]
    fn no_near_miss_breaks_it(text in pieces()) {
        survives(&text);
    }

    #[test]
    fn quoting_finds_any_text(text in "\\PC{1,12}") {
        let program = Program { program: text.clone(), script: None, ..worker() };
        let row = Row::of_program(&program);
        let quoted = format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
        let whole = format!("comm={quoted}");
        assert!(filter(&whole).matches(&row), "{whole}");
        assert!(filter(&quoted).matches(&row), "{quoted}");
    }
}
