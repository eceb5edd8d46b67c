//! Servers that programs under test talk to: real ones with data of their own, on loopback, ended by their number; and
//! two in this process.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::folder::Folder;
use super::programs::die_with_parent;
use super::skip;
use super::veth::{Cable, SERVER};

/// How long a server may take until it listens. Only ends a test that has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// Listens in this process and closes whatever it accepts.
pub fn accepting() -> Result<u16> {
    serve(drop)
}

/// Answers every request and closes, as a server without keep-alive does.
pub fn http() -> Result<u16> {
    serve(|mut stream| {
        let mut request = Vec::new();
        let mut byte = [0];
        while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|len| len == 1) {
            request.push(byte[0]);
        }
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
    })
}

fn serve(one: impl Fn(TcpStream) + Send + 'static) -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("listen")?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || listener.incoming().flatten().for_each(one));
    Ok(port)
}

/// A port that nobody listens on at this moment.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0").context("listen")?.local_addr()?.port())
}

/// A program on PATH, or in the folders that administrators have on theirs.
pub fn program(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/bin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| skip(format!("{name} is not installed")))
}

/// Where a server runs.
#[derive(Clone, Copy)]
enum Place<'a> {
    /// In this network namespace.
    Here,
    /// At the server's end of a cable.
    Over(&'a Cable),
}

impl Place<'_> {
    fn inside<T: Send>(self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        match self {
            Self::Here => work(),
            Self::Over(cable) => cable.inside(&cable.server, work),
        }
    }
}

fn mariadb(address: &str) -> Result<Command> {
    let mut command = Command::new(program("mariadbd")?);
    command.args(["--no-defaults", "--user=root", "--skip-grant-tables", "--skip-name-resolve"]);
    command.args(["--innodb=OFF", "--default-storage-engine=MyISAM", &format!("--bind-address={address}")]);
    Ok(command)
}

fn tell_mariadb(command: &mut Command, folder: &Path, port: u16) {
    let place = |option: &str, name: &str| format!("--{option}={}", folder.join(name).display());
    command.arg(format!("--datadir={}", folder.display()));
    command.args([place("socket", "socket"), place("pid-file", "pid"), format!("--port={port}")]);
}

fn redis(address: &str) -> Result<Command> {
    let mut command = match program("redis-server") {
        Ok(path) => Command::new(path),
        Err(_) => Command::new(program("redis-check-rdb")?),
    };
    command.arg0("redis-server").args(["--bind", address, "--save", "", "--protected-mode", "no"]);
    Ok(command)
}

fn tell_redis(command: &mut Command, folder: &Path, port: u16) {
    command.arg("--dir").arg(folder).args(["--port", &port.to_string()]);
}

/// A server of a package of the system. Dropping it ends it.
#[derive(Debug)]
pub struct Server {
    child: Child,
    folder: Folder,
    /// Where it listens.
    pub port: u16,
}

impl Server {
    /// MariaDB, without accounts and without tables of its own.
    pub fn mariadb() -> Result<Self> {
        Self::start_at(Place::Here, mariadb("127.0.0.1")?, tell_mariadb)
    }

    /// The same at the server's end of a cable.
    pub fn mariadb_over(cable: &Cable) -> Result<Self> {
        Self::start_at(Place::Over(cable), mariadb(SERVER)?, tell_mariadb)
    }

    /// Redis. Debian's redis-server starts one for everybody when it is installed; the program is also in redis-tools,
    /// under another name.
    pub fn redis() -> Result<Self> {
        Self::start_at(Place::Here, redis("127.0.0.1")?, tell_redis)
    }

    /// The same at the server's end of a cable.
    pub fn redis_over(cable: &Cable) -> Result<Self> {
        Self::start_at(Place::Over(cable), redis(SERVER)?, tell_redis)
    }

    /// A command that listens on the port that it is told.
    pub fn start(command: Command, tell: impl Fn(&mut Command, &Path, u16)) -> Result<Self> {
        Self::start_at(Place::Here, command, tell)
    }

    fn start_at(
        place: Place<'_>,
        mut command: Command,
        tell: impl Fn(&mut Command, &Path, u16),
    ) -> Result<Self> {
        let folder = Folder::new()?;
        let port = place.inside(free_port)?;
        tell(&mut command, folder.path(), port);
        if let Place::Over(cable) = place {
            cable.enter(&cable.server, &mut command)?;
        }
        let log = std::fs::File::create(folder.path().join("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        die_with_parent(&mut command);
        let child = command.spawn().with_context(|| format!("start {:?}", command.get_program()))?;
        let mut this = Self { child, folder, port };
        this.wait_until_it_listens(place)?;
        Ok(this)
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn wait_until_it_listens(&mut self, place: Place<'_>) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        // Asked of the kernel, not by a connect, which would be one more than the test knows of.
        let port = self.port;
        while !place.inside(|| listens(port))? {
            if let Some(status) = self.child.try_wait()? {
                bail!("a server ended with {status}: {}", self.log());
            }
            ensure!(Instant::now() < deadline, "a server does not listen: {}", self.log());
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// What it said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Asked first: one that has workers ends them itself.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let deadline = Instant::now() + PATIENCE;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether somebody listens on this port, on any IPv4 address.
fn listens(port: u16) -> Result<bool> {
    let table = std::fs::read_to_string("/proc/thread-self/net/tcp").context("read the table of sockets")?;
    let local = format!(":{port:04X}");
    Ok(table.lines().any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        fields.next().is_some_and(|address| address.ends_with(&local)) && fields.nth(1) == Some("0A")
    }))
}
