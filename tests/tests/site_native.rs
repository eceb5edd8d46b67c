//! Whole stacks of compiled programs, against what they say themselves: C, C++, Rust and Go, with and without frame
//! pointers, stripped. Names, inlined functions and lines come from what the programs write down; frames without names
//! from the C library's own unwinder, or from Go's runtime.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use portchurn_tests::harness::folder::Folder;
use portchurn_tests::harness::native::{self, Language, Running, Truth};
use portchurn_tests::harness::sites::{self, Frame, Site};
use portchurn_tests::harness::{check, servers};

/// How often the plainest shape is run.
const TIMES: u64 = 5;

/// Functions that compilers and libraries put into a program.
const LIBRARIES: &[&str] =
    &["_start", "std::", "core::", "<std::", "<core::", "<alloc::", "alloc::", "__rust"];

/// A name without its arguments and what comes before it.
fn short(function: &str) -> &str {
    let cut = match function.find('(') {
        // As in `(anonymous namespace)` and `operator()`.
        Some(0) | None => function,
        Some(at) if function[at..].starts_with("()") => &function[..at + 2],
        Some(at) => &function[..at],
    };
    let cut = cut.split('<').next().filter(|cut| !cut.is_empty()).unwrap_or(cut);
    cut.strip_prefix("void ").unwrap_or(cut)
}

fn is_of(frame: &Frame, program: &Path) -> bool {
    frame.module.as_deref() == program.to_str()
}

/// Functions of the program itself with their lines.
fn own(site: &Site, program: &Path) -> Vec<(String, u64)> {
    // Without a line: what the compiler made up, such as the `main` that calls Rust's.
    let frames = site.frames().iter().filter(|frame| is_of(frame, program) && frame.line.is_some());
    frames
        .filter(|frame| !LIBRARIES.iter().any(|start| frame.function.contains(start)))
        .map(|frame| (short(&frame.function).to_owned(), frame.line.unwrap_or(0)))
        .collect()
}

/// The files that the stack leads through, each change once: everything between the program's own frames.
fn files<'a>(files: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut names: Vec<String> =
        files.map(|file| file.rsplit('/').next().unwrap_or_default().to_owned()).collect();
    names.dedup();
    names
}

type Counts<T> = BTreeMap<T, u64>;

fn count<T: Ord>(items: impl Iterator<Item = (T, u64)>) -> Counts<T> {
    let mut counts = Counts::new();
    items.for_each(|(item, times)| *counts.entry(item).or_default() += times);
    counts
}

/// Runs a program and compares each stack as `shown` and `said` see it.
fn compare<T: Ord + std::fmt::Debug>(
    program: &Path,
    said: impl Fn(&Truth) -> T,
    shown: impl Fn(&Site, &[Truth]) -> Result<T>,
) -> Result<()> {
    let port = servers::accepting()?;
    let mut tracer = sites::start(port, &[])?;
    let mut running =
        Running::start(native::command(program, port, ["shapes", &TIMES.to_string()]), program)?;
    let truths = running.said()?;
    ensure!(truths.len() as u64 >= TIMES + 3, "the program did something else: {truths:?}");
    let truth = count(truths.iter().map(|truth| (said(truth), 1)));
    sites::wait_for(&mut tracer, &program.display().to_string(), |destinations| {
        sites::opens_are(destinations, truths.len() as u64)?;
        let mut found = Vec::new();
        for site in destinations.iter().flat_map(|to| to.sites("open")) {
            ensure!(site.note.is_none(), "{:?}: {:?}", site.note, site.functions());
            // Read at first sight only: what was not read every time must say so.
            ensure!(site.exact == site.sampled.is_none(), "exact or sampled? {site:?}");
            ensure!(site.exact || site.sampled < Some(site.count), "more read than passed: {site:?}");
            ensure!(site.count == 1 || !site.exact, "not every one was read: {site:?}");
            found.push((shown(site, &truths)?, site.count));
        }
        let found = count(found.into_iter());
        ensure!(found == truth, "found {found:#?}, it was {truth:#?}");
        Ok(())
    })?;
    tracer.stop()?;
    running.finish()
}

/// Functions, inlined ones included, and lines.
fn names_and_lines(program: &Path) -> Result<()> {
    compare(
        program,
        |truth| {
            let modules = files(truth.addresses.iter().map(|(file, _)| file.as_str()));
            (truth.places.clone(), modules)
        },
        |site, _| {
            // The system call itself is the C library's.
            let calls = site.frames().iter().skip_while(|frame| !is_of(frame, program));
            let modules = calls.map(|frame| frame.module.as_deref().unwrap_or("(none)"));
            Ok((own(site, program), files(modules)))
        },
    )
}

/// Places in the file, where there are no names.
fn offsets(program: &Path) -> Result<()> {
    let name = program.file_name().context("a name")?.to_string_lossy().into_owned();
    let is_own = |file: &str| file.rsplit('/').next() == Some(&name);
    compare(
        program,
        |truth| {
            // The innermost has the address of another call on the same line.
            let own = truth.addresses.iter().filter(|(file, _)| is_own(file)).skip(1);
            let places: Vec<String> = own.map(|(_, address)| format!("{name}+{address:#x}")).collect();
            let modules = files(truth.addresses.iter().map(|(file, _)| file.as_str()));
            (places, modules)
        },
        |site, _| {
            let calls: Vec<_> = site.frames().iter().skip_while(|frame| !is_of(frame, program)).collect();
            let modules = files(calls.iter().map(|frame| frame.module.as_deref().unwrap_or("(none)")));
            let own: Vec<_> = calls.iter().filter(|frame| is_of(frame, program)).collect();
            let places: Vec<String> = own.iter().map(|frame| frame.function.clone()).collect();
            // What Rust's standard library adds is part of the program: the program's own frames are the outer ones.
            Ok((places.into_iter().skip(1).collect(), modules))
        },
    )
}

#[test]
fn c_stacks_are_those_of_the_program() {
    check("c_stacks_are_those_of_the_program", || {
        let folder = Folder::new()?;
        let build = |name, arguments: &[&str]| native::build(Language::C, folder.path(), name, arguments);
        names_and_lines(&build("c-plain", &["-g"])?)?;
        names_and_lines(&build("c-frames", &["-g", "-fno-omit-frame-pointer"])?)?;
        offsets(&build("c-stripped", &["-s"])?)
    });
}

#[test]
fn cpp_stacks_are_those_of_the_program() {
    check("cpp_stacks_are_those_of_the_program", || {
        let folder = Folder::new()?;
        let build = |name, arguments: &[&str]| native::build(Language::Cpp, folder.path(), name, arguments);
        names_and_lines(&build("cpp-plain", &["-g"])?)?;
        names_and_lines(&build("cpp-frames", &["-g", "-fno-omit-frame-pointer"])?)?;
        offsets(&build("cpp-stripped", &["-s"])?)
    });
}

#[test]
fn rust_stacks_are_those_of_the_program() {
    check("rust_stacks_are_those_of_the_program", || {
        let folder = Folder::new()?;
        let build = |name, arguments: &[&str]| native::build(Language::Rust, folder.path(), name, arguments);
        names_and_lines(&build("rust-plain", &["-g"])?)?;
        names_and_lines(&build("rust-frames", &["-g", "-Cforce-frame-pointers=yes"])?)
    });
}

/// Go's runtime tells everything, so everything is compared: also what is not the program's own.
#[test]
fn go_stacks_are_those_of_the_runtime() {
    check("go_stacks_are_those_of_the_runtime", || {
        let folder = Folder::new()?;
        let build = |name, arguments: &[&str]| native::build(Language::Go, folder.path(), name, arguments);
        let plain = build("go-plain", &[])?;
        compare(
            &plain,
            |truth| truth.places.clone(),
            |site, _| {
                let frames = site.frames().iter().skip_while(|frame| frame.function != "main.(*loader).open");
                Ok(frames.map(|frame| (frame.function.clone(), frame.line.unwrap_or(0))).collect())
            },
        )?;
        let stripped = build("go-stripped", &["-ldflags=-s -w"])?;
        let place = |address: u64| format!("go-stripped+{address:#x}");
        compare(
            &stripped,
            |truth| truth.addresses.iter().skip(1).map(|(_, address)| place(*address)).collect::<Vec<_>>(),
            |site, truths| {
                // Inside of the call that connects, the program says nothing: its frames begin with the caller of that.
                let caller = truths[0].addresses.get(1).context("a caller")?.1;
                let functions = site.frames().iter().map(|frame| frame.function.clone());
                Ok(functions.skip_while(|function| *function != place(caller)).collect())
            },
        )
    });
}
