//! The guest's file systems: the kernel's own, scratch space, and the host's root under a layer in memory. Must not write
//! to the host: its share is read-only on both sides.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::fs::{chroot, symlink};
use std::path::Path;

use anyhow::{Context as _, Result};

/// What is mounted where.
struct Mount {
    kind: &'static str,
    target: &'static str,
    /// Without it the guest is of no use; the others are features that a kernel may lack.
    required: bool,
}

const DEVICES: Mount = Mount { kind: "devtmpfs", target: "/dev", required: true };

const KERNEL: [Mount; 9] = [
    Mount { kind: "proc", target: "/proc", required: true },
    Mount { kind: "sysfs", target: "/sys", required: true },
    Mount { kind: "devpts", target: "/dev/pts", required: false },
    Mount { kind: "tmpfs", target: "/dev/shm", required: false },
    Mount { kind: "tracefs", target: "/sys/kernel/tracing", required: true },
    Mount { kind: "debugfs", target: "/sys/kernel/debug", required: false },
    Mount { kind: "securityfs", target: "/sys/kernel/security", required: false },
    Mount { kind: "bpf", target: "/sys/fs/bpf", required: true },
    Mount { kind: "cgroup2", target: "/sys/fs/cgroup", required: true },
];

/// Tag of the share, as on QEMU's command line.
const SHARE: &str = "host";

/// Device files: nothing can be said to the host before.
pub(crate) fn devices() -> Result<()> {
    DEVICES.mount()
}

/// The kernel's own file systems.
pub(crate) fn kernel() -> Result<()> {
    for mount in &KERNEL {
        if let Err(error) = mount.mount() {
            if mount.required {
                return Err(error);
            }
            crate::note(&format!("vm-init: {error:#}"));
        }
    }
    for (name, target) in
        [("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1")]
    {
        let path = Path::new("/dev").join(name);
        symlink(target, &path).with_context(|| format!("link {}", path.display()))?;
    }
    Ok(())
}

/// Space to write to, when the root is the initramfs.
pub(crate) fn scratch() -> Result<()> {
    for target in ["/tmp", "/run", "/var"] {
        Mount { kind: "tmpfs", target, required: true }.mount()?;
    }
    Ok(())
}

/// Makes the host's root ours: read-only, with a layer in memory above it. /tmp stays what it is on the host, as a
/// checkout may lie in it.
pub(crate) fn host_root() -> Result<()> {
    for directory in ["/lower", "/layer", "/newroot"] {
        create(directory)?;
    }
    mount(SHARE, "/lower", "virtiofs", libc::MS_RDONLY, "").context("the share of the host's root")?;
    mount("tmpfs", "/layer", "tmpfs", 0, "mode=0755")?;
    create("/layer/upper")?;
    create("/layer/work")?;
    mount("overlay", "/newroot", "overlay", 0, "lowerdir=/lower,upperdir=/layer/upper,workdir=/layer/work")?;
    for target in ["/dev", "/proc", "/sys"] {
        let under_new = format!("/newroot{target}");
        create(&under_new)?;
        mount(target, &under_new, "", libc::MS_MOVE, "")?;
    }
    mount("tmpfs", "/newroot/run", "tmpfs", 0, "mode=0755")?;
    std::env::set_current_dir("/newroot").context("enter the host's root")?;
    mount(".", "/", "", libc::MS_MOVE, "")?;
    chroot(".").context("make the host's root ours")?;
    std::env::set_current_dir("/").context("enter the root")
}

impl Mount {
    fn mount(&self) -> Result<()> {
        create(self.target)?;
        let options = if self.target == "/tmp" { "mode=1777" } else { "" };
        match mount(self.kind, self.target, self.kind, 0, options) {
            // The kernel may have mounted /dev itself.
            Err(error) if is_busy(&error) => Ok(()),
            result => result,
        }
    }
}

fn is_busy(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.raw_os_error() == Some(libc::EBUSY))
}

fn create(directory: &str) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("create {directory}"))
}

fn mount(source: &str, target: &str, kind: &str, flags: libc::c_ulong, options: &str) -> Result<()> {
    let [source_c, target_c, kind_c, options_c] = [source, target, kind, options].map(CString::new);
    let (source_c, target_c, kind_c, options_c) = (source_c?, target_c?, kind_c?, options_c?);
    // SAFETY: all four are terminated strings that outlive the call.
    let status = unsafe {
        libc::mount(source_c.as_ptr(), target_c.as_ptr(), kind_c.as_ptr(), flags, options_c.as_ptr().cast())
    };
    if status != 0 {
        return Err(io::Error::last_os_error()).with_context(|| format!("mount {kind} {source} on {target}"));
    }
    Ok(())
}
