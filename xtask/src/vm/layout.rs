//! Where the harness keeps its files: all of them under the target folder. Must not lead anywhere else.

use std::env;
use std::fs::{self, File};
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::kernel::Arch;
use super::say;

/// The folders.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) workspace: PathBuf,
    /// `target/vm`.
    pub(crate) vm: PathBuf,
    /// Consoles and results of the last run.
    pub(crate) logs: PathBuf,
    /// What the attach matrix showed in the last run of each kernel.
    pub(crate) matrix: PathBuf,
}

impl Layout {
    pub(crate) fn new() -> Result<Self> {
        // Set by `cargo run`; the other is for a binary that is started by hand where it was built.
        let own = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
        let workspace = own.parent().context("xtask lies in no workspace")?.to_owned();
        let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
        let vm = workspace.join(target).join("vm");
        let (logs, matrix) = (vm.join("logs"), vm.join("matrix"));
        for folder in [&logs, &matrix] {
            fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        }
        Ok(Self { workspace, vm, logs, matrix })
    }

    /// Waits until no other run writes the same logs; the next waits until the guard is dropped.
    pub(crate) fn alone(&self) -> Result<File> {
        let path = self.vm.join("lock");
        let lock = File::create(&path).with_context(|| format!("create {}", path.display()))?;
        if lock.try_lock().is_err() {
            say::progress("another run is at work in this target folder: waiting for its end");
            lock.lock().with_context(|| format!("lock {}", path.display()))?;
        }
        Ok(lock)
    }
}

/// Name of a guest's files and its label in output: the kernel line, and the processor where it isn't the usual one.
pub(crate) fn label(line: &str, arch: Arch) -> String {
    match arch {
        Arch::X86_64 => line.to_owned(),
        Arch::Aarch64 => format!("{line}-{}", arch.name()),
    }
}
