//! Names of stacks whose program is hard to look at: replaced on the disk, gone a moment later, in namespaces of its own,
//! with a library that comes later, with more stack than is copied. And 200 scripts that connect once and end.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use portchurn_tests::harness::folder::Folder;
use portchurn_tests::harness::namespaces::contained;
use portchurn_tests::harness::native::{self, Language, Running, Truth};
use portchurn_tests::harness::programs::{bound, die_with_parent};
use portchurn_tests::harness::sites::{self, Site};
use portchurn_tests::harness::tracer::Tracer;
use portchurn_tests::harness::{check, python, servers};

fn build(folder: &Path) -> Result<std::path::PathBuf> {
    // The library uses what the program has.
    native::build(Language::C, folder, "program", ["-g", "-rdynamic"])
}

/// Names and lines of what has any, without the C library and the start of the program.
fn places(site: &Site) -> Vec<(String, u64)> {
    let is_libc = |module: &str| module.rsplit('/').next().is_some_and(|name| name.starts_with("libc."));
    let frames = site.frames().iter().filter(|frame| !frame.module.as_deref().is_some_and(is_libc));
    let places = frames.map(|frame| (frame.function.clone(), frame.line.unwrap_or(0)));
    places.filter(|(function, _)| function != "_start").collect()
}

/// That what was opened is what the program says, each once, and without a note.
fn same(tracer: &mut Tracer, word: &str, truths: &[Truth]) -> Result<()> {
    let mut truth: Vec<_> = truths.iter().map(|truth| truth.places.clone()).collect();
    truth.sort();
    ensure!(!truth.is_empty(), "the program did nothing");
    sites::wait_for(tracer, word, |destinations| {
        sites::opens_are(destinations, truth.len() as u64)?;
        let mut found = Vec::new();
        for site in destinations.iter().flat_map(|to| to.sites("open")) {
            ensure!(site.note.is_none(), "{site:?}");
            found.extend((0..site.count).map(|_| places(site)));
        }
        found.sort();
        ensure!(found == truth, "found {found:#?}, it was {truth:#?}");
        Ok(())
    })?;
    Ok(())
}

#[test]
fn a_library_that_comes_later_has_names() {
    check("a_library_that_comes_later_has_names", || {
        let folder = Folder::new()?;
        let (program, library) = (build(folder.path())?, native::build_library(folder.path())?);
        let port = servers::accepting()?;
        let mut tracer = sites::start(port, &[])?;
        let arguments = ["library".into(), library.into_os_string()];
        let mut running = Running::start(native::command(&program, port, arguments), &program)?;
        let mut truths = running.said()?;
        // What is mapped was read for this one already.
        same(&mut tracer, &program.display().to_string(), &truths)?;
        running.go_on()?;
        truths.extend(running.said()?);
        ensure!(truths[1].places[0].0 == "plugin_open", "the library was not asked: {truths:?}");
        same(&mut tracer, &program.display().to_string(), &truths)?;
        tracer.stop()?;
        running.finish()
    });
}

/// What happens to the program's file while it runs.
fn with_another_file(change: impl Fn(&Path) -> Result<()>) -> Result<()> {
    let folder = Folder::new()?;
    let program = build(folder.path())?;
    let port = servers::accepting()?;
    // Nothing of the program was read before.
    let mut running = Running::start(native::command(&program, port, ["twice"]), &program)?;
    running.said()?;
    change(&program)?;
    let mut tracer = sites::start(port, &[])?;
    running.go_on()?;
    let truths = running.said()?;
    same(&mut tracer, &program.display().to_string(), &truths)?;
    tracer.stop()?;
    running.finish()
}

#[test]
fn a_deleted_program_has_names() {
    check("a_deleted_program_has_names", || {
        with_another_file(|path| std::fs::remove_file(path).context("delete the program"))
    });
}

#[test]
fn a_replaced_program_has_the_names_of_the_old_one() {
    check("a_replaced_program_has_the_names_of_the_old_one", || {
        with_another_file(|path| {
            // Another program in its place: as an upgrade does it.
            let new = path.with_extension("new");
            std::fs::copy("/bin/true", &new).context("copy a program")?;
            std::fs::rename(&new, path).context("replace the program")
        })
    });
}

#[test]
fn a_program_that_only_its_own_mounts_have_is_named() {
    check("a_program_that_only_its_own_mounts_have_is_named", || {
        let folder = Folder::new()?;
        let program = build(folder.path())?;
        let inside = folder.path().join("inside");
        std::fs::create_dir(&inside)?;
        let port = servers::accepting()?;
        let mut tracer = sites::start(port, &[])?;
        let mut command = Command::new("/bin/sh");
        command.args([
            "-c",
            "mount -t tmpfs none \"$1\" && cp \"$2\" \"$1/hidden\" && exec \"$1/hidden\" $3 shapes 2",
        ]);
        command.arg("sh").arg(&inside).arg(&program).arg(port.to_string());
        bound(&mut command);
        die_with_parent(&mut command);
        contained(&mut command);
        let hidden = inside.join("hidden");
        let mut running = Running::start(command, &hidden)?;
        let truths = running.said()?;
        ensure!(!hidden.exists(), "everybody can see it");
        same(&mut tracer, &hidden.display().to_string(), &truths)?;
        tracer.stop()?;
        running.finish()
    });
}

/// Ten milliseconds after its only connect the program is gone. Each run has its names, or counts as gone; how many have
/// depends on the machine.
#[test]
fn a_program_that_ends_at_once_is_named() {
    const NAME: &str = "a_program_that_ends_at_once_is_named";
    check(NAME, || {
        const RUNS: u64 = 20;
        let folder = Folder::new()?;
        let program = build(folder.path())?;
        let port = servers::accepting()?;
        let mut tracer = sites::start(port, &[])?;
        let mut truths = Vec::new();
        for _ in 0..RUNS {
            let mut running = Running::start(native::command(&program, port, ["gone"]), &program)?;
            truths.extend(running.said()?);
            running.finish()?;
        }
        ensure!(truths.len() as u64 == RUNS, "the program did something else: {truths:?}");
        let truth = &truths[0].places;
        ensure!(truths.iter().all(|other| other.places == *truth), "it is not always the same: {truths:?}");
        let found = sites::wait_for(&mut tracer, &program.display().to_string(), |destinations| {
            sites::opens_are(destinations, RUNS)?;
            for site in destinations.iter().flat_map(|to| to.sites("open")) {
                let is_named = site.note.is_none() && places(site) == *truth;
                let is_gone = site.is_gone() && site.frames().is_empty();
                ensure!(is_named || is_gone, "neither right nor gone: {site:?}, it was {truth:?}");
            }
            Ok(())
        })?;
        let all = found.iter().flat_map(|to| to.sites("open"));
        let gone: u64 = all.filter(|site| site.is_gone()).map(|site| site.count).sum();
        sites::say_named(NAME, RUNS - gone, RUNS, format_args!("gone: {gone}"));
        ensure!(gone < RUNS, "none was named");
        tracer.stop()?;
        Ok(())
    });
}

/// A stack of which the outer part is missing: what is there is right, and the note says why no more is.
fn cut_off(shape: &str, why: &str) -> Result<()> {
    let folder = Folder::new()?;
    let program = build(folder.path())?;
    let port = servers::accepting()?;
    let mut tracer = sites::start(port, &[])?;
    let mut running = Running::start(native::command(&program, port, [shape]), &program)?;
    let truths = running.said()?;
    let truth = &truths.first().context("a connect")?.places;
    sites::wait_for(&mut tracer, &program.display().to_string(), |destinations| {
        sites::opens_are(destinations, 1)?;
        let site = destinations.iter().flat_map(|to| to.sites("open")).next().context("a site")?;
        ensure!(site.note.as_deref() == Some(why), "{site:?}");
        let found = places(site);
        ensure!(found.len() >= 4 && found.len() < truth.len(), "found {found:?}, it was {truth:?}");
        ensure!(truth.starts_with(&found), "found {found:?}, it was {truth:?}");
        Ok(())
    })?;
    tracer.stop()?;
    running.finish()
}

#[test]
fn a_stack_that_is_too_long_says_so() {
    check("a_stack_that_is_too_long_says_so", || {
        cut_off("enormous", "cut off: the stack is longer than the copy")
    });
}

/// Memory that the program never touched is not there, and nothing of ours makes it so.
#[test]
fn a_stack_that_cannot_be_read_says_so() {
    check("a_stack_that_cannot_be_read_says_so", || {
        cut_off("untouched", "cut off: the stack could not be read any further")
    });
}

/// Scripts that connect once and end, from a shell loop. Each is accounted for: by its line, or by a reason.
#[test]
fn scripts_that_connect_once() {
    check("scripts_that_connect_once", || {
        const RUNS: u64 = 200;
        let port = servers::accepting()?;
        let mut tracer = sites::start(port, &[])?;
        let script = python::script("once.py").display().to_string();
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", "for i in $(seq $4); do \"$1\" \"$2\" $3 || exit 1; done", "sh"]);
        shell.arg(python::system()?).args([&script, &port.to_string(), &RUNS.to_string()]);
        bound(&mut shell);
        die_with_parent(&mut shell);
        ensure!(shell.status()?.success(), "a script failed");
        let source = std::fs::read_to_string(python::script("once.py"))?;
        let line = source.lines().position(|line| line.contains("create_connection"));
        let line = line.map(|index| index as u64 + 1);
        let found = sites::wait_for(&mut tracer, &script, |destinations| {
            sites::opens_are(destinations, RUNS)?;
            for site in destinations.iter().flat_map(|to| to.sites("open")) {
                let is_named = site.language.as_deref() == Some("python");
                ensure!(is_named || site.note.is_some(), "neither a line nor a reason: {site:?}");
                let place = site.culprit.as_ref().filter(|_| is_named);
                let is_right =
                    |place: &sites::Place| place.line == line && place.file.as_deref() == Some(&script);
                ensure!(place.is_none_or(is_right), "a wrong line: {site:?}");
            }
            Ok(())
        })?;
        let mut reasons: BTreeMap<String, u64> = BTreeMap::new();
        for site in found.iter().flat_map(|to| to.sites("open")) {
            let is_named = site.language.as_deref() == Some("python");
            let reason = if is_named { "named" } else { site.note.as_deref().unwrap_or_default() };
            *reasons.entry(reason.to_owned()).or_default() += site.count;
        }
        let named = reasons.remove("named").unwrap_or(0);
        sites::say_named("scripts_that_connect_once", named, RUNS, &reasons);
        ensure!(named + reasons.values().sum::<u64>() == RUNS, "not all of them: {reasons:?}");
        ensure!(named > 0, "none was named: {reasons:?}");
        tracer.stop()?;
        Ok(())
    });
}
