//! Guard records: what of the host is deconfigured, and why.
//!
//! As on Power, a record outlives the fault that it was written for: it stays until the part is repaired or
//! someone takes the record away. A plan gives what is guarded to nobody. What runs on it keeps running,
//! and is told; it is left behind at the next activation.

use crate::cpuset::CpuSet;
use crate::inventory::{Cpu, Inventory};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// One guard record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guard {
    /// What is deconfigured.
    pub unit: Unit,
    /// Why it was taken out.
    pub kind: Kind,
    /// What was seen, in a sentence; at most [`LONGEST_REASON`] bytes.
    pub reason: String,
    /// When it was recorded: wall clock, nanoseconds since 1970-01-01 UTC.
    pub time: u64,
}

/// What a guard record takes out. A record of a unit that the host does not have (any more) takes out nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Unit {
    /// One logical CPU, by its number.
    Cpu(u32),
    /// A core with all its siblings, by the numbers of [`Cpu::package`] and [`Cpu::core`].
    Core {
        /// The package.
        package: u32,
        /// The core.
        core: u32,
    },
    /// An amount of ordinary memory of a node. Records of one node add up.
    Memory {
        /// The node's number.
        node: u32,
        /// How much, bytes.
        bytes: u64,
    },
}

/// Why a unit was taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// By hand.
    Manual,
    /// It works, but more errors were corrected in it than are tolerated.
    Predictive,
    /// It had an error that could not be corrected.
    Fatal,
}

/// Most guard records of one inventory.
pub const MOST_GUARDS: usize = 4096;
/// Longest reason, bytes.
pub const LONGEST_REASON: usize = 256;

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu(cpu) => write!(f, "CPU {cpu}"),
            Self::Core { package, core } => write!(f, "core {core} of package {package}"),
            Self::Memory { node, bytes } => write!(f, "{} of node {node}", crate::units::show_size(*bytes)),
        }
    }
}

impl Inventory {
    /// The CPUs that its guard records take out.
    #[must_use]
    pub fn guarded_cpus(&self) -> CpuSet {
        let (mut cpus, mut cores) = (BTreeSet::new(), BTreeSet::new());
        for guard in &self.guards {
            match guard.unit {
                Unit::Cpu(cpu) => {
                    cpus.insert(cpu);
                }
                Unit::Core { package, core } => {
                    cores.insert((package, core));
                }
                Unit::Memory { .. } => {}
            }
        }
        let out = |cpu: &&Cpu| cpus.contains(&cpu.id) || cores.contains(&(cpu.package, cpu.core));
        self.cpus.iter().filter(out).map(|cpu| cpu.id).collect()
    }

    /// The memory that its guard records take out, bytes by node number; no more than the node has.
    #[must_use]
    pub fn guarded_memory(&self) -> BTreeMap<u32, u64> {
        let mut sums: BTreeMap<u32, u64> = BTreeMap::new();
        for guard in &self.guards {
            if let Unit::Memory { node, bytes } = guard.unit {
                let sum = sums.entry(node).or_default();
                *sum = sum.saturating_add(bytes);
            }
        }
        let there: BTreeMap<u32, u64> = self.nodes.iter().map(|node| (node.id, node.memory)).collect();
        let bounded = sums.into_iter().filter_map(|(node, bytes)| Some((node, bytes.min(*there.get(&node)?))));
        bounded.filter(|&(_, bytes)| bytes > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::Node;

    fn guard(unit: Unit) -> Guard {
        Guard { unit, kind: Kind::Fatal, reason: "machine check".into(), time: 1 }
    }

    fn host(units: &[Unit]) -> Inventory {
        let cpus = (0..8).map(|id| Cpu { id, package: id / 4, core: id / 2 % 2, node: 0 }).collect();
        let node = Node { id: 0, memory: 1 << 30, available: 1 << 30, huge_pages: vec![], distances: vec![] };
        let guards = units.iter().copied().map(guard).collect();
        Inventory { cpus, nodes: vec![node], guards, ..Inventory::default() }
    }

    #[test]
    fn a_core_goes_with_its_siblings_and_no_other_package() {
        let out = |units: &[Unit]| host(units).guarded_cpus().to_string();
        assert_eq!(out(&[Unit::Cpu(3)]), "3");
        assert_eq!(out(&[Unit::Core { package: 1, core: 0 }]), "4-5");
        assert_eq!(out(&[Unit::Core { package: 1, core: 0 }, Unit::Cpu(5), Unit::Cpu(99)]), "4-5");
    }

    #[test]
    fn memory_adds_up_to_what_there_is() {
        let out = |units: &[Unit]| host(units).guarded_memory();
        let some = Unit::Memory { node: 0, bytes: 1 << 20 };
        assert_eq!(out(&[some, some]), BTreeMap::from([(0, 2 << 20)]));
        assert_eq!(out(&[Unit::Memory { node: 0, bytes: u64::MAX }, some]), BTreeMap::from([(0, 1 << 30)]));
        assert_eq!(out(&[Unit::Memory { node: 7, bytes: 1 }]), BTreeMap::new());
    }

    #[test]
    fn a_record_survives_json() {
        let inventory = host(&[Unit::Cpu(1), Unit::Core { package: 0, core: 1 }, Unit::Memory { node: 0, bytes: 9 }]);
        let text = serde_json::to_string(&inventory).unwrap();
        assert!(text.contains(r#""unit":{"core":{"package":0,"core":1}}"#), "{text}");
        assert_eq!(Inventory::from_json(&text), Ok(inventory));
    }
}
