//! The table of support: which hook works in which way on which kernel, as the attach matrix showed it. Must not hold
//! anything that no guest has shown.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;

use anyhow::{Context as _, Result, ensure};

use super::kernel::version_numbers;
use super::layout::Layout;
use super::say;
use super::verdict::Verdict;

/// How a line for machines starts: `MATRIX hook way outcome…`, as `tests/tests/attach_matrix.rs` writes it.
const MARK: &str = "MATRIX ";
const TARGET: &str = "docs/support.md";

/// What one kernel showed.
#[derive(Debug, Eq, PartialEq)]
struct Kernel {
    release: String,
    arch: String,
    /// Hook and way, and what came of it.
    cells: Vec<((String, String), String)>,
}

/// Keeps what a guest showed, if the matrix was complete there.
pub(crate) fn keep(layout: &Layout, label: &str, release: &str, verdict: &Verdict) -> Result<()> {
    let lines = verdict.tests.iter().flat_map(|test| &test.lines);
    let matrix: Vec<_> = lines.filter_map(|line| line.strip_prefix(MARK)).collect();
    if matrix.is_empty() || verdict.broken.is_some() {
        return Ok(());
    }
    let arch = if label.ends_with("-aarch64") { "aarch64" } else { "x86_64" };
    let path = layout.matrix.join(label);
    let text = format!("{release} {arch}\n{}\n", matrix.join("\n"));
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))
}

/// Writes the page.
pub(crate) fn write(layout: &Layout) -> Result<()> {
    let entries =
        fs::read_dir(&layout.matrix).with_context(|| format!("read {}", layout.matrix.display()))?;
    let texts = entries.filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok());
    let mut kernels: Vec<_> = texts.filter_map(|text| parse(&text)).collect();
    ensure!(
        !kernels.is_empty(),
        "no guest has shown anything yet: cargo xtask vm --all --test attach_matrix"
    );
    kernels.sort_by_key(|kernel| (kernel.arch != "x86_64", version_numbers(&kernel.release)));
    let path = layout.workspace.join(TARGET);
    fs::write(&path, page(&kernels)).with_context(|| format!("write {}", path.display()))?;
    say::result(&format!("{TARGET}: {} kernels", kernels.len()));
    Ok(())
}

fn parse(text: &str) -> Option<Kernel> {
    let mut lines = text.lines();
    let (release, arch) = lines.next()?.split_once(' ')?;
    let cells = lines.filter_map(|line| {
        let mut words = line.splitn(3, ' ');
        Some(((words.next()?.to_owned(), words.next()?.to_owned()), words.next()?.to_owned()))
    });
    Some(Kernel { release: release.to_owned(), arch: arch.to_owned(), cells: cells.collect() })
}

fn page(kernels: &[Kernel]) -> String {
    let mut text = "# Kernels and ways to attach\n\n\
        Written by `cargo xtask vm --table` from what `cargo xtask vm --all --test attach_matrix` showed. In each cell the \
        hook was attached in this way, and in this way only, to a kernel of Debian in a virtual machine, and portchurn \
        counted known connections to the exact numbers. Without a choice of yours portchurn takes the first way that \
        works. `no-btf` is the whole of portchurn without the kernel's types.\n\n| hook | way |"
        .to_owned();
    for kernel in kernels {
        let _ = write!(text, " {} {} |", short(&kernel.release), kernel.arch);
    }
    let _ = write!(text, "\n|---|---|{}\n", "---|".repeat(kernels.len()));
    let mut notes = Vec::new();
    for (hook, way) in rows(kernels) {
        let _ = write!(text, "| `{hook}` | {way} |");
        for kernel in kernels {
            let found = kernel.cells.iter().find(|(key, _)| key.0 == hook && key.1 == way);
            let _ = write!(text, " {} |", cell(found.map(|(_, outcome)| outcome.as_str()), &mut notes));
        }
        text.push('\n');
    }
    if !notes.is_empty() {
        text.push('\n');
    }
    for (index, note) in notes.iter().enumerate() {
        let _ = writeln!(text, "{}. {note}", index + 1);
    }
    text
}

/// All hooks and ways, by name.
fn rows(kernels: &[Kernel]) -> Vec<(String, String)> {
    let all = kernels.iter().flat_map(|kernel| &kernel.cells).map(|(key, _)| key.clone());
    all.collect::<BTreeSet<_>>().into_iter().collect()
}

fn cell(outcome: Option<&str>, notes: &mut Vec<String>) -> String {
    let Some(outcome) = outcome else { return "not tried".to_owned() };
    match outcome.split_once(' ') {
        Some(("works", _)) => "works".to_owned(),
        Some((word @ ("unavailable" | "failed"), reason)) => {
            let index = notes.iter().position(|note| note == reason).unwrap_or_else(|| {
                notes.push(reason.to_owned());
                notes.len() - 1
            });
            format!("{} ({})", if word == "failed" { "**fails**" } else { "no" }, index + 1)
        }
        _ => outcome.to_owned(),
    }
}

/// `6.1.0-56-cloud-amd64` is 6.1.
fn short(release: &str) -> String {
    release.split('.').take(2).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::{page, parse};

    #[test]
    fn a_page_has_a_column_for_each_kernel_and_a_note_for_each_reason() {
        let old =
            parse("6.1.0-56-cloud-arm64 aarch64\ntcp_connect fentry unavailable no direct calls\n").unwrap();
        let new =
            parse("6.12.9-cloud x86_64\ntcp_connect fentry works runs=7\ntcp_connect kprobe works runs=7\n");
        let text = page(&[new.unwrap(), old]);
        assert!(text.contains("| hook | way | 6.12 x86_64 | 6.1 aarch64 |"), "{text}");
        assert!(text.contains("| `tcp_connect` | fentry | works | no (1) |"), "{text}");
        assert!(text.contains("| `tcp_connect` | kprobe | works | not tried |"), "{text}");
        assert!(text.contains("\n1. no direct calls\n"), "{text}");
    }

    #[test]
    fn what_is_no_line_of_a_matrix_is_left_out() {
        assert_eq!(parse(""), None);
        assert!(parse("6.1 x86_64\nnonsense\n").unwrap().cells.is_empty());
    }
}
