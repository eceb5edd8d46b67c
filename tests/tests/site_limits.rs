//! Where call sites end: more connections than stacks may be copied, interpreters that are not known or say what is not
//! so, a kernel without type information. Counts stay exact, and what is missing is said.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use portchurn_tests::harness::elf::sections;
use portchurn_tests::harness::folder::Folder;
use portchurn_tests::harness::mounts::Tracefs;
use portchurn_tests::harness::native::{self, Language, Running};
use portchurn_tests::harness::sites::{self, Destination};
use portchurn_tests::harness::tracer::Tracer;
use portchurn_tests::harness::{Alone, check, python, servers, skip};

/// Connections under load. Fewer than there are local ports.
const MANY: u64 = 12_000;
/// Copies of stacks per second and process that are allowed; as docs say.
const COPIES_PER_S: u64 = 40;

#[test]
fn under_load_python_lines_are_counted_exactly() {
    check("under_load_python_lines_are_counted_exactly", || {
        let _alone = Alone::wait()?;
        let port = servers::accepting()?;
        let mut tracer = sites::start(port, &[])?;
        let said = python::run(&python::system()?, "load.py", [port.to_string(), MANY.to_string()])?;
        let truth: Vec<(u64, u64)> = serde_json::from_str(&said)?;
        let truth: BTreeMap<u64, u64> = truth.into_iter().collect();
        ensure!(truth.len() == 2 && truth.values().sum::<u64>() == MANY, "it did something else: {truth:?}");
        let word = python::script("load.py").display().to_string();
        sites::wait_for(&mut tracer, &word, |destinations| {
            sites::opens_are(destinations, MANY)?;
            let (mut found, mut too_soon) = (BTreeMap::new(), 0);
            for site in destinations.iter().flat_map(|to| to.sites("open")) {
                if site.is_too_soon() {
                    too_soon += site.count;
                    continue;
                }
                ensure!(site.exact, "not exact: {site:?}");
                let line = site.culprit.as_ref().and_then(|place| place.line);
                *found.entry(line.with_context(|| format!("no line: {site:?}"))?).or_default() += site.count;
            }
            sites::are_those(&found, &truth, too_soon)
        })?;
        tracer.stop()?;
        Ok(())
    });
}

/// Both functions that connect are on some stack.
fn both_callers_are_there(destinations: &[Destination]) -> Result<()> {
    for caller in ["often", "seldom"] {
        let mut all = destinations.iter().flat_map(|to| to.sites("open"));
        ensure!(all.any(|site| site.functions().contains(&caller)), "{caller} is not there");
    }
    Ok(())
}

/// How many stacks were read: some, and no more than were allowed since then.
fn read_within_budget(destinations: &[Destination], begun: Instant) -> Result<u64> {
    // How long it took only makes more copies allowed. The first second's may be taken at once.
    let allowed = COPIES_PER_S * (begun.elapsed().as_secs() + 2);
    let sites = destinations.iter().flat_map(|to| &to.call_sites);
    let read: u64 = sites.filter_map(|site| site.sampled).sum();
    ensure!(read > 0 && read <= allowed, "{read} stacks were read, {allowed} were allowed");
    Ok(read)
}

#[test]
fn under_load_native_stacks_are_sampled_within_the_budget() {
    check("under_load_native_stacks_are_sampled_within_the_budget", || {
        let _alone = Alone::wait()?;
        let folder = Folder::new()?;
        let program = native::build(Language::C, folder.path(), "program", ["-g"])?;
        let port = servers::accepting()?;
        let begun = Instant::now();
        let mut tracer = sites::start(port, &[])?;
        let arguments = ["load", &MANY.to_string()];
        let mut running = Running::start(native::command(&program, port, arguments), &program)?;
        running.said()?;
        let found = sites::wait_for(&mut tracer, &program.display().to_string(), |destinations| {
            sites::opens_are(destinations, MANY)?;
            both_callers_are_there(destinations)?;
            let all = || destinations.iter().flat_map(|to| to.sites("open"));
            ensure!(
                all().all(|site| site.exact == site.sampled.is_none()),
                "exact or sampled? {destinations:?}"
            );
            ensure!(all().any(|site| site.sampled.is_some()), "nothing says that it was sampled");
            Ok(())
        })?;
        read_within_budget(&found, begun)?;
        tracer.stop()?;
        running.finish()
    });
}

/// Refused connects, as fast as one processor makes them.
const STORM: u64 = 300_000;
/// By so much memory may grow meanwhile. KiB.
const GROWTH_KIB: u64 = 16 << 10;

#[test]
fn a_storm_of_refused_connects_is_accounted_for_to_the_last() {
    check("a_storm_of_refused_connects_is_accounted_for_to_the_last", || {
        let _alone = Alone::wait()?;
        let folder = Folder::new()?;
        let program = native::build(Language::C, folder.path(), "program", ["-g"])?;
        let port = servers::free_port()?;
        let mut tracer = sites::start(port, &[])?;
        let before_kib = tracer.resident_kib()?;
        let begun = Instant::now();
        let arguments = ["refused", &STORM.to_string()];
        let mut running = Running::start(native::command(&program, port, arguments), &program)?;
        running.said()?;
        let per_s = STORM as f64 / begun.elapsed().as_secs_f64();
        let found = sites::wait_for(&mut tracer, &program.display().to_string(), |destinations| {
            sites::opens_are(destinations, STORM)?;
            let refused: u64 = destinations.iter().filter_map(|to| to.failed_by.get("ECONNREFUSED")).sum();
            ensure!(refused == STORM, "{refused} refused, the program says {STORM}");
            both_callers_are_there(destinations)?;
            Ok(())
        })?;
        sites::nothing_lost(&tracer.latest)?;
        let read = read_within_budget(&found, begun)?;
        let grown_kib = tracer.resident_kib()?.saturating_sub(before_kib);
        ensure!(grown_kib <= GROWTH_KIB, "memory grew by {grown_kib} KiB");
        let storm = format!("{per_s:.0} refused connects per second, memory grew by {grown_kib} KiB");
        sites::say_named(&storm, read, STORM, "the rest by count");
        tracer.stop()?;
        running.finish()
    });
}

/// A copy of the system's Python that says it were another version.
fn python_of_version(word: u32, folder: &Path) -> Result<PathBuf> {
    let python = std::fs::canonicalize(python::system()?)?;
    let mut bytes = std::fs::read(&python).context("read Python")?;
    let own = 0x0300_0000u32;
    let section = sections(&bytes).into_iter().find(|section| section.name == ".rodata");
    let section = section.ok_or_else(|| skip("Python without constants"))?;
    let constants = &mut bytes[section.at..section.at + section.size];
    // `Py_Version`: 3, the minor version, and then the release.
    let minor: u8 = python
        .to_string_lossy()
        .rsplit('.')
        .next()
        .and_then(|text| text.parse().ok())
        .context("a version")?;
    let mut changed = 0;
    for place in constants.chunks_exact_mut(4) {
        let found = u32::from_le_bytes(place.try_into()?);
        if found & 0xffff_0000 == own | u32::from(minor) << 16 && found & 0xff == 0xf0 {
            place.copy_from_slice(&word.to_le_bytes());
            changed += 1;
        }
    }
    if changed == 0 {
        return Err(skip("this Python keeps its version elsewhere"));
    }
    let path = folder.join("python3");
    std::fs::write(&path, bytes)?;
    std::fs::set_permissions(&path, std::fs::metadata(&python)?.permissions())?;
    Ok(path)
}

/// Runs a script with such a Python, then with an honest one. What was found of the first, and that the second is named.
fn with_python_of_version(word: u32, judge: impl Fn(&sites::Site) -> Result<()>) -> Result<()> {
    // No more than there are copies of stacks in the first second: of each connect and of each close.
    const TIMES: u64 = COPIES_PER_S / 2;
    let folder = Folder::new()?;
    let odd = python_of_version(word, folder.path())?;
    let port = servers::accepting()?;
    let mut tracer = sites::start(port, &[])?;
    let script = folder.path().join("load.py");
    std::fs::copy(python::script("load.py"), &script)?;
    let mut command = std::process::Command::new(&odd);
    command.env("PYTHONHOME", "/usr").arg(&script).args([port.to_string(), TIMES.to_string()]);
    ensure!(command.output()?.status.success(), "such a Python does not run");
    sites::wait_for(&mut tracer, &script.display().to_string(), |destinations| {
        sites::opens_are(destinations, TIMES)?;
        let all = || destinations.iter().flat_map(|to| to.sites("open")).filter(|site| !site.is_too_soon());
        ensure!(all().count() > 0, "all of it was too soon: {destinations:?}");
        all().try_for_each(&judge)
    })?;
    python::run(&python::system()?, "load.py", [port.to_string(), TIMES.to_string()])?;
    sites::wait_for(&mut tracer, &python::script("load.py").display().to_string(), |destinations| {
        sites::opens_are_python(destinations, TIMES)
    })?;
    tracer.stop()?;
    Ok(())
}

#[test]
fn a_python_that_is_not_known_is_refused_with_a_reason() {
    check("a_python_that_is_not_known_is_refused_with_a_reason", || {
        with_python_of_version(0x0363_00f0, |site| {
            let note = site.note.as_deref().unwrap_or_default();
            ensure!(note.contains("3.99 is not known"), "{site:?}");
            ensure!(site.frames().iter().all(|frame| frame.language == "native"), "{site:?}");
            Ok(())
        })
    });
}

#[test]
fn a_python_that_lies_of_its_version_gets_no_wrong_line() {
    check("a_python_that_lies_of_its_version_gets_no_wrong_line", || {
        with_python_of_version(0x0308_00f0, |site| {
            ensure!(site.note.is_some(), "not labelled: {site:?}");
            let named = site.frames().iter().find(|frame| frame.language == "python" && frame.file.is_some());
            ensure!(named.is_none(), "a line that is not so: {named:?}");
            Ok(())
        })
    });
}

#[test]
fn without_interpreters_their_native_frames_are_there_and_a_reason() {
    check("without_interpreters_their_native_frames_are_there_and_a_reason", || {
        sites::in_time(native_frames_only)
    });
}

fn native_frames_only() -> Result<()> {
    // As many as there are copies of stacks in the first second: of each connect and of each close.
    const TIMES: u64 = COPIES_PER_S / 2;
    let port = servers::accepting()?;
    let mut tracer = sites::start_taking("native", port, &[])?;
    python::run(&python::system()?, "load.py", [port.to_string(), TIMES.to_string()])?;
    let word = python::script("load.py").display().to_string();
    sites::wait_for(&mut tracer, &word, |destinations| {
        sites::opens_are(destinations, TIMES)?;
        sites::none_gone(destinations)?;
        for site in destinations.iter().flat_map(|to| to.call_sites.iter()) {
            ensure!(!site.frames().is_empty(), "nothing was taken: {site:?}");
            ensure!(site.frames().iter().all(|frame| frame.language == "native"), "{site:?}");
            let note = site.note.as_deref();
            ensure!(note == Some("interpreter frames were not asked for"), "{site:?}");
        }
        Ok(())
    })?;
    tracer.stop()?;
    Ok(())
}

#[test]
fn without_type_information_counts_stay_and_a_reason_is_said() {
    check("without_type_information_counts_stay_and_a_reason_is_said", || {
        const TIMES: u64 = 50;
        let port = servers::accepting()?;
        let arguments = ["--no-btf", "--stack", "auto", "-D", &port.to_string()];
        let mut tracer = Tracer::start_with(&arguments, Tracefs::Mounted)?;
        let first: serde_json::Value = serde_json::from_str(&tracer.text)?;
        let hooks = first["hooks"].as_array().context("hooks")?;
        let hook =
            hooks.iter().find(|hook| hook["name"] == "call_sites").context("no hook for call sites")?;
        ensure!(hook["attached"] == "none", "it is attached: {hook}");
        ensure!(hook["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "no reason: {hook}");
        python::run(&python::system()?, "load.py", [port.to_string(), TIMES.to_string()])?;
        tracer.wait_until(|report| {
            let programs = report.programs.iter().flat_map(|program| &program.destinations);
            let opened: u64 = programs.filter(|to| to.role == "connect").map(|to| to.tally.opened).sum();
            ensure!(opened == TIMES, "{opened} opened, it was {TIMES}");
            Ok(())
        })?;
        tracer.stop()?;
        Ok(())
    });
}
