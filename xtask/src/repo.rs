//! Where things are in this repository, and which files are part of it.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::run::capture;

/// The folder that holds the workspace.
pub(crate) fn root() -> Result<PathBuf> {
    let manifest = env::var_os("CARGO_MANIFEST_DIR").context("run this as `cargo xtask`")?;
    let root = Path::new(&manifest).parent().context("xtask/ lies in the repository")?.to_owned();
    ensure!(root.join("portchurn-ebpf").is_dir(), "{} is not the repository of portchurn", root.display());
    Ok(root)
}

/// Files that git knows or would add, that end in `suffix`, sorted; paths from the root. Without git, as in an
/// unpacked archive, the file system is asked.
pub(crate) fn files(root: &Path, suffix: &str) -> Result<Vec<PathBuf>> {
    let mut git = Command::new("git");
    git.current_dir(root).args(["ls-files", "--cached", "--others", "--exclude-standard"]);
    let mut files: Vec<PathBuf> = match capture(&mut git) {
        Ok(list) => list.lines().map(PathBuf::from).filter(|file| root.join(file).is_file()).collect(),
        Err(_) => files_below(root, Path::new(""))?,
    };
    files.retain(|file| file.to_string_lossy().ends_with(suffix));
    files.sort();
    files.dedup();
    Ok(files)
}

/// Every file below `folder`, build output and hidden folders left out; paths from the root, sorted.
pub(crate) fn files_below(root: &Path, folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let at = root.join(folder);
    for entry in std::fs::read_dir(&at).with_context(|| format!("list {}", at.display()))? {
        let entry = entry?;
        let path = folder.join(entry.file_name());
        if !entry.file_type()?.is_dir() {
            found.push(path);
        } else if entry.file_name() != "target" && !entry.file_name().to_string_lossy().starts_with('.') {
            found.extend(files_below(root, &path)?);
        }
    }
    found.sort();
    Ok(found)
}

/// The folder that cargo keeps its things in.
pub(crate) fn cargo_home() -> Result<PathBuf> {
    if let Some(home) = env::var_os("CARGO_HOME") {
        return Ok(home.into());
    }
    let home = env::var_os("HOME").context("neither CARGO_HOME nor HOME is set")?;
    Ok(Path::new(&home).join(".cargo"))
}
