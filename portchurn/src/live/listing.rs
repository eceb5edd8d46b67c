//! The reading of the socket tables as the collector has it: started once, told what it needs, asked for what it found.

use std::sync::mpsc::{Receiver, channel};

use anyhow::Result;
use aya::maps::{HashMap, MapData};
use portchurn_common::conn::Conn;
use portchurn_common::flow::{ChurnKey, KeyRef};
use portchurn_common::settings::Settings;

use crate::live::closed::Closed;
use crate::live::drain::Ends;
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
}

impl Listing {
    /// Begins to read. `by_id`: connections by cookie that have no place in the table; `None`: there are no cookies, and what ended
    /// is known from `ends`.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(
        closed: &Closed,
        by_id: Option<HashMap<MapData, u64, Conn>>,
        settings: &Settings,
        ends: Ends,
    ) -> Result<Self> {
        let is_narrow = settings.filters.are_set();
        let otherwise = match (settings.cookies != 0, is_narrow) {
            (false, _) => Unowned::NoCookie,
            (true, true) => Unowned::Filtered,
            (true, false) => Unowned::NotFollowed,
        };
        let (gone, unseen) = channel();
        let roll_call = by_id.map(|by_id| RollCall::new(closed.clone(), by_id, gone));
        let tuples = (settings.cookies == 0).then(|| Tuples::new(Box::new(move || ends.take()), is_narrow));
        let reader = Reader::start(Owners::new(closed.clone(), otherwise, roll_call, tuples))?;
        Ok(Self { reader, unseen })
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
