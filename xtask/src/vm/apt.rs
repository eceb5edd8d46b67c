//! Debian packages by apt, which checks the signatures, in a state of our own under `target/`. Must never install, nor touch
//! the machine's apt state.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::kernel::{Arch, Line, Package, version_numbers};
use crate::apt_sources::{self, Source};

/// apt's state for one set of suites and one processor.
pub(crate) struct Apt {
    directory: PathBuf,
    arch: Arch,
}

impl Apt {
    /// Asks the mirror that this machine uses for the suites. Without any of them there is nothing to ask.
    pub(crate) fn open(vm_directory: &Path, suites: &[&str], arch: Arch) -> Result<Self> {
        let machine = apt_sources::of_machine()?;
        let own: Vec<_> = suites.iter().filter_map(|suite| apt_sources::for_suite(&machine, suite)).collect();
        ensure!(!own.is_empty(), "no Debian mirror in this machine's apt sources: add one");
        let name = format!("{}-{}", suites.first().unwrap_or(&""), arch.debian());
        let apt = Self { directory: vm_directory.join("apt").join(name), arch };
        for part in ["lists/partial", "cache/archives/partial", "packages"] {
            let path = apt.directory.join(part);
            fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        }
        let list: String = own.iter().map(Source::to_line).collect();
        fs::write(apt.directory.join("sources.list"), list).context("write sources.list")?;
        apt.run("apt-get", &["-qq", "update"]).with_context(|| {
            format!("suite {} isn't served by this machine's Debian mirror", suites.join(", "))
        })?;
        Ok(apt)
    }

    /// The image package of a line, as the mirror has it now.
    pub(crate) fn image_package(&self, line: &Line) -> Result<String> {
        let fill = |name: &str| name.replace("{arch}", self.arch.debian());
        match line.package {
            Package::Meta(name) => {
                let meta = fill(name);
                let depends = self.depends(&meta)?;
                let image = depends.into_iter().find(|package| is_image(package));
                image.with_context(|| format!("{meta} depends on no kernel image"))
            }
            Package::Newest(start, end) => {
                let end = fill(end);
                let names = self.run("apt-cache", &["pkgnames", start])?;
                let fitting = names.lines().filter(|name| name.ends_with(&end));
                let newest = fitting.max_by_key(|name| version_numbers(name)).map(str::to_owned);
                newest.with_context(|| format!("the mirror has no {start}*{end}"))
            }
        }
    }

    /// The packages that make up a kernel: since 6.19 the image package is empty, and binary, modules and configuration
    /// come in others whose names carry the same version.
    pub(crate) fn kernel_packages(&self, image: &str) -> Result<Vec<String>> {
        let version = image.trim_start_matches("linux-image-");
        let parts = self.depends(image)?;
        let parts = parts.into_iter().filter(|package| package.ends_with(version) && *package != image);
        Ok(std::iter::once(image.to_owned()).chain(parts).collect())
    }

    /// Debian's version of a package.
    pub(crate) fn version(&self, package: &str) -> Result<String> {
        let text = self.run("apt-cache", &["show", "--no-all-versions", package])?;
        let version = text.lines().find_map(|line| line.strip_prefix("Version: "));
        version.map(str::to_owned).with_context(|| format!("{package} has no version"))
    }

    /// Downloads packages and gives their files.
    pub(crate) fn download(&self, packages: &[String]) -> Result<Vec<PathBuf>> {
        let directory = self.directory.join("packages");
        let arguments = ["-qq", "download"].into_iter().chain(packages.iter().map(String::as_str));
        self.run_in(&directory, "apt-get", &arguments.collect::<Vec<_>>())?;
        let entries = fs::read_dir(&directory).with_context(|| format!("read {}", directory.display()))?;
        let files: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        let belongs = |file: &&PathBuf| {
            let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            packages.iter().any(|package| name.split('_').next() == Some(package))
        };
        let found: Vec<_> = files.iter().filter(belongs).cloned().collect();
        ensure!(found.len() >= packages.len(), "apt-get download gave {found:?} for {packages:?}");
        Ok(found)
    }

    /// Unpacks package files. Nothing of theirs is run.
    pub(crate) fn unpack(files: &[PathBuf], into: &Path) -> Result<()> {
        fs::create_dir_all(into).with_context(|| format!("create {}", into.display()))?;
        for file in files {
            let status = Command::new("dpkg-deb").arg("-x").arg(file).arg(into).status();
            let status = status.context("run dpkg-deb")?;
            ensure!(status.success(), "dpkg-deb -x {} failed: {status}", file.display());
        }
        Ok(())
    }

    fn depends(&self, package: &str) -> Result<Vec<String>> {
        let text = self.run("apt-cache", &["depends", "--no-recommends", "--no-suggests", package])?;
        Ok(parse_depends(&text))
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        self.run_in(&self.directory, program, arguments)
    }

    fn run_in(&self, directory: &Path, program: &str, arguments: &[&str]) -> Result<String> {
        let own = |part: &str| self.directory.join(part).display().to_string();
        let arch = self.arch.debian();
        let options = [
            format!("Dir::Etc::sourcelist={}", own("sources.list")),
            "Dir::Etc::sourceparts=-".to_owned(),
            format!("Dir::State::lists={}", own("lists")),
            "Dir::State::status=/dev/null".to_owned(),
            format!("Dir::Cache={}", own("cache")),
            format!("APT::Architecture={arch}"),
            format!("APT::Architectures={arch}"),
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            "APT::Sandbox::User=root".to_owned(),
            "APT::Update::Error-Mode=any".to_owned(),
            "Acquire::Retries=3".to_owned(),
        ];
        let mut command = Command::new(program);
        command.current_dir(directory).env("LC_ALL", "C");
        for option in &options {
            command.args(["-o", option]);
        }
        let output =
            command.args(arguments).output().with_context(|| format!("run {program}: is this Debian?"))?;
        let errors = String::from_utf8_lossy(&output.stderr);
        let first = errors.lines().find(|line| line.starts_with("E:")).unwrap_or_default();
        ensure!(output.status.success(), "{program} {}: {first}", arguments.join(" "));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

fn is_image(package: &str) -> bool {
    package.strip_prefix("linux-image-").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

fn parse_depends(text: &str) -> Vec<String> {
    let depends =
        text.lines().filter_map(|line| line.trim().trim_start_matches('|').strip_prefix("Depends: "));
    depends.map(|package| package.trim().to_owned()).filter(|package| !package.starts_with('<')).collect()
}

#[cfg(test)]
mod tests {
    use super::{is_image, parse_depends};

    #[test]
    fn depends_are_names_of_real_packages() {
        let text = "linux-image-7.2.12-cloud-amd64\n  Depends: linux-base-7.2.12-cloud-amd64\n |Depends: a\n  \
            Depends: <virtual>\n    b\n  Conflicts: c\n";
        assert_eq!(parse_depends(text), ["linux-base-7.2.12-cloud-amd64", "a"]);
    }

    #[test]
    fn a_meta_package_is_no_image() {
        assert!(is_image("linux-image-6.1.0-56-cloud-amd64"));
        assert!(!is_image("linux-image-cloud-amd64"));
        assert!(!is_image("linux-base-7.2.12-cloud-amd64"));
    }
}
