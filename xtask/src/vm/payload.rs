//! Builds what runs in a guest: static executables, in a target folder of their own so that their flags never disturb other
//! builds. Must not take flags from the caller's shell: a lost variable would silently give a dynamic executable.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::Args;
use super::cross;
use super::initramfs::Program;
use super::kernel::Arch;
use super::layout::Layout;
use super::say;
use crate::release;

/// Static, so that a guest's root needs nothing else.
const STATIC: &str = "-C target-feature=+crt-static";
/// The crate with the kernel tests, the programs that make known connections, and the product.
const TESTS: &str = "portchurn-tests";
const WORKLOADS: [(&str, &str); 2] =
    [("PORTCHURN_WORKLOAD", "portchurn-workload"), ("PORTCHURN_CHURN", "portchurn-churn")];
const PRODUCT: &str = "portchurn";

/// What a guest runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Payload {
    pub(crate) init: PathBuf,
    /// Executables with tests.
    pub(crate) tests: Vec<Program>,
    /// Executables that the tests use, each with the variable by which they find it.
    pub(crate) tools: Vec<(&'static str, Program)>,
}

impl Payload {
    /// The harness's own test program.
    pub(crate) fn selftest(layout: &Layout, arch: Arch) -> Result<Self> {
        let built = cargo(layout, arch, &["build", "--package", "vm-init"])?;
        let selftest = Program { name: "vm-selftest".to_owned(), path: executable(&built, "vm-selftest")? };
        Ok(Self { init: executable(&built, "vm-init")?, tests: vec![selftest], tools: Vec::new() })
    }

    /// The product and its kernel tests.
    pub(crate) fn product(layout: &Layout, args: &Args) -> Result<Self> {
        let arch = args.arch;
        // The same packages both times: with others cargo would choose other features and build everything again.
        let all = ["--package", "vm-init", "--package", TESTS, "--package", PRODUCT];
        let packages = if args.release { &all[..4] } else { &all };
        let targets: Vec<_> = args.test_targets().into_iter().flat_map(|name| ["--test", name]).collect();
        // The end of a release build keeps one processor busy for minutes.
        let (released, tools, tests) = thread::scope(|scope| {
            let released = args.release.then(|| scope.spawn(|| release::file(arch.name())));
            let tools = cargo(layout, arch, &[&["build", "--bins"], packages].concat())?;
            let tests = cargo(layout, arch, &[&["test", "--no-run"], &targets[..], packages].concat())?;
            let released = released.map(|build| build.join().ok().context("the release build panicked")?);
            anyhow::Ok((released.transpose()?, tools, tests))
        })?;
        let tests =
            tests.into_iter().filter(|built| built.is_kind("test") && built.package_id.contains(TESTS));
        let tests: Vec<_> =
            tests.filter_map(|a| Some(Program { name: a.target.name, path: a.executable? })).collect();
        // A pattern is cargo's, and no name that a guest could run.
        for name in args.test.iter().map(|wanted| &wanted.name) {
            let is_there = tests.iter().any(|test| test.name == *name);
            ensure!(is_there, "crate {TESTS} has no integration test {name}");
        }
        let tool = |variable: &'static str, name: &str| -> Result<(&'static str, Program)> {
            Ok((variable, Program { name: name.to_owned(), path: executable(&tools, name)? }))
        };
        let product = match released {
            Some(path) => ("PORTCHURN_BIN", Program { name: PRODUCT.to_owned(), path }),
            None => tool("PORTCHURN_BIN", PRODUCT)?,
        };
        let workloads = WORKLOADS.into_iter().map(|(variable, name)| tool(variable, name));
        let used = std::iter::once(Ok(product)).chain(workloads).collect::<Result<_>>()?;
        Ok(Self { init: executable(&tools, "vm-init")?, tests, tools: used })
    }

    /// Everything that has to be in the guest.
    pub(crate) fn programs(&self) -> impl Iterator<Item = &Program> {
        self.tests.iter().chain(self.tools.iter().map(|(_, program)| program))
    }
}

/// cargo's message about something that it built.
#[derive(Debug, Deserialize)]
struct Artifact {
    package_id: String,
    target: Target,
    executable: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

impl Artifact {
    fn is_kind(&self, kind: &str) -> bool {
        self.target.kind.iter().any(|own| own == kind)
    }
}

fn executable(built: &[Artifact], name: &str) -> Result<PathBuf> {
    let artifact = built.iter().find(|artifact| artifact.target.name == name && artifact.is_kind("bin"));
    artifact.and_then(|a| a.executable.clone()).with_context(|| format!("cargo built no program {name}"))
}

fn cargo(layout: &Layout, arch: Arch, arguments: &[&str]) -> Result<Vec<Artifact>> {
    let target = arch.rust_target();
    say::progress(&format!("cargo {} for {target}, static", arguments.join(" ")));
    let variable = target.replace('-', "_").to_uppercase();
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(&layout.workspace).args(arguments);
    command.args(["--target", target, "--message-format", "json-render-diagnostics"]);
    command.arg("--target-dir").arg(layout.vm.join("build"));
    command.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS").env_remove("CARGO_BUILD_RUSTFLAGS");
    let mut flags = STATIC.to_owned();
    if arch.name() != std::env::consts::ARCH {
        let toolchain = cross::toolchain(layout, arch)?;
        command.env(format!("CARGO_TARGET_{variable}_LINKER"), toolchain.linker);
        if let Some((rustc, sysroot)) = toolchain.own_std {
            flags = format!("{flags} --sysroot {}", sysroot.display());
            command.env("RUSTC", rustc);
        }
    }
    command.env(format!("CARGO_TARGET_{variable}_RUSTFLAGS"), flags);
    // Emulation is slow enough without unoptimised code; the full optimisation of a release takes longer than it saves.
    command.env("CARGO_PROFILE_DEV_OPT_LEVEL", "1");
    // With debug information all test programs together are larger than what a guest's first root may hold.
    command.env("CARGO_PROFILE_DEV_DEBUG", "none").env("CARGO_PROFILE_DEV_STRIP", "debuginfo");
    let output = command.stderr(Stdio::inherit()).output().context("run cargo")?;
    ensure!(output.status.success(), "cargo {} failed: see above", arguments.join(" "));
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}
