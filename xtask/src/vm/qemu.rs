//! QEMU's command line. Must not start it, and must not let QEMU choose: where KVM opens but doesn't run, it never falls
//! back.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::image::Image;
use super::kernel::Arch;

/// What executes the guest's instructions.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Accelerator {
    /// QEMU itself: everywhere, about 30 times slower.
    Tcg,
    /// The machine's processor.
    Kvm,
}

/// Where the guest's console goes.
#[derive(Clone, Debug)]
pub(crate) enum Console {
    Log(PathBuf),
    Terminal,
}

/// One guest.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) image: Image,
    pub(crate) initramfs: PathBuf,
    pub(crate) processors: u32,
    /// As QEMU takes it: 512M, 1G.
    pub(crate) memory: String,
    pub(crate) accelerator: Accelerator,
    pub(crate) console: Console,
    pub(crate) results: PathBuf,
    /// Socket of the daemon that shares the host's root.
    pub(crate) share: Option<PathBuf>,
}

/// The devices by which a guest speaks.
pub(crate) struct Ports {
    pub(crate) console: &'static str,
    pub(crate) results: &'static str,
}

/// ARM's `virt` machine has one serial port for us, so the second is a card: the kernel's driver for it is built in.
pub(crate) const fn ports(arch: Arch) -> Ports {
    match arch {
        Arch::X86_64 => Ports { console: "/dev/ttyS0", results: "/dev/ttyS1" },
        Arch::Aarch64 => Ports { console: "/dev/ttyAMA0", results: "/dev/ttyS0" },
    }
}

/// The whole command.
pub(crate) fn command(spec: &Spec) -> Command {
    let arch = spec.image.arch;
    let mut command = Command::new(arch.qemu().0);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-monitor", "none", "-no-reboot"]);
    command.args(["-accel", accelerator_options(spec.accelerator, spec.processors)]);
    command.args(match (arch, spec.accelerator) {
        (Arch::X86_64, Accelerator::Kvm) => ["-machine", "q35", "-cpu", "host"],
        // Five levels of page tables only cost time.
        (Arch::X86_64, Accelerator::Tcg) => ["-machine", "q35", "-cpu", "max,la57=off"],
        (Arch::Aarch64, Accelerator::Kvm) => ["-machine", "virt", "-cpu", "host"],
        // `max` is five times slower than this.
        (Arch::Aarch64, Accelerator::Tcg) => ["-machine", "virt", "-cpu", "cortex-a72"],
    });
    command.args(["-smp", &spec.processors.to_string(), "-m", &spec.memory]);
    command.arg("-kernel").arg(spec.image.vmlinuz()).arg("-initrd").arg(&spec.initramfs);
    command.args(["-append", &kernel_arguments(arch)]);
    add_ports(&mut command, spec);
    if let Some(socket) = &spec.share {
        let memory = format!("memory-backend-memfd,id=memory,size={},share=on", spec.memory);
        command.args(["-object", &memory, "-numa", "node,memdev=memory"]);
        command.args(["-chardev", &format!("socket,id=share,path={}", escaped(socket))]);
        command.args(["-device", "vhost-user-fs-pci,chardev=share,tag=host"]);
    }
    command
}

fn add_ports(command: &mut Command, spec: &Spec) {
    let console = match &spec.console {
        Console::Log(path) => {
            command.stdin(Stdio::null());
            format!("file,id=console,path={}", escaped(path))
        }
        Console::Terminal => "stdio,id=console,signal=off".to_owned(),
    };
    command.args(["-chardev", &console, "-serial", "chardev:console"]);
    command.args(["-chardev", &format!("file,id=results,path={}", escaped(&spec.results))]);
    command.args(match spec.image.arch {
        Arch::X86_64 => ["-serial", "chardev:results"],
        Arch::Aarch64 => ["-device", "pci-serial,chardev=results"],
    });
}

/// With several processors, threads of TCG that wait for each other on a busy machine cost milliseconds: one thread for all.
const fn accelerator_options(accelerator: Accelerator, processors: u32) -> &'static str {
    match accelerator {
        Accelerator::Kvm => "kvm",
        Accelerator::Tcg if processors > 1 => "tcg,thread=single",
        Accelerator::Tcg => "tcg",
    }
}

/// `panic=-1` restarts at once, which `-no-reboot` turns into the end of QEMU; an oops is as bad as a panic.
fn kernel_arguments(arch: Arch) -> String {
    let console = ports(arch).console.trim_start_matches("/dev/");
    format!("console={console} panic=-1 oops=panic quiet")
}

/// QEMU takes a comma in an option's value when it is doubled.
fn escaped(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Accelerator, accelerator_options, escaped};

    #[test]
    fn the_accelerator_is_always_named() {
        assert_eq!(accelerator_options(Accelerator::Tcg, 1), "tcg");
        assert_eq!(accelerator_options(Accelerator::Tcg, 2), "tcg,thread=single");
        assert_eq!(accelerator_options(Accelerator::Kvm, 2), "kvm");
    }

    #[test]
    fn a_comma_in_a_path_stays_one() {
        assert_eq!(escaped(Path::new("/a,b")), "/a,,b");
    }
}
