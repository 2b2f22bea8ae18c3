//! Virtio devices (Virtual I/O Device version 1.2), on PCI.
//!
//! A device is a [`Model`], which any virtual processor may ask, and a [`worker::Service`], which works on the
//! device's own thread. [`function::VirtioFunction`] joins them to a PCI function.

pub mod answer;
pub mod console;
pub mod disk;
pub mod entropy;
pub mod freezer;
pub mod function;
pub mod interrupter;
pub mod limiter;
pub mod limits;
pub mod network;
pub mod ring;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub mod vsock;
pub mod worker;

use frame::adapter::FrameCounts;

/// What is known of a device without its thread: what it is, what it offers, its configuration.
pub trait Model: Send + Sync + std::fmt::Debug {
    /// The device's type (section 5).
    fn kind(&self) -> u16;

    /// PCI class, subclass and programming interface, 24 bits.
    fn class(&self) -> u32;

    /// What is offered besides what the transport offers itself.
    fn features(&self) -> u64;

    /// Largest size of each queue: powers of two, at most 32768 (section 2.7).
    fn queues(&self) -> Vec<u16>;

    /// Reads the device's configuration from `offset` on; what is not there reads as zeros.
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let _ = offset;
        data.fill(0);
    }

    /// Writes the device's configuration; what cannot be written is dropped.
    fn write_config(&self, offset: u64, data: &[u8]) {
        let _ = (offset, data);
    }

    /// The driver reset the device.
    fn reset(&self) {}

    /// Of a network adapter: what became of its frames.
    fn frames(&self) -> Option<FrameCounts> {
        None
    }

    /// Of a disk: whether several of its requests can be under way at once.
    fn io_uring(&self) -> Option<bool> {
        None
    }
}

/// Reads `data` at `offset` from a configuration that is given as bytes.
pub fn read_bytes(config: &[u8], offset: u64, data: &mut [u8]) {
    let from = usize::try_from(offset).unwrap_or(usize::MAX);
    let mut bytes = config.iter().skip(from);
    data.iter_mut().for_each(|byte| *byte = bytes.next().copied().unwrap_or(0));
}
