//! What must hold for every plan, on random frames and hosts, and a few plans by hand.

use super::*;
use crate::declare::{
    Boot, IoProcessors, Memory, Partition, Pool, ProcessorMode, Processors, Range, Shutdown, WhenInactive,
};
use crate::inventory::{Cpu, HugePages, Node, PAGE};
use crate::units::MIB;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn range<T>(minimum: T, desired: T, maximum: T) -> Range<T> {
    Range { minimum, desired, maximum }
}

fn partition(text: &str, id: u32, mode: ProcessorMode, count: Range<u32>, size: Range<u64>) -> Partition {
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
    }
}

fn dedicated(text: &str, id: u32, count: Range<u32>, mib: u64) -> Partition {
    let mode = ProcessorMode::Dedicated { io: IoProcessors::Own };
    partition(text, id, mode, count, range(mib * MIB, mib * MIB, mib * MIB))
}

fn frame(reserved: u32, pools: &[(&str, u32)], partitions: Vec<Partition>) -> Frame {
    Frame {
        name: name("test"),
        cpus: None,
        memory_block: 2 * MIB,
        reserved_cpus: reserved,
        reserved_memory: 64 * MIB,
        minimum_units: Units::from_thousandths(50),
        shared_host: false,
        pools: pools.iter().map(|&(text, cpus)| Pool { name: name(text), cpus }).collect(),
        partitions,
    }
}

/// A host of `nodes`, each with cores of the given widths and that much memory.
fn host(nodes: &[(&[u32], u64)]) -> Inventory {
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

/// A host of up to four nodes; cores of one or two threads, of one width or mixed.
fn hosts() -> impl Strategy<Value = Inventory> {
    let core = prop_oneof![Just(1u32), Just(2u32)];
    let mixed = proptest::collection::vec(core.clone(), 1..9);
    let uniform = (core, 1..9usize).prop_map(|(width, n)| vec![width; n]);
    let node = (prop_oneof![3 => uniform, 1 => mixed], 32..900u64, 0..90u64);
    proptest::collection::vec(node, 1..5).prop_map(|nodes| {
        let shapes: Vec<(&[u32], u64)> = nodes.iter().map(|(widths, mib, _)| (widths.as_slice(), *mib)).collect();
        let mut host = host(&shapes);
        for (node, (_, mib, pages)) in host.nodes.iter_mut().zip(&nodes) {
            let total = (*pages).min(mib / 4);
            node.huge_pages = vec![HugePages { size: 2 * MIB, total, free: total }];
            node.available = node.memory - total * 2 * MIB;
        }
        host
    })
}

fn ranges(most: u32) -> impl Strategy<Value = Range<u32>> {
    (1..=most, 0..=most, 0..3u32).prop_map(|(low, more, most)| range(low, low + more, low + more + most))
}

fn modes() -> impl Strategy<Value = (ProcessorMode, Range<u32>)> {
    let io = prop_oneof![Just(IoProcessors::Own), Just(IoProcessors::Pool(name("default")))];
    let dedicated = (io, ranges(3)).prop_map(|(io, count)| (ProcessorMode::Dedicated { io }, count));
    let shared = (any::<bool>(), ranges(2), 0..100u32).prop_map(|(second, count, percent)| {
        let least = 50 * count.maximum;
        let desired = (least + percent * 4).min(1000 * count.desired);
        let low = Units::from_thousandths(least.min(desired));
        let units = range(low, Units::from_thousandths(desired), Units::from_thousandths(desired.max(least)));
        let units = Range { minimum: low.min(Units::whole(count.minimum)), ..units };
        let pool = name(if second { "second" } else { "default" });
        (ProcessorMode::Shared { pool, units, sharing: Sharing::Uncapped { weight: 128 } }, count)
    });
    prop_oneof![dedicated, shared]
}

fn frames() -> impl Strategy<Value = Frame> {
    let one = (modes(), (1..40u64, 0..80u64), any::<bool>(), 0..4u8, any::<bool>());
    let partitions = proptest::collection::vec(one, 0..7);
    (partitions, 0..3u32, 1..3u32, 1..3u32).prop_map(|(partitions, reserved, first, second)| {
        let partitions =
            partitions.into_iter().enumerate().map(|(at, ((mode, count), (low, more), huge, priority, hold))| {
                let size = range(low * 2 * MIB, (low + more) * 2 * MIB, (low + more) * 2 * MIB);
                let mut one = partition(&format!("p{at}"), at as u32 + 1, mode, count, size);
                one.memory.pages = huge.then_some(2 * MIB);
                one.availability_priority = priority;
                one.when_inactive = if hold { WhenInactive::Hold } else { WhenInactive::Release };
                one
            });
        frame(reserved, &[("default", first), ("second", second)], partitions.collect())
    })
}

/// Nothing is assigned twice, everything that is assigned exists, and every minimum is kept.
fn check(frame: &Frame, host: &Inventory, plan: &Plan) -> Result<(), TestCaseError> {
    let online: CpuSet = host.cpus.iter().map(|cpu| cpu.id).collect();
    let mut seen = CpuSet::new();
    let mut claim = |cpus: &CpuSet, who: &str| {
        for cpu in cpus.iter() {
            prop_assert!(online.contains(cpu), "{who} has CPU {cpu}, which is not there");
            prop_assert!(seen.insert(cpu), "{who} has CPU {cpu}, which another has too");
        }
        Ok(())
    };
    claim(&plan.reserved, "the host")?;
    claim(&plan.unassigned, "nobody")?;
    for pool in &plan.pools {
        claim(&pool.cpus, "a pool")?;
    }
    let mut memory: BTreeMap<(u32, u64), u64> = BTreeMap::new();
    let mut units: BTreeMap<Name, Units> = BTreeMap::new();
    for planned in &plan.partitions {
        for extent in &planned.memory {
            *memory.entry((extent.node, extent.pages)).or_default() += extent.blocks * plan.memory_block;
        }
        match &planned.backing {
            Backing::Dedicated => {
                claim(&planned.cpus, planned.name.as_str())?;
                let cores = |cpus: &CpuSet| -> std::collections::BTreeSet<u32> {
                    host.cpus.iter().filter(|cpu| cpus.contains(cpu.id)).map(|cpu| cpu.core).collect()
                };
                let whole: CpuSet =
                    host.cpus.iter().filter(|c| cores(&planned.cpus).contains(&c.core)).map(|c| c.id).collect();
                prop_assert_eq!(&whole, &planned.cpus, "{} has no whole cores", planned.name);
                let used: CpuSet = planned.processors.iter().flat_map(CpuSet::iter).collect();
                prop_assert_eq!(used.len(), planned.processors.len());
                prop_assert!(used.difference(&planned.cpus).is_empty());
            }
            Backing::Shared { pool, units: given, .. } => {
                let sum = units.entry(pool.clone()).or_default();
                *sum = sum.plus(*given);
                prop_assert_eq!(&planned.cpus, &plan.pool(pool).unwrap().cpus);
            }
        }
        prop_assert!(!planned.io.is_empty() && planned.score <= 100);
    }
    for (pool, sum) in units {
        prop_assert!(sum <= Units::whole(plan.pool(&pool).unwrap().cpus.len() as u32), "pool {} gives {}", pool, sum);
    }
    let mut ordinary = 0;
    for node in &host.nodes {
        let used = |pages| memory.get(&(node.id, pages)).copied().unwrap_or(0);
        let huge: u64 = node.huge_pages.iter().map(|pages| pages.total * pages.size).sum();
        prop_assert!(used(2 * MIB) <= huge && used(PAGE) <= node.memory - huge, "node {} is overfull", node.id);
        ordinary += node.memory - huge - used(PAGE);
    }
    prop_assert!(ordinary >= frame.reserved_memory, "the host's own memory is gone");
    for declared in &frame.partitions {
        let Some(planned) = plan.partition(&declared.name) else { continue };
        let count = planned.processors.len() as u32;
        prop_assert!(count >= declared.processors.count.minimum && count <= declared.processors.count.desired);
        let bytes = planned.memory_bytes(plan.memory_block);
        prop_assert!(bytes >= declared.memory.size.minimum && bytes <= declared.memory.size.desired);
        if let (ProcessorMode::Shared { units, .. }, Backing::Shared { units: given, .. }) =
            (&declared.processors.mode, &planned.backing)
        {
            prop_assert!(*given >= units.minimum && *given <= units.desired);
            prop_assert!(u64::from(given.thousandths()) >= 50 * u64::from(count));
        }
    }
    Ok(())
}

/// What is owned after the partitions that `pick` names were activated as planned, and the host after it.
fn activate(plan: &Plan, host: &Inventory, pick: &[bool]) -> (Assignment, Inventory) {
    let mut owned = Assignment::new();
    owned.pools = plan.pools.iter().map(|pool| (pool.name.clone(), pool.cpus.clone())).collect();
    let mut host = host.clone();
    for (planned, _) in plan.partitions.iter().zip(pick).filter(|(_, picked)| **picked) {
        for extent in &planned.memory {
            let node = host.nodes.iter_mut().find(|node| node.id == extent.node).unwrap();
            let bytes = extent.blocks * plan.memory_block;
            match extent.pages {
                PAGE => node.available -= bytes,
                size => node.huge_pages[0].free -= bytes / size,
            }
        }
        owned.partitions.insert(planned.name.clone(), planned.clone());
    }
    (owned, host)
}

fn sorted(result: Result<Plan, Vec<Refusal>>) -> Result<Plan, Vec<String>> {
    let found = match &result {
        Ok(plan) => plan.warnings.iter().chain(&plan.withheld).collect::<Vec<_>>(),
        Err(refusals) => refusals.iter().collect(),
    };
    for finding in found {
        assert!(RULES.contains(&finding.rule.as_ref()), "{} is not among the rules", finding.rule);
    }
    result.map_err(|refusals| {
        let mut texts: Vec<String> = refusals.iter().map(ToString::to_string).collect();
        texts.sort();
        texts
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn an_accepted_frame_gives_everyone_the_minimum_and_nothing_twice(frame in frames(), host in hosts()) {
        if let Ok(plan) = plan(&frame, &host, &Assignment::new()) {
            check(&frame, &host, &plan)?;
            prop_assert!(plan.withheld.is_empty(), "withheld: {:?}", plan.withheld);
            prop_assert_eq!(plan.partitions.len(), frame.partitions.len());
        }
    }

    #[test]
    fn the_order_of_the_file_does_not_matter(
        (frame, shuffled) in frames().prop_flat_map(|f| (Just(f.clone()), Just(f.partitions).prop_shuffle())),
        host in hosts(),
    ) {
        let mut other = frame.clone();
        other.partitions = shuffled;
        other.pools.reverse();
        let nothing = Assignment::new();
        prop_assert_eq!(sorted(plan(&frame, &host, &nothing)), sorted(plan(&other, &host, &nothing)));
    }

    #[test]
    fn what_runs_never_moves(
        frame in frames(), host in hosts(), pick in proptest::collection::vec(any::<bool>(), 7),
        drop in 0..7usize, added in modes(),
    ) {
        let Ok(first) = plan(&frame, &host, &Assignment::new()) else { return Ok(()) };
        let (owned, host) = activate(&first, &host, &pick);
        // As it is, with one inactive partition less, and with one more.
        let mut less = frame.clone();
        let mut at = 0;
        less.partitions.retain(|p| { at += 1; owned.partitions.contains_key(&p.name) || at - 1 != drop });
        let mut more = frame.clone();
        more.partitions.push(partition("added", 99, added.0, added.1, range(4 * MIB, 8 * MIB, 8 * MIB)));
        for changed in [&frame, &less, &more] {
            let Ok(next) = plan(changed, &host, &owned) else {
                prop_assert!(std::ptr::eq(changed, &more), "a frame that was accepted is refused");
                continue;
            };
            check(changed, &host, &next)?;
            for (name, held) in &owned.partitions {
                prop_assert_eq!(next.partition(name), Some(held));
            }
            for pool in &next.pools {
                let lives = owned.partitions.values().any(|p| matches!(&p.backing, Backing::Shared { pool: of, .. } if *of == pool.name));
                prop_assert!(!lives || Some(&pool.cpus) == owned.pools.get(&pool.name));
            }
        }
    }

    #[test]
    fn what_is_owned_on_another_host_stays_as_it_is(frame in frames(), host in hosts(), other in hosts()) {
        let Ok(first) = plan(&frame, &host, &Assignment::new()) else { return Ok(()) };
        let (owned, _) = activate(&first, &host, &[true; 7]);
        if let Ok(next) = plan(&frame, &other, &owned) {
            prop_assert_eq!(next.partitions.len(), owned.partitions.len());
            for held in &next.partitions {
                let PartitionPlan { score, .. } = *held;
                prop_assert_eq!(&PartitionPlan { score, ..owned.partitions[&held.name].clone() }, held);
            }
        }
    }

    #[test]
    fn a_plan_survives_json(frame in frames(), host in hosts()) {
        if let Ok(plan) = plan(&frame, &host, &Assignment::new()) {
            let text = serde_json::to_string(&plan).unwrap();
            prop_assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
        }
    }
}
