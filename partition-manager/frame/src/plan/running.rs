//! What runs, and what it keeps from others.

use super::{Backing, Extent};
use crate::assignment::Assignment;
use crate::cpuset::CpuSet;
use crate::name::Name;
use crate::units::Units;
use std::collections::{BTreeMap, BTreeSet};

/// What runs, and what it keeps from others.
#[derive(Debug, Default)]
pub(super) struct Running<'a> {
    /// CPUs of partitions, and of pools that something runs on.
    pub(super) cpus: BTreeSet<u32>,
    /// Memory of partitions.
    pub(super) memory: Vec<Extent>,
    /// CPUs of the pools that something runs on.
    pub(super) pools: BTreeMap<&'a Name, CpuSet>,
    /// Entitlement that is given away in each pool.
    pub(super) units: BTreeMap<&'a Name, Units>,
}

impl<'a> Running<'a> {
    /// What is owned.
    pub(super) fn new(owned: &'a Assignment) -> Self {
        let mut running = Self::default();
        let mut devices: Vec<&CpuSet> = vec![];
        for partition in owned.partitions.values() {
            running.memory.extend(&partition.memory);
            match &partition.backing {
                Backing::Dedicated => running.cpus.extend(partition.cpus.iter()),
                Backing::Shared { pool, units, .. } => {
                    let set = running.pools.entry(pool).or_default();
                    // Nearly always the same set: all that run on a pool have all of it.
                    if *set != partition.cpus {
                        *set = set.union(&partition.cpus);
                    }
                    let sum = running.units.entry(pool).or_default();
                    *sum = sum.plus(*units);
                }
            }
            if devices.last().is_none_or(|last| **last != partition.io) {
                devices.push(&partition.io);
            }
        }
        let devices: BTreeSet<u32> = devices.into_iter().flat_map(CpuSet::iter).collect();
        for (pool, cpus) in &owned.pools {
            if running.pools.contains_key(pool) || cpus.iter().any(|cpu| devices.contains(&cpu)) {
                running.pools.insert(pool, cpus.clone());
            }
        }
        running.cpus.extend(running.pools.values().flat_map(CpuSet::iter));
        running
    }
}
