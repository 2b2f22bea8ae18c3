//! The exit device: how a test kernel ends its partition with a number
//! ([`frame::platform::EXIT_PORT`]).
//!
//! An access of 1, 2 or 4 bytes at the port ends the partition in order; the status is what was written, not
//! shifted as by QEMU's `isa-debug-exit`. As there, four ports are taken, and reads give zero: a guest that reads
//! all ones knows that there is no such device.

use super::bus::Device;
use frame::record::Cause;

/// Ports that the device takes, so that its widest access fits.
pub const PORTS: u64 = 4;

/// The device.
#[derive(Clone, Copy, Debug)]
pub struct Exit;

impl Device for Exit {
    fn read(&self, _offset: u64) -> u8 {
        0
    }

    fn write(&self, _offset: u64, _value: u8) -> Option<Cause> {
        None
    }

    fn write_access(&self, offset: u64, bytes: &[u8]) -> Option<Cause> {
        (offset == 0 && matches!(bytes.len(), 1 | 2 | 4))
            .then(|| Cause::Exit { status: bytes.iter().rev().fold(0, |status, byte| status << 8 | u32::from(*byte)) })
    }
}

#[cfg(test)]
mod tests {
    use super::super::bus::{Bus, Claim};
    use super::*;
    use proptest::prelude::*;
    use std::sync::Arc;

    fn bus() -> Bus {
        Bus::new(vec![Claim::new("exit", 0xf4, PORTS, Arc::new(Exit))]).unwrap()
    }

    #[test]
    fn the_status_is_what_was_written() {
        assert_eq!(bus().write(0xf4, 1, &[0x85]), Some(Cause::Exit { status: 0x85 }));
        assert_eq!(bus().write(0xf4, 2, &[0x34, 0x12]), Some(Cause::Exit { status: 0x1234 }));
        assert_eq!(bus().write(0xf4, 4, &[1, 2, 3, 0xff]), Some(Cause::Exit { status: 0xff03_0201 }));
        // Of a string only the first counts: there is no guest after it.
        assert_eq!(bus().write(0xf4, 1, &[3, 4, 5]), Some(Cause::Exit { status: 3 }));
    }

    proptest! {
        #[test]
        fn only_whole_accesses_at_its_port_end_anything(
            port in 0xf0u64..0x100, size in 1usize..10, data in proptest::collection::vec(any::<u8>(), 0..20),
        ) {
            let bus = bus();
            let fits = port == 0xf4 && size <= PORTS as usize;
            let whole = data.chunks(size).any(|access| matches!(access.len(), 1 | 2 | 4));
            prop_assert_eq!(bus.write(port, size, &data).is_some(), fits && whole);
            let mut read = [7; 1];
            bus.read(0xf4, 1, &mut read);
            prop_assert_eq!(read, [0]);
        }
    }
}
