//! `who`: the connections that the table still knows, by an address and port that a peer shows.

use std::cmp::Reverse;
use std::collections::VecDeque;

use portchurn_common::conn::{CLOSED, Conn, flag};
use portchurn_common::flow::{Address, ChurnKey, Role};
use portchurn_common::record::FlowRecord;
use portchurn_common::tcp::CloseKind;

use crate::live::closed::Closed;
use crate::model::sample::ProcessId;
use crate::model::sockets::SitePair;
use crate::model::who::{Answer, Life, Query};
use crate::sources::procfs::cut_to_ticks;

/// What was found, before it has names.
pub struct Found {
    /// The connections, and where in the code they were opened and closed.
    pub answers: Vec<(ProcessId, Answer, SitePair)>,
    /// End of the longest ended connection that is still known. Nanoseconds, CLOCK_MONOTONIC.
    pub oldest_ns: u64,
}

/// How many are told: the living, and those that ended last.
const ANSWERS_MAX: usize = 100;

/// Looks at every place of the table.
pub fn search(closed: &Closed, query: &Query, now_ns: u64) -> Found {
    let mut found = Found { answers: Vec::new(), oldest_ns: now_ns };
    let mut matches = Vec::new();
    for place in 0..closed.len() {
        let Some(conn) = closed.at(place) else { continue };
        if conn.id & CLOSED != 0 && conn.closed_ns != 0 {
            found.oldest_ns = found.oldest_ns.min(conn.closed_ns);
        }
        // Asked in the order of cost: most places have another port.
        if !has_port(&conn, query.port) || conn.flags & flag::ESTABLISHED == 0 {
            continue;
        }
        let Some(key) = closed.key(conn.key_ref) else { continue };
        if is_meant(&conn, &key, query) {
            // The living first, then those that ended last.
            let ended_ns = if conn.id & CLOSED == 0 { u64::MAX } else { conn.closed_ns };
            matches.push((ended_ns, place));
        }
    }
    if matches.len() > ANSWERS_MAX {
        matches.select_nth_unstable_by_key(ANSWERS_MAX - 1, |&(ended_ns, _)| Reverse(ended_ns));
        matches.truncate(ANSWERS_MAX);
    }
    for (_, place) in matches {
        // Its place may have become another's meanwhile.
        let Some(conn) = closed.at(place).filter(|conn| has_port(conn, query.port)) else { continue };
        let Some(key) = closed.key(conn.key_ref).filter(|key| is_meant(&conn, key, query)) else { continue };
        let sites = closed.sites_of(place, &conn);
        found.answers.push((ProcessId::of(&key), answer(&conn, &key, now_ns), sites));
    }
    found
}

/// The same where the kernel gives no cookies, and no table keeps what ended: in the records of ends, the latest first.
pub fn search_ends(ends: &VecDeque<FlowRecord>, query: &Query, now_ns: u64) -> Found {
    let answers = ends.iter().filter(|end| is_end_meant(end, query)).take(ANSWERS_MAX);
    Found {
        answers: answers.map(|end| (owner(end), answer_of_end(end, now_ns), SitePair::default())).collect(),
        oldest_ns: ends.back().map_or(now_ns, |end| end.at_ns),
    }
}

fn is_end_meant(end: &FlowRecord, query: &Query) -> bool {
    let (address, port) = if end.role == Role::Connect as u8 {
        (end.local, end.local_port)
    } else {
        (end.remote, end.remote_port)
    };
    query.matches(end.netns, known(address), port)
}

fn owner(end: &FlowRecord) -> ProcessId {
    ProcessId { tgid: end.tgid, start_ns: cut_to_ticks(end.start_ns) }
}

fn answer_of_end(end: &FlowRecord, now_ns: u64) -> Answer {
    let ago_s = now_ns.saturating_sub(end.at_ns) as f64 / 1e9;
    Answer {
        state: Life::Closed,
        role: role_name(end.role == Role::Connect as u8),
        netns: end.netns,
        cookie: 0,
        local_address: known(end.local),
        local_port: end.local_port,
        remote_address: end.remote.into(),
        remote_port: end.remote_port,
        tgid: (end.tgid != 0).then_some(end.tgid),
        owner_certain: end.tgid != 0 && end.flags & FlowRecord::OWNER_CERTAIN != 0,
        program: None,
        argv: Vec::new(),
        exited: None,
        closer_tgid: Some(end.closer_tgid).filter(|&closer| closer != 0 && closer != end.tgid),
        closed_by: CloseKind::ALL.get(usize::from(end.detail)).map(|kind| kind.name().to_owned()),
        opened_ago_s: Some(ago_s + end.duration_ns as f64 / 1e9),
        closed_ago_s: Some(ago_s),
        opened_at: None,
        closed_at: None,
    }
}

fn role_name(is_connect: bool) -> String {
    if is_connect { "connect" } else { "accept" }.to_owned()
}

fn has_port(conn: &Conn, port: u16) -> bool {
    if conn.flags & flag::CONNECT != 0 { conn.local_port == port } else { conn.remote_port == port }
}

/// Our end of what we opened, the peer's end of what we accepted: either is what a process list of the peer, or of a
/// server here, shows.
fn is_meant(conn: &Conn, key: &ChurnKey, query: &Query) -> bool {
    let port = if conn.flags & flag::CONNECT != 0 { conn.local_port } else { conn.remote_port };
    query.matches(key.netns, known(conn.address), port)
}

fn known(address: Address) -> Option<std::net::IpAddr> {
    (!address.is_unspecified()).then(|| address.into())
}

fn answer(conn: &Conn, key: &ChurnKey, now_ns: u64) -> Answer {
    let is_connect = key.role == Role::Connect as u8;
    let ago_s = |at_ns: u64| now_ns.saturating_sub(at_ns) as f64 / 1e9;
    let has_ended = conn.id & CLOSED != 0;
    Answer {
        state: if has_ended { Life::Closed } else { Life::Open },
        role: role_name(is_connect),
        netns: key.netns,
        cookie: conn.id & !CLOSED,
        local_address: if is_connect { known(conn.address) } else { None },
        local_port: conn.local_port,
        remote_address: if is_connect { key.remote.into() } else { conn.address.into() },
        remote_port: conn.remote_port,
        tgid: (key.tgid != 0).then_some(key.tgid),
        owner_certain: key.tgid != 0 && conn.flags & (flag::OWNER_CERTAIN | flag::CONNECT) != 0,
        program: None,
        argv: Vec::new(),
        exited: None,
        closer_tgid: Some(conn.closer_tgid).filter(|&closer| closer != 0 && closer != key.tgid),
        closed_by: conn.close_kind().filter(|_| has_ended).map(|kind| kind.name().to_owned()),
        opened_ago_s: (conn.flags & flag::BEFORE_ATTACH == 0).then(|| ago_s(conn.opened_ns)),
        closed_ago_s: (has_ended && conn.closed_ns != 0).then(|| ago_s(conn.closed_ns)),
        opened_at: None,
        closed_at: None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use portchurn_common::flow::{Address, Role};
    use portchurn_common::record::{FlowEvent, FlowRecord, RecordKind};
    use portchurn_common::tcp::CloseKind;

    use super::search_ends;
    use crate::model::who::Query;

    const S: u64 = 1_000_000_000;

    fn end(role: Role, tgid: u32, at_ns: u64) -> FlowRecord {
        FlowRecord {
            kind: RecordKind::Flow as u32,
            tgid,
            start_ns: 0,
            at_ns,
            duration_ns: 3 * S,
            cookie: 0,
            local: Address::from_v4([10, 0, 0, 7]),
            remote: Address::from_v4([10, 0, 0, 2]),
            local_port: 40_000,
            remote_port: 3306,
            netns: 5,
            closer_tgid: tgid,
            event: FlowEvent::Close as u8,
            role: role as u8,
            detail: CloseKind::ProcessExit as u8,
            flags: FlowRecord::OWNER_CERTAIN,
        }
    }

    #[test]
    fn an_end_is_found_by_the_port_that_the_peer_shows() {
        let ends = VecDeque::from([end(Role::Connect, 8, 9 * S), end(Role::Accept, 7, 4 * S)]);
        let tgids = |query: &str, netns| {
            let query = Query { netns, ..query.parse().unwrap() };
            let found = search_ends(&ends, &query, 10 * S);
            found.answers.into_iter().map(|(process, ..)| process.tgid).collect::<Vec<_>>()
        };
        assert_eq!(tgids("10.0.0.7:40000", None), [8], "what we opened, by our end");
        assert_eq!(tgids("10.0.0.2:3306", None), [7], "what we accepted, by the peer's");
        assert!(tgids("10.0.0.7:3306", None).is_empty() && tgids("10.0.0.7:40000", Some(6)).is_empty());

        let found = search_ends(&ends, &":40000".parse().unwrap(), 10 * S);
        let (_, answer, _) = &found.answers[0];
        assert_eq!((answer.opened_ago_s, answer.closed_ago_s), (Some(4.0), Some(1.0)));
        assert_eq!((answer.closed_by.as_deref(), answer.closer_tgid), (Some("process_exit"), None));
        assert_eq!(found.oldest_ns, 4 * S);
    }
}
