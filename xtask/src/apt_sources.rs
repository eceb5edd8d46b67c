//! The machine's own apt sources, read to learn which mirror it uses. Must not name a mirror, nor change anything.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

/// Debian's keys, where a source doesn't name its own.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Suites by which a mirror of Debian is told from others.
const DEBIAN: [&str; 8] =
    ["bullseye", "bookworm", "trixie", "forky", "oldstable", "stable", "testing", "sid"];

/// One suite of one source.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Source {
    pub(crate) uri: String,
    pub(crate) suite: String,
    pub(crate) signed_by: String,
}

impl Source {
    /// Whether it is Debian's, not another's packages for it.
    pub(crate) fn is_debian(&self) -> bool {
        DEBIAN.contains(&self.suite.split(['-', '/']).next().unwrap_or_default())
    }

    /// Line for a `sources.list` of our own.
    pub(crate) fn to_line(&self) -> String {
        format!("deb [signed-by={}] {} {} main\n", self.signed_by, self.uri, self.suite)
    }
}

/// Every source of this machine that is on.
pub(crate) fn of_machine() -> Result<Vec<Source>> {
    let mut sources =
        read_if_there(Path::new("/etc/apt/sources.list"))?.map_or_else(Vec::new, |t| parse_list(&t));
    let directory = Path::new("/etc/apt/sources.list.d");
    if directory.is_dir() {
        let entries = fs::read_dir(directory).with_context(|| format!("read {}", directory.display()))?;
        let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        paths.sort();
        for path in paths {
            let parse = match path.extension().and_then(|extension| extension.to_str()) {
                Some("sources") => parse_deb822,
                Some("list") => parse_list,
                _ => continue,
            };
            sources.extend(read_if_there(&path)?.map_or_else(Vec::new, |text| parse(&text)));
        }
    }
    Ok(sources)
}

fn read_if_there(path: &Path) -> Result<Option<String>> {
    if !path.exists() {
        return Ok(None);
    }
    fs::read_to_string(path).map(Some).with_context(|| format!("read {}", path.display()))
}

/// The source to ask for a suite: the one that has it already, else the one of its kind (security or not).
pub(crate) fn for_suite(sources: &[Source], suite: &str) -> Option<Source> {
    let is_security = |suite: &str| suite.ends_with("-security");
    let exact = sources.iter().find(|source| source.suite == suite);
    let same_kind = || {
        let fits = |source: &&Source| source.is_debian() && is_security(&source.suite) == is_security(suite);
        sources.iter().find(fits)
    };
    let found = exact.or_else(same_kind)?;
    Some(Source { suite: suite.to_owned(), ..found.clone() })
}

/// The one-line format: `deb [signed-by=…] uri suite component…`.
fn parse_list(text: &str) -> Vec<Source> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Source> {
    let line = line.split('#').next()?.trim().strip_prefix("deb ")?.trim();
    let (options, rest) = match line.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", line),
    };
    let mut words = rest.split_whitespace();
    let (uri, suite) = (words.next()?, words.next()?);
    let signed_by = options.split_whitespace().find_map(|option| option.strip_prefix("signed-by="));
    source(uri, suite, signed_by)
}

/// The stanza format, RFC 822 style; a field continues on lines that start with a space.
fn parse_deb822(text: &str) -> Vec<Source> {
    let without_comments: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    without_comments.split(|line| line.trim().is_empty()).flat_map(parse_stanza).collect()
}

fn parse_stanza(lines: &[&str]) -> Vec<Source> {
    let field = |name: &str| -> Option<String> {
        let start = lines
            .iter()
            .position(|line| line.split_once(':').is_some_and(|(key, _)| key.eq_ignore_ascii_case(name)))?;
        let first = lines[start].split_once(':')?.1;
        let more = lines[start + 1..].iter().take_while(|line| line.starts_with([' ', '\t']));
        Some(more.fold(first.to_owned(), |value, line| value + " " + line).trim().to_owned())
    };
    let words = |name: &str| field(name).unwrap_or_default();
    let is_off = field("Enabled").is_some_and(|value| value.eq_ignore_ascii_case("no"));
    if is_off || !words("Types").split_whitespace().any(|kind| kind == "deb") {
        return Vec::new();
    }
    let signed_by = field("Signed-By");
    let (uris, suites) = (words("URIs"), words("Suites"));
    let mut sources = Vec::new();
    for uri in uris.split_whitespace() {
        sources
            .extend(suites.split_whitespace().filter_map(|suite| source(uri, suite, signed_by.as_deref())));
    }
    sources
}

fn source(uri: &str, suite: &str, signed_by: Option<&str>) -> Option<Source> {
    if uri.starts_with("cdrom:") {
        return None;
    }
    // A key may stand in the field itself; Debian's own keyring then serves as well.
    let signed_by = signed_by.filter(|path| path.starts_with('/')).unwrap_or(KEYRING);
    Some(Source { uri: uri.to_owned(), suite: suite.to_owned(), signed_by: signed_by.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::{KEYRING, for_suite, parse_deb822, parse_list};

    const STANZAS: &str = "# comment\nTypes: deb deb-src\nURIs: http://mirror.example/debian\nSuites: bookworm\n \
        bookworm-updates\nComponents: main\nSigned-By: /k.gpg\n\nTypes: deb\nURIs: \
        http://mirror.example/security\nSuites: bookworm-security\nComponents: main\n\nEnabled: no\nTypes: \
        deb\nURIs: http://off.example\nSuites: x\n\nTypes: deb-src\nURIs: http://src.example\nSuites: x\n";

    #[test]
    fn stanzas_give_one_source_per_suite_and_leave_out_what_is_off() {
        let sources = parse_deb822(STANZAS);
        let suites: Vec<_> = sources.iter().map(|source| source.suite.as_str()).collect();
        assert_eq!(suites, ["bookworm", "bookworm-updates", "bookworm-security"]);
        assert_eq!(sources[0].signed_by, "/k.gpg");
        assert_eq!(sources[2].signed_by, KEYRING);
    }

    #[test]
    fn lines_give_sources_with_or_without_options() {
        let sources = parse_list(
            "# deb http://no.example x main\ndeb http://a.example/debian sid main # mine\n\
             deb [arch=amd64 signed-by=/k.gpg] http://b.example/debian trixie main\ndeb-src http://c.example x\n\
             deb cdrom:[Debian]/ trixie main\n",
        );
        assert_eq!(sources.len(), 2);
        assert_eq!(sources[1].to_line(), "deb [signed-by=/k.gpg] http://b.example/debian trixie main\n");
    }

    #[test]
    fn a_suite_comes_from_the_source_of_its_kind() {
        let sources = parse_deb822(STANZAS);
        let uri = |suite: &str| for_suite(&sources, suite).map(|source| source.uri);
        assert_eq!(uri("trixie-backports").as_deref(), Some("http://mirror.example/debian"));
        assert_eq!(uri("bookworm-security").as_deref(), Some("http://mirror.example/security"));
        assert_eq!(uri("trixie-security").as_deref(), Some("http://mirror.example/security"));
        let other = parse_list("deb http://a.example/ubuntu noble main\n");
        assert_eq!(for_suite(&other, "bullseye"), None);
    }
}
