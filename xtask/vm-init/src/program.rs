//! One run of one program: its output line by line, its end, and its end by force when its time is over. Must not know
//! what the lines mean.

use std::io::{self, BufRead as _, BufReader, PipeReader};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use vm_init::frame::Exit;

/// How often the end is looked for while no line comes.
const POLL: Duration = Duration::from_millis(20);
/// How long lines may still come after the end: from pipes that children have left full.
const AFTER_END: Duration = Duration::from_millis(500);

/// Runs the command until it ends or its time is over; every line goes to `on_line`.
pub(crate) fn run(
    mut command: Command,
    limit: Duration,
    mut on_line: impl FnMut(String) -> Result<()>,
) -> Result<Exit> {
    let started = Instant::now();
    let (reader, writer) = io::pipe().context("open a pipe")?;
    command.stdin(Stdio::null()).stdout(writer.try_clone().context("copy a pipe")?).stderr(writer);
    command.process_group(0);
    let mut child = command.spawn().with_context(|| format!("start {}", command.get_program().display()))?;
    // It holds the writing end of the pipe, which must close with the child.
    drop(command);
    let lines = lines_of(reader);
    let mut exit = None;
    while exit.is_none() {
        match lines.recv_timeout(POLL) {
            Ok(line) => on_line(line)?,
            Err(RecvTimeoutError::Disconnected) => thread::sleep(POLL),
            Err(RecvTimeoutError::Timeout) => {}
        }
        exit = ended(&mut child)?;
        if exit.is_none() && started.elapsed() > limit {
            end_group(&child);
            child.wait().context("wait for a program that was ended")?;
            exit = Some(Exit::TimedOut);
        }
    }
    end_group(&child);
    while let Ok(line) = lines.recv_timeout(AFTER_END) {
        on_line(line)?;
    }
    Ok(exit.unwrap_or(Exit::TimedOut))
}

fn ended(child: &mut Child) -> Result<Option<Exit>> {
    let Some(status) = child.try_wait().context("wait for a program")? else { return Ok(None) };
    Ok(Some(status.code().map_or_else(|| Exit::Signal(status.signal().unwrap_or(0)), Exit::Code)))
}

fn end_group(child: &Child) {
    // SAFETY: no memory is passed; the child leads a group of its own.
    unsafe { libc::kill(-child.id().cast_signed(), libc::SIGKILL) };
}

/// Reads on a thread, as a grandchild may keep the pipe open for ever. Bytes that are not UTF-8 are replaced.
fn lines_of(reader: PipeReader) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(reader).split(b'\n') {
            let Ok(line) = line else { break };
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                break;
            }
        }
    });
    receiver
}
