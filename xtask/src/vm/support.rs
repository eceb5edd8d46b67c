//! What the attach matrix showed on each kernel: kept by each run, read by whoever makes a table of it. Must not hold
//! anything that no guest has shown.

mod documented;
mod page;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context as _, Result, ensure};
use vm_init::frame::Outcome;

use super::kernel::version_numbers;
use super::layout::Layout;
use super::plan::Guests;
use super::say;
use super::verdict::{Test, Verdict};
use crate::ebpf::Lock;

/// How a line for machines starts: `MATRIX hook way outcome…`, as `tests/tests/attach_matrix.rs` writes it.
const MARK: &str = "MATRIX ";
/// The way that portchurn takes by itself; its outcome names it.
const AUTOMATIC: &str = "automatic";
/// What portchurn tells, in the place of a hook, as `tests/tests/features.rs` writes it.
const TELLS: &str = "tells";
/// The file that is released, in a root with nothing else: a hook and a way for the tables, too.
const RELEASED: (&str, &str) = ("released-file", "alone");
/// The tests of it, in `tests/tests/smoke.rs`.
const SMOKE: &str = "smoke::";

/// The name of what [`compare`] adds.
const DOCUMENTED: &str = "support::as_documented";

/// What makes the tables complete.
const RUN: &str =
    "cargo xtask vm --all --release --test smoke,attach_matrix,features, with and without --arch aarch64";

/// What one kernel showed.
#[derive(Debug, Eq, PartialEq)]
struct Kernel {
    release: String,
    arch: String,
    /// Digest of the kernel side that it was shown with.
    object: String,
    cells: Cells,
}

/// What came of each hook and way.
type Cells = BTreeMap<(String, String), String>;

impl Kernel {
    /// `6.1.0-56-cloud-amd64` is 6.1.
    fn name(&self) -> String {
        let version = self.release.split('.').take(2).collect::<Vec<_>>().join(".");
        if self.arch == "x86_64" { version } else { format!("{version} {}", self.arch) }
    }

    fn outcome(&self, hook: &str, way: &str) -> Option<&str> {
        outcome(&self.cells, hook, way)
    }
}

/// Keeps what a guest showed, if it went through the whole matrix.
pub(crate) fn keep(guests: &Guests<'_>, verdict: &Verdict) -> Result<()> {
    let mut cells: Vec<_> = matrix(&verdict.tests).map(str::to_owned).collect();
    // A filter leaves out some of it.
    if verdict.broken.is_some() || cells.is_empty() || !guests.args.arguments.is_empty() {
        return Ok(());
    }
    if guests.args.release {
        cells.extend(
            released(&verdict.tests).map(|outcome| format!("{} {} {outcome}", RELEASED.0, RELEASED.1)),
        );
    }
    let layout = guests.layout;
    let (label, image) = (guests.label(), &guests.image);
    let object = Lock::read(&layout.workspace)?.object_sha256;
    let text = format!("{} {} {object}\n{}\n", image.release, image.arch.name(), cells.join("\n"));
    let path = layout.matrix.join(label);
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))
}

/// A test more: whether the guest took the ways that `portchurn check` says its kernel takes. Nothing where it showed none, or
/// that kernel is not in the table.
pub(crate) fn compare(guests: &Guests<'_>, verdict: &Verdict) -> Result<Option<Test>> {
    let image = &guests.image;
    let kernel = Kernel {
        release: image.release.clone(),
        arch: image.arch.name().to_owned(),
        object: String::new(),
        cells: cells(matrix(&verdict.tests)),
    };
    if kernel.cells.is_empty() {
        return Ok(None);
    }
    let path = guests.layout.workspace.join(page::CHECK);
    let table = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    Ok(documented::differences(&table, &kernel).map(|different| Test {
        name: DOCUMENTED.to_owned(),
        outcome: if different.is_empty() { Outcome::Passed } else { Outcome::Failed },
        reason: "if that is meant, write the table anew: cargo xtask vm --table".to_owned(),
        took_ms: 0,
        lines: different,
    }))
}

/// What became of the released file; nothing where it was not tried.
fn released(tests: &[Test]) -> Option<&'static str> {
    let mut smoke = tests.iter().filter(|test| test.name.starts_with(SMOKE)).peekable();
    smoke.peek()?;
    Some(if smoke.all(|test| test.outcome == Outcome::Passed) { "works" } else { "failed" })
}

fn matrix(tests: &[Test]) -> impl Iterator<Item = &str> {
    let lines = tests.iter().flat_map(|test| &test.lines);
    lines.filter_map(|line| line.strip_prefix(MARK))
}

/// Writes every page that has the table.
pub(crate) fn write(layout: &Layout) -> Result<()> {
    let kernels = shown(layout)?;
    ensure!(!kernels.is_empty(), "no guest has shown anything yet: {RUN}");
    let object = Lock::read(&layout.workspace)?.object_sha256;
    let old: Vec<_> = kernels.iter().filter(|kernel| kernel.object != object).map(Kernel::name).collect();
    ensure!(
        old.is_empty(),
        "{} showed it with another kernel side than the present one: {RUN}",
        old.join(", ")
    );
    for path in page::write(&layout.workspace, &kernels)? {
        say::result(&format!("{path}: {} kernels", kernels.len()));
    }
    Ok(())
}

/// Each hook in each way, and in a word what came of it in each of these guests: for the end of a run.
pub(crate) fn in_words(guests: &[&[Test]]) -> Vec<Vec<String>> {
    let guests: Vec<_> = guests.iter().map(|tests| cells(matrix(tests))).collect();
    let row = |(hook, way): (String, String)| {
        let word = |cells| in_a_word(&way, outcome(cells, &hook, &way).unwrap_or("-"));
        std::iter::once(format!("{hook}: {way}")).chain(guests.iter().map(word)).collect()
    };
    ways(&guests).into_iter().map(row).collect()
}

fn in_a_word(way: &str, outcome: &str) -> String {
    let mut words = outcome.split([' ', ';']);
    match (words.next(), words.next()) {
        (Some("works"), Some(tier)) if way == AUTOMATIC => tier.to_owned(),
        (Some("unavailable"), _) => "no".to_owned(),
        (Some("failed"), _) => "FAILED".to_owned(),
        (first, _) => first.unwrap_or_default().to_owned(),
    }
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
    let mut head = lines.next()?.split(' ').map(str::to_owned);
    let (release, arch, object) = (head.next()?, head.next()?, head.next()?);
    Some(Kernel { release, arch, object, cells: cells(lines) })
}

fn cells<'a>(lines: impl Iterator<Item = &'a str>) -> Cells {
    let cell = |line: &str| {
        let mut words = line.splitn(3, ' ').map(str::to_owned);
        Some(((words.next()?, words.next()?), words.next()?))
    };
    lines.filter_map(cell).collect()
}

fn outcome<'a>(cells: &'a Cells, hook: &str, way: &str) -> Option<&'a str> {
    cells.get(&(hook.to_owned(), way.to_owned())).map(String::as_str)
}

/// All hooks and ways, by name.
fn ways<'a>(guests: impl IntoIterator<Item = &'a Cells>) -> BTreeSet<(String, String)> {
    guests.into_iter().flat_map(Cells::keys).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn what_is_no_line_of_a_matrix_is_left_out() {
        assert_eq!(parse(""), None);
        assert!(parse("6.1 x86_64 123\nnonsense\n").unwrap().cells.is_empty());
    }
}
