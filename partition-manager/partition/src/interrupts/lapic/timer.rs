//! The local APIC's timer: counts down at 1 GHz through its divider (Intel SDM, volume 3, section 11.5.4), the rate
//! that KVM's has and that CPUID tells.

use serde::{Deserialize, Serialize};

/// Shortest period, nanoseconds: that of KVM's own timer (`min_timer_period_us`), so that a guest cannot have the host
/// do nothing but this.
pub(super) const SHORTEST_PERIOD: u64 = 200_000;

/// The timer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Timer {
    initial: u32,
    divide: u32,
    /// When it reaches zero, nanoseconds.
    deadline: Option<u64>,
}

impl Timer {
    pub(super) const fn initial(&self) -> u32 {
        self.initial
    }

    pub(super) const fn divide(&self) -> u32 {
        self.divide
    }

    pub(super) const fn deadline(&self) -> Option<u64> {
        self.deadline
    }

    /// Nanoseconds of one count (figure 11-10): 2 to 128, or 1 for the value 0b1011.
    const fn count(&self) -> u64 {
        let value = self.divide & 3 | (self.divide & 8) >> 1;
        1 << ((value + 1) & 7)
    }

    /// Starts it; zero stops it.
    pub(super) fn start(&mut self, initial: u32, now: u64) {
        self.initial = initial;
        self.deadline = (initial != 0).then(|| now.saturating_add(u64::from(initial) * self.count()));
    }

    /// What is left to count.
    pub(super) fn current(&self, now: u64) -> u32 {
        let left = self.deadline.map_or(0, |deadline| deadline.saturating_sub(now));
        u32::try_from(left.div_ceil(self.count())).unwrap_or(u32::MAX)
    }

    /// Changes the divider; what is left to count stays.
    pub(super) fn set_divide(&mut self, value: u32, now: u64) {
        let left = self.current(now);
        self.divide = value & 0xb;
        if self.deadline.is_some() {
            self.deadline = Some(now.saturating_add(u64::from(left) * self.count()));
        }
    }

    /// Whether it reached zero since it was asked last, however often.
    pub(super) fn expire(&mut self, now: u64, periodic: bool) -> bool {
        let Some(deadline) = self.deadline.filter(|deadline| *deadline <= now) else { return false };
        self.deadline = periodic.then(|| {
            let period = (u64::from(self.initial) * self.count()).max(SHORTEST_PERIOD);
            let periods = (now - deadline) / period + 1;
            deadline.saturating_add(periods.saturating_mul(period))
        });
        true
    }
}
