//! The call sites of the common snapshot: one that was counted, one of an event loop that was sampled, one with hostile
//! names, one without a stack, and one of closes. Their sum is what was begun.

use std::sync::Arc;

use crate::model::sample::{Frame, Stack};
use crate::model::snapshot::{CallSite, Place, Snapshot};

/// Gives them to the first destination of the first program and of the first process; all others have none.
pub(super) fn add(snapshot: &mut Snapshot) {
    for program in &mut snapshot.programs {
        for destination in &mut program.destinations {
            destination.call_sites = Some(Vec::new());
        }
    }
    for process in &mut snapshot.processes {
        for destination in &mut process.destinations {
            destination.call_sites = Some(Vec::new());
        }
    }
    snapshot.programs[0].destinations[0].call_sites = Some(call_sites());
    snapshot.processes[0].destinations[0].call_sites = Some(call_sites());
    for owner in snapshot.time_wait.iter_mut().flat_map(|time_wait| &mut time_wait.owners) {
        for destination in owner.destinations.iter_mut().filter(|_| owner.tgid.is_some()) {
            destination.call_sites = Some(held(destination.count));
        }
    }
}

/// Seven of ten were opened by the loop, three by nobody knows whom; all were closed by one line.
fn held(count: u64) -> Vec<CallSite> {
    let seven = count * 7 / 10;
    let opened = vec![Frame::python("getSession", "/srv/app/db.py", 31)];
    let closed = vec![Frame::python("getSession", "/srv/app/db.py", 34)];
    vec![
        CallSite {
            share: 0.7,
            ..site("open", seven, Some(place("getSession", "/srv/app/db.py", 31)), opened)
        },
        CallSite {
            share: 0.3,
            language: None,
            note: Some("no stack was taken".to_owned()),
            frames: None,
            ..site("open", count - seven, None, Vec::new())
        },
        CallSite {
            share: 1.0,
            ..site("close", count, Some(place("getSession", "/srv/app/db.py", 34)), closed)
        },
    ]
}

fn call_sites() -> Vec<CallSite> {
    let lazy = vec![
        native("connect", "/usr/lib/x86_64-linux-gnu/libc.so.6"),
        Frame::python("create_connection", "/usr/lib/python3.11/socket.py", 851),
        Frame::python("Connection.connect", "/usr/lib/python3/dist-packages/pymysql/connections.py", 613),
        Frame::python("getSession", "/srv/app/db.py", 31),
        Frame::python("main", "/srv/app/worker.py", 87),
    ];
    let scheduled = vec![
        Frame::python("fetch", "/srv/app/fetch.py", 3),
        Frame::python("Handle._run", "/usr/lib/python3.11/asyncio/events.py", 80),
    ];
    let stripped = native("agent+0x1f00", "/opt/agent");
    let hostile = vec![
        Frame::python("\u{1b}[2Jevil</text>", "/srv/\u{202e}yp.x;y", 7),
        Frame { build_id: Some("8c1f2e\u{1b}".into()), ..stripped },
    ];
    vec![
        CallSite {
            called_from: Some(place("main", "/srv/app/worker.py", 87)),
            ..site("open", 14_002, Some(place("getSession", "/srv/app/db.py", 31)), lazy.clone())
        },
        CallSite {
            exact: false,
            sampled: Some(6),
            note: Some("event loop: whoever scheduled this is not on the stack".to_owned()),
            ..site("open", 390, Some(place("fetch", "/srv/app/fetch.py", 3)), scheduled)
        },
        site("open", 7, Some(place("\u{1b}[2Jevil</text>", "/srv/\u{202e}yp.x;y", 7)), hostile),
        CallSite {
            language: None,
            note: Some("no stack was taken".to_owned()),
            frames: None,
            ..site("open", 3, None, Vec::new())
        },
        site("close", 14_392, Some(place("getSession", "/srv/app/db.py", 34)), lazy),
    ]
}

fn site(at: &'static str, count: u64, culprit: Option<Place>, frames: Vec<Frame>) -> CallSite {
    let whole = if at == "open" { 14_402.0 } else { 14_392.0 };
    CallSite {
        at,
        count,
        share: count as f64 / whole,
        exact: true,
        sampled: None,
        language: Some("python"),
        culprit,
        called_from: None,
        note: None,
        frames: Some(Arc::new(Stack { id: count, frames: frames.into(), note: None })),
    }
}

fn place(function: &str, file: &str, line: u32) -> Place {
    Place { function: function.into(), file: Some(file.into()), line: Some(line) }
}

fn native(function: &str, module: &str) -> Frame {
    Frame::native(function, Some(module))
}
