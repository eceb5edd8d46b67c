//! `cargo xtask`: everything that is done to this repository by machine. One module for each subcommand.
//! It must not depend on the product's crates: it builds and judges them.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the output of a developer's tool is for the terminal"
)]

mod apt_sources;
mod bench;
mod check;
mod ebpf;
mod layers;
mod needs;
mod packages;
mod protos;
mod pythons;
mod release;
mod repo;
mod run;
mod setup;
mod test;
mod tidy;
mod vm;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(bin_name = "cargo xtask", about = "What is done to this repository by machine")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install the compiler and linker of the kernel side
    Setup,
    /// Build the kernel side into portchurn/bpf/, or check what is there
    Ebpf(ebpf::Args),
    /// Check who imports whom
    Layers,
    /// Check sizes, headers and leftovers
    Tidy,
    /// Check that every hook quotes the prototype of its kernel function
    Protos,
    /// Everything that CI judges without running the product
    Check,
    /// Install what the tests need and run them all
    Test,
    /// Measure what tracing costs, in paired runs
    Bench(bench::Args),
    /// The load of `bench`, which runs it
    #[command(hide = true)]
    BenchLoad(bench::load::Args),
    /// Build one static file for each architecture
    Release(release::Args),
    /// Run the tests in virtual machines, on the kernels that people have
    Vm(vm::Args),
}

impl Task {
    fn run(self) -> Result<()> {
        match self {
            Self::Setup => setup::run(),
            Self::Ebpf(args) => ebpf::run(&args),
            Self::Layers => layers::run(),
            Self::Tidy => tidy::run(),
            Self::Protos => protos::run(),
            Self::Check => check::run(),
            Self::Test => test::run(),
            Self::Bench(args) => bench::run(&args),
            Self::BenchLoad(args) => bench::load::generate(&args),
            Self::Release(args) => release::run(&args),
            Self::Vm(args) => vm::run(&args),
        }
    }
}

fn main() -> ExitCode {
    match Cli::parse().task.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
