//! Which kernel modules go into a guest, and in which order: what is wanted, and what that needs by its own `.modinfo`, as
//! Debian ships no `modules.dep`. Must not load anything, and must not ask the machine's own kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use object::{Object as _, ObjectSection as _};

/// Always: `sock_diag` for TCP, and a network in a namespace.
pub(crate) const ALWAYS: &[Wanted] =
    &[needs("inet_diag"), needs("tcp_diag"), likes("mptcp_diag"), likes("veth")];
/// For the host's root as the guest's.
pub(crate) const HOST_ROOT: &[Wanted] = &[needs("virtio_pci"), needs("virtiofs"), needs("overlay")];

/// One module that is wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    name: &'static str,
    required: bool,
}

const fn needs(name: &'static str) -> Wanted {
    Wanted { name, required: true }
}

const fn likes(name: &'static str) -> Wanted {
    Wanted { name, required: false }
}

/// A module as it goes into the guest: file name and content, not compressed.
pub(crate) type Module = (String, Vec<u8>);

/// The wanted modules and what they need, in load order, without what is built in.
pub(crate) fn resolve(modules: &Path, wanted: &[Wanted]) -> Result<Vec<Module>> {
    let builtin_path = modules.join("modules.builtin");
    let builtin =
        fs::read_to_string(&builtin_path).with_context(|| format!("read {}", builtin_path.display()))?;
    let builtin: BTreeSet<_> = builtin.lines().map(|line| module_name(Path::new(line))).collect();
    let mut files = BTreeMap::new();
    index(&modules.join("kernel"), &mut files)?;
    let mut set = Resolved { builtin, files, done: BTreeSet::new(), modules: Vec::new() };
    for module in wanted {
        if let Err(error) = set.add(module.name)
            && module.required
        {
            return Err(error);
        }
    }
    Ok(set.modules)
}

struct Resolved {
    builtin: BTreeSet<String>,
    files: BTreeMap<String, PathBuf>,
    done: BTreeSet<String>,
    modules: Vec<Module>,
}

impl Resolved {
    fn add(&mut self, name: &str) -> Result<()> {
        let name = name.replace('-', "_");
        if self.builtin.contains(&name) || !self.done.insert(name.clone()) {
            return Ok(());
        }
        let path =
            self.files.get(&name).with_context(|| format!("this kernel has no module {name}"))?.clone();
        let content = read(&path)?;
        let info = modinfo(&content).with_context(|| format!("read .modinfo of {}", path.display()))?;
        for needed in depends(&info) {
            self.add(needed).with_context(|| format!("needed by {name}"))?;
        }
        self.modules.push((format!("{name}.ko"), content));
        Ok(())
    }
}

fn index(directory: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    let entries = fs::read_dir(directory).with_context(|| format!("read {}", directory.display()))?;
    for entry in entries {
        let path = entry.with_context(|| format!("read {}", directory.display()))?.path();
        if path.is_dir() {
            index(&path, files)?;
        } else if path.to_string_lossy().contains(".ko") {
            files.insert(module_name(&path), path);
        }
    }
    Ok(())
}

/// `kernel/net/ipv4/tcp-diag.ko.xz` is `tcp_diag`.
fn module_name(path: &Path) -> String {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    file.split('.').next().unwrap_or_default().replace('-', "_")
}

/// Decompressed here, as the kernel's own decompression is optional.
fn read(path: &Path) -> Result<Vec<u8>> {
    let raw = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("ko") => Ok(raw),
        Some("xz") => {
            let mut content = Vec::new();
            lzma_rs::xz_decompress(&mut Cursor::new(raw), &mut content)
                .map_err(|error| anyhow::anyhow!("{error:?}"))
                .with_context(|| format!("decompress {}", path.display()))?;
            Ok(content)
        }
        _ => bail!("{}: neither .ko nor .ko.xz", path.display()),
    }
}

/// The section's text: `key=value` with a zero byte after each.
fn modinfo(content: &[u8]) -> Result<Vec<u8>> {
    let file = object::File::parse(content).context("parse ELF")?;
    let section = file.section_by_name(".modinfo").context("no .modinfo")?;
    Ok(section.data().context("read the section")?.to_vec())
}

fn depends(info: &[u8]) -> Vec<&str> {
    let entries = info.split(|byte| *byte == 0).filter_map(|entry| std::str::from_utf8(entry).ok());
    let lists = entries.filter_map(|entry| entry.strip_prefix("depends="));
    lists.flat_map(|list| list.split(',')).filter(|name| !name.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{depends, module_name};

    #[test]
    fn depends_of_modinfo_are_names() {
        assert_eq!(depends(b"license=GPL\0depends=inet_diag,tcp\0\0name=x\0"), ["inet_diag", "tcp"]);
        assert!(depends(b"license=GPL\0depends=\0name=x\0").is_empty());
    }

    #[test]
    fn a_module_has_one_name_whatever_its_file_is_called() {
        for path in ["kernel/net/tcp-diag.ko.xz", "tcp_diag.ko", "a/tcp_diag.ko.zst"] {
            assert_eq!(module_name(Path::new(path)), "tcp_diag");
        }
    }
}
