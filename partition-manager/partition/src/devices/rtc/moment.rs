//! The calendar of the real-time clock. Pure.

/// A moment in Universal Time, in the proleptic Gregorian calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are their names")]
pub struct Moment {
    pub second: u8,
    pub minute: u8,
    pub hour: u8,
    /// 1 is Sunday.
    pub weekday: u8,
    pub day: u8,
    pub month: u8,
    pub year: u8,
    pub century: u8,
}

impl Moment {
    /// From seconds since 1970; years 0 to 9999.
    pub fn from_unix(seconds: i64) -> Self {
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
