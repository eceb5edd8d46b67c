//! Colours, few and quiet. Red means that something fails and nothing else; whatever colour says is also said by a
//! letter, a word or a bar, so that nothing is lost without it.

use ratatui::style::{Color, Modifier, Style};

/// The styles, with or without colour.
#[derive(Clone, Copy)]
pub(super) struct Theme {
    colour: bool,
}

impl Theme {
    pub(super) const fn new(colour: bool) -> Self {
        Self { colour }
    }

    /// What one looks for.
    pub(super) fn strong(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    /// What only explains.
    pub(super) fn quiet(self) -> Style {
        // Not dark grey: some colour schemes have it as their background.
        Style::new().add_modifier(Modifier::DIM)
    }

    /// Names of places and keys, bars.
    pub(super) fn accent(self) -> Style {
        if self.colour { Style::new().fg(Color::Cyan) } else { Style::new() }
    }

    /// It fails.
    pub(super) fn alarm(self) -> Style {
        let bold = Style::new().add_modifier(Modifier::BOLD);
        if self.colour { bold.fg(Color::Red) } else { bold }
    }

    /// One should know it.
    pub(super) fn notice(self) -> Style {
        if self.colour { Style::new().fg(Color::Yellow) } else { Style::new().add_modifier(Modifier::BOLD) }
    }

    /// The selected row. Both colours are set, as the terminal's own may be dark on light.
    pub(super) fn selected(self) -> Style {
        if self.colour {
            Style::new().fg(Color::White).bg(Color::Indexed(238)).add_modifier(Modifier::BOLD)
        } else {
            Style::new().add_modifier(Modifier::REVERSED)
        }
    }

    /// The place where the next character goes.
    pub(super) fn cursor(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }
}
