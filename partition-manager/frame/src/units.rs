//! Processing units and sizes: the two quantities of a frame.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Processing units in thousandths; 1.000 is one logical CPU of the host for all of the time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "f64", into = "f64")]
pub struct Units(u32);

impl Units {
    /// No processing units.
    pub const ZERO: Self = Self(0);
    /// One whole processor.
    pub const ONE: Self = Self(1000);

    /// From thousandths of a processor.
    #[must_use]
    pub const fn from_thousandths(thousandths: u32) -> Self {
        Self(thousandths)
    }

    /// From whole processors; saturates.
    #[must_use]
    pub const fn whole(processors: u32) -> Self {
        Self(processors.saturating_mul(1000))
    }

    /// In thousandths of a processor.
    #[must_use]
    pub const fn thousandths(self) -> u32 {
        self.0
    }

    /// As a number of processors.
    #[must_use]
    pub fn as_f64(self) -> f64 {
        f64::from(self.0) / 1000.0
    }

    /// The sum; saturates.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The difference; stops at zero.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// The dispatch window: the period in which the entitlement is delivered, in microseconds.
    ///
    /// 10 ms as on Power, longer for less than 0.1 units, since the kernel takes no quota under 1 ms
    /// (Linux, Documentation/scheduler/sched-bwc.rst); at most the kernel's longest period, 1 s.
    #[must_use]
    pub fn dispatch_window_us(self) -> u64 {
        let window = 1_000_000 / u64::from(self.0.max(1));
        window.clamp(10_000, 1_000_000)
    }

    /// Processor time per dispatch window, in microseconds.
    #[must_use]
    pub fn quota_us(self) -> u64 {
        (self.dispatch_window_us() * u64::from(self.0) / 1000).max(1000)
    }
}

impl From<f64> for Units {
    fn from(processors: f64) -> Self {
        // A cast from float saturates and takes NaN as zero.
        Self((processors * 1000.0).round() as u32)
    }
}

impl From<Units> for f64 {
    fn from(units: Units) -> Self {
        units.as_f64()
    }
}

impl std::iter::Sum for Units {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, Self::plus)
    }
}

impl fmt::Display for Units {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, part) = (self.0 / 1000, self.0 % 1000);
        let text = if part % 10 == 0 { format!("{whole}.{:02}", part / 10) } else { format!("{whole}.{part:03}") };
        f.pad(&text)
    }
}

/// One kibibyte, in bytes.
pub const KIB: u64 = 1 << 10;
/// One mebibyte, in bytes.
pub const MIB: u64 = 1 << 20;
/// One gibibyte, in bytes.
pub const GIB: u64 = 1 << 30;

const SUFFIXES: [(&str, u64); 6] =
    [("EiB", 1 << 60), ("PiB", 1 << 50), ("TiB", 1 << 40), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)];

/// Why a text is no size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// The text is not a whole number followed by a unit.
    #[error("{0:?} is not a size; write a whole number and one of B, KiB, MiB, GiB, TiB, PiB, EiB, such as \"512MiB\"")]
    Form(String),
    /// The size does not fit into 64 bits.
    #[error("{0:?} is more than 16 EiB less one byte, the largest size that can be written")]
    TooLarge(String),
}

/// Reads a size such as `512MiB` into bytes.
///
/// # Errors
/// [`SizeError`] when the text has another form or the size does not fit into 64 bits.
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    let shown = || text.chars().take(40).collect::<String>();
    let trimmed = text.trim();
    let digits = trimmed.bytes().take_while(u8::is_ascii_digit).count();
    let (number, suffix) = trimmed.split_at(digits);
    let factor = match suffix.trim() {
        "B" => 1,
        suffix => SUFFIXES
            .iter()
            .find(|(name, _)| *name == suffix)
            .map(|(_, factor)| *factor)
            .ok_or_else(|| SizeError::Form(shown()))?,
    };
    if number.is_empty() {
        return Err(SizeError::Form(shown()));
    }
    number.parse::<u64>().ok().and_then(|n| n.checked_mul(factor)).ok_or_else(|| SizeError::TooLarge(shown()))
}

/// Writes bytes with the largest unit that divides them.
#[must_use]
pub fn show_size(bytes: u64) -> String {
    SUFFIXES
        .iter()
        .find(|(_, factor)| bytes != 0 && bytes.is_multiple_of(*factor))
        .map_or_else(|| format!("{bytes}B"), |(name, factor)| format!("{}{name}", bytes / factor))
}

/// Longest duration that can be written, milliseconds: one day.
pub const LONGEST_DURATION_MS: u32 = 86_400_000;

/// Why a text is no duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// The text is not a whole number followed by a unit.
    #[error("{0:?} is not a duration; write a whole number and one of ms, s, min, h, such as \"30s\"")]
    Form(String),
    /// The duration is longer than [`LONGEST_DURATION_MS`].
    #[error("{0:?} is more than 24h, the longest duration that can be written")]
    TooLong(String),
}

/// Reads a duration such as `30s` into milliseconds.
///
/// # Errors
/// [`DurationError`] when the text has another form or the duration is longer than a day.
pub fn parse_duration_ms(text: &str) -> Result<u32, DurationError> {
    let shown = || text.chars().take(40).collect::<String>();
    let trimmed = text.trim();
    let digits = trimmed.bytes().take_while(u8::is_ascii_digit).count();
    let (number, suffix) = trimmed.split_at(digits);
    let factor = match suffix.trim() {
        "ms" => 1,
        "s" => 1_000,
        "min" => 60_000,
        "h" => 3_600_000,
        _ => return Err(DurationError::Form(shown())),
    };
    if number.is_empty() {
        return Err(DurationError::Form(shown()));
    }
    let milliseconds = number.parse::<u32>().ok().and_then(|n| n.checked_mul(factor));
    milliseconds.filter(|&n| n <= LONGEST_DURATION_MS).ok_or_else(|| DurationError::TooLong(shown()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn units_read_like_power() {
        assert_eq!(Units::from(0.4).to_string(), "0.40");
        assert_eq!(Units::from(0.001).to_string(), "0.001");
        assert_eq!(Units::whole(2).to_string(), "2.00");
        assert_eq!(Units::from(f64::NAN), Units::ZERO);
    }

    #[test]
    fn dispatch_windows_follow_the_design() {
        assert_eq!(Units::from(0.4).dispatch_window_us(), 10_000);
        assert_eq!(Units::from(0.4).quota_us(), 4_000);
        assert_eq!(Units::from(0.05).dispatch_window_us(), 20_000);
        assert_eq!(Units::from(0.05).quota_us(), 1_000);
        assert_eq!(Units::from(0.001).dispatch_window_us(), 1_000_000);
        assert_eq!(Units::from(0.001).quota_us(), 1_000);
    }

    #[test]
    fn sizes_refuse_with_the_reason() {
        assert_eq!(parse_size("16EiB"), Err(SizeError::TooLarge("16EiB".into())));
        assert_eq!(parse_size("5"), Err(SizeError::Form("5".into())));
        assert_eq!(parse_size("5MB"), Err(SizeError::Form("5MB".into())));
        assert_eq!(parse_size("MiB"), Err(SizeError::Form("MiB".into())));
        assert_eq!(parse_size("512 MiB"), Ok(512 * MIB));
    }

    #[test]
    fn durations_are_read_or_refused_with_the_reason() {
        assert_eq!(parse_duration_ms("5s"), Ok(5_000));
        assert_eq!(parse_duration_ms(" 2 min "), Ok(120_000));
        assert_eq!(parse_duration_ms("0ms"), Ok(0));
        assert_eq!(parse_duration_ms("5"), Err(DurationError::Form("5".into())));
        assert_eq!(parse_duration_ms("s"), Err(DurationError::Form("s".into())));
        assert_eq!(parse_duration_ms("25h"), Err(DurationError::TooLong("25h".into())));
        assert_eq!(parse_duration_ms("9999999999h"), Err(DurationError::TooLong("9999999999h".into())));
    }

    proptest! {
        #[test]
        fn sizes_survive_a_round_trip(bytes in any::<u64>()) {
            prop_assert_eq!(parse_size(&show_size(bytes)), Ok(bytes));
        }

        #[test]
        fn a_window_always_delivers_the_entitlement(thousandths in 1u32..64_000) {
            let units = Units::from_thousandths(thousandths);
            let delivered = units.quota_us() as f64 / units.dispatch_window_us() as f64;
            prop_assert!((delivered - units.as_f64()).abs() / units.as_f64() < 0.02);
        }
    }
}
