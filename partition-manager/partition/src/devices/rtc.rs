//! The real-time clock with its battery-backed memory, as much as a guest reads at boot (Motorola MC146818).
//!
//! The time is the host's and cannot be set. There are no alarms and no interrupts: register C is always
//! zero, and the enable bits of register B cannot be set.

use super::bus::Device;
use super::lock;
use frame::record::Cause;
use std::sync::Mutex;

/// The index port; data is at the next.
pub const INDEX_PORT: u16 = 0x70;
/// Index of the century, which ACPI's FADT names too.
pub const CENTURY: u8 = 0x32;

/// 32.768 kHz time base, the usual periodic rate, no update in progress.
const REGISTER_A: u8 = 0x26;
/// 24 hours, binary-coded decimal, no interrupts.
const REGISTER_B: u8 = 0x02;
/// Time and memory are valid.
const REGISTER_D: u8 = 0x80;

#[derive(Debug)]
struct State {
    index: u8,
    memory: [u8; 128],
}

/// The clock.
#[derive(Debug)]
pub struct Rtc {
    state: Mutex<State>,
}

impl Default for Rtc {
    fn default() -> Self {
        Self { state: Mutex::new(State { index: 0, memory: [0; 128] }) }
    }
}

/// A moment in Universal Time, in the proleptic Gregorian calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Moment {
    second: u8,
    minute: u8,
    hour: u8,
    /// 1 is Sunday.
    weekday: u8,
    day: u8,
    month: u8,
    year: u8,
    century: u8,
}

impl Moment {
    /// From seconds since 1970; years 0 to 9999.
    fn from_unix(seconds: i64) -> Self {
        let (days, of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        // Days are counted from 1 March of year 0, so that the leap day is a year's last.
        let shifted = days + 719_468;
        let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
        let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * of_year + 2) / 153;
        let day = of_year - (153 * shifted_month + 2) / 5 + 1;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
        let year = (era * 400 + year_of_era + i64::from(month <= 2)).rem_euclid(10_000);
        let small = |value: i64| u8::try_from(value).unwrap_or_default();
        Self {
            second: small(of_day % 60),
            minute: small(of_day / 60 % 60),
            hour: small(of_day / 3600),
            weekday: small((days + 4).rem_euclid(7) + 1),
            day: small(day),
            month: small(month),
            year: small(year % 100),
            century: small(year / 100),
        }
    }
}

const fn decimal(value: u8) -> u8 {
    ((value / 10) << 4) | (value % 10)
}

fn read(state: &State, now: impl FnOnce() -> i64) -> u8 {
    let time = |field: fn(Moment) -> u8, now: i64| decimal(field(Moment::from_unix(now)));
    match state.index {
        0 => time(|moment| moment.second, now()),
        2 => time(|moment| moment.minute, now()),
        4 => time(|moment| moment.hour, now()),
        6 => time(|moment| moment.weekday, now()),
        7 => time(|moment| moment.day, now()),
        8 => time(|moment| moment.month, now()),
        9 => time(|moment| moment.year, now()),
        CENTURY => time(|moment| moment.century, now()),
        0xa => REGISTER_A,
        0xb => REGISTER_B,
        0xc => 0,
        0xd => REGISTER_D,
        index => state.memory.get(usize::from(index)).copied().unwrap_or(0xff),
    }
}

impl Device for Rtc {
    fn read(&self, offset: u64) -> u8 {
        let state = lock(&self.state);
        // The index cannot be read back, as on the real one.
        if offset == 0 {
            0xff
        } else {
            read(&state, || rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec)
        }
    }

    fn write(&self, offset: u64, value: u8) -> Option<Cause> {
        let mut state = lock(&self.state);
        if offset == 0 {
            // The top bit masks NMIs on a PC; here it does nothing.
            state.index = value & 0x7f;
        } else {
            let index = usize::from(state.index);
            if let Some(byte) = state.memory.get_mut(index) {
                *byte = value;
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_moments() {
        let moment = Moment::from_unix(951_868_799);
        // 29 February 2000, 23:59:59, a Tuesday.
        assert_eq!((moment.century, moment.year, moment.month, moment.day, moment.weekday), (20, 0, 2, 29, 3));
        assert_eq!((moment.hour, moment.minute, moment.second), (23, 59, 59));
        let moment = Moment::from_unix(0);
        assert_eq!((moment.century, moment.year, moment.month, moment.day, moment.weekday), (19, 70, 1, 1, 5));
        assert_eq!(Moment::from_unix(4_107_542_400).month, 3, "2100 is no leap year: 1 March follows 28 February");
        assert_eq!(Moment::from_unix(4_107_542_400).day, 1);
    }

    #[test]
    fn registers_read_as_a_driver_reads_them() {
        let read_at = |index| read(&State { index, memory: [7; 128] }, || 951_868_799);
        assert_eq!((read_at(0), read_at(2), read_at(4)), (0x59, 0x59, 0x23));
        assert_eq!((read_at(7), read_at(8), read_at(9), read_at(CENTURY)), (0x29, 0x02, 0x00, 0x20));
        assert_eq!((read_at(0xa) & 0x80, read_at(0xb) & 0x76, read_at(0xc), read_at(0xd)), (0, 2, 0, 0x80));
        assert_eq!(read_at(0xf), 7);
    }

    #[test]
    fn memory_keeps_what_is_written() {
        let rtc = Rtc::default();
        assert_eq!(rtc.write(0, 0x8f), None);
        assert_eq!(rtc.write(1, 0xa), None);
        assert_eq!(rtc.read(1), 0xa);
    }

    proptest! {
        #[test]
        fn every_second_has_its_own_moment(seconds in -62_135_596_800i64..253_402_300_799) {
            let moment = Moment::from_unix(seconds);
            prop_assert!((1..=12).contains(&moment.month) && (1..=31).contains(&moment.day));
            prop_assert!(moment.hour < 24 && moment.minute < 60 && moment.second < 60);
            let next = Moment::from_unix(seconds + 86_400);
            prop_assert_eq!(next.weekday % 7, (moment.weekday + 1) % 7);
            prop_assert!(next.day == moment.day + 1 || next.day == 1);
        }

        #[test]
        fn no_time_is_too_far(seconds: i64) {
            let _ = Moment::from_unix(seconds.clamp(i64::MIN + 1_000_000_000_000, i64::MAX - 1_000_000_000_000));
        }
    }
}
