//! Whether the program does its job at all, where it lies. In a guest of `cargo xtask vm --release` that is the file that
//! is released, in a root with nothing but this test and the workload. Needs the privileges of a tracer.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use portchurn_tests::harness::compare::{Precision, matches_truth};
use portchurn_tests::harness::programs::{complaint, run_portchurn, run_workload};
use portchurn_tests::harness::tracer::Tracer;
use portchurn_tests::harness::{check, check_where_possible, is_guest, skip};

#[test]
fn it_says_its_version_and_its_help() {
    check("it_says_its_version_and_its_help", || {
        let version = said(&["--version"])?;
        let own = format!("portchurn {}", env!("CARGO_PKG_VERSION"));
        ensure!(version.lines().next() == Some(own.as_str()), "{version}");
        for command in ["top", "trace", "sites", "timewait", "ports", "who", "check"] {
            let help = said(&[command, "--help"])?;
            ensure!(help.contains("Usage: portchurn "), "{command}: {help}");
        }
        Ok(())
    });
}

#[test]
fn it_counts_exactly() {
    check("it_counts_exactly", || {
        let mut tracer = Tracer::start(&[])?;
        for workload in [&["active-close", "--count", "101"][..], &["refused", "--count", "29"]] {
            let truth = run_workload(workload)?;
            tracer
                .wait_until(|report| matches_truth(&truth, report, Precision::FULL))
                .with_context(|| workload.join(" "))?;
        }
        tracer.stop().map(drop)
    });
}

#[test]
fn it_needs_no_library() {
    check_where_possible("it_needs_no_library", || {
        if !is_guest() || Path::new("/usr").exists() {
            return Err(skip("the root of this machine holds libraries"));
        }
        for folder in ["/lib", "/lib64"] {
            ensure!(!Path::new(folder).exists(), "the root has {folder}: nothing is shown by this");
        }
        said(&["--version"]).map(drop)
    });
}

fn said(arguments: &[&str]) -> Result<String> {
    let output = run_portchurn(arguments)?;
    ensure!(output.status.success(), "{arguments:?}: {}: {}", output.status, complaint(&output)?);
    String::from_utf8(output.stdout).context("read stdout")
}
