//! Which processes hold a socket, from one walk over every `/proc/PID/fd`. For sockets from before the attach; it must
//! not be called for every sample: the walk reads one link per open file of the host.

use std::collections::HashMap;
use std::fs::{File, read_dir};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::str::{FromStr as _, from_utf8};

use procfs::process::FDTarget;
use rustix::fs::readlinkat_raw;

use crate::sources::netns::numbered_entries;

/// Who holds which socket.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct SocketOwners {
    /// Processes by the inode of the socket, in ascending order; several share an inherited one.
    pub by_inode: HashMap<u64, Vec<u32>>,
    /// Processes that could not be looked into, for want of permission.
    pub unreadable: u64,
}

/// Walks the processes below `proc_root`.
pub(super) fn socket_owners_at(proc_root: &Path) -> SocketOwners {
    let mut owners = SocketOwners::default();
    let mut tgids = numbered_entries(proc_root);
    tgids.sort_unstable();
    for tgid in tgids {
        match files_of(proc_root, tgid, &mut owners.by_inode) {
            // A process that ended meanwhile holds nothing.
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => owners.unreadable += 1,
            Err(_) => {}
        }
    }
    owners
}

fn files_of(proc_root: &Path, tgid: u32, by_inode: &mut HashMap<u64, Vec<u32>>) -> std::io::Result<()> {
    let path = proc_root.join(tgid.to_string()).join("fd");
    let directory = File::open(&path)?;
    // `socket:[4294967295]` fits; what is longer is a path, and no socket.
    let mut link = [std::mem::MaybeUninit::uninit(); 32];
    for entry in read_dir(&path)? {
        let Ok((target, _)) = readlinkat_raw(directory.as_fd(), entry?.file_name(), &mut link) else {
            continue;
        };
        if !target.starts_with(b"socket:") {
            continue;
        }
        if let Some(FDTarget::Socket(inode)) = from_utf8(target).ok().and_then(|t| FDTarget::from_str(t).ok())
        {
            let tgids = by_inode.entry(inode).or_default();
            if tgids.last() != Some(&tgid) {
                tgids.push(tgid);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::socket_owners_at;
    use std::fs::create_dir_all;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    #[test]
    fn a_shared_socket_has_every_holder_once() {
        let root = tempfile::tempdir().unwrap();
        let link = |tgid: u32, fd: u32, target: &str| {
            let directory = root.path().join(format!("{tgid}/fd"));
            create_dir_all(&directory).unwrap();
            symlink(target, directory.join(fd.to_string())).unwrap();
        };
        link(9, 3, "socket:[77]");
        link(9, 4, "socket:[77]");
        link(11, 3, "socket:[77]");
        link(11, 0, "/dev/null");
        link(11, 1, "pipe:[5]");
        link(11, 2, "/a/path/that/is/longer/than/any/socket/could/be");
        create_dir_all(root.path().join("self")).unwrap();
        create_dir_all(root.path().join("12")).unwrap();
        let owners = socket_owners_at(root.path());
        assert_eq!(owners.by_inode.len(), 1);
        assert_eq!(owners.by_inode[&77], [9, 11]);
        assert_eq!(owners.unreadable, 0, "12 has ended");
    }

    #[test]
    fn our_own_socket_is_ours() {
        use std::os::unix::fs::MetadataExt as _;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let file = std::fs::File::from(std::os::fd::OwnedFd::from(listener));
        let owners = socket_owners_at(Path::new("/proc"));
        let tgids = owners.by_inode.get(&file.metadata().unwrap().ino()).expect("the listener has an owner");
        assert!(tgids.contains(&std::process::id()));
    }
}
