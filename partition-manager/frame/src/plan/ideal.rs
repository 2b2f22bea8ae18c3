//! The ideal: who would have what, were all partitions active on an empty frame.
//!
//! It depends on the file, the host and its guard records alone, not on what runs or is wanted. Every plan keeps
//! to it as far as what runs allows. So the partitions of a frame can come and go in any order and each finds
//! its place free.

use super::Extent;
use super::cores::{Budget, Cores, Preference};
use super::grant::{Grant, Grantor};
use super::memory::Store;
use super::near::Near;
use super::place::{Placement, Wishes, place};
use crate::declare::{Frame, Partition, ProcessorMode};
use crate::inventory::Inventory;
use crate::name::Name;
use crate::units::Units;
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// What one partition has, or would have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seat {
    /// Dedicated: its CPUs, core by core, those of its minimum first. Empty when shared.
    pub(super) cpus: Vec<u32>,
    /// Entitlement when shared.
    pub(super) units: Units,
    /// Its memory.
    pub(super) memory: Vec<Extent>,
    /// That part of its memory which is its minimum.
    pub(super) floor: Vec<Extent>,
}

/// Who has what; partitions by their position in the order of giving.
#[derive(Clone, Debug, Default)]
pub(super) struct Layout<'a> {
    /// The host's own CPUs.
    pub(super) reserved: Vec<u32>,
    /// CPUs of the pools.
    pub(super) pools: BTreeMap<&'a Name, Vec<u32>>,
    /// What each partition has; none for one that is active or that cannot have its minimum.
    pub(super) seats: Vec<Option<Seat>>,
    /// Where pools take CPUs first.
    pub(super) preference: Option<Preference>,
}

/// The order of giving: by availability priority, then name.
pub(super) fn order(frame: &Frame) -> Vec<&Partition> {
    let mut order: Vec<&Partition> = frame.partitions.iter().collect();
    order.sort_by_key(|partition| (Reverse(partition.availability_priority), &partition.name));
    order
}

/// The nodes at which the host may take its CPUs: that of the lowest CPU, else the smallest that has enough.
pub(super) fn homes(frame: &Frame, cores: &Cores, lowest: Option<u32>) -> Vec<usize> {
    let first = lowest.and_then(|cpu| cores.node_of(cpu)).unwrap_or(0);
    let reserved = frame.reserved_cpus as usize;
    let enough = (0..cores.nodes()).filter(|&node| cores.any_on(node) >= reserved.max(1));
    let smallest = enough.min_by_key(|&node| (cores.any_on(node), node)).unwrap_or(first);
    if smallest == first || reserved == 0 { vec![first] } else { vec![first, smallest] }
}

/// How much everybody gets on an empty frame, and how many find no place.
struct Amounts<'a> {
    grants: Vec<Grant<'a>>,
    slack: usize,
    reserved: usize,
    pools: Vec<(&'a Name, usize)>,
    preference: Preference,
    refused: usize,
}

/// How good an ideal is: how many are without a seat, whether nodes were ignored, how many claims are on several
/// nodes; less is better.
pub(super) type Verdict = (usize, bool, usize);

/// The ideal for one home of the host. None when no place is found although the counts fit.
pub(super) fn ideal<'a>(
    frame: &'a Frame,
    order: &[&'a Partition],
    inventory: &Inventory,
    cores: &Cores,
    store: &Store,
    home: usize,
) -> Option<(Verdict, Layout<'a>)> {
    let amounts = amounts(frame, order, &cores.budget(), store);
    let near = Near::new(inventory);
    let wishes = Wishes {
        reserved: amounts.reserved,
        home,
        pools: &amounts.pools,
        grants: &amounts.grants,
        preference: amounts.preference,
        slack: amounts.slack,
    };
    let (placement, blind) = match place(&near, cores, store, &wishes, false) {
        Some(placement) => (placement, false),
        None => (place(&near, cores, store, &wishes, true)?, true),
    };
    let verdict = (amounts.refused, blind, placement.split);
    Some((verdict, layout(order, &amounts, placement, store)))
}

fn layout<'a>(order: &[&'a Partition], amounts: &Amounts<'a>, placement: Placement<'a>, store: &Store) -> Layout<'a> {
    let positions: BTreeMap<&Name, usize> = order.iter().enumerate().map(|(at, p)| (&p.name, at)).collect();
    let mut seats: Vec<Option<Seat>> = vec![None; order.len()];
    let given = placement.cpus.into_iter().zip(placement.memory);
    for (grant, (cpus, memory)) in amounts.grants.iter().zip(given) {
        let floor = floor(store, &memory, grant.partition.memory.size.minimum);
        let seat = Seat { cpus, units: grant.units, memory, floor };
        if let Some(place) = positions.get(&grant.partition.name).and_then(|&at| seats.get_mut(at)) {
            *place = Some(seat);
        }
    }
    Layout { reserved: placement.reserved, pools: placement.pools, seats, preference: Some(amounts.preference) }
}

/// The first extents that have `bytes` together.
fn floor(store: &Store, memory: &[Extent], bytes: u64) -> Vec<Extent> {
    let mut left = bytes;
    let mut floor = vec![];
    for extent in memory {
        let has = store.bytes(&[*extent]).max(1);
        let granule = store.granule(extent.pages);
        let part = left.min(has).div_ceil(granule).saturating_mul(granule).min(has);
        if part > 0 {
            // Exact: the granule is a multiple of the block.
            let blocks = (u128::from(extent.blocks) * u128::from(part) / u128::from(has)) as u64;
            floor.push(Extent { blocks, ..*extent });
        }
        left -= part.min(left);
    }
    floor
}

/// Counts first as it is declared; when that leaves somebody without, with pools that take broken cores first;
/// at last with pools that have no more than their partitions are entitled to.
fn amounts<'a>(frame: &'a Frame, order: &[&'a Partition], budget: &Budget, store: &Store) -> Amounts<'a> {
    let mut least: BTreeMap<&Name, u32> = BTreeMap::new();
    for partition in order {
        if let ProcessorMode::Shared { pool, units, .. } = &partition.processors.mode {
            let sum = least.entry(pool).or_default();
            *sum = sum.saturating_add(units.minimum.thousandths());
        }
    }
    let pools = |small: bool| {
        let mut pools: Vec<(&Name, usize)> = frame
            .pools
            .iter()
            .map(|pool| {
                let least = least.get(&pool.name).map_or(1, |sum| sum.div_ceil(1000)).max(1);
                (&pool.name, if small { pool.cpus.min(least) } else { pool.cpus } as usize)
            })
            .collect();
        pools.sort();
        pools
    };
    let tries = [(Preference::Whole, false), (Preference::Loose, false), (Preference::Loose, true)];
    let mut best: Option<Amounts<'a>> = None;
    for (preference, small) in tries {
        let next = count(frame, order, budget, store, preference, pools(small));
        if best.as_ref().is_none_or(|best| next.refused < best.refused) {
            best = Some(next);
        }
        if best.as_ref().is_some_and(|best| best.refused == 0) {
            break;
        }
    }
    best.unwrap_or_else(|| count(frame, order, budget, store, Preference::Whole, pools(false)))
}

fn count<'a>(
    frame: &'a Frame,
    order: &[&'a Partition],
    budget: &Budget,
    store: &Store,
    preference: Preference,
    mut pools: Vec<(&'a Name, usize)>,
) -> Amounts<'a> {
    let reserved = (frame.reserved_cpus as usize).min(budget.cpus());
    let mut left = budget.cpus() - reserved;
    for (_, n) in &mut pools {
        *n = (*n).min(left);
        left -= *n;
    }
    let without = pools.iter().filter(|(_, n)| *n == 0).count();
    pools.retain(|(_, n)| *n > 0);
    let loose = std::iter::once(reserved).chain(pools.iter().map(|&(_, n)| n)).collect();
    let whole = |n: usize| Units::whole(u32::try_from(n).unwrap_or(u32::MAX));
    let units = pools.iter().map(|&(name, n)| (name, whole(n))).collect();
    let mut grantor = Grantor::new(budget.clone(), loose, preference, units, store, frame.minimum_units);
    let refused = order.iter().filter(|partition| grantor.admit(partition).is_err()).count();
    grantor.grow();
    let (grants, slack) = grantor.finish();
    Amounts { grants, slack, reserved, pools, preference, refused: refused + without }
}
