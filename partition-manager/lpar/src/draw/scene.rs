//! What a picture shows: the owner of each CPU, the owners of each node's memory, and what belongs together.

use super::marks::{Marks, Tally};
use frame::assignment::Assignment;
use frame::cpuset::CpuSet;
use frame::inventory::{Inventory, PAGE};
use frame::name::Name;
use frame::plan::{Backing, Extent, Plan};
use std::collections::{BTreeMap, BTreeSet};

/// Who has a CPU, or a piece of memory. Numbers are positions in [`Plan::partitions`] and [`Plan::pools`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// A partition: a CPU of its own, its memory, its entitlement.
    Partition(usize),
    /// The sibling of a partition's CPU, idle because a core is not shared.
    Idle(usize),
    /// A shared processor pool.
    Pool(usize),
    /// The host keeps it, or uses it now.
    Host,
    /// Deconfigured by a guard record.
    Guarded,
    /// Nobody: it is free.
    Nobody,
    /// It does not belong to the frame.
    Outside,
}

/// One core and the logical CPUs that are its threads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Core {
    /// Its number, unique in the package.
    pub core: u32,
    /// Its online CPUs, lowest first.
    pub cpus: Vec<u32>,
}

/// The cores of one package that are on one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The package.
    pub package: u32,
    /// The node.
    pub node: u32,
    /// The cores, by their lowest CPU.
    pub cores: Vec<Core>,
}

/// The memory of one page size on one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    /// The node.
    pub node: u32,
    /// Size of the pages, bytes.
    pub pages: u64,
    /// Who has how many bytes: the host first, then what is guarded, then partitions from the largest, then what is free.
    pub shares: Vec<(Owner, u64)>,
}

impl Memory {
    /// All of it, bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.shares.iter().fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes))
    }
}

/// The entitlement of one pool, in thousandths of a processing unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Position in [`Plan::pools`].
    pub at: usize,
    /// Who is entitled to how much, by name; what is spare is nobody's.
    pub shares: Vec<(Owner, u64)>,
    /// How many partitions live on it.
    pub partitions: usize,
}

/// A plan with its machine, made ready to be drawn.
#[derive(Debug)]
pub struct Scene<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// The machine.
    pub inventory: &'a Inventory,
    /// Owner of each CPU of the inventory.
    pub owners: BTreeMap<u32, Owner>,
    /// The CPUs by package and node.
    pub rows: Vec<Row>,
    /// The memory by node and page size.
    pub memory: Vec<Memory>,
    /// The pools.
    pub pools: Vec<Pool>,
    /// What stands for each partition.
    pub marks: Marks,
}

impl<'a> Scene<'a> {
    /// A plan that was made for `inventory`; `owned` is what partitions held already when the inventory was
    /// taken.
    #[must_use]
    pub fn new(plan: &'a Plan, inventory: &'a Inventory, owned: &Assignment) -> Self {
        let owners = owners(plan, inventory);
        let marks = Marks::new(&tallies(plan, inventory));
        let rows = rows(inventory);
        Self { plan, inventory, owners, rows, memory: memory(plan, inventory, owned), pools: pools(plan), marks }
    }

    /// The owner of a CPU.
    #[must_use]
    pub fn owner(&self, cpu: u32) -> Owner {
        self.owners.get(&cpu).copied().unwrap_or(Owner::Outside)
    }

    /// How many CPUs have an owner for which `which` holds.
    #[must_use]
    pub fn count(&self, which: impl Fn(Owner) -> bool) -> usize {
        self.owners.values().filter(|owner| which(**owner)).count()
    }

    /// Who it is, in words.
    #[must_use]
    pub fn words(&self, owner: Owner) -> String {
        let partition = |at: usize| self.plan.partitions.get(at).map_or("?", |one| one.name.as_str());
        match owner {
            Owner::Partition(at) => format!("partition {}", partition(at)),
            Owner::Idle(at) => format!("idle sibling of partition {}", partition(at)),
            Owner::Pool(at) => format!("pool {}", self.plan.pools.get(at).map_or("?", |one| one.name.as_str())),
            Owner::Host => "the host's own".to_owned(),
            Owner::Guarded => "deconfigured by a guard record".to_owned(),
            Owner::Nobody => "unassigned".to_owned(),
            Owner::Outside => "not of this frame".to_owned(),
        }
    }
}

fn owners(plan: &Plan, inventory: &Inventory) -> BTreeMap<u32, Owner> {
    let mut owners: BTreeMap<u32, Owner> = inventory.cpus.iter().map(|cpu| (cpu.id, Owner::Outside)).collect();
    let mut give = |set: &CpuSet, owner: Owner| {
        for cpu in set.iter() {
            // A CPU that went offline since is not on the machine that is drawn.
            if let Some(place) = owners.get_mut(&cpu) {
                *place = owner;
            }
        }
    };
    give(&plan.unassigned, Owner::Nobody);
    give(&plan.guarded, Owner::Guarded);
    give(&plan.reserved, Owner::Host);
    for (at, pool) in plan.pools.iter().enumerate() {
        give(&pool.cpus, Owner::Pool(at));
    }
    for (at, partition) in plan.partitions.iter().enumerate() {
        if partition.backing == Backing::Dedicated {
            give(&partition.cpus, Owner::Idle(at));
            partition.processors.iter().for_each(|set| give(set, Owner::Partition(at)));
        }
    }
    owners
}

fn tallies(plan: &Plan, inventory: &Inventory) -> Vec<Tally> {
    let cpus = inventory.cpus.len().max(1) as f64;
    let memory = inventory.nodes.iter().fold(0u64, |sum, node| sum.saturating_add(node.memory)).max(1) as f64;
    plan.partitions
        .iter()
        .map(|partition| {
            let processors = match partition.backing {
                Backing::Dedicated => partition.cpus.len() as f64,
                Backing::Shared { .. } => partition.units().as_f64(),
            };
            let share = (processors / cpus).max(partition.memory_bytes(plan.memory_block) as f64 / memory);
            Tally { name: partition.name.clone(), share }
        })
        .collect()
}

fn rows(inventory: &Inventory) -> Vec<Row> {
    let mut rows: BTreeMap<(u32, u32), BTreeMap<u32, BTreeSet<u32>>> = BTreeMap::new();
    for cpu in &inventory.cpus {
        rows.entry((cpu.package, cpu.node)).or_default().entry(cpu.core).or_default().insert(cpu.id);
    }
    rows.into_iter()
        .map(|((package, node), cores)| {
            let cores = cores.into_iter().map(|(core, cpus)| Core { core, cpus: cpus.into_iter().collect() });
            let mut cores: Vec<Core> = cores.collect();
            cores.sort_by_key(|core| core.cpus.first().copied());
            Row { package, node, cores }
        })
        .collect()
}

fn memory(plan: &Plan, inventory: &Inventory, owned: &Assignment) -> Vec<Memory> {
    let mut given: BTreeMap<(u32, u64), BTreeMap<usize, u64>> = BTreeMap::new();
    for (at, partition) in plan.partitions.iter().enumerate() {
        for extent in &partition.memory {
            let bytes = extent.blocks.saturating_mul(plan.memory_block);
            let place = given.entry((extent.node, extent.pages)).or_default().entry(at).or_default();
            *place = place.saturating_add(bytes);
        }
    }
    let held = bytes(plan, owned.partitions.values().flat_map(|partition| &partition.memory));
    let reserved = bytes(plan, &plan.reserved_memory);
    let guarded = bytes(plan, &plan.guarded_memory);
    let of = |map: &BTreeMap<(u32, u64), u64>, key: (u32, u64)| map.get(&key).copied().unwrap_or(0);
    let mut all = Vec::new();
    for node in &inventory.nodes {
        let sizes = node.huge_pages.iter().filter(|pool| pool.total > 0);
        let huge =
            sizes.map(|pool| (pool.size, pool.total.saturating_mul(pool.size), pool.free.saturating_mul(pool.size)));
        let huge: Vec<(u64, u64, u64)> = huge.collect();
        let ordinary = huge.iter().fold(node.memory, |left, (_, total, _)| left.saturating_sub(*total));
        for (pages, total, free) in std::iter::once((PAGE, ordinary, node.available)).chain(huge) {
            let key = (node.id, pages);
            let parts = given.remove(&key).unwrap_or_default();
            let taken = parts.values().fold(0u64, |sum, bytes| sum.saturating_add(*bytes));
            let broken = of(&guarded, key);
            // What is held is not available any more, but not the host's either.
            let usable = total.saturating_sub(of(&reserved, key)).min(free.saturating_add(of(&held, key)));
            let usable = usable.saturating_sub(broken).max(taken);
            let total = total.max(usable);
            let broken = broken.min(total - usable);
            let mut parts: Vec<(usize, u64)> = parts.into_iter().filter(|(_, bytes)| *bytes > 0).collect();
            parts.sort_by_key(|&(at, bytes)| (std::cmp::Reverse(bytes), at));
            let mut shares = vec![(Owner::Host, total - usable - broken), (Owner::Guarded, broken)];
            shares.extend(parts.into_iter().map(|(at, bytes)| (Owner::Partition(at), bytes)));
            shares.push((Owner::Nobody, usable - taken));
            shares.retain(|(_, bytes)| *bytes > 0);
            all.push(Memory { node: node.id, pages, shares });
        }
    }
    all
}

/// How many bytes extents have on each node and of each page size.
fn bytes<'e>(plan: &Plan, extents: impl IntoIterator<Item = &'e Extent>) -> BTreeMap<(u32, u64), u64> {
    let mut sums: BTreeMap<(u32, u64), u64> = BTreeMap::new();
    for extent in extents {
        let place = sums.entry((extent.node, extent.pages)).or_default();
        *place = place.saturating_add(extent.blocks.saturating_mul(plan.memory_block));
    }
    sums
}

fn pools(plan: &Plan) -> Vec<Pool> {
    let mut pools: Vec<Pool> = (0..plan.pools.len()).map(|at| Pool { at, shares: Vec::new(), partitions: 0 }).collect();
    let named: BTreeMap<&Name, usize> = plan.pools.iter().enumerate().map(|(at, pool)| (&pool.name, at)).collect();
    for (at, partition) in plan.partitions.iter().enumerate() {
        let Backing::Shared { pool, units, .. } = &partition.backing else { continue };
        if let Some(place) = named.get(pool).and_then(|&at| pools.get_mut(at)) {
            place.partitions += 1;
            place.shares.push((Owner::Partition(at), u64::from(units.thousandths())));
        }
    }
    for (pool, planned) in pools.iter_mut().zip(&plan.pools) {
        let all = (planned.cpus.len() as u64).saturating_mul(1_000);
        let given = pool.shares.iter().fold(0u64, |sum, (_, units)| sum.saturating_add(*units));
        pool.shares.push((Owner::Nobody, all.saturating_sub(given)));
        pool.shares.retain(|(_, units)| *units > 0);
    }
    pools
}
