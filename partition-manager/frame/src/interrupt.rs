//! Interrupt sources of the whole frame: whose each is, where it leads, what became of it.
//!
//! As PowerVM's hypervisor has it (PAPR, `ibm,xics`), each source has a number of its own in the frame. It is made
//! of the partition's number, the device's slot and the vector, so that no source has two owners and none can be
//! named twice.

use crate::latency::Histogram;
use crate::launch::{LaunchSpec, Place};
use crate::name::Name;
use crate::storm::Quarantine;
use crate::topology::ApicLayout;
use crate::wire::{DeviceState, DeviceStatus, VectorStatus};
use serde::{Deserialize, Serialize};

/// Most vectors of one device that are shown; a device has fewer.
pub const MOST_VECTORS: usize = 128;

/// The number of a source in the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Source(u32);

impl Source {
    /// Vector `vector` of the device in `slot`, 0..=31, of partition number `partition`, 1..=65535. None when a
    /// number is larger.
    #[must_use]
    pub fn new(partition: u32, slot: u8, vector: usize) -> Option<Self> {
        let fits = partition <= 0xffff && slot < 32 && vector < MOST_VECTORS;
        fits.then(|| Self(partition << 12 | u32::from(slot) << 7 | vector as u32))
    }

    /// The number.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }

    /// Partition number, slot and vector.
    #[must_use]
    pub const fn parts(self) -> (u32, u8, usize) {
        (self.0 >> 12, (self.0 >> 7 & 31) as u8, (self.0 & 0x7f) as usize)
    }
}

/// What becomes of an interrupt that a source raises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum SourceState {
    /// It is delivered.
    Enabled,
    /// It waits until the guest unmasks it, or turns it on.
    Masked,
    /// It was raised far beyond its limit: nothing is delivered until it is quiet or, after the sixth time in an hour,
    /// until it is cleared.
    Quarantined,
    /// Its device is frozen until the guest resets it.
    Frozen,
    /// Its device is frozen until it is serviced.
    Failed,
}

/// One interrupt source: a row of `lpar interrupts`, flat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct InterruptRow {
    /// Its number in the frame.
    pub source: u32,
    /// The partition that owns it.
    pub partition: Name,
    /// The device.
    pub device: Name,
    /// The device's PCI slot.
    pub slot: u8,
    /// The MSI-X vector of the device.
    pub vector: u16,
    /// What becomes of it.
    pub state: SourceState,
    /// The virtual processor that it leads to; absent while it is masked, or where the guest names several.
    pub processor: Option<u32>,
    /// The interrupt vector on that processor; absent while it is masked.
    pub interrupt: Option<u8>,
    /// Messages that were sent.
    pub delivered: u64,
    /// Times it was raised while it was masked.
    pub masked: u64,
    /// Times it was raised beyond its limit, and one with another that waited.
    pub coalesced: u64,
    /// Storms: times it was quarantined.
    pub storms: u64,
    /// Whether one waits to be unmasked.
    pub pending: bool,
    /// How often the device froze.
    pub freezes: u64,
    /// How many of its interrupts were timed. 0 where the guest's acknowledgement cannot be seen.
    pub timed: u64,
    /// Microseconds that half of them took at most, from the message to the guest's acknowledgement, up to the next
    /// power of two; absent when none was timed, or when it is longer than 4 s.
    pub latency_median: Option<u64>,
    /// The same of 99 in a hundred.
    pub latency_p99: Option<u64>,
    /// How many took how long: below 1 microsecond, then below 2, 4, 8 and so on; the last of 24, if there are so
    /// many, 4.2 s and longer. Zeros at the end are left out.
    pub latency: Vec<u64>,
}

/// The virtual processor that a message goes to (Intel SDM, volume 3, section 11.11.1): by its APIC identifier,
/// or the only one of a logical destination in the flat model.
fn processor(address: u64, places: &[Place]) -> Option<u32> {
    let destination = (address >> 12 & 0xff) as u32;
    let logical = address & 1 << 2 != 0;
    let layout = ApicLayout::of(places)?;
    let wanted = |(at, place): (usize, &Place)| {
        let hit = if logical { destination == 1 << (at & 7) && at < 8 } else { layout.id(*place) == destination };
        hit.then_some(at as u32)
    };
    places.iter().enumerate().find_map(wanted)
}

/// The sources of a partition that was launched with `spec`, as its process says of its devices. What it says is
/// not believed beyond what it was launched with.
#[must_use]
pub fn rows(spec: &LaunchSpec, statuses: &[DeviceStatus]) -> Vec<InterruptRow> {
    let places: Vec<Place> = spec.processors.iter().map(|processor| processor.place).collect();
    let mut rows = vec![];
    for (device, status) in spec.devices.iter().zip(statuses) {
        for (vector, figures) in status.vectors.iter().take(MOST_VECTORS).enumerate() {
            let Some(source) = Source::new(spec.id, device.slot, vector) else { continue };
            let VectorStatus { address, data, pending, delivered, masked, coalesced, storms, quarantine, latency } =
                *figures;
            rows.push(InterruptRow {
                source: source.number(),
                partition: spec.name.clone(),
                device: device.name.clone(),
                slot: device.slot,
                vector: vector as u16,
                state: match (status.state, address) {
                    (DeviceState::Frozen, _) => SourceState::Frozen,
                    (DeviceState::Permanent, _) => SourceState::Failed,
                    (DeviceState::Working, _) if quarantine != Quarantine::No => SourceState::Quarantined,
                    (DeviceState::Working, Some(_)) => SourceState::Enabled,
                    (DeviceState::Working, None) => SourceState::Masked,
                },
                processor: address.and_then(|address| processor(address, &places)),
                interrupt: address.map(|_| data as u8),
                delivered,
                masked,
                coalesced,
                storms,
                pending,
                freezes: status.freezes,
                timed: latency.total(),
                latency_median: latency.quantile(50).and_then(Histogram::end),
                latency_p99: latency.quantile(99).and_then(Histogram::end),
                latency: latency.into(),
            });
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_message_leads_to_the_processor_that_it_names() {
        let places: Vec<Place> = (0..10).map(|core| Place { core, ..Place::default() }).collect();
        assert_eq!(processor(0xfee0_3000, &places), Some(3));
        assert_eq!(processor(0xfee0_9000, &places), Some(9));
        assert_eq!(processor(0xfee0_a000, &places), None);
        assert_eq!(processor(0xfee0_4004, &places), Some(2), "logical: a bit for each");
        assert_eq!(processor(0xfee0_6004, &places), None, "two of them");
        let threads: Vec<Place> =
            (0..4).map(|at| Place { core: at / 2, thread: at % 2, package: 0, node: 0 }).collect();
        assert_eq!(processor(0xfee0_2000, &threads), Some(2));
    }

    proptest! {
        #[test]
        fn a_source_has_one_owner(partition in 1..=65_535u32, slot in 0..40u8, vector in 0..200usize) {
            match Source::new(partition, slot, vector) {
                Some(source) => prop_assert_eq!(source.parts(), (partition, slot, vector)),
                None => prop_assert!(slot >= 32 || vector >= MOST_VECTORS),
            }
        }
    }
}
