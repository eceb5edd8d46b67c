//! Newer Pythons than this machine's, as Debian builds them, each with a libc of its own in the target folder. They must
//! not become part of the machine: nothing is installed.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{run, vm};

/// Where Debian has them.
const SUITE: &str = "forky";
/// Those that no image brings along.
const VERSIONS: &[&str] = &["3.14", "3.15"];
/// What they are linked against.
const LIBRARIES: &[&str] = &["libc6", "libexpat1", "zlib1g"];
/// The folder of libraries in Debian's packages, and the loader in it.
const FOLDER: &str = "usr/lib/x86_64-linux-gnu";
const LOADER: &str = "ld-linux-x86-64.so.2";

/// Fetches what is missing into `target/test-pythons/`. What cannot be had is said, and a test that needs it skips.
pub(crate) fn provide(root: &Path) {
    for version in VERSIONS {
        let folder = root.join("target/test-pythons").join(version);
        if folder.join("bin/python3").exists() {
            continue;
        }
        println!("test: Python {version} of Debian's {SUITE} in target/test-pythons");
        if let Err(error) = fetch(version, &folder) {
            println!("test: no Python {version}: {error:#}");
        }
    }
}

fn fetch(version: &str, folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("remove {}", folder.display()))?;
    }
    let own = ["python{}-minimal", "libpython{}-minimal", "libpython{}-stdlib"];
    let own = own.iter().map(|name| name.replace("{}", version));
    let packages: Vec<_> = LIBRARIES.iter().map(|&name| name.to_owned()).chain(own).collect();
    vm::unpack_packages(SUITE, &packages, folder)?;
    let (libraries, name) = (folder.join(FOLDER), format!("usr/bin/python{version}"));
    // As a program of its own: one that is started by a loader looks like the loader.
    let mut patchelf = Command::new("patchelf");
    patchelf.arg("--set-interpreter").arg(libraries.join(LOADER));
    patchelf.args(["--force-rpath", "--set-rpath"]).arg(&libraries);
    run::run(patchelf.arg(folder.join(&name)))?;
    run::run(Command::new(folder.join(&name)).args(["-c", "import asyncio, json, multiprocessing, socket"]))?;
    // Last: it says that all else is there.
    let bin = folder.join("bin");
    fs::create_dir_all(&bin).with_context(|| format!("create {}", bin.display()))?;
    symlink(Path::new("..").join(&name), bin.join("python3")).context("name the program")
}
