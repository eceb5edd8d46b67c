//! `who` without a tracer: connections that are there at this moment, by an address and port, from the socket tables and
//! `/proc` alone. Of a TIME_WAIT they do not tell whose it was.

use std::collections::{HashMap, HashSet};

use portchurn_common::tcp::TcpState;

use crate::model::program::ProgramKey;
use crate::model::row::display_name;
use crate::model::sample::Process;
use crate::model::who::{Answer, Life, Query};
use crate::sources::netns::{NetNamespace, network_namespaces, own_namespace};
use crate::sources::procfs::Procfs;
use crate::sources::sock_diag::{SockDiag, Socket, StateSet};

/// What was found, and what could not be looked at.
#[derive(Debug, Default)]
pub struct Living {
    /// The connections.
    pub answers: Vec<Answer>,
    /// Network namespaces that could not be read, and why.
    pub unread: Vec<(u32, String)>,
}

/// Looks at every network namespace, or the one that was asked for.
pub fn living(query: &Query) -> Living {
    let mut living = Living::default();
    let mut found: Vec<(u32, Socket, bool)> = Vec::new();
    for namespace in network_namespaces() {
        if query.netns.is_some_and(|asked| asked != namespace.inode) {
            continue;
        }
        match sockets_of(&namespace, query) {
            Ok(sockets) => {
                found.extend(sockets.into_iter().map(|(socket, ours)| (namespace.inode, socket, ours)));
            }
            Err(error) => living.unread.push((namespace.inode, format!("{error:#}"))),
        }
    }
    let procfs = Procfs::default();
    let holders = if found.is_empty() { HashMap::new() } else { procfs.socket_owners().by_inode };
    for (netns, socket, accepted) in found {
        let tgids = holders.get(&u64::from(socket.inode)).filter(|_| socket.inode != 0);
        let processes = tgids.into_iter().flatten().filter_map(|&tgid| procfs.identity(tgid));
        // Of several that inherited it, the oldest opened it.
        let process = processes.min_by_key(|process| process.id.start_ns);
        living.answers.push(answer(netns, &socket, accepted, process.as_ref()));
    }
    living
}

/// The matching sockets, and whether each was accepted here.
fn sockets_of(namespace: &NetNamespace, query: &Query) -> anyhow::Result<Vec<(Socket, bool)>> {
    let mut diag = if own_namespace() == Some(namespace.inode) {
        SockDiag::open()?
    } else {
        SockDiag::open_in(&namespace.path)?
    };
    let mut listening = HashSet::new();
    diag.visit(StateSet::of(&[TcpState::Listen]), |socket| {
        listening.insert(socket.local_port);
    })?;
    let mut found = Vec::new();
    diag.visit(StateSet::CONNECTIONS, |socket| {
        let accepted = listening.contains(&socket.local_port);
        let (address, port) =
            if accepted { (socket.remote, socket.remote_port) } else { (socket.local, socket.local_port) };
        if query.matches(namespace.inode, Some(address.into()), port) {
            found.push((*socket, accepted));
        }
    })?;
    Ok(found)
}

fn answer(netns: u32, socket: &Socket, accepted: bool, process: Option<&Process>) -> Answer {
    let key = process.map(ProgramKey::of);
    Answer {
        state: if socket.expires_ms.is_some() { Life::TimeWait } else { Life::Open },
        role: if accepted { "accept" } else { "connect" }.to_owned(),
        netns,
        cookie: socket.cookie,
        local_address: Some(socket.local.into()),
        local_port: socket.local_port,
        remote_address: socket.remote.into(),
        remote_port: socket.remote_port,
        tgid: process.map(|process| process.id.tgid),
        owner_certain: process.is_some(),
        program: key.map(|key| display_name(&key.program, key.script.as_deref()).into_owned()),
        argv: process.map(|process| process.argv.clone()).unwrap_or_default(),
        exited: process.map(|_| false),
        closer_tgid: None,
        closed_by: None,
        opened_ago_s: None,
        closed_ago_s: None,
        opened_at: None,
        closed_at: None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::living;
    use crate::model::who::{Life, Query};

    #[test]
    fn both_ends_of_our_own_connection_are_found_by_the_client_s_address() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (_server, _) = listener.accept().unwrap();
        let address = client.local_addr().unwrap();
        let query: Query = address.to_string().parse().unwrap();
        let mut roles: Vec<_> = living(&query)
            .answers
            .into_iter()
            .filter(|answer| answer.tgid == Some(std::process::id()) && answer.state == Life::Open)
            .map(|answer| answer.role)
            .collect();
        roles.sort_unstable();
        assert_eq!(roles, ["accept", "connect"]);
    }
}
