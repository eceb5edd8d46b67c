//! Programs that mean harm, or are broken: names and paths that a terminal would obey, files whose descriptions are noise,
//! a process that becomes another one. portchurn counts, says what it could not see, prints nothing that it should not,
//! and goes on to name the next program.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use portchurn_tests::harness::broken::{PARTS, broken};
use portchurn_tests::harness::folder::Folder;
use portchurn_tests::harness::native::{self, Language, Running};
use portchurn_tests::harness::printer::{Printer, links_of};
use portchurn_tests::harness::sites::{self, Site};
use portchurn_tests::harness::tracer::Tracer;
use portchurn_tests::harness::{check, python, servers};

/// Names and lines of the program's own frames.
fn own(site: &Site, program: &Path) -> Vec<(String, u64)> {
    let frames = site.frames().iter().filter(|frame| frame.module.as_deref() == program.to_str());
    let places = frames.map(|frame| (frame.function.clone(), frame.line.unwrap_or(0)));
    places.filter(|(function, _)| function != "_start").collect()
}

/// A healthy program is named as it should be: whatever came before did no harm.
fn still_names(tracer: &mut Tracer, healthy: &Path, port: u16) -> Result<()> {
    let mut running = Running::start(native::command(healthy, port, ["shapes", "1"]), healthy)?;
    let mut truth: Vec<_> = running.said()?.into_iter().map(|truth| truth.places).collect();
    truth.sort();
    sites::wait_for(tracer, &healthy.display().to_string(), |destinations| {
        sites::opens_are(destinations, truth.len() as u64)?;
        let all = destinations.iter().flat_map(|to| to.sites("open"));
        let mut found: Vec<_> = all.map(|site| own(site, healthy)).collect();
        found.sort();
        ensure!(found == truth, "found {found:#?}, it was {truth:#?}");
        Ok(())
    })?;
    running.finish()
}

#[test]
fn broken_files_do_no_harm() {
    check("broken_files_do_no_harm", || {
        let folder = Folder::new()?;
        let program = native::build(Language::C, folder.path(), "program", ["-g", "-DNO_UNWINDER"])?;
        let port = servers::accepting()?;
        let mut tracer = sites::start(port, &[])?;
        for (index, &part) in PARTS.iter().enumerate() {
            let path = broken(&program, part, &format!("broken-{index}"))?;
            let mut running = Running::start(native::command(&path, port, ["shapes", "3"]), &path)?;
            let opened = running.said()?.len() as u64;
            ensure!(opened == 6, "{part:?}: the program opened {opened}");
            sites::wait_for(&mut tracer, &path.display().to_string(), |destinations| {
                sites::opens_are(destinations, opened)?;
                let mut all = destinations.iter().flat_map(|to| to.sites("open"));
                // The innermost frame is the C library's, which is whole: there is always that much.
                ensure!(all.all(|site| !site.frames().is_empty()), "{part:?}: {destinations:?}");
                Ok(())
            })
            .with_context(|| format!("{part:?}"))?;
            running.finish()?;
        }
        still_names(&mut tracer, &program, port)?;
        tracer.stop()?;
        Ok(())
    });
}

/// Right after its connect the process becomes another program. Either the stack is that of the first one, or it says
/// that something is missing.
#[test]
fn a_process_that_becomes_another_is_never_mistaken() {
    check("a_process_that_becomes_another_is_never_mistaken", || {
        const RUNS: u64 = 20;
        let folder = Folder::new()?;
        let program = native::build(Language::C, folder.path(), "program", ["-g"])?;
        let port = servers::accepting()?;
        let mut tracer = sites::start(port, &[])?;
        let mut truth = None;
        for _ in 0..RUNS {
            let mut running = Running::start(native::command(&program, port, ["replace"]), &program)?;
            let truths = running.said()?;
            truth = truths.into_iter().next().map(|truth| truth.places);
            running.finish()?;
        }
        let truth = truth.context("the program did nothing")?;
        // The arguments may be those of either program.
        sites::wait_for(&mut tracer, "", |destinations| {
            sites::opens_are(destinations, RUNS)?;
            for site in destinations.iter().flat_map(|to| to.sites("open")) {
                ensure!(
                    site.note.is_some() || own(site, &program) == truth,
                    "neither right nor labelled: {site:?}"
                );
            }
            Ok(())
        })?;
        still_names(&mut tracer, &program, port)?;
        tracer.stop()?;
        Ok(())
    });
}

/// Whether a terminal would obey it, or a reader be misled.
fn is_harmful(c: char) -> bool {
    c.is_control() && c != '\n' || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Copies a program to where its path does harm.
fn under(name: &OsStr, folder: &Path, program: &Path) -> Result<PathBuf> {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().context("a folder")?)?;
    std::fs::copy(program, &path).with_context(|| format!("copy to {}", path.display()))?;
    Ok(path)
}

#[test]
fn hostile_names_and_paths_reach_no_terminal() {
    check("hostile_names_and_paths_reach_no_terminal", || {
        let folder = Folder::new()?;
        let program = native::build(Language::C, folder.path(), "program", ["-g", "-DNO_UNWINDER"])?;
        let controls = OsStr::from_bytes(b"\x1b]0;owned\x07\x1b[2J\r\nname\xe2\x80\xae\xff\xfe\x9b31m");
        // As long as the kernel lets a path be: 4096 bytes with the last one, which is zero.
        let room = 4095 - folder.path().as_os_str().len() - 1;
        let mut long = OsString::from(format!("{}/", "d".repeat(199)).repeat(room / 200));
        long.push("f".repeat((room % 200).max(1)));
        let programs = [under(controls, folder.path(), &program)?, under(&long, folder.path(), &program)?];
        let port = servers::accepting()?;
        let mut tracer = sites::start(port, &[])?;
        let links = links_of(tracer.pid())?;
        let formats: &[&[&str]] = &[
            &["sites", "-o", "table"],
            &["sites", "-o", "json"],
            &["sites", "-o", "folded"],
            &["top", "-b", "-i", "100ms", "-o", "table"],
            &["top", "-b", "-i", "100ms", "-o", "csv"],
            &["trace", "-o", "table"],
            &["trace", "-o", "jsonl"],
        ];
        let mut printers = formats
            .iter()
            .map(|format| Printer::start(format, port, folder.path()))
            .collect::<Result<Vec<_>>>()?;
        printers.iter_mut().try_for_each(|printer| printer.wait(links))?;
        let mut opened = 0;
        for path in &programs {
            let hostile = OsString::from_vec([controls.as_bytes(), &[b'a'; 4096]].concat());
            let arguments = [OsString::from("shapes"), "3".into(), hostile];
            let mut running = Running::start(native::command(path, port, arguments), path)?;
            opened += running.said()?.len() as u64;
            running.finish()?;
        }
        python::run(&python::system()?, "hostile.py", [port.to_string(), "3".to_owned()])?;
        opened += 3;
        sites::wait_for(&mut tracer, "", |destinations| sites::opens_are(destinations, opened))?;
        tracer.stop()?;
        for (printer, format) in printers.into_iter().zip(formats) {
            let (printed, said) = printer.finish()?;
            for text in [&printed, &said] {
                let text = std::str::from_utf8(text).with_context(|| format!("{format:?} prints no text"))?;
                let harmful = text.chars().find(|&c| is_harmful(c));
                ensure!(harmful.is_none(), "{format:?} prints {harmful:?}: {text:?}");
                ensure!(!text.contains("panicked"), "{format:?}: {text}");
            }
            let text = String::from_utf8(printed)?;
            // It did show them, in a way that does no harm.
            ensure!(text.contains("owned"), "{format:?} does not show the name: {text}");
        }
        Ok(())
    });
}
