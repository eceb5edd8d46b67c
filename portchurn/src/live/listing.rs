//! The reading of the socket tables as the collector has it: started once, told what it needs, asked for what it found.

use std::sync::mpsc::{Receiver, Sender, channel};

use anyhow::Result;
use aya::maps::{HashMap, MapData};
use portchurn_common::conn::Conn;
use portchurn_common::flow::{ChurnKey, KeyRef};
use portchurn_common::record::{FlowEvent, FlowRecord};
use portchurn_common::settings::Settings;

use crate::live::closed::Closed;
use crate::live::owners::Owners;
use crate::live::reader::Reader;
use crate::live::roll_call::RollCall;
use crate::live::tuples::Tuples;
use crate::model::sample::Counts;
use crate::model::sockets::{SocketReading, Unowned};

/// The thread that reads, and what goes to and fro.
pub struct Listing {
    /// The thread.
    pub reader: Reader,
    /// Keys of connections whose end nobody saw.
    unseen: Receiver<KeyRef>,
    /// Ends that no table keeps. `None`: the table of connections does.
    ended: Option<Sender<FlowRecord>>,
}

impl Listing {
    /// Begins to read. `by_id`: connections by cookie that have no place in the table; `None`: there are no cookies.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(
        closed: &Closed,
        by_id: Option<HashMap<MapData, u64, Conn>>,
        settings: &Settings,
    ) -> Result<Self> {
        let is_narrow = settings.filters.are_set();
        let otherwise = match (settings.cookies != 0, is_narrow) {
            (false, _) => Unowned::NoCookie,
            (true, true) => Unowned::Filtered,
            (true, false) => Unowned::NotFollowed,
        };
        let (gone, unseen) = channel();
        let roll_call = by_id.map(|by_id| RollCall::new(closed.clone(), by_id, gone));
        let (ended, ends) = channel();
        let tuples = (settings.cookies == 0).then(|| Tuples::new(ends, is_narrow));
        let ended = tuples.is_some().then_some(ended);
        let reader = Reader::start(Owners::new(closed.clone(), otherwise, roll_call, tuples))?;
        Ok(Self { reader, unseen, ended })
    }

    /// An end whose TIME_WAIT a later list may show.
    pub fn note(&self, flow: &FlowRecord) {
        let waits = flow.event == FlowEvent::Close as u8 && flow.flags & FlowRecord::TIME_WAIT != 0;
        // Where the kernel does not tell the namespace, another one may have the same four-tuple.
        if waits
            && flow.netns != 0
            && let Some(ended) = &self.ended
        {
            let _ = ended.send(*flow);
        }
    }

    /// Keys of connections whose end nobody saw, found since the last call.
    pub fn unseen(&self) -> impl Iterator<Item = KeyRef> {
        self.unseen.try_iter()
    }

    /// The latest reading of the socket tables. When a connect failed for want of a port, the next one is to show soon
    /// who holds them.
    pub fn take(&mut self, churn: &[(ChurnKey, Counts)]) -> Option<SocketReading> {
        if churn.iter().any(|(_, counts)| counts.no_port() > 0) {
            self.reader.hurry();
        } else if churn.iter().any(|(_, counts)| ends(counts) > 0) {
            self.reader.wake();
        }
        self.reader.take()
    }
}

/// Connections that began, and connections that ended.
pub fn ends(counts: &Counts) -> u64 {
    counts.attempts + counts.accepted.max(0).cast_unsigned() + counts.failed + counts.closed_total()
}
