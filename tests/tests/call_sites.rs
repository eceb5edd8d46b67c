//! The line of code behind each connection of Python programs, against what the interpreter itself says: at the open in
//! every shape of code, in every Python that is here, inside a container, and at the close. Truth comes from the programs,
//! never from portchurn. Needs the privileges of a tracer, and at least one Python.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use portchurn_tests::harness::folder::Folder;
use portchurn_tests::harness::namespaces::contained;
use portchurn_tests::harness::sites::{self, Destination, Site};
use portchurn_tests::harness::{check, check_where_possible, python, servers, skip};

/// A stack as its names, files and lines, innermost first, and how often.
type Stacks = BTreeMap<Vec<(String, String, u64)>, u64>;

/// The Python frames of a stack. Qualified names from 3.11 on: the interpreter's account has the last part.
fn python_frames(site: &Site) -> Vec<(String, String, u64)> {
    let frames = site.frames().iter().filter(|frame| frame.language == "python");
    let frame = |frame: &sites::Frame| {
        let name = frame.function.rsplit('.').next().unwrap_or_default().to_owned();
        (name, frame.file.clone().unwrap_or_default(), frame.line.unwrap_or(0))
    };
    frames.map(frame).collect()
}

/// Every stack at this moment.
fn stacks(destinations: &[Destination], at: &str) -> Stacks {
    let mut stacks = Stacks::new();
    for site in destinations.iter().flat_map(|to| to.sites(at)) {
        *stacks.entry(python_frames(site)).or_default() += site.count;
    }
    stacks
}

/// What the script wrote down, and the lowest process number that it saw.
fn account(path: &Path) -> Result<(Stacks, u64)> {
    let (mut stacks, mut lowest) = (Stacks::new(), u64::MAX);
    for line in std::fs::read_to_string(path)?.lines() {
        let value: serde_json::Value = serde_json::from_str(line)?;
        let stack: Vec<(String, String, u64)> = serde_json::from_value(value["stack"].clone())?;
        *stacks.entry(stack).or_default() += 1;
        lowest = lowest.min(value["pid"].as_u64().context("a process number")?);
    }
    ensure!(!stacks.is_empty(), "the script did nothing");
    Ok((stacks, lowest))
}

/// Runs the script, perhaps elsewhere, and compares every stack and its count.
fn equal(python: &Path, is_contained: bool) -> Result<()> {
    equal_with(python, is_contained, &[])
}

fn equal_with(python: &Path, is_contained: bool, arguments: &[&str]) -> Result<()> {
    let folder = Folder::new()?;
    let port = servers::accepting()?;
    let mut tracer = sites::start(port, arguments)?;
    let written = folder.path().join("account.jsonl");
    let mut command = python::command(python, "truth.py");
    command.arg(port.to_string()).arg(&written).arg("5").env("FORK", "1");
    if is_contained {
        contained(&mut command);
    }
    ensure!(command.status()?.success(), "the script itself failed");
    let (truth, lowest) = account(&written)?;
    ensure!((lowest == 1) == is_contained, "its own process number was {lowest}");
    sites::wait_for(&mut tracer, &written.display().to_string(), |destinations| {
        sites::none_too_soon(destinations)?;
        sites::opens_are(destinations, truth.values().sum())?;
        let found = stacks(destinations, "open");
        let wrong: Vec<_> = truth.iter().filter(|(stack, count)| found.get(*stack) != Some(count)).collect();
        ensure!(wrong.is_empty(), "{python:?}: not so: {wrong:#?}, but {found:#?}");
        ensure!(found.len() == truth.len(), "{python:?}: stacks that were not: {found:#?}");
        Ok(())
    })?;
    tracer.stop()?;
    Ok(())
}

fn every_python(test: impl Fn(&Path) -> Result<()>) -> Result<()> {
    let pythons = python::all();
    if pythons.is_empty() {
        return Err(skip("there is no Python 3.7 or later here"));
    }
    pythons.iter().try_for_each(|python| sites::in_time(|| test(python)))
}

/// So that nobody takes for tried what is not here.
#[test]
fn every_version_is_here() {
    check_where_possible("every_version_is_here", || match python::missing().as_slice() {
        [] => Ok(()),
        missing => Err(skip(format!("no Python {}: not tried", missing.join(", ")))),
    });
}

#[test]
fn python_frames_are_those_of_the_interpreter() {
    check("python_frames_are_those_of_the_interpreter", || every_python(|python| equal(python, false)));
}

/// Thread-specific data leads to the state of a thread nearly everywhere; this is the other way.
#[test]
fn python_frames_by_a_search_for_the_thread() {
    check("python_frames_by_a_search_for_the_thread", || {
        every_python(|python| equal_with(python, false, &["--search-threads"]))
    });
}

/// With process numbers and mounts of its own, as in a container.
#[test]
fn python_frames_in_other_pid_and_mount_namespaces() {
    check("python_frames_in_other_pid_and_mount_namespaces", || every_python(|python| equal(python, true)));
}

/// What the script says of one close: a name for it, and the line at work; none when the process is ending.
type Close = (String, Option<(String, u64)>);

fn closes(python: &Path) -> Result<()> {
    let port = servers::accepting()?;
    let mut tracer = sites::start(port, &[])?;
    let said = python::run(python, "closes.py", [port.to_string()])?;
    let mut truth: BTreeMap<Option<(String, u64)>, u64> = BTreeMap::new();
    for line in said.lines() {
        let (kind, place): Close =
            serde_json::from_str(line).with_context(|| format!("understand {line}"))?;
        ensure!(!kind.is_empty(), "a close without a name");
        *truth.entry(place).or_default() += 1;
    }
    let total: u64 = truth.values().sum();
    ensure!(total == 6, "the script did something else: {said}");
    let word = python::script("closes.py").display().to_string();
    sites::wait_for(&mut tracer, &word, |destinations| {
        sites::none_too_soon(destinations)?;
        sites::opens_are(destinations, total)?;
        let mut found = BTreeMap::new();
        for site in destinations.iter().flat_map(|to| to.sites("close")) {
            let place = site.culprit.as_ref().map(|place| {
                let name = place.function.rsplit('.').next().unwrap_or_default().to_owned();
                (name, place.line.unwrap_or(0))
            });
            let says_exit = site.note.as_deref().is_some_and(|note| note.starts_with("process exit"));
            ensure!(place.is_none() == says_exit, "an end of the process, or not? {site:?}");
            *found.entry(place).or_default() += site.count;
        }
        ensure!(found == truth, "{python:?}: found {found:#?}, it was {truth:#?}");
        Ok(())
    })?;
    tracer.stop()?;
    Ok(())
}

#[test]
fn closes_are_the_line_s_that_let_go() {
    check("closes_are_the_line_s_that_let_go", || every_python(closes));
}

/// Nothing is known of these but what they say of themselves. Debian's next release has them, and may move on.
#[test]
fn pythons_from_3_14_on_are_read_like_the_others() {
    check_where_possible("pythons_from_3_14_on_are_read_like_the_others", || {
        let pythons = python::newest();
        if pythons.is_empty() {
            return Err(skip("no Python 3.14 or later: `cargo xtask test` fetches it where it can be had"));
        }
        pythons.iter().try_for_each(|python| {
            sites::in_time(|| equal(python, false))?;
            sites::in_time(|| equal(python, true))?;
            sites::in_time(|| equal_with(python, false, &["--search-threads"]))?;
            sites::in_time(|| closes(python))
        })
    });
}

/// An application, and what it carries along of somebody else's.
const APP: &str = "import sys\nfrom vendored.db import get_session\n\n\ndef sync():\n    get_session(int(sys.argv[1]))\n\n\nfor _ in range(20):\n    sync()\n";
const VENDORED: &str = "import socket\n\n\ndef get_session(port):\n    socket.create_connection((\"127.0.0.1\", port)).close()\n";

/// What is the application's is told by where code lies; whoever knows better says so.
#[test]
fn what_is_the_application_s_can_be_said() {
    check("what_is_the_application_s_can_be_said", || {
        let folder = Folder::new()?;
        let app = folder.path().join("app.py").display().to_string();
        std::fs::create_dir(folder.path().join("vendored"))?;
        std::fs::write(&app, APP)?;
        std::fs::write(folder.path().join("vendored/db.py"), VENDORED)?;
        for (arguments, culprit, called_from) in [
            (&[] as &[&str], ("db.py", "get_session", Some(5)), "sync"),
            (&["--skip-path", "/vendored/"], ("app.py", "sync", Some(6)), "<module>"),
            (&["--app-path", "/socket.py"], ("socket.py", "create_connection", None), "get_session"),
        ] {
            sites::in_time(|| blames(&app, arguments, culprit, called_from))
                .with_context(|| arguments.join(" "))?;
        }
        Ok(())
    });
}

/// Where and who; the line, if it is ours to know.
type Blamed<'a> = (&'a str, &'a str, Option<u64>);

fn blames(app: &str, arguments: &[&str], culprit: Blamed<'_>, called_from: &str) -> Result<()> {
    let port = servers::accepting()?;
    let mut tracer = sites::start(port, arguments)?;
    python::run(&python::system()?, app, [port.to_string()])?;
    sites::wait_for(&mut tracer, app, |destinations| {
        sites::none_too_soon(destinations)?;
        sites::opens_are(destinations, 20)?;
        for site in destinations.iter().flat_map(|to| to.sites("open")) {
            let (file, function, line) = culprit;
            let place = site.culprit.as_ref().with_context(|| format!("nobody is blamed: {site:?}"))?;
            let is_there = place.file.as_deref().is_some_and(|path| path.ends_with(&format!("/{file}")));
            let is_it = is_there && place.function == function && (line.is_none() || place.line == line);
            ensure!(is_it, "{place:?} is blamed, it was to be {culprit:?}");
            let above = site.called_from.as_ref().map(|place| place.function.as_str());
            ensure!(above == Some(called_from), "called from {above:?}, it was to be {called_from}");
        }
        Ok(())
    })?;
    tracer.stop()?;
    Ok(())
}
