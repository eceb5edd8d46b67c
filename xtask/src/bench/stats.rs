//! Median and quartiles.

use serde::Serialize;

/// Where the middle half of some measurements lies.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) q1: f64,
    pub(crate) median: f64,
    pub(crate) q3: f64,
}

/// The spread of `values`; none of nothing.
pub(crate) fn spread(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
    let sorted = sorted(values)?;
    Some(Spread { q1: at(&sorted, 0.25), median: at(&sorted, 0.5), q3: at(&sorted, 0.75) })
}

/// The tenth of `values` that is smallest stays below; none of nothing.
pub(crate) fn lowest_tenth(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    Some(at(&sorted(values)?, 0.1))
}

fn sorted(values: impl IntoIterator<Item = f64>) -> Option<Vec<f64>> {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    (!sorted.is_empty()).then_some(sorted)
}

/// Linear between neighbours.
fn at(sorted: &[f64], share: f64) -> f64 {
    let at = share * (sorted.len() - 1) as f64;
    let below = at.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    let fraction = at - at.floor();
    sorted[below] * (1.0 - fraction) + sorted[above] * fraction
}

#[cfg(test)]
mod tests {
    use super::{Spread, lowest_tenth, spread};

    #[test]
    fn known_quartiles() {
        assert_eq!(spread([5.0, 1.0, 4.0, 2.0, 3.0]), Some(Spread { q1: 2.0, median: 3.0, q3: 4.0 }));
        assert_eq!(spread([1.0, 2.0]), Some(Spread { q1: 1.25, median: 1.5, q3: 1.75 }));
        assert_eq!(spread([7.0]), Some(Spread { q1: 7.0, median: 7.0, q3: 7.0 }));
        assert_eq!(spread([]), None);
    }

    #[test]
    fn what_a_tenth_stays_below() {
        assert_eq!(lowest_tenth((0..=100).rev().map(f64::from)), Some(10.0));
        assert_eq!(lowest_tenth([]), None);
    }
}
