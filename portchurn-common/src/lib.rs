//! The contract between the kernel side and the user side: what crosses the wire and what it means.
//! Nothing here allocates, touches a map, reads a clock or knows aya; every rule has its test beside it.
//!
//! ```text
//! tcp       the lifecycle table: what one state change means
//! flow      addresses, roles and the key under which the kernel counts
//! counters  what is counted for each key
//! histogram log2 buckets, and percentiles from them
//! conn      one tracked connection
//! record    what the ring buffer carries
//! glob      `-c GLOB`, matched in the kernel
//! loss      every reason for not recording something
//! stack     call sites: what identifies a stack, and how it travels
//! settings  values that the loader patches in before the kernel sees the program
//! ```
#![cfg_attr(target_arch = "bpf", no_std)]

pub mod budget;
pub mod conn;
pub mod counters;
pub mod flow;
pub mod glob;
pub mod histogram;
pub mod loss;
#[cfg(feature = "user")]
mod pod;
pub mod record;
pub mod settings;
pub mod stack;
pub mod tcp;
