//! Programs of the machine that the harness needs: found, or named with the package that has them; `--setup` installs.
//! Must not install unless asked.

use std::env;

use anyhow::{Result, ensure};

use super::kernel::Arch;
use super::say;

/// Program, or a file where there is no program, and the package that has it.
type Need = (&'static str, &'static str);

/// For every guest.
const ALWAYS: [Need; 3] = [("apt-get", "apt"), ("dpkg-deb", "dpkg"), ("cc", "gcc libc6-dev")];
/// To build for ARM.
const AARCH64: [Need; 2] = [
    ("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu"),
    ("/usr/aarch64-linux-gnu/lib/crt1.o", "libc6-dev-arm64-cross"),
];

/// Whether a program is on the path, or a file is there.
pub(crate) fn is_installed(program: &str) -> bool {
    // Joining an absolute path gives just that, so a file is looked for where it says.
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

/// What is missing.
pub(crate) fn missing(arch: Arch) -> Vec<Need> {
    let cross: &[Need] = if arch.name() == env::consts::ARCH { &[] } else { &AARCH64 };
    let needs = ALWAYS.into_iter().chain([arch.qemu()]).chain(cross.iter().copied());
    needs.filter(|(program, _)| !is_installed(program)).collect()
}

/// Fails with the remedy.
pub(crate) fn check(arch: Arch) -> Result<()> {
    let missing = missing(arch);
    let programs: Vec<_> = missing.iter().map(|(program, _)| *program).collect();
    let packages: Vec<_> = missing.iter().map(|(_, package)| *package).collect();
    ensure!(
        missing.is_empty(),
        "{} not found: apt-get install {}   (or: cargo xtask vm --setup)",
        programs.join(", "),
        packages.join(" ")
    );
    Ok(())
}

/// Installs what is missing.
pub(crate) fn install(arch: Arch) -> Result<()> {
    let missing = missing(arch);
    let packages: Vec<_> = missing.iter().flat_map(|(_, package)| package.split(' ')).collect();
    crate::packages::install(&packages)?;
    check(arch)?;
    say::result("everything that the guests need is installed");
    Ok(())
}
