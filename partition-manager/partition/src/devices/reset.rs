//! The two ways of a PC to reset itself: the reset register and the keyboard controller's line.
//!
//! There is no keyboard controller behind it: reads give all ones, which tells a driver that looks for one
//! that its buffers never empty, and ACPI says that there is none.

use super::bus::Device;
use frame::record::Cause;

/// The bit of the reset register whose writing resets (Intel I/O controller hub, register 0xcf9, `RST_CPU`).
pub const PULSE: u8 = 1 << 2;

/// Which write resets.
#[derive(Clone, Copy, Debug)]
pub enum Rule {
    /// This value.
    Equals(u8),
    /// Any value with these bits.
    HasBits(u8),
}

/// A port whose writing resets the machine.
#[derive(Clone, Copy, Debug)]
pub struct Reset {
    rule: Rule,
}

impl Reset {
    /// A port that resets by `rule`.
    #[must_use]
    pub const fn new(rule: Rule) -> Self {
        Self { rule }
    }
}

impl Device for Reset {
    fn read(&self, _offset: u64) -> u8 {
        0xff
    }

    fn write(&self, _offset: u64, value: u8) -> Option<Cause> {
        let resets = match self.rule {
            Rule::Equals(expected) => value == expected,
            Rule::HasBits(bits) => value & bits == bits,
        };
        resets.then_some(Cause::Reset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use frame::platform::{KEYBOARD_RESET, RESET_VALUE};

    #[test]
    fn only_the_value_resets() {
        let keyboard = Reset::new(Rule::Equals(KEYBOARD_RESET));
        assert_eq!(keyboard.write(0, 0xd1), None);
        assert_eq!(keyboard.write(0, KEYBOARD_RESET), Some(Cause::Reset));
        let register = Reset::new(Rule::HasBits(PULSE));
        // Linux first writes which reset it wants, then pulses it.
        assert_eq!(register.write(0, 0x02), None);
        assert_eq!(register.write(0, RESET_VALUE), Some(Cause::Reset));
    }
}
