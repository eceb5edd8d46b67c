//! `portchurn-churn`: plain connects at a given pace, and what each came to, as one line of JSON. For tests that need
//! ports to run out in a network namespace of their own. Every connect waits for the accept of the one before it.
//!
//! `fill` is both ends in one thread: as many TIME_WAIT sockets as are wanted, in seconds.
#![expect(clippy::print_stdout, reason = "it speaks to a test over stdout")]

use std::io::{Read, Write, stdin, stdout};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use serde_json::json;

/// How long the server may take to accept.
const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["serve", address, rest @ ..] => serve(address.parse()?, rest.contains(&"first")),
        ["connect", address, count, per_s, rest @ ..] => {
            let how = How {
                abort: rest.contains(&"abort"),
                bind: rest.contains(&"bind"),
                again: rest.contains(&"again"),
                stay: rest.contains(&"stay"),
            };
            connect(address.parse()?, count.parse()?, per_s.parse()?, &how)
        }
        ["fill", address, count, per_s, rest @ ..] => {
            fill(address.parse()?, count.parse()?, per_s.parse()?, rest.contains(&"stay"))
        }
        _ => bail!(
            "serve ADDR:PORT [first] | connect|fill ADDR:PORT COUNT PER_S [abort] [bind] [again] [stay]"
        ),
    }
}

/// Sends a byte when it has accepted; closes first, or after the client.
fn serve(address: SocketAddr, first: bool) -> Result<()> {
    let listener = TcpListener::bind(address)?;
    println!("ready");
    for stream in listener.incoming() {
        let mut stream = stream?;
        let _ = stream.write_all(b"x");
        if !first {
            let _ = stream.read(&mut [0]);
        }
    }
    Ok(())
}

struct How {
    /// Reset instead of a close.
    abort: bool,
    /// Bind to our address before the connect.
    bind: bool,
    /// Each socket was refused one port further before.
    again: bool,
    /// Live on until stdin ends.
    stay: bool,
}

fn connect(address: SocketAddr, count: u64, per_s: f64, how: &How) -> Result<()> {
    let (mut ok, mut errno_99, mut errno_98, mut other) = (0u64, 0u64, 0u64, 0u64);
    let mut first_failure = None;
    let mut ports = Vec::new();
    let mut medians = Medians::default();
    println!("begins");
    let begun = Instant::now();
    for round in 0..count {
        match one(address, how) {
            Ok((port, connect)) => {
                ports.push(port);
                medians.add(connect);
                ok += 1;
            }
            Err(error) => {
                match error.raw_os_error() {
                    Some(libc::EADDRNOTAVAIL) => errno_99 += 1,
                    Some(libc::EADDRINUSE) => errno_98 += 1,
                    _ => other += 1,
                }
                first_failure.get_or_insert((round, begun.elapsed().as_secs_f64()));
            }
        }
        if per_s > 0.0 {
            let due = Duration::from_secs_f64((round + 1) as f64 / per_s);
            std::thread::sleep(due.saturating_sub(begun.elapsed()));
        }
    }
    println!(
        "{}",
        json!({ "pid": std::process::id(), "ok": ok, "errno_99": errno_99, "errno_98": errno_98, "other": other,
            "first_failure": first_failure.map(|(round, _)| round), "first_failure_s": first_failure.map(|(_, s)| s),
            "connect_us_medians": medians.of_each_thousand, "ports": ports })
    );
    stdout().flush()?;
    if how.stay {
        let _ = stdin().read(&mut [0]);
    }
    Ok(())
}

/// Connections that `fill` makes to one port of the server: fewer than half of the usual range.
const PER_PORT: u64 = 12_000;

/// Connections of this process to itself, each closed at once by the connecting end, so that they end as TIME_WAIT.
fn fill(first: SocketAddr, count: u64, per_s: f64, stay: bool) -> Result<()> {
    println!("begins");
    let begun = Instant::now();
    let mut address = first;
    let mut listener = TcpListener::bind(address)?;
    for round in 0..count {
        if round > 0 && round.is_multiple_of(PER_PORT) {
            address.set_port(address.port() + 1);
            listener = TcpListener::bind(address)?;
        }
        let near = TcpStream::connect(address)?;
        let (far, _) = listener.accept()?;
        drop(near);
        drop(far);
        // Sleeping after each one would be slower than what is asked for.
        if per_s > 0.0 && round.is_multiple_of(16) {
            let due = Duration::from_secs_f64(round as f64 / per_s);
            std::thread::sleep(due.saturating_sub(begun.elapsed()));
        }
    }
    let took_s = begun.elapsed().as_secs_f64();
    println!(
        "{}",
        json!({ "pid": std::process::id(), "ok": count, "errno_99": 0, "errno_98": 0, "other": 0, "took_s": took_s })
    );
    stdout().flush()?;
    if stay {
        let _ = stdin().read(&mut [0]);
    }
    Ok(())
}

/// The median duration of `connect()`, thousand by thousand.
#[derive(Default)]
struct Medians {
    present: Vec<u64>,
    of_each_thousand: Vec<u64>,
}

impl Medians {
    fn add(&mut self, duration: Duration) {
        self.present.push(duration.as_micros() as u64);
        if self.present.len() == 1000 {
            self.present.sort_unstable();
            self.of_each_thousand.push(self.present[500]);
            self.present.clear();
        }
    }
}

/// One connection: open, wait until it was accepted, wait until the server closed if it does so first, close. Its local port, and
/// how long the opening took.
fn one(address: SocketAddr, how: &How) -> std::io::Result<(u16, Duration)> {
    let begun = Instant::now();
    let mut stream = match how {
        How { bind: true, .. } => bound(address)?,
        How { again: true, .. } => used_again(address)?,
        _ => TcpStream::connect(address)?,
    };
    let took = begun.elapsed();
    let port = stream.local_addr()?.port();
    // A close before the byte was read would be a reset, which leaves no TIME_WAIT.
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    if how.abort {
        let linger = libc::linger { l_onoff: 1, l_linger: 0 };
        // SAFETY: a valid socket, and a valid value of this size.
        unsafe {
            libc::setsockopt(
                stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_LINGER,
                (&raw const linger).cast(),
                size_of::<libc::linger>() as u32,
            );
        }
    } else if std::env::var_os("CHURN_SERVER_FIRST").is_some() {
        let _ = stream.read(&mut byte);
    }
    Ok((port, took))
}

/// The way that takes a port away from every destination: `bind()` to port 0 before the connect.
fn bound(address: SocketAddr) -> std::io::Result<TcpStream> {
    let own = std::env::var("CHURN_SOURCE").ok().and_then(|text| text.parse().ok());
    let own = own.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let socket = socket()?;
    rustix::net::bind(&socket, &SocketAddr::new(own, 0))?;
    rustix::net::connect(&socket, &address)?;
    Ok(socket.into())
}

/// A loop that tries again with the socket that it has.
fn used_again(address: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = socket()?;
    let nobody = SocketAddr::new(address.ip(), address.port() + 1);
    match rustix::net::connect(&socket, &nobody) {
        Err(Errno::CONNREFUSED) => {}
        outcome => {
            return Err(std::io::Error::other(format!("{nobody} was to refuse, but: {outcome:?}")));
        }
    }
    rustix::net::connect(&socket, &address)?;
    Ok(socket.into())
}

fn socket() -> rustix::io::Result<OwnedFd> {
    rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)
}
