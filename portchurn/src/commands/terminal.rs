//! What the terminal can do, from the terminal and from the environment: the one decision that all outputs follow.

use std::io::IsTerminal as _;

use clap::ValueEnum;

/// `--color`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR says otherwise
    #[default]
    Auto,
    /// Everywhere
    Always,
    /// Nowhere
    Never,
}

impl Color {
    /// The decision: flag before NO_COLOR (no-color.org) and CLICOLOR_FORCE before the terminal.
    pub fn is_on(self, is_terminal: bool) -> bool {
        let is_set =
            |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty() && value != "0");
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto if std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) => false,
            Self::Auto => is_set("CLICOLOR_FORCE") || is_terminal && !is_dumb(),
        }
    }
}

fn is_dumb() -> bool {
    std::env::var_os("TERM").is_none_or(|term| term == "dumb")
}

/// Whether a screen makes sense: both ends are a terminal that can move its cursor.
pub fn is_interactive() -> bool {
    std::io::stdout().is_terminal() && std::io::stdin().is_terminal() && !is_dumb()
}

/// Width of the terminal behind stdout. Cells.
pub fn width() -> Option<u16> {
    rustix::termios::tcgetwinsize(std::io::stdout())
        .ok()
        .map(|size| size.ws_col)
        .filter(|&columns| columns > 0)
}

/// Name of this host.
pub fn host() -> Option<String> {
    Some(rustix::system::uname().nodename().to_string_lossy().into_owned()).filter(|name| !name.is_empty())
}

/// Whether the locale is UTF-8: the first of these that is set decides, as in setlocale(3).
pub fn speaks_unicode() -> bool {
    let set = ["LC_ALL", "LC_CTYPE", "LANG"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|v| !v.is_empty()));
    set.is_some_and(|locale| is_utf8(&locale))
}

fn is_utf8(locale: &str) -> bool {
    let locale = locale.to_ascii_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

#[cfg(test)]
mod tests {
    use super::{Color, is_utf8};

    #[test]
    fn flags_win() {
        assert!(Color::Always.is_on(false));
        assert!(!Color::Never.is_on(true));
    }

    #[test]
    fn locales_tell_their_encoding() {
        assert!(is_utf8("de_DE.UTF-8") && is_utf8("C.utf8"));
        assert!(!is_utf8("C") && !is_utf8("POSIX") && !is_utf8("ja_JP.eucJP"));
    }
}
