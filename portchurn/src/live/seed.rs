//! Sockets from before the attach: read once through `sock_diag`, given to the process that holds them, and put where
//! the kernel side finds them by their cookie, so that their closes are counted for their owner.
//!
//! The hooks are attached already, so nothing falls between: what opens meanwhile is in the table of connections by
//! itself and is left alone here; what closes meanwhile is missing from a second reading and is taken back.

use std::collections::{HashMap as StdHashMap, HashSet};

use anyhow::Result;
use aya::maps::{HashMap, MapData};
use portchurn_common::conn::{BUSY, CLOSED, Conn, PROBES, flag, place};
use portchurn_common::flow::{Address, ChurnKey, KeyRef, ListenKey, Listener, Role};
use portchurn_common::glob::COMM_LEN;
use portchurn_common::settings::port_filter_key;
use portchurn_common::tcp::TcpState;

use crate::live::keys::Keys;
use crate::live::loader::Options;
use crate::live::tables::Table;
use crate::model::sample::Process;
use crate::sources::netns::{NetNamespace, network_namespaces};
use crate::sources::procfs::Procfs;
use crate::sources::sock_diag::{SockDiag, Socket, StateSet};
use crate::sources::sockstat::has_tcp;

const BPF_NOEXIST: u64 = 1;

/// States in which a process may hold a connection. One that nobody holds any more is about to end by itself.
const OPEN: [TcpState; 3] = [TcpState::Established, TcpState::CloseWait, TcpState::FinWait2];

/// Reads the sockets that are there and hands them to the kernel side in `by_id`.
///
/// # Errors
/// When the maps cannot be used. A namespace that cannot be read is only reported.
pub fn sockets(
    by_id: &mut HashMap<MapData, u64, Conn>,
    keys: &mut Keys,
    procfs: &Procfs,
    conns: Table<Conn>,
    options: &Options,
) -> Result<Seeded> {
    let owners = Owners::read(procfs);
    let mut seeder = Seeder { conns, by_id, keys, owners, options, unread: Vec::new(), left_out: 0 };
    for namespace in network_namespaces() {
        let is_wanted = options.filters.netns == 0 || options.filters.netns == namespace.inode;
        // Each list is a walk through the sockets of all namespaces.
        if is_wanted && has_tcp(namespace.inode, &namespace.path) != Some(false) {
            seeder.read_namespace(&namespace)?;
        }
    }
    if seeder.left_out > 0 {
        log::warn!(
            "{} connections from before the attach are not followed: there was no room (--max-connections makes some)",
            seeder.left_out
        );
    }
    if !seeder.unread.is_empty() {
        log::warn!(
            "sockets from before the attach are not known in {} network namespaces ({})",
            seeder.unread.len(),
            seeder.unread[0]
        );
    }
    Ok(Seeded { left_out: seeder.left_out, holders: seeder.owners.used() })
}

/// What was there before.
pub struct Seeded {
    /// Processes that hold connections.
    pub holders: Vec<Process>,
    /// Connections for which there was no room.
    pub left_out: u64,
}

/// Who holds a socket.
struct Owners<'a> {
    procfs: &'a Procfs,
    by_inode: StdHashMap<u64, Vec<u32>>,
    processes: StdHashMap<u32, Option<Process>>,
}

impl<'a> Owners<'a> {
    fn read(procfs: &'a Procfs) -> Self {
        let by_inode = procfs.socket_owners().by_inode;
        Self { procfs, by_inode, processes: StdHashMap::new() }
    }

    /// The process that holds the socket. Of several that inherited it, the oldest: it opened it.
    fn of(&mut self, inode: u32) -> Option<Process> {
        let tgids = self.by_inode.get(&u64::from(inode)).cloned().unwrap_or_default();
        tgids.into_iter().filter_map(|tgid| self.process(tgid)).min_by_key(|process| process.id.start_ns)
    }

    fn process(&mut self, tgid: u32) -> Option<Process> {
        self.processes.entry(tgid).or_insert_with(|| self.procfs.identity(tgid)).clone()
    }

    fn used(self) -> Vec<Process> {
        self.processes.into_values().flatten().collect()
    }
}

struct Seeder<'a> {
    conns: Table<Conn>,
    by_id: &'a mut HashMap<MapData, u64, Conn>,
    keys: &'a mut Keys,
    owners: Owners<'a>,
    options: &'a Options,
    /// Why namespaces could not be read.
    unread: Vec<String>,
    /// Connections for which a table had no room.
    left_out: u64,
}

impl Seeder<'_> {
    fn read_namespace(&mut self, namespace: &NetNamespace) -> Result<()> {
        let opened = SockDiag::open_in(&namespace.path).or_else(|err| {
            let own = std::fs::metadata("/proc/self/ns/net")
                .map(|own| std::os::linux::fs::MetadataExt::st_ino(&own));
            if own.is_ok_and(|inode| inode == u64::from(namespace.inode)) {
                SockDiag::open()
            } else {
                Err(err)
            }
        });
        let listed = opened.and_then(|mut diag| {
            let listening = diag.dump(StateSet::of(&[TcpState::Listen]))?;
            Ok((diag, listening))
        });
        let (mut diag, listening) = match listed {
            Ok(listed) => listed,
            Err(err) => {
                self.unread.push(format!("{}: {err:#}", namespace.inode));
                return Ok(());
            }
        };
        let listeners = self.add_listeners(namespace.inode, &listening.sockets)?;
        let open = diag.dump(StateSet::of(&OPEN))?;
        let seeded = self.add_connections(namespace.inode, &open.sockets, &listeners);
        if seeded.is_empty() {
            return Ok(());
        }
        let still_open: HashSet<_> =
            diag.dump(StateSet::of(&OPEN))?.sockets.iter().map(|socket| socket.cookie).collect();
        for (cookie, key_ref) in seeded {
            if !still_open.contains(&cookie) && self.by_id.remove(&cookie).is_ok() {
                self.keys.count_before_attach(key_ref, -1);
            }
        }
        Ok(())
    }

    /// Notes the listeners; who listens on which port, `None` if several do.
    fn add_listeners(&mut self, netns: u32, sockets: &[Socket]) -> Result<StdHashMap<u16, Option<Process>>> {
        let mut listeners: StdHashMap<u16, (u32, Option<Process>)> = StdHashMap::new();
        for socket in sockets {
            let owner = self.owners.of(socket.inode);
            let (count, known) = listeners.entry(socket.local_port).or_insert_with(|| (0, owner.clone()));
            *count += 1;
            if known.as_ref().map(|process| process.id) != owner.map(|process| process.id) {
                *known = None;
            }
        }
        for (&port, (count, owner)) in &listeners {
            let listen_key = ListenKey { netns, port, zero: 0 };
            if self.keys.listener(listen_key).is_some() {
                continue;
            }
            let listener = match owner {
                Some(owner) => self.intern(accept_key(owner, listen_key)).map(|key_ref| Listener {
                    key_ref,
                    tgid: owner.id.tgid,
                    sockets: *count,
                }),
                // Of several none is likelier than the others, also when one more joins them.
                None => Some(Listener { key_ref: KeyRef::OVERFLOW, tgid: 0, sockets: *count }),
            };
            if let Some(listener) = listener {
                self.keys.add_listener(listen_key, listener)?;
            }
        }
        Ok(listeners.into_iter().map(|(port, (_, owner))| (port, owner)).collect())
    }

    /// Hands connections to the kernel side; those that were handed over.
    fn add_connections(
        &mut self,
        netns: u32,
        sockets: &[Socket],
        listeners: &StdHashMap<u16, Option<Process>>,
    ) -> Vec<(u64, KeyRef)> {
        let mut seeded = Vec::new();
        for socket in sockets {
            if self.is_tracked(socket.cookie) || socket.inode == 0 && socket.state == TcpState::FinWait2 {
                continue;
            }
            let Some((key, flags)) = self.key_of(netns, socket, listeners) else { continue };
            if !self.is_wanted(key) {
                continue;
            }
            let Some(key_ref) = self.keys.intern(&key) else {
                self.left_out += 1;
                continue;
            };
            let conn = Conn {
                id: socket.cookie,
                key_ref,
                owner_tgid: key.tgid,
                address: if flags & flag::CONNECT != 0 { socket.local } else { socket.remote },
                local_port: socket.local_port,
                remote_port: socket.remote_port,
                flags: flags | flag::ESTABLISHED | flag::BEFORE_ATTACH,
                ..Conn::default()
            };
            if self.by_id.insert(socket.cookie, conn, BPF_NOEXIST).is_ok() {
                self.keys.count_before_attach(key_ref, 1);
                seeded.push((socket.cookie, key_ref));
            } else if self.by_id.get(&socket.cookie, 0).is_err() {
                self.left_out += 1;
            }
        }
        seeded
    }

    /// Under which key a connection counts, and the flags that follow. `None`: filtered, or nobody holds it.
    fn key_of(
        &mut self,
        netns: u32,
        socket: &Socket,
        listeners: &StdHashMap<u16, Option<Process>>,
    ) -> Option<(ChurnKey, u32)> {
        let holder = self.owners.of(socket.inode);
        if !passes_ip_version(self.options, &socket.remote) {
            return None;
        }
        let Some(listener) = listeners.get(&socket.local_port) else {
            let holder = holder?;
            let key = ChurnKey {
                tgid: holder.id.tgid,
                start_ns: holder.id.start_ns,
                netns,
                remote: socket.remote,
                port: socket.remote_port,
                role: Role::Connect as u8,
                ..ChurnKey::default()
            };
            return Some((key, flag::CONNECT | flag::OWNER_CERTAIN));
        };
        // In the accept queue nobody holds it yet.
        let certain = if holder.is_some() { flag::OWNER_CERTAIN } else { 0 };
        let owner = holder.or_else(|| listener.clone())?;
        let listen_key = ListenKey { netns, port: socket.local_port, zero: 0 };
        Some((accept_key(&owner, listen_key), certain))
    }

    /// The filters of the kernel side, for keys that it does not see begin.
    fn intern(&mut self, key: ChurnKey) -> Option<KeyRef> {
        if self.is_wanted(key) { self.keys.intern(&key) } else { None }
    }

    fn is_wanted(&mut self, key: ChurnKey) -> bool {
        let filters = &self.options.filters;
        let Some(role) = Role::from_raw(key.role) else { return false };
        let (excluded, by_port) = match role {
            Role::Connect => (filters.no_connects, filters.connect_ports),
            Role::Accept => (filters.no_accepts, filters.accept_ports),
        };
        let is_wanted_port =
            by_port == 0 || self.options.filter_ports.contains(&port_filter_key(role, key.port));
        let is_wanted_process = filters.tgids == 0 || self.options.filter_tgids.contains(&key.tgid);
        let glob = self.options.filter_comm.as_ref();
        let is_wanted_name = glob.is_none_or(|glob| glob.matches(&self.comm(key.tgid)));
        excluded == 0 && is_wanted_port && is_wanted_process && is_wanted_name
    }

    fn comm(&mut self, tgid: u32) -> [u8; COMM_LEN] {
        let mut comm = [0; COMM_LEN];
        if let Some(process) = self.owners.process(tgid) {
            let len = process.comm.len().min(COMM_LEN - 1);
            comm[..len].copy_from_slice(&process.comm.as_bytes()[..len]);
        }
        comm
    }

    /// Whether the kernel side has seen this connection begin, and perhaps end, by itself.
    fn is_tracked(&self, cookie: u64) -> bool {
        (0..PROBES).any(|probe| {
            let place = place(cookie, probe, self.conns.len() as u32 - 1);
            self.conns.get(place as usize).id & !(CLOSED | BUSY) == cookie
        })
    }
}

fn accept_key(owner: &Process, listen_key: ListenKey) -> ChurnKey {
    ChurnKey {
        tgid: owner.id.tgid,
        start_ns: owner.id.start_ns,
        netns: listen_key.netns,
        port: listen_key.port,
        role: Role::Accept as u8,
        ..ChurnKey::default()
    }
}

fn passes_ip_version(options: &Options, remote: &Address) -> bool {
    match options.filters.ip_version {
        4 => remote.is_v4(),
        6 => !remote.is_v4(),
        _ => true,
    }
}
