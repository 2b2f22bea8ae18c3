//! The inventory: what the host has, as far as a plan needs to know it.
//!
//! Filled from sysfs by who may read it, or from a JSON file, so that a plan can be made for a machine
//! that one does not have.

use crate::cpuset::CpuSet;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What a host has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inventory {
    /// The logical CPUs that are online.
    pub cpus: Vec<Cpu>,
    /// The NUMA nodes; a host without NUMA is one node.
    pub nodes: Vec<Node>,
    /// The caches, as far as known.
    #[serde(default)]
    pub caches: Vec<Cache>,
    /// Devices that could be dedicated, as far as known.
    #[serde(default)]
    pub devices: Vec<Device>,
}

/// What a cache holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CacheKind {
    /// Data only.
    Data,
    /// Instructions only.
    Instruction,
    /// Both.
    Unified,
}

/// One cache (Linux, Documentation/ABI/testing/sysfs-devices-system-cpu, `cacheinfo`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cache {
    /// Level, 1 is nearest to the CPU.
    pub level: u8,
    /// What it holds.
    pub kind: CacheKind,
    /// Size, bytes.
    pub size: u64,
    /// Bytes of a line; 0 when not known.
    #[serde(default)]
    pub line: u32,
    /// Lines of a set; 0 when not known.
    #[serde(default)]
    pub ways: u32,
    /// The logical CPUs that share it.
    pub cpus: CpuSet,
}

/// One PCI function (Linux, Documentation/ABI/testing/sysfs-bus-pci).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// Its address, such as `0000:3b:00.1`.
    pub address: String,
    /// Class, subclass and programming interface, such as 0x020000.
    pub class: u32,
    /// Vendor and device number, such as 0x8086 and 0x1572.
    pub vendor: u16,
    /// As [`Device::vendor`].
    pub device: u16,
    /// The node that it is attached to, when known.
    #[serde(default)]
    pub node: Option<u32>,
    /// The IOMMU group that it can only be given away with, when there is one.
    #[serde(default)]
    pub group: Option<u32>,
}

/// One logical CPU (Linux, Documentation/admin-guide/cputopology.rst).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cpu {
    /// Its number, as in `/sys/devices/system/cpu/cpuN`.
    pub id: u32,
    /// The package (socket) that it is in.
    pub package: u32,
    /// Its core; unique within the package. CPUs of one core are siblings.
    pub core: u32,
    /// The NUMA node that it belongs to.
    pub node: u32,
}

/// One NUMA node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Its number, as in `/sys/devices/system/node/nodeN`.
    pub id: u32,
    /// All its memory, huge pages included, bytes.
    pub memory: u64,
    /// What of it could be had now in ordinary pages without swapping, bytes.
    pub available: u64,
    /// Its pools of huge pages, one for each size.
    #[serde(default)]
    pub huge_pages: Vec<HugePages>,
    /// Distance to each node, in the order of [`Inventory::nodes`] (ACPI 6.5, section 5.2.17: 10 is local).
    /// May be empty: then every other node is equally far.
    #[serde(default)]
    pub distances: Vec<u32>,
}

/// A pool of huge pages of one node (Linux, Documentation/admin-guide/mm/hugetlbpage.rst).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HugePages {
    /// Size of one page, bytes.
    pub size: u64,
    /// How many pages the pool has.
    pub total: u64,
    /// How many of them nobody uses.
    pub free: u64,
}

/// Most logical CPUs of an inventory.
pub const MOST_CPUS: usize = 65_536;
/// Most NUMA nodes of an inventory (Linux on x86-64 can be built for at most 1024).
pub const MOST_NODES: usize = 1024;
/// Size of an ordinary page on x86-64, bytes.
pub const PAGE: u64 = 4096;

/// Why an inventory cannot be that of a host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InventoryError {
    /// The inventory is no JSON of this form.
    #[error("the inventory is not JSON of the expected form: {0}; write one with `lpar doctor --inventory`")]
    Form(String),
    /// There is no CPU.
    #[error("the inventory has no CPU; a host has at least one")]
    NoCpu,
    /// There is no node.
    #[error("the inventory has no NUMA node; a host without NUMA has one node, number 0")]
    NoNode,
    /// There are more things than supported.
    #[error("the inventory has {count} {what}, at most {most} are supported")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        most: usize,
    },
    /// A CPU number is above [`crate::cpuset::HIGHEST`].
    #[error("CPU {0} is above {highest}, the highest number supported", highest = crate::cpuset::HIGHEST)]
    CpuTooHigh(u32),
    /// Two CPUs have one number.
    #[error("CPU {0} is listed twice")]
    CpuTwice(u32),
    /// Two nodes have one number.
    #[error("node {0} is listed twice")]
    NodeTwice(u32),
    /// A CPU's node is not listed.
    #[error("CPU {cpu} is on node {node}, which is not listed under \"nodes\"")]
    NodeMissing {
        /// The CPU.
        cpu: u32,
        /// The node that it names.
        node: u32,
    },
    /// The siblings of a core are on two nodes.
    #[error("core {core} of package {package} is on nodes {first} and {second}; a core is on one node")]
    CoreSplit {
        /// The package.
        package: u32,
        /// The core.
        core: u32,
        /// The node of its first CPU.
        first: u32,
        /// The node of a later CPU.
        second: u32,
    },
    /// More memory is available than there is.
    #[error("node {node} has {available} bytes available of {memory}; available cannot be more than memory")]
    Available {
        /// The node.
        node: u32,
        /// What is said to be available, bytes.
        available: u64,
        /// What there is, bytes.
        memory: u64,
    },
    /// A pool of huge pages cannot be.
    #[error("node {node}, huge pages of {size} bytes: {why}")]
    HugePages {
        /// The node.
        node: u32,
        /// Size of a page, bytes.
        size: u64,
        /// What is wrong.
        why: &'static str,
    },
    /// The distances are not one for each node.
    #[error("node {node} lists {count} distances; there must be none, or one for each of the {nodes} nodes")]
    Distances {
        /// The node.
        node: u32,
        /// How many it lists.
        count: usize,
        /// How many nodes there are.
        nodes: usize,
    },
}

impl Inventory {
    /// Reads an inventory from JSON and validates it.
    ///
    /// # Errors
    /// [`InventoryError`]: the text has another form, or no host can be so.
    pub fn from_json(text: &str) -> Result<Self, InventoryError> {
        let inventory: Self = serde_json::from_str(text).map_err(|e| InventoryError::Form(e.to_string()))?;
        inventory.validate()?;
        Ok(inventory)
    }

    /// Checks that a host can be so.
    ///
    /// # Errors
    /// [`InventoryError`] names the first thing that cannot be.
    pub fn validate(&self) -> Result<(), InventoryError> {
        for (what, count, most) in [("CPUs", self.cpus.len(), MOST_CPUS), ("NUMA nodes", self.nodes.len(), MOST_NODES)]
        {
            if count > most {
                return Err(InventoryError::TooMany { what, count, most });
            }
        }
        if self.cpus.is_empty() {
            return Err(InventoryError::NoCpu);
        }
        if self.nodes.is_empty() {
            return Err(InventoryError::NoNode);
        }
        let mut nodes = BTreeSet::new();
        for node in &self.nodes {
            if !nodes.insert(node.id) {
                return Err(InventoryError::NodeTwice(node.id));
            }
            node.validate(self.nodes.len())?;
        }
        let mut cpus = BTreeSet::new();
        let mut cores = BTreeMap::new();
        for &Cpu { id, package, core, node } in &self.cpus {
            if id > crate::cpuset::HIGHEST {
                return Err(InventoryError::CpuTooHigh(id));
            }
            if !cpus.insert(id) {
                return Err(InventoryError::CpuTwice(id));
            }
            if !nodes.contains(&node) {
                return Err(InventoryError::NodeMissing { cpu: id, node });
            }
            let first = *cores.entry((package, core)).or_insert(node);
            if first != node {
                return Err(InventoryError::CoreSplit { package, core, first, second: node });
            }
        }
        Ok(())
    }

    /// Distance between two nodes given by their positions in [`Inventory::nodes`].
    #[must_use]
    pub fn distance(&self, from: usize, to: usize) -> u32 {
        let listed = self.nodes.get(from).and_then(|node| node.distances.get(to)).copied();
        listed.unwrap_or(if from == to { 10 } else { 20 })
    }
}

impl Node {
    fn validate(&self, nodes: usize) -> Result<(), InventoryError> {
        if self.available > self.memory {
            return Err(InventoryError::Available { node: self.id, available: self.available, memory: self.memory });
        }
        if !self.distances.is_empty() && self.distances.len() != nodes {
            return Err(InventoryError::Distances { node: self.id, count: self.distances.len(), nodes });
        }
        let mut sizes = BTreeSet::new();
        let mut bytes = 0u64;
        for &HugePages { size, total, free } in &self.huge_pages {
            let all = total.checked_mul(size).and_then(|pool| bytes.checked_add(pool));
            let why = match all {
                _ if !size.is_power_of_two() || size <= PAGE => Some("the size is no power of two above 4096"),
                _ if !sizes.insert(size) => Some("the size is listed twice"),
                _ if free > total => Some("more pages are free than there are"),
                None => Some("the pages are more than the node's memory"),
                Some(all) if all > self.memory => Some("the pages are more than the node's memory"),
                Some(all) => {
                    bytes = all;
                    None
                }
            };
            if let Some(why) = why {
                return Err(InventoryError::HugePages { node: self.id, size, why });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::GIB;

    fn small() -> Inventory {
        Inventory {
            cpus: vec![Cpu { id: 0, package: 0, core: 0, node: 0 }, Cpu { id: 1, package: 0, core: 0, node: 0 }],
            nodes: vec![Node { id: 0, memory: GIB, available: GIB, huge_pages: vec![], distances: vec![10] }],
            ..Inventory::default()
        }
    }

    #[test]
    fn a_small_host_is_valid_and_survives_json() {
        let host = small();
        let text = serde_json::to_string(&host).unwrap();
        assert_eq!(Inventory::from_json(&text), Ok(host));
    }

    #[test]
    fn refuses_what_no_host_can_be() {
        let broken = |change: fn(&mut Inventory)| {
            let mut host = small();
            change(&mut host);
            host.validate().unwrap_err()
        };
        assert_eq!(broken(|h| h.cpus.clear()), InventoryError::NoCpu);
        assert_eq!(broken(|h| h.nodes.clear()), InventoryError::NoNode);
        assert_eq!(broken(|h| h.cpus[1].id = 0), InventoryError::CpuTwice(0));
        assert_eq!(broken(|h| h.cpus[1].id = 70_000), InventoryError::CpuTooHigh(70_000));
        assert_eq!(broken(|h| h.cpus[1].node = 3), InventoryError::NodeMissing { cpu: 1, node: 3 });
        assert!(matches!(broken(|h| h.nodes[0].available = 2 * GIB), InventoryError::Available { .. }));
        assert!(matches!(broken(|h| h.nodes[0].distances = vec![10, 20]), InventoryError::Distances { .. }));
        let pages =
            |size, total, free| move |h: &mut Inventory| h.nodes[0].huge_pages = vec![HugePages { size, total, free }];
        for change in [pages(3, 1, 1), pages(1 << 21, 1, 2), pages(1 << 21, u64::MAX, 0), pages(1 << 21, 513, 0)] {
            let mut host = small();
            change(&mut host);
            assert!(matches!(host.validate(), Err(InventoryError::HugePages { .. })));
        }
        let mut two = small();
        two.nodes.push(Node { id: 1, memory: GIB, available: 0, huge_pages: vec![], distances: vec![] });
        two.nodes[0].distances.clear();
        two.cpus[1].node = 1;
        assert!(matches!(two.validate(), Err(InventoryError::CoreSplit { .. })));
        assert!(matches!(Inventory::from_json("{}"), Err(InventoryError::Form(_))));
    }
}
