//! What a guest can reach of a partition's process, fed with any bytes.
//!
//! Each target is a function of bytes that must come back, whatever they are. Coverage-guided fuzzing calls them
//! from `fuzz/`; `tests/smoke.rs` calls them with seeded random bytes on every run of the tests.

mod apic;
mod pci;
mod queues;
mod sockets;
mod watchdog;

pub use apic::{io_apic, local_apic};
pub use pci::{configuration, msix_table};
pub use queues::{disk_queue, entropy_queue, network_queue};
pub use sockets::{console_queues, socket_queues};
pub use watchdog::watchdog;

/// Takes bytes off the front of what is left; what is missing is zeros.
pub(crate) struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Up to `count` bytes.
    pub(crate) fn some(&mut self, count: usize) -> &'a [u8] {
        let (first, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        first
    }

    fn number<const COUNT: usize>(&mut self) -> [u8; COUNT] {
        let mut number = [0; COUNT];
        number.iter_mut().zip(self.some(COUNT)).for_each(|(to, from)| *to = *from);
        number
    }

    pub(crate) fn byte(&mut self) -> u8 {
        u8::from_le_bytes(self.number())
    }

    pub(crate) fn half(&mut self) -> u16 {
        u16::from_le_bytes(self.number())
    }

    pub(crate) fn word(&mut self) -> u32 {
        u32::from_le_bytes(self.number())
    }

    pub(crate) fn long(&mut self) -> u64 {
        u64::from_le_bytes(self.number())
    }
}
