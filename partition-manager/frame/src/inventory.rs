//! The inventory: what the host has, as far as a plan needs to know it.
//!
//! Filled from sysfs by who may read it, or from a JSON file, so that a plan can be made for a machine
//! that one does not have.

mod check;
mod form;
#[cfg(test)]
mod tests;

use crate::cpuset::CpuSet;
use crate::guard::Guard;
use serde::{Deserialize, Serialize};

/// What a host has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "form::Form")]
pub struct Inventory {
    /// The logical CPUs that are online.
    pub cpus: Vec<Cpu>,
    /// The NUMA nodes; a host without NUMA is one node.
    pub nodes: Vec<Node>,
    /// The caches, as far as known.
    pub caches: Vec<Cache>,
    /// Devices that could be dedicated, as far as known.
    pub devices: Vec<Device>,
    /// What of all this is deconfigured: a plan gives it to nobody.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub guards: Vec<Guard>,
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cache {
    /// Level, 1 is nearest to the CPU.
    pub level: u8,
    /// What it holds.
    pub kind: CacheKind,
    /// Size, bytes.
    pub size: u64,
    /// Bytes of a line; 0 when not known.
    pub line: u32,
    /// Lines of a set; 0 when not known.
    pub ways: u32,
    /// The online logical CPUs that share it. A CPU has at most one cache of a level and kind.
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
/// Highest level of a cache.
pub const MOST_LEVELS: u8 = 8;
/// Most PCI functions of an inventory.
pub const MOST_DEVICES: usize = 65_536;
/// Distance of a node to itself (ACPI 6.5, section 5.2.17).
pub const LOCAL: u32 = 10;
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
    /// A cache cannot be.
    #[error("cache {index} (level {level}, {kind}): {why}")]
    Cache {
        /// Which entry of `caches`, from 0.
        index: usize,
        /// Its level.
        level: u8,
        /// What it holds.
        kind: CacheKind,
        /// What is wrong.
        why: String,
    },
    /// A device cannot be.
    #[error("device {address:?}: {why}")]
    Device {
        /// Its address, cut short.
        address: String,
        /// What is wrong.
        why: String,
    },
    /// A guard record cannot be.
    #[error("the guard record of {unit}: {why}")]
    Guard {
        /// What it takes out.
        unit: crate::guard::Unit,
        /// What is wrong.
        why: String,
    },
}

impl std::fmt::Display for CacheKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Data => "data",
            Self::Instruction => "instruction",
            Self::Unified => "unified",
        })
    }
}

impl Inventory {
    /// Reads an inventory from JSON and validates it. The cost is bounded by the length of the text and by
    /// the limits of this module, whatever the text says.
    ///
    /// # Errors
    /// [`InventoryError`]: the text has another form, or no host can be so.
    pub fn from_json(text: &str) -> Result<Self, InventoryError> {
        let inventory: Self = serde_json::from_str(text).map_err(|e| InventoryError::Form(e.to_string()))?;
        inventory.validate()?;
        Ok(inventory)
    }

    /// Distance between two nodes given by their positions in [`Inventory::nodes`].
    #[must_use]
    pub fn distance(&self, from: usize, to: usize) -> u32 {
        let listed = self.nodes.get(from).and_then(|node| node.distances.get(to)).copied();
        listed.unwrap_or(if from == to { LOCAL } else { 20 })
    }
}
