//! A driver of the PCI watchdog (Intel 6300ESB I/O Controller Hub, datasheet 300641, chapter 16).

use crate::memory::{write_half, write_register};
use crate::pci;

const IDENTITY: (u16, u16) = (0x8086, 0x25ab);
/// Configuration space: interrupt type and prescaler; the lock register.
const CONFIG: u8 = 0x60;
const LOCK: u8 = 0x68;
const NO_INTERRUPT: u32 = 3;
const ENABLED: u32 = 2;
/// Registers from the base address on: two preload values, and the reload register.
const PRELOAD: [u64; 2] = [0, 4];
const RELOAD: u64 = 0xc;
const UNLOCK: [u16; 2] = [0x80, 0x86];
const DO_RELOAD: u16 = 1 << 8;

/// A watchdog that was found.
#[derive(Clone, Copy)]
pub struct Watchdog {
    slot: u8,
    base: u64,
}

impl Watchdog {
    /// The watchdog, if there is one.
    pub fn find() -> Option<Self> {
        let slot = (1..pci::SLOTS).find(|slot| pci::identity(*slot) == Some(IDENTITY))?;
        pci::enable(slot);
        Some(Self { slot, base: pci::base(slot, 0)? })
    }

    /// Starts it: half of the time for each of its stages, whose unit is about a millisecond.
    pub fn arm(&self, milliseconds: u64) {
        self.disarm();
        pci::write(self.slot, CONFIG, NO_INTERRUPT);
        for register in PRELOAD {
            self.unlock();
            write_register(self.base + register, (milliseconds / 2).clamp(1, 0xf_ffff) as u32);
        }
        pci::write(self.slot, LOCK, ENABLED);
    }

    /// Stops it.
    pub fn disarm(&self) {
        pci::write(self.slot, LOCK, 0);
    }

    /// Begins its time anew.
    pub fn reload(&self) {
        self.unlock();
        write_half(self.base + RELOAD, DO_RELOAD);
    }

    /// Its lock register.
    pub fn lock(&self) -> u8 {
        pci::read(self.slot, LOCK) as u8
    }

    fn unlock(&self) {
        UNLOCK.into_iter().for_each(|key| write_half(self.base + RELOAD, key));
    }
}
