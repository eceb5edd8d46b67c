//! Stub.
use anyhow::Result;
/// Stub.
#[derive(Debug, clap::Args)]
pub struct Args {}
/// Stub.
pub fn run(_a: Args, _q: bool) -> Result<u8> { Ok(0) }
