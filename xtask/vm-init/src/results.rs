//! The result port: frames out, nothing else. Must not be shared with the console, into which the kernel writes.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;

use anyhow::{Context as _, Result};
use vm_init::frame::Frame;

/// The open port.
pub(crate) struct Results {
    port: File,
}

impl Results {
    /// Opens the device, without line processing and without making it our terminal.
    pub(crate) fn open(device: &str) -> Result<Self> {
        let port = OpenOptions::new()
            .write(true)
            .read(true)
            .custom_flags(libc::O_NOCTTY)
            .open(device)
            .with_context(|| format!("open result port {device}"))?;
        // SAFETY: `termios` is plain integers, for which zero is valid; both calls get it as they need it.
        unsafe {
            let mut settings: libc::termios = std::mem::zeroed();
            if libc::tcgetattr(port.as_raw_fd(), &raw mut settings) == 0 {
                libc::cfmakeraw(&raw mut settings);
                libc::tcsetattr(port.as_raw_fd(), libc::TCSANOW, &raw const settings);
            }
        }
        Ok(Self { port })
    }

    /// Sends one frame.
    pub(crate) fn send(&mut self, frame: &Frame) -> Result<()> {
        self.port.write_all(format!("{frame}\n").as_bytes()).context("write to the result port")
    }

    /// Waits until everything has left the guest.
    pub(crate) fn drain(&self) {
        // SAFETY: no memory is passed.
        if unsafe { libc::tcdrain(self.port.as_raw_fd()) } != 0 {
            crate::note(&format!("vm-init: drain the result port: {}", io::Error::last_os_error()));
        }
    }
}
