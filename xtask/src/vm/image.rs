//! A kernel on this machine: fetched once per package and version, kept under `target/vm/kernels/`. Must not leave a
//! half-made one where a later run would find it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};

use super::apt::Apt;
use super::kernel::{Arch, Line};
use super::say;
use crate::run;

/// Written last: says that everything else is there. Holds the line's name and the kernel's release.
const DONE: &str = "done";
/// How many versions of a line are kept.
const KEPT: usize = 2;

/// A kernel that can be started.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) line: &'static str,
    pub(crate) arch: Arch,
    /// As `uname -r` says it.
    pub(crate) release: String,
    directory: PathBuf,
}

impl Image {
    pub(crate) fn vmlinuz(&self) -> PathBuf {
        self.directory.join("vmlinuz")
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.directory.join("config")
    }

    pub(crate) fn modules(&self) -> PathBuf {
        self.directory.join("modules")
    }

    fn open(line: &'static str, arch: Arch, directory: PathBuf) -> Option<Self> {
        let done = fs::read_to_string(directory.join(DONE)).ok()?;
        let (found, release) = done.trim().split_once(' ')?;
        (found == line).then(|| Self { line, arch, release: release.to_owned(), directory })
    }
}

/// The newest kernel of the line: from the mirror, else from an earlier run.
pub(crate) fn provide(vm_directory: &Path, line: &'static Line, arch: Arch) -> Result<Image> {
    let attempt = || fetch(vm_directory, line, arch);
    let Some(image) = cached(vm_directory, line, arch).into_iter().next() else {
        return run::repeated(attempt).map_err(|error| anyhow!("{error:#}; and none is cached"));
    };
    Ok(attempt().unwrap_or_else(|error| {
        say::progress(&format!("kernel {}: {error:#}; using the cached {}", line.name, image.release));
        image
    }))
}

/// The kernels of a line that earlier runs have left, newest first.
pub(crate) fn cached(vm_directory: &Path, line: &'static Line, arch: Arch) -> Vec<Image> {
    let Ok(entries) = fs::read_dir(vm_directory.join("kernels")) else { return Vec::new() };
    let suffix = format!("_{}", arch.debian());
    let ours = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.to_string_lossy().ends_with(&suffix));
    let mut images: Vec<_> = ours.filter_map(|path| Image::open(line.name, arch, path)).collect();
    images.sort_by_key(|image| {
        fs::metadata(image.directory.join(DONE)).and_then(|metadata| metadata.modified()).ok()
    });
    images.reverse();
    images
}

fn fetch(vm_directory: &Path, line: &'static Line, arch: Arch) -> Result<Image> {
    let apt = Apt::open(vm_directory, line.suites, arch)?;
    let package = apt.image_package(line)?;
    let key = format!("{package}_{}_{}", apt.version(&package)?, arch.debian());
    let directory = vm_directory.join("kernels").join(&key);
    if let Some(image) = Image::open(line.name, arch, directory.clone()) {
        return Ok(image);
    }
    say::progress(&format!("kernel {}: fetching {key}", line.name));
    let files = apt.download(&apt.kernel_packages(&package)?)?;
    let partial = vm_directory.join("kernels").join(format!("partial-{key}"));
    remove(&partial)?;
    remove(&directory)?;
    let unpacked = partial.join("unpacked");
    Apt::unpack(&files, &unpacked)?;
    let release = assemble(&unpacked, &partial)?;
    remove(&unpacked)?;
    fs::write(partial.join(DONE), format!("{} {release}\n", line.name)).context("mark the kernel as done")?;
    fs::rename(&partial, &directory).with_context(|| format!("move to {}", directory.display()))?;
    for file in &files {
        fs::remove_file(file).with_context(|| format!("remove {}", file.display()))?;
    }
    for old in cached(vm_directory, line, arch).into_iter().skip(KEPT) {
        remove(&old.directory)?;
    }
    Image::open(line.name, arch, directory).context("the kernel that was just fetched isn't there")
}

/// Moves kernel, configuration and modules to where [`Image`] has them; gives the release. Debian has changed the places:
/// up to 6.18 `boot` and `lib/modules`, since then all in `usr/lib/modules`.
fn assemble(unpacked: &Path, target: &Path) -> Result<String> {
    let roots = ["usr/lib/modules", "lib/modules"].map(|root| unpacked.join(root));
    let modules = roots.iter().filter_map(|root| fs::read_dir(root).ok()).flatten();
    let modules: Vec<_> = modules.filter_map(|entry| Some(entry.ok()?.path())).collect();
    let with_modules = modules.iter().find(|path| path.join("kernel").is_dir());
    let modules = with_modules.context("the packages have no modules")?;
    let release = modules.file_name().and_then(|name| name.to_str()).context("modules without a release")?;
    for name in ["vmlinuz", "config"] {
        let places = [modules.join(name), unpacked.join("boot").join(format!("{name}-{release}"))];
        let Some(place) = places.iter().find(|place| place.is_file()) else {
            bail!("the packages of {release} have no {name}");
        };
        fs::rename(place, target.join(name)).with_context(|| format!("keep {name} of {release}"))?;
    }
    fs::rename(modules, target.join("modules")).with_context(|| format!("keep the modules of {release}"))?;
    Ok(release.to_owned())
}

fn remove(directory: &Path) -> Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory).with_context(|| format!("remove {}", directory.display()))?;
    }
    Ok(())
}
