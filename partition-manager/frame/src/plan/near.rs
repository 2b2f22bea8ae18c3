//! Which nodes are near each other.

use crate::inventory::Inventory;
use std::cell::OnceCell;
use std::cmp::Reverse;

/// Most nodes that a search for near ones begins at.
const SEEDS: usize = 32;

/// The order of the nodes as seen from each, made when it is first asked for.
#[derive(Debug)]
pub(super) struct Near<'i> {
    inventory: &'i Inventory,
    orders: Vec<OnceCell<Vec<usize>>>,
}

impl<'i> Near<'i> {
    /// The nodes of an inventory.
    pub(super) fn new(inventory: &'i Inventory) -> Self {
        Self { inventory, orders: inventory.nodes.iter().map(|_| OnceCell::new()).collect() }
    }

    /// All nodes by position, the nearest to the one at `home` first, itself before all.
    pub(super) fn order(&self, home: usize) -> &[usize] {
        let Some(cell) = self.orders.get(home) else { return &[] };
        cell.get_or_init(|| {
            let mut order: Vec<usize> = (0..self.inventory.nodes.len()).collect();
            order.sort_by_key(|&node| (node != home, self.inventory.distance(home, node), node));
            order
        })
    }

    /// As few nodes as have `n` free CPUs together, near each other, largest share first; all that have any when
    /// the whole has less.
    pub(super) fn few(&self, n: usize, free: impl Fn(usize) -> usize) -> Vec<usize> {
        let mut largest: Vec<(usize, usize)> =
            (0..self.orders.len()).map(|node| (free(node), node)).filter(|&(free, _)| free > 0).collect();
        largest.sort_by_key(|&(free, node)| (Reverse(free), node));
        let mut sum = 0;
        let count = largest.iter().position(|&(free, _)| {
            sum += free;
            sum >= n
        });
        let Some(count) = count.map(|last| last + 1) else {
            return largest.into_iter().map(|(_, node)| node).collect();
        };
        let seeds = largest.iter().take(SEEDS).map(|&(_, node)| node);
        let found = seeds.filter_map(|seed| {
            let nodes = self.from(seed, n, count, &largest, &free)?;
            let apart: u64 = nodes
                .iter()
                .flat_map(|&a| nodes.iter().map(move |&b| (a, b)))
                .map(|(a, b)| u64::from(self.inventory.distance(a, b)))
                .sum();
            let room: usize = nodes.iter().map(|&node| free(node)).sum();
            Some(((apart, room, seed), nodes))
        });
        let mut nodes = found.min_by(|a, b| a.0.cmp(&b.0)).map(|(_, nodes)| nodes).unwrap_or_default();
        nodes.sort_by_key(|&node| (Reverse(free(node)), node));
        nodes
    }

    /// `count` nodes that have `n` CPUs together: `seed`, then the nearest with which the others can still reach it.
    fn from(
        &self,
        seed: usize,
        n: usize,
        count: usize,
        largest: &[(usize, usize)],
        free: &impl Fn(usize) -> usize,
    ) -> Option<Vec<usize>> {
        let mut chosen: Vec<usize> = vec![];
        let mut sum = 0;
        for &node in self.order(seed) {
            if chosen.len() == count {
                break;
            }
            let left = count - chosen.len() - 1;
            let others = largest.iter().filter(|&&(_, other)| other != node && !chosen.contains(&other));
            let best: usize = others.take(left).map(|&(free, _)| free).sum();
            if free(node) > 0 && sum + free(node) + best >= n {
                sum += free(node);
                chosen.push(node);
            }
        }
        (sum >= n).then_some(chosen)
    }
}
