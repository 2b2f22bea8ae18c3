//! How long a source's interrupts took, counted without a lock by whichever thread sees the acknowledgement.

use frame::latency::{BUCKETS, Histogram};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The times of one source.
#[derive(Debug, Default)]
pub struct Latency([AtomicU64; BUCKETS]);

impl Latency {
    /// Counts the time of one interrupt.
    pub fn record(&self, time: Duration) {
        if let Some(count) = self.0.get(Histogram::bucket(time)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What was counted.
    #[must_use]
    pub fn read(&self) -> Histogram {
        Histogram::from_counts(self.0.iter().map(|count| count.load(Ordering::Relaxed)))
    }
}
