//! `cargo xtask setup`: installs what builds the kernel side, and says what it does. Done twice, it does nothing.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::ebpf::{BPF_LINKER, DEBIAN_LLVM, Tools, bpf_linker};
use crate::packages::{install, update};
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
