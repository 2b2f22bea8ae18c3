//! What partitions cost the host besides their own memory.

use super::Overhead;
use crate::declare::Partition;
use crate::inventory::PAGE;
use crate::units::{KIB, MIB};

/// Planning figure for the monitor process of a partition, without guest memory, bytes.
pub const MONITOR: u64 = 2 * MIB;
/// Planning figure for what the kernel keeps for a virtual machine, bytes.
pub const MACHINE: u64 = 512 * KIB;
/// Planning figure for what the kernel and the monitor keep for a virtual processor, bytes.
pub const PROCESSOR: u64 = 64 * KIB;
/// Bytes of one page table entry (Intel SDM volume 3, section 4.5).
const ENTRY: u64 = 8;

/// The items for one partition that has `processors` virtual processors and pages of `pages` bytes.
pub(super) fn items(partition: &Partition, processors: usize, pages: u64) -> Vec<Overhead> {
    let item = |what: &'static str, bytes| Overhead { partition: partition.name.clone(), what: what.into(), bytes };
    // One entry for each page in the nested tables of the guest and one in those of the monitor; the upper
    // levels add less than one part in five hundred.
    let tables = (partition.memory.size.maximum / pages.max(PAGE)).saturating_mul(2 * ENTRY);
    vec![
        item("monitor process", MONITOR),
        item("virtual machine", MACHINE),
        item("virtual processors", PROCESSOR.saturating_mul(processors as u64)),
        item("page tables", tables.div_ceil(PAGE).saturating_mul(PAGE)),
    ]
}
