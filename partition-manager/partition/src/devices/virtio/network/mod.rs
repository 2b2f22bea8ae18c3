//! The network device (virtio 1.2, section 5.1): an adapter on a switch of the frame, by taps of the host.

pub mod adapter;
pub mod filter;
pub mod tap;

#[cfg(test)]
mod tests;

use super::{Model, read_bytes};
use filter::Dropped;
use frame::adapter::FrameCounts;
use frame::device::NetworkSpec;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Type of the device.
const NETWORK: u16 = 1;
/// Entries of a queue for frames.
const QUEUE: u16 = 256;
/// Entries of the control queue.
const CONTROL_QUEUE: u16 = 16;

// Section 5.1.3.
const CHECKSUM: u64 = 1 << 0;
const GUEST_CHECKSUM: u64 = 1 << 1;
const MTU: u64 = 1 << 3;
const MAC: u64 = 1 << 5;
const GUEST_TCP4: u64 = 1 << 7;
const GUEST_TCP6: u64 = 1 << 8;
const GUEST_ECN: u64 = 1 << 9;
const HOST_TCP4: u64 = 1 << 11;
const HOST_TCP6: u64 = 1 << 12;
const HOST_ECN: u64 = 1 << 13;
const MERGEABLE: u64 = 1 << 15;
const STATUS: u64 = 1 << 16;
const CONTROL: u64 = 1 << 17;
const MULTIQUEUE: u64 = 1 << 22;

/// The link is up (section 5.1.4).
const LINK_UP: u16 = 1;

/// Frames that went through, and those that did not, by reason.
#[derive(Debug, Default)]
pub struct Counters {
    /// Sent by the guest.
    pub sent: AtomicU64,
    /// Given to the guest.
    pub received: AtomicU64,
    /// Shorter than its header.
    pub short: AtomicU64,
    /// From another source than the adapter.
    pub source: AtomicU64,
    /// For bridges alone.
    pub reserved: AtomicU64,
    /// Of a VLAN that is not the adapter's.
    pub vlan: AtomicU64,
    /// With a tag within a tag.
    pub tags: AtomicU64,
    /// For another station.
    pub destination: AtomicU64,
    /// Too large for the guest's buffers, or refused by the host.
    pub refused: AtomicU64,
}

impl Counters {
    pub(super) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn counts(&self) -> FrameCounts {
        let [sent, received, short, source, reserved, vlan, tags, destination, refused] = [
            &self.sent,
            &self.received,
            &self.short,
            &self.source,
            &self.reserved,
            &self.vlan,
            &self.tags,
            &self.destination,
            &self.refused,
        ]
        .map(|counter| counter.load(Ordering::Relaxed));
        FrameCounts { sent, received, short, source, reserved, vlan, tags, destination, refused }
    }

    pub(super) fn dropped(&self, why: Dropped) {
        Self::count(match why {
            Dropped::Short => &self.short,
            Dropped::Source => &self.source,
            Dropped::Reserved => &self.reserved,
            Dropped::Vlan => &self.vlan,
            Dropped::Tags => &self.tags,
            Dropped::Destination => &self.destination,
        });
    }
}

/// The model: features and configuration never change.
#[derive(Debug)]
pub struct Network {
    pairs: u16,
    config: [u8; 12],
    counters: Arc<Counters>,
}

impl Network {
    /// An adapter as it is declared.
    #[must_use]
    pub fn new(spec: &NetworkSpec) -> Self {
        let pairs = u16::from(spec.queues);
        // `struct virtio_net_config` (section 5.1.4): address, status, queue pairs, largest payload.
        let words = [LINK_UP, pairs, spec.mtu].into_iter().flat_map(u16::to_le_bytes);
        let mut config = [0; 12];
        config.iter_mut().zip(spec.mac.0.into_iter().chain(words)).for_each(|(to, from)| *to = from);
        Self { pairs, config, counters: Arc::default() }
    }

    /// What went through and what did not.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }
}

impl Model for Network {
    fn kind(&self) -> u16 {
        NETWORK
    }

    fn class(&self) -> u32 {
        // Network controller, Ethernet.
        0x02_00_00
    }

    fn features(&self) -> u64 {
        let several = if self.pairs > 1 { CONTROL | MULTIQUEUE } else { 0 };
        let guest = GUEST_CHECKSUM | GUEST_TCP4 | GUEST_TCP6 | GUEST_ECN;
        let host = CHECKSUM | HOST_TCP4 | HOST_TCP6 | HOST_ECN;
        guest | host | MTU | MAC | MERGEABLE | STATUS | several
    }

    fn queues(&self) -> Vec<u16> {
        let mut queues = vec![QUEUE; usize::from(self.pairs) * 2];
        if self.pairs > 1 {
            queues.push(CONTROL_QUEUE);
        }
        queues
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_bytes(&self.config, offset, data);
    }

    fn frames(&self) -> Option<FrameCounts> {
        Some(self.counters.counts())
    }
}
