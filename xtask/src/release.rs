//! `cargo xtask release`: one static file for each architecture, in `target/dist/`. glibc, linked in, because the
//! standard library for it can be had everywhere; with musl's (`rustup target add …-musl`) a plain cargo build does it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::run::{self, clean_command, on_path};
use crate::{repo, vm};

/// Arguments of `cargo xtask release`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only this architecture, and fail where it cannot be built [default: all that can be]
    #[arg(long, value_parser = ARCHITECTURES)]
    arch: Option<String>,
}

const ARCHITECTURES: [&str; 2] = ["x86_64", "aarch64"];

pub(crate) fn run(args: &Args) -> Result<()> {
    let root = repo::root()?;
    if let Some(arch) = &args.arch {
        return build(&root, &Toolchain::find(arch)?).map(drop);
    }
    for arch in ARCHITECTURES {
        match Toolchain::find(arch) {
            Ok(toolchain) => build(&root, &toolchain).map(drop)?,
            Err(missing) => println!("SKIP {arch}: {missing:#}"),
        }
    }
    Ok(())
}

/// Builds for one architecture; the file.
pub(crate) fn file(arch: &str) -> Result<PathBuf> {
    let root = repo::root()?;
    build(&root, &Toolchain::find(arch)?)
}

/// What builds for one architecture.
struct Toolchain {
    arch: String,
    linker: Option<String>,
    /// Compiler and sysroot, where the usual compiler has no standard library for it.
    own_std: Option<(PathBuf, PathBuf)>,
}

impl Toolchain {
    fn find(arch: &str) -> Result<Self> {
        let foreign = arch != std::env::consts::ARCH;
        let linker = foreign.then(|| format!("{arch}-linux-gnu-gcc"));
        if let Some(linker) = &linker {
            let package = format!("gcc-{}-linux-gnu", arch.replace('_', "-"));
            ensure!(on_path(linker).is_some(), "{linker} is missing: apt-get install {package}");
        }
        let own_std = if foreign { vm::foreign_std(arch)? } else { None };
        Ok(Self { arch: arch.to_owned(), linker, own_std })
    }

    /// A cargo with everything set for this architecture.
    fn cargo(&self, root: &Path) -> Command {
        // Through rustup's cargo even where Debian's compiler builds: it is the one that everybody has.
        let mut command = clean_command("cargo");
        let key = format!("CARGO_TARGET_{}", target(&self.arch).to_uppercase().replace('-', "_"));
        let mut flags = vec!["-Ctarget-feature=+crt-static".to_owned()];
        flags.push(format!("--remap-path-prefix={}=/portchurn", root.display()));
        if let Ok(home) = repo::cargo_home() {
            flags.push(format!("--remap-path-prefix={}=/cargo", home.display()));
        }
        if let Some((rustc, sysroot)) = &self.own_std {
            command.env("RUSTC", rustc);
            flags.push(format!("--sysroot={}", sysroot.display()));
        }
        if let Some(linker) = &self.linker {
            command.env(format!("{key}_LINKER"), linker);
        }
        // An explicit --target keeps these away from build scripts and macros, which cannot be static.
        command.env(format!("{key}_RUSTFLAGS"), flags.join(" "));
        command
    }
}

fn target(arch: &str) -> String {
    format!("{arch}-unknown-linux-gnu")
}

fn build(root: &Path, toolchain: &Toolchain) -> Result<PathBuf> {
    let target = target(&toolchain.arch);
    println!("release: build for {target}");
    let folder = root.join("target/release-static");
    let mut cargo = toolchain.cargo(root);
    cargo.current_dir(root).args(["build", "--quiet", "--locked", "--release", "--package=portchurn"]);
    run::run(cargo.args(["--target", &target]).arg("--target-dir").arg(&folder))?;
    let dist = root.join("target/dist");
    std::fs::create_dir_all(&dist).with_context(|| format!("create {}", dist.display()))?;
    let file = dist.join(format!("portchurn-{}-linux", toolchain.arch));
    std::fs::copy(folder.join(&target).join("release/portchurn"), &file)
        .with_context(|| format!("write {}", file.display()))?;
    let bytes = std::fs::read(&file).with_context(|| format!("read {}", file.display()))?;
    ensure!(is_static(&bytes), "{} needs a dynamic loader: +crt-static had no effect", file.display());
    ensure!(is_stripped(&bytes), "{} has a table of symbols: strip had no effect", file.display());
    println!(
        "{}: {} bytes, static, stripped",
        file.strip_prefix(root).unwrap_or(&file).display(),
        bytes.len()
    );
    Ok(file)
}

/// Whether a 64-bit little-endian ELF file asks for no interpreter.
fn is_static(elf: &[u8]) -> bool {
    const INTERPRETER: u64 = 3;
    let mut headers = headers(elf, [32, 54, 56], 0);
    headers.all(|kind| kind.is_some_and(|kind| kind != INTERPRETER))
}

/// Whether such a file has no table of symbols but the one for the dynamic loader.
fn is_stripped(elf: &[u8]) -> bool {
    const SYMBOLS: u64 = 2;
    headers(elf, [40, 58, 60], 4).all(|kind| kind.is_some_and(|kind| kind != SYMBOLS))
}

/// The word at `kind` of each header in a table, which the file header describes at these places: where it begins, how
/// long a header is, how many there are. `None` where the file is cut off, or no such file.
fn headers(elf: &[u8], table: [usize; 3], kind: usize) -> impl Iterator<Item = Option<u64>> {
    let number = |at: usize, size: usize| -> Option<u64> {
        let bytes = elf.get(at..at.checked_add(size)?)?;
        Some(bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
    };
    let is_elf = elf.starts_with(b"\x7fELF\x02\x01");
    let description = number(table[0], 8).zip(number(table[1], 2)).zip(number(table[2], 2));
    let ((first, size), count) = description.filter(|_| is_elf).unwrap_or(((u64::MAX >> 1, 0), 1));
    (0..count).map(move |index| number((first + index * size) as usize + kind, 4))
}

#[cfg(test)]
mod tests {
    use super::{is_static, is_stripped};

    /// A file header and one program header of this kind.
    fn elf(kind: u8) -> Vec<u8> {
        let mut bytes = vec![0; 64 + 56];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        (bytes[32], bytes[54], bytes[56], bytes[64]) = (64, 56, 1, kind);
        bytes
    }

    #[test]
    fn a_table_of_symbols_is_noticed() {
        let mut bytes = elf(1);
        (bytes[40], bytes[58], bytes[60], bytes[68]) = (64, 56, 1, 3);
        assert!(is_stripped(&bytes));
        bytes[68] = 2;
        assert!(!is_stripped(&bytes));
    }

    #[test]
    fn an_interpreter_gives_a_dynamic_file_away() {
        assert!(is_static(&elf(1)));
        assert!(!is_static(&elf(3)));
    }

    #[test]
    fn what_is_cut_off_or_no_elf_file_is_not_static() {
        assert!(!is_static(&elf(1)[..60]));
        assert!(!is_static(&elf(1)[..64]));
        assert!(!is_static(b"#!/bin/sh"));
    }
}
