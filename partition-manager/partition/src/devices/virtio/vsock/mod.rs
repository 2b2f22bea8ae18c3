//! The socket device (virtio 1.2, section 5.10): streams between programs of the host and of the guest.
//!
//! A program of the host connects to the partition's Unix socket, writes `CONNECT PORT` and a line feed, and reads
//! `OK HOSTPORT` and a line feed when the guest listens on that port; then it has the stream. What the guest asks for is
//! connected by whoever wrote `SERVE` and a line feed instead, see [`frame::vsock`]; without one it is refused.

mod broker;
pub mod connections;
pub mod packet;
pub mod streams;

#[cfg(test)]
mod tests;

use super::{Model, read_bytes};

/// Type of the device.
const SOCKET: u16 = 19;
/// Entries of the queues for packets.
const QUEUE: u16 = 128;
/// Entries of the queue for events, of which there are none.
const EVENTS: u16 = 16;
/// Feature: streams (section 5.10.3).
const STREAM: u64 = 1;

/// The model: its configuration is the guest's address.
#[derive(Debug)]
pub struct Vsock {
    config: [u8; 8],
}

impl Vsock {
    /// The device of the guest with context identifier `cid`.
    #[must_use]
    pub const fn new(cid: u32) -> Self {
        Self { config: (cid as u64).to_le_bytes() }
    }
}

impl Model for Vsock {
    fn kind(&self) -> u16 {
        SOCKET
    }

    fn class(&self) -> u32 {
        // Communication controller, other.
        0x07_80_00
    }

    fn features(&self) -> u64 {
        STREAM
    }

    fn queues(&self) -> Vec<u16> {
        vec![QUEUE, QUEUE, EVENTS]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_bytes(&self.config, offset, data);
    }
}
