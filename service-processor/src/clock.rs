//! The two clocks of an event.

use std::time::{SystemTime, UNIX_EPOCH};

/// Wall clock, nanoseconds since 1970-01-01 UTC; zero before that.
#[must_use]
pub fn wall() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Monotonic clock of this boot of the host, nanoseconds (`CLOCK_MONOTONIC`, `clock_gettime(2)`).
#[must_use]
pub fn monotonic() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(now.tv_nsec).unwrap_or_default())
}
