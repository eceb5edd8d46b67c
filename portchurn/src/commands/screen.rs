//! Stub.
use std::time::Duration;
use anyhow::Result;
use crate::commands::session::Session;
use crate::sinks::View;
/// Stub.
pub async fn run(_s: &mut Session, _v: View, _i: Duration, _c: Option<u64>, _m: bool) -> Result<()> { Ok(()) }
