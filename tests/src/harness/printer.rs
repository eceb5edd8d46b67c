//! portchurn in one of its formats, until the test has seen enough; and what it printed.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::bpf;
use super::programs::{die_with_parent, portchurn};

/// portchurn in one of its formats.
#[derive(Debug)]
pub struct Printer {
    child: Child,
    output: PathBuf,
}

impl Printer {
    /// Starts it: a subcommand and its arguments, which name its file.
    pub fn start(format: &[&str], port: u16, folder: &Path) -> Result<Self> {
        let output = folder.join(format.join(" "));
        let mut command = Command::new(portchurn()?);
        command.args(format).args(["--stack", "auto", "-D", &port.to_string(), "--duration", "5m"]);
        command.env("LC_ALL", "C.UTF-8").stdin(Stdio::null()).stderr(Stdio::piped());
        die_with_parent(&mut command);
        let child = command.stdout(File::create(&output)?).spawn().context("start portchurn")?;
        Ok(Self { child, output })
    }

    /// Waits until it is attached, as much as another one is.
    pub fn wait(&mut self, links: usize) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(120);
        while links_of(self.child.id())? < links {
            ensure!(self.child.try_wait()?.is_none(), "{:?} ended", self.output);
            ensure!(Instant::now() < deadline, "{:?} does not attach", self.output);
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Ends it as Ctrl-C does. What it printed, and what it complained of.
    pub fn finish(self) -> Result<(Vec<u8>, Vec<u8>)> {
        kill_process(Pid::from_child(&self.child), Signal::INT)?;
        let output = self.child.wait_with_output()?;
        ensure!(output.status.success(), "{:?} ended with {}", self.output, output.status);
        Ok((std::fs::read(&self.output)?, output.stderr))
    }
}

/// How many links to hooks a process holds.
pub fn links_of(pid: u32) -> Result<usize> {
    Ok(bpf::held_by(pid)?.iter().filter(|object| object.kind() == "link_id").count())
}
