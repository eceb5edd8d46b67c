//! The kernel's list against what `getsockopt` and `fstat` say about sockets of our own. Nothing is taken on trust from
//! the list itself.

use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use netlink_packet_core::{NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, NLMSG_OVERRUN};
use portchurn_common::flow::Address;
use portchurn_common::tcp::TcpState;
use rustix::fs::fstat;
use rustix::net::sockopt::socket_cookie;
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::{
    Completeness, Dump, Progress, SockDiag, Socket, StateSet, TCPDIAG_GETSOCK, cookie_of, dump, read_reply,
};
use crate::sources::netns::{in_namespace, network_namespaces};

fn find(dump: &Dump, cookie: u64) -> Option<Socket> {
    dump.sockets.iter().find(|socket| socket.cookie == cookie).copied()
}

fn listed(states: StateSet, socket: &impl AsFd) -> Socket {
    let dump = dump(states).unwrap();
    assert!(!dump.truncated);
    find(&dump, socket_cookie(socket).unwrap()).expect("our socket is listed")
}

fn check(socket: Socket, file: &impl AsFd, state: TcpState, local: SocketAddr, remote: SocketAddr) {
    assert_eq!(socket.state, state);
    assert_eq!((socket.local, socket.local_port), (Address::from(local.ip()), local.port()));
    assert_eq!((socket.remote, socket.remote_port), (Address::from(remote.ip()), remote.port()));
    assert_eq!(u64::from(socket.inode), fstat(file).unwrap().st_ino);
    assert_eq!(socket.uid, rustix::process::getuid().as_raw());
}

fn connection(listen_on: &str, connect_to: IpAddr) -> (TcpListener, TcpStream, TcpStream) {
    let listener = TcpListener::bind(listen_on).unwrap();
    let client = TcpStream::connect((connect_to, listener.local_addr().unwrap().port())).unwrap();
    let (server, _) = listener.accept().unwrap();
    (listener, client, server)
}

#[test]
fn a_listener_and_both_ends_are_listed_as_they_are() {
    let (listener, client, server) = connection("127.0.0.1:0", Ipv4Addr::LOCALHOST.into());
    let nowhere: SocketAddr = "0.0.0.0:0".parse().unwrap();
    let address = listener.local_addr().unwrap();
    let only_listeners = StateSet::of(&[TcpState::Listen]);
    check(listed(only_listeners, &listener), &listener, TcpState::Listen, address, nowhere);
    for end in [&client, &server] {
        let (local, remote) = (end.local_addr().unwrap(), end.peer_addr().unwrap());
        check(listed(StateSet::CONNECTIONS, end), end, TcpState::Established, local, remote);
    }
}

#[test]
fn only_the_states_asked_for_are_listed() {
    let (listener, client, _server) = connection("127.0.0.1:0", Ipv4Addr::LOCALHOST.into());
    let connections = dump(StateSet::CONNECTIONS).unwrap();
    assert_eq!(find(&connections, socket_cookie(&listener).unwrap()), None);
    let listeners = dump(StateSet::of(&[TcpState::Listen])).unwrap();
    assert_eq!(find(&listeners, socket_cookie(&client).unwrap()), None);
    assert!(StateSet::ALL.contains(TcpState::Listen) && !StateSet::CONNECTIONS.contains(TcpState::Listen));
}

#[test]
fn an_ipv4_peer_of_a_dual_stack_socket_is_an_ipv4_address() {
    if TcpListener::bind("[::]:0").is_err() {
        skip("no IPv6 on this host");
        return;
    }
    let (_listener, client, server) = connection("[::]:0", Ipv4Addr::LOCALHOST.into());
    let socket = listed(StateSet::CONNECTIONS, &server);
    assert_eq!(socket.remote, Address::from_v4([127, 0, 0, 1]));
    assert_eq!(socket.remote_port, client.local_addr().unwrap().port());
    assert_eq!(socket.local, listed(StateSet::CONNECTIONS, &client).remote);
}

#[test]
fn ipv6_is_listed() {
    let Ok(listener) = TcpListener::bind("[::1]:0") else {
        skip("no IPv6 loopback on this host");
        return;
    };
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (local, remote) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
    check(listed(StateSet::CONNECTIONS, &client), &client, TcpState::Established, local, remote);
}

#[test]
fn a_time_wait_keeps_the_cookie_of_the_connection() {
    let (_listener, client, server) = connection("127.0.0.1:0", Ipv4Addr::LOCALHOST.into());
    let (local, remote) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
    let cookie = socket_cookie(&client).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    drop(server);
    drop(client);
    let mut line = SockDiag::open().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let socket = loop {
        if let Some(socket) = find(&line.dump(StateSet::TIME_WAIT).unwrap(), cookie) {
            break socket;
        }
        assert!(Instant::now() < deadline, "no TIME_WAIT with the cookie {cookie}");
        std::thread::yield_now();
    };
    assert_eq!((socket.state, socket.inode), (TcpState::TimeWait, 0));
    assert_eq!((socket.local, socket.local_port), (local.ip().into(), local.port()));
    assert_eq!((socket.remote, socket.remote_port), (remote.ip().into(), remote.port()));
}

#[test]
fn more_sockets_than_fit_one_reply_all_arrive() {
    let (listener, _client, _server) = connection("127.0.0.1:0", Ipv4Addr::LOCALHOST.into());
    let address = listener.local_addr().unwrap();
    let mut ends = Vec::new();
    // 88 bytes each: 800 are more than two replies of 32 KiB.
    for _ in 0..400 {
        let client = TcpStream::connect(address).unwrap();
        ends.push(listener.accept().unwrap().0);
        ends.push(client);
    }
    let dump = dump(StateSet::CONNECTIONS).unwrap();
    let listed: std::collections::HashSet<u64> = dump.sockets.iter().map(|socket| socket.cookie).collect();
    assert!(ends.iter().all(|end| listed.contains(&socket_cookie(end).unwrap())));
}

/// A process in a network namespace of its own; `None` if that is not permitted.
fn namespace_with_a_process() -> Option<(u32, impl Drop)> {
    struct Stop(std::process::Child);
    impl Drop for Stop {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
    let mut command = Command::new("sleep");
    command.arg("600").stdin(Stdio::null());
    // SAFETY: one system call between fork and exec; it allocates nothing and takes no lock.
    unsafe { command.pre_exec(|| unshare_unsafe(UnshareFlags::NEWNET).map_err(Into::into)) };
    command.spawn().ok().map(|child| (child.id(), Stop(child)))
}

#[test]
fn another_namespace_is_found_and_looked_into() {
    let Some((tgid, _stop)) = namespace_with_a_process() else {
        skip("not permitted to make a network namespace");
        return;
    };
    let namespaces = network_namespaces();
    let theirs = namespaces.iter().find(|namespace| namespace.tgids.contains(&tgid)).expect("it is found");
    let ours = namespaces.iter().find(|namespace| namespace.tgids.contains(&std::process::id())).unwrap();
    assert_ne!(theirs.inode, ours.inode);

    let listener = in_namespace(&theirs.path, || TcpListener::bind("0.0.0.0:0").unwrap()).unwrap();
    let cookie = socket_cookie(&listener).unwrap();
    let there = SockDiag::open_in(&theirs.path).unwrap().dump(StateSet::ALL).unwrap();
    assert_eq!(find(&there, cookie).unwrap().local_port, listener.local_addr().unwrap().port());
    assert_eq!(there.sockets.len(), 1, "and nothing of ours is in it");
    assert_eq!(find(&dump(StateSet::ALL).unwrap(), cookie), None, "we stayed where we were");
}

#[test]
fn a_namespace_made_by_a_thread_is_looked_into_from_there() {
    let outside = TcpListener::bind("127.0.0.1:0").unwrap();
    let outside = socket_cookie(&outside).unwrap();
    let work = || {
        // SAFETY: only this thread changes its namespace, and it ends here.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.ok()?;
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        Some((dump(StateSet::ALL).unwrap(), socket_cookie(&listener).unwrap()))
    };
    let Some((there, cookie)) = std::thread::scope(|scope| scope.spawn(work).join().unwrap()) else {
        skip("not permitted to make a network namespace");
        return;
    };
    assert!(find(&there, cookie).is_some());
    assert_eq!(find(&there, outside), None);
}

#[test]
fn a_file_that_is_no_namespace_is_a_plain_error() {
    let missing = in_namespace(&PathBuf::from("/proc/0/ns/net"), || ()).unwrap_err();
    assert!(format!("{missing:#}").starts_with("open /proc/0/ns/net: "), "{missing:#}");
    let wrong = in_namespace(&PathBuf::from("/proc/self/status"), || ()).unwrap_err();
    assert!(format!("{wrong:#}").starts_with("enter /proc/self/status (needs CAP_SYS_ADMIN): "), "{wrong:#}");
}

#[test]
fn a_cookie_is_two_words_the_low_one_first() {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&7u32.to_ne_bytes());
    bytes[4..].copy_from_slice(&1u32.to_ne_bytes());
    assert_eq!(cookie_of(bytes), (1 << 32) + 7);
}

/// One netlink message.
fn message(kind: u16, flags: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (16 + payload.len() as u32).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend(0u32.to_ne_bytes());
    bytes.extend(payload);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn read(reply: &[u8]) -> (anyhow::Result<Progress>, Completeness, usize) {
    let (mut seen, mut count) = (Completeness::default(), 0);
    let progress = read_reply(reply, 5, &mut seen, &mut |_| count += 1);
    (progress, seen, count)
}

#[test]
fn an_interrupted_list_says_so() {
    let (progress, seen, _) = read(&message(NLMSG_DONE, NLM_F_DUMP_INTR, 5, &0i32.to_ne_bytes()));
    assert_eq!(progress.unwrap(), Progress::End);
    assert_eq!(seen, Completeness { interrupted: true, truncated: false });
    let overrun = message(NLMSG_OVERRUN, 0, 5, &[]);
    assert!(read(&overrun).1.truncated);
}

#[test]
fn the_end_of_an_earlier_list_ends_nothing() {
    let (progress, ..) = read(&message(NLMSG_DONE, 0, 4, &0i32.to_ne_bytes()));
    assert_eq!(progress.unwrap(), Progress::More);
}

#[test]
fn a_refusal_is_an_error_in_words() {
    let mut payload = (-2i32).to_ne_bytes().to_vec();
    payload.extend([0; 16]);
    let (progress, ..) = read(&message(NLMSG_ERROR, 0, 5, &payload));
    assert!(progress.unwrap_err().to_string().contains("tcp_diag"));
    let (progress, ..) = read(&message(NLMSG_DONE, 0, 5, &(-1i32).to_ne_bytes()));
    assert!(progress.unwrap_err().to_string().contains("not permitted"));
}

#[test]
fn garbage_is_an_error_and_never_a_panic() {
    let good = message(NLMSG_DONE, 0, 5, &0i32.to_ne_bytes());
    for end in 1..good.len() {
        assert!(read(&good[..end]).0.is_err(), "{end}");
    }
    for length in [0u32, 3, 15, 17, u32::MAX] {
        let mut bad = good.clone();
        bad[..4].copy_from_slice(&length.to_ne_bytes());
        let (progress, ..) = read(&bad);
        assert!(length == 17 || progress.is_err(), "{length}");
    }
    assert!(read(&message(TCPDIAG_GETSOCK, 0, 5, &[2, 1, 0])).0.is_err(), "a socket cut short");
}

fn skip(why: &str) {
    let mut err = std::io::stderr();
    let _ = std::io::Write::write_fmt(&mut err, format_args!("SKIP {why}\n"));
}
