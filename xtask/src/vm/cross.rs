//! The toolchain for guests with another processor: what rustup has, else Debian's own compiler with the other processor's
//! standard library from the mirror. Must not install anything.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use super::apt::Apt;
use super::kernel::Arch;
use super::layout::Layout;
use super::say;

/// What cargo needs.
pub(crate) struct Toolchain {
    pub(crate) linker: &'static str,
    /// Compiler and sysroot, where the usual ones don't serve.
    pub(crate) own_std: Option<(PathBuf, PathBuf)>,
}

/// Debian's compiler, for which Debian has the standard library of every processor.
const RUSTC: &str = "/usr/bin/rustc";
const STD_PACKAGE: &str = "libstd-rust-web-dev";
const STD_SUITES: &[&str] = &["bookworm", "bookworm-updates", "bookworm-security"];

/// Finds or makes it.
pub(crate) fn toolchain(layout: &Layout, arch: Arch) -> Result<Toolchain> {
    let linker = "aarch64-linux-gnu-gcc";
    ensure!(arch == Arch::Aarch64, "no toolchain for {} guests on this machine", arch.name());
    let usual =
        Command::new("rustc").args(["--print", "target-libdir", "--target", arch.rust_target()]).output();
    let usual = usual.context("run rustc")?;
    if has_std(Path::new(String::from_utf8_lossy(&usual.stdout).trim())) {
        return Ok(Toolchain { linker, own_std: None });
    }
    let sysroot = layout.vm.join(format!("sysroot-{}", arch.name()));
    let libraries = sysroot.join("lib/rustlib").join(arch.rust_target()).join("lib");
    if !has_std(&libraries) {
        assemble(layout, arch, &sysroot)?;
    }
    ensure!(has_std(&libraries), "{STD_PACKAGE} has no standard library for {}", arch.rust_target());
    Ok(Toolchain { linker, own_std: Some((RUSTC.into(), sysroot)) })
}

fn has_std(libraries: &Path) -> bool {
    let Ok(entries) = fs::read_dir(libraries) else { return false };
    entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libstd-"))
}

/// The sysroot holds the other processor's library beside this machine's, which build scripts and macros need.
fn assemble(layout: &Layout, arch: Arch, sysroot: &Path) -> Result<()> {
    let installed = Command::new("dpkg-query").args(["-W", "-f", "${Version}", "rustc-web"]).output();
    let installed = installed.context("run dpkg-query")?;
    let installed = String::from_utf8_lossy(&installed.stdout).trim().to_owned();
    if installed.is_empty() {
        bail!("no Rust std for {}: rustup target add it, or apt-get install rustc-web", arch.rust_target());
    }
    let apt = Apt::open(&layout.vm, STD_SUITES, arch)?;
    let served = apt.version(STD_PACKAGE)?;
    ensure!(
        served == installed,
        "rustc-web is {installed}, but the mirror has {STD_PACKAGE} {served}: upgrade rustc-web"
    );
    say::progress(&format!("fetching Rust's standard library for {}", arch.rust_target()));
    let unpacked = sysroot.with_extension("partial");
    fs::create_dir_all(&unpacked).with_context(|| format!("create {}", unpacked.display()))?;
    for file in apt.download(&[STD_PACKAGE.to_owned()])? {
        let status =
            Command::new("dpkg-deb").arg("-x").arg(&file).arg(&unpacked).status().context("run dpkg-deb")?;
        ensure!(status.success(), "dpkg-deb -x {} failed: {status}", file.display());
    }
    let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let own = Command::new(RUSTC).args(["--print", "sysroot"]).output().context("run Debian's rustc")?;
    let own = Path::new(String::from_utf8_lossy(&own.stdout).trim()).join("lib/rustlib").join(&host);
    symlink(&own, unpacked.join("usr/lib/rustlib").join(&host)).context("link this machine's library")?;
    fs::rename(unpacked.join("usr"), sysroot).context("keep the sysroot")?;
    fs::remove_dir_all(&unpacked).context("remove what is left of the package")
}
