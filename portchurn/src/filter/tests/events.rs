//! The same language asked about single events, and what an event is in JSON.

use std::sync::Arc;

use portchurn_common::record::{FlowEvent, FlowRecord};
use portchurn_common::tcp::{CloseKind, FailKind};

use super::{event, filter, process, record};
use crate::model::event::TraceEvent;

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
        "closed_by": "local", "failed_by": null, "closer_tgid": 42, "call_site": null,
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
