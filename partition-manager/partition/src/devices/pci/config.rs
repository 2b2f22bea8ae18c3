//! Configuration space of one function (PCI Local Bus Specification 3.0, chapter 6), type 0 header.

use serde::{Deserialize, Serialize};

/// Bytes of the configuration space that PCI itself knows.
pub const BYTES: usize = 256;

/// Offset of the command register.
pub const COMMAND: u16 = 0x04;
/// Offset of the first base address register.
pub const BAR: u16 = 0x10;
const STATUS: usize = 0x06;
const CAPABILITIES: usize = 0x34;
const FIRST_CAPABILITY: u8 = 0x40;
const INTERRUPT_LINE: usize = 0x3c;
const INTERRUPT_PIN: usize = 0x3d;

const MEMORY_SPACE: u16 = 1 << 1;
const BUS_MASTER: u16 = 1 << 2;
const INTX_DISABLE: u16 = 1 << 10;
const HAS_CAPABILITIES: u8 = 1 << 4;
const INTERRUPT_STATUS: u8 = 1 << 3;

/// Who a function is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Vendor.
    pub vendor: u16,
    /// Device.
    pub device: u16,
    /// Revision.
    pub revision: u8,
    /// Class, subclass and programming interface, 24 bits.
    pub class: u32,
    /// Subsystem's vendor.
    pub subsystem_vendor: u16,
    /// Subsystem.
    pub subsystem: u16,
}

/// Why a function cannot be laid out: a fault of this program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the configuration space of a PCI function has no room for {0}")]
pub struct NoRoom(pub &'static str);

/// The registers of one function, and which of their bits a guest may write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    bytes: Vec<u8>,
    writable: Vec<u8>,
    last_capability: Option<u8>,
    next_free: u8,
}

impl Config {
    /// A function without base addresses and capabilities.
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        let mut config = Self {
            bytes: vec![0; BYTES],
            writable: vec![0; BYTES],
            last_capability: None,
            next_free: FIRST_CAPABILITY,
        };
        let [low, middle, high, _] = identity.class.to_le_bytes();
        config.put(0, &identity.vendor.to_le_bytes());
        config.put(2, &identity.device.to_le_bytes());
        config.put(8, &[identity.revision, low, middle, high]);
        config.put(0x2c, &identity.subsystem_vendor.to_le_bytes());
        config.put(0x2e, &identity.subsystem.to_le_bytes());
        config.allow(COMMAND.into(), &(MEMORY_SPACE | BUS_MASTER | INTX_DISABLE).to_le_bytes());
        // The line is a note that firmware and system leave for each other.
        config.allow(INTERRUPT_LINE, &[0xff]);
        // Cache line size and latency timer: writable, without effect.
        config.allow(0x0c, &[0xff, 0xff]);
        config
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = *from);
    }

    fn allow(&mut self, at: usize, mask: &[u8]) {
        self.writable.iter_mut().skip(at).zip(mask).for_each(|(to, from)| *to = *from);
    }

    /// Gives it 32-bit memory base address `index`, 0..=5, of `size` bytes at `address`.
    ///
    /// # Errors
    /// [`NoRoom`] when the size is no power of two of 16 or more, or there is no such register.
    pub fn add_memory(&mut self, index: u16, size: u32, address: u32) -> Result<(), NoRoom> {
        if index > 5 || size < 16 || !size.is_power_of_two() {
            return Err(NoRoom("a base address"));
        }
        let at = usize::from(BAR + 4 * index);
        let mask = !(size - 1);
        self.put(at, &(address & mask).to_le_bytes());
        self.allow(at, &mask.to_le_bytes());
        Ok(())
    }

    /// Gives it an INTx pin, 1 (INTA#) to 4, that leads to `line`.
    pub fn set_interrupt(&mut self, pin: u8, line: u8) {
        self.put(INTERRUPT_PIN, &[pin]);
        self.put(INTERRUPT_LINE, &[line]);
    }

    /// Adds a capability: `body` is what follows its two header bytes, `mask` the bits of it that can be written.
    /// Gives the capability's offset.
    ///
    /// # Errors
    /// [`NoRoom`].
    pub fn add_capability(&mut self, id: u8, body: &[u8], mask: &[u8]) -> Result<u16, NoRoom> {
        let at = usize::from(self.next_free);
        let end = at + 2 + body.len();
        if end > BYTES {
            return Err(NoRoom("a capability"));
        }
        self.put(at, &[id, 0]);
        self.put(at + 2, body);
        self.allow(at + 2, mask);
        let before = self.last_capability.map_or(CAPABILITIES, |last| usize::from(last) + 1);
        self.put(before, &[self.next_free]);
        if let Some(status) = self.bytes.get_mut(STATUS) {
            *status |= HAS_CAPABILITIES;
        }
        self.last_capability = Some(self.next_free);
        self.next_free = u8::try_from(end.next_multiple_of(4)).unwrap_or(u8::MAX);
        Ok(at as u16)
    }

    /// Reads from `offset` on; what is beyond reads as zeros.
    pub fn read(&self, offset: u16, data: &mut [u8]) {
        for (byte, at) in data.iter_mut().zip(usize::from(offset)..) {
            *byte = self.bytes.get(at).copied().unwrap_or(0);
        }
    }

    /// Writes the bits that may be written.
    pub fn write(&mut self, offset: u16, data: &[u8]) {
        let bytes = self.bytes.iter_mut().zip(&self.writable).skip(offset.into());
        for ((byte, mask), new) in bytes.zip(data) {
            *byte = *byte & !mask | new & mask;
        }
    }

    fn word(&self, at: u16) -> u16 {
        let mut bytes = [0; 2];
        self.read(at, &mut bytes);
        u16::from_le_bytes(bytes)
    }

    /// Four bytes as a number.
    #[must_use]
    pub fn double_word(&self, at: u16) -> u32 {
        let mut bytes = [0; 4];
        self.read(at, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// Where memory base address `index` is, if the guest has turned memory accesses on.
    #[must_use]
    pub fn memory(&self, index: u16) -> Option<u64> {
        let on = self.word(COMMAND) & MEMORY_SPACE != 0;
        on.then(|| u64::from(self.double_word(BAR.saturating_add(index.saturating_mul(4))) & !0xf))
    }

    /// Whether the function may access memory and raise message-signalled interrupts.
    #[must_use]
    pub fn is_bus_master(&self) -> bool {
        self.word(COMMAND) & BUS_MASTER != 0
    }

    /// Whether the guest has turned the INTx pin off.
    #[must_use]
    pub fn is_intx_disabled(&self) -> bool {
        self.word(COMMAND) & INTX_DISABLE != 0
    }

    /// Shows in the status register whether the INTx pin is asserted.
    pub fn show_interrupt(&mut self, pending: bool) {
        if let Some(status) = self.bytes.get_mut(STATUS) {
            *status = if pending { *status | INTERRUPT_STATUS } else { *status & !INTERRUPT_STATUS };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn config() -> Config {
        let mut config = Config::new(Identity {
            vendor: 0x1af4,
            device: 0x1042,
            revision: 1,
            class: 0x01_80_00,
            subsystem_vendor: 0x1af4,
            subsystem: 2,
        });
        config.add_memory(0, 0x8000, 0xd000_0000).unwrap();
        config
    }

    #[test]
    fn the_identity_is_where_a_guest_looks_for_it() {
        let config = config();
        assert_eq!(config.double_word(0), 0x1042_1af4);
        assert_eq!(config.double_word(8), 0x0180_0001);
        assert_eq!(config.double_word(0x2c), 0x0002_1af4);
    }

    #[test]
    fn a_base_address_tells_its_size() {
        let mut config = config();
        assert_eq!(config.memory(0), None, "accesses are off");
        config.write(BAR, &[0xff; 4]);
        assert_eq!(config.double_word(BAR), 0xffff_8000);
        config.write(BAR, &0xd123_4567u32.to_le_bytes());
        config.write(COMMAND, &[0x06, 0x04]);
        assert_eq!(config.memory(0), Some(0xd123_0000));
        assert!(config.is_bus_master() && config.is_intx_disabled());
        assert_eq!(config.add_memory(6, 16, 0), Err(NoRoom("a base address")));
        assert_eq!(config.add_memory(1, 24, 0), Err(NoRoom("a base address")));
    }

    #[test]
    fn capabilities_make_a_chain() {
        let mut config = config();
        let mut expected = vec![];
        while let Ok(at) = config.add_capability(9, &[0; 14], &[]) {
            expected.push(at);
        }
        let mut at = config.double_word(0x34) as u8;
        let mut found = vec![];
        while at != 0 {
            found.push(u16::from(at));
            at = config.double_word(u16::from(at)).to_le_bytes()[1];
        }
        assert_eq!(found, expected);
        assert_eq!(found.len(), 12);
        assert_eq!(config.double_word(4) >> 16 & 0x10, 0x10);
    }

    proptest! {
        #[test]
        fn nothing_changes_but_what_may_be_written(
            steps in proptest::collection::vec((any::<u16>(), proptest::collection::vec(any::<u8>(), 0..9)), 0..64),
        ) {
            let fresh = config();
            let mut config = fresh.clone();
            for (offset, data) in steps {
                config.write(offset, &data);
                let mut back = vec![0; data.len()];
                config.read(offset, &mut back);
            }
            for (at, mask) in fresh.writable.iter().enumerate() {
                prop_assert_eq!(config.bytes[at] & !mask, fresh.bytes[at] & !mask);
            }
        }
    }
}
