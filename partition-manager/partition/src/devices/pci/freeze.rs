//! What becomes of a device that goes wrong: PowerVM's enhanced error handling (PAPR, "EEH"), on x86.
//!
//! A fault freezes the one function that it is in: its registers read as all ones, writes to them are dropped,
//! and it touches no memory. A reset by the guest thaws it. A function that freezes for the sixth time in an
//! hour stays frozen until somebody services it. Pure: the time comes with each call.

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::time::Duration;

/// Freezes in [`WINDOW`] that a function comes back from; one more is permanent (as PAPR platforms count).
pub const MOST_FREEZES: usize = 5;
/// How long a freeze counts.
pub const WINDOW: Duration = Duration::from_secs(3600);

/// What was wrong with a device or its backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The driver's descriptors contradict themselves.
    #[error("queue {queue}: the descriptor chain at index {head} is malformed: {why}")]
    Chain {
        /// The queue.
        queue: u16,
        /// Index of the first descriptor.
        head: u16,
        /// What is wrong.
        why: String,
    },
    /// The driver's ring contradicts itself, or is not in memory.
    #[error("queue {queue}: {why}")]
    Queue {
        /// The queue.
        queue: u16,
        /// What is wrong.
        why: String,
    },
    /// An address that is no memory of the partition.
    #[error("queue {queue}: {bytes} bytes at {address:#x} are not the partition's memory")]
    Address {
        /// The queue.
        queue: u16,
        /// Guest-physical address.
        address: u64,
        /// Bytes.
        bytes: u64,
    },
    /// What is behind the device failed.
    #[error("the backend failed: {0}")]
    Backend(String),
    /// What is behind the device is no longer there.
    #[error("the backend is gone: {0}")]
    Gone(String),
    /// The driver did not keep to the order in which a device is started.
    #[error("the driver broke the protocol: {0}")]
    Protocol(String),
    /// Somebody asked for it, to see what happens.
    #[error("a fault was injected")]
    Injected,
}

/// Whether a function works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It works.
    #[default]
    Working,
    /// It is frozen until the guest resets it.
    Frozen,
    /// It is frozen until it is serviced.
    Permanent,
}

/// The state of one function, and the freezes that count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freezes {
    state: State,
    times: VecDeque<Duration>,
    total: u64,
    last: Option<Fault>,
}

impl Freezes {
    /// Freezes it at `now`, a time since some fixed beginning. A frozen function freezes no further.
    /// Whether this froze it.
    pub fn freeze(&mut self, now: Duration, fault: Fault) -> bool {
        if self.state != State::Working {
            return false;
        }
        while self.times.front().is_some_and(|time| now.saturating_sub(*time) >= WINDOW) {
            self.times.pop_front();
        }
        self.times.push_back(now);
        self.state = if self.times.len() > MOST_FREEZES { State::Permanent } else { State::Frozen };
        self.total += 1;
        self.last = Some(fault);
        true
    }

    /// The guest resets it. Whether it works now.
    pub fn reset(&mut self) -> bool {
        if self.state == State::Frozen {
            self.state = State::Working;
        }
        self.state == State::Working
    }

    /// Somebody serviced it: it waits for the guest's reset, and nothing counts any more.
    pub fn service(&mut self) {
        self.times.clear();
        if self.state == State::Permanent {
            self.state = State::Frozen;
        }
    }

    /// The state.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// Freezes since the partition was started.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.total
    }

    /// What froze it last.
    #[must_use]
    pub const fn last(&self) -> Option<&Fault> {
        self.last.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_sixth_freeze_in_an_hour_is_permanent() {
        let mut freezes = Freezes::default();
        for minute in 0..5 {
            assert!(freezes.freeze(at(minute * 60), Fault::Injected));
            assert!(!freezes.freeze(at(minute * 60), Fault::Injected), "it is frozen already");
            assert_eq!(freezes.state(), State::Frozen);
            assert!(freezes.reset());
        }
        assert!(freezes.freeze(at(3599), Fault::Injected));
        assert_eq!(freezes.state(), State::Permanent);
        assert!(!freezes.reset());
        freezes.service();
        assert!(freezes.reset());
        assert_eq!(freezes.total(), 6);
    }

    proptest! {
        #[test]
        fn it_is_permanent_exactly_when_six_fell_in_one_hour(gaps in proptest::collection::vec(0..1500u64, 1..40)) {
            let mut freezes = Freezes::default();
            let (mut now, mut times) = (0, vec![]);
            for gap in gaps {
                now += gap;
                times.push(now);
                freezes.freeze(at(now), Fault::Injected);
                let recent = times.iter().filter(|time| now - **time < 3600).count();
                prop_assert_eq!(freezes.state() == State::Permanent, recent > MOST_FREEZES);
                if !freezes.reset() {
                    freezes.service();
                    freezes.reset();
                    times.clear();
                }
            }
        }
    }
}
