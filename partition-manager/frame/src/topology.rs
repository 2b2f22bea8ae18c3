//! What a guest sees of the machine: from where its processors and memory are planned to the places, nodes
//! and caches of its launch, and the APIC identifiers that go with them.
//!
//! A dedicated partition sees packages, cores, threads, caches and nodes as planned, with numbers of its own
//! that begin at 0. A shared one floats over its pool: it sees single-threaded cores in one package.

use crate::cpuset::CpuSet;
use crate::inventory::{Cache, CacheKind, Cpu, Inventory};
use crate::launch::{CacheSpec, MOST_NODES, Place, Topology};
use crate::plan::{Backing, PartitionPlan};
use std::collections::{BTreeMap, BTreeSet};

/// Highest identifier that every guest can address: 255 is the xAPIC's broadcast (Intel SDM, volume 3,
/// section 12.6.2.1), and above it a guest needs interrupt remapping.
const HIGHEST_XAPIC: u32 = 254;

/// How local APIC identifiers are put together: a field of whole bits each for package, core and thread, as
/// CPUID describes them (Intel SDM, volume 3, section 10.9.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApicLayout {
    /// Bits that tell the threads of a core apart.
    pub thread_bits: u32,
    /// Bits that tell the cores of a package apart.
    pub core_bits: u32,
}

impl ApicLayout {
    /// Most bits of an identifier: KVM takes less than 4096 (`KVM_MAX_VCPU_IDS`).
    pub const MOST_BITS: u32 = 12;

    /// The narrowest fields that hold `places`; none when an identifier would need more than
    /// [`ApicLayout::MOST_BITS`].
    #[must_use]
    pub fn of(places: &[Place]) -> Option<Self> {
        let highest = |number: fn(&Place) -> u32| places.iter().map(number).max().unwrap_or(0);
        let bits = |number: u32| u32::BITS - number.leading_zeros();
        let layout = Self { thread_bits: bits(highest(|place| place.thread)), core_bits: bits(highest(|p| p.core)) };
        let packages = bits(highest(|place| place.package));
        (packages + layout.core_bits + layout.thread_bits <= Self::MOST_BITS).then_some(layout)
    }

    /// Bits below the package's number.
    #[must_use]
    pub const fn package_shift(self) -> u32 {
        self.core_bits + self.thread_bits
    }

    /// The identifier of a processor at `place`, which must be one of those that the layout was made for.
    #[must_use]
    pub const fn id(self, place: Place) -> u32 {
        place.package << self.package_shift() | place.core << self.thread_bits | place.thread
    }
}

/// What a guest is shown: where each of its processors is, in their order, and the rest.
///
/// A CPU that the inventory lacks counts as a core of its own. More nodes than a launch can name are shown
/// as one.
#[must_use]
pub fn shown(plan: &PartitionPlan, inventory: &Inventory) -> (Vec<Place>, Topology) {
    let cpus: BTreeMap<u32, &Cpu> = inventory.cpus.iter().map(|cpu| (cpu.id, cpu)).collect();
    let home = plan.memory.first().map_or(0, |extent| extent.node);
    let dedicated = plan.backing == Backing::Dedicated;
    let seats: Vec<Seat> = if dedicated {
        let seat = |set: &CpuSet| match set.iter().next() {
            Some(id) => Seat::of(id, cpus.get(&id).copied(), home, inventory),
            None => Seat { node: home, ..Seat::default() },
        };
        plan.processors.iter().map(seat).collect()
    } else {
        floating(plan, &cpus, home)
    };
    let places = number(&seats);
    let layout = ApicLayout::of(&places).unwrap_or(ApicLayout { thread_bits: 0, core_bits: 0 });
    let ids: Vec<(u32, u32)> = places.iter().zip(&seats).map(|(place, seat)| (layout.id(*place), seat.node)).collect();
    let caches = if dedicated {
        caches_of_a_core(plan, inventory, &ids)
    } else {
        caches_of_a_pool(plan, inventory, &cpus, &ids)
    };
    let mut nodes: BTreeSet<u32> = plan.memory.iter().map(|extent| extent.node).collect();
    nodes.extend(seats.iter().map(|seat| seat.node));
    if nodes.len() > MOST_NODES {
        return (places, Topology { caches, ..Topology::default() });
    }
    let nodes: Vec<u32> = nodes.into_iter().collect();
    let index = |node: u32| nodes.iter().position(|one| *one == node).unwrap_or(0) as u32;
    let places = places.iter().zip(&seats).map(|(place, seat)| Place { node: index(seat.node), ..*place }).collect();
    let distances = distances(&nodes, inventory);
    (places, Topology { nodes, distances, caches })
}

/// Where a processor is on the host.
#[derive(Clone, Debug, Default)]
struct Seat {
    package: u32,
    core: Core,
    node: u32,
    /// Caches that contain it, outermost first: each an index into [`Inventory::caches`], or none.
    domains: [Option<usize>; 3],
}

/// Which core: one of the host's, or one of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Core {
    Host(u32),
    Own(u32),
}

impl Default for Core {
    fn default() -> Self {
        Self::Own(u32::MAX)
    }
}

impl Seat {
    fn of(id: u32, cpu: Option<&Cpu>, home: u32, inventory: &Inventory) -> Self {
        let Some(cpu) = cpu else { return Self { core: Core::Own(id), node: home, ..Self::default() } };
        let around = |level: u8| {
            let holds = |cache: &Cache| {
                cache.level == level && cache.kind != CacheKind::Instruction && cache.cpus.contains(cpu.id)
            };
            inventory.caches.iter().position(holds)
        };
        Self { package: cpu.package, core: Core::Host(cpu.core), node: cpu.node, domains: [4, 3, 2].map(around) }
    }
}

/// The seats of a shared partition: on the nodes of its pool, in proportion to the CPUs there.
fn floating(plan: &PartitionPlan, cpus: &BTreeMap<u32, &Cpu>, home: u32) -> Vec<Seat> {
    let mut nodes: Vec<u32> = plan.cpus.iter().filter_map(|id| cpus.get(&id).map(|cpu| cpu.node)).collect();
    nodes.sort_unstable();
    let count = plan.processors.len().max(1);
    (0u32..)
        .zip(0..plan.processors.len())
        .map(|(core, at)| {
            let node = nodes.get(at * nodes.len() / count).copied().unwrap_or(home);
            Seat { core: Core::Own(core), node, ..Seat::default() }
        })
        .collect()
}

/// How cores are numbered within their package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Numbering {
    /// Those that share a cache, or a node, have a power of two of numbers for themselves: so CPUID can say
    /// who shares it.
    Aligned,
    /// One after the other.
    Dense,
    /// One after the other, as though there were one package.
    OnePackage,
    /// As though each processor were a core of one package.
    Flat,
}

/// Numbers of the guest's own, from 0, in the order in which the processors come: the first one is thread 0
/// of core 0 of package 0.
fn number(seats: &[Seat]) -> Vec<Place> {
    let fits = |places: &[Place]| {
        ApicLayout::of(places).is_some_and(|layout| places.iter().all(|place| layout.id(*place) <= HIGHEST_XAPIC))
    };
    [Numbering::Aligned, Numbering::Dense, Numbering::OnePackage]
        .into_iter()
        .map(|numbering| number_as(seats, numbering))
        .find(|places| fits(places))
        .unwrap_or_else(|| number_as(seats, Numbering::Flat))
}

fn number_as(seats: &[Seat], numbering: Numbering) -> Vec<Place> {
    let mut packages = Children::default();
    let mut threads: BTreeMap<(u32, Core), u32> = BTreeMap::new();
    let mut levels: Vec<Children> = Vec::new();
    let mut found = Vec::with_capacity(seats.len());
    for (own, seat) in (0u32..).zip(seats) {
        let package = match numbering {
            Numbering::Aligned | Numbering::Dense => packages.number(&[], Key::Package(seat.package)),
            Numbering::OnePackage | Numbering::Flat => 0,
        };
        let core = if numbering == Numbering::Flat { Core::Own(own) } else { seat.core };
        let mut keys = Vec::with_capacity(5);
        if numbering == Numbering::Aligned {
            keys.push(Key::Node(seat.node));
            keys.extend(seat.domains.map(Key::Cache));
        }
        keys.push(Key::Core(seat.package, core));
        levels.resize_with(levels.len().max(keys.len()), Children::default);
        let mut way = vec![package];
        for (level, key) in levels.iter_mut().zip(keys) {
            let number = level.number(&way, key);
            way.push(number);
        }
        let thread = threads.entry((seat.package, core)).or_insert(0);
        found.push((package, way, *thread));
        *thread += 1;
    }
    let bits: Vec<u32> = levels.iter().map(|level| level.most().next_power_of_two().trailing_zeros()).collect();
    // A number that overflows is too wide for an identifier, and so is what it becomes here.
    let join = |number: u32, (part, bits): (&u32, &u32)| number.saturating_mul(1 << bits).saturating_add(*part);
    found
        .iter()
        .map(|(package, way, thread)| Place {
            package: *package,
            core: way.iter().skip(1).zip(&bits).fold(0, join),
            thread: *thread,
            node: 0,
        })
        .collect()
}

/// What is numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    Package(u32),
    Node(u32),
    Cache(Option<usize>),
    Core(u32, Core),
}

/// Numbers from 0 for what lies directly below each parent.
#[derive(Clone, Debug, Default)]
struct Children {
    of: BTreeMap<Vec<u32>, Vec<Key>>,
}

impl Children {
    fn number(&mut self, parent: &[u32], key: Key) -> u32 {
        let known = self.of.entry(parent.to_vec()).or_default();
        let at = known.iter().position(|one| *one == key).unwrap_or_else(|| {
            known.push(key);
            known.len() - 1
        });
        at as u32
    }

    /// The most children of one parent.
    fn most(&self) -> u32 {
        self.of.values().map(Vec::len).max().unwrap_or(0) as u32
    }
}

/// How many identifiers, a power of two, a group has to have for those of `group` to be in one. Only
/// processors of one node count: `group` has (identifier, node).
fn span(group: impl Iterator<Item = (u32, u32)>) -> u32 {
    let mut first: BTreeMap<u32, u32> = BTreeMap::new();
    let bits = |(id, node)| u32::BITS - (id ^ *first.entry(node).or_insert(id)).leading_zeros();
    1 << group.map(bits).max().unwrap_or(0).min(ApicLayout::MOST_BITS)
}

/// The caches of the first processor of a dedicated partition, and who shares the like of each at most;
/// `ids` has each processor's identifier and node.
fn caches_of_a_core(plan: &PartitionPlan, inventory: &Inventory, ids: &[(u32, u32)]) -> Vec<CacheSpec> {
    let on: Vec<u32> = plan.processors.iter().map(|set| set.iter().next().unwrap_or(u32::MAX)).collect();
    let Some(first) = on.first() else { return vec![] };
    let members = |cache: &Cache| {
        let inside = on.iter().zip(ids).filter(|(cpu, _)| cache.cpus.contains(**cpu));
        span(inside.map(|(_, id)| *id))
    };
    caches(inventory, *first, |of| {
        let like = inventory.caches.iter().filter(|cache| (cache.level, cache.kind) == (of.level, of.kind));
        like.map(members).max().unwrap_or(1)
    })
}

/// The caches of a pool's first CPU: those of a core are each processor's own, the others are shared by the
/// partition's processors on one node.
fn caches_of_a_pool(
    plan: &PartitionPlan,
    inventory: &Inventory,
    cpus: &BTreeMap<u32, &Cpu>,
    ids: &[(u32, u32)],
) -> Vec<CacheSpec> {
    let Some(first) = plan.cpus.iter().find_map(|id| cpus.get(&id)) else { return vec![] };
    let own = |id: u32| cpus.get(&id).is_some_and(|cpu| (cpu.package, cpu.core) == (first.package, first.core));
    let all = span(ids.iter().copied());
    caches(inventory, first.id, |cache| if cache.cpus.iter().all(own) { 1 } else { all })
}

/// The caches of CPU `id`, nearest first, one of each level and kind.
fn caches(inventory: &Inventory, id: u32, shared_by: impl Fn(&Cache) -> u32) -> Vec<CacheSpec> {
    let mut all: BTreeMap<(u8, CacheKind), CacheSpec> = BTreeMap::new();
    let real = |cache: &&Cache| (1..=4).contains(&cache.level) && cache.size > 0 && cache.cpus.contains(id);
    for cache in inventory.caches.iter().filter(real) {
        let Cache { level, kind, size, line, ways, .. } = *cache;
        let spec = CacheSpec { level, kind, size, line, ways, shared_by: shared_by(cache) };
        all.entry((level, kind)).or_insert(spec);
    }
    all.into_values().collect()
}

/// Distances as the host has them, within what a guest accepts: 10 to itself, more to others (ACPI 6.5,
/// section 5.2.17), less than the 255 that means unreachable.
fn distances(nodes: &[u32], inventory: &Inventory) -> Vec<u8> {
    let at = |node: u32| inventory.nodes.iter().position(|one| one.id == node);
    let mut all = Vec::with_capacity(nodes.len() * nodes.len());
    for &from in nodes {
        for &to in nodes {
            let distance = match (at(from), at(to)) {
                _ if from == to => 10,
                (Some(from), Some(to)) => inventory.distance(from, to).clamp(11, 254),
                _ => 20,
            };
            all.push(distance as u8);
        }
    }
    all
}

#[cfg(test)]
mod tests;
