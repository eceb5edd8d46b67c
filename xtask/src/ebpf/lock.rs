//! `portchurn.bpf.lock`: from which sources, with which tools, which object. The object is committed, so that users
//! need no BPF toolchain; this file lets everybody prove that it is what the source says.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::build::FLAGS;
use super::tools::Versions;
use crate::repo::files_below;

/// The committed object.
pub(crate) const OBJECT: &str = "portchurn/bpf/portchurn.bpf.o";
const LOCK: &str = "portchurn/bpf/portchurn.bpf.lock";

const MANIFESTS: [&str; 3] =
    ["portchurn-common/Cargo.toml", "portchurn-ebpf/Cargo.lock", "portchurn-ebpf/Cargo.toml"];
const SOURCES: [&str; 2] = ["portchurn-common/src", "portchurn-ebpf/src"];

/// The content of the lock file.
#[derive(Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Lock {
    pub(crate) object_sha256: String,
    pub(crate) tools: Versions,
    /// Every file that the object is made of, and the compiler's flags.
    pub(crate) sources_sha256: BTreeMap<String, String>,
}

impl Lock {
    /// What the lock file must say about `object`.
    pub(crate) fn describe(root: &Path, object: &[u8], tools: Versions) -> Result<Self> {
        Ok(Self { object_sha256: sha256(object), tools, sources_sha256: sources(root)? })
    }

    pub(crate) fn read(root: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(root.join(LOCK))
            .with_context(|| format!("read {LOCK}; `cargo xtask ebpf` writes it"))?;
        serde_json::from_str(&text)
            .with_context(|| format!("parse {LOCK}; `cargo xtask ebpf` writes it anew"))
    }

    pub(crate) fn write(&self, root: &Path) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        std::fs::write(root.join(LOCK), text).with_context(|| format!("write {LOCK}"))
    }

    /// The first source that is not what it was when the object was built.
    pub(crate) fn stale_source(&self, root: &Path) -> Result<Option<String>> {
        let now = sources(root)?;
        let changed = now.iter().find(|(path, digest)| self.sources_sha256.get(*path) != Some(digest));
        let gone = self.sources_sha256.keys().find(|path| !now.contains_key(*path));
        Ok(changed.map(|(path, _)| path).or(gone).cloned())
    }
}

/// Digest in hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn sources(root: &Path) -> Result<BTreeMap<String, String>> {
    let mut paths: Vec<PathBuf> = MANIFESTS.iter().map(PathBuf::from).collect();
    for folder in SOURCES {
        paths.extend(files_below(root, Path::new(folder))?);
    }
    let mut digests = BTreeMap::from([("compiler flags".to_owned(), sha256(FLAGS.join(" ").as_bytes()))]);
    for path in paths {
        let bytes = std::fs::read(root.join(&path)).with_context(|| format!("read {}", path.display()))?;
        digests.insert(path.to_string_lossy().into_owned(), sha256(&bytes));
    }
    Ok(digests)
}
