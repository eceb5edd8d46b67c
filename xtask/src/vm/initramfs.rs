//! The first root of a guest: its first process, the plan, the modules, and the test programs where the root is not the
//! host's. Must hold nothing that the plan doesn't need: small archives start fast.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use vm_init::plan::{MODULES, PATH, Plan};

use super::cpio::Archive;
use super::image::Image;
use super::modules;

/// A program that goes into a guest.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    /// As in results.
    pub(crate) name: String,
    /// On this machine.
    pub(crate) path: PathBuf,
}

impl Program {
    /// In the guest.
    pub(crate) fn guest_path(&self, host_root: bool) -> String {
        if host_root { self.path.display().to_string() } else { format!("/bin/{}", self.name) }
    }
}

/// Where the busybox of Debian's `busybox-static` is: makes a shell possible.
const BUSYBOX: &str = "/bin/busybox";

/// Writes the archive. Fills in the plan's modules.
pub(crate) fn write(
    target: &Path,
    image: &Image,
    init: &Path,
    programs: &[&Program],
    mut plan: Plan,
) -> Result<()> {
    let mut archive = Archive::default();
    // The kernel opens it for the first process before /dev is mounted.
    archive.character_device("/dev/console", (5, 1));
    for directory in ["/proc", "/sys", "/tmp", "/run", "/var", "/etc"] {
        archive.directory(directory);
    }
    archive.file("/etc/hosts", b"127.0.0.1 localhost\n::1 localhost\n");
    archive.file("/etc/passwd", b"root:x:0:0:root:/tmp:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n");
    archive.program("/init", &read(init)?);
    let wanted: Vec<_> = if plan.host_root {
        modules::ALWAYS.iter().chain(modules::HOST_ROOT).copied().collect()
    } else {
        modules::ALWAYS.to_vec()
    };
    for (name, content) in modules::resolve(&image.modules(), &wanted)? {
        archive.file(&format!("{MODULES}/{name}"), &content);
        plan.modules.push(name);
    }
    archive.file(&format!("/boot/config-{}", image.release), &read(&image.config())?);
    if !plan.host_root {
        for program in programs {
            archive.program(&program.guest_path(false), &read(&program.path)?);
        }
        if plan.shell && Path::new(BUSYBOX).exists() {
            archive.program(BUSYBOX, &read(Path::new(BUSYBOX))?);
        }
    }
    archive.file(PATH, plan.to_text()?.as_bytes());
    fs::write(target, archive.finish()).with_context(|| format!("write {}", target.display()))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("read {}", path.display()))
}
