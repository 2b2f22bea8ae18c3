//! A bus: labelled devices at addresses that do not overlap.

use frame::record::Cause;
use std::sync::Arc;

/// Something on a bus. Registers are bytes; a wider access is one of several bytes in ascending order.
pub trait Device: Send + Sync + std::fmt::Debug {
    /// Reads the byte at `offset` of the claim.
    fn read(&self, offset: u64) -> u8;

    /// Reads one access that begins at `offset` of the claim: for devices to which its width matters.
    fn read_access(&self, offset: u64, data: &mut [u8]) {
        data.iter_mut().zip(offset..).for_each(|(byte, offset)| *byte = self.read(offset));
    }

    /// Writes the byte at `offset` of the claim. A cause ends the partition.
    fn write(&self, offset: u64, value: u8) -> Option<Cause>;

    /// Writes one access of `bytes` that begins at `offset` of the claim: for devices to which its width matters.
    fn write_access(&self, offset: u64, bytes: &[u8]) -> Option<Cause> {
        bytes.iter().zip(offset..).find_map(|(byte, offset)| self.write(offset, *byte))
    }

    /// After the last byte of an exit's data was written: what is better done once than for each byte.
    fn settle(&self) {}
}

/// A device and the addresses that it has for itself.
#[derive(Clone, Debug)]
pub struct Claim {
    label: &'static str,
    start: u64,
    length: u64,
    device: Arc<dyn Device>,
}

impl Claim {
    /// `device` at `length` addresses from `start` on.
    pub fn new(label: &'static str, start: u64, length: u64, device: Arc<dyn Device>) -> Self {
        Self { label, start, length, device }
    }

    fn last(&self) -> u64 {
        self.start.saturating_add(self.length.saturating_sub(1))
    }
}

/// Why a bus cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// A device claims no address.
    #[error("{0} claims no address")]
    Nothing(&'static str),
    /// Two devices claim an address.
    #[error("{first} at {:#x}..={:#x} and {second} at {:#x}..={:#x} overlap", first_range.0, first_range.1, second_range.0, second_range.1)]
    Overlap {
        /// Label of the one with the lower address.
        first: &'static str,
        /// Its addresses.
        first_range: (u64, u64),
        /// Label of the other.
        second: &'static str,
        /// Its addresses.
        second_range: (u64, u64),
    },
}

/// What is where. Does not change while a partition runs, so it needs no lock.
#[derive(Debug)]
pub struct Bus {
    claims: Vec<Claim>,
}

impl Bus {
    /// A bus with these devices, in any order.
    ///
    /// # Errors
    /// [`BusError`] when two overlap.
    pub fn new(mut claims: Vec<Claim>) -> Result<Self, BusError> {
        claims.sort_by_key(|claim| claim.start);
        if let Some(claim) = claims.iter().find(|claim| claim.length == 0) {
            return Err(BusError::Nothing(claim.label));
        }
        for (first, second) in claims.iter().zip(claims.iter().skip(1)) {
            if first.last() >= second.start {
                return Err(BusError::Overlap {
                    first: first.label,
                    first_range: (first.start, first.last()),
                    second: second.label,
                    second_range: (second.start, second.last()),
                });
            }
        }
        Ok(Self { claims })
    }

    /// The device that has all of `size` bytes at `address`, and the offset there.
    fn find(&self, address: u64, size: usize) -> Option<(&dyn Device, u64)> {
        let behind = self.claims.partition_point(|claim| claim.start <= address);
        let claim = self.claims.get(behind.checked_sub(1)?)?;
        let last = address.checked_add(size as u64)?.checked_sub(1)?;
        (last <= claim.last()).then(|| (&*claim.device, address - claim.start))
    }

    /// Reads `data`, whole accesses of `size` bytes each at the same address. What nobody claims reads as
    /// all ones.
    pub fn read(&self, address: u64, size: usize, data: &mut [u8]) {
        let Some((device, offset)) = self.find(address, size) else {
            data.fill(0xff);
            return;
        };
        for access in data.chunks_mut(size.max(1)) {
            device.read_access(offset, access);
        }
    }

    /// Writes `data`, whole accesses of `size` bytes each at the same address. What nobody claims is dropped.
    /// A cause ends the partition; the rest of the data is dropped then.
    pub fn write(&self, address: u64, size: usize, data: &[u8]) -> Option<Cause> {
        let (device, offset) = self.find(address, size)?;
        for access in data.chunks(size.max(1)) {
            if let Some(cause) = device.write_access(offset, access) {
                device.settle();
                return Some(cause);
            }
        }
        device.settle();
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::Mutex;

    #[derive(Debug, Default)]
    struct Seen(Mutex<Vec<(u64, u8)>>);

    impl Device for Seen {
        fn read(&self, offset: u64) -> u8 {
            offset as u8
        }

        fn write(&self, offset: u64, value: u8) -> Option<Cause> {
            self.0.lock().unwrap().push((offset, value));
            (value == 0x5a).then_some(Cause::Reset)
        }
    }

    fn claim(start: u64, length: u64) -> Claim {
        Claim::new("seen", start, length, Arc::new(Seen::default()))
    }

    #[test]
    fn overlaps_name_both() {
        let error = Bus::new(vec![claim(0x10, 4), claim(0x8, 9)]).unwrap_err();
        assert_eq!(error.to_string(), "seen at 0x8..=0x10 and seen at 0x10..=0x13 overlap");
        assert_eq!(Bus::new(vec![claim(1, 0)]).unwrap_err(), BusError::Nothing("seen"));
        assert!(Bus::new(vec![claim(0x10, 4), claim(0x8, 8)]).is_ok());
    }

    #[test]
    fn strings_go_to_one_address_and_wide_accesses_to_several() {
        let seen = Arc::new(Seen::default());
        let bus = Bus::new(vec![Claim::new("seen", 0x100, 8, Arc::clone(&seen) as _)]).unwrap();
        assert_eq!(bus.write(0x102, 1, b"ab"), None);
        assert_eq!(bus.write(0x102, 2, b"cd"), None);
        assert_eq!(*seen.0.lock().unwrap(), [(2, b'a'), (2, b'b'), (2, b'c'), (3, b'd')]);
        assert_eq!(bus.write(0x102, 1, b"\x5aZ"), Some(Cause::Reset));
        assert_eq!(seen.0.lock().unwrap().len(), 5);
        let mut data = [0; 4];
        bus.read(0x104, 2, &mut data);
        assert_eq!(data, [4, 5, 4, 5]);
        bus.read(0x107, 2, &mut data);
        assert_eq!(data, [0xff; 4]);
    }

    proptest! {
        #[test]
        fn an_access_reaches_a_device_only_where_it_fits(
            claims in proptest::collection::vec((0u64..200, 1u64..20), 0..8),
            address in 0u64..256, size in 1usize..9,
        ) {
            let made = claims.iter().map(|(start, length)| claim(*start, *length)).collect();
            if let Ok(bus) = Bus::new(made) {
                let inside = |(start, length): &(u64, u64)| {
                    address >= *start && address + size as u64 <= start + length
                };
                prop_assert_eq!(bus.find(address, size).is_some(), claims.iter().any(inside));
            } else {
                let overlap = claims.iter().enumerate().any(|(index, a)| {
                    claims.iter().skip(index + 1).any(|b| a.0 < b.0 + b.1 && b.0 < a.0 + a.1)
                });
                prop_assert!(overlap);
            }
        }

        #[test]
        fn no_access_is_too_odd(address: u64, size in 0usize..20, mut data in proptest::collection::vec(any::<u8>(), 0..64)) {
            let bus = Bus::new(vec![claim(0, 16), claim(u64::MAX - 3, 4)]).unwrap();
            bus.read(address, size, &mut data);
            let _ = bus.write(address, size, &data);
        }
    }
}
