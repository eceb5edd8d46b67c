//! Stub.
use crate::live::keys::Keys;
use crate::live::loader::Options;
use crate::live::sizes::Sizes;
use crate::model::sample::Process;
use crate::sources::procfs::Procfs;
use anyhow::Result;
/// Stub.
pub fn sockets(
    _e: &mut aya::Ebpf,
    _k: &mut Keys,
    _p: &Procfs,
    _s: &Sizes,
    _o: &Options,
) -> Result<Vec<Process>> {
    Ok(vec![])
}
