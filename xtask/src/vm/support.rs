//! What the attach matrix showed on each kernel: kept by each run, read by whoever makes a table of it. Must not hold
//! anything that no guest has shown.

mod page;

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context as _, Result, ensure};

use super::kernel::version_numbers;
use super::layout::Layout;
use super::say;
use super::table::columns;
use super::verdict::Verdict;

/// How a line for machines starts: `MATRIX hook way outcome…`, as `tests/tests/attach_matrix.rs` writes it.
const MARK: &str = "MATRIX ";
/// The way that portchurn takes by itself; its outcome names it.
const AUTOMATIC: &str = "automatic";

/// What one kernel showed.
#[derive(Debug, Eq, PartialEq)]
struct Kernel {
    release: String,
    arch: String,
    /// Hook and way, and what came of it.
    cells: Vec<((String, String), String)>,
}

impl Kernel {
    /// `6.1.0-56-cloud-amd64` is 6.1.
    fn name(&self) -> String {
        let version = self.release.split('.').take(2).collect::<Vec<_>>().join(".");
        if self.arch == "x86_64" { version } else { format!("{version} {}", self.arch) }
    }

    fn outcome(&self, hook: &str, way: &str) -> Option<&str> {
        let found = self.cells.iter().find(|((own_hook, own_way), _)| own_hook == hook && own_way == way);
        found.map(|(_, outcome)| outcome.as_str())
    }
}

/// Keeps what a guest showed, if the matrix was complete there.
pub(crate) fn keep(layout: &Layout, label: &str, release: &str, verdict: &Verdict) -> Result<()> {
    if !has_matrix(verdict) {
        return Ok(());
    }
    let matrix: Vec<_> = matrix(verdict).collect();
    let arch = if label.ends_with("-aarch64") { "aarch64" } else { "x86_64" };
    let path = layout.matrix.join(label);
    let text = format!("{release} {arch}\n{}\n", matrix.join("\n"));
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))
}

/// Whether a guest has gone through the matrix to its end.
pub(crate) fn has_matrix(verdict: &Verdict) -> bool {
    verdict.broken.is_none() && matrix(verdict).next().is_some()
}

fn matrix(verdict: &Verdict) -> impl Iterator<Item = &str> {
    let lines = verdict.tests.iter().flat_map(|test| &test.lines);
    lines.filter_map(|line| line.strip_prefix(MARK))
}

/// Writes every page that has the table.
pub(crate) fn write(layout: &Layout) -> Result<()> {
    let kernels = shown(layout)?;
    ensure!(
        !kernels.is_empty(),
        "no guest has shown anything yet: cargo xtask vm --all --test attach_matrix"
    );
    for path in page::write(&layout.workspace, &kernels)? {
        say::result(&format!("{path}: {} kernels", kernels.len()));
    }
    Ok(())
}

/// What guests with these labels have shown, for the end of a run: one line for each hook and way.
pub(crate) fn summary(layout: &Layout, labels: &[&str]) -> Option<String> {
    let texts = labels.iter().filter_map(|label| fs::read_to_string(layout.matrix.join(label)).ok());
    let kernels: Vec<_> = texts.filter_map(|text| parse(&text)).collect();
    if kernels.is_empty() {
        return None;
    }
    let names = kernels.iter().map(Kernel::name);
    let mut rows = vec![["hook", "way"].map(str::to_owned).into_iter().chain(names).collect::<Vec<_>>()];
    for (hook, way) in ways(&kernels) {
        let word = |kernel: &Kernel| {
            let outcome = kernel.outcome(&hook, &way).unwrap_or("-");
            let mut words = outcome.split([' ', ';']);
            match (words.next(), words.next()) {
                (Some("works"), Some(tier)) if way == AUTOMATIC => tier.to_owned(),
                (Some("unavailable"), _) => "no".to_owned(),
                (Some("failed"), _) => "FAILED".to_owned(),
                (first, _) => first.unwrap_or_default().to_owned(),
            }
        };
        let cells: Vec<_> = kernels.iter().map(word).collect();
        rows.push([hook, way].into_iter().chain(cells).collect());
    }
    Some(columns(&rows))
}

fn shown(layout: &Layout) -> Result<Vec<Kernel>> {
    let entries =
        fs::read_dir(&layout.matrix).with_context(|| format!("read {}", layout.matrix.display()))?;
    let texts = entries.filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok());
    let mut kernels: Vec<_> = texts.filter_map(|text| parse(&text)).collect();
    kernels.sort_by_key(|kernel| (kernel.arch != "x86_64", version_numbers(&kernel.release)));
    Ok(kernels)
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

/// All hooks and ways, by name.
fn ways(kernels: &[Kernel]) -> Vec<(String, String)> {
    let all = kernels.iter().flat_map(|kernel| &kernel.cells).map(|(key, _)| key.clone());
    all.collect::<BTreeSet<_>>().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn what_is_no_line_of_a_matrix_is_left_out() {
        assert_eq!(parse(""), None);
        assert!(parse("6.1 x86_64\nnonsense\n").unwrap().cells.is_empty());
    }
}
