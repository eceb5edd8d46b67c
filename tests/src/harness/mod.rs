//! What the tests share: finding the programs, starting a tracer, reading its output, holding it to the truth.

use std::error::Error;
use std::fmt;
use std::fs::File;
use std::io::{Write, stderr};
use std::time::Duration;

use anyhow::{Context, Result};

use self::blind::again_if_disturbed;

pub mod blind;
pub mod bpf;
pub mod broken;
pub mod budgets;
pub mod compare;
pub mod counted;
pub mod elf;
pub mod folder;
pub mod lacks;
pub mod lines;
pub mod link;
pub mod mounts;
pub mod named_netns;
pub mod namespaces;
pub mod native;
pub mod printer;
pub mod privileges;
pub mod programs;
pub mod python;
pub mod report;
pub mod run_counts;
pub mod seccomp;
pub mod servers;
pub mod sites;
pub mod tracer;
pub mod veth;

/// A test that cannot run here, and why.
#[derive(Debug)]
pub struct Skip(String);

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Skip {}

/// The error that makes a test count as skipped.
pub fn skip(why: impl fmt::Display) -> anyhow::Error {
    Skip(why.to_string()).into()
}

/// Whether this is a guest of `cargo xtask vm`, where the only host is ours, and slow.
pub fn is_guest() -> bool {
    std::env::var_os("PORTCHURN_VM").is_some()
}

/// How long the awaited may take, when it may take so long on a machine: an emulated processor is far slower. No test is
/// about time; this only ends what has failed.
pub fn patience(here: Duration) -> Duration {
    if is_guest() { here * 3 } else { here }
}

/// Runs of a test that fails while the machine disturbs it.
const ATTEMPTS: usize = 5;

/// Runs a test. One that cannot run prints `SKIP name: why` past libtest's capture and passes, unless
/// `PORTCHURN_REQUIRE=1` says that it must run here.
///
/// # Panics
/// When the test fails.
pub fn check(name: &str, test: impl Fn() -> Result<()>) {
    let is_required = std::env::var_os("PORTCHURN_REQUIRE").is_some_and(|value| value == "1");
    run(name, is_required, test);
}

/// The same for what depends on the kernel alone, such as a way to attach a hook: no setting can require it.
///
/// # Panics
/// When the test fails.
pub fn check_where_possible(name: &str, test: impl Fn() -> Result<()>) {
    run(name, false, test);
}

fn run(name: &str, is_required: bool, test: impl Fn() -> Result<()>) {
    let Err(error) = again_if_disturbed(ATTEMPTS, test) else { return };
    match error.downcast_ref::<Skip>() {
        Some(why) if !is_required => {
            let why = why.to_string().replace('\n', " ");
            let _ = stderr().write_all(format!("\nSKIP {name}: {why}\n").as_bytes());
        }
        Some(why) => panic!("{name} must run here, but cannot: {why}"),
        None => panic!("{name}: {error:#}"),
    }
}

/// While it lives, no other test holds one: for tests that want the processors for themselves. It holds across test
/// programs, too.
#[derive(Debug)]
pub struct Alone {
    _lock: File,
}

impl Alone {
    /// Waits for its turn.
    pub fn wait() -> Result<Self> {
        let path = std::env::temp_dir().join("portchurn-tests.lock");
        let lock = File::create(&path).with_context(|| format!("open {}", path.display()))?;
        lock.lock().context("wait for other tests")?;
        Ok(Self { _lock: lock })
    }
}
