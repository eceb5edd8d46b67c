//! A kernel that lets nobody read its memory. It cannot be unlocked again, so this is for guests only, and the last that one does.

use std::fs;
use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};
use portchurn_tests::harness::programs::{bound, portchurn};
use portchurn_tests::harness::{check_where_possible, is_guest, skip};

/// lockdown(7).
const LOCKDOWN: &str = "/sys/kernel/security/lockdown";

#[test]
fn a_locked_down_kernel_is_named_with_what_helps() {
    check_where_possible("a_locked_down_kernel_is_named_with_what_helps", || {
        if !is_guest() {
            return Err(skip("it would lock this machine down until it is started again"));
        }
        if !fs::exists(LOCKDOWN)? {
            return Err(skip("this kernel cannot be locked down"));
        }
        fs::write(LOCKDOWN, "confidentiality").context("lock the kernel down")?;
        for command in [&["top", "--once"][..], &["trace", "-n", "1"]] {
            let output = run(command)?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.code() == Some(5), "{command:?}: {}: {said}", output.status);
            ensure!(output.stdout.is_empty(), "{command:?} printed something");
            for word in ["locked down (confidentiality)", "lockdown=integrity", "portchurn check"] {
                ensure!(said.contains(word), "{command:?}: '{word}' is missing: {said}");
            }
        }
        let output = run(&["check", "-o", "json"])?;
        ensure!(output.status.code() == Some(5), "check: {}", output.status);
        let report: serde_json::Value =
            serde_json::from_slice(&output.stdout).context("understand check -o json")?;
        let lockdown =
            report["checks"].as_array().into_iter().flatten().find(|one| one["name"] == "lockdown");
        ensure!(lockdown.is_some_and(|one| one["status"] == "missing"), "{report}");
        Ok(())
    });
}

fn run(arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(portchurn()?);
    bound(command.args(arguments));
    let output = command.output().context("run portchurn")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!said.contains("panicked"), "{said}");
    Ok(output)
}
