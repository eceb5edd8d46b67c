//! Texts that nobody would write: none may break the parser, a comparison or the display of an error.

use portchurn_common::record::FlowEvent;
use proptest::prelude::{any, prop_oneof, proptest};
use proptest::strategy::{Just, Strategy};

use super::{event, filter, worker};
use crate::filter::Filter;
use crate::model::row::Row;
use crate::model::snapshot::Program;

/// Pieces from which a text is made that comes close to the language.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        proptest::sample::select(vec![
            "comm",
            "dport",
            "dest",
            "life",
            "error",
            "event",
            "in",
            "and",
            "or",
            "not",
            "!",
            "=",
            "!=",
            "<",
            ">=",
            "~",
            "!~",
            "(",
            ")",
            ",",
            " ",
            "\"",
            "'",
            "\\",
            "*",
            "?",
            "10.0.0.0/8",
            "3306",
            "5ms",
            "E*",
            "-",
            "é",
            "数",
            "\u{a0}",
            "\n",
            ":",
            "[",
            "]",
            "µs",
            "80-90",
        ])
        .prop_map(str::to_owned),
        Just(String::new()),
        ".{0,3}",
    ];
    proptest::collection::vec(piece, 0..20).prop_map(|pieces| pieces.concat())
}

fn survives(text: &str) {
    match Filter::parse(text) {
        Ok(filter) => {
            let program = worker();
            filter.matches(&Row::of_program(&program));
            filter.matches_event(&event(FlowEvent::Close, 0));
            assert_eq!(filter.text(), text);
        }
        Err(error) => {
            assert!(text.is_char_boundary(error.offset), "{text:?} {}", error.offset);
            assert!(!error.message.is_empty());
            let shown = error.to_string();
            assert_eq!(shown.lines().count(), 2, "{shown:?}");
        }
    }
}

proptest! {
    #[test]
    fn no_text_breaks_it(text in any::<String>()) {
        survives(&text);
    }

    #[test]
    fn no_near_miss_breaks_it(text in pieces()) {
        survives(&text);
    }

    #[test]
    fn quoting_finds_any_text(text in "\\PC{1,12}") {
        let program = Program { program: text.clone(), script: None, ..worker() };
        let row = Row::of_program(&program);
        let quoted = format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
        let whole = format!("comm={quoted}");
        assert!(filter(&whole).matches(&row), "{whole}");
        assert!(filter(&quoted).matches(&row), "{quoted}");
    }
}
