//! Values of the filter language: from text to a test, by the kind of the field. Every refusal says what was expected.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use regex_lite::{Regex, RegexBuilder, escape};
use winnow::Parser as _;
use winnow::ascii::{alpha0, digit1};
use winnow::combinator::{eof, opt, terminated};

use crate::filter::fields::{Field, FieldInfo, Kind, nearest};
use crate::filter::subject::Subject;

/// An operator; `!=` and `!~` are these, negated.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Op {
    Equal,
    In,
    Regex,
    Greater,
    GreaterEqual,
    Less,
    LessEqual,
}

/// A value as it was written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Raw {
    pub(super) offset: usize,
    pub(super) text: String,
    pub(super) quoted: bool,
}

/// What is asked of a field: one of these.
#[derive(Clone, Debug)]
pub(super) enum Test {
    Texts(Vec<Pattern>),
    Numbers(Vec<Range>),
    Addresses(Vec<AddressPattern>),
}

impl Test {
    pub(super) fn holds(&self, field: Field, subject: &dyn Subject) -> bool {
        match self {
            Self::Texts(patterns) => {
                subject.texts(field, &mut |text| patterns.iter().any(|pattern| pattern.matches(text)))
            }
            Self::Numbers(ranges) => {
                subject.number(field).is_some_and(|number| ranges.iter().any(|range| range.contains(number)))
            }
            Self::Addresses(patterns) => patterns.iter().any(|pattern| pattern.matches(field, subject)),
        }
    }
}

/// A text to compare with.
#[derive(Clone, Debug)]
pub(super) enum Pattern {
    Exact(String),
    Regex(Regex),
}

impl Pattern {
    pub(super) fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == text,
            Self::Regex(regex) => regex.is_match(text),
        }
    }

    /// Whole text, `*` and `?` unless quoted.
    fn whole(raw: &Raw) -> Result<Self, String> {
        if raw.quoted || !is_glob(&raw.text) {
            return Ok(Self::Exact(raw.text.clone()));
        }
        Self::compile(&format!("(?s)^{}$", glob_as_regex(&raw.text)), false)
    }

    /// Any part of a text, in any case.
    pub(super) fn part(raw: &Raw) -> Result<Self, String> {
        let regex = if raw.quoted { escape(&raw.text) } else { glob_as_regex(&raw.text) };
        Self::compile(&format!("(?s){regex}"), true)
    }

    fn compile(regex: &str, any_case: bool) -> Result<Self, String> {
        let built = RegexBuilder::new(regex).case_insensitive(any_case).build();
        built.map(Self::Regex).map_err(|error| format!("this is no regular expression: {error}"))
    }
}

fn is_glob(text: &str) -> bool {
    text.contains(['*', '?'])
}

fn glob_as_regex(glob: &str) -> String {
    escape(glob).replace("\\*", ".*").replace("\\?", ".")
}

/// Numbers between two, these included unless excluded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Range {
    low: f64,
    high: f64,
    excluded: Option<f64>,
}

impl Range {
    fn contains(self, number: f64) -> bool {
        (self.low..=self.high).contains(&number) && self.excluded != Some(number)
    }

    fn of(op: Op, number: f64) -> Self {
        let all = Self { low: f64::NEG_INFINITY, high: f64::INFINITY, excluded: None };
        match op {
            Op::Greater => Self { low: number, excluded: Some(number), ..all },
            Op::GreaterEqual => Self { low: number, ..all },
            Op::Less => Self { high: number, excluded: Some(number), ..all },
            Op::LessEqual => Self { high: number, ..all },
            Op::Equal | Op::In | Op::Regex => Self { low: number, high: number, ..all },
        }
    }
}

/// What a destination is compared with.
#[derive(Clone, Debug)]
pub(super) enum AddressPattern {
    Network(IpNet),
    Socket(SocketAddr),
    Text(Pattern),
}

impl AddressPattern {
    fn matches(&self, field: Field, subject: &dyn Subject) -> bool {
        match (self, subject.remote()) {
            (Self::Network(network), (Some(address), _)) => network.contains(&address),
            (Self::Socket(socket), (Some(address), Some(port))) => {
                (socket.ip(), socket.port()) == (address, port)
            }
            (Self::Text(pattern), _) => subject.texts(field, &mut |text| pattern.matches(text)),
            _ => false,
        }
    }
}

/// Makes a test of what stands right of a field; a refusal says where and why.
pub(super) fn compile(info: &FieldInfo, op: Op, values: &[Raw]) -> Result<Test, (usize, String)> {
    fn each<T>(values: &[Raw], one: impl Fn(&Raw) -> Result<T, String>) -> Result<Vec<T>, (usize, String)> {
        values.iter().map(|raw| one(raw).map_err(|message| (raw.offset, message))).collect()
    }
    if op == Op::Regex {
        let patterns = each(values, |raw| Pattern::compile(&raw.text, false))?;
        return Ok(match info.kind {
            Kind::Address => Test::Addresses(patterns.into_iter().map(AddressPattern::Text).collect()),
            _ => Test::Texts(patterns),
        });
    }
    match info.kind {
        Kind::Text => each(values, Pattern::whole).map(Test::Texts),
        Kind::Name(names) => each(values, |raw| name(info.name, names, raw)).map(Test::Texts),
        Kind::Address => each(values, address).map(Test::Addresses),
        Kind::Number | Kind::Port | Kind::Duration => {
            each(values, |raw| range(info, op, &raw.text)).map(Test::Numbers)
        }
    }
}

/// Whether a kind of field can be compared so.
pub(super) fn takes(kind: Kind, op: Op) -> bool {
    match op {
        Op::Equal | Op::In => true,
        Op::Regex => !is_counted(kind),
        Op::Greater | Op::GreaterEqual | Op::Less | Op::LessEqual => is_counted(kind),
    }
}

fn is_counted(kind: Kind) -> bool {
    matches!(kind, Kind::Number | Kind::Port | Kind::Duration)
}

/// The operators that a kind of field takes.
pub(super) fn operators(kind: Kind) -> &'static str {
    match kind {
        Kind::Number | Kind::Port | Kind::Duration => "=, !=, >, >=, <, <= or in",
        Kind::Text | Kind::Name(_) | Kind::Address => "=, !=, ~, !~ or in",
    }
}

fn name(field: &str, names: &[&'static str], raw: &Raw) -> Result<Pattern, String> {
    if is_glob(&raw.text) && !raw.quoted {
        return Pattern::compile(&format!("^{}$", glob_as_regex(&raw.text)), true);
    }
    if let Some(name) = names.iter().find(|name| name.eq_ignore_ascii_case(&raw.text)) {
        return Ok(Pattern::Exact((*name).to_owned()));
    }
    let hint = match nearest(&raw.text, names) {
        Some(near) => format!("did you mean '{near}'?"),
        None => format!("expected one of {}", names.join(", ")),
    };
    Err(format!("unknown {field} '{}'; {hint}", raw.text))
}

fn address(raw: &Raw) -> Result<AddressPattern, String> {
    let text = raw.text.as_str();
    if let Ok(network) = text.parse::<IpNet>() {
        return Ok(AddressPattern::Network(network));
    }
    if let Ok(address) = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        return Ok(AddressPattern::Network(address.to_canonical().into()));
    }
    if let Ok(socket) = text.parse::<SocketAddr>() {
        return Ok(AddressPattern::Socket(SocketAddr::new(socket.ip().to_canonical(), socket.port())));
    }
    // `:8080` is how a port that accepts is shown.
    if (is_glob(text) && !raw.quoted) || text.starts_with(':') {
        return Pattern::whole(raw).map(AddressPattern::Text);
    }
    Err(format!(
        "'{text}' is no address; expected 10.0.0.2, 10.0.0.0/8, 10.0.0.2:3306, [fe80::1]:80 or 10.0.* (names are not looked up)"
    ))
}

fn range(info: &FieldInfo, op: Op, text: &str) -> Result<Range, String> {
    if let Some((low, high)) = text.split_once('-').filter(|_| matches!(op, Op::Equal | Op::In)) {
        let (low, high) = (number(info, low)?, number(info, high)?);
        if low > high {
            return Err(format!("the range '{text}' is empty"));
        }
        return Ok(Range { low, high, excluded: None });
    }
    number(info, text).map(|number| Range::of(op, number))
}

/// In the unit of the field: microseconds, or one.
const DURATIONS: &[(&str, f64)] = &[
    ("ns", 1e-3),
    ("us", 1.0),
    ("µs", 1.0),
    ("μs", 1.0),
    ("ms", 1e3),
    ("s", 1e6),
    ("m", 60e6),
    ("min", 60e6),
    ("h", 3600e6),
    ("d", 86400e6),
];

const SIZES: &[(&str, f64)] = &[
    ("", 1.0),
    ("k", 1e3),
    ("K", 1e3),
    ("M", 1e6),
    ("G", 1e9),
    ("Ki", 1024.0),
    ("Mi", 1048576.0),
    ("Gi", 1073741824.0),
    ("KiB", 1024.0),
    ("MiB", 1048576.0),
    ("GiB", 1073741824.0),
];

fn number(info: &FieldInfo, text: &str) -> Result<f64, String> {
    let (units, expected) = match info.kind {
        Kind::Duration => (DURATIONS, "a duration such as 5ms, 2s or 1m"),
        Kind::Port => (SIZES, "a port, 0 to 65535"),
        _ => (SIZES, "a number such as 80, 1.5k or 3Ki"),
    };
    let parsed = split_number(text).and_then(|(number, unit)| {
        let factor = units.iter().find_map(|&(name, factor)| (name == unit).then_some(factor));
        factor.or((number == 0.0 && unit.is_empty()).then_some(1.0)).map(|factor| number * factor)
    });
    let is_possible = |number: &f64| info.kind != Kind::Port || *number <= f64::from(u16::MAX);
    parsed.filter(is_possible).ok_or_else(|| format!("'{}' takes {expected}, not '{text}'", info.name))
}

/// `1.5k` → 1.5 and `k`.
fn split_number(mut text: &str) -> Option<(f64, &str)> {
    let digits = (digit1::<_, winnow::error::EmptyError>, opt(('.', digit1))).take();
    let unit = (opt('µ'), opt('μ'), alpha0).take();
    let (digits, unit): (&str, &str) = terminated((digits, unit), eof).parse_next(&mut text).ok()?;
    digits.parse().ok().map(|number| (number, unit))
}
