//! The pure core: [`sample::Sample`] in, [`snapshot::Snapshot`] out. No clock, no input or output, no aya, no tokio.

pub mod columns;
pub mod program;
pub mod row;
pub mod sample;
pub mod snapshot;
