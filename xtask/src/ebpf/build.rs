//! From source to the object that is committed: the same bytes on every machine that has the same tools.
//! No path of the machine may get in, and no instruction may depend on the processor it will run on.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::tools::Tools;
use crate::repo::cargo_home;
use crate::run::{capture, run};

/// What every build gets besides the renamed paths. Part of the source digest.
pub(crate) const FLAGS: [&str; 4] =
    ["-Clinker=bpf-linker", "-Clink-arg=--btf", "-Cdebuginfo=2", "-Ctarget-cpu=v3"];

/// aya's layout of `pt_regs`. Nothing of ours uses it; both are built, to prove just that.
const LAYOUTS: [&str; 2] = ["x86_64", "aarch64"];

/// Builds the object and returns its path.
pub(crate) fn build(root: &Path, tools: &Tools) -> Result<PathBuf> {
    let renames = renames(root, tools)?;
    let [object, other] = LAYOUTS.map(|layout| build_one(root, tools, &renames, layout));
    let (object, other) = (object?, other?);
    ensure!(
        disassembly(tools, &object)? == disassembly(tools, &other)?,
        "an instruction depends on the layout of pt_regs: use `kernel::register`, not the context's `arg` or `ret`"
    );
    refuse_machine_paths(root, &object)?;
    Ok(object)
}

fn build_one(root: &Path, tools: &Tools, renames: &[OsString], layout: &str) -> Result<PathBuf> {
    println!("build the kernel side (pt_regs of {layout})");
    let target = root.join("target/ebpf").join(layout);
    let mut flags = FLAGS.map(OsString::from).to_vec();
    flags.push(format!("--cfg=bpf_target_arch=\"{layout}\"").into());
    flags.extend_from_slice(renames);
    let mut cargo = tools.cargo()?;
    cargo
        .current_dir(root.join("portchurn-ebpf"))
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f".as_ref()));
    cargo.args([
        "build",
        "--quiet",
        "--locked",
        "--release",
        "--target=bpfel-unknown-none",
        "-Zbuild-std=core",
    ]);
    run(cargo.arg("--target-dir").arg(&target))?;
    let linked = target.join("bpfel-unknown-none/release/portchurn");
    let object = target.join("portchurn.bpf.o");
    strip(tools, &linked, &object)?;
    Ok(object)
}

/// Drops what no kernel and no loader reads, and gives local symbols names without the compiler's hash.
fn strip(tools: &Tools, linked: &Path, object: &Path) -> Result<()> {
    let names = capture(tools.llvm("llvm-nm").args(["--format=just-symbols"]).arg(linked))?;
    let renames = object.with_extension("symbols");
    std::fs::write(&renames, plain_names(&names)?).with_context(|| format!("write {}", renames.display()))?;
    let mut objcopy = tools.llvm("llvm-objcopy");
    objcopy.args(["--strip-debug", "--remove-section=.rel.BTF", "--remove-section=.rel.BTF.ext"]);
    objcopy.arg(format!("--redefine-syms={}", renames.display()));
    run(objcopy.arg(linked).arg(object))
}

/// One line for each mangled symbol: the old name, the new one.
fn plain_names(names: &str) -> Result<String> {
    let mut lines = Vec::new();
    let mut taken = Vec::new();
    for mangled in names.lines().filter(|name| name.starts_with("_R")) {
        let path = format!("{:#}", rustc_demangle::demangle(mangled));
        let name = path.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
        if taken.contains(&name) {
            bail!("two functions would both be named {name}: rename one");
        }
        lines.push(format!("{mangled} {name}\n"));
        taken.push(name);
    }
    Ok(lines.concat())
}

/// `--remap-path-prefix` for every folder that a path in the object could start with.
fn renames(root: &Path, tools: &Tools) -> Result<Vec<OsString>> {
    let rename = |from: &Path, to: &str| {
        let mut flag = OsString::from("--remap-path-prefix=");
        flag.push(from);
        flag.push("=");
        flag.push(to);
        flag
    };
    let mut flags = vec![rename(root, "/portchurn")];
    flags.extend(tools.rust_src().iter().map(|path| rename(path, "/rust")));
    for (name, folder) in dependencies(root, tools)? {
        flags.push(rename(&folder, &format!("/deps/{name}")));
    }
    Ok(flags)
}

/// Name with version, and folder, of every crate that comes from elsewhere.
fn dependencies(root: &Path, tools: &Tools) -> Result<Vec<(String, PathBuf)>> {
    let mut cargo = tools.cargo()?;
    cargo.current_dir(root.join("portchurn-ebpf")).args(["metadata", "--format-version=1", "--locked"]);
    let metadata: Value = serde_json::from_str(&capture(&mut cargo)?).context("read cargo's metadata")?;
    let packages = metadata["packages"].as_array().context("cargo's metadata has no packages")?;
    let mut found = Vec::new();
    for package in packages.iter().filter(|package| !package["source"].is_null()) {
        let text = |key: &str| package[key].as_str().with_context(|| format!("a package has no {key}"));
        let folder = Path::new(text("manifest_path")?).parent().context("a manifest lies in a folder")?;
        found.push((format!("{}-{}", text("name")?, text("version")?), folder.to_owned()));
    }
    Ok(found)
}

/// The instructions, and nothing else.
pub(crate) fn disassembly(tools: &Tools, object: &Path) -> Result<String> {
    let text = capture(tools.llvm("llvm-objdump").args(["--disassemble", "--reloc"]).arg(object))?;
    // The first lines name the file.
    Ok(text.lines().skip(3).collect::<Vec<_>>().join("\n"))
}

fn refuse_machine_paths(root: &Path, object: &Path) -> Result<()> {
    let bytes = std::fs::read(object).with_context(|| format!("read {}", object.display()))?;
    let home = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.components().count() > 1);
    let forbidden = [Some(root.to_owned()), Some(cargo_home()?), home, Some("/usr/".into())];
    for path in forbidden.iter().flatten() {
        let needle = path.as_os_str().as_encoded_bytes();
        if bytes.windows(needle.len()).any(|window| window == needle) {
            bail!("the object contains the path {}: add it to `renames`", path.display());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::plain_names;

    #[test]
    fn the_compilers_hash_leaves_no_trace_in_a_name() {
        let one = plain_names("main\n_RNvNtCs8kbW3fDUPno_9portchurn4keys10intern_new\n").unwrap();
        let two = plain_names("main\n_RNvNtCsDrAu4wQbC5_9portchurn4keys10intern_new\n").unwrap();
        let name = |lines: &str| lines.split_whitespace().last().map(str::to_owned);
        assert_eq!(name(&one).as_deref(), Some("portchurn__keys__intern_new"));
        assert_eq!(name(&one), name(&two));
    }

    #[test]
    fn names_that_would_collide_are_refused() {
        let symbol = "_RNvNtCs8kbW3fDUPno_9portchurn4keys10intern_new\n";
        assert!(plain_names(&symbol.repeat(2)).is_err());
    }
}
