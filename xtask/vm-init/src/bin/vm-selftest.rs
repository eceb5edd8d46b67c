//! The harness's own test program: speaks as much of libtest's command line as the first process uses, checks that a
//! guest has what the real tests need, and misbehaves on request. Must not need anything but a guest.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;
use std::{env, process, thread};

type Check = fn() -> Result<(), String>;

/// Tests of the guest.
const CHECKS: [(&str, Check); 7] = [
    ("kernel_file_systems_are_mounted", mounts),
    ("tcp_over_loopback_works", loopback),
    ("tcp_over_ipv6_loopback_works", loopback_v6),
    ("sock_diag_answers", sock_diag),
    ("the_state_tracepoint_exists", tracepoint),
    ("type_information_is_there", btf),
    ("tmp_can_be_written_to", scratch),
];

/// Tests of the harness: listed only when named in full.
const MISBEHAVIOURS: [(&str, Check); 7] = [
    ("says_skip", || print("SKIP: on request")),
    ("fails", || Err("on request".to_owned())),
    ("hangs", || nap()),
    ("dies_of_a_signal", || process::abort()),
    ("leaves_a_child_behind", leave_a_child),
    ("panics_the_kernel", panic_the_kernel),
    ("freezes_the_guest", freeze),
];

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let named = |name: &str| arguments.iter().any(|argument| argument == name);
    let filters: Vec<_> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    if named("--list") {
        let wanted =
            |name: &str| filters.iter().all(|f| *f == "terse") || filters.iter().any(|f| name.contains(*f));
        let checks = CHECKS.iter().filter(|(name, _)| wanted(name));
        for (name, _) in checks.chain(MISBEHAVIOURS.iter().filter(|(name, _)| named(name))) {
            let _ = print(&format!("{name}: test"));
        }
        return;
    }
    let Some((_, check)) = CHECKS.iter().chain(&MISBEHAVIOURS).find(|(name, _)| named(name)) else {
        let _ = print("vm-selftest: no such test");
        process::exit(2);
    };
    if let Err(reason) = check() {
        let _ = print(&format!("FAILED: {reason}"));
        process::exit(101);
    }
}

fn print(text: &str) -> Result<(), String> {
    writeln!(io::stdout(), "{text}").map_err(|error| error.to_string())
}

fn mounts() -> Result<(), String> {
    let mounts = fs::read_to_string("/proc/mounts").map_err(|error| error.to_string())?;
    for target in ["/proc", "/sys", "/dev", "/sys/kernel/tracing", "/sys/fs/bpf", "/sys/fs/cgroup"] {
        if !mounts.lines().any(|line| line.split(' ').nth(1) == Some(target)) {
            return Err(format!("{target} is not mounted"));
        }
    }
    Ok(())
}

fn loopback() -> Result<(), String> {
    connect_to("127.0.0.1:0")
}

fn loopback_v6() -> Result<(), String> {
    connect_to("[::1]:0")
}

fn connect_to(address: &str) -> Result<(), String> {
    let listener = TcpListener::bind(address).map_err(|error| format!("bind {address}: {error}"))?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    for _ in 0..100 {
        let client = TcpStream::connect(address).map_err(|error| format!("connect: {error}"))?;
        let (server, _) = listener.accept().map_err(|error| format!("accept: {error}"))?;
        drop((client, server));
    }
    Ok(())
}

/// The module is there when the kernel knows the netlink family's TCP handler; asking for it would load it elsewhere.
fn sock_diag() -> Result<(), String> {
    let built_in_or_loaded = |module: &str| Path::new("/sys/module").join(module).exists();
    let missing: Vec<_> =
        ["inet_diag", "tcp_diag"].into_iter().filter(|module| !built_in_or_loaded(module)).collect();
    if missing.is_empty() { Ok(()) } else { Err(format!("not loaded: {}", missing.join(", "))) }
}

fn tracepoint() -> Result<(), String> {
    let path = "/sys/kernel/tracing/events/sock/inet_sock_set_state/format";
    fs::read_to_string(path).map(drop).map_err(|error| format!("{path}: {error}"))
}

fn btf() -> Result<(), String> {
    if Path::new("/sys/kernel/btf/vmlinux").exists() { Ok(()) } else { print("SKIP: this kernel has no BTF") }
}

fn scratch() -> Result<(), String> {
    let path = Path::new("/tmp").join(format!("vm-selftest-{}", process::id()));
    fs::write(&path, "x").map_err(|error| error.to_string())?;
    fs::remove_file(&path).map_err(|error| error.to_string())
}

fn nap() -> Result<(), String> {
    loop {
        thread::sleep(Duration::from_secs(1));
    }
}

fn leave_a_child() -> Result<(), String> {
    let own_path = env::current_exe().map_err(|error| error.to_string())?;
    process::Command::new(own_path).args(["--exact", "hangs"]).spawn().map_err(|error| error.to_string())?;
    Ok(())
}

fn panic_the_kernel() -> Result<(), String> {
    let mut trigger =
        OpenOptions::new().write(true).open("/proc/sysrq-trigger").map_err(|error| error.to_string())?;
    trigger.write_all(b"c").map_err(|error| error.to_string())
}

/// Takes every processor with a priority above the first process's, and never gives one back.
fn freeze() -> Result<(), String> {
    fs::write("/proc/sys/kernel/sched_rt_runtime_us", "-1").map_err(|error| error.to_string())?;
    let processors = thread::available_parallelism().map_err(|error| error.to_string())?.get();
    for processor in 0..processors {
        // Since 6.12 a server of its own lends time to those with a lower priority.
        let lender = format!("/sys/kernel/debug/sched/fair_server/cpu{processor}/runtime");
        if Path::new(&lender).exists() {
            fs::write(lender, "0").map_err(|error| error.to_string())?;
        }
    }
    for _ in 1..processors {
        thread::spawn(spin);
    }
    spin()
}

fn spin() -> Result<(), String> {
    let priority = libc::sched_param { sched_priority: 99 };
    // SAFETY: the parameters outlive the call.
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const priority) } != 0 {
        return Err(io::Error::last_os_error().to_string());
    }
    loop {
        std::hint::spin_loop();
    }
}
