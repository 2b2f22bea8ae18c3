//! The registers and the two-stage countdown of the watchdog (Intel 6300ESB I/O Controller Hub, datasheet 300641,
//! chapter 16). Pure: time comes in as nanoseconds of the guest's.

use serde::{Deserialize, Serialize};

/// Offset in configuration space of the configuration register, 16 bits (section 16.4.1).
pub const CONFIG: u16 = 0x60;
/// Offset in configuration space of the lock register, 8 bits (section 16.4.2).
pub const LOCK: u16 = 0x68;
/// Bits of the configuration register that can be written: interrupt type, prescaler, output disabled.
const CONFIG_BITS: u16 = FAST | NO_OUTPUT | 0b11;
const FAST: u16 = 1 << 2;
const NO_OUTPUT: u16 = 1 << 5;
/// Bits of the lock register: locked until the next reset, enabled, free-running.
const LOCKED: u8 = 1;
const ENABLED: u8 = 1 << 1;
const FREE_RUNNING: u8 = 1 << 2;

/// Offsets from the base address: preload values, interrupt status, reload.
const FIRST: u64 = 0;
const SECOND: u64 = 4;
const INTERRUPT: u64 = 8;
const RELOAD: u64 = 0xc;
/// What is written to the reload register, in this order, before each write that is to have an effect.
const UNLOCK: [u32; 2] = [0x80, 0x86];
/// Bits of the reload register: reload the countdown, the second stage has expired.
const DO_RELOAD: u32 = 1 << 8;
const TIMED_OUT: u32 = 1 << 9;
/// Preload values have 20 bits.
const PRELOAD: u32 = 0xf_ffff;
/// What is counted, nanoseconds: cycles of the 33 MHz bus, 2^15 or 2^5 of them to a unit.
const CYCLE: u64 = 30;

/// Where the countdown is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Stage {
    Stopped,
    First,
    Second,
    /// The output is asserted.
    Expired,
}

/// The watchdog's state: plain data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Countdown {
    preload: [u32; 2],
    config: u16,
    lock: u8,
    /// How much of [`UNLOCK`] was written.
    unlocked: usize,
    /// The first stage has expired.
    interrupt: bool,
    timed_out: bool,
    stage: Stage,
    /// Of the stage, nanoseconds.
    left: u64,
}

impl Default for Countdown {
    fn default() -> Self {
        Self {
            preload: [PRELOAD; 2],
            config: 0,
            lock: 0,
            unlocked: 0,
            interrupt: false,
            timed_out: false,
            stage: Stage::Stopped,
            left: 0,
        }
    }
}

impl Countdown {
    /// The configuration register.
    #[must_use]
    pub const fn config(&self) -> u16 {
        self.config
    }

    /// The lock register.
    #[must_use]
    pub const fn lock(&self) -> u8 {
        self.lock
    }

    /// Writes the configuration register.
    pub const fn write_config(&mut self, value: u16) {
        self.config = value & CONFIG_BITS;
    }

    /// Writes the lock register, unless it is locked: starts or stops the countdown.
    pub fn write_lock(&mut self, value: u8) {
        if self.lock & LOCKED != 0 {
            return;
        }
        let before = self.lock;
        self.lock = value & (LOCKED | ENABLED | FREE_RUNNING);
        if self.lock & ENABLED == 0 {
            self.stage = Stage::Stopped;
        } else if before & ENABLED == 0 {
            self.restart();
        }
    }

    /// Reads a register at an offset from the base address; what is none reads as zeros.
    #[must_use]
    pub const fn read(&self, offset: u64) -> u32 {
        let [first, second] = self.preload;
        match offset {
            FIRST => first,
            SECOND => second,
            INTERRUPT => self.interrupt as u32,
            RELOAD if self.timed_out => TIMED_OUT,
            _ => 0,
        }
    }

    /// Writes a register at an offset from the base address. A preload value counts from the next reload on.
    pub fn write(&mut self, offset: u64, value: u32) {
        let next = UNLOCK.get(self.unlocked).copied();
        if offset == INTERRUPT {
            self.interrupt &= value & 1 == 0;
            return;
        }
        if next.is_some() {
            // Whatever else is written locks it again, and has no effect.
            self.unlocked = if offset == RELOAD && next == Some(value) { self.unlocked + 1 } else { 0 };
            return;
        }
        self.unlocked = 0;
        let [first, second] = &mut self.preload;
        match offset {
            FIRST => *first = value & PRELOAD,
            SECOND => *second = value & PRELOAD,
            RELOAD => {
                self.timed_out &= value & TIMED_OUT == 0;
                if value & DO_RELOAD != 0 && matches!(self.stage, Stage::First | Stage::Second) {
                    self.restart();
                }
            }
            _ => {}
        }
    }

    const fn unit(&self) -> u64 {
        if self.config & FAST == 0 { CYCLE << 15 } else { CYCLE << 5 }
    }

    /// How long a stage takes, nanoseconds. A preload value of 0 is as 1: no stage takes no time.
    fn length(&self, preload: u32) -> u64 {
        u64::from(preload.max(1)) * self.unit()
    }

    /// How long both stages take, nanoseconds: at most 2^41.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.preload.iter().map(|preload| self.length(*preload)).sum()
    }

    fn restart(&mut self) {
        let [first, _] = self.preload;
        self.stage = Stage::First;
        self.left = self.length(first);
    }

    /// Whether it counts.
    #[must_use]
    pub const fn counts(&self) -> bool {
        matches!(self.stage, Stage::First | Stage::Second)
    }

    /// Whether its output is asserted: the machine is to be reset.
    #[must_use]
    pub const fn has_expired(&self) -> bool {
        matches!(self.stage, Stage::Expired)
    }

    /// Nanoseconds of the guest's time until the stage ends; none while it does not count.
    #[must_use]
    pub fn left(&self) -> Option<u64> {
        self.counts().then_some(self.left)
    }

    /// Lets time go by, nanoseconds.
    pub fn advance(&mut self, mut time: u64) {
        if self.stage == Stage::First {
            if time < self.left {
                self.left -= time;
                return;
            }
            time -= self.left;
            let [_, second] = self.preload;
            self.interrupt = true;
            self.stage = Stage::Second;
            self.left = self.length(second);
        }
        if self.stage == Stage::Second {
            if time < self.left {
                self.left -= time;
                return;
            }
            self.timed_out = true;
            if self.config & NO_OUTPUT == 0 {
                self.stage = Stage::Expired;
            } else if self.lock & FREE_RUNNING != 0 {
                self.restart();
            } else {
                self.stage = Stage::Stopped;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const UNIT: u64 = 30 << 15;

    fn unlocked(countdown: &mut Countdown, offset: u64, value: u32) {
        countdown.write(RELOAD, 0x80);
        countdown.write(RELOAD, 0x86);
        countdown.write(offset, value);
    }

    fn armed(first: u32, second: u32) -> Countdown {
        let mut countdown = Countdown::default();
        countdown.write_config(3);
        unlocked(&mut countdown, FIRST, first);
        unlocked(&mut countdown, SECOND, second);
        countdown.write_lock(ENABLED);
        countdown
    }

    #[test]
    fn it_expires_after_both_stages_and_not_before() {
        let mut countdown = armed(3, 5);
        countdown.advance(3 * UNIT - 1);
        assert_eq!((countdown.read(INTERRUPT), countdown.left()), (0, Some(1)));
        countdown.advance(1);
        assert_eq!((countdown.read(INTERRUPT), countdown.left()), (1, Some(5 * UNIT)));
        countdown.advance(5 * UNIT - 1);
        assert!(!countdown.has_expired());
        countdown.advance(1);
        assert!(countdown.has_expired() && countdown.read(RELOAD) == TIMED_OUT);
        // Nothing that the guest still writes takes it back.
        unlocked(&mut countdown, RELOAD, DO_RELOAD);
        assert!(countdown.has_expired());
    }

    #[test]
    fn only_an_unlocked_write_has_an_effect() {
        let mut countdown = armed(2, 2);
        countdown.advance(2 * UNIT);
        for writes in [&[][..], &[0x80], &[0x86], &[0x86, 0x80], &[0x80, 0x80]] {
            writes.iter().for_each(|value| countdown.write(RELOAD, *value));
            countdown.write(RELOAD, DO_RELOAD);
            countdown.write(FIRST, 9);
            assert_eq!((countdown.left(), countdown.read(FIRST)), (Some(2 * UNIT), 2), "{writes:x?}");
        }
        unlocked(&mut countdown, RELOAD, DO_RELOAD);
        assert_eq!(countdown.stage, Stage::First);
        // It is locked again behind each.
        countdown.write(RELOAD, DO_RELOAD);
        countdown.advance(UNIT);
        countdown.write(RELOAD, DO_RELOAD);
        assert_eq!(countdown.left(), Some(UNIT));
    }

    #[test]
    fn what_is_locked_stays_as_it_is() {
        let mut countdown = armed(1, 1);
        countdown.write_lock(ENABLED | LOCKED);
        countdown.write_lock(0);
        assert_eq!((countdown.lock(), countdown.counts()), (ENABLED | LOCKED, true));
        let mut countdown = armed(1, 1);
        countdown.write_lock(0);
        countdown.advance(u64::MAX);
        assert!(!countdown.has_expired() && !countdown.counts());
    }

    #[test]
    fn without_output_it_stops_or_begins_again() {
        for (free, counts) in [(0, false), (FREE_RUNNING, true)] {
            let mut countdown = armed(1, 1);
            countdown.write_config(NO_OUTPUT);
            countdown.write_lock(ENABLED | free);
            countdown.advance(u64::MAX);
            assert_eq!((countdown.has_expired(), countdown.counts()), (false, counts));
            assert_eq!(countdown.read(RELOAD), TIMED_OUT);
            unlocked(&mut countdown, RELOAD, TIMED_OUT);
            assert_eq!(countdown.read(RELOAD), 0);
        }
    }

    proptest! {
        #[test]
        fn however_time_is_cut_it_expires_at_the_same_moment(
            first in 0u32..1000, second in 0u32..1000, fast: bool, cuts in proptest::collection::vec(1u64..UNIT * 100, 1..64),
        ) {
            let mut countdown = armed(first, second);
            countdown.write_config(if fast { FAST } else { 0 });
            unlocked(&mut countdown, RELOAD, DO_RELOAD);
            let mut left = countdown.total();
            for cut in cuts {
                countdown.advance(cut);
                left = left.saturating_sub(cut);
                prop_assert_eq!(countdown.has_expired(), left == 0);
            }
        }

        #[test]
        fn whoever_reloads_in_time_lives(first in 1u32..1000, second in 1u32..1000, gaps in proptest::collection::vec(0.0f64..1.0, 1..64)) {
            let mut countdown = armed(first, second);
            for gap in gaps {
                countdown.advance((gap * countdown.total() as f64) as u64);
                prop_assert!(!countdown.has_expired());
                unlocked(&mut countdown, RELOAD, DO_RELOAD);
            }
        }

        #[test]
        fn no_access_is_too_odd(steps in proptest::collection::vec((0u8..5, any::<u64>(), any::<u32>()), 0..64)) {
            let mut countdown = Countdown::default();
            for (kind, wide, value) in steps {
                match kind {
                    0 => countdown.write(wide % 20, value),
                    1 => countdown.write_lock(value as u8 & !LOCKED),
                    2 => countdown.write_config(value as u16),
                    3 => countdown.advance(wide),
                    _ => unlocked(&mut countdown, wide % 20, value),
                }
                let _ = (countdown.read(wide), countdown.total());
                prop_assert!(countdown.left().is_none_or(|left| 0 < left && left <= UNIT << 20));
            }
        }
    }
}
