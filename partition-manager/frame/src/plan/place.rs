//! Placement: which CPUs and which nodes the grants get on an empty frame.
//!
//! The largest claims choose first. Each takes the node that fits it best, with its memory; when no node is
//! large enough, as few nodes as possible, near each other.

use super::Extent;
use super::cores::{Cores, Preference};
use super::grant::Grant;
use super::memory::Store;
use super::near::Near;
use crate::declare::ProcessorMode;
use crate::name::Name;
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Where everything is.
#[derive(Clone, Debug, Default)]
pub(super) struct Placement<'a> {
    /// The host's own CPUs.
    pub(super) reserved: Vec<u32>,
    /// The CPUs of the pools.
    pub(super) pools: BTreeMap<&'a Name, Vec<u32>>,
    /// For each grant the CPUs, core by core; empty when shared.
    pub(super) cpus: Vec<Vec<u32>>,
    /// For each grant the memory.
    pub(super) memory: Vec<Vec<Extent>>,
    /// How many claims are on more nodes than one.
    pub(super) split: usize,
}

/// What is to be placed.
#[derive(Debug)]
pub(super) struct Wishes<'w, 'a> {
    /// CPUs of the host.
    pub(super) reserved: usize,
    /// Position of the node where the host takes its CPUs first.
    pub(super) home: usize,
    /// The pools, by name, and how many CPUs they want.
    pub(super) pools: &'w [(&'a Name, usize)],
    /// The grants.
    pub(super) grants: &'w [Grant<'a>],
    /// Where pools take CPUs first.
    pub(super) preference: Preference,
    /// Whole cores that nobody needs.
    pub(super) slack: usize,
}

enum Item<'a> {
    Pool(&'a Name),
    Dedicated(usize),
}

struct Placer<'p> {
    near: &'p Near<'p>,
    /// Nodes of the CPUs, also when they are placed blindly.
    map: &'p Cores,
    cores: Cores,
    store: Store,
    blind: bool,
}

/// Places everything, honouring nodes; none when it does not fit. With `blind`, nodes are ignored and everybody
/// gets the cores that were counted for him, which always fits.
pub(super) fn place<'a>(
    near: &Near<'_>,
    cores: &Cores,
    store: &Store,
    wishes: &Wishes<'_, 'a>,
    blind: bool,
) -> Option<Placement<'a>> {
    let free = if blind { cores.blind() } else { cores.clone() };
    Placer { near, map: cores, cores: free, store: store.clone(), blind }.run(wishes)
}

impl Placer<'_> {
    fn run<'a>(&mut self, wishes: &Wishes<'_, 'a>) -> Option<Placement<'a>> {
        let mut slack = wishes.slack;
        let grants = wishes.grants;
        let mut placement =
            Placement { cpus: vec![vec![]; grants.len()], memory: vec![vec![]; grants.len()], ..Placement::default() };
        let from_home: Vec<usize> = if self.blind { vec![0] } else { self.near.order(wishes.home).to_vec() };
        placement.reserved = self.cores.any(wishes.reserved, &from_home, wishes.preference, &mut slack)?;

        let mut members: BTreeMap<&Name, Vec<usize>> = BTreeMap::new();
        let mut items = vec![];
        for (at, grant) in grants.iter().enumerate() {
            match &grant.partition.processors.mode {
                ProcessorMode::Dedicated { .. } => items.push((grant.count as usize, Item::Dedicated(at))),
                ProcessorMode::Shared { pool, .. } => members.entry(pool).or_default().push(at),
            }
        }
        let mut wanted: Vec<(usize, Item<'a>)> = wishes.pools.iter().map(|&(name, n)| (n, Item::Pool(name))).collect();
        wanted.append(&mut items);
        if !self.blind {
            // Stable: pools by name, then grants in their order, where sizes are equal.
            wanted.sort_by_key(|(n, _)| Reverse(*n));
        }
        // What lives on a pool of several nodes is equally near to all of them, so its memory comes last.
        let mut later: Vec<(usize, Vec<(usize, usize)>)> = vec![];
        for (n, item) in wanted {
            let one: [usize; 1];
            let owners: &[usize] = match &item {
                Item::Pool(name) => members.get(name).map_or(&[], Vec::as_slice),
                Item::Dedicated(at) => {
                    one = [*at];
                    &one
                }
            };
            let mut needs: BTreeMap<u64, u64> = BTreeMap::new();
            for grant in owners.iter().filter_map(|&at| grants.get(at)) {
                let need = needs.entry(grant.pages()).or_default();
                *need = need.saturating_add(grant.bytes);
            }
            let whole = matches!(item, Item::Dedicated(_));
            let order = if self.blind { vec![0] } else { self.order(n, whole, &needs) };
            let cpus = match item {
                Item::Pool(_) => self.cores.any(n, &order, wishes.preference, &mut slack)?,
                // Growth may have left cores that another order of taking does not come upon.
                Item::Dedicated(at) if self.blind => self.cores.covered(&grants.get(at)?.cover, 0)?,
                Item::Dedicated(_) => self.cores.whole(n, &order)?,
            };
            let weights = weights(self.map, &cpus);
            placement.split += usize::from(weights.len() > 1);
            if !whole && weights.len() > 1 {
                later.extend(owners.iter().map(|&at| (at, weights.clone())));
            } else {
                for &at in owners {
                    *placement.memory.get_mut(at)? = beside(self.near, &mut self.store, grants.get(at)?, &weights)?;
                }
            }
            match item {
                Item::Pool(name) => {
                    placement.pools.insert(name, cpus);
                }
                Item::Dedicated(at) => *placement.cpus.get_mut(at)? = cpus,
            }
        }
        for (at, weights) in later {
            *placement.memory.get_mut(at)? = among(self.near, &mut self.store, grants.get(at)?, &weights)?;
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
            .or_else(|| fitting().max_by_key(|&node| (memory(node), Reverse(node))));
        match home {
            Some(home) if whole => vec![home],
            // The host and the pools may need a loose CPU from elsewhere.
            Some(home) => self.near.order(home).to_vec(),
            None => self.near.few(n, free),
        }
    }
}

/// How many of the CPUs are on which node.
pub(super) fn weights(map: &Cores, cpus: &[u32]) -> Vec<(usize, usize)> {
    let mut weights: BTreeMap<usize, usize> = BTreeMap::new();
    for node in cpus.iter().filter_map(|&cpu| map.node_of(cpu)) {
        *weights.entry(node).or_default() += 1;
    }
    weights.into_iter().collect()
}

/// The node with most of the CPUs.
pub(super) fn home(weights: &[(usize, usize)]) -> usize {
    weights.iter().max_by_key(|&&(node, share)| (share, Reverse(node))).map_or(0, |&(node, _)| node)
}

/// Takes the memory of one grant on the nodes of its CPUs, as many CPUs as much memory; what does not fit there,
/// near the node with most of them.
fn beside(near: &Near<'_>, store: &mut Store, grant: &Grant<'_>, weights: &[(usize, usize)]) -> Option<Vec<Extent>> {
    store.take(grant.pages(), grant.bytes, weights, near.order(home(weights)))
}

/// Takes the memory of one grant whose processors may be on any of several nodes: on one of them if it fits, the
/// one that has most free.
fn among(near: &Near<'_>, store: &mut Store, grant: &Grant<'_>, weights: &[(usize, usize)]) -> Option<Vec<Extent>> {
    let (pages, bytes) = (grant.pages(), grant.bytes);
    let fits = weights.iter().map(|&(node, _)| node).filter(|&node| store.on(node, pages) >= bytes);
    match fits.max_by_key(|&node| (store.on(node, pages), Reverse(node))) {
        Some(node) => store.take(pages, bytes, &[(node, 1)], &[]),
        None => store.take(pages, bytes, weights, near.order(home(weights))),
    }
}
