//! `who`: the connections that the table still knows, by an address and port that a peer shows.

use std::cmp::Reverse;

use portchurn_common::conn::{CLOSED, Conn, flag};
use portchurn_common::flow::{Address, ChurnKey, Role};

use crate::live::closed::Closed;
use crate::model::sample::ProcessId;
use crate::model::sockets::SitePair;
use crate::model::who::{Answer, Life, Query};

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
        role: if is_connect { "connect" } else { "accept" }.to_owned(),
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
