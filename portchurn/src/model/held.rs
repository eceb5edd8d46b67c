//! TIME_WAIT sockets by the lines of code that opened and closed their connections. Each moment adds up to what is held.

use portchurn_common::stack::At;

use crate::model::culprit::Rules;
use crate::model::sample::SiteCount;
use crate::model::site::{FOLDED, NOT_TAKEN, Sites, lines, remark};
use crate::model::snapshot::CallSite;
use crate::model::sockets::SitePair;
use crate::model::stacks::Stacks;

/// Lines that are told one by one, at each moment. What the others hold is one more.
const TOLD: usize = 16;
/// What came since the list, and has no line before the next one.
pub const SINCE: &str = "closed since the tables were read";

/// How many sockets there are.
#[derive(Clone, Copy, Debug)]
pub struct Amount {
    /// That the kernel listed.
    pub listed: u64,
    /// That are left of these.
    pub left: u64,
    /// That came since.
    pub since: u64,
}

/// Listed sockets of one owner to one destination, by their lines.
#[derive(Clone, Debug, Default)]
pub struct Held(Sites);

impl Held {
    /// Adds so many. A moment of which no stack was taken shows as what is missing to the sum.
    pub fn add(&mut self, pair: SitePair, count: u32) {
        for (at, stack) in [(At::Open, pair.opened), (At::Close, pair.closed)] {
            if stack != 0 {
                let counted = portchurn_common::stack::is_counted(stack);
                self.0.record(&SiteCount { at, stack, counted, count: count.into(), ..SiteCount::default() });
            }
        }
    }

    /// Stacks by which sockets are held.
    pub fn stack_ids(&self) -> impl Iterator<Item = u64> {
        self.0.ids()
    }

    /// The lines: of the open, where that was ours, then of the close; most first. Between two lists of the kernel the
    /// proportions stay, and no count is exact.
    pub fn call_sites(
        &self,
        amount: Amount,
        is_connect: bool,
        stacks: &Stacks,
        rules: &Rules,
    ) -> Vec<CallSite> {
        let moments = [is_connect.then_some(At::Open), Some(At::Close)].into_iter().flatten();
        moments.flat_map(|at| self.of_moment(at, amount, stacks, rules)).collect()
    }

    fn of_moment(&self, at: At, amount: Amount, stacks: &Stacks, rules: &Rules) -> Vec<CallSite> {
        let mut list = lines(&self.0, stacks, rules, (at, amount.listed, NOT_TAKEN));
        if amount.left != amount.listed {
            scale(&mut list, amount.left);
        }
        if amount.since > 0 {
            list.iter_mut().for_each(|site| site.exact = false);
        }
        if list.len() > TOLD {
            let rest = list.drain(TOLD - 1..).map(|site| site.count).sum();
            list.push(remark(at, rest, FOLDED));
        }
        if amount.since > 0 {
            list.push(remark(at, amount.since, SINCE));
        }
        let whole = amount.left + amount.since;
        for site in &mut list {
            site.share = if whole > 0 { site.count as f64 / whole as f64 } else { 0.0 };
        }
        list
    }
}

/// Keeps the proportions, so that the sum becomes `sum`.
fn scale(list: &mut Vec<CallSite>, sum: u64) {
    let before = list.iter().map(|site| u128::from(site.count)).sum::<u128>().max(1);
    let (mut seen, mut given) = (0, 0);
    for site in list.iter_mut() {
        seen += u128::from(site.count);
        // What was rounded off goes to the next one, and nothing is left at the end.
        let upto = (u128::from(sum) * seen / before) as u64;
        (site.count, given) = (upto - given, upto);
        site.exact = false;
        site.sampled = site.sampled.map(|read| read.min(site.count));
    }
    list.retain(|site| site.count > 0);
    list.sort_by_key(|site| std::cmp::Reverse(site.count));
}

#[cfg(test)]
mod tests {
    use super::{Amount, Held, TOLD};
    use crate::model::culprit::Rules;
    use crate::model::sample::{Frame, Stack};
    use crate::model::snapshot::CallSite;
    use crate::model::sockets::SitePair;
    use crate::model::stacks::Stacks;

    fn stacks(ids: impl Iterator<Item = u64>) -> Stacks {
        let mut stacks = Stacks::default();
        for id in ids {
            let frames = vec![Frame::python(format!("f{id}"), "/app/sync.py", id as u32)];
            stacks.add(&Stack { id, frames: frames.into(), note: None });
        }
        stacks
    }

    fn sum(list: &[CallSite], at: &str) -> u64 {
        list.iter().filter(|site| site.at == at).map(|site| site.count).sum()
    }

    fn brief(list: &[CallSite]) -> Vec<(&'static str, u64, Option<u32>)> {
        list.iter()
            .map(|site| (site.at, site.count, site.culprit.as_ref().and_then(|place| place.line)))
            .collect()
    }

    fn held() -> Held {
        let mut held = Held::default();
        held.add(SitePair { opened: 101, closed: 201 }, 53);
        held.add(SitePair { opened: 103, closed: 201 }, 41);
        held.add(SitePair { opened: 0, closed: 201 }, 6);
        held
    }

    #[test]
    fn a_list_that_was_just_read_is_told_as_it_is() {
        let stacks = stacks([101, 103, 201].into_iter());
        let amount = Amount { listed: 100, left: 100, since: 0 };
        let list = held().call_sites(amount, true, &stacks, &Rules::default());
        assert_eq!(
            brief(&list),
            [("open", 53, Some(101)), ("open", 41, Some(103)), ("open", 6, None), ("close", 100, Some(201))]
        );
        assert!(list.iter().all(|site| site.exact));
    }

    #[test]
    fn later_the_sum_stays_what_is_held_and_nothing_is_called_exact() {
        let stacks = stacks([101, 103, 201].into_iter());
        for (left, since) in [(97, 0), (50, 13), (1, 0), (0, 7), (33, 5)] {
            let amount = Amount { listed: 100, left, since };
            let list = held().call_sites(amount, true, &stacks, &Rules::default());
            assert_eq!((sum(&list, "open"), sum(&list, "close")), (left + since, left + since));
            assert!(list.iter().filter(|site| site.culprit.is_some()).all(|site| !site.exact));
        }
    }

    #[test]
    fn of_many_lines_few_are_told_and_the_sum_stays() {
        let mut held = Held::default();
        for id in 0..100 {
            held.add(SitePair { opened: 101 + 2 * id, closed: 0 }, 1 + id as u32);
        }
        let amount = Amount { listed: 5050, left: 5050, since: 0 };
        let list = held.call_sites(amount, true, &stacks((0..100).map(|id| 101 + 2 * id)), &Rules::default());
        let opens: Vec<_> = list.iter().filter(|site| site.at == "open").collect();
        assert_eq!((opens.len(), sum(&list, "open")), (TOLD, 5050));
        assert_eq!(opens[0].count, 100);
        assert!(opens[TOLD - 1].note.as_deref().is_some_and(|note| note.starts_with("more places")));
    }

    #[test]
    fn what_was_accepted_was_opened_by_nobody_here() {
        let amount = Amount { listed: 9, left: 9, since: 0 };
        let list = Held::default().call_sites(amount, false, &Stacks::default(), &Rules::default());
        assert_eq!(brief(&list), [("close", 9, None)]);
    }
}
