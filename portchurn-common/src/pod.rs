//! The only unsafe code of this crate: which types are plain bytes. The orphan rule wants it here.

use crate::conn::{Conn, ConnSites};
use crate::counters::Counters;
use crate::flow::{ChurnKey, KeyRef, KeySlot, ListenKey, Listener};
use crate::settings::Settings;
use crate::stack::{Budget, Interpreter, Site, SiteKey, StackControl};

macro_rules! pod {
    ($($ty:ty),+ $(,)?) => {
        // SAFETY: `repr(C)` or `repr(transparent)`, integers only, no hidden padding that a map compares.
        $(unsafe impl aya::Pod for $ty {})+
    };
}

pod!(ChurnKey, Conn, ConnSites, Counters, KeyRef, KeySlot, ListenKey, Listener, Settings);
pod!(Budget, Interpreter, Site, SiteKey, StackControl);
