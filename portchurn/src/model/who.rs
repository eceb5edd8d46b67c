//! Who opened a connection: the question, the answer, and how they are found by an address that a peer shows. They go
//! from one portchurn to another as JSON, so both sides keep to this contract.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use portchurn_common::stack::is_counted;
use serde::{Deserialize, Serialize};

use crate::model::culprit::Rules;
use crate::model::sample::Stack;
use crate::model::site::note_of;
use crate::model::snapshot::Place;
use crate::model::stacks::Stacks;

/// An address and port as a process list shows them.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Query {
    /// The address; `None`: any, as behind address translation.
    pub address: Option<IpAddr>,
    /// The port.
    pub port: u16,
    /// Only in this network namespace, inode number.
    pub netns: Option<u32>,
}

impl FromStr for Query {
    type Err = String;

    /// `10.0.0.7:43211`, `[2001:db8::7]:43211`, or `:43211`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(port) = text.strip_prefix(':').and_then(|port| port.parse().ok()) {
            return Ok(Self { address: None, port, netns: None });
        }
        let whole: SocketAddr = text
            .parse()
            .map_err(|_| format!("'{text}' is no ADDR:PORT such as 10.0.0.7:43211, [::1]:43211 or :43211"))?;
        Ok(Self { address: Some(canonical(whole.ip())), port: whole.port(), netns: None })
    }
}

/// IPv4 stays IPv4, however it is written.
fn canonical(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => Ipv6Addr::to_ipv4_mapped(&v6).map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

impl Query {
    /// Whether an end of a connection is meant. What is not known of it does not exclude it.
    pub fn matches(&self, netns: u32, address: Option<IpAddr>, port: u16) -> bool {
        let same_address = match (self.address, address) {
            (Some(asked), Some(address)) => asked == address,
            _ => true,
        };
        port == self.port && same_address && self.netns.is_none_or(|asked| asked == netns)
    }
}

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Life {
    /// It is there.
    Open,
    /// It has ended, and its port is still held.
    TimeWait,
    /// It has ended.
    Closed,
}

/// One connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Where it is in its life.
    pub state: Life,
    /// `connect`: opened from here. `accept`: accepted here.
    pub role: String,
    /// Network namespace, inode number.
    pub netns: u32,
    /// Socket cookie; 0 where the kernel gives none to a tracer.
    pub cookie: u64,
    /// Our address; `null` where it was not kept.
    pub local_address: Option<IpAddr>,
    /// Our port.
    pub local_port: u16,
    /// Remote address.
    pub remote_address: IpAddr,
    /// Remote port.
    pub remote_port: u16,
    /// Process that opened or accepted it; `null`: not known.
    pub tgid: Option<u32>,
    /// Whether that is proven: it connected, accepted, closed, or holds the socket. If not, it is the process that listens.
    #[serde(default)]
    pub owner_certain: bool,
    /// What it runs.
    pub program: Option<String>,
    /// Its arguments.
    pub argv: Vec<String>,
    /// Whether it has ended.
    pub exited: Option<bool>,
    /// Process that closed it, if that was another one.
    pub closer_tgid: Option<u32>,
    /// Who ended it, and how: the name of a `CloseKind`.
    pub closed_by: Option<String>,
    /// How long ago it was opened; `null`: before the attach. Seconds.
    pub opened_ago_s: Option<f64>,
    /// How long ago it ended. Seconds.
    pub closed_ago_s: Option<f64>,
    /// Where in the code it was opened; `null`: not taken.
    pub opened_at: Option<CodeLine>,
    /// Where in the code our side closed it; `null`: not taken, or the peer closed first and nobody here after it.
    pub closed_at: Option<CodeLine>,
}

impl Answer {
    fn four_tuple(&self) -> (u32, Option<IpAddr>, u16, IpAddr, u16) {
        (self.netns, self.local_address, self.local_port, self.remote_address, self.remote_port)
    }

    /// Takes over what another one knows of the same connection, and this one does not.
    fn complete(&mut self, other: &mut Self) {
        self.opened_at = self.opened_at.take().or(other.opened_at.take());
        self.closed_at = self.closed_at.take().or(other.closed_at.take());
        // The socket tables know whose it is now, and nothing of what was.
        self.opened_ago_s = self.opened_ago_s.or(other.opened_ago_s);
        self.closed_ago_s = self.closed_ago_s.or(other.closed_ago_s);
        self.closed_by = self.closed_by.take().or(other.closed_by.take());
        // What the tables say of the state and the addresses is newer than what was kept.
        self.local_address = self.local_address.or(other.local_address);
        if self.state == Life::Closed && other.state == Life::TimeWait {
            self.state = Life::TimeWait;
        }
    }
}

/// A line of code, or why there is none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CodeLine {
    /// The innermost line that is the application's.
    pub culprit: Option<Place>,
    /// The application's line that called it.
    pub called_from: Option<Place>,
    /// What to know about it.
    pub note: Option<String>,
}

/// What a stack comes to. `None`: none was taken. A fingerprint under which several lines were seen names none of them.
pub fn line_of(stack: u64, stacks: &Stacks, rules: &Rules) -> Option<CodeLine> {
    if stack == 0 {
        return None;
    }
    let variants = stacks.of(stack);
    let mut seen: Vec<_> = variants.iter().map(|variant| named(variant.stack(), rules)).collect();
    seen.dedup();
    match seen.as_slice() {
        [] => Some(CodeLine { note: Some(note_of(stack).to_owned()), ..CodeLine::default() }),
        [only] => Some(only.clone()),
        [first, ..] if is_counted(stack) => Some(first.clone()),
        several => {
            let note = format!("one of {} places that look alike from outside", several.len());
            Some(CodeLine { note: Some(note), ..CodeLine::default() })
        }
    }
}

fn named(stack: &Stack, rules: &Rules) -> CodeLine {
    let chosen = rules.choose(&stack.frames);
    let place = |index: usize| Place::of(&stack.frames[index]);
    CodeLine {
        culprit: chosen.culprit.map(place),
        called_from: chosen.called_from.map(place),
        note: stack.note.clone().or_else(|| chosen.note.map(str::to_owned)),
    }
}

/// What a running portchurn answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// Matching connections, the living first, then the latest ended.
    pub answers: Vec<Answer>,
    /// How far back ended connections are remembered. Seconds.
    pub history_s: f64,
}

/// Brings answers of several sources into one list: one for each connection, the one that knows its process best.
///
/// What was remembered without a cookie is joined to the TIME_WAIT of the same four-tuple: of one four-tuple there is one at most,
/// and it is the latest end's.
pub fn merged(mut answers: Vec<Answer>) -> Vec<Answer> {
    answers.sort_by(|a, b| {
        // The best known first: who is proven, before who is likely, before nobody.
        let doubt = |answer: &Answer| (answer.tgid.is_none(), !answer.owner_certain);
        (a.cookie, doubt(a), a.state).cmp(&(b.cookie, doubt(b), b.state))
    });
    answers.dedup_by(|later, first| {
        let is_same = later.cookie != 0 && later.cookie == first.cookie && later.netns == first.netns;
        if is_same {
            first.complete(later);
        }
        is_same
    });
    let mut answers = with_their_time_wait(answers);
    answers.sort_by(|a, b| {
        let ago = |answer: &Answer| answer.closed_ago_s.unwrap_or(0.0);
        a.state.cmp(&b.state).then_with(|| ago(a).total_cmp(&ago(b)))
    });
    answers
}

fn with_their_time_wait(answers: Vec<Answer>) -> Vec<Answer> {
    let (mut nameless, mut answers): (Vec<_>, Vec<_>) =
        answers.into_iter().partition(|answer| answer.cookie == 0);
    nameless.sort_by(|a, b| a.closed_ago_s.unwrap_or(0.0).total_cmp(&b.closed_ago_s.unwrap_or(0.0)));
    for mut latest in nameless {
        let is_its = |answer: &&mut Answer| {
            answer.state == Life::TimeWait
                && answer.tgid.is_none()
                && answer.four_tuple() == latest.four_tuple()
        };
        match answers.iter_mut().find(is_its) {
            Some(time_wait) => {
                latest.cookie = time_wait.cookie;
                latest.complete(time_wait);
                *time_wait = latest;
            }
            None => answers.push(latest),
        }
    }
    answers
}

#[cfg(test)]
mod tests {
    use super::{Answer, CodeLine, Life, Query, line_of, merged};
    use crate::model::culprit::Rules;
    use crate::model::sample::{Frame, Stack};
    use crate::model::stacks::Stacks;

    fn answer(cookie: u64, state: Life, tgid: Option<u32>) -> Answer {
        Answer {
            state,
            role: "connect".into(),
            netns: 5,
            cookie,
            local_address: None,
            local_port: 40_000,
            remote_address: "10.0.0.2".parse().unwrap(),
            remote_port: 3306,
            tgid,
            owner_certain: tgid.is_some(),
            program: None,
            argv: Vec::new(),
            exited: None,
            closer_tgid: None,
            closed_by: None,
            opened_ago_s: None,
            closed_ago_s: Some(cookie as f64),
            opened_at: None,
            closed_at: None,
        }
    }

    #[test]
    fn an_address_is_read_as_people_write_it() {
        let query: Query = "10.0.0.7:43211".parse().unwrap();
        assert!(query.matches(5, Some("10.0.0.7".parse().unwrap()), 43_211));
        assert!(!query.matches(5, Some("10.0.0.8".parse().unwrap()), 43_211));
        assert_eq!("[::ffff:10.0.0.7]:43211".parse::<Query>().unwrap(), query);
        assert_eq!(":9".parse::<Query>().unwrap().address, None);
        for nonsense in ["10.0.0.7", "43211", ":", ":99999", "host:1", ""] {
            assert!(nonsense.parse::<Query>().is_err(), "{nonsense}");
        }
        let elsewhere = Query { netns: Some(6), ..query };
        assert!(!elsewhere.matches(5, None, 43_211));
    }

    #[test]
    fn what_several_know_of_one_connection_is_one_answer() {
        let list = merged(vec![
            answer(9, Life::TimeWait, None),
            answer(9, Life::Closed, Some(7)),
            answer(3, Life::Closed, Some(8)),
            answer(4, Life::Open, Some(8)),
        ]);
        let seen: Vec<_> = list.iter().map(|one| (one.cookie, one.state, one.tgid)).collect();
        assert_eq!(
            seen,
            [(4, Life::Open, Some(8)), (9, Life::TimeWait, Some(7)), (3, Life::Closed, Some(8))]
        );
    }

    #[test]
    fn without_cookies_the_latest_end_of_a_four_tuple_is_its_time_wait() {
        let at = |cookie, state, tgid, ago_s| Answer {
            local_address: Some("10.0.0.7".parse().unwrap()),
            closed_ago_s: ago_s,
            ..answer(cookie, state, tgid)
        };
        let list = merged(vec![
            at(9, Life::TimeWait, None, None),
            at(0, Life::Closed, Some(8), Some(70.0)),
            at(0, Life::Closed, Some(7), Some(2.0)),
            Answer { netns: 6, ..at(0, Life::Closed, Some(6), Some(1.0)) },
        ]);
        let seen: Vec<_> = list.iter().map(|one| (one.cookie, one.state, one.tgid)).collect();
        assert_eq!(
            seen,
            [(9, Life::TimeWait, Some(7)), (0, Life::Closed, Some(6)), (0, Life::Closed, Some(8))]
        );
    }

    #[test]
    fn a_line_is_named_only_where_it_is_certain() {
        let mut stacks = Stacks::default();
        let frames = |function: &str| vec![Frame::python(function, "/app/sync.py", 41)];
        for (id, function) in [(101, "load"), (200, "load"), (200, "save"), (300, "save"), (300, "save")] {
            stacks.add(&Stack { id, frames: frames(function).into(), note: None });
        }
        let line = |id| line_of(id, &stacks, &Rules::default());
        let function = |id| line(id).and_then(|line| line.culprit).map(|place| place.function);
        assert_eq!((function(101).as_deref(), function(300).as_deref()), (Some("load"), Some("save")));
        let unsure = line(200).unwrap();
        assert_eq!(unsure.culprit, None, "two places under one fingerprint");
        assert!(unsure.note.is_some_and(|note| note.starts_with("one of 2 places")));
        assert!(line(401).unwrap().note.unwrap().starts_with("not read"));
        assert!(line(1).unwrap().note.unwrap().starts_with("process exit"));
        assert_eq!(line(0), None);
    }

    #[test]
    fn what_one_knows_of_the_code_and_the_other_does_not_is_kept() {
        let line = CodeLine { note: Some("process exit".into()), ..CodeLine::default() };
        let knowing = Answer { opened_at: Some(line.clone()), ..answer(9, Life::Closed, Some(7)) };
        let list = merged(vec![answer(9, Life::Closed, Some(7)), knowing]);
        assert_eq!((list.len(), list[0].opened_at.as_ref()), (1, Some(&line)));
    }

    #[test]
    fn who_holds_the_socket_goes_before_who_listens() {
        let listens =
            Answer { owner_certain: false, opened_ago_s: Some(7.0), ..answer(9, Life::Open, Some(1)) };
        let holds = answer(9, Life::Open, Some(2));
        let [found] = merged(vec![listens, holds]).try_into().unwrap();
        assert_eq!((found.tgid, found.owner_certain, found.opened_ago_s), (Some(2), true, Some(7.0)));
    }
}
