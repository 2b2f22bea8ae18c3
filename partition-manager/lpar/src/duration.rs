//! Durations as people write them: `5s`, `500ms`, `2m`, `1h`.

use std::time::Duration;

/// Why a text is no duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// The text is not a whole number followed by a unit.
    #[error("{0:?} is not a duration; write a whole number and one of ms, s, m, h, such as \"5s\"")]
    Form(String),
    /// The duration is beyond what can be waited for.
    #[error("{0:?} is too long; at most 8760h can be waited for")]
    TooLong(String),
}

/// Longest duration, milliseconds: a year.
const LONGEST_MS: u64 = 8760 * 3_600_000;

/// Reads a duration.
///
/// # Errors
/// [`DurationError`].
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let shown = || text.chars().take(40).collect::<String>();
    let trimmed = text.trim();
    let digits = trimmed.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = trimmed.split_at(digits);
    let factor = match unit.trim() {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(DurationError::Form(shown())),
    };
    if number.is_empty() {
        return Err(DurationError::Form(shown()));
    }
    let milliseconds = number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
    match milliseconds {
        Some(milliseconds) if milliseconds <= LONGEST_MS => Ok(Duration::from_millis(milliseconds)),
        _ => Err(DurationError::TooLong(shown())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        assert_eq!(parse("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(parse("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse(" 2 m "), Ok(Duration::from_secs(120)));
        assert_eq!(parse("0s"), Ok(Duration::ZERO));
        assert_eq!(parse("8760h"), Ok(Duration::from_millis(LONGEST_MS)));
    }

    #[test]
    fn refuses_the_rest_with_the_reason() {
        for wrong in ["", "5", "s", "-5s", "5.5s", "5 days", "ms5"] {
            assert_eq!(parse(wrong), Err(DurationError::Form(wrong.into())));
        }
        for long in ["8761h", "99999999999999999999s", "18446744073709551615h"] {
            assert_eq!(parse(long), Err(DurationError::TooLong(long.into())));
        }
    }
}
