//! A line of code as the snapshot and its JSON form have it ([`crate::model::snapshot`]).

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

use crate::model::sample::{Frame, Stack};

/// Where connections are opened or closed in code.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CallSite {
    /// `open`, `close`, or `no_port`: those of the opens that found no local port.
    pub at: &'static str,
    /// How often. At `open` the sum over a destination is what was begun: opened, failed and in progress; at `no_port` it
    /// is `failed_by.EADDRNOTAVAIL`.
    pub count: u64,
    /// Of all of the destination at this moment.
    pub share: f64,
    /// Whether it was counted. Else the count is exact for a fingerprint of the stack, which was read `sampled` times.
    pub exact: bool,
    /// How many of `count` stacks were read; `null` where `exact`.
    pub sampled: Option<u64>,
    /// `python` or `native`; `null` where no stack is known.
    pub language: Option<&'static str>,
    /// The innermost line that is the application's.
    pub culprit: Option<Place>,
    /// The application's line that called it.
    pub called_from: Option<Place>,
    /// What to know about it.
    pub note: Option<String>,
    /// All frames, innermost first.
    #[serde(serialize_with = "frames")]
    pub frames: Option<Arc<Stack>>,
}

/// A line of code.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Place {
    /// Function.
    pub function: Arc<str>,
    /// Source file.
    pub file: Option<Arc<str>>,
    /// Line in it.
    pub line: Option<u32>,
}

impl Place {
    /// Where a frame is.
    pub fn of(frame: &Frame) -> Self {
        Self { function: frame.function.clone(), file: frame.file.clone(), line: frame.line }
    }
}

impl CallSite {
    /// The culprit, who called it, and what to know about it.
    pub fn described(&self) -> String {
        let mut parts = Vec::new();
        parts.extend(self.culprit.as_ref().map(Place::to_string));
        parts.extend(self.called_from.as_ref().map(|place| format!("from {place}")));
        parts.extend(self.sampled.map(|read| format!("({read} of {} read)", self.count)));
        parts.extend(self.note.as_ref().map(|note| format!("[{note}]")));
        parts.join("  ")
    }

    /// Short: the share, the line and the function; what matters most stands first, as the end may be cut away.
    pub fn label(&self) -> String {
        let place = self.culprit.as_ref().map(Place::to_string);
        format!("{:.0}% {}", 100.0 * self.share, place.unwrap_or_default())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.as_deref().map(|file| file.rsplit('/').next().unwrap_or(file));
        match (file, self.line) {
            (Some(file), Some(line)) => write!(f, "{file}:{line} {}", self.function),
            (Some(file), None) => write!(f, "{file} {}", self.function),
            _ => f.write_str(&self.function),
        }
    }
}

/// Frames as JSON has them.
pub(crate) fn frames<S: Serializer>(stack: &Option<Arc<Stack>>, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Row<'a> {
        function: &'a str,
        file: Option<&'a str>,
        line: Option<u32>,
        module: Option<&'a str>,
        build_id: Option<&'a str>,
        language: &'static str,
    }
    let frames = stack.as_ref().map_or(&[][..], |stack| &stack.frames);
    serializer.collect_seq(frames.iter().map(|frame| Row {
        function: &frame.function,
        file: frame.file.as_deref(),
        line: frame.line,
        module: frame.module.as_deref(),
        build_id: frame.build_id.as_deref(),
        language: frame.language.name(),
    }))
}
