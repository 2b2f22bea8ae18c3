//! The panic device: how the guest's kernel says that it panicked ([`frame::platform::PANIC_PORT`]).
//!
//! Only panics that nothing takes over are listened to: a guest with a crash kernel of its own writes its dump itself.

use super::bus::Device;
use frame::platform::PANIC_PANICKED;
use frame::record::Cause;

/// The device.
#[derive(Clone, Copy, Debug)]
pub struct Panic;

impl Device for Panic {
    fn read(&self, _offset: u64) -> u8 {
        PANIC_PANICKED
    }

    fn write(&self, _offset: u64, value: u8) -> Option<Cause> {
        (value & PANIC_PANICKED != 0).then_some(Cause::Panicked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_event_that_it_names_ends_the_partition() {
        for value in 0..=u8::MAX {
            let ends = Panic.write(0, value) == Some(Cause::Panicked);
            assert_eq!(ends, value & Panic.read(0) != 0, "{value:#x}");
        }
    }
}
