//! The lifecycle table: what one `inet_sock_set_state` event means for a connection.
//! It is pure and total over all pairs of states; it must not know who, where or when.
//!
//! TIME_WAIT and NEW_SYN_RECV never appear in the tracepoint: they belong to mini-sockets. FIN_WAIT2→CLOSE
//! and CLOSING→CLOSE are the moments when `tcp_time_wait` may hand over to one (net/ipv4/tcp_minisocks.c).

/// A TCP state, numbered as in include/net/tcp_states.h.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum TcpState {
    /// Data may flow.
    Established = 1,
    /// We sent a SYN.
    SynSent = 2,
    /// A SYN came in.
    SynRecv = 3,
    /// We sent a FIN first.
    FinWait1 = 4,
    /// Our FIN was acknowledged.
    FinWait2 = 5,
    /// Both FINs are done; a mini-socket holds the port for 60 s.
    TimeWait = 6,
    /// No connection.
    Close = 7,
    /// The peer sent a FIN first.
    CloseWait = 8,
    /// The peer closed first and our FIN is out.
    LastAck = 9,
    /// Waiting for connections.
    Listen = 10,
    /// Both sides sent a FIN before seeing the other's.
    Closing = 11,
    /// A request socket.
    NewSynRecv = 12,
}

impl TcpState {
    /// Every state, in the kernel's order.
    pub const ALL: [Self; 12] = [
        Self::Established,
        Self::SynSent,
        Self::SynRecv,
        Self::FinWait1,
        Self::FinWait2,
        Self::TimeWait,
        Self::Close,
        Self::CloseWait,
        Self::LastAck,
        Self::Listen,
        Self::Closing,
        Self::NewSynRecv,
    ];

    /// The kernel's number for this state.
    pub const fn raw(self) -> u8 {
        self as u8
    }

    /// The name that `ss` and the kernel documentation use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Established => "ESTABLISHED",
            Self::SynSent => "SYN_SENT",
            Self::SynRecv => "SYN_RECV",
            Self::FinWait1 => "FIN_WAIT1",
            Self::FinWait2 => "FIN_WAIT2",
            Self::TimeWait => "TIME_WAIT",
            Self::Close => "CLOSE",
            Self::CloseWait => "CLOSE_WAIT",
            Self::LastAck => "LAST_ACK",
            Self::Listen => "LISTEN",
            Self::Closing => "CLOSING",
            Self::NewSynRecv => "NEW_SYN_RECV",
        }
    }
}

/// What a state change means.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Step {
    /// Nothing that is counted.
    Ignore,
    /// `listen()`: the caller owns what arrives here until somebody accepts it. Process context.
    Listen,
    /// The listener is gone. Process context.
    Unlisten,
    /// `connect()` began. Process context; the local port is not chosen yet.
    ConnectBegin,
    /// The handshake of a connect is complete. Any context.
    Connected,
    /// The connect failed, before or after a SYN was sent. Any context.
    ConnectFailed,
    /// A passive open is complete, or the rare end of a simultaneous open. Soft interrupt.
    Accepted,
    /// Our side closes first: FIN_WAIT1. Process context.
    CloseFirst,
    /// Our side closes after the peer: LAST_ACK. Process context.
    CloseSecond,
    /// The socket left the lifecycle; how is for [`closed`] to say. Any context.
    Closed,
}

/// What the change from `old` to `new` means. Numbers that are no state are ignored.
#[inline(always)]
pub const fn step(old: u8, new: u8) -> Step {
    const ESTABLISHED: u8 = TcpState::Established.raw();
    const SYN_SENT: u8 = TcpState::SynSent.raw();
    const SYN_RECV: u8 = TcpState::SynRecv.raw();
    const FIN_WAIT1: u8 = TcpState::FinWait1.raw();
    const CLOSE: u8 = TcpState::Close.raw();
    const LAST_ACK: u8 = TcpState::LastAck.raw();
    const LISTEN: u8 = TcpState::Listen.raw();
    if old == new {
        return Step::Ignore;
    }
    match new {
        SYN_SENT if old == CLOSE => Step::ConnectBegin,
        ESTABLISHED if old == SYN_SENT => Step::Connected,
        ESTABLISHED if old == SYN_RECV => Step::Accepted,
        FIN_WAIT1 => Step::CloseFirst,
        LAST_ACK => Step::CloseSecond,
        LISTEN => Step::Listen,
        CLOSE => match old {
            LISTEN => Step::Unlisten,
            SYN_SENT => Step::ConnectFailed,
            // SYN_RECV included: a simultaneous open that failed is in the ledger, a request that
            // was never accepted is not, and only the ledger can tell.
            SYN_RECV | 1..=12 => Step::Closed,
            _ => Step::Ignore,
        },
        _ => Step::Ignore,
    }
}

/// Who ended a connection, and how.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(u8)]
pub enum CloseKind {
    /// Our side sent the first FIN.
    Local = 0,
    /// The peer sent the first FIN.
    Remote = 1,
    /// Both sent a FIN before seeing the other's.
    Simultaneous = 2,
    /// Our side closed first, because the process ended with the socket open.
    ProcessExit = 3,
    /// Our side aborted: linger 0, unread data at close, `ss -K`.
    ResetLocal = 4,
    /// The peer sent a RST.
    ResetRemote = 5,
    /// Retransmissions, keep-alive probes or an orphan's patience ran out.
    TimedOut = 6,
}

impl CloseKind {
    /// How many kinds there are.
    pub const COUNT: usize = 7;
    /// Every kind, in the order of its number.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Local,
        Self::Remote,
        Self::Simultaneous,
        Self::ProcessExit,
        Self::ResetLocal,
        Self::ResetRemote,
        Self::TimedOut,
    ];

    /// The name in output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Remote => "remote",
            Self::Simultaneous => "simultaneous",
            Self::ProcessExit => "process_exit",
            Self::ResetLocal => "reset_local",
            Self::ResetRemote => "reset_remote",
            Self::TimedOut => "timed_out",
        }
    }
}

/// `ETIMEDOUT` (asm-generic/errno.h), the same on x86-64 and arm64.
pub const ETIMEDOUT: u32 = 110;
/// `EHOSTUNREACH`.
const EHOSTUNREACH: u32 = 113;
/// `ENETUNREACH`.
const ENETUNREACH: u32 = 101;
/// `ECONNABORTED`.
const ECONNABORTED: u32 = 103;

/// How a socket that was in `old` came to CLOSE, and whether a TIME_WAIT mini-socket stays behind.
///
/// `sk_err` is `sk->sk_err` at that moment (0: none, or unknown); `exiting` tells that our side's close, if there
/// was one, came from a process that was ending. `entered` is what `tcp_time_wait` said, `None` without that hook. Then
/// a mini-socket is only expected: the kernel makes none for an orphan that it does not want to wait for (TCP_LINGER2 below
/// 0, data after the close, a FIN_WAIT2 that took too long), nor at `tcp_max_tw_buckets`.
#[inline(always)]
pub const fn closed(old: u8, sk_err: u32, exiting: bool, entered: Option<bool>) -> (CloseKind, bool) {
    let (kind, expected) = match entered {
        // An orderly end: the error is one that nobody has fetched, such as an ICMP message from before.
        Some(true) => inferred(old, 0, exiting),
        _ => inferred(old, sk_err, exiting),
    };
    match entered {
        Some(entered) => (kind, entered),
        None => (kind, expected),
    }
}

#[inline(always)]
const fn inferred(old: u8, sk_err: u32, exiting: bool) -> (CloseKind, bool) {
    const FIN_WAIT1: u8 = TcpState::FinWait1.raw();
    const FIN_WAIT2: u8 = TcpState::FinWait2.raw();
    const LAST_ACK: u8 = TcpState::LastAck.raw();
    const CLOSING: u8 = TcpState::Closing.raw();
    if old == LAST_ACK {
        return (CloseKind::Remote, false);
    }
    match sk_err {
        0 => {}
        // Retransmissions ran out; the kernel says what it last heard of the way there (`tcp_write_err`).
        ETIMEDOUT | EHOSTUNREACH | ENETUNREACH => return (CloseKind::TimedOut, false),
        // Somebody here killed it, as `ss -K` does (`tcp_abort`).
        ECONNABORTED => return (CloseKind::ResetLocal, false),
        _ => return (CloseKind::ResetRemote, false),
    }
    match old {
        FIN_WAIT2 if exiting => (CloseKind::ProcessExit, true),
        FIN_WAIT2 => (CloseKind::Local, true),
        CLOSING => (CloseKind::Simultaneous, true),
        // The FIN was never acknowledged and no error was set: an orphan that the kernel gave up.
        FIN_WAIT1 => (CloseKind::TimedOut, false),
        _ if exiting => (CloseKind::ProcessExit, false),
        _ => (CloseKind::ResetLocal, false),
    }
}

/// Why a connect failed. The kernel side knows `sk_err` and the local port, not the return value of `connect()`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(u8)]
pub enum FailKind {
    /// No local port was free for this destination.
    Eaddrnotavail = 0,
    /// The peer refused.
    Econnrefused = 1,
    /// No answer.
    Etimedout = 2,
    /// No route to the host.
    Ehostunreach = 3,
    /// No route to the network.
    Enetunreach = 4,
    /// Reset during the handshake.
    Econnreset = 5,
    /// The program closed the socket before the handshake ended, most often its own connect timeout.
    Aborted = 6,
    /// Everything else.
    Other = 7,
    /// `bind()` to any port found none: not one was free for all destinations at once.
    Eaddrinuse = 8,
    /// The port that was bound first is in use with this very destination: EADDRNOTAVAIL, while others may be free.
    TupleTaken = 9,
}

impl FailKind {
    /// How many kinds there are.
    pub const COUNT: usize = 10;
    /// Every kind, in the order of its number.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Eaddrnotavail,
        Self::Econnrefused,
        Self::Etimedout,
        Self::Ehostunreach,
        Self::Enetunreach,
        Self::Econnreset,
        Self::Aborted,
        Self::Other,
        Self::Eaddrinuse,
        Self::TupleTaken,
    ];

    /// The name in output: the errno where there is one.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Eaddrnotavail => "EADDRNOTAVAIL",
            Self::Econnrefused => "ECONNREFUSED",
            Self::Etimedout => "ETIMEDOUT",
            Self::Ehostunreach => "EHOSTUNREACH",
            Self::Enetunreach => "ENETUNREACH",
            Self::Econnreset => "ECONNRESET",
            Self::Aborted => "aborted",
            Self::Other => "other",
            Self::Eaddrinuse => "EADDRINUSE",
            Self::TupleTaken => "tuple_taken",
        }
    }
}

/// What is known when SYN_SENT→CLOSE is seen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FailFacts {
    /// `sk->sk_err`; `None` where the kernel's type information is missing.
    pub sk_err: Option<u32>,
    /// `inet_sport`: 0 when the kernel never found a local port.
    pub local_port: u16,
    /// The same when the connect began: not 0 if the socket has been connected before.
    pub earlier_port: u16,
    /// Whether a SYN ever left (`tcp_sock.segs_out` > 0); `None` where that cannot be read.
    pub syn_sent: Option<bool>,
    /// Whether the local port was bound before the connect.
    pub was_bound: bool,
}

/// Why the connect failed.
///
/// A local port of 0 is exhaustion: routing is settled before SYN_SENT, and `inet_hash_connect` is what fails next
/// (net/ipv4/tcp_ipv4.c, `tcp_v4_connect`). On a socket that is used again the port of its last connection stands there
/// instead. A bound port whose four-tuple is taken fails there too, before any SYN. Without either no SYN left because none was
/// due yet: with TCP Fast Open the first write sends it.
#[inline(always)]
pub const fn failed(facts: FailFacts) -> FailKind {
    match facts.sk_err {
        Some(104) => FailKind::Econnreset,
        Some(111) => FailKind::Econnrefused,
        Some(ETIMEDOUT) => FailKind::Etimedout,
        Some(113) => FailKind::Ehostunreach,
        Some(101) => FailKind::Enetunreach,
        Some(0) | None if facts.local_port == 0 => FailKind::Eaddrnotavail,
        Some(0) => match facts.syn_sent {
            Some(false) if facts.was_bound => FailKind::TupleTaken,
            Some(false) if facts.local_port == facts.earlier_port => FailKind::Eaddrnotavail,
            Some(_) => FailKind::Aborted,
            None => FailKind::Other,
        },
        _ => FailKind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::{CloseKind, FailFacts, FailKind, Step, TcpState, closed, failed, step};
    use TcpState::{
        CloseWait, Closing, Established, FinWait1, FinWait2, LastAck, Listen, SynRecv, SynSent, TimeWait,
    };

    /// Rows: old state; columns: new state; both in the kernel's order 1..=12.
    /// `.` ignore, `L` listen, `U` unlisten, `b` connect begins, `c` connected, `f` failed, `a` accepted,
    /// `1` close first, `2` close second, `x` closed.
    const TABLE: [&str; 12] = [
        "...1..x.2L..", // ESTABLISHED
        "c..1..f.2L..", // SYN_SENT
        "a..1..x.2L..", // SYN_RECV
        "......x.2L..", // FIN_WAIT1
        "...1..x.2L..", // FIN_WAIT2
        "...1..x.2L..", // TIME_WAIT
        ".b.1....2L..", // CLOSE
        "...1..x.2L..", // CLOSE_WAIT
        "...1..x..L..", // LAST_ACK
        "...1..U.2...", // LISTEN
        "...1..x.2L..", // CLOSING
        "...1..x.2L..", // NEW_SYN_RECV
    ];

    #[test]
    fn every_pair_of_states_means_what_the_table_says() {
        for (row, old) in TABLE.iter().zip(TcpState::ALL) {
            for (cell, new) in row.chars().zip(TcpState::ALL) {
                let expected = match cell {
                    'L' => Step::Listen,
                    'U' => Step::Unlisten,
                    'b' => Step::ConnectBegin,
                    'c' => Step::Connected,
                    'f' => Step::ConnectFailed,
                    'a' => Step::Accepted,
                    '1' => Step::CloseFirst,
                    '2' => Step::CloseSecond,
                    'x' => Step::Closed,
                    _ => Step::Ignore,
                };
                assert_eq!(step(old.raw(), new.raw()), expected, "{} → {}", old.name(), new.name());
            }
        }
    }

    #[test]
    fn numbers_that_are_no_state_mean_nothing() {
        for raw in [0, 13, 14, 200, 255] {
            assert_eq!(step(raw, 7), Step::Ignore);
            assert_eq!(step(7, raw), Step::Ignore);
        }
    }

    #[test]
    fn the_first_fin_decides_who_closed() {
        assert_eq!(closed(FinWait2.raw(), 0, false, None), (CloseKind::Local, true));
        assert_eq!(closed(Closing.raw(), 0, false, None), (CloseKind::Simultaneous, true));
        assert_eq!(closed(LastAck.raw(), 0, false, None), (CloseKind::Remote, false));
        assert_eq!(
            closed(LastAck.raw(), 0, true, None),
            (CloseKind::Remote, false),
            "the peer was first all the same"
        );
        assert_eq!(closed(LastAck.raw(), 104, false, None), (CloseKind::Remote, false));
    }

    #[test]
    fn a_process_that_ends_is_named_as_the_reason() {
        assert_eq!(closed(FinWait2.raw(), 0, true, None), (CloseKind::ProcessExit, true));
        assert_eq!(closed(Established.raw(), 0, true, None), (CloseKind::ProcessExit, false));
    }

    #[test]
    fn resets_and_timeouts_leave_no_time_wait() {
        for old in [Established, CloseWait, SynRecv] {
            assert_eq!(closed(old.raw(), 0, false, None), (CloseKind::ResetLocal, false));
            assert_eq!(closed(old.raw(), 104, false, None), (CloseKind::ResetRemote, false));
        }
        for old in [Established, FinWait1, FinWait2, CloseWait] {
            assert_eq!(closed(old.raw(), 110, false, None), (CloseKind::TimedOut, false));
        }
        assert_eq!(closed(FinWait1.raw(), 0, false, None), (CloseKind::TimedOut, false));
        assert_eq!(closed(FinWait2.raw(), 104, true, None), (CloseKind::ResetRemote, false));
        let _ = (SynSent, Listen, TimeWait);
    }

    #[test]
    fn who_gave_up_is_not_taken_for_the_peer() {
        for gave_up in [110, 113, 101] {
            assert_eq!(closed(Established.raw(), gave_up, false, None), (CloseKind::TimedOut, false));
        }
        assert_eq!(closed(Established.raw(), 103, false, None), (CloseKind::ResetLocal, false));
        assert_eq!(closed(Established.raw(), 32, false, None), (CloseKind::ResetRemote, false));
    }

    #[test]
    fn what_the_kernel_said_goes_before_what_the_state_suggests() {
        assert_eq!(closed(FinWait2.raw(), 0, false, Some(true)), (CloseKind::Local, true));
        assert_eq!(closed(FinWait2.raw(), 0, false, Some(false)), (CloseKind::Local, false));
        assert_eq!(closed(Closing.raw(), 0, false, Some(false)), (CloseKind::Simultaneous, false));
        for old in TcpState::ALL {
            let (kind, _) = closed(old.raw(), 0, true, None);
            assert_eq!(closed(old.raw(), 0, true, Some(false)), (kind, false));
        }
    }

    #[test]
    fn an_error_that_nobody_fetched_is_not_what_ended_an_orderly_close() {
        assert_eq!(closed(FinWait2.raw(), 111, false, Some(true)), (CloseKind::Local, true));
        assert_eq!(closed(FinWait2.raw(), 110, true, Some(true)), (CloseKind::ProcessExit, true));
        assert_eq!(closed(FinWait2.raw(), 104, false, Some(false)), (CloseKind::ResetRemote, false));
    }

    #[test]
    fn no_local_port_is_exhaustion_whatever_else_is_unknown() {
        let none =
            FailFacts { sk_err: None, local_port: 0, earlier_port: 0, syn_sent: None, was_bound: false };
        assert_eq!(failed(none), FailKind::Eaddrnotavail);
        assert_eq!(failed(FailFacts { sk_err: Some(0), ..none }), FailKind::Eaddrnotavail);
        assert_eq!(failed(FailFacts { local_port: 4000, ..none }), FailKind::Other);
    }

    #[test]
    fn a_connect_that_was_given_up_is_not_exhaustion() {
        for was_bound in [false, true] {
            let facts = FailFacts {
                sk_err: Some(0),
                local_port: 4000,
                earlier_port: 4001,
                syn_sent: Some(true),
                was_bound,
            };
            assert_eq!(failed(facts), FailKind::Aborted);
            let taken = if was_bound { FailKind::TupleTaken } else { FailKind::Aborted };
            assert_eq!(failed(FailFacts { syn_sent: Some(false), ..facts }), taken);
            assert_eq!(failed(FailFacts { syn_sent: None, ..facts }), FailKind::Other);
        }
    }

    #[test]
    fn a_socket_that_is_used_again_keeps_its_last_port_when_it_finds_none() {
        let facts = FailFacts {
            sk_err: Some(0),
            local_port: 4000,
            earlier_port: 4000,
            syn_sent: Some(false),
            was_bound: false,
        };
        assert_eq!(failed(facts), FailKind::Eaddrnotavail);
        assert_eq!(failed(FailFacts { was_bound: true, ..facts }), FailKind::TupleTaken);
        assert_eq!(
            failed(FailFacts { syn_sent: Some(true), ..facts }),
            FailKind::Aborted,
            "it found it again"
        );
        assert_eq!(failed(FailFacts { syn_sent: None, ..facts }), FailKind::Other);
    }

    #[test]
    fn errors_from_the_network_keep_their_name() {
        for (errno, kind) in [
            (101, FailKind::Enetunreach),
            (104, FailKind::Econnreset),
            (110, FailKind::Etimedout),
            (111, FailKind::Econnrefused),
            (113, FailKind::Ehostunreach),
            (5, FailKind::Other),
        ] {
            let facts = FailFacts {
                sk_err: Some(errno),
                local_port: 4000,
                earlier_port: 4000,
                syn_sent: Some(true),
                was_bound: false,
            };
            assert_eq!(failed(facts), kind);
        }
    }

    #[test]
    fn kinds_are_numbered_in_their_order() {
        for (number, kind) in CloseKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, number);
        }
        for (number, kind) in FailKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, number);
        }
    }
}
