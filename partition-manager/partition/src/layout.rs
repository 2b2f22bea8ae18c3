//! Where memory lies in the guest's physical address space. Pure.

use crate::devices::pci::root::ECAM_BYTES;
use frame::launch::MemorySpec;
use frame::platform::{ECAM_BASE, HOLE_END, HOLE_START};

/// First address of the extended BIOS data area, where usable low memory ends, as on a PC.
pub const EBDA_START: u64 = 0x9_fc00;
/// First address above the legacy area: usable memory goes on here.
pub const HIGH_START: u64 = 0x10_0000;
/// Least memory that anything can be started in, bytes.
pub const LEAST_MEMORY: u64 = 2 << 20;

/// A run of guest-physical addresses that is backed by one run of one memfd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// First guest-physical address.
    pub start: u64,
    /// Length, bytes.
    pub bytes: u64,
    /// Entry of the launch specification's memory that backs it.
    pub node: usize,
    /// Where in the memfd it begins, bytes.
    pub offset: u64,
}

/// What a range of addresses is, with the numbers of the ACPI address range types (ACPI 6.5, table 15.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Usable memory.
    Ram = 1,
    /// Not to be used.
    Reserved = 2,
}

/// One entry of the memory map that a guest is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First address.
    pub start: u64,
    /// Length, bytes.
    pub bytes: u64,
    /// What it is.
    pub kind: Kind,
}

/// Lays the nodes' memory out in order: from 0 up to the device hole, the rest from 4 GiB on.
///
/// A node that reaches into the hole is split there. Sizes are taken as [`frame::launch::LaunchSpec::validate`]
/// allows them.
#[must_use]
pub fn slots(memory: &[MemorySpec]) -> Vec<Slot> {
    let mut slots = Vec::with_capacity(memory.len() + 1);
    let mut next = 0;
    for (node, spec) in memory.iter().enumerate() {
        let mut offset = 0;
        while offset < spec.bytes {
            if next == HOLE_START {
                next = HOLE_END;
            }
            let room = if next < HOLE_START { HOLE_START - next } else { u64::MAX };
            let bytes = room.min(spec.bytes - offset);
            slots.push(Slot { start: next, bytes, node, offset });
            next = next.saturating_add(bytes);
            offset += bytes;
        }
    }
    slots
}

/// First address above the memory that lies below the hole.
#[must_use]
pub fn low_end(total: u64) -> u64 {
    total.min(HOLE_START)
}

/// The memory map of a guest with `total` bytes, at least [`LEAST_MEMORY`].
#[must_use]
pub fn map(total: u64) -> Vec<Range> {
    let low = low_end(total);
    let mut map = vec![
        Range { start: 0, bytes: EBDA_START, kind: Kind::Ram },
        Range { start: EBDA_START, bytes: HIGH_START - EBDA_START, kind: Kind::Reserved },
        Range { start: HIGH_START, bytes: low.saturating_sub(HIGH_START), kind: Kind::Ram },
        // Linux uses the enhanced configuration area only if the map, or ACPI, keeps it from other use.
        Range { start: ECAM_BASE, bytes: ECAM_BYTES, kind: Kind::Reserved },
    ];
    if total > low {
        map.push(Range { start: HOLE_END, bytes: total - low, kind: Kind::Ram });
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn node(bytes: u64) -> MemorySpec {
        MemorySpec { node: 0, bytes, pages: 4096 }
    }

    #[test]
    fn a_node_is_split_at_the_hole() {
        assert_eq!(
            slots(&[node(HOLE_START + 4096), node(8192)]),
            [
                Slot { start: 0, bytes: HOLE_START, node: 0, offset: 0 },
                Slot { start: HOLE_END, bytes: 4096, node: 0, offset: HOLE_START },
                Slot { start: HOLE_END + 4096, bytes: 8192, node: 1, offset: 0 },
            ]
        );
    }

    #[test]
    fn a_node_that_ends_at_the_hole_leaves_none_there() {
        let slots = slots(&[node(HOLE_START), node(4096)]);
        assert_eq!(slots.iter().map(|slot| slot.start).collect::<Vec<_>>(), [0, HOLE_END]);
    }

    proptest! {
        #[test]
        fn slots_cover_every_byte_once_and_leave_the_hole(
            pages in proptest::collection::vec(1u64..0x20_0000, 1..8),
        ) {
            let memory: Vec<MemorySpec> = pages.iter().map(|pages| node(pages * 4096)).collect();
            let total: u64 = memory.iter().map(|spec| spec.bytes).sum();
            let slots = slots(&memory);
            prop_assert_eq!(slots.iter().map(|slot| slot.bytes).sum::<u64>(), total);
            let mut offsets = vec![0; memory.len()];
            let mut end = 0;
            for slot in &slots {
                prop_assert!(slot.start >= end);
                end = slot.start + slot.bytes;
                prop_assert!(end <= HOLE_START || slot.start >= HOLE_END);
                prop_assert_eq!(slot.offset, offsets[slot.node]);
                offsets[slot.node] += slot.bytes;
            }
            for (offset, spec) in offsets.iter().zip(&memory) {
                prop_assert_eq!(*offset, spec.bytes);
            }
        }

        #[test]
        fn the_map_tells_of_all_memory_but_the_legacy_area(total in LEAST_MEMORY..(1u64 << 40)) {
            let map = map(total);
            let all: u64 = map.iter().filter(|range| range.start != ECAM_BASE).map(|range| range.bytes).sum();
            prop_assert_eq!(all, total);
            for pair in map.windows(2) {
                prop_assert!(pair[0].start + pair[0].bytes <= pair[1].start);
            }
            prop_assert!(map.iter().filter(|range| range.kind == Kind::Ram).all(|range| range.bytes > 0));
        }
    }
}
