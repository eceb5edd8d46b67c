//! Call sites as portchurn prints them, and how a test waits for them. What they should be is the test's to know.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::{self, Debug};
use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::report::Report;
use super::tracer::Tracer;
use super::{patience, skip};

/// How long names may take.
const PATIENCE: Duration = Duration::from_secs(40);
/// Runs of a test that wants interpreters to be found in time.
const IN_TIME_ATTEMPTS: usize = 5;

/// One line of code, and how often it was passed.
#[derive(Clone, Debug, Deserialize)]
pub struct Site {
    /// `open` or `close`.
    pub at: String,
    /// How often.
    pub count: u64,
    /// Whether every passage was read or counted by its whole stack.
    pub exact: bool,
    /// How many were read, where not all were.
    pub sampled: Option<u64>,
    /// The language of the culprit.
    pub language: Option<String>,
    /// The line to blame.
    pub culprit: Option<Place>,
    /// The application's line above it.
    pub called_from: Option<Place>,
    /// What to know about it.
    pub note: Option<String>,
    /// The stack, innermost first.
    #[serde(default)]
    pub frames: Option<Vec<Frame>>,
}

impl Site {
    /// The stack; nothing where none was taken.
    pub fn frames(&self) -> &[Frame] {
        self.frames.as_deref().unwrap_or_default()
    }

    /// Whether its process was gone before it could be looked at: that depends on how fast the machine is.
    pub fn is_gone(&self) -> bool {
        self.note.as_deref().is_some_and(|note| note.starts_with("gone: "))
    }

    /// Whether its interpreter had begun a moment before: that, too.
    pub fn is_too_soon(&self) -> bool {
        self.note.as_deref().is_some_and(|note| note.starts_with("interpreter not yet known"))
    }

    /// Names of the functions, innermost first.
    pub fn functions(&self) -> Vec<&str> {
        self.frames().iter().map(|frame| frame.function.as_str()).collect()
    }
}

/// A place in a program.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd)]
pub struct Place {
    /// Name.
    pub function: String,
    /// Path.
    pub file: Option<String>,
    /// Line.
    pub line: Option<u64>,
}

/// One frame of a stack.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd)]
pub struct Frame {
    /// Name.
    pub function: String,
    /// Path.
    pub file: Option<String>,
    /// Line.
    pub line: Option<u64>,
    /// File with the code.
    pub module: Option<String>,
    /// Which build of it, where there is no name.
    pub build_id: Option<String>,
    /// `python` or `native`.
    pub language: String,
}

/// Where a program connects to, and from which lines.
#[derive(Clone, Debug, Deserialize)]
pub struct Destination {
    /// `connect` or `accept`.
    pub role: String,
    /// Port of the other side.
    pub remote_port: Option<u16>,
    /// Connects that succeeded.
    pub opened: u64,
    /// Connects that failed.
    pub failed: u64,
    /// Connections that ended.
    pub closed: u64,
    /// Failures by reason.
    #[serde(default)]
    pub failed_by: BTreeMap<String, u64>,
    /// From which lines.
    pub call_sites: Vec<Site>,
}

impl Destination {
    /// The sites of one moment.
    pub fn sites<'a>(&'a self, at: &'a str) -> impl Iterator<Item = &'a Site> + 'a {
        self.call_sites.iter().filter(move |site| site.at == at)
    }

    /// The sum of the sites of one moment.
    pub fn sum(&self, at: &str) -> u64 {
        self.sites(at).map(|site| site.count).sum()
    }
}

#[derive(Deserialize)]
struct Program {
    argv: Vec<String>,
    destinations: Vec<Destination>,
}

#[derive(Deserialize)]
struct Snapshot {
    programs: Vec<Program>,
    hooks: Vec<Hook>,
}

#[derive(Deserialize)]
struct Hook {
    name: String,
    attached: String,
    reason: Option<String>,
}

fn snapshot(tracer: &Tracer) -> Result<Snapshot> {
    serde_json::from_str(&tracer.text).context("understand the call sites")
}

/// Starts a tracer that takes stacks of connections to this port.
pub fn start(port: u16, arguments: &[&str]) -> Result<Tracer> {
    start_taking("auto", port, arguments)
}

/// The same with only some of them: a value of `--stack`.
pub fn start_taking(which: &str, port: u16, arguments: &[&str]) -> Result<Tracer> {
    let port = port.to_string();
    start_with(&[&["--stack", which, "-D", &port], arguments].concat())
}

/// Starts a tracer that takes the stacks of everything.
pub fn start_all() -> Result<Tracer> {
    start_with(&["--stack", "auto"])
}

fn start_with(arguments: &[&str]) -> Result<Tracer> {
    let tracer = Tracer::start(arguments)?;
    let hooks = snapshot(&tracer)?.hooks;
    let hook = hooks.iter().find(|hook| hook.name == "call_sites").context("no hook for call sites")?;
    if hook.attached == "none" {
        return Err(skip(hook.reason.as_deref().unwrap_or_default()));
    }
    Ok(tracer)
}

/// Everything that programs with this word among their arguments connected to; all programs when it is empty.
pub fn destinations(tracer: &Tracer, word: &str) -> Result<Vec<Destination>> {
    let programs = snapshot(tracer)?.programs.into_iter();
    let wanted = programs.filter(|program| word.is_empty() || program.argv.iter().any(|arg| arg == word));
    Ok(wanted.flat_map(|program| program.destinations).filter(|to| to.role == "connect").collect())
}

/// Waits until the condition holds for what these programs connected to, one snapshot after the other: names may come
/// later than counts. It must hold once more after that.
pub fn wait_for(
    tracer: &mut Tracer,
    word: &str,
    condition: impl Fn(&[Destination]) -> Result<()>,
) -> Result<Vec<Destination>> {
    let deadline = Instant::now() + patience(PATIENCE);
    loop {
        tracer.advance()?;
        match condition(&destinations(tracer, word)?) {
            Ok(()) => break,
            Err(error) if Instant::now() > deadline || error.is::<TooSoon>() => return Err(error),
            Err(_) => {}
        }
    }
    tracer.advance()?;
    let found = destinations(tracer, word)?;
    condition(&found).context("it was right, but then")?;
    Ok(found)
}

/// A process had its first connects before its interpreter was found.
#[derive(Debug)]
struct TooSoon;

impl fmt::Display for TooSoon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the first connects came before the interpreter was found")
    }
}

impl Error for TooSoon {}

/// That every interpreter was found before its first connect.
pub fn none_too_soon(destinations: &[Destination]) -> Result<()> {
    let mut all = destinations.iter().flat_map(|to| &to.call_sites);
    if all.any(Site::is_too_soon) { Err(TooSoon.into()) } else { Ok(()) }
}

/// The same of processes that had ended before anybody could look.
pub fn none_gone(destinations: &[Destination]) -> Result<()> {
    let mut all = destinations.iter().flat_map(|to| &to.call_sites);
    if all.any(Site::is_gone) { Err(TooSoon.into()) } else { Ok(()) }
}

/// The same of output that does not tell how many came too soon: most must not have.
pub fn not_most(rest: u64, all: u64) -> Result<()> {
    if rest * 2 > all { Err(TooSoon.into()) } else { Ok(()) }
}

/// Runs a test again in which [`none_too_soon`] did not hold: how soon an interpreter is found depends on how busy the machine is,
/// and what is found of it then does not.
pub fn in_time(test: impl Fn() -> Result<()>) -> Result<()> {
    for _ in 1..IN_TIME_ATTEMPTS {
        match test() {
            Err(error) if error.is::<TooSoon>() => {}
            result => return result,
        }
    }
    test()
}

/// How often each line was passed at one moment. What has no line of code is under line 0.
pub fn by_line(sites: &[Site], at: &str) -> BTreeMap<u64, u64> {
    let mut lines = BTreeMap::new();
    for site in sites.iter().filter(|site| site.at == at) {
        let line = site.culprit.as_ref().and_then(|place| place.line).unwrap_or(0);
        *lines.entry(line).or_default() += site.count;
    }
    lines
}

/// That each destination's opens are accounted for by its sites, exactly, and are so many in total.
pub fn opens_are(destinations: &[Destination], expected: u64) -> Result<()> {
    for to in destinations {
        let attempts = to.opened + to.failed;
        ensure!(to.sum("open") == attempts, "sites add up to {}, opened {attempts}: {to:?}", to.sum("open"));
    }
    let total: u64 = destinations.iter().map(|to| to.opened + to.failed).sum();
    ensure!(total == expected, "{total} opened, the program says {expected}: {destinations:?}");
    Ok(())
}

/// The same, and that each of these sites is Python's, as far as the machine was fast enough.
pub fn opens_are_python(destinations: &[Destination], expected: u64) -> Result<()> {
    opens_are(destinations, expected)?;
    let is_named = |site: &&Site| site.language.as_deref() == Some("python");
    let mut all = destinations.iter().flat_map(|to| to.sites("open"));
    ensure!(all.all(|site| is_named(&site) || site.is_too_soon()), "{destinations:?}");
    let mut all = destinations.iter().flat_map(|to| to.sites("open"));
    ensure!(all.any(|site| is_named(&site)), "none was named: {destinations:?}");
    Ok(())
}

/// That what was found is the truth, but for passages that could not be named in time: so many, of the first ones of a
/// process. At least one must have been.
pub fn are_those<K: Ord + Debug>(
    found: &BTreeMap<K, u64>,
    truth: &BTreeMap<K, u64>,
    too_soon: u64,
) -> Result<()> {
    let wrong: Vec<_> = found.iter().filter(|(what, count)| truth.get(what) < Some(count)).collect();
    ensure!(wrong.is_empty(), "found what was not: {wrong:#?}; it was {truth:#?}");
    let (named, all): (u64, u64) = (found.values().sum(), truth.values().sum());
    ensure!(named + too_soon == all, "{named} named, {too_soon} too soon: {found:#?}; it was {truth:#?}");
    ensure!(named > 0, "none was named, all {too_soon} were too soon");
    Ok(())
}

/// Tells whoever runs the tests how many had names, and what became of the rest: that depends on the machine.
pub fn say_named(test: &str, named: u64, of: u64, rest: impl Debug) {
    let text = format!("\n{test}: {named} of {of} named; {rest:?}\n");
    // Past libtest's capture.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// That nothing of call sites was lost.
pub fn nothing_lost(report: &Report) -> Result<()> {
    ensure!(report.lost.total == 0, "lost: {:?}", report.lost);
    Ok(())
}
