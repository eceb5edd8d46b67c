//! `cargo xtask layers`: who may import whom inside `portchurn/src`. The table below is the law; a module that is not
//! in it is an error, so a new one is placed on purpose. Tests are held to it like all other code.

mod paths;

use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::repo;
use paths::Reference;

const SOURCE: &str = "portchurn/src";

/// One top-level module and the others that it may import.
struct Layer {
    name: &'static str,
    imports: &'static [&'static str],
    /// No clock, no input or output: see [`IMPURE`].
    pure: bool,
}

const fn pure(name: &'static str, imports: &'static [&'static str]) -> Layer {
    Layer { name, imports, pure: true }
}

const fn layer(name: &'static str, imports: &'static [&'static str]) -> Layer {
    Layer { name, imports, pure: false }
}

const LAYERS: &[Layer] = &[
    pure("model", &[]),
    pure("filter", &["model"]),
    layer("symbolize", &["model"]),
    layer("sources", &["model"]),
    layer("live", &["model", "sources", "symbolize"]),
    layer("sinks", &["model", "filter"]),
    layer("commands", &["cli", "model", "filter", "symbolize", "sources", "live", "sinks"]),
    layer("cli", &["commands"]),
    layer("main", &["cli", "commands"]),
    layer("lib", &[]),
];

/// Paths from elsewhere that only some layers may use.
const KEPT: &[(&str, &[&str])] = &[
    ("aya", &["live"]),
    ("aya_log", &["live"]),
    ("aya_obj", &["live"]),
    ("tokio", &["live", "commands", "main"]),
    ("clap::ValueEnum", &["sinks", "commands", "cli", "main"]),
    ("clap::builder::PossibleValue", &["sinks", "commands", "cli", "main"]),
    ("clap", &["commands", "cli", "main"]),
];

/// What a pure layer may not touch.
const IMPURE: &[&str] = &[
    "std::env",
    "std::fs",
    "std::io",
    "std::os",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::UdpSocket",
    "libc",
    "procfs",
    "rustix",
];

pub(crate) fn run() -> Result<()> {
    let root = repo::root()?;
    let mut violations = Vec::new();
    for file in repo::files_below(&root.join(SOURCE), Path::new(""))? {
        if file.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(root.join(SOURCE).join(&file))
                .with_context(|| format!("read {SOURCE}/{}", file.display()))?;
            violations.extend(violations_in(&file, &text)?);
        }
    }
    for violation in &violations {
        println!("{SOURCE}/{violation}");
    }
    ensure!(violations.is_empty(), "{} imports against the layers: see ARCHITECTURE.md", violations.len());
    println!("layers: every import points the right way");
    Ok(())
}

/// What one file imports and may not; `file` is its path below `portchurn/src`.
fn violations_in(file: &Path, text: &str) -> Result<Vec<String>> {
    let module = module_of(file);
    let name = module.first().map_or("lib", String::as_str);
    let layer = LAYERS.iter().find(|layer| layer.name == name).with_context(|| {
        format!(
            "{SOURCE}/{}: the module {name} is in no layer: give it a row in xtask/src/layers/mod.rs",
            file.display()
        )
    })?;
    let syntax = syn::parse_file(text).with_context(|| format!("parse {SOURCE}/{}", file.display()))?;
    let complaints = paths::references(&syntax, &module)
        .into_iter()
        .filter_map(|reference| Some((complaint(layer, &reference)?, reference.line)))
        .map(|(complaint, line)| format!("{}:{line}: {complaint}", file.display()));
    let mut found: Vec<String> = complaints.collect();
    found.dedup();
    Ok(found)
}

/// The path of the module in a file: `model/columns/mod.rs` holds `model::columns`.
fn module_of(file: &Path) -> Vec<String> {
    let mut module: Vec<String> =
        file.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if module.last().is_some_and(|last| last == "mod") || module == ["lib"] {
        module.pop();
    }
    module
}

fn complaint(layer: &Layer, reference: &Reference) -> Option<String> {
    let path = &reference.path;
    if path[0] == "crate" {
        let target = path.get(1)?;
        let is_layer = LAYERS.iter().any(|layer| layer.name == target);
        let allowed = target == layer.name || layer.imports.contains(&target.as_str()) || layer.name == "lib";
        return (is_layer && !allowed).then(|| format!("{} may not import {target}", layer.name));
    }
    let kept = KEPT.iter().find(|(kept, _)| starts_with(path, kept));
    if let Some((kept, layers)) = kept
        && !layers.contains(&layer.name)
    {
        return Some(format!("{} may not use {kept}, which is for {} only", layer.name, layers.join(", ")));
    }
    let impure = IMPURE.iter().find(|impure| layer.pure && starts_with(path, impure))?;
    Some(format!("{} is pure and may not use {impure}", layer.name))
}

fn starts_with(path: &[String], prefix: &str) -> bool {
    let mut segments = path.iter();
    prefix.split("::").all(|wanted| segments.next().is_some_and(|segment| segment == wanted))
}

#[cfg(test)]
mod tests {
    use super::violations_in;
    use std::path::Path;

    fn complaints(file: &str, text: &str) -> Vec<String> {
        violations_in(Path::new(file), text).unwrap()
    }

    #[test]
    fn what_the_table_allows_passes() {
        assert!(complaints("model/row.rs", "use crate::model::sample::Counts; use std::fmt;").is_empty());
        assert!(complaints("live/loader.rs", "use aya::Btf; use crate::model::sample::Sample;").is_empty());
        assert!(complaints("commands/top.rs", "use crate::{live, sinks}; use tokio::select;").is_empty());
        assert!(complaints("sinks/mod.rs", "use clap::ValueEnum;").is_empty());
        assert!(complaints("lib.rs", "pub use crate::model::Model;").is_empty());
    }

    #[test]
    fn a_plain_import_is_caught_with_its_line() {
        let found = complaints("model/row.rs", "use std::fmt;\nuse crate::sinks::table;");
        assert_eq!(found, ["model/row.rs:2: model may not import sinks"]);
    }

    #[test]
    fn grouped_renamed_and_wildcard_imports_are_caught() {
        assert_eq!(complaints("model/a.rs", "use crate::{model::row, sinks::{table, json}};").len(), 1);
        assert_eq!(complaints("model/a.rs", "use crate::live as l;").len(), 1);
        assert_eq!(complaints("sinks/a.rs", "use crate::live::*;").len(), 1);
        assert_eq!(complaints("sinks/a.rs", "use {aya, clap::Parser};").len(), 2);
    }

    #[test]
    fn paths_in_expressions_types_macros_and_attributes_are_caught() {
        assert_eq!(complaints("model/a.rs", "fn f() { crate::live::load() }").len(), 1);
        assert_eq!(complaints("model/a.rs", "type T = Vec<crate::sinks::Sink>;").len(), 1);
        assert_eq!(complaints("model/a.rs", "fn f() { println!(\"{}\", crate::live::x()); }").len(), 1);
        assert_eq!(complaints("sinks/a.rs", "#[derive(clap::Args)] struct A;").len(), 1);
        assert_eq!(complaints("sinks/a.rs", "fn f() { ::aya::Btf::from_sys_fs(); }").len(), 1);
    }

    #[test]
    fn climbing_out_by_super_is_caught() {
        assert_eq!(complaints("model/columns/pid.rs", "use super::super::super::sinks::Sink;").len(), 1);
        assert_eq!(complaints("model/mod.rs", "use super::live;").len(), 1);
        assert_eq!(complaints("model/a.rs", "mod tests { use super::super::super::live; }").len(), 1);
        assert!(complaints("model/a.rs", "mod tests { use super::*; }").is_empty());
    }

    #[test]
    fn a_pure_layer_has_no_clock_and_no_files() {
        assert_eq!(complaints("model/a.rs", "use std::time::{Duration, Instant};").len(), 1);
        assert_eq!(complaints("filter.rs", "fn f() { std::fs::read(\"x\"); }").len(), 1);
        assert!(complaints("sources/procfs.rs", "use std::fs;").is_empty());
    }

    #[test]
    fn a_module_without_a_row_is_an_error() {
        assert!(violations_in(Path::new("helpers/x.rs"), "").is_err());
    }
}
