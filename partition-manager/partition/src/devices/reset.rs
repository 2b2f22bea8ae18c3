//! The reset register that ACPI names. The other ways of a PC to reset itself are the keyboard controller's
//! ([`super::keyboard`]).

use super::bus::Device;
use frame::record::Cause;

/// The bit whose writing resets (Intel I/O controller hub, register 0xcf9, `RST_CPU`).
const PULSE: u8 = 1 << 2;

/// The register.
#[derive(Clone, Copy, Debug)]
pub struct Reset;

impl Device for Reset {
    fn read(&self, _offset: u64) -> u8 {
        0xff
    }

    fn write(&self, _offset: u64, value: u8) -> Option<Cause> {
        (value & PULSE != 0).then_some(Cause::Reset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use frame::platform::RESET_VALUE;

    #[test]
    fn only_the_pulse_resets() {
        // Linux first writes which reset it wants, then pulses it.
        assert_eq!(Reset.write(0, 0x02), None);
        assert_eq!(Reset.write(0, RESET_VALUE), Some(Cause::Reset));
    }
}
