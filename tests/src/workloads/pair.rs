//! A client and a server, each a process of its own, in lock-step: the client does not go on before the server has
//! accepted, as an overflowing listen queue would cost a second per connection.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result, bail};
use rustix::io::Errno;

use super::Plan;
use super::role::{Role, finish_all};
use super::sockets::{
    accept_one, connect_to, expect_state, listener, read_some, reset_at_close, state, stream, wait_for_end,
};
use crate::truth::{CloseKind, End, ProcessTruth};

/// A connection, and where it is counted.
#[derive(Debug)]
pub struct Connection {
    /// The socket.
    pub socket: OwnedFd,
    /// Where it is counted.
    pub end: End,
}

/// What a process needs to count how its connections end.
#[derive(Debug)]
pub struct Ledger<'a> {
    /// What is asked for.
    pub plan: &'a Plan,
    /// What happened so far.
    pub truth: &'a mut ProcessTruth,
    kept: Vec<Connection>,
}

impl<'a> Ledger<'a> {
    /// Nothing happened yet.
    pub const fn new(plan: &'a Plan, truth: &'a mut ProcessTruth) -> Self {
        Self { plan, truth, kept: Vec::new() }
    }

    /// Keeps a connection open for later.
    pub fn keep(&mut self, connection: Connection) {
        self.kept.push(connection);
    }

    /// The connections that were kept.
    pub fn take_kept(&mut self) -> Vec<Connection> {
        std::mem::take(&mut self.kept)
    }

    /// Our side closes first.
    pub fn close_first(&mut self, connection: Connection) -> Result<()> {
        self.check(&connection, state::ESTABLISHED)?;
        self.end(connection, CloseKind::Local);
        Ok(())
    }

    /// Our side closes once the peer has.
    pub fn close_second(&mut self, connection: Connection) -> Result<()> {
        wait_for_end(&connection.socket)?;
        self.check(&connection, state::CLOSE_WAIT)?;
        self.end(connection, CloseKind::Remote);
        Ok(())
    }

    /// Counts an end of a connection that leaves no TIME_WAIT, though its kind does as a rule.
    pub fn end_without_time_wait(&mut self, connection: Connection, kind: CloseKind) {
        self.truth.at(connection.end).without_time_wait += 1;
        self.end(connection, kind);
    }

    /// Our side aborts.
    pub fn abort(&mut self, connection: Connection) -> Result<()> {
        reset_at_close(&connection.socket)?;
        self.check(&connection, state::ESTABLISHED)?;
        self.end(connection, CloseKind::ResetLocal);
        Ok(())
    }

    /// Our side waits until the peer has aborted.
    pub fn await_abort(&mut self, connection: Connection) -> Result<()> {
        match read_some(&connection.socket)? {
            Err(Errno::CONNRESET) => self.check(&connection, state::CLOSE)?,
            other => bail!("a reset was to come, not {other:?}"),
        }
        self.end(connection, CloseKind::ResetRemote);
        Ok(())
    }

    /// Closes a connection of which the workload knows how it ends.
    pub fn end(&mut self, connection: Connection, kind: CloseKind) {
        // MPTCP closes its TCP connections when and how it likes.
        if self.plan.mptcp {
            self.truth.at(connection.end).closed_somehow += 1;
        } else {
            self.truth.closed(connection.end, kind);
        }
        drop(connection);
    }

    fn check(&self, connection: &Connection, expected: u8) -> Result<()> {
        if self.plan.is_bulk || self.plan.mptcp {
            return Ok(());
        }
        expect_state(&connection.socket, expected)
    }
}

/// The server's side.
#[derive(Debug)]
pub struct Server<'a> {
    /// Counts.
    pub ledger: Ledger<'a>,
    listeners: Vec<(OwnedFd, u16)>,
    wire: UnixStream,
}

impl<'a> Server<'a> {
    /// Listens, and tells the client where.
    pub fn open(plan: &'a Plan, truth: &'a mut ProcessTruth, wire: UnixStream) -> Result<Self> {
        let mut listeners = Vec::new();
        for _ in 0..plan.ports {
            let (socket, address) = listener(plan.family, plan.mptcp)?;
            listeners.push((socket, address.port()));
        }
        Self::with_listeners(plan, truth, wire, listeners)
    }

    /// Tells the client where to connect to.
    pub fn with_listeners(
        plan: &'a Plan,
        truth: &'a mut ProcessTruth,
        mut wire: UnixStream,
        listeners: Vec<(OwnedFd, u16)>,
    ) -> Result<Self> {
        let ports: Vec<u8> = listeners.iter().flat_map(|(_, port)| port.to_be_bytes()).collect();
        wire.write_all(&ports).context("tell the client the ports")?;
        Ok(Self { ledger: Ledger::new(plan, truth), listeners, wire })
    }

    /// Accepts the client's connection number `index`, and lets the client go on.
    pub fn accept(&mut self, index: u64) -> Result<Connection> {
        let connection = self.accept_silently(index)?;
        self.step()?;
        Ok(connection)
    }

    /// Accepts the client's connection number `index`; the client waits until [`Self::step`].
    pub fn accept_silently(&mut self, index: u64) -> Result<Connection> {
        let at = index as usize % self.listeners.len();
        let (listener, port) = &self.listeners[at];
        let socket = accept_one(listener)?;
        let end = End::Accept(*port);
        self.ledger.truth.accepted(end);
        Ok(Connection { socket, end })
    }

    /// The client may go on.
    pub fn step(&mut self) -> Result<()> {
        self.wire.write_all(&[1]).context("let the client go on")
    }

    /// Waits for the client's [`Client::step`].
    pub fn await_step(&mut self) -> Result<()> {
        await_byte(&mut self.wire)
    }
}

/// The client's side.
#[derive(Debug)]
pub struct Client<'a> {
    /// Counts.
    pub ledger: Ledger<'a>,
    targets: Vec<SocketAddr>,
    wire: UnixStream,
}

impl<'a> Client<'a> {
    /// Waits until the server listens.
    pub fn open(plan: &'a Plan, truth: &'a mut ProcessTruth, mut wire: UnixStream) -> Result<Self> {
        let mut ports = vec![0; plan.ports * 2];
        wire.read_exact(&mut ports).context("learn the server's ports")?;
        let address: IpAddr = plan.family.loopback();
        let targets = ports
            .chunks_exact(2)
            .map(|bytes| SocketAddr::new(address, u16::from_be_bytes([bytes[0], bytes[1]])))
            .collect();
        Ok(Self { ledger: Ledger::new(plan, truth), targets, wire })
    }

    /// Where connection number `index` goes to.
    pub fn target(&self, index: u64) -> SocketAddr {
        self.targets[index as usize % self.targets.len()]
    }

    /// Makes connection number `index`, and waits until the server has accepted it.
    pub fn connect(&mut self, index: u64) -> Result<Connection> {
        let socket = stream(self.ledger.plan.family, self.ledger.plan.mptcp)?;
        self.connect_with(index, socket)
    }

    /// The same, with this socket.
    pub fn connect_with(&mut self, index: u64, socket: OwnedFd) -> Result<Connection> {
        connect_to(&socket, self.target(index)).context("connect")?;
        self.opened(index, socket)
    }

    /// Counts a connect that succeeded, and waits until the server has accepted it.
    pub fn opened(&mut self, index: u64, socket: OwnedFd) -> Result<Connection> {
        let end = End::connect(self.target(index));
        self.ledger.truth.opened(end);
        await_byte(&mut self.wire)?;
        Ok(Connection { socket, end })
    }

    /// Makes connection number `index` and resets it, while the server accepts it; waits until that has seen both.
    pub fn reset_at_once(&mut self, index: u64, socket: OwnedFd) -> Result<()> {
        reset_at_close(&socket)?;
        connect_to(&socket, self.target(index)).context("connect")?;
        let end = End::connect(self.target(index));
        self.ledger.truth.opened(end);
        self.ledger.end(Connection { socket, end }, CloseKind::ResetLocal);
        await_byte(&mut self.wire)
    }

    /// The server may go on.
    pub fn step(&mut self) -> Result<()> {
        self.wire.write_all(&[1]).context("let the server go on")
    }
}

fn await_byte(wire: &mut UnixStream) -> Result<()> {
    let mut byte = [0];
    wire.read_exact(&mut byte).context("wait for the other side")
}

/// Runs a server and a client, both `plan.count` times, each in a process of its own.
pub fn run_pair(
    plan: &Plan,
    serve: impl Fn(&mut Server<'_>, u64) -> Result<()>,
    call: impl Fn(&mut Client<'_>, u64) -> Result<()>,
) -> Result<Vec<ProcessTruth>> {
    finish_all(start_pair(plan, plan.client_cpu, plan.server_cpu, serve, call)?)
}

/// Starts a server and a client.
pub fn start_pair(
    plan: &Plan,
    client_cpu: Option<usize>,
    server_cpu: Option<usize>,
    serve: impl Fn(&mut Server<'_>, u64) -> Result<()>,
    call: impl Fn(&mut Client<'_>, u64) -> Result<()>,
) -> Result<[Role; 2]> {
    let (server_wire, client_wire) = UnixStream::pair().context("make a wire")?;
    let server = Role::start("server", server_cpu, move |truth| {
        let mut server = Server::open(plan, truth, server_wire)?;
        (0..plan.count).try_for_each(|index| serve(&mut server, index))
    })?;
    let client = Role::start("client", client_cpu, move |truth| {
        let mut client = Client::open(plan, truth, client_wire)?;
        (0..plan.count).try_for_each(|index| call(&mut client, index))
    })?;
    Ok([server, client])
}

/// Both sides of a connection in one process.
pub fn connect_to_self(
    plan: &Plan,
    truth: &mut ProcessTruth,
    listener: &OwnedFd,
    target: SocketAddr,
) -> Result<(Connection, Connection)> {
    connect_to_self_with(truth, stream(plan.family, plan.mptcp)?, listener, target)
}

/// The same, with this socket.
pub fn connect_to_self_with(
    truth: &mut ProcessTruth,
    socket: OwnedFd,
    listener: &OwnedFd,
    target: SocketAddr,
) -> Result<(Connection, Connection)> {
    connect_to(&socket, target).context("connect")?;
    let near = Connection { socket, end: End::connect(target) };
    truth.opened(near.end);
    let socket = accept_one(listener)?;
    let far = Connection { socket, end: End::Accept(target.port()) };
    truth.accepted(far.end);
    Ok((near, far))
}
