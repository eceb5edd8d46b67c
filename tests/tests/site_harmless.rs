//! No program that is looked at is ever stopped, signalled, traced or written to. Shown from three sides: the kernel ends
//! portchurn at the first system call that could do that; the program watches itself; and the kernel side of portchurn
//! has no call that writes to user memory or sends a signal.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use portchurn_tests::harness::elf::sections;
use portchurn_tests::harness::mounts::Tracefs;
use portchurn_tests::harness::programs::portchurn;
use portchurn_tests::harness::seccomp::harmless;
use portchurn_tests::harness::sites;
use portchurn_tests::harness::tracer::Tracer;
use portchurn_tests::harness::{check, python, servers, skip};

/// How often the program connects.
const TIMES: u64 = 300;

/// That what is forbidden ends a process, and the rest does not: else the other test would show nothing.
fn the_filter_works() -> Result<()> {
    let run = |script: &str| -> Result<Option<i32>> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        harmless(&mut command);
        Ok(command.status().context("run a shell")?.signal())
    };
    ensure!(run("cat /proc/self/status > /proc/self/fd/1")?.is_some(), "it may open for writing");
    ensure!(run("kill -0 $$")? == Some(libc::SIGSYS), "it may send signals");
    ensure!(run("exit 0")?.is_none(), "it may not do anything");
    Ok(())
}

#[test]
fn nobody_is_stopped_signalled_traced_or_written_to() {
    check("nobody_is_stopped_signalled_traced_or_written_to", || {
        let python = python::system()?;
        the_filter_works()?;
        let port = servers::accepting()?;
        let mut command = Command::new(portchurn()?);
        harmless(&mut command);
        let arguments = ["--stack", "auto", "-D", &port.to_string()];
        let mut tracer = Tracer::start_by(command, &arguments, Tracefs::AsItIs)?;
        let said = python::run(&python, "target.py", [port.to_string(), TIMES.to_string()])?;
        let said: serde_json::Value = serde_json::from_str(&said).with_context(|| said.clone())?;
        let untouched = serde_json::json!({
            "signals": [], "tracers": [0], "memory_is_the_same": true, "code_is_the_same": true,
        });
        ensure!(said == untouched, "somebody did something to it: {said}");
        // It was looked at: portchurn did its work all the while.
        let word = python::script("target.py").display().to_string();
        sites::wait_for(&mut tracer, &word, |destinations| sites::opens_are_python(destinations, TIMES))?;
        // Ctrl-C comes from us. Had it been ended by the filter, it would not end well.
        tracer.stop()?;
        Ok(())
    });
}

/// Helpers of the kernel that change user memory, signal or change what a function returns; include/uapi/linux/bpf.h.
const HARMFUL: &[(u32, &str)] =
    &[(36, "probe_write_user"), (58, "override_return"), (109, "send_signal"), (117, "send_signal_thread")];

#[test]
fn the_kernel_side_calls_nothing_that_does_harm() {
    check("the_kernel_side_calls_nothing_that_does_harm", || {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../portchurn/bpf/portchurn.bpf.o");
        let Ok(object) = std::fs::read(&path) else {
            return Err(skip("the sources are not here, as in a guest"));
        };
        let mut calls = 0;
        for section in sections(&object).iter().filter(|section| section.is_code) {
            for instruction in object[section.at..section.at + section.size].chunks_exact(8) {
                // BPF_JMP | BPF_CALL, with the register field 0: a helper by number.
                if instruction[0] != 0x85 || instruction[1] >> 4 != 0 {
                    continue;
                }
                calls += 1;
                let helper = u32::from_le_bytes(instruction[4..8].try_into()?);
                let harmful = HARMFUL.iter().find(|(number, _)| *number == helper);
                ensure!(harmful.is_none(), "{} calls {harmful:?}", section.name);
            }
        }
        ensure!(calls > 100, "only {calls} calls found: not the object that it was");
        Ok(())
    });
}
