//! The shutdown ladder: ask, press the button, interrupt, stop, kill.
//!
//! A pure function of the declared deadlines, what the guest answers and the time: it decides which rung is
//! taken next. Times are milliseconds of any clock that does not go back.

use crate::declare::Shutdown;
use crate::wire::ChannelAnswer;
use serde::{Deserialize, Serialize};

/// One rung of the ladder, from the gentlest to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rung {
    /// Ask over the communication channel.
    Ask,
    /// Press the ACPI power button.
    PowerButton,
    /// A non-maskable interrupt to every virtual processor.
    Nmi,
    /// The partition's process stops the virtual processors and ends.
    Stop,
    /// The partition's process is killed.
    Kill,
}

impl Rung {
    /// The rung in words, as the object of a sentence.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ask => "the request on the communication channel",
            Self::PowerButton => "the power button",
            Self::Nmi => "the non-maskable interrupt",
            Self::Stop => "the order to stop",
            Self::Kill => "the kill",
        }
    }
}

/// Time that a partition's process has to stop its virtual processors and end, milliseconds.
pub const STOP_MS: u64 = 1000;

/// Where on the ladder a shutdown is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ladder {
    deadlines: Shutdown,
    /// Whether the guest may refuse; it may not when the whole frame goes down.
    may_deny: bool,
    rung: Rung,
    /// Whether the guest agreed once: it is given more time for that, but not each time it says so.
    approved: bool,
    /// When the next rung is due; absent on the last one.
    until: Option<u64>,
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Wait on.
    Keep,
    /// Take this rung.
    Take {
        /// The rung to take.
        rung: Rung,
        /// Whether the rung before it had its time and no effect: worth an event.
        escalated: bool,
    },
    /// The guest objects: give up, the partition keeps running.
    Refused,
}

impl Ladder {
    /// Begins a shutdown at `now`, and gives the first rung to take.
    #[must_use]
    pub fn begin(deadlines: Shutdown, immediate: bool, may_deny: bool, now: u64) -> (Self, Rung) {
        let mut ladder = Self { deadlines, may_deny, rung: Rung::Stop, approved: false, until: None };
        let first = if immediate { Rung::Stop } else { ladder.first_from(Rung::Ask) };
        ladder.take(first, now);
        (ladder, first)
    }

    /// The rung that was taken last.
    #[must_use]
    pub const fn rung(&self) -> Rung {
        self.rung
    }

    /// When [`Ladder::time`] has something to decide; never when absent.
    #[must_use]
    pub const fn deadline(&self) -> Option<u64> {
        self.until
    }

    /// Goes straight to the order to stop; nothing when that or the kill was taken already.
    pub fn hurry(&mut self, now: u64) -> Decision {
        if self.rung >= Rung::Stop {
            return Decision::Keep;
        }
        self.take(Rung::Stop, now);
        Decision::Take { rung: Rung::Stop, escalated: false }
    }

    /// From now on the guest may not refuse: the whole frame goes down.
    pub fn forbid_denial(&mut self) {
        self.may_deny = false;
    }

    /// What the guest said on the communication channel.
    pub fn answer(&mut self, answer: ChannelAnswer, now: u64) -> Decision {
        if self.rung != Rung::Ask {
            return Decision::Keep;
        }
        match answer {
            ChannelAnswer::Absent => self.next(now, false),
            ChannelAnswer::Pending => Decision::Keep,
            ChannelAnswer::Approved if self.approved => Decision::Keep,
            ChannelAnswer::Approved => {
                self.approved = true;
                // It acts now, which takes as long as after the button.
                let time = self.deadlines.ask_ms.max(self.deadlines.button_ms);
                self.until = Some(now.saturating_add(u64::from(time)));
                Decision::Keep
            }
            ChannelAnswer::Denied if self.may_deny => Decision::Refused,
            ChannelAnswer::Denied => self.next(now, true),
        }
    }

    /// Time has passed.
    pub fn time(&mut self, now: u64) -> Decision {
        match self.until {
            Some(until) if until <= now => self.next(now, true),
            _ => Decision::Keep,
        }
    }

    fn next(&mut self, now: u64, escalated: bool) -> Decision {
        let rung = match self.rung {
            Rung::Ask => self.first_from(Rung::PowerButton),
            Rung::PowerButton => self.first_from(Rung::Nmi),
            Rung::Nmi => Rung::Stop,
            Rung::Stop | Rung::Kill => Rung::Kill,
        };
        self.take(rung, now);
        Decision::Take { rung, escalated }
    }

    fn take(&mut self, rung: Rung, now: u64) {
        self.rung = rung;
        self.until = self.allowance(rung).map(|time| now.saturating_add(time));
    }

    /// How long a rung has; none when it is the last.
    fn allowance(&self, rung: Rung) -> Option<u64> {
        match rung {
            Rung::Ask => Some(u64::from(self.deadlines.ask_ms)),
            Rung::PowerButton => Some(u64::from(self.deadlines.button_ms)),
            Rung::Nmi => Some(u64::from(self.deadlines.nmi_ms)),
            Rung::Stop => Some(STOP_MS),
            Rung::Kill => None,
        }
    }

    /// The first rung from `rung` on that is not left out.
    fn first_from(&self, rung: Rung) -> Rung {
        let gentle = [Rung::Ask, Rung::PowerButton, Rung::Nmi];
        let used = gentle.into_iter().find(|&one| one >= rung && self.allowance(one) != Some(0));
        used.unwrap_or(Rung::Stop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DEADLINES: Shutdown = Shutdown { ask_ms: 100, button_ms: 1000, nmi_ms: 50 };

    fn take(rung: Rung, escalated: bool) -> Decision {
        Decision::Take { rung, escalated }
    }

    #[test]
    fn each_rung_has_its_time() {
        let (mut ladder, first) = Ladder::begin(DEADLINES, false, true, 10);
        assert_eq!(first, Rung::Ask);
        assert_eq!(ladder.time(109), Decision::Keep);
        assert_eq!(ladder.time(110), take(Rung::PowerButton, true));
        assert_eq!(ladder.time(1109), Decision::Keep);
        assert_eq!(ladder.time(1110), take(Rung::Nmi, true));
        assert_eq!(ladder.time(1160), take(Rung::Stop, true));
        assert_eq!(ladder.time(1160 + STOP_MS), take(Rung::Kill, true));
        assert_eq!(ladder.deadline(), None);
        assert_eq!(ladder.time(u64::MAX), Decision::Keep);
    }

    #[test]
    fn the_guest_has_a_say() {
        let (ladder, _) = Ladder::begin(DEADLINES, false, true, 0);
        assert_eq!({ ladder }.answer(ChannelAnswer::Absent, 1), take(Rung::PowerButton, false));
        assert_eq!({ ladder }.answer(ChannelAnswer::Denied, 1), Decision::Refused);
        let mut approved = ladder;
        assert_eq!(approved.answer(ChannelAnswer::Approved, 1), Decision::Keep);
        assert_eq!(approved.answer(ChannelAnswer::Approved, 900), Decision::Keep);
        assert_eq!(approved.time(1000), Decision::Keep);
        assert_eq!(approved.time(1001), take(Rung::PowerButton, true));
        assert_eq!(approved.answer(ChannelAnswer::Denied, 1002), Decision::Keep);
        let (mut down, _) = Ladder::begin(DEADLINES, false, false, 0);
        assert_eq!(down.answer(ChannelAnswer::Denied, 1), take(Rung::PowerButton, true));
    }

    #[test]
    fn rungs_of_no_time_are_left_out() {
        let none = Shutdown { ask_ms: 0, button_ms: 0, nmi_ms: 0 };
        assert_eq!(Ladder::begin(none, false, true, 0).1, Rung::Stop);
        let (mut ladder, first) = Ladder::begin(Shutdown { button_ms: 0, ..DEADLINES }, false, true, 0);
        assert_eq!(first, Rung::Ask);
        assert_eq!(ladder.time(100), take(Rung::Nmi, true));
        assert_eq!(Ladder::begin(DEADLINES, true, true, 0).1, Rung::Stop);
    }

    proptest! {
        #[test]
        fn the_ladder_only_goes_up_and_ends(
            (ask_ms, button_ms, nmi_ms) in (0u32..100, 0u32..100, 0u32..100),
            immediate in any::<bool>(),
            may_deny in any::<bool>(),
            steps in proptest::collection::vec((0u64..150, 0usize..6), 0..40),
        ) {
            let deadlines = Shutdown { ask_ms, button_ms, nmi_ms };
            let (mut ladder, first) = Ladder::begin(deadlines, immediate, may_deny, 0);
            let mut last = first;
            let mut now = 0;
            for (passed, what) in steps {
                now += passed;
                let decision = match what {
                    0 => ladder.answer(ChannelAnswer::Absent, now),
                    1 => ladder.answer(ChannelAnswer::Pending, now),
                    2 => ladder.answer(ChannelAnswer::Approved, now),
                    3 => ladder.answer(ChannelAnswer::Denied, now),
                    4 => ladder.hurry(now),
                    _ => ladder.time(now),
                };
                if let Decision::Take { rung, .. } = decision {
                    prop_assert!(rung > last);
                    last = rung;
                }
                prop_assert!(may_deny || decision != Decision::Refused);
            }
            while let Some(until) = ladder.deadline() {
                now = now.max(until);
                ladder.time(now);
            }
            prop_assert_eq!(ladder.rung(), Rung::Kill);
        }
    }
}
