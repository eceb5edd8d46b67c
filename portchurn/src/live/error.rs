//! Why nothing could be attached, in words for a tired human, and the exit status that scripts rely on.

use std::fmt;
use std::io::ErrorKind;

use crate::live::hooks::Tier;
use crate::live::preflight::{SETCAP, UNLOCKED, is_locked_down, locked_memory_max, missing_capabilities};

/// Why nothing could be attached.
#[derive(Debug)]
pub enum LoadError {
    /// Privileges are missing: exit status 4.
    NotPermitted {
        /// Capabilities that the process lacks.
        missing: Vec<&'static str>,
    },
    /// This kernel charges maps to locked memory, of which too little is allowed (before 5.11): exit status 4.
    LockedMemory {
        /// As much is allowed. Bytes.
        max_bytes: u64,
    },
    /// This kernel lets nobody read its memory: exit status 5.
    LockedDown,
    /// This kernel cannot: exit status 5.
    Unsupported {
        /// What the kernel said, best tier first.
        reason: String,
    },
}

impl LoadError {
    /// The exit status that says so.
    pub fn status(&self) -> u8 {
        match self {
            Self::NotPermitted { .. } | Self::LockedMemory { .. } => 4,
            Self::LockedDown | Self::Unsupported { .. } => 5,
        }
    }

    /// From the refusals of all tiers of the spine.
    pub fn from_refusals(refused: Vec<(Tier, anyhow::Error)>) -> Self {
        let denied = refused.iter().any(|(_, err)| is_permission(err));
        let reason =
            refused.iter().map(|(tier, err)| format!("{tier}: {err:#}")).collect::<Vec<_>>().join("; ");
        let missing = missing_capabilities();
        if denied && !missing.is_empty() {
            log::info!("{reason}");
            return Self::NotPermitted { missing };
        }
        if is_locked_down() {
            log::info!("{reason}");
            return Self::LockedDown;
        }
        if denied && let Some(max_bytes) = locked_memory_max() {
            log::info!("{reason}");
            return Self::LockedMemory { max_bytes };
        }
        if refused.is_empty() {
            return Self::Unsupported { reason: "--attach leaves out every way".to_owned() };
        }
        Self::Unsupported { reason }
    }
}

/// Whether the kernel refused for want of a privilege.
pub(super) fn is_permission(err: &anyhow::Error) -> bool {
    err.chain().any(|cause| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|err| err.kind() == ErrorKind::PermissionDenied)
    })
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPermitted { missing } => write!(
                f,
                "cannot trace TCP: permission denied\n  missing: {}\n  try:     sudo portchurn …\n  or:      \
                 sudo {SETCAP}\n  more:    portchurn check",
                missing.join(", ")
            ),
            Self::LockedMemory { max_bytes } => write!(
                f,
                "cannot trace TCP: this kernel charges BPF maps to locked memory, and only {max_bytes} bytes of it are allowed\n  \
                 try:     sudo portchurn …\n  or:      ulimit -l unlimited\n  more:    portchurn check"
            ),
            Self::LockedDown => write!(
                f,
                "this kernel is locked down (confidentiality): nobody may read its memory\n  try:     boot with \
                 {UNLOCKED}\n  more:    portchurn check"
            ),
            Self::Unsupported { reason } => {
                write!(
                    f,
                    "this kernel does not let the TCP state program in: {reason}\n  more:    portchurn check"
                )
            }
        }
    }
}

impl std::error::Error for LoadError {}
