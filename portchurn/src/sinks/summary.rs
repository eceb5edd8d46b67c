//! The facts that stand above every table and on every screen, in words: totals, loss, hooks, own cost. Says them; where
//! they stand and in which colour is up to the output.

use std::collections::BTreeMap;

use crate::model::lists::ports::alarm_text;
use crate::model::snapshot::{HookState, Snapshot};
use crate::sinks::human;
use crate::sinks::text::{Glyphs, clean, width};
use crate::sinks::view::{Page, Selection, View};

/// One fact.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fact {
    /// What it says.
    pub text: String,
    /// What it says besides, where there is room.
    pub detail: String,
    /// Whether it says that something fails or is missing.
    pub alarm: bool,
    /// Where room is short, facts with a higher number go first.
    pub drop_order: u8,
}

impl Fact {
    fn new(drop_order: u8, text: String) -> Self {
        Self { text, detail: String::new(), alarm: false, drop_order }
    }

    fn with_detail(self, detail: String) -> Self {
        Self { detail, ..self }
    }

    /// Everything it says.
    pub fn said(&self) -> String {
        if self.detail.is_empty() { self.text.clone() } else { format!("{} ({})", self.text, self.detail) }
    }

    fn alarm_if(self, alarm: bool) -> Self {
        Self { alarm, ..self }
    }
}

/// As many of these facts as fit beside each other with `gap` cells between them. First the details go, then the
/// least important facts; the most important one stays whatever happens.
pub fn fitting(mut facts: Vec<Fact>, max_width: Option<usize>, gap: usize) -> Vec<Fact> {
    let Some(max_width) = max_width else { return facts };
    let total = |facts: &[Fact]| facts.iter().map(|fact| width(&fact.said()) + gap).sum::<usize>();
    while total(&facts) > max_width + gap {
        if let Some(fact) = facts.iter_mut().rev().find(|fact| !fact.detail.is_empty()) {
            fact.detail.clear();
        } else if let Some(first_to_go) = (1..facts.len()).max_by_key(|&at| facts[at].drop_order) {
            facts.remove(first_to_go);
        } else {
            break;
        }
    }
    facts
}

/// Numbers here stand in running text: they need no width.
const FREE: usize = usize::MAX;

/// Who speaks: host, kernel, for how long.
pub fn identity(snapshot: &Snapshot, page: &Page) -> Vec<Fact> {
    let mut facts = vec![Fact::new(0, "portchurn".to_owned())];
    if let Some(host) = &page.host {
        facts.push(Fact::new(1, clean(host, page.unicode).into_owned()));
    }
    facts.push(Fact::new(3, format!("kernel {}", clean(&snapshot.kernel, page.unicode))));
    facts.push(Fact::new(2, format!("up {}", human::elapsed(snapshot.cumulative_s))));
    facts
}

/// What happens, and what was not recorded.
pub fn totals(snapshot: &Snapshot, glyphs: &Glyphs) -> Vec<Fact> {
    let tally = &snapshot.totals.tally;
    let rate = |per_s: f64, what: &str| format!("{} {what}/s", human::per_second(per_s, FREE, glyphs));
    let number = |number: u64, what: &str| format!("{} {what}", human::count(number, FREE, glyphs));
    vec![
        Fact::new(0, rate(tally.opened_per_s, "opens")),
        Fact::new(2, rate(tally.accepted_per_s, "accepts")),
        Fact::new(4, rate(tally.closed_per_s, "closes")),
        Fact::new(1, rate(tally.failed_per_s, "failed")).alarm_if(tally.failed_per_s > 0.0),
        Fact::new(5, number(tally.open_now, "open now")),
        lost(snapshot, glyphs),
    ]
}

/// Always said, also when it is 0; with its reasons when it is not.
fn lost(snapshot: &Snapshot, glyphs: &Glyphs) -> Fact {
    let total = snapshot.lost.total;
    let said = |(reason, count): (&&str, &Option<u64>)| match count {
        Some(0) => None,
        Some(count) => Some(format!("{reason} {}", human::count(*count, FREE, glyphs))),
        None => Some(format!("{reason} not counted by this kernel")),
    };
    let reasons: Vec<_> = snapshot.lost.by_reason.iter().filter_map(said).collect();
    let text = format!("{} lost", human::count(total, FREE, glyphs));
    Fact::new(0, text).with_detail(reasons.join(", ")).alarm_if(total > 0)
}

/// How portchurn is attached: each tier with its number of hooks, and by name what is not attached.
pub fn hooks(snapshot: &Snapshot, glyphs: &Glyphs) -> Vec<Fact> {
    let mut tiers: BTreeMap<&str, usize> = BTreeMap::new();
    for hook in snapshot.hooks.iter().filter(|hook| is_attached(hook)) {
        *tiers.entry(hook.attached).or_default() += 1;
    }
    let mut attached: Vec<_> = tiers.iter().map(|(tier, count)| format!("{tier} {count}")).collect();
    if attached.is_empty() {
        attached.push("none".to_owned());
    }
    let missing = snapshot.hooks.iter().filter(|hook| !is_attached(hook)).map(|hook| {
        let why = hook.reason.as_deref().map_or(String::new(), |why| clean(why, glyphs.unicode).into_owned());
        Fact::new(1, format!("{}: none", hook.name)).with_detail(why).alarm_if(hook.required)
    });
    std::iter::once(Fact::new(0, format!("hooks {}", attached.join(", ")))).chain(missing).collect()
}

fn is_attached(hook: &HookState) -> bool {
    hook.attached != "none"
}

/// What portchurn itself costs. What was not measured is not said.
pub fn own_cost(snapshot: &Snapshot) -> Vec<Fact> {
    let cost = &snapshot.own_cost;
    let facts = [
        stopped(cost.stack_effort).map(str::to_owned),
        cost.cpu_ratio.map(|ratio| format!("agent {} CPU", human::percent(ratio))),
        cost.bpf_ns_per_event.filter(|ns| ns.is_finite()).map(|ns| format!("{ns:.0} ns/event")),
        cost.rss_bytes.map(|bytes| format!("RSS {}", human::bytes(bytes))),
        cost.bpf_cpu_ratio.map(|ratio| format!("BPF {} CPU", human::percent(ratio))),
        cost.map_bytes.map(|bytes| format!("maps {}", human::bytes(bytes))),
    ];
    facts.into_iter().flatten().zip(2..).map(|(text, drop_order)| Fact::new(drop_order, text)).collect()
}

/// Which stacks are not taken any more, and why.
fn stopped(effort: Option<&str>) -> Option<&'static str> {
    match effort? {
        "none" => Some("call sites stopped: over --max-cpu"),
        "interpreters" => Some("native call sites stopped: over --max-cpu"),
        _ => None,
    }
}

/// What needs somebody to look: ports that run out. `None`: nothing does.
pub fn alarm(snapshot: &Snapshot, glyphs: &Glyphs) -> Option<Fact> {
    let text = alarm_text(snapshot)?;
    Some(Fact::new(0, clean(&text, glyphs.unicode).into_owned()).alarm_if(true))
}

/// Why there is no row, and what to do; `None` if there is one.
pub fn nothing_to_show(snapshot: &Snapshot, view: &View, selection: &Selection<'_>) -> Option<String> {
    let glyphs = view.page.glyphs();
    if !selection.rows.is_empty() {
        return None;
    }
    if selection.total > 0 {
        let filter = match &view.filter {
            Some(filter) => format!("matches the filter `{}`", clean(&filter.text, glyphs.unicode)),
            None => "is left of those to show".to_owned(),
        };
        return Some(format!("none of {} rows {filter}", selection.total));
    }
    let tally = &snapshot.totals.tally;
    Some(if tally.opened + tally.accepted + tally.failed > 0 {
        "nothing is known at this level; counts by program are exact".to_owned()
    } else {
        let which = if snapshot.is_narrow { "that the options select " } else { "" };
        format!(
            "no connection {which}was opened, accepted or refused since the attach {} ago; the next one will be seen",
            human::elapsed(snapshot.cumulative_s)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::{Fact, fitting, hooks, identity, lost, nothing_to_show, own_cost, totals};
    use crate::model::row::Level;
    use crate::model::snapshot::{Lost, OwnCost};
    use crate::sinks::text::{ASCII, UNICODE};
    use crate::sinks::view::{Page, View};
    use crate::sinks::{Filtering, sample_snapshot};

    fn texts(facts: &[Fact]) -> Vec<String> {
        facts.iter().map(Fact::said).collect()
    }

    #[test]
    fn loss_is_said_when_it_is_zero_and_alarms_when_it_is_not() {
        let mut snapshot = sample_snapshot();
        assert_eq!(lost(&snapshot, &UNICODE), Fact::new(0, "0 lost".to_owned()));
        snapshot.lost = Lost { total: 7, by_reason: [("keys_full", Some(7)), ("nested", Some(0))].into() };
        let fact = lost(&snapshot, &UNICODE);
        assert_eq!((fact.said().as_str(), fact.alarm), ("7 lost (keys_full 7)", true));
    }

    #[test]
    fn what_is_not_attached_is_named_with_its_reason() {
        let snapshot = sample_snapshot();
        let facts = hooks(&snapshot, &UNICODE);
        assert_eq!(texts(&facts), ["hooks tp_btf 3", "inet_csk_accept: none (fexit: EPERM; no kprobes)"]);
        assert!(facts.iter().all(|fact| !fact.alarm), "an optional hook is no alarm");
    }

    #[test]
    fn totals_and_cost_have_units_and_unknown_cost_is_left_out() {
        let mut snapshot = sample_snapshot();
        let facts = totals(&snapshot, &ASCII);
        let expected =
            ["2319 opens/s", "41.0 accepts/s", "2357 closes/s", "105 failed/s", "42 open now", "0 lost"];
        assert_eq!(texts(&facts), expected);
        assert!(facts[3].alarm);
        assert_eq!(
            texts(&own_cost(&snapshot)),
            ["agent 0.4 % CPU", "310 ns/event", "RSS 12.3 MiB", "BPF 1.2 % CPU", "maps 4.0 MiB"]
        );
        snapshot.own_cost = OwnCost::default();
        assert!(own_cost(&snapshot).is_empty());
    }

    #[test]
    fn details_go_before_facts_and_the_first_fact_stays() {
        let snapshot = sample_snapshot();
        let at = |max_width| texts(&fitting(hooks(&snapshot, &UNICODE), Some(max_width), 2));
        assert_eq!(at(64), ["hooks tp_btf 3", "inet_csk_accept: none (fexit: EPERM; no kprobes)"]);
        assert_eq!(at(63), ["hooks tp_btf 3", "inet_csk_accept: none"]);
        assert_eq!(at(36), ["hooks tp_btf 3"]);
        assert_eq!(at(0), ["hooks tp_btf 3"]);
    }

    #[test]
    fn the_host_cannot_inject_anything() {
        let page = Page { host: Some("web\u{1b}3".to_owned()), ..Page::default() };
        assert_eq!(
            texts(&identity(&sample_snapshot(), &page)),
            ["portchurn", "web\\x1b3", "kernel 6.18.5", "up 00:01:12"]
        );
    }

    #[test]
    fn an_empty_table_says_why() {
        let mut snapshot = sample_snapshot();
        let mut view = View::new(Level::Program);
        assert_eq!(nothing_to_show(&snapshot, &view, &view.select(&snapshot)), None);
        view.filter = Some(Filtering { text: "pid=0".to_owned(), matches: Box::new(|_| false) });
        let text = nothing_to_show(&snapshot, &view, &view.select(&snapshot)).unwrap();
        assert_eq!(text, "none of 5 rows matches the filter `pid=0`");
        view.filter = None;
        snapshot.programs.clear();
        assert!(
            nothing_to_show(&snapshot, &view, &view.select(&snapshot)).unwrap().contains("at this level")
        );
        snapshot.totals = Default::default();
        assert!(nothing_to_show(&snapshot, &view, &view.select(&snapshot)).unwrap().contains("00:01:12 ago"));
    }
}
