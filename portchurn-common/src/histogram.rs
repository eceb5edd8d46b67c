//! Durations in log2 buckets of microseconds, and percentiles from them. A percentile is interpolated inside its
//! bucket, so it is right to within a factor of two; the maximum is kept apart and is exact.

/// Buckets: `[0, 1]`, `(1, 3]`, `(3, 7]` … µs; the last also takes everything longer than 35 minutes.
pub const BUCKETS: usize = 32;

/// Counts per bucket.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(transparent)]
pub struct Histogram(pub [u32; BUCKETS]);

impl Histogram {
    /// Nothing recorded.
    pub const ZERO: Self = Self([0; BUCKETS]);
}

/// The bucket of a duration: ⌊log2(µs + 1)⌋. Written as five comparisons: BPF has no count-leading-zeros.
#[inline(always)]
pub const fn bucket(duration_us: u32) -> usize {
    let mut rest = duration_us.saturating_add(1);
    let mut index = 0;
    let mut shift = 16;
    while shift > 0 {
        if rest >= 1 << shift {
            index += shift;
            rest >>= shift;
        }
        shift /= 2;
    }
    index & (BUCKETS - 1)
}

/// The shortest and the longest duration of a bucket. Microseconds.
pub const fn bounds_us(bucket: usize) -> (u64, u64) {
    ((1 << bucket) - 1, (1 << (bucket + 1)) - 2)
}

/// Nanoseconds to whole microseconds, saturating.
#[inline(always)]
pub const fn ns_to_us(duration_ns: u64) -> u32 {
    let duration_us = duration_ns / 1000;
    if duration_us > u32::MAX as u64 { u32::MAX } else { duration_us as u32 }
}

/// The duration below which `quantile` (0 to 1) of the recorded durations lie, at most `max_us`. Microseconds;
/// `None` when nothing was recorded.
pub fn quantile_us(counts: &[u64; BUCKETS], quantile: f64, max_us: u64) -> Option<u64> {
    let total: u64 = counts.iter().sum();
    if total == 0 {
        return None;
    }
    let rank = (quantile * total as f64).clamp(1.0, total as f64);
    let mut below = 0.0;
    for (index, &count) in counts.iter().enumerate() {
        let count = count as f64;
        if count > 0.0 && below + count >= rank {
            let (low, high) = bounds_us(index);
            let share = (rank - below) / count;
            return Some((low as f64 + share * (high - low) as f64) as u64).map(|us| us.min(max_us));
        }
        below += count;
    }
    Some(max_us)
}

#[cfg(test)]
mod tests {
    use super::{BUCKETS, bounds_us, bucket, ns_to_us, quantile_us};

    #[test]
    fn a_bucket_holds_its_own_bounds() {
        for index in 0..BUCKETS - 1 {
            let (low, high) = bounds_us(index);
            assert_eq!(bucket(low as u32), index, "low end of {index}");
            assert_eq!(bucket(high as u32), index, "high end of {index}");
        }
        assert_eq!(bucket(u32::MAX), BUCKETS - 1);
    }

    #[test]
    fn long_durations_saturate() {
        assert_eq!(ns_to_us(1999), 1);
        assert_eq!(ns_to_us(u64::MAX), u32::MAX);
    }

    #[test]
    fn percentiles_lie_in_the_right_bucket() {
        let mut counts = [0; BUCKETS];
        counts[bucket(10)] = 90;
        counts[bucket(5_000)] = 10;
        let median = quantile_us(&counts, 0.5, 6_000).unwrap();
        assert_eq!(bucket(median as u32), bucket(10));
        let p99 = quantile_us(&counts, 0.99, 6_000).unwrap();
        assert_eq!(bucket(p99 as u32), bucket(5_000));
        assert_eq!(quantile_us(&counts, 1.0, 6_000), Some(6_000), "never above the exact maximum");
    }

    #[test]
    fn nothing_recorded_has_no_percentile() {
        assert_eq!(quantile_us(&[0; BUCKETS], 0.5, 0), None);
    }
}
