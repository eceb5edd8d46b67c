//! Events of `trace` that wait for the name of their call site. They keep their order; none waits longer than it takes to
//! name a stack for the first time, as names that were found once are known from then on.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use portchurn_common::record::{FlowEvent, FlowSiteRecord};
use portchurn_common::stack::At;

use crate::model::Model;
use crate::model::event::TraceEvent;
use crate::model::snapshot::CallSite;

/// How long an event waits. Reading the debug information of a large program takes longer, but once only.
const PATIENCE: Duration = Duration::from_millis(500);
/// Connections whose call sites are remembered until their events come. Beyond, the oldest half is forgotten.
const SITES_MAX: usize = 65_536;

/// The queue.
#[derive(Default)]
pub(super) struct Waiting {
    /// Whether call sites are taken. If not, nothing waits.
    with_sites: bool,
    events: VecDeque<(TraceEvent, u64)>,
    sites: HashMap<(u64, u32), (FlowSiteRecord, u64)>,
    /// How many sites came, to know which are old.
    came: u64,
}

/// What is known of an event's call site.
enum Known {
    /// There is none.
    Nothing,
    /// This is it.
    Site(Box<CallSite>),
    /// Not yet; and what to say if it does not come.
    Later(Option<Box<CallSite>>),
}

impl Waiting {
    /// An empty one.
    pub(super) fn new(with_sites: bool) -> Self {
        Self { with_sites, ..Self::default() }
    }

    /// Takes in where events happened. To be called before [`Waiting::push`] of events that came with them.
    pub(super) fn learn(&mut self, sites: Vec<FlowSiteRecord>) {
        // A failure is told with the line that began it, which is the same.
        for site in sites.into_iter().filter(|site| site.at != At::NoPort as u32) {
            self.came += 1;
            self.sites.insert((site.cookie, site.at), (site, self.came));
        }
        if self.sites.len() > SITES_MAX {
            let oldest = self.came - SITES_MAX as u64 / 2;
            self.sites.retain(|_, (_, came)| *came > oldest);
        }
    }

    /// Takes an event.
    pub(super) fn push(&mut self, event: TraceEvent, now_ns: u64) {
        self.events.push_back((event, now_ns));
    }

    /// The next event, if it has what it waits for, or has waited long enough. `at_end`: nothing comes any more.
    pub(super) fn pop(&mut self, model: &Model, now_ns: u64, at_end: bool) -> Option<TraceEvent> {
        let (event, since_ns) = self.events.front()?;
        let waited = at_end || now_ns.saturating_sub(*since_ns) >= PATIENCE.as_nanos() as u64;
        let site = match self.known(event, model, *since_ns == now_ns) {
            Known::Nothing => None,
            Known::Site(site) => Some(*site),
            Known::Later(instead) if waited => instead.map(|site| *site),
            Known::Later(_) => return None,
        };
        let (mut event, _) = self.events.pop_front()?;
        self.forget(&event);
        event.call_site = site;
        Some(event)
    }

    /// `is_new`: it came just now.
    fn known(&self, event: &TraceEvent, model: &Model, is_new: bool) -> Known {
        let Some((at, cookie)) = moment(event).zip(event.cookie).filter(|_| self.with_sites) else {
            return Known::Nothing;
        };
        match self.sites.get(&(cookie, at as u32)) {
            Some((site, _)) => match model.passage(at, site.stack, site.counted != 0) {
                Some(found) => Known::Site(Box::new(found)),
                None => Known::Later(Some(Box::new(model.unread_site(at)))),
            },
            // That of an abort comes just after its event.
            None if at == At::Close && is_new => Known::Later(None),
            None => Known::Nothing,
        }
    }

    fn forget(&mut self, event: &TraceEvent) {
        let Some(cookie) = event.cookie else { return };
        if matches!(event.event, FlowEvent::Close | FlowEvent::Fail) {
            self.sites.remove(&(cookie, At::Open as u32));
            self.sites.remove(&(cookie, At::Close as u32));
        }
    }
}

/// Which of a connection's call sites belongs to an event.
fn moment(event: &TraceEvent) -> Option<At> {
    match event.event {
        FlowEvent::Connect | FlowEvent::Fail => Some(At::Open),
        FlowEvent::Close => Some(At::Close),
        FlowEvent::Accept => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use portchurn_common::record::{FlowEvent, FlowSiteRecord};
    use portchurn_common::stack::{At, STACK_EXITING};

    use super::{PATIENCE, Waiting};
    use crate::model::event::TraceEvent;
    use crate::model::sample::{Frame, Process, Sample, SiteCount, Stack};
    use crate::model::snapshot::Role;
    use crate::model::{Context, Model};

    fn event(event: FlowEvent, cookie: u64) -> TraceEvent {
        TraceEvent {
            at_ns: 1,
            event,
            process: Arc::new(Process::default()),
            program: "p".into(),
            owner_certain: true,
            role: Role::Connect,
            local_address: "10.0.0.1".parse().unwrap(),
            local_port: Some(1),
            remote_address: "10.0.0.2".parse().unwrap(),
            remote_port: 2,
            netns: None,
            cookie: Some(cookie),
            duration_us: None,
            close: None,
            fail: None,
            closer_tgid: None,
            call_site: None,
        }
    }

    fn site(cookie: u64, at: At, stack: u64) -> FlowSiteRecord {
        FlowSiteRecord { kind: 4, at: at as u32, cookie, stack, counted: 1, zero: 0 }
    }

    fn named(model: &mut Model, id: u64) {
        let frame = Frame::python("getSession", "/srv/db.py", 31);
        let stack = Stack { id, frames: [frame].into(), note: None };
        let count = SiteCount { stack: id, count: 1, ..SiteCount::default() };
        model.apply(&Sample { stacks: vec![stack], sites: vec![count], ..Sample::default() });
    }

    #[test]
    fn an_event_waits_for_its_name_and_those_behind_it_wait_too() {
        let (mut waiting, mut model) = (Waiting::new(true), Model::new(Context::default()));
        waiting.learn(vec![site(7, At::Open, 100)]);
        waiting.push(event(FlowEvent::Connect, 7), 5);
        waiting.push(event(FlowEvent::Accept, 8), 5);
        assert!(waiting.pop(&model, 5, false).is_none());
        named(&mut model, 100);
        let first = waiting.pop(&model, 6, false).unwrap();
        let culprit = first.call_site.unwrap().culprit.unwrap();
        assert_eq!((&*culprit.function, culprit.line), ("getSession", Some(31)));
        assert!(waiting.pop(&model, 6, false).unwrap().call_site.is_none());
        assert!(waiting.pop(&model, 6, false).is_none());
    }

    #[test]
    fn nothing_waits_for_ever_and_what_was_missed_is_said() {
        let (mut waiting, model) = (Waiting::new(true), Model::new(Context::default()));
        waiting.learn(vec![site(7, At::Open, 100), site(9, At::Close, STACK_EXITING)]);
        for (kind, cookie) in [(FlowEvent::Connect, 7), (FlowEvent::Close, 9), (FlowEvent::Close, 8)] {
            waiting.push(event(kind, cookie), 5);
        }
        let late = 5 + PATIENCE.as_nanos() as u64;
        let notes: Vec<_> = std::iter::from_fn(|| waiting.pop(&model, late, false))
            .map(|event| event.call_site.and_then(|site| site.note).unwrap_or_default())
            .collect();
        assert!(notes[0].starts_with("not read") && notes[1].starts_with("process exit"), "{notes:?}");
        assert_eq!(notes[2], "");
        assert!(waiting.sites.keys().all(|(cookie, _)| *cookie == 7), "what has ended is forgotten");
    }

    #[test]
    fn the_site_of_an_abort_may_come_one_look_later() {
        let (mut waiting, mut model) = (Waiting::new(true), Model::new(Context::default()));
        waiting.push(event(FlowEvent::Close, 7), 5);
        assert!(waiting.pop(&model, 5, false).is_none());
        named(&mut model, 100);
        waiting.learn(vec![site(7, At::Close, 100)]);
        assert!(waiting.pop(&model, 6, false).unwrap().call_site.is_some());
    }

    #[test]
    fn without_call_sites_nothing_waits() {
        let (mut waiting, model) = (Waiting::new(false), Model::new(Context::default()));
        waiting.push(event(FlowEvent::Close, 7), 5);
        assert!(waiting.pop(&model, 5, false).is_some());
    }
}
