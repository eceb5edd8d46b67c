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

/// Addresses of nameless frames of this file, each with the file's build-id.
fn addresses<'a>(frames: impl Iterator<Item = &'a Frame>, file: &Path, build_id: &str) -> Result<Vec<u64>> {
    let name = file.file_name().context("a name")?.to_string_lossy().into_owned();
    let address = |frame: &Frame| {
        ensure!(frame.file.is_none() && frame.line.is_none(), "out of nowhere: {frame:?}");
        ensure!(frame.build_id.as_deref() == Some(build_id), "it is {build_id}: {frame:?}");
        let address = frame.function.strip_prefix(&name).and_then(|rest| rest.strip_prefix("+0x"));
        u64::from_str_radix(address.with_context(|| format!("no address: {frame:?}"))?, 16).context("read it")
    };
    frames.filter(|frame| is_of(frame, file)).map(address).collect()
}

/// A copy without names. Each frame is a place in the file, and leads to the name, given the original.
fn stripped(language: Language, original: &Path) -> Result<()> {
    let copy = native::strip(original, "stripped")?;
    let build_id = native::build_id(language, original)?;
    compare(
        &copy,
        |truth| {
            // The innermost has the address of another call on the same line.
            let own = truth.addresses.iter().filter(|(file, _)| Path::new(file) == copy).skip(1);
            let addresses: Vec<_> = own.map(|(_, address)| *address).collect();
            (truth.places.clone(), addresses, files(truth.addresses.iter().map(|(file, _)| file.as_str())))
        },
        |site, _| {
            let calls: Vec<_> = site.frames().iter().skip_while(|frame| !is_of(frame, &copy)).collect();
            let modules = files(calls.iter().map(|frame| frame.module.as_deref().unwrap_or("(none)")));
            let addresses = addresses(calls.into_iter(), &copy, &build_id)?;
            let named = native::names(original, &addresses)?;
            let is_own = |(function, line): &(String, u64)| {
                *line > 0 && !LIBRARIES.iter().any(|start| function.contains(start))
            };
            let innermost = named.iter().position(|places| places.iter().any(is_own)).context("a name")?;
            let places = named.into_iter().flatten().filter(is_own);
            let places = places.map(|(function, line)| (short(&function).to_owned(), line)).collect();
            Ok((places, addresses[innermost + 1..].to_vec(), modules))
        },
    )
}

#[test]
fn c_stacks_are_those_of_the_program() {
    check("c_stacks_are_those_of_the_program", || {
        let folder = Folder::new()?;
        let build = |name, arguments: &[&str]| native::build(Language::C, folder.path(), name, arguments);
        let plain = build("c-plain", &["-g"])?;
        names_and_lines(&plain)?;
        names_and_lines(&build("c-frames", &["-g", "-fno-omit-frame-pointer"])?)?;
        stripped(Language::C, &plain)
    });
}

#[test]
fn cpp_stacks_are_those_of_the_program() {
    check("cpp_stacks_are_those_of_the_program", || {
        let folder = Folder::new()?;
        let build = |name, arguments: &[&str]| native::build(Language::Cpp, folder.path(), name, arguments);
        let plain = build("cpp-plain", &["-g"])?;
        names_and_lines(&plain)?;
        names_and_lines(&build("cpp-frames", &["-g", "-fno-omit-frame-pointer"])?)?;
        stripped(Language::Cpp, &plain)
    });
}

#[test]
fn rust_stacks_are_those_of_the_program() {
    check("rust_stacks_are_those_of_the_program", || {
        let folder = Folder::new()?;
        let build = |name, arguments: &[&str]| native::build(Language::Rust, folder.path(), name, arguments);
        // Linkers other than the system's write one only when asked.
        let plain = build("rust-plain", &["-g", "-Clink-arg=-Wl,--build-id"])?;
        names_and_lines(&plain)?;
        names_and_lines(&build("rust-frames", &["-g", "-Cforce-frame-pointers=yes"])?)?;
        stripped(Language::Rust, &plain)
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
        let build_id = native::build_id(Language::Go, &stripped)?;
        compare(
            &stripped,
            |truth| truth.addresses.iter().skip(1).map(|(_, address)| *address).collect::<Vec<_>>(),
            |site, truths| {
                // Inside of the call that connects, the program says nothing: its frames begin with the caller of that.
                let caller = truths[0].addresses.get(1).context("a caller")?.1;
                let elsewhere = site.frames().iter().find(|frame| !is_of(frame, &stripped));
                ensure!(elsewhere.is_none(), "all of Go is in the program: {elsewhere:?}");
                let addresses = addresses(site.frames().iter(), &stripped, &build_id)?;
                Ok(addresses.into_iter().skip_while(|address| *address != caller).collect())
            },
        )
    });
}
