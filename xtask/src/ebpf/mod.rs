//! `cargo xtask ebpf`: builds the kernel side, or proves that the committed object is what its source says.

mod build;
mod lock;
mod tools;

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

pub(crate) use lock::Lock;
use lock::{OBJECT, sha256};
pub(crate) use tools::{BPF_LINKER, DEBIAN_LLVM, Tools, bpf_linker};

use crate::check::Done;
use crate::repo;

/// Arguments of `cargo xtask ebpf`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Change nothing: fail when the committed object and its source differ
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let root = repo::root()?;
    if args.check { check(&root).map(drop) } else { rebuild(&root) }
}

fn rebuild(root: &Path) -> Result<()> {
    let tools = Tools::find()?;
    let built = build::build(root, &tools)?;
    let bytes = std::fs::read(&built).with_context(|| format!("read {}", built.display()))?;
    let object = root.join(OBJECT);
    std::fs::create_dir_all(object.parent().context("the object lies in a folder")?)?;
    std::fs::write(&object, &bytes).with_context(|| format!("write {OBJECT}"))?;
    Lock::describe(root, &bytes, tools.versions)?.write(root)?;
    println!("{OBJECT}: {} bytes, sha256 {}", bytes.len(), sha256(&bytes));
    Ok(())
}

/// Digests always; a rebuild where the tools are those that built the object.
pub(crate) fn check(root: &Path) -> Result<Done> {
    let lock = Lock::read(root)?;
    if let Some(path) = lock.stale_source(root)? {
        bail!(
            "{OBJECT} was not built from this source ({path} differs): run `cargo xtask ebpf`, commit the result"
        );
    }
    let committed = std::fs::read(root.join(OBJECT)).with_context(|| format!("read {OBJECT}"))?;
    ensure!(
        sha256(&committed) == lock.object_sha256,
        "{OBJECT} is not the object that its lock describes: run `cargo xtask ebpf`, or `git checkout` both"
    );
    match Tools::find() {
        Ok(tools) if tools.versions == lock.tools => compare(root, &tools, &committed).map(|()| Done::Passed),
        Ok(tools) => {
            println!("{OBJECT}: digests match; not rebuilt, since it was made by other tools");
            println!("  made by {}\n  here is {}", lock.tools, tools.versions);
            Ok(Done::Skipped)
        }
        Err(missing) => {
            println!("{OBJECT}: digests match; not rebuilt: {missing:#}");
            Ok(Done::Skipped)
        }
    }
}

fn compare(root: &Path, tools: &Tools, committed: &[u8]) -> Result<()> {
    let built = build::build(root, tools)?;
    let bytes = std::fs::read(&built).with_context(|| format!("read {}", built.display()))?;
    if bytes == committed {
        println!("{OBJECT}: rebuilt from source, equal byte for byte");
        return Ok(());
    }
    let (ours, theirs) = (build::disassembly(tools, &built)?, build::disassembly(tools, &root.join(OBJECT))?);
    let what = match theirs.lines().zip(ours.lines()).find(|(old, new)| old != new) {
        Some((old, new)) => format!("committed `{}`, built `{}`", old.trim(), new.trim()),
        None if ours != theirs => "one has more instructions".to_owned(),
        None => "same instructions, other type information or data".to_owned(),
    };
    bail!("{OBJECT} is not what its source builds ({what}): run `cargo xtask ebpf`, commit the result")
}
