//! The host's root for a guest: virtiofsd on a read-only view of `/` in a mount namespace of its own. Must not let a guest
//! write to the host.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::process::Process;

/// The daemon in C that came with QEMU up to 8, and its successor.
const OF_QEMU: &str = "/usr/lib/qemu/virtiofsd";
const SUCCESSOR: &str = "/usr/libexec/virtiofsd";
const START: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

/// The daemon of one guest.
pub(crate) struct Share {
    pub(crate) socket: PathBuf,
    view: PathBuf,
    process: Process,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.process.end();
        // The view was mounted in the daemon's own namespace and went with it: here it is an empty folder. Never more than
        // that may be removed.
        let _ = fs::remove_dir(&self.view);
        let _ = fs::remove_file(&self.socket);
    }
}

/// Starts a daemon; its files carry the given stem.
pub(crate) fn start(directory: &Path, stem: &str) -> Result<Share> {
    let view = directory.join(format!("{stem}.root"));
    let socket = directory.join(format!("{stem}.socket"));
    fs::create_dir_all(&view).with_context(|| format!("create {}", view.display()))?;
    if socket.exists() {
        fs::remove_file(&socket).with_context(|| format!("remove {}", socket.display()))?;
    }
    let daemon = if Path::new(OF_QEMU).exists() {
        format!("{OF_QEMU} --socket-path=\"$2\" -o source=\"$1\" -o cache=always -o sandbox=chroot")
    } else if Path::new(SUCCESSOR).exists() {
        format!("{SUCCESSOR} --socket-path=\"$2\" --shared-dir=\"$1\" --cache=always --sandbox=chroot")
    } else {
        bail!("virtiofsd not found: apt-get install virtiofsd, or use --root initramfs");
    };
    let log_path = directory.join(format!("{stem}.share.log"));
    let log = File::create(&log_path).with_context(|| format!("create {}", log_path.display()))?;
    let script = format!("mount --bind / \"$1\" && mount -o remount,bind,ro \"$1\" && exec {daemon}");
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private", "sh", "-c", &script, "share"])
        .arg(&view)
        .arg(&socket);
    command.stdin(Stdio::null()).stdout(log.try_clone().context("copy a log")?).stderr(log);
    let mut process = Process::start(command)?;
    let started = Instant::now();
    while !socket.exists() {
        if process.ended()?.is_some() || started.elapsed() > START {
            let said = fs::read_to_string(&log_path).unwrap_or_default();
            bail!("the host's root can't be shared (are you root?): {}", said.trim());
        }
        thread::sleep(POLL);
    }
    Ok(Share { socket, view, process })
}
