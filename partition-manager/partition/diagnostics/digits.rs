//! Numbers as text, both ways. Pure.

/// Most digits of a 64-bit number, decimal.
pub const MOST: usize = 20;

/// The decimal digits of `value`, in the end of `buffer`.
pub fn decimal(mut value: u64, buffer: &mut [u8; MOST]) -> &[u8] {
    let mut at = MOST;
    loop {
        at -= 1;
        buffer[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 || at == 0 {
            return &buffer[at..];
        }
    }
}

/// `0x` and the hexadecimal digits of `value`, in the end of `buffer`.
pub fn hexadecimal(mut value: u64, buffer: &mut [u8; MOST]) -> &[u8] {
    let mut at = MOST;
    loop {
        at -= 1;
        buffer[at] = b"0123456789abcdef"[(value & 15) as usize];
        value >>= 4;
        if value == 0 {
            buffer[at - 1] = b'x';
            buffer[at - 2] = b'0';
            return &buffer[at - 2..];
        }
    }
}

/// The number that `text` is: decimal, or hexadecimal after `0x`; `None` for anything else or too large.
pub fn parse(text: &[u8]) -> Option<u64> {
    let (digits, radix) = match text {
        [b'0', b'x' | b'X', rest @ ..] => (rest, 16),
        _ => (text, 10),
    };
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |value, &digit| {
        let digit = char::from(digit).to_digit(radix)?;
        value.checked_mul(u64::from(radix))?.checked_add(u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimal_matches_the_standard_library() {
        for value in [0, 1, 9, 10, 99, 100, 12_345, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            assert_eq!(decimal(value, &mut [0; MOST]), value.to_string().as_bytes());
        }
    }

    #[test]
    fn hexadecimal_matches_the_standard_library() {
        for value in [0, 1, 15, 16, 0xdead_beef, u64::MAX] {
            assert_eq!(hexadecimal(value, &mut [0; MOST]), format!("{value:#x}").as_bytes());
        }
    }

    #[test]
    fn parse_takes_what_is_a_number_and_nothing_else() {
        assert_eq!(parse(b"0"), Some(0));
        assert_eq!(parse(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(parse(b"0xd0000000"), Some(0xd000_0000));
        for wrong in ["", "0x", "-1", "+1", "1k", "18446744073709551616", "0x1ffffffffffffffff", " 1"] {
            assert_eq!(parse(wrong.as_bytes()), None, "{wrong:?}");
        }
    }
}
