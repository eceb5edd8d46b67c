//! What only the first process may or must do to the machine: modules, loopback, messages on the console, power. Must
//! not know of tests.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::Path;
use std::thread;

use anyhow::{Context as _, Result};
use vm_init::plan::MODULES;

/// Writes a line to the console, if there is one.
pub(crate) fn note(text: &str) {
    // A console that cannot be written to must not stop the tests.
    let _ = writeln!(io::stderr(), "{text}");
}

/// Loads one module; one that is already there is fine.
pub(crate) fn load_module(name: &str) -> Result<()> {
    let path = Path::new(MODULES).join(name);
    let file = File::open(&path).with_context(|| format!("open module {}", path.display()))?;
    // SAFETY: the descriptor is open for the whole call, and the parameters are a terminated string.
    let status = unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
    let error = io::Error::last_os_error();
    if status == 0 || error.raw_os_error() == Some(libc::EEXIST) {
        return Ok(());
    }
    Err(error).with_context(|| format!("load module {name}"))
}

/// Brings `lo` up; the kernel then gives it 127.0.0.1 and ::1 by itself.
pub(crate) fn loopback_up() -> Result<()> {
    // SAFETY: no memory is passed.
    let raw_fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if raw_fd < 0 {
        return Err(io::Error::last_os_error()).context("open a socket to bring lo up");
    }
    // SAFETY: the descriptor is fresh and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(raw_fd) };
    // SAFETY: all fields of `ifreq` are plain bytes and integers, for which zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed() as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the request outlives the call and is what this ioctl takes.
    let status =
        unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as libc::Ioctl, &raw const request) };
    if status != 0 {
        return Err(io::Error::last_os_error()).context("bring lo up");
    }
    Ok(())
}

/// With little memory the kernel keeps two thousand TIME_WAIT sockets, and drops what comes after: fewer than the tests of a
/// minute make.
pub(crate) fn make_room_for_time_wait() -> Result<()> {
    let path = "/proc/sys/net/ipv4/tcp_max_tw_buckets";
    fs::write(path, "65536").with_context(|| format!("write {path}"))
}

/// Ends every process but this one and collects what is left of them, so that no test meets the leftovers of another.
pub(crate) fn end_all_others() {
    // SAFETY: no memory is passed; -1 leaves out process 1, which is us.
    unsafe { libc::kill(-1, libc::SIGKILL) };
    loop {
        // SAFETY: a null status is allowed. Blocks only as long as a killed child needs to end.
        let ended = unsafe { libc::waitpid(-1, std::ptr::null_mut(), 0) };
        if ended <= 0 {
            break;
        }
    }
}

/// Writes out what is dirty and switches the machine off.
pub(crate) fn power_off() -> ! {
    // SAFETY: neither call takes memory.
    unsafe {
        libc::sync();
        libc::reboot(libc::RB_POWER_OFF);
    }
    // Without power management the call comes back: a second one makes QEMU end by `-no-reboot`.
    // SAFETY: as above.
    unsafe { libc::reboot(libc::RB_AUTOBOOT) };
    note(&format!("vm-init: cannot power off: {}", io::Error::last_os_error()));
    loop {
        thread::park();
    }
}
