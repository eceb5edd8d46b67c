//! Numbers as people read them. For tables and screens only: JSON and CSV get the plain number.

use crate::model::columns::Cell;
use crate::sinks::text::{Glyphs, clean};

/// From here on digits are grouped; `2341` is read as easily without.
const GROUP_FROM: u64 = 10_000;

/// A cell as text, no wider than `max_width` if it is a number; text is only cleaned.
pub fn cell(cell: &Cell, max_width: usize, glyphs: &Glyphs) -> String {
    match cell {
        Cell::Text(text) => clean(text, glyphs.unicode).into_owned(),
        Cell::Count(number) => count(*number, max_width, glyphs),
        Cell::Id(number) => number.to_string(),
        Cell::PerSecond(rate) => per_second(*rate, max_width, glyphs),
        Cell::Micros(duration_us) => micros(*duration_us, glyphs),
        Cell::Seconds(left_s) if *left_s <= 0.0 => "now".to_owned(),
        Cell::Seconds(left_s) => micros((left_s * 1e6) as u64, glyphs),
        Cell::Ratio(ratio) => percent(*ratio),
        Cell::Empty => glyphs.empty.to_owned(),
    }
}

/// `2341`, `14 402`; where that is too wide `14.4K`, `1.2M`.
pub fn count(number: u64, max_width: usize, glyphs: &Glyphs) -> String {
    let full = grouped(number, glyphs);
    if full.chars().count() <= max_width { full } else { shortened(number) }
}

/// `2341`, `12.5`, `0.3`; `<0.1` for what is not nothing.
pub fn per_second(rate: f64, max_width: usize, glyphs: &Glyphs) -> String {
    if !rate.is_finite() || rate < 0.0 {
        return glyphs.empty.to_owned();
    }
    match rate {
        0.0 => "0".to_owned(),
        ..0.05 => "<0.1".to_owned(),
        ..99.95 => format!("{rate:.1}"),
        _ => count(rate.round() as u64, max_width, glyphs),
    }
}

/// The longest duration that the kernel side can tell: this, or more.
const LONGEST_US: u64 = u32::MAX as u64;

/// `850 µs`, `4.1 ms`, `31.0 s`, `5m03s`, `2h10m`, `3d04h`.
pub fn micros(duration_us: u64, glyphs: &Glyphs) -> String {
    let us = duration_us as f64;
    match duration_us {
        0..1_000 => format!("{duration_us} {}", glyphs.micros),
        1_000..99_950 => format!("{:.1} ms", us / 1e3),
        99_950..999_500 => format!("{:.0} ms", us / 1e3),
        999_500..99_950_000 => format!("{:.1} s", us / 1e6),
        LONGEST_US => format!(">{}", clock(duration_us / 1_000_000)),
        _ => clock(duration_us / 1_000_000),
    }
}

fn clock(seconds: u64) -> String {
    match seconds {
        0..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{:02}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// Time since the attach, `00:01:12`.
pub fn elapsed(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    format!("{:02}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60)
}

/// `0.4 %`; `<0.1 %` for what is not nothing.
pub fn percent(ratio: f64) -> String {
    let percent = ratio * 100.0;
    match percent {
        p if !p.is_finite() => "?".to_owned(),
        0.0 => "0 %".to_owned(),
        ..0.05 => "<0.1 %".to_owned(),
        ..9.95 => format!("{percent:.1} %"),
        _ => format!("{percent:.0} %"),
    }
}

/// `12.3 MiB`.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64 / 1024.0;
    let mut unit = UNITS[0];
    for larger in &UNITS[1..] {
        if value < 1023.95 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    format!("{value:.1} {unit}")
}

fn grouped(number: u64, glyphs: &Glyphs) -> String {
    let digits = number.to_string();
    if number < GROUP_FROM {
        return digits;
    }
    let mut text = String::with_capacity(digits.len() + 6);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push_str(glyphs.group);
        }
        text.push(digit);
    }
    text
}

fn shortened(number: u64) -> String {
    const SUFFIXES: [&str; 6] = ["K", "M", "G", "T", "P", "E"];
    let mut value = number as f64;
    let mut suffix = "";
    for larger in SUFFIXES {
        if value < 999.5 {
            break;
        }
        value /= 1000.0;
        suffix = larger;
    }
    if value < 99.95 && !suffix.is_empty() {
        format!("{value:.1}{suffix}")
    } else {
        format!("{value:.0}{suffix}")
    }
}

#[cfg(test)]
mod tests {
    use super::{bytes, cell, count, elapsed, micros, per_second, percent};
    use crate::model::columns::Cell;
    use crate::sinks::text::{ASCII, UNICODE};

    #[test]
    fn counts_are_grouped_and_shortened_when_narrow() {
        assert_eq!(count(2341, 9, &UNICODE), "2341");
        assert_eq!(count(14_402, 9, &UNICODE), "14\u{a0}402");
        assert_eq!(count(14_402, 9, &ASCII), "14402");
        assert_eq!(count(14_402, 5, &UNICODE), "14.4K");
        assert_eq!(count(1_234_567, 9, &UNICODE), "1\u{a0}234\u{a0}567");
        assert_eq!(count(1_234_567, 6, &UNICODE), "1.2M");
        assert_eq!(count(999_600, 4, &UNICODE), "1.0M");
        assert_eq!(count(u64::MAX, 6, &UNICODE), "18.4E");
    }

    #[test]
    fn rates_have_as_many_digits_as_mean_something() {
        for (rate, text) in
            [(0.0, "0"), (0.01, "<0.1"), (0.3, "0.3"), (12.5, "12.5"), (99.96, "100"), (2341.4, "2341")]
        {
            assert_eq!(per_second(rate, 9, &UNICODE), text);
        }
        assert_eq!(per_second(f64::NAN, 9, &UNICODE), "–");
        assert_eq!(per_second(61_234.0, 5, &UNICODE), "61.2K");
    }

    #[test]
    fn durations_choose_their_unit() {
        for (us, text) in [
            (0, "0 µs"),
            (850, "850 µs"),
            (4_100, "4.1 ms"),
            (99_949, "99.9 ms"),
            (99_950, "100 ms"),
            (999_499, "999 ms"),
            (999_500, "1.0 s"),
            (31_000_000, "31.0 s"),
            (303_000_000, "5m03s"),
            (7_800_000_000, "2h10m"),
            (4_294_967_295, ">1h11m"),
            (u64::MAX, "213503982d08h"),
        ] {
            assert_eq!(micros(us, &UNICODE), text);
        }
        assert_eq!(micros(850, &ASCII), "850 us");
    }

    #[test]
    fn other_numbers() {
        assert_eq!(elapsed(72.9), "00:01:12");
        assert_eq!(elapsed(-1.0), "00:00:00");
        assert_eq!(percent(0.004), "0.4 %");
        assert_eq!(percent(0.0001), "<0.1 %");
        assert_eq!(percent(1.5), "150 %");
        assert_eq!(bytes(12_900_000), "12.3 MiB");
        assert_eq!(bytes(100), "0.1 KiB");
    }

    #[test]
    fn a_process_number_is_never_grouped() {
        assert_eq!(cell(&Cell::Id(1_234_567), 3, &UNICODE), "1234567");
        assert_eq!(cell(&Cell::Empty, 3, &ASCII), "-");
        assert_eq!(cell(&Cell::Text("a\u{1b}".to_owned()), 9, &ASCII), "a\\x1b");
    }
}
