//! Free memory by node and page size, and how extents are taken from it.

use super::Extent;
use crate::inventory::{Inventory, PAGE};
use std::collections::BTreeMap;

/// Free memory of one page size: bytes on each node, by position.
pub(super) type Class = Vec<u64>;

/// The free memory of a frame.
#[derive(Clone, Debug)]
pub(super) struct Store {
    block: u64,
    classes: BTreeMap<u64, Class>,
    /// What the host reserves beyond what it has, bytes.
    owed: u64,
}

impl Store {
    /// What is free when `held` is taken and `reserved` bytes stay the host's, from the first node on.
    ///
    /// Ordinary pages: what the node has less its huge pages, and no more than it has available, since
    /// others on the host may use memory too. What is held counts as available: it is the partitions' own.
    ///
    /// With `returned`, what is held is counted as free too: what there would be if nothing ran.
    pub(super) fn holding(inventory: &Inventory, block: u64, reserved: u64, held: &[Extent], returned: bool) -> Self {
        let mut owed = reserved;
        let mut classes: BTreeMap<u64, Class> = BTreeMap::new();
        let nodes = inventory.nodes.len();
        for (at, node) in inventory.nodes.iter().enumerate() {
            let held_here = |pages: u64| {
                let here = held.iter().filter(|extent| extent.node == node.id && extent.pages == pages);
                here.fold(0u64, |sum, extent| sum.saturating_add(extent.blocks.saturating_mul(block)))
            };
            let mut ordinary = node.memory;
            for pool in &node.huge_pages {
                ordinary = ordinary.saturating_sub(pool.total.saturating_mul(pool.size));
                let back = if returned { held_here(pool.size) } else { 0 };
                let most = pool.total.saturating_mul(pool.size);
                let free = pool.free.saturating_mul(pool.size).saturating_add(back).min(most);
                if let Some(place) = classes.entry(pool.size).or_insert_with(|| vec![0; nodes]).get_mut(at) {
                    *place = free;
                }
            }
            let host = owed.min(ordinary);
            owed -= host;
            let held = held_here(PAGE);
            let usable = (ordinary - host).min(node.available.saturating_add(held));
            if let Some(place) = classes.entry(PAGE).or_insert_with(|| vec![0; nodes]).get_mut(at) {
                *place = if returned { usable } else { usable.saturating_sub(held) };
            }
        }
        Self { block, classes, owed }
    }

    /// What the host reserves beyond what it has in ordinary pages, bytes.
    pub(super) fn owed(&self) -> u64 {
        self.owed
    }

    /// Least amount that is taken at once of a page size, bytes.
    pub(super) fn granule(&self, pages: u64) -> u64 {
        self.block.max(pages).max(1)
    }

    /// All that can be taken of a page size, bytes; none when the host has no such pages.
    pub(super) fn total(&self, pages: u64) -> Option<u64> {
        let granule = self.granule(pages);
        let class = self.classes.get(&pages)?;
        Some(class.iter().fold(0u64, |sum, free| sum.saturating_add(free / granule * granule)))
    }

    /// What can be taken of a page size on the node at a position, bytes.
    pub(super) fn on(&self, node: usize, pages: u64) -> u64 {
        let granule = self.granule(pages);
        self.classes.get(&pages).and_then(|class| class.get(node)).map_or(0, |free| free / granule * granule)
    }

    /// Takes `bytes`, by `weights` (position and share) first, then from the nodes of `order`; none when
    /// there is too little.
    pub(super) fn take(
        &mut self,
        inventory: &Inventory,
        pages: u64,
        bytes: u64,
        weights: &[(usize, usize)],
        order: &[usize],
    ) -> Option<Vec<Extent>> {
        let granule = self.granule(pages);
        let block = self.block.max(1);
        let class = self.classes.get_mut(&pages)?;
        let whole = bytes.div_ceil(granule);
        let mut left = whole;
        let mut given: BTreeMap<usize, u64> = BTreeMap::new();
        let mut give = |node: usize, wanted: u64| {
            let Some(free) = class.get_mut(node) else { return };
            let part = wanted.min(left).min(*free / granule);
            *free -= part * granule;
            left -= part;
            *given.entry(node).or_default() += part;
        };
        let total: u128 = weights.iter().map(|&(_, share)| share as u128).sum();
        for &(node, share) in weights {
            let part = (u128::from(whole) * share as u128).checked_div(total).unwrap_or(0);
            give(node, u64::try_from(part).unwrap_or(u64::MAX));
        }
        for node in weights.iter().map(|&(node, _)| node).chain(order.iter().copied()) {
            give(node, u64::MAX);
        }
        if left > 0 {
            return None;
        }
        let number = |node: usize| inventory.nodes.get(node).map(|node| node.id);
        let extents = given.into_iter().filter(|&(_, part)| part > 0);
        extents
            .map(|(node, part)| Some(Extent { node: number(node)?, blocks: part * (granule / block), pages }))
            .collect()
    }
}
