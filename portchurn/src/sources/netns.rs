//! Network namespaces: which there are, and how to look into one. Only a helper thread ever enters one, so that the
//! rest of portchurn stays where it was started.

use std::collections::BTreeMap;
use std::fs::{File, read_dir, read_link};
use std::os::fd::AsFd as _;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::thread;

use anyhow::{Context as _, Result};
use procfs::process::FDTarget;
use rustix::fs::{fstatfs, statat};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A network namespace.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NetNamespace {
    /// Inode, as the hooks report it.
    pub inode: u32,
    /// A file by which it can be entered, as long as that process or mount exists.
    pub path: PathBuf,
    /// Name under `/run/netns`, if it has one.
    pub name: Option<String>,
    /// Processes in it, in ascending order. Empty: it is kept by its name alone.
    pub tgids: Vec<u32>,
}

/// Every network namespace that a process is in or that has a name, in the order of inodes.
///
/// Not seen: one in which there are only single threads of a process, or which only an open file keeps.
pub fn network_namespaces() -> Vec<NetNamespace> {
    network_namespaces_at(Path::new("/proc"), Path::new("/run/netns"))
}

/// The same, below other roots.
pub fn network_namespaces_at(proc_root: &Path, named_root: &Path) -> Vec<NetNamespace> {
    let mut found = BTreeMap::new();
    let mut tgids: Vec<u32> = numbered_entries(proc_root);
    tgids.sort_unstable();
    for tgid in tgids {
        let path = proc_root.join(tgid.to_string()).join("ns/net");
        if let Some(inode) = inode_of_link(&path) {
            let entry = found.entry(inode);
            entry.or_insert_with(|| empty(inode, path)).tgids.push(tgid);
        }
    }
    for entry in read_dir(named_root).into_iter().flatten().flatten() {
        let path = entry.path();
        if let Some(inode) = inode_of_mount(&path) {
            let name = entry.file_name().to_string_lossy().into_owned();
            found.entry(inode).or_insert_with(|| empty(inode, path)).name.get_or_insert(name);
        }
    }
    found.into_values().collect()
}

fn empty(inode: u32, path: PathBuf) -> NetNamespace {
    NetNamespace { inode, path, name: None, tgids: Vec::new() }
}

/// Directory entries that are numbers.
pub(super) fn numbered_entries(directory: &Path) -> Vec<u32> {
    let entries = read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// `net:[4026531833]` reads the same as the target of a file descriptor.
pub(super) fn inode_of_link(path: &Path) -> Option<u32> {
    match FDTarget::from_str(read_link(path).ok()?.to_str()?).ok()? {
        FDTarget::Net(inode) => inode.try_into().ok(),
        _ => None,
    }
}

/// A name whose mount is gone is an ordinary empty file.
fn inode_of_mount(path: &Path) -> Option<u32> {
    /// `NSFS_MAGIC` of include/uapi/linux/magic.h.
    const NSFS_MAGIC: u64 = 0x6e73_6673;
    let file = File::open(path).ok()?;
    if fstatfs(&file).ok()?.f_type as u64 != NSFS_MAGIC {
        return None;
    }
    statat(&file, "", rustix::fs::AtFlags::EMPTY_PATH).ok()?.st_ino.try_into().ok()
}

/// The network namespace of this thread, its inode number.
pub fn own_namespace() -> Option<u32> {
    inode_of_link(Path::new("/proc/thread-self/ns/net"))
}

/// Runs `look` on a thread of its own inside the network namespace of this file.
pub fn in_namespace<T: Send>(namespace: &Path, look: impl FnOnce() -> T + Send) -> Result<T> {
    let file = File::open(namespace).with_context(|| format!("open {}", namespace.display()))?;
    let enter = || {
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("enter {} (needs CAP_SYS_ADMIN)", namespace.display()))
    };
    thread::scope(|scope| {
        let builder = thread::Builder::new().name("netns".to_owned());
        let helper = builder.spawn_scoped(scope, || enter().map(|()| look())).context("start a thread")?;
        helper.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    use super::network_namespaces_at;
    use std::fs::{create_dir_all, write};
    use std::os::unix::fs::symlink;

    #[test]
    fn processes_that_share_a_namespace_are_one_entry() {
        let root = tempfile::tempdir().unwrap();
        for (tgid, target) in [(10, "net:[5]"), (9, "net:[5]"), (7, "net:[4]"), (8, "mnt:[6]")] {
            let directory = root.path().join(format!("{tgid}/ns"));
            create_dir_all(&directory).unwrap();
            symlink(target, directory.join("net")).unwrap();
        }
        create_dir_all(root.path().join("11")).unwrap();
        let named = root.path().join("netns");
        create_dir_all(&named).unwrap();
        write(named.join("left-over"), "").unwrap();
        let found = network_namespaces_at(root.path(), &named);
        let seen: Vec<_> = found.iter().map(|one| (one.inode, one.tgids.as_slice())).collect();
        assert_eq!(seen, [(4, &[7][..]), (5, &[9, 10])]);
        assert_eq!(found[1].path, root.path().join("9/ns/net"));
        assert!(found.iter().all(|one| one.name.is_none()), "a left-over file is no namespace");
    }
}
