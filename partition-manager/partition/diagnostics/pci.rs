//! PCI bus 0, by the configuration ports that every chipset has (PCI Local Bus 3.0, section 3.2.2.3.2).

use crate::ring0;

const ADDRESS_PORT: u16 = 0xcf8;
const DATA_PORT: u16 = 0xcfc;
/// Slots of a bus.
pub const SLOTS: u8 = 32;
/// Most capabilities that are followed: a list that loops must not cost seconds.
const CAPABILITIES_LIMIT: usize = 48;
/// Command register: answer memory accesses, do DMA, no INTx (section 6.2.2).
const MEMORY: u32 = 1 << 1;
const MASTER: u32 = 1 << 2;
const NO_INTX: u32 = 1 << 10;

/// Reads the double word at an aligned offset of the configuration of function 0 in a slot.
pub fn read(slot: u8, offset: u8) -> u32 {
    select(slot, offset);
    ring0::in32(DATA_PORT)
}

/// Writes the double word at an aligned offset of the configuration of function 0 in a slot.
pub fn write(slot: u8, offset: u8, value: u32) {
    select(slot, offset);
    ring0::out32(DATA_PORT, value);
}

fn select(slot: u8, offset: u8) {
    ring0::out32(ADDRESS_PORT, 1 << 31 | u32::from(slot % SLOTS) << 11 | u32::from(offset & 0xfc));
}

/// Vendor and device identifiers of what is in a slot.
pub fn identity(slot: u8) -> Option<(u16, u16)> {
    let word = read(slot, 0);
    (word & 0xffff != 0xffff).then_some((word as u16, (word >> 16) as u16))
}

/// Lets a function answer memory accesses and do DMA, without its INTx pin.
pub fn enable(slot: u8) {
    write(slot, 4, read(slot, 4) & 0xffff | MEMORY | MASTER | NO_INTX);
}

/// Where base address register `index` is, if it is one for memory below 4 GiB.
pub fn base(slot: u8, index: u8) -> Option<u64> {
    let bar = read(slot, 0x10 + 4 * index.min(5));
    (bar & 1 == 0 && bar & !0xf != 0).then_some(u64::from(bar & !0xf))
}

/// The capabilities of a function: where each is, and its first double word.
pub fn capabilities(slot: u8) -> impl Iterator<Item = (u8, u32)> {
    let has = read(slot, 4) & 1 << 20 != 0;
    let mut at = if has { read(slot, 0x34) as u8 & 0xfc } else { 0 };
    core::iter::from_fn(move || {
        if at < 0x40 {
            return None;
        }
        let word = read(slot, at);
        let found = (at, word);
        at = (word >> 8) as u8 & 0xfc;
        Some(found)
    })
    .take(CAPABILITIES_LIMIT)
}
