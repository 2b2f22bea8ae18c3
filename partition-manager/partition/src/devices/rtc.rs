//! The real-time clock with its battery-backed memory (Motorola MC146818), and its interrupt.
//!
//! The time is the host's and cannot be set. The periodic, the alarm and the update-ended interrupt are there; each
//! is raised at most every [`super::alarm::SHORTEST`], and none again before register C was read.

mod moment;

use super::alarm::{Alarm, Timed};
use super::bus::Device;
use super::lock;
use frame::record::Cause;
use moment::Moment;
use std::os::fd::BorrowedFd;
use std::sync::Mutex;
use std::time::Duration;

/// The index port; data is at the next.
pub const INDEX_PORT: u16 = 0x70;
/// Index of the century, which ACPI's FADT names too.
pub const CENTURY: u8 = 0x32;

const SECOND: i64 = 1_000_000_000;
/// 32.768 kHz time base, the usual periodic rate.
const REGISTER_A: u8 = 0x26;
/// The divider of register A that lets the clock run with that time base.
const RUNS: u8 = 0x20;
/// Register A: an update is near or in progress.
const UPDATING: u8 = 1 << 7;
/// How long before a second's end that is said, nanoseconds: 244 microseconds and the length of an update.
const UPDATE: i64 = 2_228_000;
/// Register B: 24 hours.
const HOURS_24: u8 = 1 << 1;
/// Register B: numbers are binary, not decimal.
const BINARY: u8 = 1 << 2;
/// Registers B and C: the update-ended, the alarm and the periodic interrupt.
const UPDATED: u8 = 1 << 4;
const ALARM: u8 = 1 << 5;
const PERIODIC: u8 = 1 << 6;
/// Register B: no updates.
const SET: u8 = 1 << 7;
/// Register C: an interrupt is requested.
const REQUESTED: u8 = 1 << 7;
/// Register D: time and memory are valid.
const REGISTER_D: u8 = 0x80;
/// An alarm field with these bits holds for every value.
const ANY: u8 = 0xc0;
/// The host's clock may be set, so no wait is longer.
const LONGEST_WAIT: i64 = 60 * SECOND;

/// The clock's registers. Pure: time is nanoseconds since 1970.
#[derive(Clone, Debug)]
struct Chip {
    index: u8,
    memory: [u8; 128],
    a: u8,
    b: u8,
    /// Events since register C was read.
    flags: u8,
    /// Up to here, events were looked for.
    seen: i64,
    /// Whether the interrupt was raised and register C was not read since.
    raised: bool,
}

impl Chip {
    const fn new(now: i64) -> Self {
        Self { index: 0, memory: [0; 128], a: REGISTER_A, b: HOURS_24, flags: 0, seen: now, raised: false }
    }

    /// Periodic events each second; none when zero.
    const fn rate(&self) -> i64 {
        match (self.a & 0x70, self.a & 0x0f) {
            (RUNS, 0) => 0,
            // Too fast for the counter chain: as the data sheet's table says.
            (RUNS, rate @ (1 | 2)) => 512 >> rate,
            (RUNS, rate) => 32_768 >> (rate - 1),
            _ => 0,
        }
    }

    /// How many periods are over.
    fn periods(&self, now: i64) -> i64 {
        let periods = (i128::from(now) * i128::from(self.rate())).div_euclid(SECOND.into());
        i64::try_from(periods).unwrap_or(i64::MAX)
    }

    /// Looks for events up to now; whether the interrupt is to be raised.
    fn advance(&mut self, now: i64) -> bool {
        // A clock that was set back has no events.
        if now > self.seen {
            if self.periods(now) > self.periods(self.seen) {
                self.flags |= PERIODIC;
            }
            if self.b & SET == 0 && now.div_euclid(SECOND) > self.seen.div_euclid(SECOND) {
                self.flags |= UPDATED;
                if self.next_alarm(self.seen).is_some_and(|alarm| alarm <= now) {
                    self.flags |= ALARM;
                }
            }
        }
        self.seen = now;
        self.request()
    }

    const fn request(&mut self) -> bool {
        let raise = self.flags & self.b & (PERIODIC | ALARM | UPDATED) != 0 && !self.raised;
        self.raised |= raise;
        raise
    }

    /// When there is something to look for; never while an interrupt waits for its handler.
    fn next(&self) -> Option<i64> {
        if self.raised {
            return None;
        }
        let rate = self.rate();
        let periodic = (self.b & PERIODIC != 0 && rate > 0).then(|| {
            let next = (i128::from(self.periods(self.seen)) + 1) * i128::from(SECOND);
            i64::try_from((next + i128::from(rate) - 1).div_euclid(rate.into())).unwrap_or(i64::MAX)
        });
        let runs = self.b & SET == 0;
        let updated = (self.b & UPDATED != 0 && runs).then(|| (self.seen.div_euclid(SECOND) + 1) * SECOND);
        let alarm = if self.b & ALARM != 0 && runs { self.next_alarm(self.seen) } else { None };
        [periodic, updated, alarm].into_iter().flatten().min()
    }

    /// The value of an alarm field below `limit`: any when the outer is there and the inner is not; never when
    /// there is no outer.
    fn alarm_field(&self, index: usize, limit: u8) -> Option<Option<u32>> {
        let raw = self.memory.get(index).copied().unwrap_or_default();
        if raw & ANY == ANY {
            return Some(None);
        }
        let is_hour_12 = limit == 24 && self.b & HOURS_24 == 0;
        let digits = if is_hour_12 { raw & 0x7f } else { raw };
        let value = match self.b & BINARY != 0 {
            true => digits,
            false if digits & 0x0f < 10 && digits < 0xa0 => (digits >> 4) * 10 + (digits & 0x0f),
            false => return None,
        };
        let value = match is_hour_12 {
            true if (1..=12).contains(&value) => value % 12 + if raw & 0x80 == 0 { 0 } else { 12 },
            true => return None,
            false => value,
        };
        (value < limit).then_some(Some(value.into()))
    }

    /// The first alarm after `after`.
    fn next_alarm(&self, after: i64) -> Option<i64> {
        const DAY: i64 = 86_400;
        let (hour, minute, second) = (self.alarm_field(5, 24)?, self.alarm_field(3, 60)?, self.alarm_field(1, 60)?);
        let matches = |field: Option<u32>, value: u32| field.is_none_or(|field| field == value);
        // Whole hours and minutes that do not match are passed over, so it takes few steps.
        let first = |from: i64| {
            let mut at = u32::try_from(from).unwrap_or_default();
            while at < DAY as u32 {
                if !matches(hour, at / 3600) {
                    at = (at / 3600 + 1) * 3600;
                } else if !matches(minute, at / 60 % 60) {
                    at = (at / 60 + 1) * 60;
                } else if !matches(second, at % 60) {
                    at += 1;
                } else {
                    return Some(i64::from(at));
                }
            }
            None
        };
        let from = after.div_euclid(SECOND) + 1;
        let midnight = from.div_euclid(DAY) * DAY;
        let alarm = first(from - midnight).or_else(|| first(0).map(|at| at + DAY))?;
        midnight.checked_add(alarm)?.checked_mul(SECOND)
    }

    fn number(&self, value: u8) -> u8 {
        if self.b & BINARY != 0 { value } else { ((value / 10) << 4) | (value % 10) }
    }

    fn hour(&self, hour: u8) -> u8 {
        if self.b & HOURS_24 != 0 {
            return self.number(hour);
        }
        self.number((hour + 11) % 12 + 1) | if hour < 12 { 0 } else { 0x80 }
    }

    /// Reads the register that the index names. Register C forgets when it is read.
    fn read(&mut self, now: i64) -> u8 {
        let moment = || Moment::from_unix(now.div_euclid(SECOND));
        match self.index {
            0 => self.number(moment().second),
            2 => self.number(moment().minute),
            4 => self.hour(moment().hour),
            6 => self.number(moment().weekday),
            7 => self.number(moment().day),
            8 => self.number(moment().month),
            9 => self.number(moment().year),
            CENTURY => self.number(moment().century),
            0xa => {
                let near = self.b & SET == 0 && now.rem_euclid(SECOND) >= SECOND - UPDATE;
                self.a | if near { UPDATING } else { 0 }
            }
            0xb => self.b,
            0xc => {
                let flags = std::mem::take(&mut self.flags);
                self.raised = false;
                flags | if flags & self.b == 0 { 0 } else { REQUESTED }
            }
            0xd => REGISTER_D,
            index => self.memory.get(usize::from(index)).copied().unwrap_or(0xff),
        }
    }

    fn write(&mut self, value: u8) {
        match self.index {
            0xa => self.a = value & !UPDATING,
            // Who stops the updates has no interrupt at their end.
            0xb => self.b = if value & SET == 0 { value } else { value & !UPDATED },
            0xc | 0xd => {}
            index => {
                if let Some(byte) = self.memory.get_mut(usize::from(index)) {
                    *byte = value;
                }
            }
        }
    }
}

/// The clock.
#[derive(Debug)]
pub struct Rtc {
    chip: Mutex<Chip>,
    alarm: Alarm,
}

/// Nanoseconds since 1970 by the host's clock.
fn now() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    now.tv_sec.saturating_mul(SECOND).saturating_add(now.tv_nsec)
}

impl Rtc {
    /// A clock whose interrupt is `alarm`'s.
    #[must_use]
    pub fn new(alarm: Alarm) -> Self {
        Self { chip: Mutex::new(Chip::new(now())), alarm }
    }

    fn arm(&self, chip: &Chip) {
        let wait = chip.next().map(|next| next.saturating_sub(chip.seen).clamp(0, LONGEST_WAIT));
        self.alarm.set(wait.and_then(|wait| u64::try_from(wait).ok()).map(Duration::from_nanos));
    }
}

impl Timed for Rtc {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.alarm.descriptor()
    }

    fn expire(&self) {
        let mut chip = lock(&self.chip);
        self.alarm.clear();
        if chip.advance(now()) {
            self.alarm.raise();
        }
        self.arm(&chip);
    }
}

impl Device for Rtc {
    fn read(&self, offset: u64) -> u8 {
        // The index cannot be read back, as on the real one.
        if offset == 0 {
            return 0xff;
        }
        let mut chip = lock(&self.chip);
        let now = now();
        if chip.index == 0xc {
            // Whoever reads it takes the interrupt's place.
            let _ = chip.advance(now);
            let flags = chip.read(now);
            self.arm(&chip);
            return flags;
        }
        chip.read(now)
    }

    fn write(&self, offset: u64, value: u8) -> Option<Cause> {
        let mut chip = lock(&self.chip);
        if offset == 0 {
            // The top bit masks NMIs on a PC; here it does nothing.
            chip.index = value & 0x7f;
            return None;
        }
        let due = chip.advance(now());
        chip.write(value);
        if due || chip.request() {
            self.alarm.raise();
        }
        // What the others hold changes no interrupt.
        if matches!(chip.index, 1 | 3 | 5 | 0xa | 0xb) {
            self.arm(&chip);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// 29 February 2000, 23:59:59.
    const START: i64 = 951_868_799 * SECOND;

    fn chip() -> Chip {
        Chip::new(START)
    }

    fn set(chip: &mut Chip, index: u8, value: u8) {
        chip.index = index;
        chip.write(value);
    }

    fn get(chip: &mut Chip, index: u8, now: i64) -> u8 {
        chip.index = index;
        chip.read(now)
    }

    #[test]
    fn registers_read_as_a_driver_reads_them() {
        let mut chip = chip();
        let mut read = |index| get(&mut chip, index, START);
        assert_eq!((read(0), read(2), read(4)), (0x59, 0x59, 0x23));
        assert_eq!((read(7), read(8), read(9), read(CENTURY)), (0x29, 0x02, 0x00, 0x20));
        assert_eq!((read(0xa) & 0x80, read(0xb) & 0x76, read(0xc), read(0xd)), (0, 2, 0, 0x80));
        set(&mut chip, 0xb, BINARY);
        assert_eq!((get(&mut chip, 0, START), get(&mut chip, 4, START)), (59, 0x80 | 11), "11 in the evening");
        assert_eq!(get(&mut chip, 4, START + SECOND), 12, "midnight");
        assert_eq!(get(&mut chip, 0xa, START + SECOND - 1) & UPDATING, UPDATING);
        set(&mut chip, 0x0f, 0x5a);
        set(&mut chip, 0, 7);
        assert_eq!((get(&mut chip, 0x0f, START), get(&mut chip, 0, START)), (0x5a, 59), "the time cannot be set");
    }

    #[test]
    fn an_interrupt_comes_once_until_its_cause_is_read() {
        let mut chip = chip();
        set(&mut chip, 0xb, HOURS_24 | UPDATED);
        assert_eq!(chip.next(), Some(START + SECOND));
        assert!(!chip.advance(START + SECOND - 1));
        assert!(chip.advance(START + SECOND));
        assert!(!chip.advance(START + 2 * SECOND));
        assert_eq!(chip.next(), None);
        assert_eq!(get(&mut chip, 0xc, START + 2 * SECOND) & 0x90, REQUESTED | UPDATED);
        assert_eq!(get(&mut chip, 0xc, START + 2 * SECOND), 0);
        assert_eq!(chip.next(), Some(START + 3 * SECOND));
    }

    #[test]
    fn alarms_and_periods_come_when_they_are_due() {
        let mut chip = chip();
        for (index, value) in [(1, 0x30), (3, 0x02), (5, 0xff), (0xb, HOURS_24 | ALARM)] {
            set(&mut chip, index, value);
        }
        let due = START + (1 + 2 * 60 + 30) * SECOND;
        assert_eq!(chip.next(), Some(due), "2 minutes and 30 seconds past any hour");
        assert!(!chip.advance(due - 1));
        assert!(chip.advance(due));
        assert_eq!(get(&mut chip, 0xc, due) & 0xa0, REQUESTED | ALARM);
        assert_eq!(chip.next(), Some(due + 3600 * SECOND));
        set(&mut chip, 3, 0x7f);
        assert_eq!(chip.next(), None, "no such minute");
        set(&mut chip, 0xb, HOURS_24 | PERIODIC);
        assert_eq!(chip.rate(), 1024);
        assert_eq!(chip.next(), Some(due + (SECOND + 1023) / 1024));
    }

    proptest! {
        #[test]
        fn no_order_of_accesses_hurts(
            start: i64, steps in proptest::collection::vec((any::<u8>(), any::<u8>(), 0i64..1 << 40, 0u8..3), 0..60),
        ) {
            let mut now = start / 4;
            let mut chip = Chip::new(now);
            for (index, value, wait, kind) in steps {
                match kind {
                    0 => {
                        set(&mut chip, index & 0x7f, value);
                        let _ = chip.request();
                    }
                    1 => drop(get(&mut chip, index & 0x7f, now)),
                    _ => {
                        now += wait;
                        let due = chip.next().is_some_and(|next| next <= now);
                        prop_assert_eq!(chip.advance(now), due);
                    }
                }
                prop_assert!(chip.next().is_none_or(|next| next > chip.seen));
            }
        }

        #[test]
        fn an_alarm_is_the_first_moment_that_matches(
            hour in proptest::option::of(0u8..24), minute in proptest::option::of(0u8..60), second in 0u8..60,
            after in 0i64..4_000_000_000,
        ) {
            let mut chip = chip();
            set(&mut chip, 0xb, HOURS_24 | BINARY);
            set(&mut chip, 5, hour.unwrap_or(0xff));
            set(&mut chip, 3, minute.unwrap_or(0xc0));
            set(&mut chip, 1, second);
            let alarm = chip.next_alarm(after * SECOND).unwrap() / SECOND;
            let matches = |at: i64| {
                let moment = Moment::from_unix(at);
                hour.is_none_or(|hour| hour == moment.hour)
                    && minute.is_none_or(|minute| minute == moment.minute)
                    && second == moment.second
            };
            prop_assert!(alarm > after && matches(alarm));
            prop_assert!((after + 1..alarm).all(|at| !matches(at)));
        }
    }
}
