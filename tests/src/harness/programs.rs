//! Finding and running the programs that the tests are about, as a user would.

use std::ffi::OsStr;
use std::io::{Read as _, Write as _};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::{patience, skip};
use crate::truth::Truth;
use crate::workloads::Unavailable;

/// portchurn: `PORTCHURN_BIN`, or what cargo built, in the folder of the tests' own profile first.
pub fn portchurn() -> Result<PathBuf> {
    find("PORTCHURN_BIN", "portchurn")
}

/// portchurn-workload: `PORTCHURN_WORKLOAD`, or what cargo built.
pub fn workload() -> Result<PathBuf> {
    find("PORTCHURN_WORKLOAD", "portchurn-workload")
}

/// portchurn-churn: `PORTCHURN_CHURN`, or what cargo built.
pub fn churn() -> Result<PathBuf> {
    find("PORTCHURN_CHURN", "portchurn-churn")
}

fn find(variable: &str, name: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Ok(path.into());
    }
    // target/PROFILE/deps/this-test
    let own = std::env::current_exe().context("find this program")?;
    let profile = own.ancestors().nth(2).context("find the folder of this program")?;
    let target = profile.parent().context("find the target folder")?;
    [profile.to_owned(), target.join("debug"), target.join("release")]
        .into_iter()
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("{name} is not built: `cargo build --workspace`, or set {variable}"))
}

/// Seconds after which portchurn is ended when it should have ended by itself.
const PATIENCE_S: u32 = 60;

/// Ends the child, whatever it becomes, when it takes far too long.
pub fn bound(command: &mut Command) {
    bound_to(command, PATIENCE_S);
}

/// The same, after so many seconds.
pub fn bound_to(command: &mut Command, patience_s: u32) {
    let patience_s = patience(Duration::from_secs(patience_s.into())).as_secs() as u32;
    // SAFETY: one system call, which has no preconditions and outlives the exec.
    unsafe {
        command.pre_exec(move || {
            libc::alarm(patience_s);
            Ok(())
        })
    };
}

/// Ends the child when the thread that starts it ends, however that ends.
pub fn die_with_parent(command: &mut Command) {
    // SAFETY: one system call, which has no preconditions and outlives the exec.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        })
    };
}

/// Runs portchurn to its end.
pub fn run_portchurn<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Result<Output> {
    let mut command = Command::new(portchurn()?);
    command.args(arguments).stdin(Stdio::null()).env_remove("RUST_LOG");
    bound(&mut command);
    let output = command.output().context("run portchurn")?;
    ensure!(output.status.signal() != Some(libc::SIGALRM), "portchurn did not end: {command:?}");
    Ok(output)
}

/// What portchurn said on stderr. It must never have panicked.
pub fn complaint(output: &Output) -> Result<String> {
    let text = String::from_utf8(output.stderr.clone()).context("read stderr")?;
    ensure!(!text.contains("panicked"), "it panicked: {text}");
    Ok(text)
}

/// The names that portchurn offers instead of a wrong one, which it must refuse.
pub fn offered_instead(option: &str, wrong: &str) -> Result<Vec<String>> {
    let output = run_portchurn(["check", option, wrong])?;
    ensure!(!output.status.success(), "{option} {wrong} is accepted");
    let text = complaint(&output)?;
    let list = text.split_once("(have: ").and_then(|(_, rest)| rest.split_once(')'));
    let (list, _) = list.with_context(|| format!("no list of names in: {text}"))?;
    Ok(list.split(", ").map(str::to_owned).collect())
}

/// Runs a workload to its end.
pub fn run_workload(arguments: &[&str]) -> Result<Truth> {
    start_workload(arguments)?.finish()
}

/// Starts a workload.
pub fn start_workload(arguments: &[&str]) -> Result<Running> {
    let child = Command::new(workload()?)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start a workload")?;
    Ok(Running { child })
}

/// A workload at work. Its stdin and stdout may be taken in between.
#[derive(Debug)]
pub struct Running {
    /// The process.
    pub child: Child,
}

impl Running {
    /// Waits for its end, and tells what it did.
    pub fn finish(self) -> Result<Truth> {
        let output = self.child.wait_with_output().context("wait for a workload")?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        match output.status.code() {
            Some(0) => {}
            Some(Unavailable::EXIT_CODE) => return Err(skip(complaint.trim_end())),
            _ => bail!("a workload failed ({}): {complaint}", output.status),
        }
        let text = String::from_utf8(output.stdout).context("read what a workload did")?;
        let last = text.lines().last().context("a workload that says nothing")?;
        let truth: Truth = serde_json::from_str(last).context("understand what a workload did")?;
        if let Some(kernel) = truth.kernel {
            ensure!(kernel.listen_overflows == 0, "the workload outran accept(): {kernel:?}");
        }
        Ok(truth)
    }
}

/// A workload whose connections are open until it is told to close them.
#[derive(Debug)]
pub struct Held {
    workload: Running,
    /// The process that connects.
    pub client: u32,
    /// The one that accepts.
    pub server: u32,
}

impl Held {
    /// Starts it, and waits until all are open.
    pub fn open(workload: &str, arguments: &[&str]) -> Result<Self> {
        let mut workload = start_workload(&[&[workload], arguments].concat())?;
        let stdout = workload.child.stdout.as_mut().context("a pipe was asked for")?;
        let mut line = String::new();
        // Byte by byte: what follows is for others to read.
        while !line.ends_with('\n') {
            let mut byte = [0];
            stdout.read_exact(&mut byte).context("wait until all are open")?;
            line.push(char::from(byte[0]));
        }
        let mut numbers = line.split_whitespace().skip(1).map(str::parse);
        let mut number = || numbers.next()?.ok();
        let (client, server) = number().zip(number()).with_context(|| format!("understand {line}"))?;
        Ok(Self { workload, client, server })
    }

    /// Lets it close them; what it did.
    pub fn close(mut self) -> Result<Truth> {
        let mut stdin = self.workload.child.stdin.take().context("a pipe was asked for")?;
        stdin.write_all(b"\n").context("give the word")?;
        self.workload.finish()
    }
}
