//! A made-up `/proc` for what must not be mixed up, and the real one for whether we read it right. Nothing else.

use std::fs::{create_dir_all, write};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::{Presence, Procfs, is_same_process, tick_ns};
use crate::model::sample::{Process, ProcessId};

const START_TICKS: u64 = 4711;

struct Tree(TempDir);

impl Tree {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn process(&self, tgid: u32, comm: &str, state: char, threads: u32) -> &Self {
        let directory = self.0.path().join(tgid.to_string());
        create_dir_all(&directory).unwrap();
        let tail = "0 0 0 17 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0";
        let stat = format!(
            "{tgid} ({comm}) {state} 1 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 {threads} 0 {START_TICKS} {tail}\n"
        );
        write(directory.join("stat"), stat).unwrap();
        self
    }

    fn file(&self, tgid: u32, name: &str, content: &[u8]) -> &Self {
        write(self.0.path().join(format!("{tgid}/{name}")), content).unwrap();
        self
    }

    fn exe(&self, tgid: u32, target: &str) -> &Self {
        symlink(target, self.0.path().join(format!("{tgid}/exe"))).unwrap();
        self
    }

    fn procfs(&self) -> Procfs {
        Procfs::at(self.0.path(), self.0.path().join("cgroup"))
    }
}

fn recorded(tgid: u32, start_ns: u64) -> Process {
    Process { id: ProcessId { tgid, start_ns }, ..Process::default() }
}

fn nginx() -> Tree {
    let tree = Tree::new();
    tree.process(1, "systemd", 'S', 1).process(40, "nginx", 'S', 1);
    tree.exe(40, "/usr/sbin/nginx").file(40, "cmdline", b"nginx\0-c\0/etc/\xff.conf\0\0x\0");
    tree.file(40, "cgroup", b"0::/system.slice/nginx.service\n");
    tree
}

#[test]
fn everything_missing_is_filled() {
    let mut process = recorded(40, START_TICKS * tick_ns() + 5);
    assert_eq!(nginx().procfs().enrich(&mut process), Presence::Same { exe_deleted: false });
    assert_eq!(process.comm, "nginx");
    assert_eq!(process.exe.as_deref(), Some("/usr/sbin/nginx"));
    assert_eq!(process.argv, ["nginx", "-c", "/etc/\u{fffd}.conf", "", "x"]);
    assert_eq!(process.parent_tgid, Some(1));
    assert_eq!(process.parent_comm.as_deref(), Some("systemd"));
    assert_eq!(process.cgroup.as_deref(), Some("/system.slice/nginx.service"));
    assert_eq!(process.unit.as_deref(), Some("nginx.service"));
    assert_eq!(process.container, None);
}

#[test]
fn what_the_kernel_recorded_stays() {
    let mut process = Process {
        comm: "old".to_owned(),
        exe: Some("nginx".to_owned()),
        argv: vec!["kept".to_owned()],
        parent_tgid: Some(7),
        cgroup: Some("/docker".to_owned()),
        ..recorded(40, 0)
    };
    assert_eq!(nginx().procfs().enrich(&mut process), Presence::Same { exe_deleted: false });
    assert_eq!((process.comm.as_str(), process.parent_tgid), ("old", Some(7)));
    assert_eq!(process.exe.as_deref(), Some("/usr/sbin/nginx"), "the name becomes a path");
    assert_eq!(process.argv, ["kept"]);
    assert_eq!((process.parent_comm, process.unit), (None, None), "7 is gone; that cgroup is no unit");
}

#[test]
fn a_truncated_command_line_is_completed() {
    let argv = vec!["nginx".to_owned(), "-".to_owned()];
    let mut process = Process { argv, argv_truncated: true, ..recorded(40, 0) };
    nginx().procfs().enrich(&mut process);
    assert_eq!((process.argv.len(), process.argv_truncated), (5, false));
}

#[test]
fn a_copy_of_the_parent_that_has_ended_has_its_arguments() {
    let child = |exe: &str| Process {
        parent_tgid: Some(40),
        exe: Some(exe.to_owned()),
        argv_truncated: true,
        ..recorded(41, 0)
    };
    let length = b"nginx\0-c\0/etc/\xff.conf\0\0x\0".len() as u32;
    let inherited = |exe: &str, argv_bytes: u32| {
        let mut process = child(exe);
        nginx().procfs().inherit_argv(&mut process, argv_bytes);
        (process.argv.len(), process.argv_truncated)
    };
    assert_eq!(inherited("nginx", length), (5, false));
    assert_eq!(inherited("nginx", length + 1), (0, true), "other arguments");
    assert_eq!(inherited("sh", length), (0, true), "another program");
}

#[test]
fn after_an_exec_the_old_program_keeps_its_own_words() {
    let recorded = Process { exe: Some("sh".to_owned()), argv: vec!["sh".to_owned()], ..recorded(40, 0) };
    let mut process = recorded.clone();
    nginx().procfs().enrich(&mut process);
    assert_eq!((process.exe, process.argv), (recorded.exe, recorded.argv));
}

#[test]
fn a_reused_number_is_another_process() {
    for (off_ns, expected) in [
        (-(tick_ns() as i64), Presence::Same { exe_deleted: false }),
        (tick_ns() as i64, Presence::Same { exe_deleted: false }),
        (3 * tick_ns() as i64, Presence::Replaced),
        (-3 * (tick_ns() as i64), Presence::Replaced),
    ] {
        let start_ns = (START_TICKS * tick_ns()).checked_add_signed(off_ns).unwrap();
        let mut process = recorded(40, start_ns);
        assert_eq!(nginx().procfs().enrich(&mut process), expected, "{off_ns}");
        assert_eq!(process.comm.is_empty(), expected == Presence::Replaced);
        assert_eq!(nginx().procfs().is_alive(process.id), expected != Presence::Replaced);
    }
    assert_eq!(nginx().procfs().enrich(&mut recorded(41, 0)), Presence::Gone);
}

#[test]
fn a_process_that_is_gone_is_located_by_its_cgroup() {
    use std::os::unix::fs::MetadataExt as _;
    let tree = Tree::new();
    let directory = tree.0.path().join("cgroup/system.slice/cron.service");
    create_dir_all(&directory).unwrap();
    let id = std::fs::metadata(&directory).unwrap().ino();
    let mut process = recorded(40, 0);
    let mut procfs = tree.procfs();
    assert_eq!(procfs.enrich(&mut process), Presence::Gone);
    procfs.locate(&mut process, id);
    assert_eq!(process.cgroup.as_deref(), Some("/system.slice/cron.service"));
    assert_eq!(process.unit.as_deref(), Some("cron.service"));
    let mut nowhere = recorded(41, 0);
    procfs.locate(&mut nowhere, std::fs::metadata(tree.0.path().join("cgroup")).unwrap().ino());
    assert_eq!(nowhere.cgroup, None, "the root tells nothing");
}

#[test]
fn an_upgraded_executable_keeps_its_path() {
    let tree = Tree::new();
    tree.process(40, "nginx", 'S', 1).exe(40, "/usr/sbin/nginx (deleted)");
    let mut process = recorded(40, 0);
    assert_eq!(tree.procfs().enrich(&mut process), Presence::Same { exe_deleted: true });
    assert_eq!(process.exe.as_deref(), Some("/usr/sbin/nginx"));
}

#[test]
fn odd_names_are_read_whole() {
    let tree = Tree::new();
    tree.process(40, "a) S (b", 'S', 1);
    assert_eq!(tree.procfs().identity(40).unwrap().comm, "a) S (b");
    assert_eq!(tree.procfs().identity(40).unwrap().exe, None, "a kernel thread has none");
}

#[test]
fn a_very_long_command_line_says_that_it_is_cut() {
    let tree = nginx();
    tree.file(40, "cmdline", &[b'x'; 40_000]);
    let process = tree.procfs().identity(40).unwrap();
    assert!(process.argv_truncated);
    assert_eq!(process.argv[0].len(), 16 << 10);
}

#[test]
fn the_dead_are_not_alive() {
    let tree = Tree::new();
    tree.process(2, "zombie", 'Z', 1).process(3, "leaderless", 'Z', 4).process(4, "idle", 'S', 1);
    let alive = |tgid| tree.procfs().is_alive(ProcessId { tgid, start_ns: 0 });
    assert_eq!([alive(2), alive(3), alive(4), alive(5)], [false, true, true, false]);
}

#[test]
fn cut_and_exact_starts_name_one_process() {
    let id = |tgid, start_ns| ProcessId { tgid, start_ns };
    let exact = START_TICKS * tick_ns() + tick_ns() / 2;
    assert!(is_same_process(id(4, exact), id(4, START_TICKS * tick_ns())));
    assert!(is_same_process(id(4, 0), id(4, exact)));
    assert!(!is_same_process(id(4, exact), id(5, exact)));
    assert!(!is_same_process(id(4, exact), id(4, exact + 3 * tick_ns())));
}

struct Sleeper(Child);

impl Sleeper {
    fn start() -> Self {
        let mut command = Command::new("sleep");
        command.arg0("a title").arg("600").stdin(Stdio::null());
        Self(command.spawn().unwrap())
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn a_real_child_is_known_from_its_start_to_its_end() {
    let procfs = Procfs::default();
    let child = Sleeper::start();
    // The kernel lets the parent go on a moment before the arguments of the child are in place.
    let process = loop {
        let process = procfs.identity(child.0.id()).unwrap();
        if !process.argv.is_empty() {
            break process;
        }
    };
    assert_eq!(process.argv, ["a title", "600"]);
    let path = std::fs::read_link(format!("/proc/{}/exe", child.0.id())).unwrap();
    assert_eq!(process.exe.as_deref(), path.to_str());
    assert_eq!(process.parent_tgid, Some(std::process::id()));
    assert_eq!(process.uid, Some(rustix::process::getuid().as_raw()));
    assert!(process.cgroup.is_some());
    assert!(procfs.is_alive(process.id));
    drop(child);
    assert!(!procfs.is_alive(process.id));
}
