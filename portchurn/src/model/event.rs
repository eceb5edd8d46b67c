//! One event of one connection, for `trace` and recordings of events. Facts only; it must not be counted from, as
//! events may be lost where counters are not.

use std::net::IpAddr;
use std::sync::Arc;

use portchurn_common::flow;
use portchurn_common::record::{FlowEvent, FlowRecord};
use portchurn_common::tcp::{CloseKind, FailKind};
use serde::{Serialize, Serializer};

use crate::model::call_site::frames;
use crate::model::sample::{Process, Stack};
use crate::model::snapshot::{CallSite, Place, Role};

/// Something happened to a connection.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceEvent {
    /// When. Nanoseconds, CLOCK_MONOTONIC.
    pub at_ns: u64,
    /// What.
    pub event: FlowEvent,
    /// Owner of the connection, as far as it is known; shared, as many events have the same.
    pub process: Arc<Process>,
    /// What the owner runs, interpreter and script: `python3 worker.py`.
    pub program: Arc<str>,
    /// Whether the owner is certain, or taken from the listener.
    pub owner_certain: bool,
    /// Which side of the handshake.
    pub role: Role,
    /// Local address.
    pub local_address: IpAddr,
    /// Local port; `None`: none was found.
    pub local_port: Option<u16>,
    /// Remote address.
    pub remote_address: IpAddr,
    /// Remote port.
    pub remote_port: u16,
    /// Network namespace, inode number.
    pub netns: Option<u32>,
    /// Socket cookie, as `ss -e` shows it.
    pub cookie: Option<u64>,
    /// Connect, fail: of the attempt. Close: life. Microseconds.
    pub duration_us: Option<u64>,
    /// Close: who ended it, and how.
    pub close: Option<CloseKind>,
    /// Fail: why.
    pub fail: Option<FailKind>,
    /// Process whose close was seen.
    pub closer_tgid: Option<u32>,
    /// Connect, fail: where in the code it was begun. Close: where it was closed. `None`: call sites are not taken, or
    /// no code of ours did it.
    pub call_site: Option<CallSite>,
}

impl TraceEvent {
    /// From the kernel's record and its owner; `None` if the record holds a number that means nothing.
    pub fn new(record: &FlowRecord, process: Arc<Process>, program: Arc<str>) -> Option<Self> {
        let event = FlowEvent::from_raw(record.event)?;
        let role = match flow::Role::from_raw(record.role)? {
            flow::Role::Connect => Role::Connect,
            flow::Role::Accept => Role::Accept,
        };
        let detail = usize::from(record.detail);
        let close = (event == FlowEvent::Close).then(|| CloseKind::ALL.get(detail).copied());
        let fail = (event == FlowEvent::Fail).then(|| FailKind::ALL.get(detail).copied());
        Some(Self {
            at_ns: record.at_ns,
            event,
            process,
            program,
            owner_certain: record.tgid != 0 && record.flags & FlowRecord::OWNER_CERTAIN != 0,
            role,
            local_address: record.local.into(),
            local_port: Some(record.local_port).filter(|&port| port != 0),
            remote_address: record.remote.into(),
            remote_port: record.remote_port,
            netns: Some(record.netns).filter(|&netns| netns != 0),
            cookie: Some(record.cookie).filter(|&cookie| cookie != 0),
            duration_us: (event != FlowEvent::Accept).then_some(record.duration_ns / 1000),
            close: transposed(close)?,
            fail: transposed(fail)?,
            closer_tgid: Some(record.closer_tgid).filter(|&tgid| tgid != 0),
            call_site: None,
        })
    }
}

/// Not asked is `Some(None)`; asked in vain is `None`.
fn transposed<T>(found: Option<Option<T>>) -> Option<Option<T>> {
    match found {
        None => Some(None),
        Some(kind) => kind.map(Some),
    }
}

/// The JSON form: units in the key, what is not known is `null`.
#[derive(Serialize)]
struct Json<'a> {
    at_ns: u64,
    event: &'static str,
    tgid: Option<u32>,
    start_ns: Option<u64>,
    program: &'a str,
    comm: Option<&'a str>,
    exe: Option<&'a str>,
    argv: &'a [String],
    unit: Option<&'a str>,
    container: Option<&'a str>,
    owner_certain: bool,
    role: Role,
    local_address: Option<IpAddr>,
    local_port: Option<u16>,
    remote_address: Option<IpAddr>,
    remote_port: u16,
    netns: Option<u32>,
    cookie: Option<u64>,
    duration_us: Option<u64>,
    closed_by: Option<&'static str>,
    failed_by: Option<&'static str>,
    closer_tgid: Option<u32>,
    call_site: Option<JsonSite<'a>>,
}

/// A call site without what only makes sense of many.
#[derive(Serialize)]
struct JsonSite<'a> {
    at: &'static str,
    exact: bool,
    language: Option<&'static str>,
    culprit: Option<&'a Place>,
    called_from: Option<&'a Place>,
    note: Option<&'a str>,
    #[serde(serialize_with = "frames")]
    frames: &'a Option<Arc<Stack>>,
}

impl<'a> JsonSite<'a> {
    fn of(site: &'a CallSite) -> Self {
        Self {
            at: site.at,
            exact: site.exact,
            language: site.language,
            culprit: site.culprit.as_ref(),
            called_from: site.called_from.as_ref(),
            note: site.note.as_deref(),
            frames: &site.frames,
        }
    }
}

impl Serialize for TraceEvent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let process = &*self.process;
        let known = |address: IpAddr| Some(address).filter(|address| !address.is_unspecified());
        Json {
            at_ns: self.at_ns,
            event: self.event.name(),
            tgid: Some(process.id.tgid).filter(|&tgid| tgid != 0),
            start_ns: Some(process.id.start_ns).filter(|&start_ns| start_ns != 0),
            program: &self.program,
            comm: Some(process.comm.as_str()).filter(|comm| !comm.is_empty()),
            exe: process.exe.as_deref(),
            argv: &process.argv,
            unit: process.unit.as_deref(),
            container: process.container.as_deref(),
            owner_certain: self.owner_certain,
            role: self.role,
            local_address: known(self.local_address),
            local_port: self.local_port,
            remote_address: known(self.remote_address),
            remote_port: self.remote_port,
            netns: self.netns,
            cookie: self.cookie,
            duration_us: self.duration_us,
            closed_by: self.close.map(CloseKind::name),
            failed_by: self.fail.map(FailKind::name),
            closer_tgid: self.closer_tgid,
            call_site: self.call_site.as_ref().map(JsonSite::of),
        }
        .serialize(serializer)
    }
}
