//! Pythons and scripts: which interpreters are here, and what a script says of itself.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::programs::{bound, die_with_parent};
use super::skip;

/// Debian's own.
const SYSTEM: &str = "/usr/bin/python3";

/// Every Python from 3.7 on that can be found: those of pyenv and the system's.
pub fn all() -> Vec<PathBuf> {
    let mut found: Vec<_> = [SYSTEM].map(PathBuf::from).into_iter().filter(|p| p.exists()).collect();
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    found.extend(by_version(&home.join(".pyenv/versions"), 7));
    found
}

/// Versions from 3.7 to 3.13 that [`all`] lacks.
pub fn missing() -> Vec<String> {
    let versions: Vec<_> = all().iter().filter_map(|python| minor_of(python)).collect();
    (7..=13).filter(|minor| !versions.contains(minor)).map(|minor| format!("3.{minor}")).collect()
}

/// As it says itself.
fn minor_of(python: &Path) -> Option<u32> {
    let output = Command::new(python).args(["-c", "import sys; print(sys.version_info[1])"]).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

/// Those from 3.14 on, which `cargo xtask test` fetches.
pub fn newest() -> Vec<PathBuf> {
    by_version(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/test-pythons"), 14)
}

/// The Pythons in a folder that has one for each version, from a minor version on.
fn by_version(folder: &Path, from: u32) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let python = entry.path().join("bin/python3");
        let minor = entry.file_name().to_string_lossy().split('.').nth(1).and_then(|m| m.parse::<u32>().ok());
        if entry.file_name().to_string_lossy().starts_with("3.") && minor >= Some(from) && python.exists() {
            found.push(python);
        }
    }
    found
}

/// The system's Python, whose drivers come from its packages.
pub fn system() -> Result<PathBuf> {
    let path = PathBuf::from(SYSTEM);
    if path.exists() { Ok(path) } else { Err(skip("there is no Python of the system's here")) }
}

/// The Python with today's drivers, which `cargo xtask test` sets up: `PORTCHURN_PYTHON`, or in the target folder.
pub fn with_drivers() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("PORTCHURN_PYTHON") {
        return Ok(path.into());
    }
    // target/PROFILE/deps/this-test
    let own = std::env::current_exe().context("find this program")?;
    let path = own.ancestors().nth(3).map(|target| target.join("test-python/bin/python3"));
    path.filter(|path| path.exists())
        .ok_or_else(|| skip("no Python with drivers: `cargo xtask test` sets it up"))
}

/// One of our scripts.
pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/python").join(name)
}

/// A command that runs one of our scripts, and ends with the test.
pub fn command(python: &Path, name: &str) -> Command {
    let mut command = Command::new(python);
    command.arg(script(name)).env("PYTHONDONTWRITEBYTECODE", "1").env("NO_PROXY", "*");
    bound(&mut command);
    die_with_parent(&mut command);
    command
}

/// A script that is ready and waits for a word.
#[derive(Debug)]
pub struct Waiting {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Waiting {
    /// Starts it, and waits until it is ready.
    pub fn start<A: AsRef<OsStr>>(
        python: &Path,
        name: &str,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<Self> {
        let mut command = command(python, name);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("start a script")?;
        let output = BufReader::new(child.stdout.take().context("a pipe was asked for")?);
        let mut this = Self { child, output };
        let mut line = String::new();
        this.output.read_line(&mut line).context("wait for a script")?;
        ensure!(line.trim() == "ready", "{name} said {line:?}");
        Ok(this)
    }

    /// Lets it go on to its end. What it printed.
    pub fn finish(mut self) -> Result<String> {
        drop(self.child.stdin.take());
        let mut said = String::new();
        self.output.read_to_string(&mut said).context("read what a script printed")?;
        let status = self.child.wait().context("wait for a script")?;
        ensure!(status.success(), "a script failed: {status}");
        Ok(said)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a script to its end, which must be a good one. What it printed.
pub fn run<A: AsRef<OsStr>>(
    python: &Path,
    name: &str,
    arguments: impl IntoIterator<Item = A>,
) -> Result<String> {
    let output = command(python, name).args(arguments).output().context("run a script")?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{name} failed ({}): {complaint}", output.status);
    String::from_utf8(output.stdout).context("read what a script printed")
}
