//! Chooses between KVM and TCG. Must not believe that `/dev/kvm` opens means that a guest runs: some machines have it and
//! never execute an instruction.

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use super::image::Image;
use super::kernel::Arch;
use super::process::Process;
use super::qemu::{self, Accelerator, Console, Spec};
use super::say;

/// What the command line asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Choice {
    /// KVM where a guest really runs on it, else TCG.
    Auto,
    /// Emulation.
    Tcg,
    /// The machine's processor.
    Kvm,
}

/// A guest that hasn't said a word by then never will.
const PROBE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);

/// Decides, and says so where it may surprise.
pub(crate) fn choose(choice: Choice, vm_directory: &Path, image: &Image) -> Result<Accelerator> {
    match choice {
        Choice::Tcg => return Ok(Accelerator::Tcg),
        Choice::Kvm => return Ok(Accelerator::Kvm),
        Choice::Auto => {}
    }
    let reason = match obstacle(image.arch) {
        Some(reason) => reason,
        None if says_something(vm_directory, image)? => return Ok(Accelerator::Kvm),
        None => "a guest on /dev/kvm says nothing here",
    };
    say::progress(&format!("{reason}, using TCG (about 30x slower)"));
    Ok(Accelerator::Tcg)
}

fn obstacle(arch: Arch) -> Option<&'static str> {
    if arch.name() != std::env::consts::ARCH {
        return Some("the guest has another processor than this machine");
    }
    if OpenOptions::new().read(true).write(true).open("/dev/kvm").is_err() {
        return Some("/dev/kvm can't be opened here");
    }
    let has = |module: &str| Path::new("/sys/module").join(module).exists();
    if arch == Arch::X86_64 && !has("kvm_intel") && !has("kvm_amd") {
        return Some("/dev/kvm is not backed by the processor here");
    }
    None
}

fn says_something(vm_directory: &Path, image: &Image) -> Result<bool> {
    let console = vm_directory.join("kvm-probe.log");
    let spec = Spec {
        image: image.clone(),
        // No root: the kernel says so and panics, which is enough.
        initramfs: Path::new("/dev/null").to_owned(),
        processors: 1,
        memory: "512M".to_owned(),
        accelerator: Accelerator::Kvm,
        console: Console::Log(console.clone()),
        results: Path::new("/dev/null").to_owned(),
        share: None,
    };
    fs::write(&console, "").with_context(|| format!("write {}", console.display()))?;
    let mut command = qemu::command(&spec);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut process = Process::start(command)?;
    let started = Instant::now();
    while started.elapsed() < PROBE {
        if fs::metadata(&console).is_ok_and(|metadata| metadata.len() > 0) {
            return Ok(true);
        }
        if process.ended()?.is_some() {
            break;
        }
        thread::sleep(POLL);
    }
    Ok(false)
}
