//! The 8254 interval timer of a PC, and the system control port B that goes with its third counter
//! (Intel 82C54 data sheet; Intel I/O controller hub, port 0x61).
//!
//! Counter 0 raises its interrupt where its output rises. A timer of the event thread does that, at most every
//! [`super::alarm::SHORTEST`]: a guest that asks for more gets the interrupts that it would get from a real one if it
//! kept them masked for that long. Nothing is made up for, as on the real one.

mod counter;

use super::alarm::{Alarm, Timed};
use super::bus::Device;
use super::lock;
use counter::Counter;
use frame::record::Cause;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The first port; counters 0 to 2, then the control port.
pub const PORT: u16 = 0x40;
/// Ports that the timer takes.
pub const PORTS: u64 = 4;
/// System control port B: gate and output of counter 2.
pub const CONTROL_B_PORT: u16 = 0x61;

/// Frequency of the counters' clock, Hz.
const FREQUENCY: u128 = 1_193_182;
const SECOND: u128 = 1_000_000_000;
/// Ticks between two changes of the refresh bit in port 0x61: 15 microseconds.
const REFRESH: u64 = 18;

fn ticks(time: Duration) -> u64 {
    u64::try_from(time.as_nanos() * FREQUENCY / SECOND).unwrap_or(u64::MAX)
}

/// When a tick has come.
fn time(tick: u64) -> Duration {
    Duration::from_nanos(u64::try_from((u128::from(tick) * SECOND).div_ceil(FREQUENCY)).unwrap_or(u64::MAX))
}

/// The chip and port 0x61. Pure: time is given in ticks.
#[derive(Clone, Debug, Default)]
struct Chip {
    counters: [Counter; 3],
    /// Bits of port 0x61 that can be written: gate of counter 2, speaker, two enables of what is not there.
    control_b: u8,
}

impl Chip {
    fn new() -> Self {
        let mut chip = Self::default();
        chip.write_b(0, 0);
        // As it is only now, before anything was set.
        if let Some(counter) = chip.counters.get_mut(2) {
            counter.set_gate(false, 0);
        }
        chip
    }

    fn write(&mut self, offset: u64, value: u8, now: u64) {
        if let Some(counter) = self.counters.get_mut(offset as usize) {
            counter.write(value, now);
        } else if offset == 3 {
            self.control(value, now);
        }
    }

    fn control(&mut self, word: u8, now: u64) {
        let which = usize::from(word >> 6);
        if let Some(counter) = self.counters.get_mut(which) {
            if word & 0x30 == 0 {
                counter.latch(now);
            } else {
                counter.control(word);
            }
            return;
        }
        // Read back: bits 5 and 4 are low for what is to be latched.
        for (index, counter) in self.counters.iter_mut().enumerate() {
            if word >> (index + 1) & 1 == 0 {
                continue;
            }
            if word & 0x20 == 0 {
                counter.latch(now);
            }
            if word & 0x10 == 0 {
                counter.latch_status(now);
            }
        }
    }

    fn read(&mut self, offset: u64, now: u64) -> u8 {
        self.counters.get_mut(offset as usize).map_or(0xff, |counter| counter.read(now))
    }

    fn write_b(&mut self, value: u8, now: u64) {
        self.control_b = value & 0x0f;
        if let Some(counter) = self.counters.get_mut(2) {
            counter.set_gate(value & 1 != 0, now);
        }
    }

    fn read_b(&mut self, now: u64) -> u8 {
        let out = self.counters.get_mut(2).is_some_and(|counter| counter.out(now));
        self.control_b | refresh(now) | if out { OUTPUT } else { 0 }
    }

    fn next_rise(&self, after: u64) -> Option<u64> {
        self.counters.first().and_then(|counter| counter.next_rise(after))
    }
}

/// The output of counter 2 in system control port B.
const OUTPUT: u8 = 1 << 5;

/// The bit that changes with every refresh of a PC's memory, by which old programs measure time.
const fn refresh(now: u64) -> u8 {
    ((now / REFRESH % 2) as u8) << 4
}

#[derive(Debug)]
struct State {
    chip: Chip,
    /// Up to here, what rose was raised.
    seen: u64,
}

/// The timer.
#[derive(Debug)]
pub struct Pit {
    state: Mutex<State>,
    origin: Instant,
    alarm: Alarm,
}

impl Pit {
    /// A timer whose interrupt is `alarm`'s.
    #[must_use]
    pub fn new(alarm: Alarm) -> Self {
        Self { state: Mutex::new(State { chip: Chip::new(), seen: 0 }), origin: Instant::now(), alarm }
    }

    fn now(&self) -> u64 {
        ticks(self.origin.elapsed())
    }

    /// Raises what is due, before the chip is changed or because the alarm went off.
    fn catch_up(&self, state: &mut State, now: u64) {
        if state.chip.next_rise(state.seen).is_some_and(|rise| rise <= now) {
            self.alarm.raise();
        }
        state.seen = now;
    }

    fn arm(&self, state: &State) {
        let rise = state.chip.next_rise(state.seen);
        self.alarm.set(rise.map(|rise| time(rise).saturating_sub(self.origin.elapsed())));
    }
}

impl Timed for Pit {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.alarm.descriptor()
    }

    fn expire(&self) {
        let mut state = lock(&self.state);
        self.alarm.clear();
        let now = self.now();
        self.catch_up(&mut state, now);
        self.arm(&state);
    }
}

impl Device for Pit {
    fn read(&self, offset: u64) -> u8 {
        let mut state = lock(&self.state);
        let now = self.now();
        // Reading moves a counter on to its next period; what rose before that must not be passed over.
        self.catch_up(&mut state, now);
        state.chip.read(offset, now)
    }

    fn write(&self, offset: u64, value: u8) -> Option<Cause> {
        let mut state = lock(&self.state);
        let now = self.now();
        self.catch_up(&mut state, now);
        state.chip.write(offset, value, now);
        // The other counters raise nothing.
        if offset == 0 || offset == 3 {
            self.arm(&state);
        }
        None
    }
}

/// System control port B. Without a timer there is the refresh bit, and the output of counter 2 is high for good: a
/// guest that measures time by it waits for that. No word of errors in bits 6 and 7: a guest that takes an NMI asks
/// here whether the memory failed.
#[derive(Debug)]
pub struct ControlB {
    pit: Option<Arc<Pit>>,
    origin: Instant,
}

impl ControlB {
    /// The port, with the timer if there is one.
    #[must_use]
    pub fn new(pit: Option<Arc<Pit>>) -> Self {
        Self { pit, origin: Instant::now() }
    }
}

impl Device for ControlB {
    fn read(&self, _offset: u64) -> u8 {
        match &self.pit {
            Some(pit) => lock(&pit.state).chip.read_b(pit.now()),
            None => refresh(ticks(self.origin.elapsed())) | OUTPUT,
        }
    }

    fn write(&self, _offset: u64, value: u8) -> Option<Cause> {
        if let Some(pit) = &self.pit {
            let mut state = lock(&pit.state);
            let now = pit.now();
            state.chip.write_b(value, now);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn without_a_timer_nobody_waits_for_its_output() {
        let port = ControlB::new(None);
        assert_eq!(port.read(0) & 0xe0, OUTPUT);
        assert_eq!(port.write(0, 0xff), None);
        assert_eq!(port.read(0) & 0xe0, OUTPUT);
    }

    #[test]
    fn counter_2_runs_by_its_gate_and_shows_its_output() {
        let mut chip = Chip::new();
        chip.write(3, 0xb0, 0);
        chip.write(2, 100, 0);
        chip.write(2, 0, 0);
        assert_eq!(chip.read_b(1000) & 0x23, 0, "the gate is low");
        chip.write_b(0xfd, 1000);
        assert_eq!(chip.read_b(1099) & 0x2f, 0x0d);
        assert_eq!(chip.read_b(1100) & 0x2f, 0x2d, "100 ticks with the gate high");
        assert_eq!(chip.read_b(1100) & 0xc0, 0, "no errors");
    }

    #[test]
    fn read_back_latches_what_it_names() {
        let mut chip = Chip::new();
        for (counter, control) in [(0, 0x34), (1, 0x74)] {
            chip.write(3, control, 0);
            chip.write(counter, 0, 0);
            chip.write(counter, 0x10, 0);
        }
        // Count and status of counters 0 and 1.
        chip.write(3, 0xc6, 16);
        for counter in [0, 1] {
            assert_eq!(chip.read(counter, 50), 0xb4);
            assert_eq!([chip.read(counter, 50), chip.read(counter, 60)], [0xf0, 0x0f]);
        }
        assert_eq!(chip.read(3, 0), 0xff);
    }

    proptest! {
        #[test]
        fn a_tick_is_over_when_its_time_has_come(tick in 0u64..1 << 50) {
            prop_assert_eq!(ticks(time(tick)), tick);
            prop_assert!(tick == 0 || ticks(time(tick).saturating_sub(Duration::from_nanos(1))) < tick);
        }

        #[test]
        fn no_order_of_accesses_hurts(
            steps in proptest::collection::vec((0u64..6, any::<u8>(), any::<u16>(), any::<bool>()), 0..200),
        ) {
            let mut chip = Chip::new();
            let mut now = 0;
            for (offset, value, wait, write) in steps {
                now += u64::from(wait);
                match (offset, write) {
                    (5, true) => chip.write_b(value, now),
                    (5, false) => prop_assert_eq!(chip.read_b(now) & 0xc0, 0),
                    (_, true) => chip.write(offset, value, now),
                    (_, false) => drop(chip.read(offset, now)),
                }
                prop_assert!(chip.next_rise(now).is_none_or(|rise| rise > now));
            }
        }
    }
}
