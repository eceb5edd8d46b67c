//! The screen on a terminal of its own: however `top` ends, the terminal is as it was before. Needs the privileges of a tracer.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use portchurn_tests::harness::programs::{bound, portchurn};
use portchurn_tests::harness::tracer::Tracer;
use portchurn_tests::harness::{check_where_possible, patience, skip};
use rustix::fs::{Mode, OFlags, open};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcgetattr, tcsetwinsize};

/// How long a screen may take to appear, or a process to end.
const PATIENCE: Duration = Duration::from_secs(30);
/// What a terminal is told when a program takes the whole screen, gives it back, and shows the cursor.
const ENTER: &str = "\x1b[?1049h";
const LEAVE: &str = "\x1b[?1049l";
const SHOW_CURSOR: &str = "\x1b[?25h";

/// A terminal: our end of it, the program's, and what was shown so far.
struct Terminal {
    ours: File,
    theirs: OwnedFd,
    shown: Arc<Mutex<String>>,
}

impl Terminal {
    fn open() -> Result<Self> {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)
            .map_err(|error| skip(format!("there are no terminals here: {error}")))?;
        grantpt(&ours).context("grant a terminal")?;
        unlockpt(&ours).context("unlock a terminal")?;
        let name = ptsname(&ours, Vec::new()).context("name a terminal")?;
        let theirs = open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).context("open a terminal")?;
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&ours, size).context("size a terminal")?;
        let ours = File::from(ours);
        let shown = Arc::new(Mutex::new(String::new()));
        let (mut from, to) = (ours.try_clone()?, Arc::clone(&shown));
        // Ends with the last program that has the terminal open.
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = from.read(&mut bytes) {
                if let Ok(mut to) = to.lock() {
                    to.push_str(&String::from_utf8_lossy(&bytes[..count]));
                }
            }
        });
        Ok(Self { ours, theirs, shown })
    }

    fn shown(&self) -> String {
        self.shown.lock().map(|shown| shown.clone()).unwrap_or_default()
    }

    /// Its modes: what `stty -a` shows.
    fn modes(&self) -> Result<String> {
        Ok(format!("{:?}", tcgetattr(&self.theirs).context("read the modes of a terminal")?))
    }

    fn start(&self, arguments: &[&str]) -> Result<Child> {
        let mut command = Command::new(portchurn()?);
        command.arg("top").args(arguments).env("TERM", "xterm-256color").env_remove("RUST_LOG");
        command.stdin(self.theirs.try_clone()?).stdout(self.theirs.try_clone()?);
        command.stderr(self.theirs.try_clone()?);
        bound(&mut command);
        command.spawn().context("start portchurn")
    }

    fn wait_for(&self, what: &str) -> Result<()> {
        let deadline = Instant::now() + patience(PATIENCE);
        while !self.shown().contains(what) {
            ensure!(Instant::now() < deadline, "{what:?} is not shown: {:?}", self.shown());
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

fn wait(child: &mut Child) -> Result<ExitStatus> {
    let deadline = Instant::now() + patience(PATIENCE);
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().context("wait for portchurn")? {
            return Ok(status);
        }
        thread::sleep(Duration::from_millis(20));
    }
    let _ = child.kill();
    bail!("it does not end")
}

/// Whether the terminal is as it was, once a screen that was drawn has ended in this way.
fn gives_back(end: impl Fn(&Terminal, Pid) -> Result<()>) -> Result<ExitStatus> {
    // Fails as the other tests do where a tracer cannot run.
    Tracer::start(&[])?.stop()?;
    let mut terminal = Terminal::open()?;
    let before = terminal.modes()?;
    let mut child = terminal.start(&[])?;
    terminal.wait_for("programs")?;
    ensure!(terminal.modes()? != before, "keys are not read one by one");
    end(&terminal, Pid::from_child(&child))?;
    let status = wait(&mut child)?;
    ensure!(terminal.modes()? == before, "its modes are others: {} were {before}", terminal.modes()?);
    // What was written before the end may still be on its way to us.
    terminal.ours.write_all(b"\n").context("reach the terminal")?;
    terminal.wait_for(LEAVE)?;
    terminal.wait_for(SHOW_CURSOR)?;
    let shown = terminal.shown();
    let left = shown.rfind(LEAVE).context("it was left")?;
    ensure!(shown.rfind(ENTER).is_some_and(|entered| entered < left), "the screen is taken again: {shown:?}");
    ensure!(shown.rfind(SHOW_CURSOR) > shown.rfind("\x1b[?25l"), "the cursor stays hidden: {shown:?}");
    Ok(status)
}

#[test]
fn the_key_to_quit_gives_the_terminal_back() {
    check_where_possible("the_key_to_quit_gives_the_terminal_back", || {
        let status = gives_back(|terminal, _| (&terminal.ours).write_all(b"q").context("press a key"))?;
        ensure!(status.success(), "{status}");
        Ok(())
    });
}

#[test]
fn signals_give_the_terminal_back() {
    check_where_possible("signals_give_the_terminal_back", || {
        for signal in [Signal::INT, Signal::TERM] {
            let status =
                gives_back(|_, pid| kill_process(pid, signal).context("send a signal to portchurn"))?;
            ensure!(status.success(), "{signal:?}: {status}");
        }
        Ok(())
    });
}

/// The screen must not be taken before it is certain that there is something to show.
#[test]
fn a_start_that_fails_leaves_the_terminal_alone() {
    check_where_possible("a_start_that_fails_leaves_the_terminal_alone", || {
        let terminal = Terminal::open()?;
        let before = terminal.modes()?;
        let mut child = terminal.start(&["--attach", "inet_sock_set_state=none"])?;
        let status = wait(&mut child)?;
        ensure!(status.signal().is_none() && !status.success(), "{status}");
        terminal.wait_for("error:")?;
        ensure!(terminal.modes()? == before, "its modes are others: {} were {before}", terminal.modes()?);
        ensure!(!terminal.shown().contains(ENTER), "{:?}", terminal.shown());
        Ok(())
    });
}
