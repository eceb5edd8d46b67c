//! The pprof format (profile.proto of github.com/google/pprof), as far as call sites need it: plain protobuf, which all of
//! its readers accept without compression. Three wire types, no generated code.

use std::collections::HashMap;

use crate::model::sample::Frame;
use crate::sinks::text::clean;

/// A profile that is being put together.
pub(super) struct Profile {
    body: Vec<u8>,
    strings: HashMap<String, u64>,
    table: Vec<String>,
    mappings: HashMap<(u64, u64), u64>,
    functions: HashMap<(u64, u64), u64>,
    locations: HashMap<(u64, u64, u64), u64>,
}

/// Field numbers of `Profile`.
mod field {
    pub(super) const SAMPLE_TYPE: u32 = 1;
    pub(super) const SAMPLE: u32 = 2;
    pub(super) const MAPPING: u32 = 3;
    pub(super) const LOCATION: u32 = 4;
    pub(super) const FUNCTION: u32 = 5;
    pub(super) const STRING_TABLE: u32 = 6;
    pub(super) const DURATION_NANOS: u32 = 10;
}

impl Profile {
    /// An empty one, whose samples have one value.
    pub(super) fn new(name: &str, unit: &str) -> Self {
        let mut this = Self {
            body: Vec::new(),
            strings: HashMap::new(),
            table: Vec::new(),
            mappings: HashMap::new(),
            functions: HashMap::new(),
            locations: HashMap::new(),
        };
        // The first string is the empty one.
        this.string("");
        let (name, unit) = (this.string(name), this.string(unit));
        let mut kind = Vec::new();
        number(&mut kind, 1, name);
        number(&mut kind, 2, unit);
        bytes(&mut this.body, field::SAMPLE_TYPE, &kind);
        this
    }

    /// Adds a stack, innermost frame first.
    pub(super) fn add(&mut self, frames: &[Frame], labels: &[(&str, &str)], value: u64) {
        let locations: Vec<_> = frames.iter().map(|frame| self.location(frame)).collect();
        let mut sample = Vec::new();
        packed(&mut sample, 1, &locations);
        packed(&mut sample, 2, &[value]);
        for (key, text) in labels {
            let (key, text) = (self.string(key), self.string(text));
            let mut label = Vec::new();
            number(&mut label, 1, key);
            number(&mut label, 2, text);
            bytes(&mut sample, 3, &label);
        }
        bytes(&mut self.body, field::SAMPLE, &sample);
    }

    /// The whole file.
    pub(super) fn finish(mut self, duration_ns: u64) -> Vec<u8> {
        for text in &self.table {
            bytes(&mut self.body, field::STRING_TABLE, text.as_bytes());
        }
        number(&mut self.body, field::DURATION_NANOS, duration_ns);
        self.body
    }

    /// Cleaned: readers print names as they are.
    fn string(&mut self, text: &str) -> u64 {
        let text = &*clean(text, true);
        if let Some(&known) = self.strings.get(text) {
            return known;
        }
        let index = self.table.len() as u64;
        self.table.push(text.to_owned());
        self.strings.insert(text.to_owned(), index);
        index
    }

    /// Which build of which file the frame is of; 0 where that is not told.
    fn mapping(&mut self, frame: &Frame) -> u64 {
        let Some(build_id) = &frame.build_id else { return 0 };
        let key = (self.string(frame.module.as_deref().unwrap_or_default()), self.string(build_id));
        let next = self.mappings.len() as u64 + 1;
        if let Some(&known) = self.mappings.get(&key) {
            return known;
        }
        self.mappings.insert(key, next);
        let mut mapping = Vec::new();
        number(&mut mapping, 1, next);
        number(&mut mapping, 5, key.0);
        number(&mut mapping, 6, key.1);
        // Whether functions are named: readers look for no other names, then.
        number(&mut mapping, 7, 1);
        bytes(&mut self.body, field::MAPPING, &mapping);
        next
    }

    fn function(&mut self, frame: &Frame) -> u64 {
        let file = frame.file.as_deref().or(frame.module.as_deref()).unwrap_or_default();
        let key = (self.string(&frame.function), self.string(file));
        let next = self.functions.len() as u64 + 1;
        if let Some(&known) = self.functions.get(&key) {
            return known;
        }
        self.functions.insert(key, next);
        let mut function = Vec::new();
        number(&mut function, 1, next);
        number(&mut function, 2, key.0);
        // Without a system name. With one that is equal, `go tool pprof` takes the name for a mangled one and what is in
        // angle brackets for C++'s: `<module>` would be unknown.
        number(&mut function, 4, key.1);
        bytes(&mut self.body, field::FUNCTION, &function);
        next
    }

    fn location(&mut self, frame: &Frame) -> u64 {
        let key = (self.mapping(frame), self.function(frame), u64::from(frame.line.unwrap_or(0)));
        let next = self.locations.len() as u64 + 1;
        if let Some(&known) = self.locations.get(&key) {
            return known;
        }
        self.locations.insert(key, next);
        let mut line = Vec::new();
        number(&mut line, 1, key.1);
        number(&mut line, 2, key.2);
        let mut location = Vec::new();
        number(&mut location, 1, next);
        number(&mut location, 2, key.0);
        bytes(&mut location, 4, &line);
        bytes(&mut self.body, field::LOCATION, &location);
        next
    }
}

fn varint(to: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

fn number(to: &mut Vec<u8>, field: u32, value: u64) {
    varint(to, u64::from(field) << 3);
    varint(to, value);
}

fn bytes(to: &mut Vec<u8>, field: u32, value: &[u8]) {
    varint(to, u64::from(field) << 3 | 2);
    varint(to, value.len() as u64);
    to.extend_from_slice(value);
}

fn packed(to: &mut Vec<u8>, field: u32, values: &[u64]) {
    let mut inner = Vec::new();
    for &value in values {
        varint(&mut inner, value);
    }
    bytes(to, field, &inner);
}

#[cfg(test)]
mod tests {
    use super::{Profile, varint};
    use crate::model::sample::Frame;

    #[test]
    fn numbers_are_written_seven_bits_at_a_time() {
        let mut bytes = Vec::new();
        varint(&mut bytes, 300);
        assert_eq!(bytes, [0xac, 0x02]);
    }

    #[test]
    fn equal_frames_are_one_location_and_the_first_string_is_empty() {
        let frame = Frame::python("getSession", "sync.py", 41);
        let mut profile = Profile::new("connections", "count");
        profile.add(&[frame.clone(), frame], &[("program", "python3")], 7);
        assert_eq!((profile.locations.len(), profile.functions.len(), profile.table[0].as_str()), (1, 1, ""));
        let bytes = profile.finish(1);
        assert!(bytes.windows(10).any(|window| window == b"getSession"));
    }
}
