//! The table of kernel lines and where Debian has them. Names of exact packages must not stand here: point releases vanish
//! from the mirror when new ones come.

use anyhow::{Context as _, Result};
use clap::ValueEnum;

/// Processor of a guest.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Arch {
    /// 64-bit x86.
    #[value(name = "x86_64")]
    X86_64,
    /// 64-bit ARM.
    #[value(name = "aarch64")]
    Aarch64,
}

impl Arch {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// Debian's word.
    pub(crate) const fn debian(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    /// Target of static executables.
    pub(crate) const fn rust_target(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64-unknown-linux-gnu",
            Self::Aarch64 => "aarch64-unknown-linux-gnu",
        }
    }

    /// Program and the Debian package that has it.
    pub(crate) const fn qemu(self) -> (&'static str, &'static str) {
        match self {
            Self::X86_64 => ("qemu-system-x86_64", "qemu-system-x86"),
            Self::Aarch64 => ("qemu-system-aarch64", "qemu-system-arm"),
        }
    }
}

/// How to find the package of a line. `{arch}` stands for Debian's word for the processor.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Package {
    /// This meta-package depends on it.
    Meta(&'static str),
    /// No meta-package: the highest version among names with this start and end.
    Newest(&'static str, &'static str),
}

/// A kernel line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line {
    pub(crate) name: &'static str,
    /// Debian suites that are asked for it.
    pub(crate) suites: &'static [&'static str],
    pub(crate) package: Package,
}

const CLOUD: &str = "linux-image-cloud-{arch}";
const BOOKWORM: &[&str] = &["bookworm", "bookworm-security"];
const BACKPORTS: &[&str] = &["trixie-backports"];

/// Every line. Cloud kernels: they are half the size and start faster.
pub(crate) const LINES: &[Line] = &[
    Line { name: "5.10", suites: &["bullseye"], package: Package::Meta(CLOUD) },
    Line { name: "6.1", suites: BOOKWORM, package: Package::Meta(CLOUD) },
    Line { name: "6.12", suites: BOOKWORM, package: Package::Meta("linux-image-6.12-cloud-{arch}") },
    Line { name: "6.18", suites: BACKPORTS, package: Package::Newest("linux-image-6.18.", "-cloud-{arch}") },
    Line { name: "latest", suites: BACKPORTS, package: Package::Meta(CLOUD) },
];

/// The lines that every change must pass: old stable and its newest.
pub(crate) const DEFAULT: [&str; 2] = ["6.1", "6.12"];

/// The line of that name.
pub(crate) fn find(name: &str) -> Result<&'static Line> {
    LINES.iter().find(|line| line.name == name).with_context(|| {
        let have: Vec<_> = LINES.iter().map(|line| line.name).collect();
        format!("kernel {name} isn't in any Debian suite known to xtask (have: {})", have.join(" "))
    })
}

/// The numbers in a package name, for comparison: 6.18.15 is newer than 6.18.9.
pub(crate) fn version_numbers(package: &str) -> Vec<u64> {
    package.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::{DEFAULT, LINES, find, version_numbers};

    #[test]
    fn names_are_unique_and_the_default_exists() {
        for (index, line) in LINES.iter().enumerate() {
            assert!(LINES[..index].iter().all(|other| other.name != line.name), "{}", line.name);
        }
        assert!(DEFAULT.iter().all(|name| find(name).is_ok()));
    }

    #[test]
    fn an_unknown_line_is_refused_with_those_that_exist() {
        let error = find("5.15").unwrap_err().to_string();
        assert!(error.contains("5.15") && error.contains("5.10 6.1 6.12 6.18 latest"), "{error}");
    }

    #[test]
    fn versions_compare_as_numbers() {
        let number = |version: &str| version_numbers(&format!("linux-image-{version}+deb13-cloud-amd64"));
        assert!(number("6.18.15") > number("6.18.9"));
        assert!(number("6.18.9") > number("6.17.13"));
    }
}
