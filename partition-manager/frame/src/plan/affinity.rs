//! Affinity scores: how near the memory of partitions is to their processors.
//!
//! A score goes from 0 to 100, as that of the Dynamic Platform Optimizer of Power does for a partition and for
//! the system. Take every pair of a processor and a block of memory of a partition. A pair on one node counts 1,
//! a pair at the largest distance of the host counts 0, and one between counts in proportion. The score of a
//! partition is the mean of its pairs, the score of the frame the mean of its partitions, weighted by their
//! processing units; both in percent, rounded down. On a host whose nodes are all equally far from each other
//! that is the share of local pairs.

use super::{Extent, PartitionPlan};
use crate::cpuset::CpuSet;
use crate::inventory::{Inventory, LOCAL};
use std::collections::BTreeMap;

/// Scores partitions of one host.
#[derive(Debug)]
pub(super) struct Affinity<'i> {
    inventory: &'i Inventory,
    /// Position of each node by its number.
    positions: BTreeMap<u32, usize>,
    /// Position of the node of each CPU.
    node_of: BTreeMap<u32, usize>,
    /// The largest distance.
    far: u32,
    /// CPUs by node of the set that was looked at last: partitions of one pool come after each other.
    last: Option<(CpuSet, Vec<(usize, u128)>)>,
}

impl<'i> Affinity<'i> {
    /// For the partitions of a host.
    pub(super) fn new(inventory: &'i Inventory) -> Self {
        let positions: BTreeMap<u32, usize> = inventory.nodes.iter().enumerate().map(|(at, n)| (n.id, at)).collect();
        let place = |cpu: &crate::inventory::Cpu| Some((cpu.id, *positions.get(&cpu.node)?));
        let node_of = inventory.cpus.iter().filter_map(place).collect();
        let nodes = inventory.nodes.len();
        let listed = inventory.nodes.iter().flat_map(|node| &node.distances).copied().max();
        let implied = if inventory.nodes.iter().any(|node| node.distances.is_empty()) && nodes > 1 { 20 } else { 0 };
        let far = listed.unwrap_or(0).max(implied);
        Self { inventory, positions, node_of, far, last: None }
    }

    /// What a local pair counts.
    fn local(&self) -> u128 {
        u128::from(self.far.saturating_sub(LOCAL)).max(1)
    }

    /// What a pair of a processor on one node and memory on another counts.
    fn nearness(&self, processor: usize, memory: usize) -> u128 {
        let distance = self.inventory.distance(processor, memory);
        if processor == memory || distance <= LOCAL {
            return self.local();
        }
        u128::from(self.far.saturating_sub(distance))
    }

    fn count(&self, cpus: impl Iterator<Item = u32>) -> Vec<(usize, u128)> {
        let mut nodes: BTreeMap<usize, u128> = BTreeMap::new();
        for node in cpus.filter_map(|cpu| self.node_of.get(&cpu)) {
            *nodes.entry(*node).or_default() += 1;
        }
        nodes.into_iter().collect()
    }

    /// The score of a partition that has these `processors` and this `memory`.
    pub(super) fn score(&mut self, processors: &[CpuSet], memory: &[Extent]) -> u8 {
        // Virtual processors that share one set count as that set.
        let shared = processors.windows(2).all(|pair| pair[0] == pair[1]);
        let nodes = match processors.first() {
            Some(set) if shared => match &self.last {
                Some((last, nodes)) if last == set => nodes.clone(),
                _ => {
                    let nodes = self.count(set.iter());
                    self.last = Some((set.clone(), nodes.clone()));
                    nodes
                }
            },
            _ => self.count(processors.iter().flat_map(CpuSet::iter)),
        };
        let cpus: u128 = nodes.iter().map(|&(_, count)| count).sum();
        let blocks: u128 = memory.iter().map(|extent| u128::from(extent.blocks)).sum();
        // Blocks are at most 2^64, CPUs 2^16 and a pair 2^32: no sum of products leaves 128 bits.
        let mut sum = 0u128;
        for extent in memory {
            let Some(&at) = self.positions.get(&extent.node) else { continue };
            for &(node, count) in &nodes {
                sum += u128::from(extent.blocks) * count * self.nearness(node, at);
            }
        }
        percent(sum, cpus * blocks * self.local())
    }
}

/// The score of a frame with these partitions; none without any.
pub(super) fn of_frame(partitions: &[PartitionPlan]) -> Option<u8> {
    let weight = |one: &PartitionPlan| u128::from(one.units().thousandths().max(1));
    let all: u128 = partitions.iter().map(weight).sum();
    let sum: u128 = partitions.iter().map(|one| weight(one) * u128::from(one.score)).sum();
    (!partitions.is_empty()).then(|| percent(sum, all * 100))
}

fn percent(part: u128, all: u128) -> u8 {
    u8::try_from((part * 100).checked_div(all).unwrap_or(0).min(100)).unwrap_or(100)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::{Cpu, Node};

    /// Four nodes of one CPU; 0 and 1 are near each other, as are 2 and 3.
    fn drawers() -> Inventory {
        let row = |at: usize| {
            (0..4)
                .map(|to| {
                    if to == at {
                        10
                    } else if to / 2 == at / 2 {
                        16
                    } else {
                        40
                    }
                })
                .collect()
        };
        let node =
            |id: u32| Node { id, memory: 1 << 30, available: 1 << 30, huge_pages: vec![], distances: row(id as usize) };
        Inventory {
            cpus: (0..4).map(|id| Cpu { id, package: id, core: 0, node: id }).collect(),
            nodes: (0..4).map(node).collect(),
            ..Inventory::default()
        }
    }

    fn score(cpus: &[u32], memory: &[(u32, u64)]) -> u8 {
        let host = drawers();
        let processors: Vec<CpuSet> = cpus.iter().map(|&cpu| CpuSet::from_iter([cpu])).collect();
        let memory: Vec<Extent> = memory.iter().map(|&(node, blocks)| Extent { node, blocks, pages: 4096 }).collect();
        Affinity::new(&host).score(&processors, &memory)
    }

    #[test]
    fn distance_decides() {
        assert_eq!(score(&[0], &[(0, 8)]), 100);
        assert_eq!(score(&[0], &[(1, 8)]), 80);
        assert_eq!(score(&[0], &[(2, 8)]), 0);
        assert_eq!(score(&[0, 1], &[(0, 4), (1, 4)]), 90);
        assert_eq!(score(&[0, 2], &[(0, 4), (2, 4)]), 50);
        assert_eq!(score(&[0, 0], &[(0, 3), (3, 1)]), 75);
        assert_eq!(score(&[0], &[]), 0);
    }

    #[test]
    fn a_host_without_numa_is_near_itself() {
        let mut host = drawers();
        host.nodes.truncate(1);
        host.nodes[0].distances.clear();
        host.cpus.iter_mut().for_each(|cpu| cpu.node = 0);
        let sets = [CpuSet::parse("0-3").unwrap()];
        assert_eq!(Affinity::new(&host).score(&sets, &[Extent { node: 0, blocks: 1, pages: 4096 }]), 100);
    }
}
