//! Percentiles of many measurements in little memory. Pure.

/// Buckets per doubling: a value is known to one part in this many.
const FINE: u64 = 512;
/// Doublings beyond the first 1024 values, which have a bucket each; larger values count as the largest.
const DOUBLINGS: u64 = 24;
/// Number of buckets.
const BUCKETS: usize = (FINE * (2 + DOUBLINGS)) as usize;

/// Counts of values, in buckets that grow with the value.
pub struct Histogram {
    counts: [u32; BUCKETS],
    total: u64,
}

impl Histogram {
    /// No values.
    pub const fn new() -> Self {
        Self { counts: [0; BUCKETS], total: 0 }
    }

    /// Forgets all values.
    pub fn clear(&mut self) {
        self.counts.fill(0);
        self.total = 0;
    }

    /// Counts one value.
    pub fn add(&mut self, value: u64) {
        if let Some(count) = self.counts.get_mut(bucket(value)) {
            *count = count.saturating_add(1);
            self.total += 1;
        }
    }

    /// The smallest value that at least `percent` of 100 of the values do not exceed, rounded down to its
    /// bucket; 0 without values.
    pub fn percentile(&self, percent: u64) -> u64 {
        let wanted = (self.total * percent).div_ceil(100).max(1);
        let mut passed = 0;
        for (index, &count) in self.counts.iter().enumerate() {
            passed += u64::from(count);
            if passed >= wanted {
                return lowest(index as u64);
            }
        }
        0
    }
}

/// The bucket of a value.
fn bucket(value: u64) -> usize {
    let value = value.min((FINE << (DOUBLINGS + 1)) - 1);
    if value < 2 * FINE {
        return value as usize;
    }
    let shift = u64::from(value.ilog2() - FINE.ilog2());
    (shift * FINE + (value >> shift)) as usize
}

/// The smallest value of a bucket.
fn lowest(index: u64) -> u64 {
    if index < 2 * FINE {
        return index;
    }
    let shift = index / FINE - 1;
    (index - shift * FINE) << shift
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_its_lowest_value_and_is_narrow() {
        for index in 0..BUCKETS {
            let low = lowest(index as u64);
            assert_eq!(bucket(low), index);
            if index + 1 < BUCKETS {
                let next = lowest(index as u64 + 1);
                assert_eq!(bucket(next - 1), index);
                assert!((next - low) * FINE <= low.max(FINE), "{low}..{next}");
            }
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles_of_a_known_set() {
        let mut histogram = Histogram::new();
        assert_eq!(histogram.percentile(50), 0);
        for value in 1..=100 {
            histogram.add(value);
        }
        assert_eq!(histogram.percentile(50), 50);
        assert_eq!(histogram.percentile(99), 99);
        assert_eq!(histogram.percentile(100), 100);
        histogram.clear();
        histogram.add(7_000_000);
        assert!(histogram.percentile(1).abs_diff(7_000_000) <= 7_000_000 / FINE);
    }
}
