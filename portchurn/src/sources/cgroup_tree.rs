//! From the id of a v2 cgroup to its path, for processes that ended before `/proc` could be asked. It must not walk
//! the tree for every unknown id: jobs that make a cgroup each would cost a walk each.

use std::collections::HashMap;
use std::fs::{metadata, read_dir};
use std::os::unix::fs::{DirEntryExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Cgroups of one walk, and cgroups that are remembered.
const MAX_CGROUPS: usize = 1 << 16;
/// Not walked again before this has passed; who asks in between is told nothing, and may ask again.
const WALK_EVERY: Duration = Duration::from_secs(2);

/// The v2 tree, as far as it was seen. Remembers cgroups that are gone: their id is never used again.
#[derive(Debug)]
pub struct CgroupTree {
    root: PathBuf,
    /// `None`: was not there when the whole tree was looked at, so it is gone for good.
    paths: HashMap<u64, Option<String>>,
    walked: Option<Instant>,
}

impl Default for CgroupTree {
    fn default() -> Self {
        Self::at(Path::new("/sys/fs/cgroup"))
    }
}

impl CgroupTree {
    /// The tree below this mount; on a hybrid host its `unified` directory.
    pub fn at(mount: &Path) -> Self {
        let hybrid = mount.join("unified");
        let root = if hybrid.join("cgroup.procs").exists() { hybrid } else { mount.to_owned() };
        Self { root, paths: HashMap::new(), walked: None }
    }

    /// Path of the cgroup with this id (the inode of its directory), in the form of `/proc/PID/cgroup`.
    pub fn path_of(&mut self, id: u64) -> Option<&str> {
        if !self.paths.contains_key(&id) && self.walked.is_none_or(|at| at.elapsed() >= WALK_EVERY) {
            let is_whole = self.walk();
            self.walked = Some(Instant::now());
            if is_whole {
                self.paths.entry(id).or_insert(None);
            }
        }
        self.paths.get(&id)?.as_deref()
    }

    /// Learns every cgroup that exists; false if that was too much.
    fn walk(&mut self) -> bool {
        if self.paths.len() >= MAX_CGROUPS {
            self.paths.clear();
        }
        if let Ok(root) = metadata(&self.root) {
            self.paths.insert(root.ino(), Some("/".to_owned()));
        }
        let mut waiting = vec![self.root.clone()];
        let mut seen = 0;
        while let Some(directory) = waiting.pop() {
            for entry in read_dir(directory).into_iter().flatten().flatten() {
                if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    continue;
                }
                seen += 1;
                if seen > MAX_CGROUPS {
                    return false;
                }
                let path = entry.path();
                self.learn(entry.ino(), &path);
                waiting.push(path);
            }
        }
        true
    }

    fn learn(&mut self, id: u64, path: &Path) {
        if !matches!(self.paths.get(&id), Some(Some(_))) {
            let below = path.strip_prefix(&self.root).unwrap_or(path);
            self.paths.insert(id, Some(format!("/{}", below.to_string_lossy())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::CgroupTree;
    use std::fs::{create_dir_all, metadata, remove_dir, write};
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn ids_become_paths_and_are_kept() {
        let mount = tempfile::tempdir().unwrap();
        let service = mount.path().join("system.slice/nginx.service");
        create_dir_all(&service).unwrap();
        let id = metadata(&service).unwrap().ino();
        let mut tree = CgroupTree::at(mount.path());
        assert_eq!(tree.path_of(id), Some("/system.slice/nginx.service"));
        remove_dir(&service).unwrap();
        assert_eq!(tree.path_of(id), Some("/system.slice/nginx.service"), "kept after its end");
        assert_eq!(tree.path_of(metadata(mount.path()).unwrap().ino()), Some("/"));
        assert_eq!(tree.path_of(u64::MAX), None);
    }

    #[test]
    fn an_id_that_was_missed_in_a_whole_walk_is_gone_for_good() {
        let mount = tempfile::tempdir().unwrap();
        let mut tree = CgroupTree::at(mount.path());
        assert_eq!(tree.path_of(u64::MAX), None);
        assert_eq!(tree.paths.get(&u64::MAX), Some(&None));
        let late = mount.path().join("late");
        create_dir_all(&late).unwrap();
        let id = metadata(&late).unwrap().ino();
        assert_eq!(tree.path_of(id), None, "no walk so soon");
        assert!(!tree.paths.contains_key(&id), "and nothing is concluded from that");
        tree.walked = None;
        assert_eq!(tree.path_of(id), Some("/late"));
    }

    #[test]
    fn a_hybrid_host_keeps_its_v2_tree_one_level_down() {
        let mount = tempfile::tempdir().unwrap();
        let scope = mount.path().join("unified/init.scope");
        create_dir_all(&scope).unwrap();
        write(mount.path().join("unified/cgroup.procs"), "").unwrap();
        let mut tree = CgroupTree::at(mount.path());
        assert_eq!(tree.path_of(metadata(&scope).unwrap().ino()), Some("/init.scope"));
    }
}
