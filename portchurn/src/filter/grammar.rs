//! From text to an expression. The grammar stands in `filter`; here every way to be wrong gets a place and words. It
//! must not panic on any text, nor follow parentheses without end.

use std::cell::Cell;

use winnow::combinator::{alt, opt, peek, preceded, terminated};
use winnow::error::ParserError;
use winnow::stream::Location as _;
use winnow::token::{any, one_of, take_while};
use winnow::{LocatingSlice, Parser};

use crate::filter::error::FilterError;
use crate::filter::fields::{self, FieldInfo, suggest_field};
use crate::filter::value::{self, Op, Pattern, Raw};
use crate::filter::{Expr, Term};

type Input<'a> = LocatingSlice<&'a str>;
type Result<T> = std::result::Result<T, Problem>;

/// Parentheses and negations inside each other; a filter that people can read has three.
const DEPTH_MAX: usize = 64;

/// What is wrong, and where. The message stays empty while another way to read the text may be right.
#[derive(Debug)]
struct Problem {
    offset: usize,
    message: String,
}

impl ParserError<Input<'_>> for Problem {
    type Inner = Self;

    fn from_input(input: &Input<'_>) -> Self {
        Self { offset: input.current_token_start(), message: String::new() }
    }

    fn into_inner(self) -> std::result::Result<Self::Inner, Self> {
        Ok(self)
    }

    fn is_backtrack(&self) -> bool {
        self.message.is_empty()
    }
}

fn problem<T>(offset: usize, message: impl Into<String>) -> Result<T> {
    Err(Problem { offset, message: message.into() })
}

pub(super) fn parse(text: &str) -> std::result::Result<Expr, FilterError> {
    whole(&mut LocatingSlice::new(text)).map_err(|problem| {
        let message = if problem.message.is_empty() { "expected a term".to_owned() } else { problem.message };
        FilterError::new(text, problem.offset, message)
    })
}

fn whole(input: &mut Input<'_>) -> Result<Expr> {
    if next_char(input)?.is_none() {
        return Ok(Expr::All(Vec::new()));
    }
    let expr = either(input, 0)?;
    match next_char(input)? {
        None => Ok(expr),
        Some(')') => problem(input.current_token_start(), "this ')' closes nothing"),
        Some(c) => problem(input.current_token_start(), format!("unexpected '{c}'")),
    }
}

fn either(input: &mut Input<'_>, depth: usize) -> Result<Expr> {
    let mut parts = vec![both(input, depth)?];
    while keyword(input, "or")? {
        parts.push(both(input, depth)?);
    }
    Ok(one_or(parts, Expr::Any))
}

fn both(input: &mut Input<'_>, depth: usize) -> Result<Expr> {
    let mut parts = vec![factor(input, depth)?];
    loop {
        let more = keyword(input, "and")? || !(at_end_of_group(input)? || peek_keyword(input, "or")?);
        if !more {
            return Ok(one_or(parts, Expr::All));
        }
        parts.push(factor(input, depth)?);
    }
}

fn one_or(mut parts: Vec<Expr>, many: fn(Vec<Expr>) -> Expr) -> Expr {
    match parts.pop() {
        Some(only) if parts.is_empty() => only,
        last => {
            parts.extend(last);
            many(parts)
        }
    }
}

fn factor(input: &mut Input<'_>, depth: usize) -> Result<Expr> {
    let next = next_char(input)?;
    let offset = input.current_token_start();
    if depth > DEPTH_MAX {
        return problem(offset, format!("more than {DEPTH_MAX} parentheses or negations inside each other"));
    }
    for word in ["and", "or"] {
        if peek_keyword(input, word)? {
            return problem(
                offset,
                format!("expected a term before '{word}'; quote it to look for the word"),
            );
        }
    }
    match next {
        None => problem(offset, "expected a term, such as dport=3306 or a word"),
        Some('(') => {
            any.parse_next(input)?;
            let inner = either(input, depth + 1)?;
            match next_char(input)? {
                Some(')') => any.parse_next(input).map(|_| inner),
                Some(c) => problem(input.current_token_start(), format!("unexpected '{c}'")),
                None => problem(offset, "this '(' is never closed"),
            }
        }
        Some('!') => {
            any.parse_next(input)?;
            factor(input, depth + 1).map(|inner| Expr::Not(Box::new(inner)))
        }
        _ if keyword(input, "not")? => factor(input, depth + 1).map(|inner| Expr::Not(Box::new(inner))),
        Some(')') => problem(offset, "expected a term before ')'"),
        Some(_) => term(input),
    }
}

fn term(input: &mut Input<'_>) -> Result<Expr> {
    let offset = input.current_token_start();
    if let Some(quoted) = quoted(input)? {
        return word(quoted);
    }
    if let Some(name) = opt(terminated(field_name, peek((spaces, operator)))).parse_next(input)? {
        let Some(info) = fields::find(name) else {
            return problem(offset, format!("unknown field '{name}'{}", suggest_field(name)));
        };
        return comparison(input, offset, info).map(Expr::Term);
    }
    let text: &str = take_while(0.., is_word_char).parse_next(input)?;
    match (text.is_empty(), next_char(input)?) {
        (true, Some(c)) => problem(offset, format!("expected a field or a word before '{c}'")),
        _ => word(Raw { offset, text: text.to_owned(), quoted: false }),
    }
}

fn word(raw: Raw) -> Result<Expr> {
    let offset = raw.offset;
    Pattern::part(&raw).map(Expr::Word).or_else(|message| problem(offset, message))
}

fn comparison(input: &mut Input<'_>, offset: usize, info: &FieldInfo) -> Result<Term> {
    spaces.parse_next(input)?;
    let op_offset = input.current_token_start();
    let (op, negated) = operator.parse_next(input)?;
    if !value::takes(info.kind, op) {
        return problem(op_offset, format!("'{}' takes {}", info.name, value::operators(info.kind)));
    }
    spaces.parse_next(input)?;
    let values = match op {
        Op::Regex => vec![regex(input, info)?],
        Op::Equal | Op::In => list(input, info)?,
        _ => vec![item(input, info)?],
    };
    match value::compile(info, op, &values) {
        Ok(test) => Ok(Term { offset, field: info.field, negated, test }),
        Err((offset, message)) => problem(offset, message),
    }
}

/// An operator, and whether it means the opposite.
fn operator(input: &mut Input<'_>) -> Result<(Op, bool)> {
    let symbol = alt((
        alt(("!=", "<>")).value((Op::Equal, true)),
        "!~".value((Op::Regex, true)),
        alt((">=", "=>")).value((Op::GreaterEqual, false)),
        alt(("<=", "=<")).value((Op::LessEqual, false)),
        alt(("=~", "~")).value((Op::Regex, false)),
        alt(("==", "=")).value((Op::Equal, false)),
        ">".value((Op::Greater, false)),
        "<".value((Op::Less, false)),
    ));
    let is_in = (|input: &mut Input<'_>| match keyword(input, "in")? {
        true => Ok(()),
        false => Err(Problem::from_input(input)),
    })
    .value((Op::In, false));
    alt((symbol, is_in)).parse_next(input)
}

fn list(input: &mut Input<'_>, info: &FieldInfo) -> Result<Vec<Raw>> {
    let open = input.current_token_start();
    let is_grouped = opt(('(', spaces)).parse_next(input)?.is_some();
    let mut values = vec![item(input, info)?];
    while opt((spaces_if(is_grouped), ',', spaces)).parse_next(input)?.is_some() {
        values.push(item(input, info)?);
    }
    if is_grouped {
        match next_char(input)? {
            Some(')') => any.parse_next(input).map(|_| ())?,
            Some(_) => {
                return problem(input.current_token_start(), "expected ',' or ')' in the list");
            }
            None => return problem(open, "this '(' is never closed"),
        }
    }
    Ok(values)
}

/// Spaces before a comma belong to a list only between parentheses: elsewhere a space ends the term.
fn spaces_if<'a>(yes: bool) -> impl Parser<Input<'a>, (), Problem> {
    move |input: &mut Input<'a>| if yes { spaces(input) } else { Ok(()) }
}

fn item(input: &mut Input<'_>, info: &FieldInfo) -> Result<Raw> {
    let offset = input.current_token_start();
    if let Some(quoted) = quoted(input)? {
        return Ok(quoted);
    }
    let is_item_char = |c: char| !c.is_whitespace() && !matches!(c, '(' | ')' | ',' | '"' | '\'');
    let text: &str = take_while(0.., is_item_char).parse_next(input)?;
    if text.is_empty() {
        return problem(offset, format!("expected a value for '{}', as in {}", info.name, info.example));
    }
    Ok(Raw { offset, text: text.to_owned(), quoted: false })
}

/// A regular expression ends at a space, or at a parenthesis that it did not open.
fn regex(input: &mut Input<'_>, info: &FieldInfo) -> Result<Raw> {
    let offset = input.current_token_start();
    if let Some(quoted) = quoted(input)? {
        return Ok(quoted);
    }
    let (open, escaped) = (Cell::new(0u32), Cell::new(false));
    let is_regex_char = |c: char| {
        match c {
            _ if escaped.take() => {}
            '\\' => escaped.set(true),
            '(' => open.set(open.get() + 1),
            ')' if open.get() == 0 => return false,
            ')' => open.set(open.get() - 1),
            _ => {}
        }
        !c.is_whitespace()
    };
    let text: &str = take_while(0.., is_regex_char).parse_next(input)?;
    if text.is_empty() {
        return problem(offset, format!("expected a regular expression after '{}~'", info.name));
    }
    Ok(Raw { offset, text: text.to_owned(), quoted: false })
}

/// Text in single or double quotes; a backslash stands before a quote or a backslash that is meant, and for itself
/// before all else, so that regular expressions need no second one.
fn quoted(input: &mut Input<'_>) -> Result<Option<Raw>> {
    let offset = input.current_token_start();
    let Some(mark) = opt(one_of(['"', '\''])).parse_next(input)? else { return Ok(None) };
    let mut text = String::new();
    loop {
        match opt(any).parse_next(input)? {
            None => return problem(offset, "this quote is never closed"),
            Some(c) if c == mark => return Ok(Some(Raw { offset, text, quoted: true })),
            Some('\\') => match opt(one_of([mark, '\\'])).parse_next(input)? {
                Some(c) => text.push(c),
                None => text.push('\\'),
            },
            Some(c) => text.push(c),
        }
    }
}

fn field_name<'a>(input: &mut Input<'a>) -> Result<&'a str> {
    take_while(1.., is_word_char).parse_next(input)
}

fn spaces(input: &mut Input<'_>) -> Result<()> {
    take_while(0.., char::is_whitespace).void().parse_next(input)
}

fn is_word_char(c: char) -> bool {
    !c.is_whitespace() && !matches!(c, '(' | ')' | '"' | '\'' | '=' | '<' | '>' | '~' | '!')
}

/// Skips spaces and looks at what follows.
fn next_char(input: &mut Input<'_>) -> Result<Option<char>> {
    preceded(spaces, opt(peek(any))).parse_next(input)
}

fn at_end_of_group(input: &mut Input<'_>) -> Result<bool> {
    Ok(matches!(next_char(input)?, None | Some(')')))
}

/// Skips spaces, and this word if it is there as a whole.
fn keyword(input: &mut Input<'_>, word: &str) -> Result<bool> {
    let whole_word = take_while(1.., is_word_char).verify(|text: &str| text.eq_ignore_ascii_case(word));
    let not_compared = peek((spaces, opt(symbol_char))).verify(|(_, symbol)| symbol.is_none());
    let found = opt(preceded(spaces, terminated(whole_word, not_compared))).parse_next(input)?;
    Ok(found.is_some())
}

/// `in=5` is a comparison with a field that does not exist, not a keyword.
fn symbol_char(input: &mut Input<'_>) -> Result<char> {
    one_of(['=', '<', '>', '~']).parse_next(input)
}

fn peek_keyword(input: &mut Input<'_>, word: &str) -> Result<bool> {
    let mut ahead = *input;
    keyword(&mut ahead, word)
}
