//! How long interrupts took, as counts in buckets of doubled widths.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Buckets of a histogram. The last has no upper end.
pub const BUCKETS: usize = 24;

/// Counts of times: bucket 0 is for times below 1 microsecond, bucket `n` for those from 2^(n-1) to below 2^n
/// microseconds, the last for those of 2^22 microseconds (4.2 s) and more.
///
/// As JSON it is the array of counts without the zeros at its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<u64>", into = "Vec<u64>")]
pub struct Histogram([u64; BUCKETS]);

impl Histogram {
    /// The bucket that a time belongs in, below [`BUCKETS`].
    #[must_use]
    pub fn bucket(time: Duration) -> usize {
        let microseconds = time.as_micros();
        ((u128::BITS - microseconds.leading_zeros()) as usize).min(BUCKETS - 1)
    }

    /// Microseconds below which the times of a bucket are; none for the last.
    #[must_use]
    pub const fn end(bucket: usize) -> Option<u64> {
        if bucket + 1 < BUCKETS { Some(1 << bucket) } else { None }
    }

    /// From counts, by bucket. What is beyond the last bucket is counted there.
    #[must_use]
    pub fn from_counts(counts: impl IntoIterator<Item = u64>) -> Self {
        let mut histogram = Self::default();
        counts.into_iter().enumerate().for_each(|(bucket, count)| histogram.add(bucket, count));
        histogram
    }

    fn add(&mut self, bucket: usize, count: u64) {
        if let Some(sum) = self.0.get_mut(bucket.min(BUCKETS - 1)) {
            *sum = sum.saturating_add(count);
        }
    }

    /// Counts a time.
    pub fn record(&mut self, time: Duration) {
        self.add(Self::bucket(time), 1);
    }

    /// Adds what another counted.
    pub fn merge(&mut self, other: &Self) {
        other.0.iter().enumerate().for_each(|(bucket, count)| self.add(bucket, *count));
    }

    /// The counts, by bucket.
    #[must_use]
    pub const fn counts(&self) -> &[u64; BUCKETS] {
        &self.0
    }

    /// How many times were counted.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The bucket with the time that `percent` of a hundred of the times, rounded up and at least one, do not exceed;
    /// none when nothing was counted.
    #[must_use]
    pub fn quantile(&self, percent: u64) -> Option<usize> {
        let total = self.total();
        let wanted = (u128::from(total) * u128::from(percent.min(100))).div_ceil(100).max(1) as u64;
        let mut sum = 0u64;
        self.0.iter().position(|count| {
            sum = sum.saturating_add(*count);
            sum >= wanted
        })
    }
}

impl From<Vec<u64>> for Histogram {
    fn from(counts: Vec<u64>) -> Self {
        Self::from_counts(counts)
    }
}

impl From<Histogram> for Vec<u64> {
    fn from(histogram: Histogram) -> Self {
        let used = histogram.0.iter().rposition(|count| *count > 0).map_or(0, |last| last + 1);
        histogram.0.into_iter().take(used).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn times() -> impl Strategy<Value = Vec<u64>> {
        proptest::collection::vec(prop_oneof![0..100u64, 0..10_000_000u64, any::<u64>()], 1..60)
    }

    fn counted(microseconds: &[u64]) -> Histogram {
        let mut histogram = Histogram::default();
        microseconds.iter().for_each(|time| histogram.record(Duration::from_micros(*time)));
        histogram
    }

    proptest! {
        #[test]
        fn every_time_is_counted_once_and_within_its_bucket(times in times()) {
            let histogram = counted(&times);
            prop_assert_eq!(histogram.total(), times.len() as u64);
            for time in times {
                let bucket = Histogram::bucket(Duration::from_micros(time));
                prop_assert!(histogram.counts()[bucket] > 0);
                prop_assert!(Histogram::end(bucket).is_none_or(|end| time < end));
                prop_assert!(bucket == 0 || Histogram::end(bucket - 1).is_some_and(|start| time >= start));
            }
        }

        #[test]
        fn a_merger_counts_what_both_did(one in times(), other in times()) {
            let mut merged = counted(&one);
            merged.merge(&counted(&other));
            prop_assert_eq!(merged, counted(&[one, other].concat()));
        }

        #[test]
        fn a_quantile_is_in_the_bucket_of_the_exact_one(mut times in times(), percent in 0..=100u64) {
            let histogram = counted(&times);
            times.sort_unstable();
            let rank = (times.len() as u64 * percent).div_ceil(100).max(1) as usize;
            let exact = Histogram::bucket(Duration::from_micros(times[rank - 1]));
            prop_assert_eq!(histogram.quantile(percent), Some(exact));
        }

        #[test]
        fn whatever_is_said_of_it_is_a_histogram(counts in proptest::collection::vec(any::<u64>(), 0..80)) {
            let text = serde_json::to_string(&counts).unwrap();
            let histogram: Histogram = serde_json::from_str(&text).unwrap();
            let sum = counts.iter().fold(0u64, |sum, count| sum.saturating_add(*count));
            prop_assert_eq!(histogram.total(), sum);
            let again: Histogram = serde_json::from_str(&serde_json::to_string(&histogram).unwrap()).unwrap();
            prop_assert_eq!(again, histogram);
        }
    }

    #[test]
    fn nothing_counted_has_no_quantile() {
        assert_eq!(Histogram::default().quantile(50), None);
        assert_eq!(serde_json::to_string(&Histogram::default()).unwrap(), "[]");
    }
}
