//! The entropy device (virtio 1.2, section 5.4): random bytes of the host's kernel.

use super::Model;
use super::ring::Ring;
use super::worker::{Served, Service};
use crate::devices::pci::freeze::Fault;

/// Type of the device.
const ENTROPY: u16 = 4;
/// Most bytes that one request is given: what the host's kernel gives without a stop (getrandom(2)).
const MOST: usize = 256;

/// The model; it has no configuration.
#[derive(Debug)]
pub struct Entropy;

impl Model for Entropy {
    fn kind(&self) -> u16 {
        ENTROPY
    }

    fn class(&self) -> u32 {
        // Encryption controller, other.
        0x10_80_00
    }

    fn features(&self) -> u64 {
        0
    }

    fn queues(&self) -> Vec<u16> {
        vec![64]
    }
}

/// Fills the driver's buffers.
#[derive(Debug)]
pub struct Source;

impl Service for Source {
    fn serve(&mut self, rings: &mut [Option<Ring>], queue: usize) -> Result<Served, Fault> {
        let Some(Some(ring)) = rings.get_mut(queue) else { return Ok(Served::All) };
        let mut bytes = [0; MOST];
        while let Some(chain) = ring.take()? {
            let wanted = usize::try_from(chain.writable_bytes()).unwrap_or(MOST).min(MOST);
            let piece = bytes.get_mut(..wanted).unwrap_or_default();
            let (random, _) = rustix::rand::getrandom(&mut *piece, rustix::rand::GetRandomFlags::empty())
                .map(|given| piece.split_at(given))
                .map_err(|error| Fault::Backend(format!("getrandom: {error}")))?;
            let written = ring.write(&chain.writable, 0, random)?;
            ring.complete(chain.head, written as u32)?;
        }
        ring.notify()?;
        Ok(Served::All)
    }
}
