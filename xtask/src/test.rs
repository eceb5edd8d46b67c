//! `cargo xtask test`: installs what the tests need, builds what they test, runs all of them, and adds up what they say.
//! Kernel truth tests need root: without it they run through sudo.

use std::io::{BufRead as _, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::thread;

use anyhow::{Context as _, Result, ensure};

use crate::run::{self, on_path};
use crate::{needs, repo};

/// The package whose tests run the product on the running kernel.
const KERNEL_TESTS: &str = "portchurn-tests";

/// What tests said, added up.
#[derive(Default)]
struct Tally {
    passed: usize,
    failed: usize,
    ignored: usize,
    /// Tests that found out by themselves that they cannot run. libtest takes them for passed.
    said_skip: usize,
}

pub(crate) fn run() -> Result<()> {
    let root = repo::root()?;
    needs::install(&root)?;
    println!("test: build portchurn");
    run::run(cargo(&root).args(["build", "--quiet", "--locked", "--release", "--package=portchurn"]))?;
    let mut tally = Tally::default();
    let mut all_ended_well = true;
    let others = format!("--exclude={KERNEL_TESTS}");
    let kernel = format!("--package={KERNEL_TESTS}");
    for which in [&["--workspace", &others][..], &[&kernel]] {
        let mut tests = cargo(&root);
        tests.args(["test", "--locked", "--no-fail-fast"]).args(which);
        tests.env("PORTCHURN_BIN", root.join("target/release/portchurn")).env("PORTCHURN_REQUIRE", "1");
        if which.contains(&kernel.as_str()) {
            through_sudo(&mut tests)?;
        }
        all_ended_well &= follow(&mut tests, &mut tally)?;
    }
    println!("{}", tally.line());
    ensure!(tally.failed == 0, "{} tests failed; their reasons stand above", tally.failed);
    ensure!(all_ended_well, "the tests could not all be built or run; the reason stands above");
    Ok(())
}

fn cargo(root: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // The product is looked for where cargo puts it by default.
    command.current_dir(root).env("CARGO_TARGET_DIR", root.join("target"));
    command
}

/// Lets cargo start each test program as root.
fn through_sudo(tests: &mut Command) -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    ensure!(on_path("sudo").is_some(), "kernel tests need root and sudo is missing: run this as root");
    let runner = format!("CARGO_TARGET_{}_UNKNOWN_LINUX_GNU_RUNNER", std::env::consts::ARCH.to_uppercase());
    tests.env(runner, "sudo --preserve-env");
    Ok(())
}

/// Runs tests, passes their output on, and counts. Tells whether cargo was content.
fn follow(tests: &mut Command, tally: &mut Tally) -> Result<bool> {
    let mut child =
        tests.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("start cargo test")?;
    let (sender, lines) = channel();
    forward(child.stdout.take(), sender.clone());
    forward(child.stderr.take(), sender);
    for line in lines {
        println!("{line}");
        tally.add(&line);
    }
    Ok(child.wait().context("wait for cargo test")?.success())
}

fn forward(stream: Option<impl Read + Send + 'static>, lines: Sender<String>) {
    let Some(stream) = stream else { return };
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if lines.send(line).is_err() {
                break;
            }
        }
    });
}

impl Tally {
    fn line(&self) -> String {
        let passed = self.passed.saturating_sub(self.said_skip);
        format!("{passed} passed, {} failed, {} skipped", self.failed, self.ignored + self.said_skip)
    }

    /// Counts one line.
    fn add(&mut self, line: &str) {
        if line.starts_with("SKIP ") {
            self.said_skip += 1;
            return;
        }
        let Some((_, counts)) = line.split_once("test result: ") else { return };
        let count = |what: &str| -> usize {
            let part = counts.split([';', '.']).find_map(|part| part.trim().strip_suffix(what));
            part.and_then(|number| number.trim().parse().ok()).unwrap_or_default()
        };
        self.passed += count(" passed");
        self.failed += count(" failed");
        self.ignored += count(" ignored");
    }
}

#[cfg(test)]
mod tests {
    use super::Tally;

    #[test]
    fn results_of_several_programs_add_up() {
        let mut tally = Tally::default();
        tally.add("running 3 tests");
        tally.add(
            "test result: ok. 17 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
        );
        tally.add("SKIP fentry: this kernel has none");
        tally.add("test result: FAILED. 2 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out");
        assert_eq!(tally.line(), "18 passed, 3 failed, 2 skipped");
    }

    #[test]
    fn a_skip_that_comes_before_the_first_result_is_not_lost() {
        let mut tally = Tally::default();
        tally.add("SKIP a: why");
        tally.add("test result: ok. 1 passed; 0 failed; 0 ignored");
        assert_eq!(tally.line(), "0 passed, 0 failed, 1 skipped");
    }
}
