//! The screen: what is looked at, and how it is drawn. Keys change the view, never the model; reading events, waiting
//! and writing files are left to the command, which learns of them as [`Action`].
//!
//! ```text
//! key ─▶ State::on_key ─▶ Action ─▶ command          Snapshot ─▶ State::set_snapshot ─▶ draw
//! ```

mod detail;
mod draw;
mod edit;
mod footer;
mod keys;
mod list;
mod menu;
mod mouse;
mod pane;
mod picture;
mod place;
mod popup;
mod prompt;
mod reproduce;
mod rows;
mod sites;
mod sites_draw;
mod state;
pub mod terminal;
mod theme;

#[cfg(test)]
mod sites_tests;
#[cfg(test)]
mod tests;

pub use draw::draw;
pub use picture::render_to_svg;
pub use state::{Action, FilterError, FilterParser, State, Understood};
pub use terminal::Screen;
