//! `cargo xtask tidy`: habits that a machine can watch over. Every Rust file says what it is, is of a size that one
//! can read, and holds no leftovers; no file names a path of somebody's machine.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};

use crate::repo;

/// Lines of a file, its tests not counted.
const FILE_LINES: usize = 400;
/// Lines of a function, from its signature to its closing brace.
const FUNCTION_LINES: usize = 60;

/// Leftovers. Written in two pieces so that this file has none.
const LEFTOVERS: &[&str] = &[
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("db", "g!("),
    concat!("to", "do!("),
    concat!("unimpl", "emented!("),
];

/// Beginnings of paths that exist on one machine only.
const MACHINE_PATHS: &[&str] = &[concat!("/wo", "rk/"), concat!("/tmp/", "wt/"), concat!("/ro", "ot/")];

/// Files in which machine paths are looked for.
const TEXT: &[&str] = &[
    ".rs", ".toml", ".md", ".lock", ".json", ".sh", ".yml", ".yaml", ".py", "run", ".txt", ".snap", ".golden",
];

pub(crate) fn run() -> Result<()> {
    let root = repo::root()?;
    let mut complaints = Vec::new();
    for file in repo::files(&root, "")? {
        let name = file.to_string_lossy();
        if !TEXT.iter().any(|suffix| name.ends_with(suffix)) {
            continue;
        }
        let text = std::fs::read_to_string(root.join(&file)).with_context(|| format!("read {name}"))?;
        complaints.extend(machine_paths(&text).map(|at| format!("{name}:{at}")));
        if name.ends_with(".rs") {
            complaints.extend(rust_file(&file, &text)?.into_iter().map(|what| format!("{name}{what}")));
        }
    }
    for complaint in &complaints {
        println!("{complaint}");
    }
    ensure!(complaints.is_empty(), "{} untidy places", complaints.len());
    println!("tidy: every file says what it is, and is of a readable size");
    Ok(())
}

/// Complaints about one Rust file; each continues its path.
fn rust_file(file: &Path, text: &str) -> Result<Vec<String>> {
    let mut complaints = Vec::new();
    if !text.starts_with("//!") {
        complaints.push(": does not begin with `//!`: say what it is and what it must not do".to_owned());
    }
    let lines = text.lines().take_while(|line| line.trim() != "#[cfg(test)]").count();
    if lines > FILE_LINES && !holds_tests(file) {
        complaints.push(format!(": {lines} lines without tests, more than {FILE_LINES}"));
    }
    for (line, content) in text.lines().enumerate() {
        for leftover in LEFTOVERS.iter().filter(|leftover| content.contains(**leftover)) {
            complaints.push(format!(":{}: {leftover}", line + 1));
        }
    }
    let syntax = syn::parse_file(text).with_context(|| format!("parse {}", file.display()))?;
    let mut functions = LongFunctions(Vec::new());
    functions.visit_file(&syntax);
    complaints.extend(functions.0);
    Ok(complaints)
}

/// Whether a file is the tests of a module: `src/…/tests.rs`, `src/…/x_tests.rs`, or below `src/…/tests/`.
fn holds_tests(file: &Path) -> bool {
    let mut inside =
        file.components().map(|part| part.as_os_str().to_string_lossy()).skip_while(|part| part != "src");
    inside.any(|part| part == "tests" || part == "tests.rs" || part.ends_with("_tests.rs"))
}

fn machine_paths(text: &str) -> impl Iterator<Item = String> {
    text.lines().enumerate().flat_map(|(line, content)| {
        MACHINE_PATHS
            .iter()
            .filter(move |path| begins_with_path(content, path))
            .map(move |path| format!("{}: a path below {path}", line + 1))
    })
}

/// Whether `path` stands in `line` as the beginning of a path, not as the middle of one.
fn begins_with_path(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        line[..at]
            .chars()
            .next_back()
            .is_none_or(|before| !before.is_alphanumeric() && !"._-~}*".contains(before))
    })
}

struct LongFunctions(Vec<String>);

impl LongFunctions {
    fn judge(&mut self, name: &syn::Ident, signature: proc_macro2::Span, block: &syn::Block) {
        let (first, last) = (signature.start().line, block.span().end().line);
        let lines = last + 1 - first;
        if lines > FUNCTION_LINES {
            self.0.push(format!(":{first}: `{name}` has {lines} lines, more than {FUNCTION_LINES}"));
        }
    }
}

impl<'ast> Visit<'ast> for LongFunctions {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.judge(&item.sig.ident, item.sig.span(), &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.judge(&item.sig.ident, item.sig.span(), &item.block);
        visit::visit_impl_item_fn(self, item);
    }
}

#[cfg(test)]
mod tests {
    use super::{LEFTOVERS, MACHINE_PATHS, machine_paths, rust_file};
    use std::path::Path;

    fn complaints(text: &str) -> Vec<String> {
        rust_file(Path::new("x.rs"), text).unwrap()
    }

    #[test]
    fn a_tidy_file_passes() {
        assert!(complaints("//! What it is.\nfn f() {}\n").is_empty());
    }

    #[test]
    fn a_missing_header_and_leftovers_are_seen() {
        assert_eq!(complaints("fn f() {}").len(), 1);
        for leftover in LEFTOVERS {
            assert_eq!(complaints(&format!("//! X.\n// {leftover}\n")).len(), 1, "{leftover}");
        }
    }

    #[test]
    fn long_files_are_seen_and_tests_do_not_count() {
        let long = format!("//! X.\n{}", "\n".repeat(450));
        assert_eq!(complaints(&long).len(), 1);
        let mostly_tests = format!("//! X.\n#[cfg(test)]\nmod tests {{}}\n{}", "\n".repeat(450));
        assert!(complaints(&mostly_tests).is_empty());
        assert!(rust_file(Path::new("portchurn/src/sinks/tests.rs"), &long).unwrap().is_empty());
        assert_eq!(rust_file(Path::new("tests/src/workload.rs"), &long).unwrap().len(), 1);
    }

    #[test]
    fn long_functions_are_seen_with_their_line() {
        let text = format!("//! X.\nstruct A;\nimpl A {{\n    fn f() {{{}}}\n}}\n", "\n".repeat(60));
        assert_eq!(complaints(&text), [":4: `f` has 61 lines, more than 60"]);
    }

    #[test]
    fn paths_of_a_machine_are_seen_and_parts_of_other_paths_are_not() {
        let path = MACHINE_PATHS[0];
        assert_eq!(machine_paths(&format!("see {path}main\n(`{path}x`)")).count(), 2);
        assert_eq!(machine_paths(&format!("docs{path}main")).count(), 0);
    }
}
