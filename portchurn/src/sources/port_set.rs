//! A set of ports, as 65,536 bits.

/// The set. Empty, it takes no memory.
#[derive(Clone, Debug, Default)]
pub struct PortSet {
    words: Vec<u64>,
    len: u32,
}

impl PortSet {
    /// The ports of these ranges, both ends included.
    pub fn of_ranges(ranges: &[(u16, u16)]) -> Self {
        let mut set = Self::default();
        for &(low, high) in ranges {
            for port in low..=high {
                set.insert(port);
            }
        }
        set
    }

    /// Adds a port; whether it is new.
    pub fn insert(&mut self, port: u16) -> bool {
        if self.words.is_empty() {
            self.words = vec![0; 1024];
        }
        let bit = 1 << (port % 64);
        let word = &mut self.words[usize::from(port / 64)];
        let is_new = *word & bit == 0;
        *word |= bit;
        self.len += u32::from(is_new);
        is_new
    }

    /// Whether a port is in it.
    pub fn contains(&self, port: u16) -> bool {
        self.words.get(usize::from(port / 64)).is_some_and(|word| word & 1 << (port % 64) != 0)
    }

    /// How many there are.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Every port in it, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u16> {
        let is_used = !self.words.is_empty();
        (0..=u16::MAX).filter(move |&port| is_used && self.contains(port))
    }
}

#[cfg(test)]
mod tests {
    use super::PortSet;

    #[test]
    fn ports_are_in_it_once() {
        let mut set = PortSet::default();
        assert!(!set.contains(0) && set.is_empty());
        assert!(set.insert(65_535) && set.insert(0) && !set.insert(0));
        assert_eq!((set.len(), set.iter().collect::<Vec<_>>()), (2, vec![0, 65_535]));
        assert_eq!(PortSet::of_ranges(&[(5, 7), (7, 8), (9, 3)]).len(), 4);
    }
}
