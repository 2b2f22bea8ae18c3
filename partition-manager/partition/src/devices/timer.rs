//! The ACPI power management timer (ACPI 6.5, section 4.8.3.3): a counter of 24 bits that nobody sets or stops.
//!
//! Only a guest whose local APIC is in user space gets one. Its local APIC has no TSC deadline mode, so the guest has to
//! find out at which rate the timer counts, and needs a second clock for that. Without any, Linux waits for a periodic
//! interrupt of an 8254 that is not there, and gives up the local APIC's timer for good.
//!
//! The carry of the counter's highest bit sets no status and interrupts nobody: guests read the counter often enough.

use super::bus::Device;
use frame::record::Cause;

/// Ports that it takes.
pub const PORTS: u64 = 4;
/// Counts in a second (section 4.8.3.3).
const RATE: u128 = 3_579_545;
/// Bits that count; the FADT says nothing of 32.
const MASK: u32 = 0xff_ffff;

/// The timer, on a clock that gives nanoseconds from whatever beginning.
#[derive(Debug)]
pub struct PmTimer {
    clock: fn() -> u64,
}

impl PmTimer {
    /// A timer that counts by `clock`.
    #[must_use]
    pub const fn new(clock: fn() -> u64) -> Self {
        Self { clock }
    }

    fn value(&self) -> u32 {
        (u128::from((self.clock)()) * RATE / 1_000_000_000) as u32 & MASK
    }
}

impl Device for PmTimer {
    fn read(&self, offset: u64) -> u8 {
        (self.value() >> (8 * (offset & 3))) as u8
    }

    /// All bytes of an access are of one moment.
    fn read_access(&self, offset: u64, data: &mut [u8]) {
        let bytes = self.value().to_le_bytes();
        let bytes = bytes.into_iter().skip(usize::try_from(offset).unwrap_or(usize::MAX)).chain(std::iter::repeat(0));
        data.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
    }

    /// It is read only.
    fn write(&self, _: u64, _: u8) -> Option<Cause> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    thread_local! {
        static NOW: Cell<u64> = const { Cell::new(0) };
    }

    fn at(nanoseconds: u64) -> u32 {
        NOW.set(nanoseconds);
        let mut data = [0; 4];
        PmTimer::new(|| NOW.get()).read_access(0, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn it_counts_3579545_in_a_second_and_wraps_at_24_bits() {
        assert_eq!(at(0), 0);
        assert_eq!(at(1_000_000_000), 3_579_545);
        assert_eq!(at(10_000_000_000), 35_795_450 - 2 * (1 << 24));
        assert!(at(u64::MAX) <= MASK);
    }

    #[test]
    fn an_access_sees_one_moment_from_its_first_byte_on() {
        NOW.set(1_000_000_000);
        let timer = PmTimer::new(|| NOW.get());
        let mut data = [0; 4];
        timer.read_access(1, &mut data);
        assert_eq!(u32::from_le_bytes(data), 3_579_545 >> 8);
        assert_eq!(timer.read(2), (3_579_545u32 >> 16) as u8);
        assert_eq!(timer.write(0, 0xff), None);
    }
}
