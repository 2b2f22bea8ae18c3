//! When a driver answers an interrupt of a queue, where the interrupt controllers are in the kernel and do not tell.
//!
//! What the device can see is `used_event` (virtio 1.2, section 2.7.7): a driver moves it when it takes what was used.
//! The device's thread looks at it when it is awake anyway and, of a few interrupts in a second, also on purpose, at
//! times that double as the buckets of a [`frame::latency::Histogram`] do. So a time that is counted is never too short,
//! and too long by the last wait at most: a bucket, if the thread was not kept from running. Pure.

use std::time::Duration;

/// Time between two interrupts of a queue that are watched: ten in a second.
const PAUSE: Duration = Duration::from_millis(100);
/// First look.
const FIRST: Duration = Duration::from_micros(16);
/// A driver that has not answered by now is counted as having taken this long, where the histogram's last bucket begins.
const LAST: Duration = Duration::from_micros(1 << 22);

/// The interrupts of one queue. Times are since any fixed moment.
#[derive(Debug, Default)]
pub struct Answer {
    watched: Option<Watched>,
    /// When the next may be watched.
    next: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Watched {
    since: Duration,
    used_event: u16,
    /// Until when it is waited for the next look.
    look: Duration,
}

/// What a look at a driver's answer gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// No interrupt is watched.
    Nothing,
    /// Not yet; the next look is due in that time.
    Wait(Duration),
    /// It answered within that time.
    Answered(Duration),
}

impl Answer {
    /// Whether an interrupt that is sent now is to be watched.
    #[must_use]
    pub fn is_due(&self, now: Duration) -> bool {
        self.watched.is_none() && now >= self.next
    }

    /// An interrupt was sent. `now` and `used_event` are of the moment before.
    pub fn sent(&mut self, now: Duration, used_event: u16) {
        self.watched = Some(Watched { since: now, used_event, look: FIRST });
        self.next = now.saturating_add(PAUSE);
    }

    /// Whether an interrupt is watched.
    #[must_use]
    pub const fn is_watching(&self) -> bool {
        self.watched.is_some()
    }

    /// Looks whether the driver answered, now that its `used_event` is this.
    pub fn look(&mut self, now: Duration, used_event: u16) -> Look {
        let Some(watched) = &mut self.watched else { return Look::Nothing };
        let elapsed = now.saturating_sub(watched.since);
        if used_event != watched.used_event || elapsed >= LAST {
            self.watched = None;
            return Look::Answered(elapsed);
        }
        while watched.look <= elapsed {
            watched.look = watched.look.saturating_mul(2);
        }
        Look::Wait(watched.look - elapsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use frame::latency::Histogram;
    use proptest::prelude::*;

    const fn us(time: u64) -> Duration {
        Duration::from_micros(time)
    }

    proptest! {
        #[test]
        fn a_time_is_never_too_short_and_a_bucket_too_long_at_most(
            start in 0..1u64 << 40,
            answer in 1..1u64 << 22,
            event in any::<u16>(),
            moved in 1..=u16::MAX,
        ) {
            let mut watch = Answer::default();
            watch.sent(us(start), event);
            let mut now = start;
            let taken = loop {
                let seen = if now - start >= answer { event.wrapping_add(moved) } else { event };
                match watch.look(us(now), seen) {
                    Look::Wait(wait) => now += wait.as_micros() as u64,
                    Look::Answered(taken) => break taken,
                    Look::Nothing => unreachable!(),
                }
            };
            prop_assert!(taken >= us(answer));
            let exact = Histogram::bucket(us(answer.max(15)));
            prop_assert!(Histogram::bucket(taken) <= exact + 1, "{taken:?} for {answer} us");
        }
    }

    #[test]
    fn few_are_watched_and_one_at_a_time() {
        let mut watch = Answer::default();
        assert_eq!(watch.look(us(5), 0), Look::Nothing);
        assert!(watch.is_due(us(5)));
        watch.sent(us(5), 7);
        assert!(!watch.is_due(us(500_000)));
        assert_eq!(watch.look(us(50_005), 8), Look::Answered(us(50_000)));
        assert!(!watch.is_due(us(100_004)) && watch.is_due(us(100_005)));
        watch.sent(us(200_000), 8);
        assert_eq!(watch.look(us(200_000) + LAST, 8), Look::Answered(LAST), "it never answered");
    }
}
