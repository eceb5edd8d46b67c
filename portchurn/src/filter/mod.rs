//! The one filter language: `--filter`, `/` in `top`, `trace`, recordings. Text in, a yes or no for a row or an event
//! out. It must stay pure: no clock, no look-up of names, no input or output.
//!
//! ```text
//! either  := both { "or" both }
//! both    := factor { ["and"] factor }          a space is "and", and "and" binds tighter than "or"
//! factor  := "!" factor | "not" factor | "(" either ")" | term
//! term    := field op value | field "in" list | word
//! op      := = | != | > | >= | < | <= | ~ | !~  ~ is a regular expression, not anchored
//! list    := value { "," value } | "(" value { "," value } ")"
//! value   := text, with * and ? as in a shell; "quoted", taken as it is; 5ms; 10.0.0.0/8; 8000-8999
//! word    := what program, executable or destination contain, in any case
//! ```
//!
//! A row stands for several destinations: it matches if one of them makes the whole expression true, so that
//! `dport=3306 life<10ms` means short lives *of* connections to 3306. Rates and counts are those of the row. What is not known equals nothing: `unit=x` is false for it and `unit!=x` is true.

use crate::filter::fields::Field;
use crate::filter::subject::{RowView, Subject};
use crate::filter::value::Test;
use crate::model::event::TraceEvent;
use crate::model::row::{Level, Row};

pub use crate::filter::error::FilterError;
pub use crate::filter::fields::{FIELDS, FieldInfo};

mod error;
mod fields;
mod grammar;
mod subject;
mod value;

/// A filter, ready to be asked.
#[derive(Clone, Debug)]
pub struct Filter {
    text: String,
    expr: Expr,
}

/// What a filter is asked about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Scope {
    /// Lines of a table.
    Rows,
    /// Single events.
    Events,
}

/// An expression. An empty conjunction is true.
#[derive(Clone, Debug)]
enum Expr {
    All(Vec<Self>),
    Any(Vec<Self>),
    Not(Box<Self>),
    Term(Term),
    Word(value::Pattern),
}

#[derive(Clone, Debug)]
struct Term {
    /// Where its field stands.
    offset: usize,
    field: Field,
    negated: bool,
    test: Test,
}

impl Filter {
    /// Reads a filter. An empty one matches everything.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        let expr = grammar::parse(text)?;
        Ok(Self { text: text.to_owned(), expr })
    }

    /// The text it was made from.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether a line of a table matches.
    pub fn matches(&self, row: &Row<'_>) -> bool {
        if row.destinations.is_empty() {
            return self.expr.holds(&RowView { row, destination: None });
        }
        row.destinations
            .iter()
            .any(|destination| self.expr.holds(&RowView { row, destination: Some(destination) }))
    }

    /// Whether an event matches.
    pub fn matches_event(&self, event: &TraceEvent) -> bool {
        self.expr.holds(event)
    }

    /// Refuses fields that mean nothing for what is asked: `event` of a row, `opens` of an event. Without this they
    /// equal nothing.
    pub fn check(&self, scope: Scope) -> Result<(), FilterError> {
        let mut terms = Vec::new();
        self.expr.terms(&mut terms);
        let foreign = terms.iter().find_map(|term| {
            let info = term.field.info();
            (!info.is_in(scope)).then_some((term.offset, info.name))
        });
        match foreign {
            None => Ok(()),
            Some((offset, name)) => {
                let (only, not) = match scope {
                    Scope::Rows => ("events (portchurn trace)", "rows of a table"),
                    Scope::Events => ("rows of a table", "events"),
                };
                let message = format!("'{name}' is a field of {only}, not of {not}");
                Err(FilterError::new(&self.text, offset, message))
            }
        }
    }

    /// What rows must stand for, so that their numbers are of what it asks for: only single processes have a `pid`, and of a
    /// program with several destinations the numbers are of all of them.
    pub fn level(&self) -> Level {
        let mut terms = Vec::new();
        self.expr.terms(&mut terms);
        if terms.iter().any(|term| term.field == Field::Pid) {
            Level::Process
        } else if terms.iter().any(|term| term.field.is_of_destination()) {
            Level::Destination
        } else {
            Level::Program
        }
    }

    /// All of the language, for `--help`, `?` and the manual.
    pub fn help() -> String {
        fields::help()
    }
}

impl Expr {
    fn holds(&self, subject: &dyn Subject) -> bool {
        match self {
            Self::All(parts) => parts.iter().all(|part| part.holds(subject)),
            Self::Any(parts) => parts.iter().any(|part| part.holds(subject)),
            Self::Not(inner) => !inner.holds(subject),
            Self::Term(term) => term.test.holds(term.field, subject) != term.negated,
            Self::Word(pattern) => {
                let mut hit = |text: &str| pattern.matches(text);
                [Field::Comm, Field::Exe, Field::Dest].into_iter().any(|field| subject.texts(field, &mut hit))
            }
        }
    }

    fn terms<'a>(&'a self, found: &mut Vec<&'a Term>) {
        match self {
            Self::All(parts) | Self::Any(parts) => parts.iter().for_each(|part| part.terms(found)),
            Self::Not(inner) => inner.terms(found),
            Self::Term(term) => found.push(term),
            Self::Word(_) => {}
        }
    }
}

#[cfg(test)]
mod tests;
