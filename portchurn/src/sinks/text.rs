//! Text that came from outside: names of processes, arguments, paths. Whoever starts a process chooses them, so nothing
//! of it reaches a terminal or a file without [`clean`]. No output escapes in its own way.

use std::borrow::Cow;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::model::columns::Cut;

/// The few characters that differ between terminals that know Unicode and those that do not.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Glyphs {
    /// Whether names may keep characters beyond ASCII.
    pub unicode: bool,
    /// Stands for what was cut away.
    pub ellipsis: &'static str,
    /// Stands for a value that is not known.
    pub empty: &'static str,
    /// Unit of microseconds.
    pub micros: &'static str,
    /// Between groups of three digits; not a plain blank, so that `awk` sees one field.
    pub group: &'static str,
    /// Between facts of one line.
    pub dot: &'static str,
    /// Marks the selected row.
    pub pointer: &'static str,
    /// From the outer to the inner level.
    pub arrow: &'static str,
    /// Bars: from almost nothing to a full cell.
    pub bar: &'static [&'static str],
    /// Heights of a sparkline, lowest first.
    pub spark: &'static [&'static str],
}

/// For terminals that know Unicode.
pub const UNICODE: Glyphs = Glyphs {
    unicode: true,
    ellipsis: "…",
    empty: "–",
    micros: "µs",
    group: "\u{a0}",
    dot: "·",
    pointer: "▸",
    arrow: "→",
    bar: &["▏", "▎", "▍", "▌", "▋", "▊", "▉", "█"],
    spark: &["▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"],
};

/// For all others.
pub const ASCII: Glyphs = Glyphs {
    unicode: false,
    ellipsis: "..",
    empty: "-",
    micros: "us",
    group: "",
    dot: "|",
    pointer: ">",
    arrow: ">",
    bar: &["#"],
    spark: &["_", ".", "-", "=", "#"],
};

/// Whether a character could move the cursor, change colours, or make a name look like another one.
pub fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c,
            // Soft hyphen, Arabic letter mark, Mongolian vowel separator, zero-width characters and direction marks.
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
            // Line and paragraph separators, direction overrides, invisible operators, direction isolates.
            | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            // Variation selectors, byte order mark, interlinear marks, tags.
            | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

/// The text with everything escaped that must not reach a terminal: `\n`, `\x1b`, `\u{202e}`. Where Unicode is not
/// spoken, everything beyond ASCII is escaped too.
pub fn clean(text: &str, unicode: bool) -> Cow<'_, str> {
    let must_go = |c: char| is_hostile(c) || (!unicode && !c.is_ascii());
    if !text.chars().any(must_go) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            _ if !must_go(c) => safe.push(c),
            '\n' | '\t' | '\r' => safe.extend(c.escape_default()),
            _ if u32::from(c) < 0x100 => safe.push_str(&format!("\\x{:02x}", u32::from(c))),
            _ => safe.extend(c.escape_unicode()),
        }
    }
    Cow::Owned(safe)
}

/// One word for a POSIX shell.
pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// Cells that a text takes on a terminal.
pub fn width(text: &str) -> usize {
    text.width()
}

/// The text cut to a width, with an ellipsis where something is missing.
pub fn fit<'a>(text: &'a str, max_width: usize, cut: Cut, glyphs: &Glyphs) -> Cow<'a, str> {
    if width(text) <= max_width {
        return Cow::Borrowed(text);
    }
    let ellipsis_width = width(glyphs.ellipsis);
    if max_width <= ellipsis_width {
        return Cow::Owned(take_start(text, max_width).to_owned());
    }
    let keep = max_width - ellipsis_width;
    let (start, end) = match cut {
        Cut::End => (keep, 0),
        Cut::Start => (0, keep),
        // The end of an address is its port: it gets the odd cell.
        Cut::Middle => (keep / 2, keep - keep / 2),
    };
    Cow::Owned([take_start(text, start), glyphs.ellipsis, take_end(text, end)].concat())
}

/// The text brought to exactly this width, by cutting or by blanks.
pub fn pad(text: &str, to_width: usize, right: bool, cut: Cut, glyphs: &Glyphs) -> String {
    let fitting = fit(text, to_width, cut, glyphs);
    let blanks = " ".repeat(to_width.saturating_sub(width(&fitting)));
    if right { blanks + &fitting } else { fitting.into_owned() + &blanks }
}

fn take_start(text: &str, max_width: usize) -> &str {
    let mut used = 0;
    for (at, c) in text.char_indices() {
        used += c.width().unwrap_or(0);
        if used > max_width {
            return &text[..at];
        }
    }
    text
}

fn take_end(text: &str, max_width: usize) -> &str {
    let mut used = 0;
    for (at, c) in text.char_indices().rev() {
        used += c.width().unwrap_or(0);
        if used > max_width {
            return &text[at + c.len_utf8()..];
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{ASCII, UNICODE, clean, fit, is_hostile, pad, width};
    use crate::model::columns::Cut;

    #[test]
    fn what_could_fool_a_terminal_is_spelled_out() {
        assert_eq!(clean("python3 worker.py", true), "python3 worker.py");
        assert_eq!(clean("a\nb\tc\r", true), "a\\nb\\tc\\r");
        assert_eq!(clean("\u{1b}[31mred", true), "\\x1b[31mred");
        assert_eq!(clean("\u{9b}2J\u{7f}\0", true), "\\x9b2J\\x7f\\x00");
        assert_eq!(clean("gpj.\u{202e}exe", true), "gpj.\\u{202e}exe");
        assert_eq!(clean("工作者", true), "工作者");
        assert_eq!(clean("é工", false), "\\xe9\\u{5de5}");
    }

    #[test]
    fn cleaned_text_is_clean_for_every_character() {
        for c in '\0'..=char::MAX {
            let text = c.to_string();
            let safe = clean(&text, true);
            assert!(!safe.chars().any(is_hostile), "{:x}", u32::from(c));
            assert!(!safe.is_empty());
            assert!(clean(&text, false).is_ascii(), "{:x}", u32::from(c));
        }
    }

    #[test]
    fn text_is_cut_where_it_hurts_least() {
        assert_eq!(fit("192.168.100.200:3306", 11, Cut::Middle, &UNICODE), "192.1…:3306");
        assert_eq!(fit("/usr/lib/jvm/bin/java", 10, Cut::Start, &UNICODE), "…/bin/java");
        assert_eq!(fit("python3 worker.py", 9, Cut::End, &UNICODE), "python3 …");
        assert_eq!(fit("python3 worker.py", 9, Cut::End, &ASCII), "python3..");
        assert_eq!(fit("nginx", 5, Cut::Middle, &UNICODE), "nginx");
    }

    #[test]
    fn wide_characters_never_exceed_the_width() {
        for text in ["工作者进程", "a工b作c", "👩👩👩", "plain"] {
            for cut in [Cut::End, Cut::Middle, Cut::Start] {
                for max in 0..12 {
                    for glyphs in [&UNICODE, &ASCII] {
                        assert!(width(&fit(text, max, cut, glyphs)) <= max, "{text} {max}");
                        assert_eq!(width(&pad(text, max, true, cut, glyphs)), max, "{text} {max}");
                    }
                }
            }
        }
    }
}
