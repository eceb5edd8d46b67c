//! Debian packages for the machine itself, installed where a command was asked to. Never removes one.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::apt_sources::{self, Source};
use crate::repo;
use crate::run::{self, capture, on_path};

/// Installs those of `packages` that are not there. Never removes one: `rustc-web` and Debian's own `rustc` exclude
/// each other, and that choice is the owner's.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    let missing: Vec<&str> = packages.iter().copied().filter(|package| !is_installed(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("setup: apt-get install {}", missing.join(" "));
    if add(&missing, &[]).is_ok() {
        return Ok(());
    }
    // The lists may be older than what the mirror holds.
    update()?;
    let Err(reason) = add(&missing, &[]) else { return Ok(()) };
    // What came from the backports (parts of QEMU, say) shuts out the older packages that belong to it.
    if let Ok(backports) = Backports::read() {
        println!("setup: once more, with {}", backports.suite);
        if add(&missing, &backports.options()).is_ok() {
            return Ok(());
        }
    }
    Err(reason)
        .context("install packages; if apt wanted to remove Debian's own rustc, do that yourself first")
}

fn add(packages: &[&str], options: &[String]) -> Result<()> {
    let mut apt = apt_get("install")?;
    apt.args(["--yes", "-oDpkg::Use-Pty=0", "--no-remove", "--no-install-recommends"]);
    run::run(apt.args(options).args(packages))
}

/// Reads the mirror's lists anew.
pub(crate) fn update() -> Result<()> {
    println!("setup: apt-get update");
    // The lists have a lock of their own, for which apt does not wait.
    run::repeated(|| run::run(&mut apt_get("update")?))
}

/// The machine's own suites of Debian and the backports beside them, with lists of their own: what the machine installs by itself
/// later comes from where it came before.
struct Backports {
    suite: String,
    folder: PathBuf,
}

impl Backports {
    fn read() -> Result<Self> {
        let mut sources = apt_sources::of_machine()?;
        sources.retain(Source::is_debian);
        let of_release = fs::read_to_string("/etc/os-release").context("read /etc/os-release")?;
        let release = of_release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
        let suite = format!("{}-backports", release.context("a release without a name")?.trim_matches('"'));
        sources.push(apt_sources::for_suite(&sources, &suite).context("no Debian mirror here")?);
        let folder = repo::root()?.join("target/backports");
        fs::create_dir_all(folder.join("lists/partial"))?;
        fs::write(folder.join("sources.list"), sources.iter().map(Source::to_line).collect::<String>())?;
        let backports = Self { suite, folder };
        run::repeated(|| run::run(apt_get("update")?.args(backports.options())))?;
        Ok(backports)
    }

    fn options(&self) -> [String; 4] {
        [
            format!("-oDir::Etc::sourcelist={}", self.folder.join("sources.list").display()),
            "-oDir::Etc::sourceparts=-".to_owned(),
            format!("-oDir::State::lists={}", self.folder.join("lists").display()),
            format!("-oAPT::Default-Release={}", self.suite),
        ]
    }
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
