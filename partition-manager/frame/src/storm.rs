//! Storms: what becomes of an interrupt source that is raised more often than it may be. Pure: the time comes with each
//! call, counted from some fixed beginning.
//!
//! Up to its rate, and a burst above it, every raise is sent. Beyond that raises are coalesced: one waits, and is sent
//! when the rate has room again, so that no driver misses the last. A second in which a source is raised more than
//! [`STORM`] times as often as it may is a storm: the source is quarantined until a second passed in which it kept to
//! its rate. The sixth storm in an hour quarantines it until somebody clears it, as the sixth freeze of a device does.

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::time::Duration;

/// How many times its rate makes a storm.
pub const STORM: u64 = 10;
/// How long raises are counted, and how long a source has to be quiet.
pub const PERIOD: Duration = Duration::from_secs(1);
/// Storms in [`WINDOW`] that end by themselves; one more does not.
pub const MOST_STORMS: usize = 5;
/// How long a storm counts.
pub const WINDOW: Duration = Duration::from_secs(3600);
/// Highest rate that can be declared, interrupts in a second.
pub const HIGHEST_RATE: u32 = 1_000_000;
/// Largest burst that can be declared, interrupts.
pub const LARGEST_BURST: u32 = 1_000_000;

/// How often each interrupt source of a partition may be raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// Interrupts in a second, 1..=[`HIGHEST_RATE`].
    pub rate: u32,
    /// Interrupts that may come at once, 1..=[`LARGEST_BURST`].
    pub burst: u32,
}

/// More than virtio devices reach whose drivers take what is used in turns, and far less than what starves a host.
impl Default for Limit {
    fn default() -> Self {
        Self { rate: 100_000, burst: 10_000 }
    }
}

impl Limit {
    /// Whether both are in their ranges.
    #[must_use]
    pub fn is_valid(self) -> bool {
        (1..=HIGHEST_RATE).contains(&self.rate) && (1..=LARGEST_BURST).contains(&self.burst)
    }

    /// Time of one interrupt, nanoseconds; rounded up, so that a second has no more than the rate.
    fn interval(self) -> u64 {
        1_000_000_000_u64.div_ceil(self.rate.max(1).into())
    }
}

/// What becomes of a raise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is sent.
    Send,
    /// It waits, or is one with what waits: [`Guard::poll`] is due after this time.
    Wait(Duration),
    /// It began a storm: the source is quarantined. [`Guard::poll`] is due after [`PERIOD`] unless it is `lasting`.
    Storm {
        /// Whether only [`Guard::clear`] ends it.
        lasting: bool,
    },
    /// The source is quarantined.
    Quarantined,
}

/// Whether a source is quarantined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quarantine {
    /// It is not.
    #[default]
    No,
    /// Until it is quiet.
    UntilQuiet,
    /// Until it is cleared.
    UntilCleared,
}

/// The state of one source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guard {
    limit: Limit,
    /// When the next would come if all came at the rate: a token bucket in one number (the generic cell rate algorithm,
    /// ITU-T I.371, annex A).
    next: u64,
    /// When counting began, and raises since then.
    since: Duration,
    raised: u64,
    quarantine: Quarantine,
    waiting: bool,
    coalesced: u64,
    storms: u64,
    times: VecDeque<Duration>,
}

impl Guard {
    /// A source that was never raised.
    #[must_use]
    pub const fn new(limit: Limit) -> Self {
        Self {
            limit,
            next: 0,
            since: Duration::ZERO,
            raised: 0,
            quarantine: Quarantine::No,
            waiting: false,
            coalesced: 0,
            storms: 0,
            times: VecDeque::new(),
        }
    }

    /// How long until one may be sent; nothing when it may be now.
    fn wait(&self, now: Duration) -> Duration {
        let ahead = u64::from(self.limit.burst.max(1) - 1).saturating_mul(self.limit.interval());
        Duration::from_nanos(self.next.saturating_sub(ahead).saturating_sub(nanoseconds(now)))
    }

    fn take(&mut self, now: Duration) {
        self.next = self.next.max(nanoseconds(now)).saturating_add(self.limit.interval());
    }

    /// Keeps one raise for later.
    fn keep(&mut self) {
        self.coalesced = self.coalesced.saturating_add(u64::from(self.waiting));
        self.waiting = true;
    }

    /// The source is raised.
    pub fn raise(&mut self, now: Duration) -> Verdict {
        if self.quarantine != Quarantine::No {
            self.raised = self.raised.saturating_add(1);
            self.keep();
            return Verdict::Quarantined;
        }
        if now.saturating_sub(self.since) >= PERIOD {
            (self.since, self.raised) = (now, 0);
        }
        self.raised += 1;
        if self.raised > u64::from(self.limit.rate) * STORM {
            self.keep();
            return self.storm(now);
        }
        let wait = self.wait(now);
        if !self.waiting && wait.is_zero() {
            self.take(now);
            return Verdict::Send;
        }
        self.keep();
        Verdict::Wait(wait)
    }

    fn storm(&mut self, now: Duration) -> Verdict {
        while self.times.front().is_some_and(|time| now.saturating_sub(*time) >= WINDOW) {
            self.times.pop_front();
        }
        self.times.push_back(now);
        self.storms = self.storms.saturating_add(1);
        let lasting = self.times.len() > MOST_STORMS;
        self.quarantine = if lasting { Quarantine::UntilCleared } else { Quarantine::UntilQuiet };
        (self.since, self.raised) = (now, 0);
        Verdict::Storm { lasting }
    }

    /// Time has passed: [`Verdict::Send`] when what waited is to be sent now, [`Verdict::Wait`] when this is to be asked
    /// again; none when there is nothing to do.
    pub fn poll(&mut self, now: Duration) -> Option<Verdict> {
        match self.quarantine {
            Quarantine::UntilCleared => return None,
            Quarantine::UntilQuiet => {
                let over = now.saturating_sub(self.since);
                if over < PERIOD {
                    return Some(Verdict::Wait(PERIOD.saturating_sub(over)));
                }
                let quiet = self.raised <= u64::from(self.limit.rate);
                (self.since, self.raised) = (now, 0);
                if !quiet {
                    return Some(Verdict::Wait(PERIOD));
                }
                self.quarantine = Quarantine::No;
            }
            Quarantine::No => {}
        }
        if !self.waiting {
            return None;
        }
        let wait = self.wait(now);
        if !wait.is_zero() {
            return Some(Verdict::Wait(wait));
        }
        self.waiting = false;
        self.take(now);
        Some(Verdict::Send)
    }

    /// Somebody looked after the source: it is no longer quarantined, and no storm counts any more. Whether it was
    /// quarantined; then [`Guard::poll`] is due.
    pub fn clear(&mut self, now: Duration) -> bool {
        self.times.clear();
        (self.since, self.raised) = (now, 0);
        std::mem::take(&mut self.quarantine) != Quarantine::No
    }

    /// What waits is not wanted any more.
    pub const fn forget(&mut self) {
        self.waiting = false;
    }

    /// Whether it is quarantined.
    #[must_use]
    pub const fn quarantine(&self) -> Quarantine {
        self.quarantine
    }

    /// Raises that were one with another that waited.
    #[must_use]
    pub const fn coalesced(&self) -> u64 {
        self.coalesced
    }

    /// Storms so far.
    #[must_use]
    pub const fn storms(&self) -> u64 {
        self.storms
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: Limit = Limit { rate: 100, burst: 5 };

    /// Raises it until it storms, all at `now`.
    fn storm(guard: &mut Guard, now: Duration) -> bool {
        for _ in 0..u64::from(LIMIT.rate) * STORM {
            assert!(!matches!(guard.raise(now), Verdict::Storm { .. }));
        }
        match guard.raise(now) {
            Verdict::Storm { lasting } => lasting,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_storm_ends_with_a_quiet_second_and_gives_what_waited() {
        let mut guard = Guard::new(LIMIT);
        let start = Duration::from_secs(7);
        assert!(!storm(&mut guard, start));
        assert_eq!((guard.quarantine(), guard.storms()), (Quarantine::UntilQuiet, 1));
        // As often as it may and once more: not yet quiet.
        for _ in 0..=LIMIT.rate {
            assert_eq!(guard.raise(start), Verdict::Quarantined);
        }
        assert_eq!(guard.poll(start + PERIOD / 2), Some(Verdict::Wait(PERIOD / 2)));
        assert_eq!(guard.poll(start + PERIOD), Some(Verdict::Wait(PERIOD)));
        assert_eq!(guard.poll(start + 2 * PERIOD), Some(Verdict::Send));
        assert_eq!((guard.poll(start + 2 * PERIOD), guard.quarantine()), (None, Quarantine::No));
        assert_eq!(guard.raise(start + 2 * PERIOD), Verdict::Send);
    }

    #[test]
    fn the_sixth_storm_in_an_hour_lasts_until_it_is_cleared() {
        let mut guard = Guard::new(LIMIT);
        for minute in 0..5 {
            let now = Duration::from_secs(minute * 60);
            assert!(!storm(&mut guard, now));
            assert_eq!(guard.poll(now + PERIOD), Some(Verdict::Send));
        }
        let now = Duration::from_secs(3599);
        assert!(storm(&mut guard, now));
        assert_eq!(guard.poll(now + 2 * WINDOW), None);
        assert_eq!(guard.raise(now + 2 * WINDOW), Verdict::Quarantined);
        assert!(guard.clear(now + 2 * WINDOW));
        assert!(!guard.clear(now + 2 * WINDOW));
        assert_eq!(guard.poll(now + 2 * WINDOW), Some(Verdict::Send));
        assert!(!storm(&mut guard, now + 3 * WINDOW), "none counts any more");
        assert_eq!(guard.storms(), 7);
    }

    proptest! {
        /// Whatever the source does: no second has more than rate and burst, nothing is lost, and each raise is sent,
        /// waits, or is coalesced.
        #[test]
        fn it_keeps_to_the_rate_and_loses_nothing(
            rate in 1..2_000u32, burst in 1..50u32,
            gaps in proptest::collection::vec((0..3_000_000u64, 0..40u32), 1..150),
        ) {
            let limit = Limit { rate, burst };
            prop_assert!(limit.is_valid());
            let mut guard = Guard::new(limit);
            let (mut now, mut raises, mut due) = (Duration::ZERO, 0u64, None::<Duration>);
            let mut sent: Vec<Duration> = vec![];
            let mut note = |guard: &mut Guard, due: &mut Option<Duration>, now: Duration, verdict: Option<Verdict>| {
                match verdict {
                    Some(Verdict::Send) => sent.push(now),
                    Some(Verdict::Wait(wait)) => *due = Some(now + wait),
                    Some(Verdict::Storm { lasting: false }) => *due = Some(now + PERIOD),
                    _ => {}
                }
                sent.len() as u64 + guard.coalesced() + u64::from(guard.waiting)
            };
            for (gap, count) in gaps {
                let until = now + Duration::from_nanos(gap * 100);
                while let Some(time) = due.filter(|time| *time <= until) {
                    due = None;
                    let verdict = guard.poll(time);
                    prop_assert_eq!(note(&mut guard, &mut due, time, verdict), raises);
                }
                now = until;
                for _ in 0..count {
                    raises += 1;
                    let verdict = guard.raise(now);
                    prop_assert_eq!(note(&mut guard, &mut due, now, Some(verdict)), raises);
                }
            }
            // With time, and nobody to ask for more than that, what waits is sent.
            let mut left = 20;
            while guard.waiting && guard.quarantine() != Quarantine::UntilCleared {
                prop_assert!(left > 0, "it waits for ever");
                left -= 1;
                now = now.max(due.take().unwrap_or(now));
                let verdict = guard.poll(now);
                prop_assert_eq!(note(&mut guard, &mut due, now, verdict), raises);
            }
            for (at, begin) in sent.iter().enumerate() {
                let within = sent.iter().skip(at).take_while(|time| **time < *begin + PERIOD).count();
                prop_assert!(within as u64 <= u64::from(rate) + u64::from(burst), "{within} in a second");
            }
        }
    }
}
