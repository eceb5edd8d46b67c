//! What the tests need besides Rust: programs from the system's packages, and a Python with today's drivers in the
//! target folder. Done twice, it does nothing.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::run::{self, on_path};
use crate::{packages, pythons};

/// Programs that tests call, and the Debian package of each.
const PROGRAMS: &[(&str, &str)] = &[
    // Shells, which judge the completions that are made for them.
    ("bash", "bash"),
    ("fish", "fish"),
    ("zsh", "zsh"),
    // Compilers of the programs whose stacks are compared.
    ("gcc", "gcc"),
    ("g++", "g++"),
    ("go", "golang-go"),
    // Interpreters whose frames are not read.
    ("perl", "perl"),
    ("php", "php-cli"),
    ("ruby", "ruby"),
    // Servers. Those whose package starts nothing by itself: each test starts its own.
    ("mariadbd", "mariadb-server-core"),
    ("redis-check-rdb", "redis-tools"),
    // Lets newer Pythons run with the libraries that they were built for.
    ("patchelf", "patchelf"),
];

/// Drivers as Debian has them, for Debian's Python.
const DRIVERS: &[&str] = &[
    "python3-venv",
    "python3-mysqldb",
    "python3-pymysql",
    "python3-redis",
    "python3-requests",
    "python3-sqlalchemy",
];

/// The Python whose packages [`DRIVERS`] are.
const SYSTEM_PYTHON: &str = "/usr/bin/python3";

/// Drivers as PyPI has them today, versions and all.
const REQUIREMENTS: &str = "tests/fixtures/python/requirements.txt";

/// Installs what is missing, as far as this machine lets us. A test whose thing is not there says so itself.
pub(crate) fn install(root: &Path) -> Result<()> {
    let missing = PROGRAMS.iter().filter(|(program, _)| on_path(program).is_none());
    let mut packages: Vec<&str> = missing.map(|(_, package)| *package).collect();
    if on_path("apt-get").is_none() {
        if !packages.is_empty() {
            println!("test: without {} some tests see less; install what you can", packages.join(", "));
        }
        return Ok(());
    }
    packages.extend(DRIVERS);
    packages::install(&packages)?;
    drivers(root)?;
    if std::env::consts::ARCH == "x86_64" {
        pythons::provide(root);
    }
    Ok(())
}

/// A Python that has the system's packages (mysqlclient would have to be compiled) and above them today's.
fn drivers(root: &Path) -> Result<()> {
    let folder = root.join("target/test-python");
    let wanted = std::fs::read(root.join(REQUIREMENTS)).with_context(|| format!("read {REQUIREMENTS}"))?;
    let done: PathBuf = folder.join("requirements.txt");
    if std::fs::read(&done).is_ok_and(|present| present == wanted) {
        return Ok(());
    }
    println!("test: a Python with the drivers of {REQUIREMENTS} in target/test-python");
    run::run(Command::new(SYSTEM_PYTHON).args(["-m", "venv", "--system-site-packages"]).arg(&folder))?;
    let mut pip = Command::new(folder.join("bin/python3"));
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"]);
    run::run(pip.arg(root.join(REQUIREMENTS)))?;
    std::fs::write(&done, wanted).with_context(|| format!("write {}", done.display()))
}
