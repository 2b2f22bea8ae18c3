//! What must hold for every plan, on random frames and hosts.

use super::tests::{frame, host, name, partition, range};
use super::*;
use crate::declare::{IoProcessors, ProcessorMode, Range, WhenInactive};
use crate::guard::{Guard, Kind, Unit};
use crate::inventory::{HugePages, PAGE};
use crate::units::MIB;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A host of up to five nodes, at least one of them with CPUs: cores of one to four threads, of one width or mixed,
/// numbers with holes, nodes without memory or without CPUs, distances, huge pages.
fn hosts() -> impl Strategy<Value = Inventory> {
    let core = prop_oneof![3 => Just(1u32), 3 => Just(2u32), 1 => Just(4u32)];
    let mixed = proptest::collection::vec(core.clone(), 1..9);
    let uniform = (core, 1..9usize).prop_map(|(width, n)| vec![width; n]);
    let cores = prop_oneof![6 => uniform, 2 => mixed, 1 => Just(vec![])];
    let memory = prop_oneof![6 => 32..900u64, 1 => Just(0)];
    let node = (cores, memory, 0..90u64, proptest::collection::vec(11..50u32, 5));
    (proptest::collection::vec(node, 1..6), 1..4u32, any::<bool>()).prop_map(|(mut nodes, stride, flat)| {
        if nodes.iter().all(|(widths, ..)| widths.is_empty()) {
            nodes[0].0 = vec![2, 2];
        }
        let shapes: Vec<(&[u32], u64)> = nodes.iter().map(|(widths, mib, ..)| (widths.as_slice(), *mib)).collect();
        let mut host = host(&shapes);
        host.cpus.iter_mut().for_each(|cpu| cpu.id *= stride);
        let count = host.nodes.len();
        for (at, (node, (_, mib, pages, far))) in host.nodes.iter_mut().zip(&nodes).enumerate() {
            let total = (*pages).min(mib / 4);
            node.huge_pages = vec![HugePages { size: 2 * MIB, total, free: total }];
            node.available = node.memory - total * 2 * MIB;
            if !flat {
                node.distances = (0..count).map(|to| if to == at { 10 } else { far[to] }).collect();
            }
        }
        host
    })
}

/// A host with some of it guarded.
fn guarded_hosts() -> impl Strategy<Value = Inventory> {
    let unit = prop_oneof![
        (0..40u32).prop_map(Unit::Cpu),
        (0..4u32, 0..30u32).prop_map(|(package, core)| Unit::Core { package, core }),
        (0..4u32, 1..200u64).prop_map(|(node, mib)| Unit::Memory { node, bytes: mib * MIB }),
    ];
    let guard = unit.prop_map(|unit| Guard { unit, kind: Kind::Predictive, reason: "test".into(), time: 0 });
    (hosts(), proptest::collection::vec(guard, 1..6)).prop_map(|(host, guards)| Inventory { guards, ..host })
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
    let guarded = host.guarded_cpus();
    let there = || host.cpus.iter().filter(|cpu| !guarded.contains(cpu.id));
    let online: CpuSet = there().map(|cpu| cpu.id).collect();
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
                    there().filter(|cpu| cpus.contains(cpu.id)).map(|cpu| cpu.core).collect()
                };
                let whole: CpuSet = there().filter(|c| cores(&planned.cpus).contains(&c.core)).map(|c| c.id).collect();
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
        prop_assert!(!planned.io.is_empty(), "{} has no CPU for its devices", planned.name);
        prop_assert!(planned.score <= 100);
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
    #![proptest_config(ProptestConfig::with_cases(1000))]

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

    #[test]
    fn a_plan_is_carried_out_in_any_order_without_change(
        frame in frames(), host in guarded_hosts(), guarded in any::<bool>(),
        order in Just((0..7usize).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let host = if guarded { host } else { Inventory { guards: vec![], ..host } };
        let Ok(first) = plan(&frame, &host, &Assignment::new()) else { return Ok(()) };
        prop_assert!(guarded || first.withheld.is_empty());
        let mut picks = vec![false; first.partitions.len()];
        for at in order.into_iter().filter(|&at| at < first.partitions.len()) {
            let (owned, now) = activate(&first, &host, &picks);
            let next = plan(&frame, &now, &owned).unwrap();
            prop_assert_eq!(&next.partitions, &first.partitions);
            prop_assert_eq!((&next.pools, &next.reserved), (&first.pools, &first.reserved));
            prop_assert_eq!(next.withheld.len(), first.withheld.len());
            picks[at] = true;
        }
        let (owned, now) = activate(&first, &host, &picks);
        prop_assert_eq!(&owned, &first.assignment());
        prop_assert_eq!(plan(&frame, &now, &owned).unwrap().partitions, first.partitions);
    }

    #[test]
    fn partitions_that_hold_come_and_go_and_are_never_refused(
        frame in frames(), host in hosts(), visits in proptest::collection::vec(0..7usize, 1..30),
    ) {
        let mut frame = frame;
        frame.partitions.iter_mut().for_each(|one| one.when_inactive = WhenInactive::Hold);
        let nothing = Assignment::new();
        if plan(&frame, &host, &nothing).is_err() {
            return Ok(());
        }
        let mut owned = Assignment::new();
        for at in visits {
            let Some(one) = frame.partitions.get(at) else { continue };
            if owned.partitions.remove(&one.name).is_some() {
                continue;
            }
            let now = lived_in(&host, &owned, frame.memory_block);
            let active = |p: &Partition| p.name == one.name || owned.partitions.contains_key(&p.name);
            let plan = plan_for(&frame, &now, &owned, &active).unwrap();
            check(&frame, &host, &plan)?;
            for (name, held) in &owned.partitions {
                prop_assert_eq!(plan.partition(name), Some(held));
            }
            let own = plan.partition(&one.name);
            prop_assert!(own.is_some(), "{} is refused: {:?}", one.name, plan.withheld);
            prop_assert_eq!(plan.partitions.len(), frame.partitions.len());
            owned.pools = plan.pools.iter().map(|pool| (pool.name.clone(), pool.cpus.clone())).collect();
            owned.partitions.insert(one.name.clone(), own.unwrap().clone());
        }
    }

    #[test]
    fn adding_or_removing_moves_nobody_of_the_plan_in_force(
        frame in frames(), host in hosts(), drop in 0..7usize, added in modes(),
    ) {
        let Ok(first) = plan(&frame, &host, &Assignment::new()) else { return Ok(()) };
        let mut less = frame.clone();
        let removed = (drop < less.partitions.len()).then(|| less.partitions.remove(drop).name);
        let mut force = first.assignment();
        removed.iter().for_each(|name| drop_from(&mut force, name));
        let mut more = frame.clone();
        more.partitions.push(partition("added", 99, added.0, added.1, range(4 * MIB, 8 * MIB, 8 * MIB)));
        for (changed, force) in [(&less, &force), (&more, &first.assignment())] {
            let Ok(next) = plan(changed, &lived_in(&host, force, 2 * MIB), force) else { continue };
            check(changed, &host, &next)?;
            for (name, held) in &force.partitions {
                prop_assert_eq!(next.partition(name), Some(held));
            }
        }
    }

    #[test]
    fn of_a_fresh_plan_only_those_placed_later_move(
        sizes in proptest::collection::vec((1..6u32, 1..20u64), 2..12), drop in 0..12usize, nodes in 1..5usize,
    ) {
        // Cores of one width and enough of everything, so that nobody's amounts change.
        let host = host(&vec![(&[1; 16][..], 900); nodes]);
        let one = |(at, &(cpus, mib)): (usize, &(u32, u64))| {
            let mode = ProcessorMode::Dedicated { io: IoProcessors::Own };
            let size = range(mib * 2 * MIB, mib * 2 * MIB, mib * 2 * MIB);
            partition(&format!("p{at:02}"), at as u32 + 1, mode, range(cpus, cpus, cpus), size)
        };
        let frame = frame(1, &[("default", 1)], sizes.iter().enumerate().map(one).collect());
        let mut less = frame.clone();
        let removed = less.partitions.remove(drop % frame.partitions.len());
        let nothing = Assignment::new();
        let (Ok(all), Ok(fewer)) = (plan(&frame, &host, &nothing), plan(&less, &host, &nothing)) else { return Ok(()) };
        let place = |p: &Partition| (std::cmp::Reverse(p.processors.count.desired), p.name.clone());
        for before in less.partitions.iter().filter(|p| place(p) < place(&removed)) {
            prop_assert_eq!(all.partition(&before.name), fewer.partition(&before.name));
        }
    }

    #[test]
    fn what_is_guarded_is_given_to_nobody(frame in frames(), host in guarded_hosts()) {
        let Ok(plan) = plan(&frame, &host, &Assignment::new()) else { return Ok(()) };
        check(&frame, &host, &plan)?;
        let out = host.guarded_cpus();
        prop_assert_eq!(&plan.guarded, &out);
        let pools = plan.pools.iter().map(|pool| &pool.cpus);
        for used in plan.partitions.iter().map(|one| &one.cpus).chain(pools).chain([&plan.reserved, &plan.unassigned]) {
            prop_assert!(used.intersection(&out).is_empty(), "{used} has some of {out}");
        }
        for (node, lost) in host.guarded_memory() {
            let has = host.nodes.iter().find(|one| one.id == node).unwrap();
            let huge: u64 = has.huge_pages.iter().map(|pages| pages.total * pages.size).sum();
            let ordinary = plan.partitions.iter().flat_map(|one| &one.memory).filter(|e| e.node == node && e.pages == PAGE);
            let used: u64 = ordinary.map(|extent| extent.blocks * plan.memory_block).sum();
            prop_assert!(used <= has.memory.saturating_sub(huge).saturating_sub(lost), "node {node} gives guarded memory");
        }
        prop_assert_eq!(plan.partitions.len() + plan.withheld.len(), frame.partitions.len());
        for refusal in &plan.withheld {
            prop_assert!(refusal.claims.len() > 1, "nobody is named: {refusal}");
        }
    }

    #[test]
    fn a_guard_record_moves_nobody_who_runs(
        frame in frames(), host in guarded_hosts(), pick in proptest::collection::vec(any::<bool>(), 7),
    ) {
        let intact = Inventory { guards: vec![], ..host.clone() };
        let Ok(first) = plan(&frame, &intact, &Assignment::new()) else { return Ok(()) };
        let (owned, now) = activate(&first, &intact, &pick);
        let next = plan(&frame, &Inventory { guards: host.guards, ..now }, &owned).unwrap();
        for (name, held) in &owned.partitions {
            prop_assert_eq!(next.partition(name), Some(held));
            let on = held.cpus.intersection(&next.guarded);
            let told = next.warnings.iter().any(|warning| warning.rule == "guarded");
            prop_assert!(on.is_empty() || told, "{name} runs on {on} and nobody is told");
        }
        for fresh in next.partitions.iter().filter(|one| !owned.partitions.contains_key(&one.name)) {
            let own = matches!(fresh.backing, Backing::Dedicated) && !fresh.cpus.intersection(&next.guarded).is_empty();
            prop_assert!(!own, "{} gets a guarded CPU", fresh.name);
        }
    }
}

fn drop_from(owned: &mut Assignment, name: &Name) {
    owned.partitions.remove(name);
}

/// The host while what is owned runs on it.
fn lived_in(host: &Inventory, owned: &Assignment, block: u64) -> Inventory {
    let mut host = host.clone();
    for extent in owned.partitions.values().flat_map(|one| &one.memory) {
        let node = host.nodes.iter_mut().find(|node| node.id == extent.node).unwrap();
        let bytes = extent.blocks * block;
        match extent.pages {
            PAGE => node.available -= bytes,
            size => node.huge_pages[0].free -= bytes / size,
        }
    }
    host
}
