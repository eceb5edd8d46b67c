//! The only code that knows aya.

pub mod btf;
pub mod hooks;
