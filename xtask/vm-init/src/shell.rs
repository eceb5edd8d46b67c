//! A shell on the console, for a person. Must not be needed by any test.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result};

const SHELLS: [(&str, &[&str]); 3] =
    [("/bin/bash", &["-i"]), ("/bin/sh", &["-i"]), ("/bin/busybox", &["sh", "-i"])];

/// Runs a shell until it ends.
pub(crate) fn run(console: &str, environment: &[(String, String)]) -> Result<()> {
    let (path, arguments) = SHELLS
        .into_iter()
        .find(|(path, _)| fs::exists(path).unwrap_or(false))
        .context("no shell in this guest: use --root host, or apt-get install busybox-static")?;
    let open = || OpenOptions::new().read(true).write(true).open(console);
    let terminal = open().with_context(|| format!("open {console}"))?;
    let mut command = Command::new(path);
    command.args(arguments).current_dir("/").env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", "/tmp");
    command.envs(environment.iter().map(|(key, value)| (key, value)));
    let copy = || terminal.try_clone().context("copy the console");
    command.stdin(copy()?).stdout(copy()?).stderr(copy()?);
    // SAFETY: between fork and exec only system calls are made.
    unsafe {
        command.pre_exec(|| {
            if libc::setsid() < 0 || libc::ioctl(0, libc::TIOCSCTTY as libc::Ioctl, 0) < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
    command.status().with_context(|| format!("run {path}"))?;
    Ok(())
}
