//! Interrupt sources of the whole frame: whose each is, where it leads, what became of it.
//!
//! As PowerVM's hypervisor has it (PAPR, `ibm,xics`), each source has a number of its own in the frame. It is made
//! of the partition's number, the device's slot and the vector, so that no source has two owners and none can be
//! named twice.

use crate::latency::Histogram;
use crate::launch::{LaunchSpec, Place};
use crate::name::Name;
use crate::platform::{PCI_GSI, PCI_PINS, PIT_GSI, RTC_GSI, SCI_GSI, SERIAL_GSI};
use crate::storm::Quarantine;
use crate::topology::ApicLayout;
use crate::wire::{DeviceState, DeviceStatus, LineStatus, VectorStatus};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

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
    /// The device; of a line, what it belongs to.
    pub device: Name,
    /// The device's PCI slot; of a line, 0.
    pub slot: u8,
    /// The MSI-X vector of the device; of a line, the I/O APIC's pin.
    pub vector: u16,
    /// What becomes of it.
    pub state: SourceState,
    /// The virtual processor that it leads to; absent while it is masked, or where the guest names several.
    pub processor: Option<u32>,
    /// The interrupt vector on that processor; absent while it is masked.
    pub interrupt: Option<u8>,
    /// Messages that were sent; of a line, how often it was raised.
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
pub fn rows(spec: &LaunchSpec, statuses: &[DeviceStatus], lines: &[LineStatus]) -> Vec<InterruptRow> {
    let places: Vec<Place> = spec.processors.iter().map(|processor| processor.place).collect();
    let lines: BTreeMap<u32, &LineStatus> = lines.iter().map(|line| (line.gsi, line)).collect();
    let mut rows: Vec<InterruptRow> = lines.values().filter_map(|line| line_row(spec, line, &places)).collect();
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

/// A line to the I/O APIC. It is a level or a guest's own timer: the guest paces it, and nothing limits it.
fn line_row(spec: &LaunchSpec, line: &LineStatus, places: &[Place]) -> Option<InterruptRow> {
    let device = Name::new(line_name(line.gsi)?).ok()?;
    Some(InterruptRow {
        source: Source::new(spec.id, 0, line.gsi as usize)?.number(),
        partition: spec.name.clone(),
        device,
        slot: 0,
        vector: u16::try_from(line.gsi).ok()?,
        state: if line.address.is_some() { SourceState::Enabled } else { SourceState::Masked },
        processor: line.address.and_then(|address| processor(address, places)),
        interrupt: line.address.map(|_| line.data as u8),
        delivered: line.raised,
        masked: 0,
        coalesced: 0,
        storms: 0,
        pending: false,
        freezes: 0,
        timed: 0,
        latency_median: None,
        latency_p99: None,
        latency: vec![],
    })
}

/// Whose line a pin of the I/O APIC is.
fn line_name(gsi: u32) -> Option<String> {
    let own = match gsi {
        PIT_GSI => "pit",
        SERIAL_GSI => "console",
        RTC_GSI => "clock",
        SCI_GSI => "power",
        // The slots share them: each has that of its number, counted around.
        _ => return (PCI_GSI..PCI_GSI + PCI_PINS).contains(&gsi).then(|| format!("pin-{}", gsi - PCI_GSI)),
    };
    Some(own.to_owned())
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

    #[test]
    fn a_line_is_told_once_and_only_if_it_is_known() {
        let spec = crate::launch::tests::spec();
        let line = |gsi, address, raised| LineStatus { gsi, address, data: 0x31, raised };
        let told =
            [line(4, None, 1), line(5, None, 1), line(9, Some(0xfee0_0000), 7), line(4, None, 2), line(900, None, 0)];
        let rows = rows(&spec, &[], &told);
        let seen: Vec<_> = rows.iter().map(|row| (row.device.as_str(), row.vector, row.state, row.delivered)).collect();
        assert_eq!(seen, [("console", 4, SourceState::Masked, 2), ("power", 9, SourceState::Enabled, 7)]);
        assert_eq!((rows[1].processor, rows[1].interrupt), (Some(0), Some(0x31)));
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
