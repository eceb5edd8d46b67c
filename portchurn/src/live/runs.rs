//! A hash for socket cookies that keeps neighbours together. The kernel hands them out in order, and the table of
//! connections is gone through in that order: with an ordinary hash each look-up of a hundred thousand is a miss of the
//! processor's cache, with this one each run of 32 is a few.

use std::hash::{BuildHasherDefault, Hasher};

/// Cookies that lie side by side. Few: where two runs come to the same place, the next free one must not be far.
const RUN: u64 = 32;
/// The odd number next to 2⁶⁴ / φ, which spreads what is multiplied by it.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
/// `hashbrown` finds the place by the low bits and compares the seven high ones before it looks at a key.
const TAG: u64 = 0x7f << 57;

/// Hashes one `u64`. Not for what others may choose.
#[derive(Clone, Copy, Debug, Default)]
pub struct Runs(u64);

/// For maps by cookie.
pub type BuildRuns = BuildHasherDefault<Runs>;

impl Hasher for Runs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(self.0 ^ u64::from(byte));
        }
    }

    fn write_u64(&mut self, cookie: u64) {
        let run = (cookie / RUN).wrapping_mul(SPREAD) >> 32;
        self.0 = (cookie.wrapping_mul(SPREAD) & TAG) | (run * RUN + cookie % RUN);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::hash::BuildHasher as _;

    use super::{BuildRuns, RUN, TAG};

    fn hash(cookie: u64) -> u64 {
        BuildRuns::default().hash_one(cookie)
    }

    #[test]
    fn neighbours_are_side_by_side_and_tell_apart_by_their_tags() {
        for first in [0, 7 * RUN, 123_456 * RUN] {
            let hashes: Vec<_> = (first..first + RUN).map(hash).collect();
            assert!(hashes.windows(2).all(|two| (two[0] & !TAG) + 1 == two[1] & !TAG));
            let tags: HashSet<_> = hashes.iter().map(|hash| hash & TAG).collect();
            assert!(tags.len() as u64 > RUN / 2, "{} tags", tags.len());
        }
    }

    #[test]
    fn runs_spread_over_a_table_whatever_their_distance() {
        let places = 1 << 13;
        for step in [1, 2, 128, 4096, 1 << 20] {
            let taken: HashSet<_> =
                (0..places / 2).map(|run| hash(run * step * RUN) / RUN % places).collect();
            // By chance alone 79 % of as many throws as half the places hit one of their own.
            assert!(taken.len() as u64 > places / 2 * 7 / 10, "step {step}: {} places", taken.len());
        }
    }
}
