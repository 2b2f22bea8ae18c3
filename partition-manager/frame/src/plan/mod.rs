//! The plan: who gets which CPUs and which memory, decided before anything runs.
//!
//! [`plan`] is a pure function of what is declared, what the host has, what of it is guarded and what is
//! owned now. It is deterministic and does not depend on the order of the file: ties go by availability
//! priority, then by name.
//!
//! - What is owned stays as it is, whatever is added, removed or guarded: nothing that runs moves.
//! - A plan that is carried out, in any order, is still the plan: planning again with a part of it owned gives
//!   the same. So every partition of an accepted file can be activated. (One that releases what it has while
//!   inactive can find it taken by others meanwhile.)
//! - Of partitions that do not run yet, one that is added or removed can move those that are placed after it:
//!   smaller ones, and of its own size those of less priority or later name. Give the plan in force as
//!   [`Plan::assignment`] to keep these too.

mod adjust;
mod affinity;
mod cores;
mod decide;
mod finding;
mod grant;
mod ideal;
mod memory;
mod near;
mod needs;
pub mod overhead;
mod place;
#[cfg(test)]
mod properties;
mod remark;
mod running;
mod sane;
mod settle;
#[cfg(test)]
mod tests;

pub use adjust::{adjust, short};
pub use finding::{Claim, Finding, RULES, Refusal, Subject, Warning};

use crate::assignment::Assignment;
use crate::cpuset::CpuSet;
use crate::declare::{Frame, Partition, Sharing};
use crate::inventory::Inventory;
use crate::name::Name;
use crate::units::Units;
use serde::{Deserialize, Serialize};

/// What is decided for a frame.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The frame's name.
    pub frame: Name,
    /// Allocation granule of memory, bytes: the unit of [`Extent::blocks`].
    pub memory_block: u64,
    /// CPUs that stay the host's own; empty when the host shares a pool.
    pub reserved: CpuSet,
    /// CPUs of the frame that nobody has.
    pub unassigned: CpuSet,
    /// Shared processor pools, by name.
    pub pools: Vec<PoolPlan>,
    /// Partitions, by name: those that run as they run, the others as they would be activated now.
    pub partitions: Vec<PartitionPlan>,
    /// Partitions that cannot be activated at present, because what runs holds what they need.
    /// Empty when nothing runs and all are wanted.
    pub withheld: Vec<Refusal>,
    /// What is legal, but should be known.
    pub warnings: Vec<Warning>,
    /// What the host itself pays for the partitions, out of its own memory.
    pub overhead: Vec<Overhead>,
    /// Affinity score of the frame: that of its partitions, weighted by their processing units; none
    /// without partitions.
    #[serde(default)]
    pub score: Option<u8>,
    /// Where the host's own memory is, in ordinary pages.
    #[serde(default)]
    pub reserved_memory: Vec<Extent>,
    /// CPUs of the frame that guard records take out. One that somebody runs on is his still.
    #[serde(default)]
    pub guarded: CpuSet,
    /// Memory that guard records take out, in whole blocks.
    #[serde(default)]
    pub guarded_memory: Vec<Extent>,
    /// Partitions that own already what they have here, by name: they were activated before.
    #[serde(default)]
    pub holders: Vec<Name>,
}

/// What is decided for a pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolPlan {
    /// The pool's name.
    pub name: Name,
    /// Its CPUs.
    pub cpus: CpuSet,
}

/// What is decided for a partition; once it is activated, what it owns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartitionPlan {
    /// The partition's name.
    pub name: Name,
    /// The partition's number.
    pub id: u32,
    /// Dedicated: the whole cores that it owns. Shared: its pool's CPUs.
    pub cpus: CpuSet,
    /// Affinity of each virtual processor: one CPU when dedicated, the pool's CPUs when shared.
    pub processors: Vec<CpuSet>,
    /// CPUs that its device threads run on.
    pub io: CpuSet,
    /// What backs its virtual processors.
    pub backing: Backing,
    /// Its memory, by node and page size; the sum is what it starts with.
    pub memory: Vec<Extent>,
    /// Memory that never leaves while it runs, bytes: the declared base, or all when it got less.
    pub base: u64,
    /// Affinity score: how near its memory is to its processors, percent. Every pair of a processor and a block
    /// counts 1 on one node, 0 at the largest distance of the host, and in proportion between.
    pub score: u8,
}

/// What backs the virtual processors of a partition, as decided.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "snake_case")]
pub enum Backing {
    /// A logical CPU each.
    Dedicated,
    /// A part of a pool.
    Shared {
        /// The pool.
        pool: Name,
        /// Entitlement that it starts with.
        units: Units,
        /// What it gets above.
        sharing: Sharing,
    },
}

/// Memory of one page size on one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Extent {
    /// The node's number.
    pub node: u32,
    /// How many blocks of [`Plan::memory_block`] bytes.
    pub blocks: u64,
    /// Size of the pages, bytes: 4096 for ordinary ones.
    pub pages: u64,
}

/// One item of what the host pays for a partition: an estimate to plan with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overhead {
    /// The partition that it is paid for.
    pub partition: Name,
    /// What it is for, such as `page tables`.
    pub what: std::borrow::Cow<'static, str>,
    /// How much, bytes.
    pub bytes: u64,
}

impl Plan {
    /// The plan of one partition.
    #[must_use]
    pub fn partition(&self, name: &Name) -> Option<&PartitionPlan> {
        let at = self.partitions.binary_search_by(|partition| partition.name.cmp(name)).ok()?;
        self.partitions.get(at)
    }

    /// What would be owned if every partition of the plan were active.
    #[must_use]
    pub fn assignment(&self) -> Assignment {
        Assignment {
            pools: self.pools.iter().map(|pool| (pool.name.clone(), pool.cpus.clone())).collect(),
            partitions: self.partitions.iter().map(|one| (one.name.clone(), one.clone())).collect(),
        }
    }

    /// The plan of one pool.
    #[must_use]
    pub fn pool(&self, name: &Name) -> Option<&PoolPlan> {
        self.pools.iter().find(|pool| &pool.name == name)
    }
}

impl PartitionPlan {
    /// Its memory in all, bytes; `block` is [`Plan::memory_block`].
    #[must_use]
    pub fn memory_bytes(&self, block: u64) -> u64 {
        self.memory.iter().fold(0, |sum, extent| sum.saturating_add(extent.blocks.saturating_mul(block)))
    }

    /// Its entitlement: its units when shared, one for each virtual processor when dedicated.
    #[must_use]
    pub fn units(&self) -> Units {
        match &self.backing {
            Backing::Dedicated => Units::whole(u32::try_from(self.processors.len()).unwrap_or(u32::MAX)),
            Backing::Shared { units, .. } => *units,
        }
    }
}

/// Decides who gets what.
///
/// Every partition of `frame` gets an entry, as though all were to be active: an entry of `owned` is taken
/// as it is, and of what is left each partition gets its desired amount if that is free, else what is free
/// down to its minimum, in the order of availability priority, then name.
///
/// # Errors
/// Every reason why the frame cannot be: its minimums exceed the host's, or it contradicts itself.
pub fn plan(frame: &Frame, inventory: &Inventory, owned: &Assignment) -> Result<Plan, Vec<Refusal>> {
    plan_for(frame, inventory, owned, &|_| true)
}

/// As [`plan`], for the partitions that `wanted` picks.
///
/// The others are inactive and stay so: one that holds keeps only its minimum from those that are wanted,
/// one that releases keeps nothing; what they would get at activation comes after.
///
/// # Errors
/// As [`plan`].
pub fn plan_for(
    frame: &Frame,
    inventory: &Inventory,
    owned: &Assignment,
    wanted: &dyn Fn(&Partition) -> bool,
) -> Result<Plan, Vec<Refusal>> {
    decide::decide(frame, inventory, owned, wanted)
}
