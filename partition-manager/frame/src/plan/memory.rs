//! Free memory by node and page size, and how extents are taken from it.

use super::Extent;
use crate::inventory::{Inventory, PAGE};
use std::collections::BTreeMap;
use std::rc::Rc;

/// The free memory of a frame.
#[derive(Clone, Debug)]
pub(super) struct Store {
    block: u64,
    /// Free bytes by page size and position of the node.
    classes: BTreeMap<u64, Vec<u64>>,
    /// Position of each node by its number.
    positions: Rc<BTreeMap<u32, usize>>,
    /// Number of each node by its position.
    numbers: Rc<Vec<u32>>,
    /// What stays the host's, bytes by position of the node.
    host: Rc<Vec<u64>>,
    /// What the host reserves beyond what it has, bytes.
    owed: u64,
}

impl Store {
    /// What there is when nothing runs. `held` is what runs now, which counts as free; `reserved` bytes stay
    /// the host's: near its CPUs on the node at position `home`, but no more than half of that, then from
    /// every node by its share.
    ///
    /// Ordinary pages: what the node has less its huge pages, and no more than it has available, since
    /// others on the host may use memory too. What is held counts as available: it is the partitions' own.
    pub(super) fn new(inventory: &Inventory, block: u64, reserved: u64, home: usize, held: &[Extent]) -> Self {
        let block = block.max(1);
        let mut sums: BTreeMap<(u32, u64), u64> = BTreeMap::new();
        for extent in held {
            let sum = sums.entry((extent.node, extent.pages)).or_default();
            *sum = sum.saturating_add(extent.blocks.saturating_mul(block));
        }
        let held = |node: u32, pages: u64| sums.get(&(node, pages)).copied().unwrap_or(0);
        let nodes = inventory.nodes.len();
        let mut classes: BTreeMap<u64, Vec<u64>> = BTreeMap::from([(PAGE, vec![0; nodes])]);
        let mut ordinary = vec![0u64; nodes];
        for (at, node) in inventory.nodes.iter().enumerate() {
            let mut left = node.memory;
            for pool in &node.huge_pages {
                let most = pool.total.saturating_mul(pool.size);
                left = left.saturating_sub(most);
                let free = pool.free.saturating_mul(pool.size).saturating_add(held(node.id, pool.size)).min(most);
                if let Some(place) = classes.entry(pool.size).or_insert_with(|| vec![0; nodes]).get_mut(at) {
                    *place = free;
                }
            }
            if let Some(place) = ordinary.get_mut(at) {
                *place = left;
            }
        }
        let (host, owed) = host_share(&ordinary, reserved, home, block);
        if let Some(class) = classes.get_mut(&PAGE) {
            for (((free, node), ordinary), host) in class.iter_mut().zip(&inventory.nodes).zip(&ordinary).zip(&host) {
                *free = (ordinary - host).min(node.available.saturating_add(held(node.id, PAGE)));
            }
        }
        let numbers: Vec<u32> = inventory.nodes.iter().map(|node| node.id).collect();
        let positions = numbers.iter().enumerate().map(|(at, &number)| (number, at)).collect();
        let (positions, numbers, host) = (Rc::new(positions), Rc::new(numbers), Rc::new(host));
        Self { block, classes, positions, numbers, host, owed }
    }

    /// What the host reserves beyond what it has in ordinary pages, bytes.
    pub(super) fn owed(&self) -> u64 {
        self.owed
    }

    /// What stays the host's, in whole blocks, rounded up.
    pub(super) fn host(&self) -> Vec<Extent> {
        let extent = |(&node, &bytes): (&u32, &u64)| Extent { node, blocks: bytes.div_ceil(self.block), pages: PAGE };
        self.numbers.iter().zip(self.host.iter()).map(extent).filter(|extent| extent.blocks > 0).collect()
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

    /// Position of a node by its number.
    pub(super) fn position(&self, node: u32) -> Option<usize> {
        self.positions.get(&node).copied()
    }

    fn free(&mut self, extent: &Extent) -> Option<&mut u64> {
        let at = *self.positions.get(&extent.node)?;
        self.classes.get_mut(&extent.pages)?.get_mut(at)
    }

    /// Takes what is held already, as far as it is there. Where it is the host's share by now, the host's share
    /// moves to what is free elsewhere.
    pub(super) fn hold(&mut self, extents: &[Extent]) {
        let mut homeless = 0u64;
        for extent in extents {
            let bytes = extent.blocks.saturating_mul(self.block);
            let Some(free) = self.free(extent) else { continue };
            let short = bytes.saturating_sub(*free);
            *free = free.saturating_sub(bytes);
            let at = self.positions.get(&extent.node).filter(|_| extent.pages == PAGE);
            if let Some(host) = at.and_then(|&at| Rc::make_mut(&mut self.host).get_mut(at)) {
                let moved = short.min(*host);
                *host -= moved;
                homeless = homeless.saturating_add(moved);
            }
        }
        if let Some(class) = self.classes.get_mut(&PAGE) {
            for (free, host) in class.iter_mut().zip(Rc::make_mut(&mut self.host)) {
                let part = homeless.min(*free);
                *free -= part;
                *host += part;
                homeless -= part;
            }
        }
    }

    /// Gives back what was taken.
    pub(super) fn put(&mut self, extents: &[Extent]) {
        for extent in extents {
            let bytes = extent.blocks.saturating_mul(self.block);
            if let Some(free) = self.free(extent) {
                *free = free.saturating_add(bytes);
            }
        }
    }

    /// Takes of each extent as much as is free there, `most` bytes in all.
    pub(super) fn take_at(&mut self, extents: &[Extent], most: u64) -> Vec<Extent> {
        let block = self.block;
        let mut left = most;
        let mut taken = vec![];
        for extent in extents {
            let granule = self.granule(extent.pages);
            let Some(free) = self.free(extent) else { continue };
            let bytes = extent.blocks.saturating_mul(block).min(*free).min(left) / granule * granule;
            *free -= bytes;
            left -= bytes;
            if bytes > 0 {
                taken.push(Extent { blocks: bytes / block, ..*extent });
            }
        }
        taken
    }

    /// Takes `bytes`, or as much as there is, by `weights` (position and share) first, then from the nodes of
    /// `order`.
    pub(super) fn take_up_to(
        &mut self,
        pages: u64,
        bytes: u64,
        weights: &[(usize, usize)],
        order: &[usize],
    ) -> Vec<Extent> {
        let granule = self.granule(pages);
        let block = self.block;
        let Some(class) = self.classes.get_mut(&pages) else { return vec![] };
        let whole = bytes.div_ceil(granule);
        let mut left = whole;
        let mut given: BTreeMap<usize, u64> = BTreeMap::new();
        let mut give = |node: usize, wanted: u64| {
            let Some(free) = class.get_mut(node) else { return };
            let part = wanted.min(left).min(*free / granule);
            *free -= part * granule;
            left -= part;
            if part > 0 {
                *given.entry(node).or_default() += part;
            }
        };
        let total: u128 = weights.iter().map(|&(_, share)| share as u128).sum();
        for &(node, share) in weights {
            let part = (u128::from(whole) * share as u128).checked_div(total).unwrap_or(0);
            give(node, u64::try_from(part).unwrap_or(u64::MAX));
        }
        for node in weights.iter().map(|&(node, _)| node).chain(order.iter().copied()) {
            give(node, u64::MAX);
        }
        let extent = |(node, part): (usize, u64)| {
            Some(Extent { node: *self.numbers.get(node)?, blocks: part * (granule / block), pages })
        };
        given.into_iter().filter_map(extent).collect()
    }

    /// As [`Store::take_up_to`]; none, and nothing taken, when there is too little.
    pub(super) fn take(
        &mut self,
        pages: u64,
        bytes: u64,
        weights: &[(usize, usize)],
        order: &[usize],
    ) -> Option<Vec<Extent>> {
        let taken = self.take_up_to(pages, bytes, weights, order);
        let sum = self.bytes(&taken);
        if sum < bytes {
            self.put(&taken);
            return None;
        }
        Some(taken)
    }

    /// The size of extents, bytes.
    pub(super) fn bytes(&self, extents: &[Extent]) -> u64 {
        extents.iter().fold(0, |sum, extent| sum.saturating_add(extent.blocks.saturating_mul(self.block)))
    }
}

/// How many bytes of each node stay the host's, and how many are missing.
fn host_share(ordinary: &[u64], reserved: u64, home: usize, block: u64) -> (Vec<u64>, u64) {
    let mut host = vec![0u64; ordinary.len()];
    let mut owed = reserved;
    if let (Some(place), Some(&has)) = (host.get_mut(home), ordinary.get(home)) {
        *place = owed.min(has / 2 / block * block);
        owed -= *place;
    }
    let left: Vec<u64> = ordinary.iter().zip(&host).map(|(has, host)| has - host).collect();
    let all: u128 = left.iter().map(|&left| u128::from(left)).sum();
    let spread = u128::from(owed).min(all);
    for (place, &left) in host.iter_mut().zip(&left) {
        let part = (spread * u128::from(left)).checked_div(all).unwrap_or(0);
        let part = u64::try_from(part).unwrap_or(u64::MAX).min(left) / block * block;
        *place += part;
        owed -= part;
    }
    for (place, has) in host.iter_mut().zip(ordinary) {
        let part = owed.min(has - *place);
        *place += part;
        owed -= part;
    }
    (host, owed)
}

/// Extents by node and page size, each once.
pub(super) fn merged(mut extents: Vec<Extent>) -> Vec<Extent> {
    extents.sort_by_key(|extent| (extent.node, extent.pages));
    extents.dedup_by(|next, kept| {
        let same = (next.node, next.pages) == (kept.node, kept.pages);
        kept.blocks += if same { next.blocks } else { 0 };
        same
    });
    extents
}
