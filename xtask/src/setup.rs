//! `cargo xtask setup`: installs what builds the kernel side, and says what it does. Done twice, it does nothing.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::ebpf::{BPF_LINKER, DEBIAN_LLVM, Tools, bpf_linker};
use crate::run::{self, capture, clean_command, on_path, path_with};

/// Compiler, its source of `core`, and the LLVM that bpf-linker is built against. The linker needs gcc and a libc
/// too, which come with the compiler.
const DEBIAN_COMPILER: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];

pub(crate) fn run() -> Result<()> {
    if let Ok(tools) = Tools::find() {
        println!("setup: everything is there: {}", tools.versions);
        return Ok(());
    }
    if debian_offers_the_compiler()? {
        let llvm = format!("llvm-{DEBIAN_LLVM}-dev");
        let packages: Vec<&str> = DEBIAN_COMPILER.into_iter().chain([llvm.as_str()]).collect();
        install(&packages)?;
        install_linker(
            &["--no-default-features", "--features", &format!("llvm-{DEBIAN_LLVM}")],
            Some(Path::new(&format!("/usr/lib/llvm-{DEBIAN_LLVM}/bin"))),
        )?;
    } else {
        rustup_nightly()?;
        install_linker(&[], None)?;
    }
    let tools = Tools::find().context("installed everything, and yet")?;
    println!("setup: done: {}", tools.versions);
    Ok(())
}

/// Whether this is a Debian that has `rustc-web`. Asks for newer lists when the present ones do not know it.
fn debian_offers_the_compiler() -> Result<bool> {
    if on_path("apt-get").is_none() {
        return Ok(false);
    }
    if !has_candidate(DEBIAN_COMPILER[0])? {
        update()?;
    }
    has_candidate(DEBIAN_COMPILER[0])
}

fn has_candidate(package: &str) -> Result<bool> {
    let policy = capture(Command::new("apt-cache").args(["policy", package]))?;
    Ok(policy.lines().any(|line| line.trim().starts_with("Candidate:") && !line.ends_with("(none)")))
}

/// Installs those of `packages` that are not there. Never removes one: `rustc-web` and Debian's own `rustc` exclude
/// each other, and that choice is the owner's.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    let missing: Vec<&str> = packages.iter().copied().filter(|package| !is_installed(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("setup: apt-get install {}", missing.join(" "));
    let attempt = || {
        let mut apt = apt_get("install")?;
        apt.args(["--yes", "-oDpkg::Use-Pty=0", "--no-remove", "--no-install-recommends"]);
        run::run(apt.args(&missing))
    };
    if attempt().is_ok() {
        return Ok(());
    }
    // The lists may be older than what the mirror holds.
    update()?;
    attempt().context("install packages; if apt wanted to remove Debian's own rustc, do that yourself first")
}

fn update() -> Result<()> {
    println!("setup: apt-get update");
    // The lists have a lock of their own, for which apt does not wait.
    run::repeated(|| run::run(&mut apt_get("update")?))
}

/// A mirror may stutter, and another apt may be at work.
fn apt_get(command: &str) -> Result<Command> {
    let mut apt = as_root("apt-get")?;
    apt.args([command, "-qq", "-oAcquire::Retries=3", "-oDPkg::Lock::Timeout=300"]);
    Ok(apt)
}

fn is_installed(package: &str) -> bool {
    capture(Command::new("dpkg-query").args(["--show", "--showformat=${Status}", package]))
        .is_ok_and(|status| status == "install ok installed")
}

/// A command that runs as root: by itself, or through sudo.
fn as_root(program: &str) -> Result<Command> {
    let mut command = if rustix::process::geteuid().is_root() {
        Command::new(program)
    } else {
        ensure!(
            on_path("sudo").is_some(),
            "{program} must run as root and sudo is missing: run this as root"
        );
        let mut sudo = Command::new("sudo");
        sudo.arg("DEBIAN_FRONTEND=noninteractive").arg(program);
        sudo
    };
    command.env("DEBIAN_FRONTEND", "noninteractive");
    Ok(command)
}

/// rustup's nightly with the source of `core` and LLVM's tools.
fn rustup_nightly() -> Result<()> {
    ensure!(
        on_path("rustup").is_some(),
        "neither apt with rustc-web nor rustup is here: install rustup, then run `cargo xtask setup` again"
    );
    println!("setup: rustup toolchain install nightly, with rust-src and llvm-tools");
    let mut rustup = clean_command("rustup");
    rustup.args(["toolchain", "install", "nightly", "--profile=minimal"]);
    run::run(rustup.args(["--component=rust-src", "--component=llvm-tools"]))
}

fn install_linker(features: &[&str], llvm_bin: Option<&Path>) -> Result<()> {
    if bpf_linker().is_ok() {
        return Ok(());
    }
    println!("setup: cargo install bpf-linker {BPF_LINKER} (about a minute)");
    let mut cargo = clean_command("cargo");
    if let Some(folder) = llvm_bin {
        cargo.env("PATH", path_with(&[folder])?);
    }
    cargo.args(["install", "--quiet", "--locked", "--force", "bpf-linker", "--version", BPF_LINKER]);
    run::run(cargo.args(features))
}
