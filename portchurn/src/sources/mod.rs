//! Sources. Stub.
pub mod procfs;
