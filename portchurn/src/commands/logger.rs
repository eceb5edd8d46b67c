//! What goes to stderr, for people. While the screen is in use nothing may be written to it, so messages wait until it
//! is left.
#![expect(clippy::print_stderr, reason = "the one place that writes to stderr")]

use std::sync::Mutex;

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::commands::terminal::speaks_unicode;
use crate::sinks::text::clean;

static LOGGER: Logger = Logger { held_back: Mutex::new(None) };

struct Logger {
    /// Messages that wait for the screen to be left; `None`: the screen is free.
    held_back: Mutex<Option<Vec<String>>>,
}

/// How many messages may wait.
const HELD_BACK_MAX: usize = 100;

/// Starts logging: warnings, more with `-v` and `-vv`, errors only with `-q`.
pub fn start(verbose: u8, quiet: bool) {
    let level = match (quiet, verbose) {
        (true, _) => LevelFilter::Error,
        (_, 0) => LevelFilter::Warn,
        (_, 1) => LevelFilter::Info,
        (_, 2) => LevelFilter::Debug,
        _ => LevelFilter::Trace,
    };
    if log::set_logger(&LOGGER).is_ok() {
        log::set_max_level(level);
    }
}

/// From here on messages wait; the guard's end lets them out.
pub fn hold_back() -> HeldBack {
    if let Ok(mut held_back) = LOGGER.held_back.lock() {
        held_back.get_or_insert_default();
    }
    HeldBack
}

/// Lets the messages out when it is dropped.
pub struct HeldBack;

impl Drop for HeldBack {
    fn drop(&mut self) {
        let messages = LOGGER.held_back.lock().ok().and_then(|mut held_back| held_back.take());
        for message in messages.unwrap_or_default() {
            eprintln!("{message}");
        }
    }
}

/// Says why the program ends.
pub fn error(message: &str) {
    eprintln!("error: {message}");
}

/// Says something that belongs to the normal end, such as the summary.
pub fn note(message: &str) {
    eprintln!("{message}");
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        // aya tells of every system call it makes; that is for -vvv only.
        let is_ours = record.target().starts_with("portchurn");
        if !self.enabled(record.metadata()) || !is_ours && log::max_level() < LevelFilter::Trace {
            return;
        }
        let kind = match record.level() {
            Level::Error => "error",
            Level::Warn => "warning",
            _ => "note",
        };
        // Names that somebody else chose are in it.
        let message = format!("{kind}: {}", clean(&record.args().to_string(), speaks_unicode()));
        match self.held_back.lock().ok().as_deref_mut() {
            Some(Some(messages)) if messages.len() < HELD_BACK_MAX => messages.push(message),
            Some(Some(_)) => {}
            _ => eprintln!("{message}"),
        }
    }

    fn flush(&self) {}
}
