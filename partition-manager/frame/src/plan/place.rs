//! Placement: which CPUs and which nodes the grants get.
//!
//! The largest claims choose first. Each takes the node that fits it best, with its memory; when no node
//! is large enough, as few nodes as possible.

use super::Extent;
use super::cores::{Cores, Preference};
use super::grant::Grant;
use super::memory::Store;
use crate::cpuset::CpuSet;
use crate::declare::ProcessorMode;
use crate::inventory::Inventory;
use crate::name::Name;
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Where everything is.
#[derive(Clone, Debug, Default)]
pub(super) struct Placement {
    /// The host's own CPUs.
    pub(super) reserved: CpuSet,
    /// The CPUs of the pools that were placed.
    pub(super) pools: BTreeMap<Name, CpuSet>,
    /// For each grant the CPUs, core by core; empty when shared.
    pub(super) cpus: Vec<Vec<u32>>,
    /// For each grant the memory.
    pub(super) memory: Vec<Vec<Extent>>,
}

/// What is to be placed.
#[derive(Clone, Debug)]
pub(super) struct Wishes<'a> {
    /// CPUs of the host.
    pub(super) reserved: usize,
    /// Pools that have no CPUs yet, and how many they want.
    pub(super) pools: Vec<(&'a Name, usize)>,
    /// Pools that keep the CPUs they have.
    pub(super) fixed: BTreeMap<&'a Name, CpuSet>,
    /// The grants.
    pub(super) grants: &'a [Grant<'a>],
    /// Where pools take CPUs first.
    pub(super) preference: Preference,
    /// Whole cores that nobody needs.
    pub(super) slack: usize,
}

enum Item<'a> {
    Pool(&'a Name),
    Dedicated(usize),
}

struct Placer<'a> {
    inventory: &'a Inventory,
    positions: BTreeMap<u32, usize>,
    cores: Cores,
    store: Store,
    blind: bool,
}

/// Places everything, honouring nodes; none when it does not fit. With `blind`, nodes are ignored, in the
/// order in which the grants were counted.
pub(super) fn place(
    inventory: &Inventory,
    cores: &Cores,
    store: &Store,
    wishes: &Wishes<'_>,
    blind: bool,
) -> Option<Placement> {
    let node_positions: BTreeMap<u32, usize> = inventory.nodes.iter().enumerate().map(|(at, n)| (n.id, at)).collect();
    let position = |cpu: &crate::inventory::Cpu| Some((cpu.id, *node_positions.get(&cpu.node)?));
    let mut placer = Placer {
        inventory,
        positions: inventory.cpus.iter().filter_map(position).collect(),
        cores: if blind { cores.blind() } else { cores.clone() },
        store: store.clone(),
        blind,
    };
    placer.run(wishes)
}

impl Placer<'_> {
    fn run(&mut self, wishes: &Wishes<'_>) -> Option<Placement> {
        let mut slack = wishes.slack;
        let grants = wishes.grants;
        let mut placement =
            Placement { cpus: vec![vec![]; grants.len()], memory: vec![vec![]; grants.len()], ..Placement::default() };
        let all: Vec<usize> = (0..self.cores.nodes()).collect();
        let reserved = self.cores.any(wishes.reserved, &all, wishes.preference, &mut slack)?;
        placement.reserved = reserved.into_iter().collect();

        let mut members: BTreeMap<&Name, Vec<usize>> = BTreeMap::new();
        let mut items = vec![];
        for (at, grant) in grants.iter().enumerate() {
            match &grant.partition.processors.mode {
                ProcessorMode::Dedicated { .. } => items.push((grant.count as usize, Item::Dedicated(at))),
                ProcessorMode::Shared { pool, .. } => members.entry(pool).or_default().push(at),
            }
        }
        let mut wanted: Vec<(usize, Item<'_>)> = wishes.pools.iter().map(|&(name, n)| (n, Item::Pool(name))).collect();
        wanted.append(&mut items);
        if !self.blind {
            // Stable: pools by name, then grants in their order, where sizes are equal.
            wanted.sort_by_key(|(n, _)| Reverse(*n));
        }
        // What runs in a pool that stays where it is chooses its memory first: it can go nowhere else.
        for (pool, cpus) in &wishes.fixed {
            for &at in members.get(pool).into_iter().flatten() {
                self.memory(grants.get(at)?, cpus.iter(), placement.memory.get_mut(at)?)?;
            }
        }
        for (n, item) in wanted {
            let owners: &[usize] = match &item {
                Item::Pool(name) => members.get(name).map_or(&[], Vec::as_slice),
                Item::Dedicated(at) => &[*at],
            };
            let mut needs: BTreeMap<u64, u64> = BTreeMap::new();
            for grant in owners.iter().filter_map(|&at| grants.get(at)) {
                let need = needs.entry(grant.pages()).or_default();
                *need = need.saturating_add(grant.bytes);
            }
            let order = self.order(n, matches!(item, Item::Dedicated(_)), &needs);
            let cpus = match item {
                Item::Pool(_) => self.cores.any(n, &order, wishes.preference, &mut slack)?,
                Item::Dedicated(_) => self.cores.whole(n, &order)?,
            };
            for &at in owners {
                self.memory(grants.get(at)?, cpus.iter().copied(), placement.memory.get_mut(at)?)?;
            }
            match item {
                Item::Pool(name) => {
                    placement.pools.insert(name.clone(), cpus.into_iter().collect());
                }
                Item::Dedicated(at) => *placement.cpus.get_mut(at)? = cpus,
            }
        }
        Some(placement)
    }

    /// The nodes in the order in which a claim of `n` CPUs and of memory by page size should take them.
    fn order(&self, n: usize, whole: bool, needs: &BTreeMap<u64, u64>) -> Vec<usize> {
        let nodes = self.cores.nodes();
        let free = |node: usize| if whole { self.cores.whole_on(node) } else { self.cores.any_on(node) };
        let has_memory = |node: usize| needs.iter().all(|(&pages, &bytes)| self.store.on(node, pages) >= bytes);
        let memory =
            |node: usize| needs.keys().fold(0u64, |sum, &pages| sum.saturating_add(self.store.on(node, pages)));
        let fitting = || (0..nodes).filter(|&node| free(node) >= n);
        let home = fitting()
            .filter(|&node| has_memory(node))
            .min_by_key(|&node| (free(node), node))
            .or_else(|| fitting().max_by_key(|&node| (memory(node), Reverse(node))))
            .or_else(|| (0..nodes).max_by_key(|&node| (free(node), Reverse(node))));
        let Some(home) = home else { return vec![] };
        let mut rest: Vec<usize> = (0..nodes).filter(|&node| node != home).collect();
        rest.sort_by_key(|&node| (Reverse(free(node)), self.inventory.distance(home, node), node));
        std::iter::once(home).chain(rest).collect()
    }

    /// Takes the memory of one grant, near the CPUs that it runs on.
    fn memory(&mut self, grant: &Grant<'_>, cpus: impl Iterator<Item = u32>, place: &mut Vec<Extent>) -> Option<()> {
        let mut weights: BTreeMap<usize, usize> = BTreeMap::new();
        for at in cpus.filter_map(|cpu| self.positions.get(&cpu)) {
            *weights.entry(*at).or_default() += 1;
        }
        let weights: Vec<(usize, usize)> = weights.into_iter().collect();
        let home = weights.iter().max_by_key(|&&(node, share)| (share, Reverse(node))).map_or(0, |&(node, _)| node);
        let mut order: Vec<usize> = (0..self.inventory.nodes.len()).collect();
        order.sort_by_key(|&node| (self.inventory.distance(home, node), node));
        *place = self.store.take(self.inventory, grant.pages(), grant.bytes, &weights, &order)?;
        Some(())
    }
}
