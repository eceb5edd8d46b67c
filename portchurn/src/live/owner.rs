//! What an ended connection stands for. Few are different, so each is kept once and goes by a number.

use hashbrown::HashMap;
use portchurn_common::conn::{Conn, flag};
use portchurn_common::flow::{ChurnKey, KeyRef};
use portchurn_common::tcp::CloseKind;

use crate::model::sockets::SitePair;

/// Owners beyond those in use, before the unused ones are thrown out.
const SPARE: usize = 4096;

/// Whose it was, where to, from which lines of code, and how it ended.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Owner {
    /// Whose, and where to.
    pub key: ChurnKey,
    /// Where in the code it was opened and closed.
    pub sites: SitePair,
    /// How it ended.
    pub closed: Option<CloseKind>,
    /// Whether another process than the owner closed it.
    pub closed_by_other: bool,
    /// Whether its port was bound before the connect.
    pub bound: bool,
}

/// The same as the table of connections says it: what it refers to stays the same.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct Described {
    /// Whom it is counted under.
    pub key_ref: KeyRef,
    sites: SitePair,
    closed: CloseKind,
    closer_tgid: u32,
    bound: bool,
}

impl Described {
    /// What a connection says of itself.
    pub fn of(conn: &Conn, sites: SitePair) -> Self {
        // In TIME_WAIT already, and not yet marked: the mark is on its way.
        let unmarked =
            if conn.flags & flag::EXITING != 0 { CloseKind::ProcessExit } else { CloseKind::Local };
        Self {
            key_ref: conn.key_ref,
            sites,
            closed: conn.close_kind().unwrap_or(unmarked),
            closer_tgid: conn.closer_tgid,
            bound: conn.flags & flag::BOUND != 0,
        }
    }

    fn with(&self, key: ChurnKey) -> Owner {
        Owner {
            key,
            sites: self.sites,
            closed: Some(self.closed),
            closed_by_other: self.closer_tgid != 0 && self.closer_tgid != key.tgid,
            bound: self.bound,
        }
    }
}

/// All that are in use, by number.
#[derive(Default)]
pub struct Numbered {
    owners: Vec<Owner>,
    numbers: HashMap<Owner, u32>,
    described: HashMap<Described, u32>,
}

impl Numbered {
    /// Their network namespaces, in the order of their numbers.
    pub fn netns(&self) -> impl Iterator<Item = u32> + '_ {
        self.owners.iter().map(|owner| owner.key.netns)
    }

    /// The owner with a number.
    pub fn get(&self, number: u32) -> Option<&Owner> {
        self.owners.get(number as usize)
    }

    /// The number of an owner.
    pub fn number(&mut self, owner: Owner) -> u32 {
        *self.numbers.entry(owner).or_insert_with(|| {
            self.owners.push(owner);
            self.owners.len() as u32 - 1
        })
    }

    /// The number of what is described; `key` is asked what its reference means, if that is not known yet.
    pub fn number_of(
        &mut self,
        described: Described,
        key: impl FnOnce(KeyRef) -> Option<ChurnKey>,
    ) -> Option<u32> {
        if let Some(&number) = self.described.get(&described) {
            return Some(number);
        }
        let number = self.number(described.with(key(described.key_ref)?));
        // A process for each close is another description of the same owner each time.
        if self.described.len() > 2 * self.owners.len() + SPARE {
            self.described.clear();
        }
        self.described.insert(described, number);
        Some(number)
    }

    /// Whether most of them are not among those `in_use`.
    pub fn are_mostly_unused(&self, in_use: impl Iterator<Item = u32>) -> bool {
        if self.owners.len() <= SPARE {
            return false;
        }
        let mut is_used = vec![false; self.owners.len()];
        for number in in_use {
            if let Some(mark) = is_used.get_mut(number as usize) {
                *mark = true;
            }
        }
        self.owners.len() > 2 * is_used.iter().filter(|mark| **mark).count() + SPARE
    }

    /// Gives numbers anew, to those that are asked for by the old ones.
    pub fn renumber(&mut self) -> impl FnMut(u32) -> u32 + '_ {
        let before = std::mem::take(self);
        move |number| match before.owners.get(number as usize) {
            Some(&owner) => self.number(owner),
            None => number,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use portchurn_common::conn::Conn;
    use portchurn_common::flow::{ChurnKey, KeyRef};
    use portchurn_common::tcp::CloseKind;

    use super::{Described, Numbered, SPARE};
    use crate::model::sockets::SitePair;

    fn key(port: u16) -> ChurnKey {
        ChurnKey { tgid: 7, port, ..ChurnKey::default() }
    }

    fn closed_by(closer_tgid: u32) -> Described {
        Described::of(&Conn { key_ref: KeyRef(3), closer_tgid, ..Conn::default() }, SitePair::default())
    }

    #[test]
    fn what_is_the_same_is_kept_once_and_asked_for_once() {
        let (mut numbered, asked) = (Numbered::default(), Cell::new(0));
        let mut number = |closer_tgid| {
            let told = |_| {
                asked.set(asked.get() + 1);
                Some(key(80))
            };
            numbered.number_of(closed_by(closer_tgid), told)
        };
        assert_eq!([number(0), number(0), number(7)], [Some(0); 3], "the owner itself is nobody else");
        assert_eq!([number(8), number(9)], [Some(1); 2]);
        assert_eq!(asked.get(), 4);
        let owner = numbered.get(1).unwrap();
        assert!(owner.closed_by_other && owner.closed == Some(CloseKind::Local) && owner.key == key(80));
        assert_eq!(numbered.number_of(Described { key_ref: KeyRef(4), ..closed_by(0) }, |_| None), None);
    }

    #[test]
    fn descriptions_do_not_pile_up() {
        let mut numbered = Numbered::default();
        for closer_tgid in 10..20_000 {
            assert_eq!(numbered.number_of(closed_by(closer_tgid), |_| Some(key(80))), Some(0));
        }
        assert!(numbered.described.len() <= SPARE + 3);
    }

    #[test]
    fn who_is_in_use_keeps_its_meaning_under_another_number() {
        let mut numbered = Numbered::default();
        let numbers: Vec<_> = (0..10)
            .map(|port| {
                let described = Described { key_ref: KeyRef(u64::from(port)), ..closed_by(0) };
                numbered.number_of(described, |_| Some(key(port))).unwrap()
            })
            .collect();
        let mut renumber = numbered.renumber();
        let (nine, two, again) = (renumber(numbers[9]), renumber(numbers[2]), renumber(numbers[9]));
        assert_eq!(renumber(u32::MAX), u32::MAX);
        drop(renumber);
        assert_eq!((nine, two, again, numbered.owners.len()), (0, 1, 0, 2));
        assert_eq!(numbered.get(two).unwrap().key.port, 2);
    }
}
