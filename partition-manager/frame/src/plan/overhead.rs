//! What partitions cost the host besides their own memory, and how near their memory is.

use super::{Extent, Overhead};
use crate::cpuset::CpuSet;
use crate::declare::Partition;
use crate::inventory::PAGE;
use crate::units::{KIB, MIB};
use std::collections::BTreeMap;

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

/// The share of pairs of processor and memory that are on one node, percent, rounded down.
///
/// `node_of` gives the node of each CPU.
pub(super) fn score(node_of: &BTreeMap<u32, u32>, processors: &[CpuSet], memory: &[Extent]) -> u8 {
    let mut cpus: BTreeMap<u32, u128> = BTreeMap::new();
    let mut total_cpus = 0u128;
    // Virtual processors that share one set count as that set.
    let shared = processors.windows(2).all(|pair| pair[0] == pair[1]);
    for cpu in processors.iter().take(if shared { 1 } else { usize::MAX }).flat_map(CpuSet::iter) {
        if let Some(&node) = node_of.get(&cpu) {
            *cpus.entry(node).or_default() += 1;
            total_cpus += 1;
        }
    }
    let total_blocks: u128 = memory.iter().map(|extent| u128::from(extent.blocks)).sum();
    let local: u128 =
        memory.iter().map(|extent| u128::from(extent.blocks) * cpus.get(&extent.node).copied().unwrap_or(0)).sum();
    let percent = (local * 100).checked_div(total_cpus * total_blocks).unwrap_or(0);
    u8::try_from(percent.min(100)).unwrap_or(100)
}
