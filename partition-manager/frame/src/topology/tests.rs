//! The rules of what a guest sees, on machines of many shapes.

use super::*;
use crate::inventory::Node;
use crate::launch::{BootSpec, InterruptMode, LaunchSpec, MOST_PROCESSORS, MemorySpec, ProcessorSpec};
use crate::name::Name;
use crate::plan::Extent;
use crate::units::{GIB, Units};
use proptest::prelude::*;

/// A regular machine.
#[derive(Clone, Copy, Debug)]
struct Shape {
    packages: u32,
    nodes_of_a_package: u32,
    caches_of_a_node: u32,
    cores_of_a_cache: u32,
    threads: u32,
}

impl Shape {
    fn new((packages, nodes, caches, cores, threads): (u32, u32, u32, u32, u32)) -> Self {
        Self { packages, nodes_of_a_package: nodes, caches_of_a_node: caches, cores_of_a_cache: cores, threads }
    }

    /// CPUs are numbered thread by thread, as on most machines: siblings are not neighbours.
    fn inventory(self) -> Inventory {
        let nodes = self.packages * self.nodes_of_a_package;
        let cores = nodes * self.caches_of_a_node * self.cores_of_a_cache;
        let mut inventory = Inventory::default();
        for thread in 0..self.threads {
            for core in 0..cores {
                let package = core / (cores / self.packages);
                // Core numbers of real machines have gaps.
                let cpu = Cpu { id: thread * cores + core, package, core: core * 3, node: core / (cores / nodes) };
                inventory.cpus.push(cpu);
            }
        }
        for node in 0..nodes {
            let distances = (0..nodes).map(|to| 10 + 11 * node.abs_diff(to)).collect();
            inventory.nodes.push(Node { id: node, memory: GIB, available: GIB, huge_pages: vec![], distances });
        }
        let siblings = |first: u32, count: u32| -> CpuSet {
            (0..self.threads).flat_map(|thread| (first..first + count).map(move |core| thread * cores + core)).collect()
        };
        let mut add = |level, kind, size, cpus| {
            inventory.caches.push(Cache { level, kind, size, line: 64, ways: 8, cpus });
        };
        for core in 0..cores {
            add(1, CacheKind::Data, 32 << 10, siblings(core, 1));
            add(1, CacheKind::Instruction, 32 << 10, siblings(core, 1));
            add(2, CacheKind::Unified, 1 << 20, siblings(core, 1));
        }
        for first in (0..cores).step_by(self.cores_of_a_cache as usize) {
            add(3, CacheKind::Unified, 32 << 20, siblings(first, self.cores_of_a_cache));
        }
        inventory
    }
}

fn shape() -> impl Strategy<Value = Shape> {
    (1u32..5, 1u32..4, 1u32..4, 1u32..6, 1u32..3).prop_map(Shape::new)
}

/// Machines with so few of everything that numbers suffice to keep caches apart, whatever is picked.
fn small_shape() -> impl Strategy<Value = Shape> {
    (1u32..3, 1u32..3, 1u32..3, 1u32..9, 1u32..3).prop_map(Shape::new)
}

fn one(cpu: u32) -> CpuSet {
    CpuSet::from_iter([cpu])
}

fn dedicated(cpus: &[u32], nodes: &[u32]) -> PartitionPlan {
    PartitionPlan {
        name: Name::new("a").unwrap(),
        id: 1,
        cpus: cpus.iter().copied().collect(),
        processors: cpus.iter().copied().map(one).collect(),
        io: CpuSet::new(),
        backing: Backing::Dedicated,
        memory: nodes.iter().map(|node| Extent { node: *node, blocks: 8, pages: 4096 }).collect(),
        base: 0,
        score: 0,
    }
}

fn shared(pool: &[u32], processors: usize, nodes: &[u32]) -> PartitionPlan {
    let cpus: CpuSet = pool.iter().copied().collect();
    let sharing = crate::declare::Sharing::Capped;
    let backing = Backing::Shared { pool: Name::new("p").unwrap(), units: Units::whole(1), sharing };
    PartitionPlan { processors: vec![cpus.clone(); processors], cpus, backing, ..dedicated(&[0], nodes) }
}

fn spec(plan: &PartitionPlan, places: &[Place], topology: Topology) -> LaunchSpec {
    let processor = |(cpus, place): (&CpuSet, &Place)| ProcessorSpec { affinity: cpus.clone(), place: *place };
    LaunchSpec {
        name: plan.name.clone(),
        frame: Name::new("f").unwrap(),
        id: plan.id,
        incarnation: 1,
        processors: plan.processors.iter().zip(places).map(processor).collect(),
        io: CpuSet::new(),
        memory: plan.memory.iter().map(|e| MemorySpec { node: e.node, bytes: e.blocks << 21, pages: 4096 }).collect(),
        boot: BootSpec::Diagnostics { cmdline: String::new() },
        interrupts: vec![],
        topology,
        pit: None,
        exit_device: false,
        panic_device: false,
        watchdog: None,
        devices: vec![],
        interrupt_mode: InterruptMode::default(),
        interrupt_limit: crate::storm::Limit::default(),
    }
}

/// Who has the same value: for each processor the first that has.
fn classes<T: PartialEq>(values: &[T]) -> Vec<usize> {
    values.iter().map(|value| values.iter().position(|one| one == value).unwrap()).collect()
}

proptest! {
    #[test]
    fn a_dedicated_partition_sees_its_cpus(
        shape in shape(),
        picks in proptest::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 1..=MOST_PROCESSORS),
        memory in proptest::collection::vec(any::<prop::sample::Index>(), 1..4),
    ) {
        let inventory = shape.inventory();
        let mut cpus: Vec<u32> = vec![];
        for (pick, _) in &picks {
            let cpu = pick.get(&inventory.cpus).id;
            if !cpus.contains(&cpu) {
                cpus.push(cpu);
            }
        }
        let mut nodes: Vec<u32> = memory.iter().map(|pick| pick.get(&inventory.nodes).id).collect();
        nodes.sort_unstable();
        nodes.dedup();
        let plan = dedicated(&cpus, &nodes);
        let (places, topology) = shown(&plan, &inventory);
        prop_assert_eq!(spec(&plan, &places, topology.clone()).validate(), Ok(()));

        let host: Vec<Cpu> =
            cpus.iter().map(|id| *inventory.cpus.iter().find(|cpu| cpu.id == *id).unwrap()).collect();
        // The same package, core and node exactly where the host has it so.
        let of = |value: fn(&Cpu) -> (u32, u32)| classes(&host.iter().map(value).collect::<Vec<_>>());
        let seen = |value: fn(&Place) -> (u32, u32)| classes(&places.iter().map(value).collect::<Vec<_>>());
        prop_assert_eq!(of(|cpu| (cpu.package, cpu.core)), seen(|place| (place.package, place.core)));
        prop_assert_eq!(of(|cpu| (cpu.node, 0)), seen(|place| (place.node, 0)));
        if places.iter().any(|place| place.package > 0) {
            prop_assert_eq!(of(|cpu| (cpu.package, 0)), seen(|place| (place.package, 0)));
        }
        for (cpu, place) in host.iter().zip(&places) {
            prop_assert_eq!(topology.nodes[place.node as usize], cpu.node);
        }
        // Threads, and packages, are numbered without gaps; processor 0 is the first of everything.
        prop_assert_eq!((places[0].package, places[0].core, places[0].thread), (0, 0, 0));
        for place in &places {
            for thread in 0..place.thread {
                let sibling = Place { thread, ..*place };
                prop_assert!(places.contains(&sibling));
            }
            for package in 0..place.package {
                prop_assert!(places.iter().any(|other| other.package == package));
            }
        }
        // Identifiers are all different, and every guest can address them.
        let layout = ApicLayout::of(&places).unwrap();
        let ids: BTreeSet<u32> = places.iter().map(|place| layout.id(*place)).collect();
        prop_assert_eq!(ids.len(), places.len());
        prop_assert!(ids.iter().all(|id| *id <= HIGHEST_XAPIC));
        // Nodes: the memory's and the processors', the distances of the host.
        let expected: BTreeSet<u32> = nodes.iter().copied().chain(host.iter().map(|cpu| cpu.node)).collect();
        prop_assert_eq!(topology.nodes.iter().copied().collect::<BTreeSet<_>>(), expected);
        let count = topology.nodes.len();
        for (a, from) in topology.nodes.iter().enumerate() {
            for (b, to) in topology.nodes.iter().enumerate() {
                let distance = topology.distances[a * count + b];
                prop_assert_eq!(distance, topology.distances[b * count + a]);
                prop_assert_eq!(u32::from(distance), inventory.distance(*from as usize, *to as usize));
            }
        }
    }

    #[test]
    fn who_shares_a_cache_can_be_told_by_the_identifier(shape in small_shape(), picks in proptest::collection::vec(
        any::<prop::sample::Index>(), 1..24,
    )) {
        let inventory = shape.inventory();
        let cpus: BTreeSet<u32> = picks.iter().map(|pick| pick.get(&inventory.cpus).id).collect();
        let cpus: Vec<u32> = cpus.into_iter().collect();
        let plan = dedicated(&cpus, &[0]);
        let (places, topology) = shown(&plan, &inventory);
        let layout = ApicLayout::of(&places).unwrap();
        prop_assert_eq!(topology.caches.len(), 4);
        for cache in &topology.caches {
            let instance = |cpu: &u32| inventory.caches.iter().position(|one| {
                (one.level, one.kind) == (cache.level, cache.kind) && one.cpus.contains(*cpu)
            });
            let host = classes(&cpus.iter().map(instance).collect::<Vec<_>>());
            let guest = classes(&places.iter().map(|place| layout.id(*place) / cache.shared_by).collect::<Vec<_>>());
            prop_assert_eq!(host, guest, "level {}", cache.level);
        }
    }

    #[test]
    fn a_shared_partition_sees_cores_on_the_nodes_of_its_pool(
        shape in shape(), first in any::<prop::sample::Index>(), width in 1usize..20, processors in 1usize..=64,
    ) {
        let inventory = shape.inventory();
        let start = first.index(inventory.cpus.len());
        let pool: Vec<u32> = inventory.cpus.iter().skip(start).take(width).map(|cpu| cpu.id).collect();
        let plan = shared(&pool, processors, &[0]);
        let (places, topology) = shown(&plan, &inventory);
        prop_assert_eq!(spec(&plan, &places, topology.clone()).validate(), Ok(()));
        prop_assert!(places.iter().all(|place| place.package == 0 && place.thread == 0));
        let homes: BTreeSet<u32> =
            inventory.cpus.iter().filter(|cpu| pool.contains(&cpu.id)).map(|cpu| cpu.node).collect();
        for place in &places {
            prop_assert!(homes.contains(&topology.nodes[place.node as usize]));
        }
        if processors >= pool.len() {
            let seen: BTreeSet<u32> = places.iter().map(|place| topology.nodes[place.node as usize]).collect();
            prop_assert_eq!(seen, homes);
        }
        prop_assert!(topology.caches.iter().all(|cache| cache.level > 2 || cache.shared_by == 1));
    }
}

const TWO_SOCKETS: Shape =
    Shape { packages: 2, nodes_of_a_package: 1, caches_of_a_node: 1, cores_of_a_cache: 2, threads: 2 };

#[test]
fn eight_processors_of_two_sockets_look_like_the_host() {
    let inventory = TWO_SOCKETS.inventory();
    // Core by core, as a plan lists them.
    let (places, topology) = shown(&dedicated(&[0, 4, 1, 5, 2, 6, 3, 7], &[0, 1]), &inventory);
    let expected: Vec<Place> =
        (0..8).map(|at| Place { package: at / 4, core: at / 2 % 2, thread: at % 2, node: at / 4 }).collect();
    assert_eq!(places, expected);
    assert_eq!((topology.nodes, topology.distances), (vec![0, 1], vec![10, 21, 21, 10]));
    let caches: Vec<_> = topology.caches.iter().map(|cache| (cache.level, cache.shared_by)).collect();
    assert_eq!(caches, [(1, 2), (1, 2), (2, 2), (3, 4)]);
    let layout = ApicLayout::of(&places).unwrap();
    assert_eq!(places.iter().map(|place| layout.id(*place)).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn an_idle_sibling_is_not_shown() {
    let (places, topology) = shown(&dedicated(&[0, 4, 1], &[0]), &TWO_SOCKETS.inventory());
    let cores: Vec<_> = places.iter().map(|place| (place.core, place.thread)).collect();
    assert_eq!(cores, [(0, 0), (0, 1), (1, 0)]);
    assert_eq!(topology.nodes, [0]);
}

#[test]
fn parts_of_two_caches_are_kept_apart() {
    let host = Shape { packages: 1, nodes_of_a_package: 1, caches_of_a_node: 2, cores_of_a_cache: 4, threads: 1 };
    let (places, topology) = shown(&dedicated(&[0, 1, 2, 4], &[0]), &host.inventory());
    assert_eq!(places.iter().map(|place| place.core).collect::<Vec<_>>(), [0, 1, 2, 4]);
    assert_eq!(topology.caches[3].shared_by, 4);
}

#[test]
fn a_cpu_that_is_gone_is_a_core_of_its_own() {
    let (places, topology) = shown(&dedicated(&[0, 70, 71], &[1]), &TWO_SOCKETS.inventory());
    assert_eq!(places.iter().map(|place| place.core).collect::<BTreeSet<_>>().len(), 3);
    assert_eq!(topology.nodes, [0, 1]);
    assert_eq!(places.iter().map(|place| place.node).collect::<Vec<_>>(), [0, 1, 1]);
}

#[test]
fn odd_distances_become_what_a_guest_accepts() {
    let mut inventory = TWO_SOCKETS.inventory();
    inventory.nodes[0].distances = vec![77, 3];
    inventory.nodes[1].distances = vec![5000, 0];
    let (_, topology) = shown(&dedicated(&[0], &[0, 1]), &inventory);
    assert_eq!(topology.distances, [10, 11, 254, 10]);
}

#[test]
fn places_that_need_too_many_bits_have_no_layout() {
    let place = Place { package: 1, core: 1 << 11, ..Place::default() };
    assert_eq!(ApicLayout::of(&[place]), None);
    assert_eq!(ApicLayout::of(&[Place { core: u32::MAX, ..place }]), None);
    let most = Place { core: 0x7ff, ..place };
    assert_eq!(ApicLayout::of(&[most]).map(|layout| layout.id(most)), Some(0xfff));
}
