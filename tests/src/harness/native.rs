//! Programs in compiled languages, built for one test, and what they say of their own stacks.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::programs::{bound, die_with_parent};
use super::servers::program;

/// What a program says of one connect.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd)]
pub struct Truth {
    /// Functions and lines, innermost first. The first connects.
    pub places: Vec<(String, u64)>,
    /// Files and the address in each of the call that leads inwards, innermost first. The first is not of the connect.
    pub addresses: Vec<(String, u64)>,
}

/// One function, as Go tells it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct GoPlace {
    name: String,
    line: u64,
    address: u64,
    inlined: bool,
}

fn truth(line: &str, program: &Path) -> Result<Truth> {
    if !line.starts_with('[') {
        let mut truth: Truth = serde_json::from_str(line)?;
        for (file, _) in &mut truth.addresses {
            // By what it is called on the disk.
            if let Ok(real) = std::fs::canonicalize(&*file) {
                *file = real.display().to_string();
            }
        }
        return Ok(truth);
    }
    let stack: Vec<GoPlace> = serde_json::from_str(line)?;
    let file = program.display().to_string();
    let mut addresses = Vec::new();
    let mut is_inside = false;
    for place in &stack {
        // What is inlined shares the frame of the next one that is not; the innermost has the address of the call.
        if !is_inside {
            addresses.push((file.clone(), place.address));
        }
        is_inside = place.inlined;
    }
    Ok(Truth { places: stack.into_iter().map(|place| (place.name, place.line)).collect(), addresses })
}

/// A command that is built from our sources.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/native").join(name)
}

/// The language of a source.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Language {
    /// `stacks.c`
    C,
    /// `stacks.cpp`
    Cpp,
    /// `stacks.rs`
    Rust,
    /// `stacks.go`
    Go,
}

/// Builds `stacks` in a folder, with what the compiler is told besides.
pub fn build<A: AsRef<OsStr>>(
    language: Language,
    folder: &Path,
    name: &str,
    arguments: impl IntoIterator<Item = A>,
) -> Result<PathBuf> {
    let path = folder.join(name);
    let object = folder.join("truth.o");
    let mut command = match language {
        Language::C => {
            let mut command = Command::new(program("gcc")?);
            command.arg("-O2").arg(fixture("truth.c")).arg(fixture("stacks.c"));
            command
        }
        Language::Cpp => {
            let mut gcc = Command::new(program("gcc")?);
            compile(gcc.args(["-O2", "-c", "-o"]).arg(&object).arg(fixture("truth.c")))?;
            let mut command = Command::new(program("g++")?);
            command.arg("-O2").arg(fixture("stacks.cpp")).arg(&object);
            command
        }
        Language::Rust => {
            let mut command = Command::new(program("rustc")?);
            command.args(["--edition=2024", "-O"]).arg(fixture("stacks.rs"));
            command
        }
        Language::Go => {
            let mut command = Command::new(program("go")?);
            // Nothing of what somebody set up for projects of their own.
            command.env("GO111MODULE", "off").env("CGO_ENABLED", "0").env("GOFLAGS", "");
            command.env("GOCACHE", cache()?).args(["build"]);
            command
        }
    };
    command.args(arguments).arg("-o").arg(&path).current_dir(folder);
    if language == Language::Go {
        command.arg(fixture("stacks.go"));
    }
    compile(&mut command)?;
    Ok(path)
}

/// A copy without any names. Its code lies where it lies in the original.
pub fn strip(original: &Path, name: &str) -> Result<PathBuf> {
    let path = original.with_file_name(name);
    compile(Command::new(program("strip")?).arg("-o").arg(&path).arg(original))?;
    Ok(path)
}

/// What binutils say of addresses in a file with debug information: of each the function and its line, with those that are
/// inlined there, innermost first.
pub fn names(file: &Path, addresses: &[u64]) -> Result<Vec<Vec<(String, u64)>>> {
    let mut command = Command::new(program("addr2line")?);
    command.args(["-a", "-f", "-i", "-C", "-e"]).arg(file);
    let text = said(command.args(addresses.iter().map(|address| format!("{address:#x}"))))?;
    let mut lines = text.lines().peekable();
    let mut all = Vec::new();
    while lines.next().is_some() {
        let mut places = Vec::new();
        // The next address begins so; functions and their files come in pairs.
        while let Some(function) = lines.next_if(|line| !line.starts_with("0x")) {
            let line = lines.next().and_then(|place| place.rsplit(':').next()).context("a line")?;
            let number = line.split(' ').next().unwrap_or_default();
            places.push((function.to_owned(), number.parse().unwrap_or(0)));
        }
        all.push(places);
    }
    Ok(all)
}

/// The build-id of a file, by the tools of its language.
pub fn build_id(language: Language, file: &Path) -> Result<String> {
    if language == Language::Go {
        return Ok(said(Command::new(program("go")?).args(["tool", "buildid"]).arg(file))?.trim().to_owned());
    }
    let notes = said(Command::new(program("readelf")?).args(["-n", "-W"]).arg(file))?;
    let id = notes.split("Build ID: ").nth(1).and_then(|rest| rest.split_whitespace().next());
    Ok(id.with_context(|| format!("no build-id: {notes}"))?.to_owned())
}

fn said(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("start {:?}", command.get_program()))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// A library that programs may load.
pub fn build_library(folder: &Path) -> Result<PathBuf> {
    let path = folder.join("libplugin.so");
    let mut gcc = Command::new(program("gcc")?);
    gcc.args(["-O2", "-g", "-shared", "-fPIC"]).arg(fixture("plugin.c"));
    compile(gcc.arg("-o").arg(&path))?;
    Ok(path)
}

fn compile(command: &mut Command) -> Result<()> {
    said(command).map(drop)
}

/// Go builds its standard library once: target/test-go.
fn cache() -> Result<PathBuf> {
    let own = std::env::current_exe().context("find this program")?;
    Ok(own.ancestors().nth(3).context("find the target folder")?.join("test-go"))
}

/// A command that runs such a program, and ends with the test.
pub fn command<A: AsRef<OsStr>>(path: &Path, port: u16, arguments: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(path);
    command.arg(port.to_string()).args(arguments);
    bound(&mut command);
    die_with_parent(&mut command);
    command
}

/// A program at work, which waits for a word whenever it has said an empty line.
#[derive(Debug)]
pub struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    path: PathBuf,
}

impl Running {
    /// Starts it.
    pub fn start(mut command: Command, path: &Path) -> Result<Self> {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = child.spawn().with_context(|| format!("start {}", path.display()))?;
        let stdout = child.stdout.take().context("a pipe was asked for")?;
        Ok(Self { child, lines: BufReader::new(stdout).lines(), path: path.to_owned() })
    }

    /// What it says until it waits or ends.
    pub fn said(&mut self) -> Result<Vec<Truth>> {
        let mut truths = Vec::new();
        for line in &mut self.lines {
            let line = line.context("read what a program says")?;
            if line.is_empty() {
                break;
            }
            truths.push(truth(&line, &self.path).with_context(|| format!("understand {line}"))?);
        }
        Ok(truths)
    }

    /// Lets it go on.
    pub fn go_on(&mut self) -> Result<()> {
        let stdin = self.child.stdin.as_mut().context("a pipe was asked for")?;
        stdin.write_all(b"\n").context("let a program go on")
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets it go on to its end, which must be a good one.
    pub fn finish(mut self) -> Result<()> {
        let _ = self.go_on();
        let status = self.child.wait().context("wait for a program")?;
        ensure!(status.success(), "{} ended with {status}", self.path.display());
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
