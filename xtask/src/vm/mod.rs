//! `cargo xtask vm`: the tests in virtual machines, on the kernels that people have. Must not change the machine: what it
//! fetches and builds lies under `target/vm/`.

mod accelerator;
mod apt;
mod cpio;
mod cross;
mod guest;
mod image;
mod initramfs;
mod kernel;
mod layout;
mod list;
mod modules;
mod payload;
mod plan;
mod process;
mod qemu;
mod report;
mod run;
mod say;
mod selftest;
mod setup;
mod share;
mod support;
mod table;
mod verdict;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;

use self::accelerator::Choice;
use self::apt::Apt;
use self::kernel::{Arch, DEFAULT, LINES, Line};
use self::layout::Layout;

/// Run the tests in virtual machines, on the kernels that people have
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Kernel lines, as `--list` shows them
    #[arg(long, value_delimiter = ',', default_values = DEFAULT, conflicts_with = "all")]
    kernel: Vec<String>,
    /// Every kernel line
    #[arg(long)]
    all: bool,
    /// Processor of the guests
    #[arg(long, value_enum, default_value_t = Arch::X86_64)]
    arch: Arch,
    /// Root of the guests: only what the tests need, or this machine's, read-only under a layer in memory
    #[arg(long, value_enum, default_value_t = Root::Initramfs)]
    root: Root,
    /// Processors of each guest
    #[arg(long, value_name = "N", default_value_t = 1)]
    cpus: u32,
    /// Memory of each guest [default: 512M, with the host's root 1G]
    #[arg(long, value_name = "SIZE")]
    mem: Option<String>,
    /// What executes the guests
    #[arg(long, value_enum, default_value_t = Choice::Auto, env = "PORTCHURN_VM_ACCEL")]
    accel: Choice,
    /// Guests at a time
    #[arg(long, value_name = "N", default_value_t = 2)]
    jobs: usize,
    /// Longest time for one guest, in seconds
    #[arg(long = "timeout", value_name = "SECONDS", default_value_t = 3600)]
    timeout_s: u64,
    /// Longest time for one test, in seconds
    #[arg(long = "test-timeout", value_name = "SECONDS", default_value_t = 300)]
    test_timeout_s: u64,
    /// Start a shell on this terminal instead of the tests
    #[arg(long)]
    shell: bool,
    /// Fail, instead of skipping, when a kernel can't be had: any, or one of these lines
    #[arg(long, value_name = "LINES", value_delimiter = ',', num_args = 0..=1, require_equals = true, default_missing_value = ANY)]
    require: Vec<String>,
    /// Show the kernel lines, what is cached and what is missing to run them
    #[arg(long, exclusive = true)]
    list: bool,
    /// Install the programs that the guests need
    #[arg(long)]
    setup: bool,
    /// Run the file that is released, as `cargo xtask release` builds it, instead of a build for tests
    #[arg(long)]
    release: bool,
    /// Show that failing tests, panics and hangs are reported as such
    #[arg(long)]
    selftest: bool,
    /// Write docs/support.md from what the attach matrix showed in the last run of each kernel
    #[arg(long, exclusive = true)]
    table: bool,
    /// Test programs to run, by name of their file in tests/tests; NAME@LINE: on this kernel line only [default: all]
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    test: Vec<Wanted>,
    /// Filter and libtest arguments
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// `--require` without a value.
const ANY: &str = "any";

/// A test program, perhaps on one kernel line only.
#[derive(Clone, Debug)]
struct Wanted {
    name: String,
    line: Option<String>,
}

impl FromStr for Wanted {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, line) = text.split_once('@').map_or((text, None), |(name, line)| (name, Some(line)));
        line.map(kernel::find).transpose()?;
        Ok(Self { name: name.to_owned(), line: line.map(str::to_owned) })
    }
}

/// Root of a guest.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Root {
    /// The archive that the kernel starts from, and nothing else.
    Initramfs,
    /// This machine's.
    Host,
}

impl Args {
    fn has_host_root(&self) -> bool {
        self.root == Root::Host
    }

    fn memory(&self) -> &str {
        self.mem.as_deref().unwrap_or(if self.has_host_root() { "1G" } else { "512M" })
    }

    fn requires(&self, line: &str) -> bool {
        self.require.iter().any(|required| required == ANY || required == line)
    }

    /// Whether a test program is to run on this kernel line.
    fn wants(&self, test: &str, line: &str) -> bool {
        let is_it = |wanted: &Wanted| {
            wanted.name == test && wanted.line.as_deref().is_none_or(|only_on| only_on == line)
        };
        self.test.is_empty() || self.test.iter().any(is_it)
    }

    /// The test programs that cargo is to build: `*` stands for all.
    fn test_targets(&self) -> BTreeSet<&str> {
        let named: BTreeSet<_> = self.test.iter().map(|wanted| wanted.name.as_str()).collect();
        if named.is_empty() { BTreeSet::from(["*"]) } else { named }
    }

    /// That kernel lines which are named are among those that run: a slip of the finger would leave out what it names.
    fn check_names(&self) -> Result<()> {
        let lines = self.lines()?;
        let named = self.test.iter().filter_map(|wanted| wanted.line.as_deref());
        let named = named.chain(self.require.iter().map(String::as_str).filter(|line| *line != ANY));
        for line in named {
            ensure!(
                lines.iter().any(|known| known.name == line),
                "kernel {line} is not among those that run"
            );
        }
        for line in lines.iter().filter(|_| !self.test.is_empty()) {
            let has_any = self.test.iter().any(|wanted| self.wants(&wanted.name, line.name));
            ensure!(has_any, "there is no test for kernel {}", line.name);
        }
        Ok(())
    }

    fn lines(&self) -> Result<Vec<&'static Line>> {
        if self.all {
            return Ok(LINES.iter().collect());
        }
        self.kernel.iter().map(|name| kernel::find(name)).collect()
    }
}

/// Compiler and sysroot for another processor than this machine's, fetched where they are not there; `None` where the usual
/// compiler has what it takes.
pub(crate) fn foreign_std(arch: &str) -> Result<Option<(PathBuf, PathBuf)>> {
    let arch = Arch::value_variants().iter().find(|known| known.name() == arch);
    let arch = arch.context("a processor that nothing is built for")?;
    Ok(cross::toolchain(&Layout::new()?, *arch)?.own_std)
}

/// Packages of another Debian suite than this machine's, unpacked into a folder.
pub(crate) fn unpack_packages(suite: &str, packages: &[String], into: &Path) -> Result<()> {
    let apt = Apt::open(&Layout::new()?.vm, &[suite], Arch::X86_64)?;
    Apt::unpack(&apt.download(packages)?, into)
}

/// Does what the command line asks for.
pub(crate) fn run(args: &Args) -> Result<()> {
    let layout = Layout::new()?;
    if args.list {
        list::show(&layout);
        return Ok(());
    }
    if args.table {
        return support::write(&layout);
    }
    if args.setup {
        return setup::install(args.arch);
    }
    ensure!(args.cpus > 0 && args.jobs > 0, "--cpus and --jobs start at 1");
    args.check_names()?;
    setup::check(args.arch)?;
    run::run(&layout, args)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::Args;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        vm: Args,
    }

    fn parsed(text: &str) -> Args {
        Line::try_parse_from(text.split(' ')).unwrap().vm
    }

    #[test]
    fn a_test_may_be_for_one_kernel_only() {
        let args = parsed("vm --test smoke,kernel_truth@6.1");
        assert!(args.wants("smoke", "6.12") && args.wants("kernel_truth", "6.1"));
        assert!(!args.wants("kernel_truth", "6.12") && !args.wants("cli", "6.1"));
        assert!(args.test_targets().contains("kernel_truth"), "it must be built");
        let all = parsed("vm --all");
        assert!(all.wants("whatever", "5.10") && all.test_targets().iter().eq(&["*"]));
        assert!(Line::try_parse_from(["vm", "--test", "smoke@2.4"]).is_err());
    }

    #[test]
    fn some_kernels_may_be_required_and_others_not() {
        let args = parsed("vm --require=6.1,6.12 --release");
        assert!(args.requires("6.1") && args.requires("6.12") && !args.requires("5.10"));
        assert!(parsed("vm --require --release").requires("5.10"));
        assert!(
            parsed("vm --kernel 6.1,6.12 --require=6.1 --test smoke,kernel_truth@6.12").check_names().is_ok()
        );
        for wrong in ["--require=6.12", "--test smoke,cli@6.12", "--kernel 6.1,6.12 --test cli@6.12"] {
            let line = format!("vm {}{wrong}", if wrong.contains("--kernel") { "" } else { "--kernel 6.1 " });
            assert!(parsed(&line).check_names().is_err(), "{line}");
        }
        assert!(!parsed("vm --release").requires("6.1"));
    }
}
