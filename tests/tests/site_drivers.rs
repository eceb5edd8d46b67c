//! The line of the application behind each connection of real drivers to real servers: SQLAlchemy, PyMySQL, mysqlclient,
//! requests, redis-py, asyncio, pools of processes, a preforking server. Which line it was, each script says itself.
//! Twice: with the system's packages, and with those of today.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use portchurn_tests::harness::folder::Folder;
use portchurn_tests::harness::lines::{Lines, found, truth};
use portchurn_tests::harness::servers::{self, Server};
use portchurn_tests::harness::sites;
use portchurn_tests::harness::tracer::Tracer;
use portchurn_tests::harness::{check, python};

/// How often each script connects. Divides by the number of workers.
const TIMES: u64 = 21;

/// Waits until what portchurn says is what the programs with this word say themselves.
fn same(tracer: &mut Tracer, word: &str, account: &Lines) -> Result<()> {
    ensure!(account.values().sum::<u64>() == TIMES, "the script did something else: {account:?}");
    let last = sites::wait_for(tracer, word, |destinations| {
        sites::opens_are(destinations, TIMES)?;
        let (lines, too_soon) = found(destinations)?;
        sites::are_those(&lines, account, too_soon)
    })?;
    let (_, too_soon) = found(&last)?;
    sites::say_named(word, TIMES - too_soon, TIMES, format_args!("too soon: {too_soon}"));
    Ok(())
}

/// Runs one kind of script against a port, with each Python.
fn named(kind: &str, port: u16) -> Result<()> {
    for python in [python::system()?, python::with_drivers()?] {
        let mut tracer = sites::start(port, &[])?;
        let arguments = [kind, &port.to_string(), &TIMES.to_string()].map(str::to_owned);
        let account = truth(&python::run(&python, "drivers.py", &arguments)?)?;
        same(&mut tracer, kind, &account).with_context(|| format!("with {}", python.display()))?;
        tracer.stop()?;
    }
    Ok(())
}

#[test]
fn sqlalchemy_with_an_engine_per_call() {
    check("sqlalchemy_with_an_engine_per_call", || {
        let server = Server::mariadb()?;
        named("sqlalchemy_engine_per_call", server.port)
    });
}

#[test]
fn sqlalchemy_without_a_pool() {
    check("sqlalchemy_without_a_pool", || {
        let server = Server::mariadb()?;
        named("sqlalchemy_null_pool", server.port)
    });
}

#[test]
fn pymysql() {
    check("pymysql", || {
        let server = Server::mariadb()?;
        named("pymysql", server.port)
    });
}

#[test]
fn mysqlclient() {
    check("mysqlclient", || {
        let server = Server::mariadb()?;
        named("mysqlclient", server.port)
    });
}

#[test]
fn redis_per_call() {
    check("redis_per_call", || {
        let server = Server::redis()?;
        named("redis", server.port)
    });
}

#[test]
fn requests_without_a_session() {
    check("requests_without_a_session", || named("requests", servers::http()?));
}

#[test]
fn asyncio_streams() {
    check("asyncio_streams", || named("asyncio_streams", servers::accepting()?));
}

#[test]
fn a_pool_of_processes() {
    check("a_pool_of_processes", || named("multiprocessing_pool", servers::accepting()?));
}

#[test]
fn forked_workers() {
    check("forked_workers", || named("prefork", servers::accepting()?));
}

/// One request to a web server that closes after it.
fn get(port: u16) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).context("connect to a web server")?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn a_preforking_web_server() {
    check("a_preforking_web_server", || {
        let python = python::with_drivers()?;
        let backend = servers::http()?;
        let folder = Folder::new()?;
        let account = folder.path().join("account");
        let mut tracer = sites::start(backend, &[])?;
        let mut command = Command::new(python);
        command.args(["-m", "gunicorn", "--workers=3", "--no-control-socket", "wsgi:application"]);
        command.arg("--chdir").arg(python::script("wsgi.py").parent().context("a folder")?);
        command.env("BACKEND", backend.to_string()).env("ACCOUNT", &account).env("NO_PROXY", "*");
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        let server = Server::start(command, |command, _, port| {
            command.arg(format!("--bind=127.0.0.1:{port}"));
        })?;
        for _ in 0..TIMES {
            let answer = get(server.port)?;
            ensure!(answer.ends_with("ok"), "{answer}: {}", server.log());
        }
        let account = truth(&std::fs::read_to_string(&account)?)?;
        same(&mut tracer, "wsgi:application", &account)?;
        tracer.stop()?;
        Ok(())
    });
}
