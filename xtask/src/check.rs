//! `cargo xtask check`: everything that can be judged without running the product. All steps run, so that one
//! reading shows all that is wrong.

use std::process::Command;

use anyhow::{Result, bail};

use crate::run::{self, on_path};
use crate::{ebpf, layers, protos, repo, tidy};

type Step = (&'static str, fn() -> Result<Done>);

/// What became of a step that found nothing wrong.
pub(crate) enum Done {
    /// It looked.
    Passed,
    /// It could not look; why, was said.
    Skipped,
}

const STEPS: &[Step] = &[
    ("format", || format().map(|()| Done::Passed)),
    ("layers", || layers::run().map(|()| Done::Passed)),
    ("tidy", || tidy::run().map(|()| Done::Passed)),
    ("protos", || protos::run().map(|()| Done::Passed)),
    ("ebpf --check", || ebpf::check(&repo::root()?)),
    ("clippy", || clippy().map(|()| Done::Passed)),
    ("docs", || docs().map(|()| Done::Passed)),
    ("deny", deny),
];

pub(crate) fn run() -> Result<()> {
    let (mut failed, mut skipped) = (Vec::new(), 0);
    for (name, step) in STEPS {
        println!("== {name}");
        match step() {
            Ok(Done::Passed) => {}
            Ok(Done::Skipped) => skipped += 1,
            Err(error) => {
                println!("{name}: {error:#}");
                failed.push(*name);
            }
        }
    }
    let passed = STEPS.len() - failed.len() - skipped;
    println!("check: {passed} passed, {} failed, {skipped} skipped", failed.len());
    if !failed.is_empty() {
        bail!("check failed: {}", failed.join(", "));
    }
    Ok(())
}

/// The cargo that runs us, in the repository.
fn cargo(arguments: &[&str]) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    run::run(Command::new(cargo).current_dir(repo::root()?).args(arguments))
}

fn format() -> Result<()> {
    cargo(&["fmt", "--all", "--check"])?;
    cargo(&["fmt", "--manifest-path=portchurn-ebpf/Cargo.toml", "--check"])
}

fn clippy() -> Result<()> {
    let begin = ["clippy", "--quiet", "--locked", "--keep-going", "--all-targets"];
    let lint = |what: &[&str]| cargo(&[&begin, what, &["--", "-Dwarnings"]].concat());
    let all = lint(&["--workspace"]);
    // What is not `live` must build and pass without it.
    all.and(lint(&["--package=portchurn", "--no-default-features"]))
}

fn docs() -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(repo::root()?).env("RUSTDOCFLAGS", "-Dwarnings");
    run::run(command.args(["doc", "--quiet", "--locked", "--workspace", "--no-deps"]))
}

fn deny() -> Result<Done> {
    if on_path("cargo-deny").is_none() {
        println!("SKIP deny: cargo-deny is not installed (`cargo install cargo-deny --locked`)");
        return Ok(Done::Skipped);
    }
    cargo(&["deny", "--workspace", "check"]).map(|()| Done::Passed)
}
