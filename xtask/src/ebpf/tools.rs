//! The toolchain of the kernel side: a compiler that builds `core` from source, its LLVM, and bpf-linker.
//! Debian's `rustc-web` comes first, as it shares its LLVM with bpf-linker; elsewhere a rustup nightly serves.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::repo::cargo_home;
use crate::run::{capture, clean_command, on_path, path_with};

/// The linker's version, the same everywhere: it decides what the type information looks like.
pub(crate) const BPF_LINKER: &str = "0.13.0";

/// LLVM of Debian's compiler and of the linker that `cargo xtask setup` builds for it.
pub(crate) const DEBIAN_LLVM: &str = "22";

/// What built an object. Two equal ones give the same bytes.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Versions {
    pub(crate) rustc: String,
    pub(crate) rustc_llvm: String,
    pub(crate) bpf_linker: String,
    pub(crate) llvm_tools: String,
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rustc, rustc_llvm, bpf_linker, llvm_tools } = self;
        write!(f, "rustc {rustc} with LLVM {rustc_llvm}, bpf-linker {bpf_linker}, LLVM tools {llvm_tools}")
    }
}

/// Where the tools are.
pub(crate) struct Tools {
    cargo: PathBuf,
    toolchain: Option<&'static str>,
    rust_src: PathBuf,
    llvm_bin: PathBuf,
    linker: PathBuf,
    pub(crate) versions: Versions,
}

impl Tools {
    /// Finds all of them. The error names the first that is missing, and the remedy.
    pub(crate) fn find() -> Result<Self> {
        Self::look().map_err(|missing| anyhow!("{missing:#}: run `cargo xtask setup`"))
    }

    fn look() -> Result<Self> {
        let (cargo, toolchain, rustc) = compiler()?;
        let verbose = rustc("-vV")?;
        let release = field(&verbose, "rustc ").context("rustc does not tell its version")?;
        let rustc_llvm = field(&verbose, "LLVM version: ").context("rustc does not tell its LLVM")?;
        let sysroot = PathBuf::from(rustc("--print=sysroot")?.trim());
        let host = field(&verbose, "host: ").context("rustc does not tell its host")?;
        let rust_src = sysroot.join("lib/rustlib/src/rust");
        ensure!(rust_src.join("library/core").exists(), "the source of Rust's core is missing");
        let llvm_bin = llvm_bin(&rustc_llvm, &sysroot, &host)?;
        let linker = bpf_linker()?;
        let versions = Versions {
            rustc: release,
            rustc_llvm,
            bpf_linker: BPF_LINKER.to_owned(),
            llvm_tools: llvm_version(&llvm_bin)?,
        };
        Ok(Self { cargo, toolchain, rust_src, llvm_bin, linker, versions })
    }

    /// The cargo that builds the kernel side.
    pub(crate) fn cargo(&self) -> Result<Command> {
        let mut command = clean_command(&self.cargo);
        let linker_folder = self.linker.parent().context("bpf-linker lies in a folder")?;
        command.env("PATH", path_with(&[&self.llvm_bin, linker_folder])?);
        match self.toolchain {
            Some(toolchain) => command.arg(toolchain),
            None => command.env("RUSTC", "/usr/bin/rustc").env("RUSTC_BOOTSTRAP", "1"),
        };
        Ok(command)
    }

    /// One of LLVM's programs.
    pub(crate) fn llvm(&self, program: &str) -> Command {
        Command::new(self.llvm_bin.join(program))
    }

    /// Where the source of `core` is, and what that path leads to.
    pub(crate) fn rust_src(&self) -> Vec<PathBuf> {
        let mut paths = vec![self.rust_src.clone()];
        paths.extend(self.rust_src.canonicalize());
        paths.dedup();
        paths
    }
}

type AskRustc = Box<dyn Fn(&str) -> Result<String>>;

/// Cargo, the argument that chooses its toolchain, and a way to ask its compiler.
fn compiler() -> Result<(PathBuf, Option<&'static str>, AskRustc)> {
    if is_debian() {
        let ask = |argument: &str| capture(clean_command("/usr/bin/rustc").arg(argument));
        return Ok(("/usr/bin/cargo".into(), None, Box::new(ask)));
    }
    let ask =
        |argument: &str| capture(clean_command("rustup").args(["run", "nightly", "rustc"]).arg(argument));
    if ask("-vV").is_err() {
        bail!("no compiler for the kernel side: neither Debian's rustc-web nor a rustup nightly");
    }
    let cargo = on_path("cargo").context("cargo is not on PATH")?;
    Ok((cargo, Some("+nightly"), Box::new(ask)))
}

/// Whether Debian's compiler is there, its source of `core` with it.
fn is_debian() -> bool {
    ["/usr/bin/rustc", "/usr/bin/cargo", "/usr/lib/rustlib/src/rust/library/core"]
        .iter()
        .all(|path| Path::new(path).exists())
}

/// The folder with llvm-objcopy and llvm-objdump: the distribution's, else the one of rustup's `llvm-tools`.
fn llvm_bin(rustc_llvm: &str, sysroot: &Path, host: &str) -> Result<PathBuf> {
    let major = rustc_llvm.split('.').next().unwrap_or_default();
    let candidates = [
        PathBuf::from(format!("/usr/lib/llvm-{major}/bin")),
        sysroot.join("lib/rustlib").join(host).join("bin"),
    ];
    candidates
        .into_iter()
        .find(|folder| folder.join("llvm-objcopy").is_file() && folder.join("llvm-objdump").is_file())
        .with_context(|| format!("llvm-objcopy and llvm-objdump of LLVM {major} are missing"))
}

/// The linker, in the right version.
pub(crate) fn bpf_linker() -> Result<PathBuf> {
    let at_home = cargo_home()?.join("bin/bpf-linker");
    let found = if at_home.is_file() { Some(at_home) } else { on_path("bpf-linker") };
    let linker = found.context("bpf-linker is missing")?;
    let said = capture(Command::new(&linker).arg("--version"))?;
    let version = said.trim().rsplit(' ').next().unwrap_or_default();
    ensure!(version == BPF_LINKER, "bpf-linker is version {version}, wanted {BPF_LINKER}");
    Ok(linker)
}

fn llvm_version(llvm_bin: &Path) -> Result<String> {
    let said = capture(Command::new(llvm_bin.join("llvm-objcopy")).arg("--version"))?;
    let version = said.lines().find_map(|line| line.split_once("LLVM version "));
    Ok(version.context("llvm-objcopy does not tell its version")?.1.trim().to_owned())
}

/// The rest of the line that begins with `name`.
fn field(text: &str, name: &str) -> Option<String> {
    text.lines().find_map(|line| line.strip_prefix(name)).map(|rest| rest.trim().to_owned())
}
