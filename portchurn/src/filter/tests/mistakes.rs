//! What is refused, what is said about it, and where the caret stands.

use unicode_width::UnicodeWidthStr as _;

use super::filter;
use crate::filter::{FIELDS, Filter, Scope};
use crate::model::row::Level;

/// Text, the piece at which the caret must stand, and what must be said.
const REFUSED: &[(&str, &str, &str)] = &[
    ("dprot=3306", "dprot", "unknown field 'dprot'; did you mean 'dport'?"),
    ("zebra=1", "zebra", "unknown field 'zebra'; there are comm, exe"),
    ("comm=x porgram=y", "porgram", "did you mean 'program'?"),
    ("«ünï» dprot=1", "dprot", "did you mean 'dport'?"),
    ("数据库 dprot=1", "dprot", "did you mean 'dport'?"),
    ("dport=", "", "expected a value for 'dport', as in dport=3306"),
    ("dport= ", "", "expected a value for 'dport'"),
    ("dport=http", "http", "'dport' takes a port, 0 to 65535, not 'http'"),
    ("dport=80-", "80-", "takes a port"),
    ("dport=90-80", "90-80", "the range '90-80' is empty"),
    ("dport~80", "~", "'dport' takes =, !=, >, >=, <, <= or in"),
    ("comm<x", "<", "'comm' takes =, !=, ~, !~ or in"),
    ("life<10", "10", "'life' takes a duration such as 5ms, 2s or 1m, not '10'"),
    ("life<10kg", "10kg", "'life' takes a duration"),
    ("life<ms", "ms", "'life' takes a duration"),
    ("dest=example.org", "example.org", "names are not looked up"),
    ("dest in 10.0.0.0/8,10.0.0.0/99", "10.0.0.0/99", "is no address"),
    ("closer=lokal", "lokal", "unknown closer 'lokal'; did you mean 'local'?"),
    ("error=EADDRNOTAVIAL", "EADDRNOTAVIAL", "did you mean 'EADDRNOTAVAIL'?"),
    ("role=x", "x", "expected one of connect, accept"),
    ("comm~(", "(", "this is no regular expression"),
    ("comm~", "", "expected a regular expression after 'comm~'"),
    ("comm~(a{1000}){1000}", "(a{1000}", "this is no regular expression"),
    ("comm=x or", "", "expected a term"),
    ("or comm=x", "or", "expected a term before 'or'"),
    ("a and and b", "and b", "expected a term before 'and'"),
    ("a !", "", "expected a term"),
    ("(a or b", "(", "this '(' is never closed"),
    ("a or b)", ")", "this ')' closes nothing"),
    ("()", ")", "expected a term before ')'"),
    ("=5", "=", "expected a field or a word before '='"),
    ("comm=\"x", "\"x", "this quote is never closed"),
    ("comm in (a b)", "b)", "expected ',' or ')' in the list"),
    ("comm in (a,", "", "expected a value for 'comm'"),
    ("comm in (a", "(a", "this '(' is never closed"),
    ("comm=a,", "", "expected a value for 'comm'"),
];

#[test]
fn a_mistake_is_shown_where_it_is() {
    for (text, at, said) in REFUSED {
        let error = Filter::parse(text).expect_err(text);
        let offset = if at.is_empty() { text.len() } else { text.rfind(at).unwrap() };
        assert_eq!(error.offset, offset, "{text}: {error}");
        assert!(error.message.contains(said), "{text}: {}", error.message);
    }
}

#[test]
fn the_caret_stands_under_the_place() {
    for (text, caret_column) in
        [("dprot=1", 0), ("a dprot=1", 2), ("é dprot=1", 2), ("数据 dprot=1", 5), ("\u{1b}[1m dprot=1", 5)]
    {
        let shown = Filter::parse(text).unwrap_err().to_string();
        let (line, below) = shown.split_once('\n').unwrap();
        let column = below.find('^').unwrap();
        assert_eq!(column, caret_column, "{shown}");
        let before = &line[..line.find("dprot").unwrap()];
        assert_eq!(before.width(), column, "{shown}");
        assert!(!shown.replace('\n', "").contains(char::is_control), "nothing reaches the terminal unseen");
    }
    let shown = Filter::parse("comm=x\nand dprot=1").unwrap_err().to_string();
    assert_eq!(shown, "and dprot=1\n    ^ unknown field 'dprot'; did you mean 'dport'?");
}

#[test]
fn a_field_that_means_nothing_here_is_named() {
    let error = filter("comm=x or event=close").check(Scope::Rows).unwrap_err();
    assert_eq!(
        (error.offset, error.message.as_str()),
        (10, "'event' is a field of events (portchurn trace), not of rows of a table")
    );
    assert!(filter("!(comm=x state=fail)").check(Scope::Rows).is_err());
    assert!(filter("opens>1").check(Scope::Events).is_err());
    assert!(filter("comm=x dport=1 nginx").check(Scope::Rows).is_ok());
    assert_eq!(filter("comm=x or !pid=1").level(), Level::Process);
    assert_eq!(filter("comm=x (dport=80 or life<1s)").level(), Level::Destination);
    assert_eq!(filter("comm=x pid opens>1").level(), Level::Program);
}

#[test]
fn every_field_is_in_the_help() {
    let help = Filter::help();
    let mut names = Vec::new();
    for info in FIELDS {
        assert!(help.contains(info.name) && help.contains(info.example), "{}", info.name);
        assert!(info.what.ends_with('.') && info.what.len() <= 66, "{}", info.what);
        assert!(info.is_in(Scope::Rows) || info.is_in(Scope::Events));
        names.push(info.name);
        names.extend(info.aliases);
    }
    names.sort_unstable();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count, "two fields of one name");
}

#[test]
fn depth_is_bounded() {
    for piece in ["(", "!", "not ", "(!"] {
        let text = piece.repeat(100_000) + "a";
        assert!(Filter::parse(&text).unwrap_err().message.contains("inside each other"), "{piece}");
    }
    let flat = "a or !b ".repeat(5_000);
    assert!(Filter::parse(flat.trim()).is_ok(), "length is not depth");
}
