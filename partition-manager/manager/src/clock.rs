//! The two clocks.

use rustix::time::{ClockId, clock_gettime};

fn nanoseconds(id: ClockId) -> u64 {
    let time = clock_gettime(id);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0))
}

/// Wall clock, nanoseconds since 1970-01-01 UTC.
#[must_use]
pub fn wall() -> u64 {
    nanoseconds(ClockId::Realtime)
}

/// Monotonic clock of this boot, nanoseconds; the same in every process.
#[must_use]
pub fn monotonic() -> u64 {
    nanoseconds(ClockId::Monotonic)
}

/// Monotonic clock of this boot, milliseconds: what lifecycles count in.
#[must_use]
pub fn now() -> u64 {
    monotonic() / 1_000_000
}
