//! The tables made of what the attach matrix showed: a page of its own, a section of the README, and the text that
//! `portchurn check` prints. Must not add to it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use super::{AUTOMATIC, Kernel, RELEASED, TELLS, in_a_word, ways};
use crate::vm::table::columns;

const PAGE: &str = "docs/support.md";
const README: &str = "README.md";
pub(super) const CHECK: &str = "portchurn/src/commands/tested_kernels.txt";
/// Between these lines the README is ours.
const BEGIN: &str = "<!-- Written by `cargo xtask vm --table`. -->\n";
const END: &str = "<!-- End of what it wrote. -->\n";

/// Writes all of them; their paths.
pub(super) fn write(workspace: &Path, kernels: &[Kernel]) -> Result<[&'static str; 3]> {
    let readme = workspace.join(README);
    let old = fs::read_to_string(&readme).with_context(|| format!("read {}", readme.display()))?;
    let section = by_itself(kernels, None) + "\n" + &told(kernels, None);
    let texts = [page(kernels), with_section(&old, &section)?, plain(kernels)];
    let targets = [PAGE, README, CHECK];
    for (target, text) in targets.iter().zip(texts) {
        let path = workspace.join(target);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(targets)
}

fn page(kernels: &[Kernel]) -> String {
    let mut notes = Vec::new();
    let object = kernels.first().map_or("", |kernel| kernel.object.as_str());
    let mut text = format!(
        "# Kernels and ways to attach\n\n\
        Written by `cargo xtask vm --table` from what kernels of Debian showed in virtual machines, with the kernel side whose digest \
        begins `{}`.\n\n## What portchurn takes by itself\n\n",
        object.get(..12).unwrap_or(object)
    );
    text += &by_itself(kernels, Some(&mut notes));
    text += "\n## Each way by force\n\n\
        In each cell the hook was attached in this way, and in this way only, and portchurn counted known connections to \
        the exact numbers. `no-btf` is the whole of portchurn without the kernel's types.\n\n";
    text += &head("| hook | way |", kernels);
    let is_forced = |hook: &str, way: &str| way != AUTOMATIC && hook != RELEASED.0 && hook != TELLS;
    for (hook, way) in all_ways(kernels).iter().filter(|(hook, way)| is_forced(hook, way)) {
        text += &row(&format!("| `{hook}` | {way} |"), kernels, |kernel| {
            forced(kernel.outcome(hook, way), &mut notes)
        });
    }
    text += "\n## What can be told\n\n\
        Attached as it chooses by itself, portchurn told of known workloads what they know of themselves.\n\n";
    text += &told(kernels, Some(&mut notes));
    text += "\n## The file that is released\n\n\
        One file in a root that holds nothing else but the tests, which had it count known connections.\n\n";
    text += &head("| |", kernels);
    text += &row("| `portchurn` |", kernels, |kernel| {
        forced(kernel.outcome(RELEASED.0, RELEASED.1), &mut Vec::new())
    });
    if !notes.is_empty() {
        text.push('\n');
    }
    for (index, note) in notes.iter().enumerate() {
        let _ = writeln!(text, "{}. {note}", index + 1);
    }
    text
}

/// One row for each hook: how it is attached, and why not better where there is room for that.
fn by_itself(kernels: &[Kernel], mut notes: Option<&mut Vec<String>>) -> String {
    let mut text = head("| hook |", kernels);
    for (hook, _) in all_ways(kernels).iter().filter(|(_, way)| way == AUTOMATIC) {
        text += &row(&format!("| `{hook}` |"), kernels, |kernel| {
            let (tier, why) = chosen(kernel, hook);
            match (&mut notes, why) {
                (Some(notes), Some(why)) => format!("{tier} ({})", number(why, notes)),
                _ => tier.to_owned(),
            }
        });
    }
    text
}

/// One row for each thing that can be told.
fn told(kernels: &[Kernel], mut notes: Option<&mut Vec<String>>) -> String {
    let mut text = head("| what is told |", kernels);
    for (hook, feature) in all_ways(kernels).iter().filter(|(hook, _)| hook == TELLS) {
        text += &row(&format!("| {} |", feature.replace('-', " ")), kernels, |kernel| match &mut notes {
            Some(notes) => forced(kernel.outcome(hook, feature), notes),
            None => word(kernel, hook, feature),
        });
    }
    text
}

fn word(kernel: &Kernel, hook: &str, feature: &str) -> String {
    let outcome = kernel.outcome(hook, feature);
    outcome.map_or("not tried".to_owned(), |outcome| in_a_word(feature, outcome))
}

fn row(first: &str, kernels: &[Kernel], cell: impl FnMut(&Kernel) -> String) -> String {
    format!("{first} {} |\n", kernels.iter().map(cell).collect::<Vec<_>>().join(" | "))
}

fn all_ways(kernels: &[Kernel]) -> BTreeSet<(String, String)> {
    ways(kernels.iter().map(|kernel| &kernel.cells))
}

pub(super) fn plain(kernels: &[Kernel]) -> String {
    let mut rows =
        vec![std::iter::once(String::new()).chain(kernels.iter().map(Kernel::name)).collect::<Vec<_>>()];
    for (hook, _) in all_ways(kernels).into_iter().filter(|(_, way)| way == AUTOMATIC) {
        let cells: Vec<_> = kernels.iter().map(|kernel| chosen(kernel, &hook).0.to_owned()).collect();
        rows.push(std::iter::once(hook).chain(cells).collect());
    }
    for (hook, feature) in all_ways(kernels).into_iter().filter(|(hook, _)| hook == TELLS) {
        let cells: Vec<_> = kernels.iter().map(|kernel| word(kernel, &hook, &feature)).collect();
        rows.push(std::iter::once(feature.replace('-', " ")).chain(cells).collect());
    }
    columns(&rows) + "\n"
}

/// How a hook is attached, and why not better.
pub(super) fn chosen<'a>(kernel: &'a Kernel, hook: &str) -> (&'a str, Option<&'a str>) {
    let Some(outcome) = kernel.outcome(hook, AUTOMATIC) else { return ("not tried", None) };
    match outcome.split_once(' ') {
        Some(("works", rest)) => rest.split_once("; ").map_or((rest, None), |(tier, why)| (tier, Some(why))),
        Some(("unavailable", why)) => ("none", Some(why)),
        _ => (outcome, None),
    }
}

fn forced(outcome: Option<&str>, notes: &mut Vec<String>) -> String {
    let Some(outcome) = outcome else { return "not tried".to_owned() };
    match outcome.split_once(' ') {
        Some(("works", _)) => "works".to_owned(),
        Some(("unavailable", why)) => format!("no ({})", number(why, notes)),
        Some(("failed", why)) => format!("**fails** ({})", number(why, notes)),
        _ => outcome.to_owned(),
    }
}

/// The number of a note, which is added if it is new.
fn number(note: &str, notes: &mut Vec<String>) -> usize {
    let index = notes.iter().position(|known| known == note).unwrap_or_else(|| {
        notes.push(note.to_owned());
        notes.len() - 1
    });
    index + 1
}

fn head(first: &str, kernels: &[Kernel]) -> String {
    let names: Vec<_> = kernels.iter().map(Kernel::name).collect();
    let dashes = "---|".repeat(first.matches('|').count() - 1 + kernels.len());
    format!("{first} {} |\n|{dashes}\n", names.join(" | "))
}

fn with_section(text: &str, section: &str) -> Result<String> {
    let parts = text.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    ensure!(parts.is_some(), "{README} has no place for the table between '{}' and its end", BEGIN.trim());
    let (before, after) = parts.unwrap_or_default();
    Ok(format!("{before}{BEGIN}\n{section}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::{BEGIN, END, page, plain, with_section};

    #[test]
    fn a_page_has_a_column_for_each_kernel_and_a_note_for_each_reason() {
        let old = "6.1.0-56-cloud-arm64 aarch64 1\n\
            tcp_connect automatic works kprobe; fentry: none here\n\
            tcp_connect fentry unavailable no direct calls\n";
        let new = "6.12.9-cloud x86_64 1\n\
            tcp_connect automatic works fentry\n\
            tcp_connect fentry works runs=7\n\
            tcp_connect kprobe works runs=7\n\
            tells owners-of-TIME_WAIT works\n\
            released-file alone works\n";
        let kernels = [parse(new).unwrap(), parse(old).unwrap()];
        let text = page(&kernels);
        assert!(text.contains("| hook | way | 6.12 | 6.1 aarch64 |\n|---|---|---|---|\n"), "{text}");
        assert!(text.contains("| `tcp_connect` | fentry | kprobe (1) |"), "{text}");
        assert!(text.contains("| `tcp_connect` | fentry | works | no (2) |"), "{text}");
        assert!(text.contains("| `tcp_connect` | kprobe | works | not tried |"), "{text}");
        assert!(
            text.contains("|---|---|---|\n| owners of TIME_WAIT | works | not tried |\n")
                && text.contains("begins `1`"),
            "{text}"
        );
        assert!(text.contains("|---|---|---|\n| `portchurn` | works | not tried |\n"), "{text}");
        assert!(text.ends_with("\n1. fentry: none here\n2. no direct calls\n"), "{text}");
        assert_eq!(
            plain(&kernels),
            "                     6.12    6.1 aarch64\n\
             tcp_connect          fentry  kprobe\n\
             owners of TIME_WAIT  works   not tried\n"
        );
    }

    #[test]
    fn a_section_is_replaced_and_the_rest_stays() {
        let text = format!("a\n{BEGIN}old\n{END}b\n");
        assert_eq!(with_section(&text, "new\n").unwrap(), format!("a\n{BEGIN}\nnew\n\n{END}b\n"));
        assert!(with_section("a\n", "new\n").is_err());
    }
}
