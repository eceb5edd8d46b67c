//! Sums over hand-written sockets.

use portchurn_common::flow::{Address, ChurnKey, Role};
use portchurn_common::tcp::{CloseKind, TcpState};

use super::{Resolved, Resolver, SocketCount};
use crate::model::sockets::{Ownership, PortCount, SitePair, Sysctls, Unowned};
use crate::sources::sock_diag::Socket;

const CLIENT: Address = Address::from_v4([10, 0, 0, 1]);
const SERVER: Address = Address::from_v4([10, 0, 0, 2]);

/// Cookies below 100 are process 7's, those of a hundred and more nobody's; one that comes again is said to.
#[derive(Default)]
struct Script {
    seen: Vec<u64>,
}

impl Resolver for Script {
    fn resolve(&mut self, netns: u32, socket: &Socket) -> Resolved {
        let repeated = self.seen.contains(&socket.cookie);
        self.seen.push(socket.cookie);
        let is_owned = socket.cookie < 100;
        let key = ChurnKey {
            tgid: 7,
            netns,
            remote: socket.remote,
            port: socket.remote_port,
            role: Role::Connect as u8,
            ..ChurnKey::default()
        };
        Resolved {
            ownership: if is_owned { Ownership::Owned } else { Ownership::Unowned(Unowned::NotFollowed) },
            key: is_owned.then_some(key),
            closed: is_owned.then_some(CloseKind::Local),
            closed_by_other: false,
            bound: socket.cookie == 50,
            repeated,
            sites: if is_owned {
                SitePair { opened: 17, closed: 19 + socket.cookie % 2 * 2 }
            } else {
                SitePair::default()
            },
        }
    }
}

fn sysctls() -> Sysctls {
    Sysctls { port_low: 40_000, port_high: 40_099, reserved: vec![(40_010, 40_019)], ..Sysctls::default() }
}

fn socket(cookie: u64, state: TcpState, local_port: u16) -> Socket {
    Socket {
        cookie,
        state,
        local: CLIENT,
        remote: SERVER,
        local_port,
        remote_port: 3306,
        inode: 0,
        uid: 0,
        expires_ms: (state == TcpState::TimeWait).then_some(42_000),
    }
}

#[test]
fn ports_are_counted_by_destination_and_time_wait_by_owner() {
    let mut count = SocketCount::new(5, Some(sysctls()));
    let mut script = Script::default();
    for (cookie, state, port) in [
        (1, TcpState::TimeWait, 40_000),
        (2, TcpState::TimeWait, 40_001),
        (3, TcpState::Established, 40_002),
        (4, TcpState::SynSent, 40_004),
        (100, TcpState::TimeWait, 40_006),
        (5, TcpState::Established, 39_999),
    ] {
        count.add(&socket(cookie, state, port), &mut script);
    }
    count.add(&socket(2, TcpState::TimeWait, 40_001), &mut script);
    let reading = count.finish();
    assert_eq!((reading.netns, reading.repeated, reading.tuples.len()), (5, 1, 1));
    let tuple = &reading.tuples[0];
    assert_eq!((tuple.established, tuple.time_wait, tuple.other, tuple.used()), (1, 3, 1, 5));
    assert_eq!(tuple.first_half, 4, "the low end is even");
    assert_eq!(tuple.ages[3], 3, "60 s less 42 s");
    assert_eq!((tuple.holders[0].time_wait, tuple.holders[0].live), (2, 2));
    assert_eq!(tuple.holders[1].process, None);
    let owned = reading.time_wait.iter().find(|group| group.ownership == Ownership::Owned).unwrap();
    assert_eq!((owned.count, owned.closed_local, owned.key.tgid), (2, 2, 7));
    assert_eq!(reading.time_wait.iter().map(|group| group.count).sum::<u32>(), 3);
    assert!(reading.pools.is_empty());
}

#[test]
fn each_destination_has_the_lines_of_its_own_sockets() {
    let mut count = SocketCount::new(5, Some(sysctls()));
    let mut script = Script::default();
    for (cookie, remote_port) in [(1, 3306), (2, 5432), (3, 3306), (4, 5432), (5, 5432), (100, 3306)] {
        let waiting = socket(cookie, TcpState::TimeWait, 40_000 + cookie as u16);
        count.add(&Socket { remote_port, ..waiting }, &mut script);
    }
    let mut lines: Vec<_> = count
        .finish()
        .time_wait
        .into_iter()
        .flat_map(|group| {
            let of_group = (group.ownership == Ownership::Owned, group.key.port);
            group.sites.into_iter().map(move |(pair, count)| (of_group, pair.closed, count))
        })
        .collect();
    lines.sort_unstable();
    assert_eq!(lines, [((true, 3306), 21, 2), ((true, 5432), 19, 2), ((true, 5432), 21, 1)]);
}

#[test]
fn the_server_s_side_holds_no_port_of_the_range() {
    let mut count = SocketCount::new(5, Some(sysctls()));
    count.add(&socket(0, TcpState::Listen, 40_050), &mut Script::default());
    let server_side = Socket { remote_port: 51_000, ..socket(100, TcpState::TimeWait, 40_050) };
    count.add(&server_side, &mut Script::default());
    let reading = count.finish();
    assert!(reading.tuples.is_empty(), "no budget is charged");
    let group = &reading.time_wait[0];
    assert_eq!((group.key.role, group.key.port, group.count), (Role::Accept as u8, 40_050, 1));
    assert_eq!(reading.blocked, PortCount { all: 1, first_half: 1 });
}

#[test]
fn what_is_bound_first_blocks_its_port_for_all_and_makes_a_pool() {
    let mut count = SocketCount::new(5, Some(sysctls()));
    let mut script = Script::default();
    count.add(&socket(0, TcpState::Close, 40_021), &mut Script::default());
    count.add(&socket(0, TcpState::Close, 40_011), &mut Script::default());
    count.add(&socket(50, TcpState::Established, 40_000), &mut script);
    count.add(&socket(1, TcpState::TimeWait, 40_001), &mut script);
    let reading = count.finish();
    assert_eq!(reading.blocked, PortCount { all: 2, first_half: 1 }, "a reserved one is not counted twice");
    assert_eq!(reading.tuples[0].bound, 1);
    let pool = &reading.pools[0];
    assert_eq!((pool.source, pool.used, pool.bound), (CLIENT, 4, 3));
}
