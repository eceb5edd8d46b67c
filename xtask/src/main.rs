//! `cargo xtask`: everything about this repository that a program can do. Must not be needed to build or use portchurn.

use std::process::ExitCode;

use clap::Parser;

mod vm;

#[derive(Parser)]
enum Xtask {
    /// Runs the tests in virtual machines, on the kernels that people have.
    Vm(vm::Args),
}

fn main() -> ExitCode {
    let Xtask::Vm(args) = Xtask::parse();
    match vm::run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            vm::say::error(&format!("xtask: {error:#}"));
            ExitCode::from(2)
        }
    }
}
