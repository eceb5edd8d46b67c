//! Which lines of a script open connections: as the script says itself (`account.py`), and as portchurn does.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use super::sites::{Destination, Place};

/// The line that called the driver and the line above it, and how often.
pub type Lines = BTreeMap<(Place, Option<Place>), u64>;

/// What a script says of itself.
pub fn truth(account: &str) -> Result<Lines> {
    let mut lines = Lines::new();
    for line in account.lines() {
        let stack: Vec<(String, String, u64)> =
            serde_json::from_str(line).with_context(|| format!("read an account: {line}"))?;
        let mut places = stack.into_iter().map(|(function, file, line)| Place {
            function,
            file: Some(file),
            line: Some(line),
        });
        let culprit = places.next().context("an account without a line")?;
        *lines.entry((culprit, places.next())).or_default() += 1;
    }
    Ok(lines)
}

/// What portchurn says, and how many connections came before it knew the interpreter. The rest must be exact.
pub fn found(destinations: &[Destination]) -> Result<(Lines, u64)> {
    let (mut lines, mut too_soon) = (Lines::new(), 0);
    for site in destinations.iter().flat_map(|to| to.sites("open")) {
        if site.is_too_soon() {
            too_soon += site.count;
            continue;
        }
        ensure!(site.exact && site.sampled.is_none(), "not exact: {site:?}");
        ensure!(site.language.as_deref() == Some("python"), "no Python: {site:?}");
        let mut files = site.frames().iter().filter_map(|frame| frame.file.as_deref());
        let is_on_a_loop = files.any(|file| file.contains("/asyncio/"));
        let says_so = site.note.as_deref().is_some_and(|note| note.starts_with("event loop: "));
        ensure!(says_so == is_on_a_loop, "an event loop, or not? {site:?}");
        let culprit = site.culprit.clone().with_context(|| format!("nobody is to blame: {site:?}"))?;
        *lines.entry((culprit, site.called_from.clone())).or_default() += site.count;
    }
    Ok((lines, too_soon))
}
