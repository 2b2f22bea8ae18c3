//! The block device (virtio 1.2, section 5.2), backed by a raw image or a block device of the host.

pub mod engine;
pub mod image;
pub mod requests;

#[cfg(test)]
mod tests;

use super::{Model, read_bytes};
use image::Image;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Type of the device.
const BLOCK: u16 = 2;
/// Bytes of a sector, the unit of every position (section 5.2.4).
pub const SECTOR: u64 = 512;
/// Entries of its queue.
const QUEUE: u16 = 256;
/// Most data segments of one request: those of a chain, without header and status.
const MOST_SEGMENTS: u32 = 254;
/// Most ranges of one discard or write-zeroes request.
pub const MOST_RANGES: usize = 16;
/// Most sectors of one such range: 64 MiB, since a host that cannot zero a range has to be written to.
pub const MOST_RANGE_SECTORS: u32 = 1 << 17;

const SEG_MAX: u64 = 1 << 2;
const READ_ONLY: u64 = 1 << 5;
const BLOCK_SIZE: u64 = 1 << 6;
const FLUSH: u64 = 1 << 9;
const TOPOLOGY: u64 = 1 << 10;
const DISCARD: u64 = 1 << 13;
const WRITE_ZEROES: u64 = 1 << 14;

/// The model: features and configuration never change.
#[derive(Debug)]
pub struct Disk {
    features: u64,
    config: [u8; 60],
    io_uring: Arc<AtomicBool>,
}

impl Disk {
    /// A disk of the size of `image`; `io_uring` tells whether its service has a ring of the host.
    #[must_use]
    pub fn new(image: &Image, io_uring: Arc<AtomicBool>) -> Self {
        let writes = if image.is_read_only() { READ_ONLY } else { DISCARD | WRITE_ZEROES };
        let mut config = [0; 60];
        let mut put = |at: usize, bytes: &[u8]| {
            config.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = *from);
        };
        // Offsets of `struct virtio_blk_config` (section 5.2.4).
        put(0, &(image.bytes() / SECTOR).to_le_bytes());
        put(12, &MOST_SEGMENTS.to_le_bytes());
        // Logical blocks are sectors: partition tables and file systems of existing images count by them.
        put(20, &(SECTOR as u32).to_le_bytes());
        put(24, &[(image.block() / SECTOR as u32).ilog2() as u8]);
        for range in [36, 48] {
            put(range, &MOST_RANGE_SECTORS.to_le_bytes());
            put(range + 4, &(MOST_RANGES as u32).to_le_bytes());
        }
        put(44, &(image.block() / SECTOR as u32).to_le_bytes());
        put(56, &[1]);
        Self { features: SEG_MAX | BLOCK_SIZE | FLUSH | TOPOLOGY | writes, config, io_uring }
    }
}

impl Model for Disk {
    fn kind(&self) -> u16 {
        BLOCK
    }

    fn class(&self) -> u32 {
        // Mass storage controller, other.
        0x01_80_00
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn queues(&self) -> Vec<u16> {
        vec![QUEUE]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_bytes(&self.config, offset, data);
    }

    fn io_uring(&self) -> Option<bool> {
        Some(self.io_uring.load(Ordering::Relaxed))
    }
}
