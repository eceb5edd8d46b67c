//! Which program, destination and line of code churns TCP connections, and what it costs in local ports.
//!
//! Data flows one way:
//!
//! ```text
//! kernel hooks → maps → live::collector ─┐
//! sources (sock_diag, procfs, script) ───┴→ Sample → model → Snapshot → sinks
//! ```
//!
//! `live` alone knows aya. `model` and `filter` are pure: no clock, no input or output. Only `commands` sees all parts.

#[cfg(feature = "live")]
pub mod cli;
#[cfg(feature = "live")]
pub mod commands;
pub mod filter;
#[cfg(feature = "live")]
pub mod live;
pub mod model;
pub mod sinks;
pub mod sources;
pub mod symbolize;
