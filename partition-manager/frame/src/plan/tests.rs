//! A few plans by hand.

use super::*;
use crate::declare::{
    Boot, IoProcessors, Memory, Partition, Pool, ProcessorMode, Processors, Range, Shutdown, WhenInactive,
};
use crate::guard::{Guard, Kind, Unit};
use crate::inventory::{Cpu, HugePages, Node, PAGE};
use crate::launch::InterruptMode;
use crate::units::MIB;

pub(super) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub(super) fn range<T>(minimum: T, desired: T, maximum: T) -> Range<T> {
    Range { minimum, desired, maximum }
}

pub(super) fn partition(text: &str, id: u32, mode: ProcessorMode, count: Range<u32>, size: Range<u64>) -> Partition {
    Partition {
        name: name(text),
        id,
        availability_priority: 127,
        processors: Processors { count, mode },
        memory: Memory { size, base: size.desired, pages: None },
        boot: Boot::Diagnostics { cmdline: String::new() },
        auto_start: true,
        when_inactive: WhenInactive::Hold,
        shutdown: Shutdown::default(),
        pit: None,
        exit_device: false,
        panic_device: false,
        watchdog: None,
        interrupts: InterruptMode::Kernel,
        interrupt_limit: crate::storm::Limit::default(),
        entropy: None,
        disks: vec![],
        networks: vec![],
        vsock: None,
        console: None,
    }
}

pub(super) fn dedicated(text: &str, id: u32, count: Range<u32>, mib: u64) -> Partition {
    let mode = ProcessorMode::Dedicated { io: IoProcessors::Own };
    partition(text, id, mode, count, range(mib * MIB, mib * MIB, mib * MIB))
}

pub(super) fn frame(reserved: u32, pools: &[(&str, u32)], partitions: Vec<Partition>) -> Frame {
    Frame {
        name: name("test"),
        cpus: None,
        memory_block: 2 * MIB,
        reserved_cpus: reserved,
        reserved_memory: 64 * MIB,
        minimum_units: Units::from_thousandths(50),
        shared_host: false,
        pools: pools.iter().map(|&(text, cpus)| Pool { name: name(text), cpus }).collect(),
        switches: vec![],
        partitions,
    }
}

/// A host of `nodes`, each with cores of the given widths and that much memory.
pub(super) fn host(nodes: &[(&[u32], u64)]) -> Inventory {
    let mut host = Inventory::default();
    let (mut id, mut core) = (0, 0);
    for (at, &(widths, mib)) in nodes.iter().enumerate() {
        let node = at as u32;
        let memory = mib * MIB;
        host.nodes.push(Node { id: node, memory, available: memory, huge_pages: vec![], distances: vec![] });
        for &width in widths {
            for _ in 0..width {
                host.cpus.push(Cpu { id, package: node, core, node });
                id += 1;
            }
            core += 1;
        }
    }
    host
}

fn planned(frame: &Frame, host: &Inventory) -> Plan {
    plan(frame, host, &Assignment::new()).unwrap()
}

fn set(text: &str) -> CpuSet {
    CpuSet::parse(text).unwrap()
}

#[test]
fn an_odd_dedicated_count_leaves_the_sibling_idle_and_says_so() {
    let frame = frame(2, &[], vec![dedicated("db", 1, range(1, 3, 4), 64)]);
    let plan = planned(&frame, &host(&[(&[2, 2, 2], 512)]));
    let db = plan.partition(&name("db")).unwrap();
    assert_eq!((db.cpus.clone(), db.processors.len()), (set("2-5"), 3));
    assert_eq!(db.processors, vec![set("2"), set("3"), set("4")]);
    let idle: Vec<_> = plan.warnings.iter().filter(|w| w.rule == "idle-sibling").collect();
    assert_eq!(idle.len(), 1);
    assert!(idle[0].text.contains("CPU 5 stays idle"), "{}", idle[0].text);
}

#[test]
fn a_shortfall_goes_by_availability_priority() {
    let mut low = dedicated("a", 1, range(1, 3, 3), 64);
    low.availability_priority = 1;
    let high = dedicated("b", 2, range(1, 3, 3), 64);
    let plan = planned(&frame(0, &[], vec![low, high]), &host(&[(&[1, 1, 1, 1], 512)]));
    assert_eq!(plan.partition(&name("a")).unwrap().processors.len(), 1);
    assert_eq!(plan.partition(&name("b")).unwrap().processors.len(), 3);
    assert!(plan.warnings.iter().any(|w| w.rule == "shortfall" && w.text.contains("partition a")));
    assert!(plan.warnings.iter().any(|w| w.rule == "host-shares"));
}

#[test]
fn minimums_that_exceed_the_frame_are_refused_with_all_claimants() {
    let partitions = vec![dedicated("a", 1, range(3, 3, 3), 300), dedicated("b", 2, range(2, 2, 2), 300)];
    let refusals =
        plan(&frame(1, &[("default", 1)], partitions), &host(&[(&[1, 1, 1, 1], 512)]), &Assignment::new()).unwrap_err();
    let rules: Vec<_> = refusals.iter().map(|r| r.rule.as_ref()).collect();
    assert_eq!(rules, ["cpus-exceeded", "memory-exceeded"]);
    let text = refusals[0].to_string();
    for part in ["4 CPUs", "need 7", "partition a needs 3 CPUs", "partition b needs 2 CPUs", "pool default", "the host"]
    {
        assert!(text.contains(part), "{part:?} is missing in {text:?}");
    }
}

#[test]
fn memory_is_on_the_node_of_the_processors() {
    let partitions = vec![dedicated("a", 1, range(2, 2, 2), 150), dedicated("b", 2, range(2, 2, 2), 150)];
    let plan = planned(&frame(0, &[], partitions), &host(&[(&[1, 1], 256), (&[1, 1], 256)]));
    for partition in &plan.partitions {
        assert_eq!((partition.score, partition.memory.len()), (100, 1), "{partition:?}");
    }
    assert_ne!(plan.partitions[0].memory[0].node, plan.partitions[1].memory[0].node);
}

#[test]
fn huge_pages_come_only_when_asked_for() {
    let mut host = host(&[(&[1, 1], 1024)]);
    host.nodes[0].huge_pages = vec![HugePages { size: 2 * MIB, total: 64, free: 64 }];
    let mut huge = dedicated("huge", 1, range(1, 1, 1), 128);
    huge.memory.pages = Some(2 * MIB);
    let mut frame = frame(0, &[], vec![huge, dedicated("any", 2, range(1, 1, 1), 128)]);
    let plan = planned(&frame, &host);
    let pages = |text| plan.partition(&name(text)).unwrap().memory.clone();
    assert_eq!(pages("huge"), vec![Extent { node: 0, blocks: 64, pages: 2 * MIB }]);
    assert_eq!(pages("any"), vec![Extent { node: 0, blocks: 64, pages: PAGE }]);
    frame.partitions[0].memory.size = range(130 * MIB, 130 * MIB, 130 * MIB);
    frame.partitions[0].memory.base = 130 * MIB;
    assert_eq!(super::plan(&frame, &host, &Assignment::new()).unwrap_err()[0].rule, "memory-exceeded");
    host.nodes[0].huge_pages.clear();
    assert_eq!(super::plan(&frame, &host, &Assignment::new()).unwrap_err()[0].rule, "pages-missing");
}

#[test]
fn the_host_and_a_pool_share_a_core_when_they_must() {
    let mode = ProcessorMode::Shared {
        pool: name("default"),
        units: range(Units::from(0.4), Units::from(0.4), Units::ONE),
        sharing: Sharing::Capped,
    };
    let tenant = partition("t", 1, mode, range(1, 1, 1), range(64 * MIB, 64 * MIB, 64 * MIB));
    let plan = planned(&frame(1, &[("default", 1)], vec![tenant]), &host(&[(&[2], 512)]));
    assert_eq!((plan.reserved, plan.pools[0].cpus.clone()), (set("0"), set("1")));
    assert_eq!(plan.partitions[0].processors, vec![set("1")]);
}

#[test]
fn what_is_wanted_grows_before_what_stays_inactive() {
    let mut idle = dedicated("a", 1, range(1, 3, 3), 64);
    idle.availability_priority = 255;
    let frame = frame(0, &[], vec![idle, dedicated("b", 2, range(1, 3, 3), 64)]);
    let host = host(&[(&[1, 1, 1, 1], 512)]);
    let plan = plan_for(&frame, &host, &Assignment::new(), &|p| p.name.as_str() == "b").unwrap();
    assert_eq!(plan.partition(&name("b")).unwrap().processors.len(), 3);
    assert_eq!(plan.partition(&name("a")).unwrap().processors.len(), 1);
    let mut frame = frame;
    frame.partitions[0].when_inactive = WhenInactive::Release;
    frame.partitions[1].processors.count = range(1, 4, 4);
    let plan = plan_for(&frame, &host, &Assignment::new(), &|p| p.name.as_str() == "b").unwrap();
    assert_eq!(plan.partition(&name("b")).unwrap().processors.len(), 4);
    assert_eq!(plan.withheld.len(), 1);
}

#[test]
fn a_minimum_that_runs_elsewhere_is_withheld_and_its_holder_named() {
    let host = host(&[(&[1, 1, 1], 512)]);
    let mut a = dedicated("a", 1, range(1, 3, 3), 64);
    let alone = planned(&frame(0, &[], vec![a.clone()]), &host);
    let mut owned = Assignment::new();
    owned.partitions.insert(name("a"), alone.partitions[0].clone());
    a.processors.count = range(1, 1, 1);
    let both = frame(0, &[], vec![a, dedicated("b", 2, range(1, 1, 1), 64)]);
    let plan = plan(&both, &host, &owned).unwrap();
    assert_eq!(plan.partition(&name("a")), Some(&alone.partitions[0]));
    assert_eq!(plan.partition(&name("b")), None);
    assert!(plan.withheld[0].to_string().contains("partition a holds CPUs 0-2"), "{}", plan.withheld[0]);
}

#[test]
fn a_host_that_reserves_more_than_it_has_is_refused() {
    let refusals = plan(&frame(1, &[], vec![]), &host(&[(&[1], 32)]), &Assignment::new()).unwrap_err();
    assert_eq!(refusals[0].rule, "reserve-exceeded");
}

#[test]
fn sixteen_exabytes_are_refused() {
    let size = u64::MAX / (2 * MIB) * (2 * MIB);
    let mut big = dedicated("big", 1, range(1, 1, 1), 64);
    big.memory.size = range(size, size, size);
    let two = vec![big.clone(), Partition { name: name("too"), id: 2, ..big }];
    let refusals = plan(&frame(0, &[], two), &host(&[(&[1, 1], 512)]), &Assignment::new()).unwrap_err();
    assert_eq!(refusals[0].rule, "memory-exceeded");
}

#[test]
fn a_wide_partition_takes_few_nodes_that_are_near_each_other() {
    let mut host = host(&[(&[1; 4], 512), (&[1; 4], 512), (&[1; 4], 512), (&[1; 4], 512)]);
    // Nodes 0 and 2 are near each other, and 1 and 3.
    for (at, node) in host.nodes.iter_mut().enumerate() {
        node.distances = (0..4).map(|to| if to == at { 10 } else { [16, 40][(at + to) % 2] }).collect();
    }
    let plan = planned(&frame(0, &[], vec![dedicated("wide", 1, range(6, 6, 6), 60)]), &host);
    let wide = plan.partition(&name("wide")).unwrap();
    assert_eq!(wide.cpus, set("0-3,8-9"));
    let extent = |node, blocks| Extent { node, blocks, pages: PAGE };
    assert_eq!(wide.memory, vec![extent(0, 20), extent(2, 10)]);
    // Five of nine pairs are local, and four count 24 of 30.
    assert_eq!((wide.score, plan.score), (91, Some(91)));
}

#[test]
fn the_host_does_not_take_its_share_from_the_node_that_a_partition_fills() {
    let partitions = vec![dedicated("big", 1, range(8, 8, 8), 400)];
    let plan = planned(&frame(2, &[("default", 1)], partitions), &host(&[(&[1; 8], 512), (&[1; 4], 512)]));
    assert_eq!((plan.reserved.clone(), plan.partitions[0].cpus.clone()), (set("8-9"), set("0-7")));
    assert_eq!(plan.reserved_memory, vec![Extent { node: 1, blocks: 32, pages: PAGE }]);
    assert_eq!(plan.partitions[0].score, 100);
}

#[test]
fn a_guarded_cpu_costs_the_last_in_order_who_learns_why() {
    let mut host = host(&[(&[1, 1, 1], 512)]);
    let reason = "uncorrected machine check".to_owned();
    host.guards = vec![Guard { unit: Unit::Cpu(0), kind: Kind::Fatal, reason, time: 7 }];
    let frame = frame(0, &[], vec![dedicated("a", 1, range(2, 2, 2), 64), dedicated("b", 2, range(1, 1, 1), 64)]);
    let plan = planned(&frame, &host);
    assert_eq!((plan.guarded.clone(), plan.partitions[0].cpus.clone()), (set("0"), set("1-2")));
    let text = plan.withheld[0].to_string();
    for part in
        ["partition b cannot", "partition a is to have CPUs 1-2", "without CPU 0, which a guard record takes out"]
    {
        assert!(text.contains(part), "{part:?} is missing in {text:?}");
    }
    // What is wanted goes before what is only held.
    let only_b = plan_for(&frame, &host, &Assignment::new(), &|p| p.name.as_str() == "b").unwrap();
    assert_eq!(only_b.partition(&name("b")).map(|b| b.cpus.len()), Some(1));
    assert!(only_b.withheld[0].text.contains("partition a cannot"), "{:?}", only_b.withheld);
}

#[test]
fn what_runs_on_a_guarded_cpu_stays_and_is_told() {
    let mut host = host(&[(&[1, 1, 1], 512)]);
    let frame = frame(0, &[], vec![dedicated("a", 1, range(2, 2, 2), 64)]);
    let owned = planned(&frame, &host).assignment();
    let reason = "too many corrected errors".to_owned();
    host.guards = vec![Guard { unit: Unit::Core { package: 0, core: 1 }, kind: Kind::Predictive, reason, time: 7 }];
    let plan = plan(&frame, &host, &owned).unwrap();
    assert_eq!(plan.partitions[0].cpus, set("0-1"));
    assert_eq!(plan.holders, vec![name("a")]);
    let told = plan.warnings.iter().find(|warning| warning.rule == "guarded").unwrap();
    assert!(told.text.contains("partition a runs on CPUs 1") && told.text.contains("too many corrected"), "{told}");
    assert_eq!(planned(&frame, &host).partitions[0].cpus, set("0,2"));
}
