//! Whether the minimums of all partitions, active or not, fit into the frame at all.

use super::cores::{Budget, Preference};
use super::finding::{Claim, Finding, Subject, claim};
use super::grant::largest;
use super::memory::Store;
use crate::declare::{Frame, Partition, ProcessorMode};
use crate::inventory::PAGE;
use crate::name::Name;
use crate::units::{Units, show_size};
use std::collections::BTreeMap;

/// CPUs in words.
pub(super) fn cpus(n: usize) -> String {
    if n == 1 { "1 CPU".into() } else { format!("{n} CPUs") }
}

/// Every sum of minimums that is more than there is, with who claims what.
///
/// `order` is the order in which partitions are given their minimums: the verdict must be that of the giving.
pub(super) fn check(frame: &Frame, order: &[&Partition], budget: &Budget, store: &Store) -> Vec<Finding> {
    let mut found = vec![];
    found.extend(processors(frame, order, budget));
    found.extend(entitlements(frame));
    found.extend(memory(frame, store));
    found
}

fn processors(frame: &Frame, order: &[&Partition], budget: &Budget) -> Option<Finding> {
    let mut pools: Vec<(&Name, u32)> = frame.pools.iter().map(|pool| (&pool.name, pool.cpus)).collect();
    pools.sort();
    let fits = |preference| {
        let mut rest = budget.clone();
        let pools = pools.iter().map(|&(_, cpus)| cpus);
        let mut loose = std::iter::once(frame.reserved_cpus).chain(pools);
        let mut dedicated = order.iter().filter_map(|p| match p.processors.mode {
            ProcessorMode::Dedicated { .. } => Some(p.processors.count.minimum),
            ProcessorMode::Shared { .. } => None,
        });
        loose.all(|n| rest.any(n as usize, preference)) && dedicated.all(|n| rest.whole(n as usize).is_some())
    };
    if fits(Preference::Whole) || fits(Preference::Loose) {
        return None;
    }
    let mut claims: Vec<(usize, Claim)> = vec![];
    if frame.reserved_cpus > 0 {
        let n = frame.reserved_cpus as usize;
        let what = format!("reserves {}", cpus(n));
        claims.push((n, Claim { subject: Subject::Frame, key: "reserved.cpus".into(), what }));
    }
    for pool in &frame.pools {
        let n = pool.cpus as usize;
        let what = format!("claims {}", cpus(n));
        claims.push((n, Claim { subject: Subject::Pool(pool.name.clone()), key: "cpus".into(), what }));
    }
    for partition in &frame.partitions {
        if matches!(partition.processors.mode, ProcessorMode::Dedicated { .. }) {
            let n = partition.processors.count.minimum as usize;
            let what = format!("needs {} at least, in whole cores", cpus(n));
            claims.push((n, claim(&partition.name, "processors.minimum", what)));
        }
    }
    let sum: usize = claims.iter().map(|(n, _)| n).sum();
    let (claims, more) = largest(claims);
    let cores = if sum <= budget.cpus() { ", but not in whole cores" } else { "" };
    Some(Finding {
        rule: "cpus-exceeded".into(),
        text: format!(
            "frame {} has {}; the minimums of all partitions, active or not, need {sum}{cores}{more}",
            frame.name,
            cpus(budget.cpus())
        ),
        claims,
        help: Some("lower a minimum or a pool's cpus, reserve less, or remove a partition".into()),
    })
}

fn entitlements(frame: &Frame) -> Vec<Finding> {
    let mut by_pool: BTreeMap<&Name, Vec<(Units, &Name)>> = BTreeMap::new();
    for partition in &frame.partitions {
        if let ProcessorMode::Shared { pool, units, .. } = &partition.processors.mode {
            by_pool.entry(pool).or_default().push((units.minimum, &partition.name));
        }
    }
    let mut found = vec![];
    for pool in &frame.pools {
        let claims = by_pool.remove(&pool.name).unwrap_or_default();
        let sum: Units = claims.iter().map(|(units, _)| *units).sum();
        if sum > Units::whole(pool.cpus) {
            let claims = claims.into_iter().map(|(units, name)| {
                let what = format!("is entitled to {units} units at least");
                (units, claim(name, "processors.units.minimum", what))
            });
            let (claims, more) = largest(claims.collect());
            found.push(Finding {
                rule: "units-exceeded".into(),
                text: format!(
                    "pool {} has {}, which is {} processing units; the minimums of its partitions need {sum}{more}",
                    pool.name,
                    cpus(pool.cpus as usize),
                    Units::whole(pool.cpus)
                ),
                claims,
                help: Some("lower a minimum of units, give the pool more cpus, or use another pool".into()),
            });
        }
    }
    found
}

fn memory(frame: &Frame, store: &Store) -> Vec<Finding> {
    let mut by_size: BTreeMap<u64, Vec<(u64, &Name)>> = BTreeMap::new();
    for partition in &frame.partitions {
        let minimum = partition.memory.size.minimum;
        by_size.entry(partition.memory.pages.unwrap_or(PAGE)).or_default().push((minimum, &partition.name));
    }
    let mut found = vec![];
    if store.owed() > 0 {
        let what = format!("reserves {}", show_size(frame.reserved_memory));
        found.push(Finding {
            rule: "reserve-exceeded".into(),
            text: format!(
                "frame {} reserves {} more for the host than it has in ordinary pages",
                frame.name,
                show_size(store.owed())
            ),
            claims: vec![Claim { subject: Subject::Frame, key: "reserved.memory".into(), what }],
            help: Some("reserve less memory, or set aside fewer huge pages".into()),
        });
    }
    for (pages, claims) in by_size {
        let sum: u128 = claims.iter().map(|&(bytes, _)| u128::from(bytes)).sum();
        let free = store.total(pages);
        if sum <= u128::from(free.unwrap_or(0)) {
            continue;
        }
        let words = |(minimum, name)| {
            (minimum, claim(name, "memory.minimum", format!("needs {} at least", show_size(minimum))))
        };
        let mut claims: Vec<(u64, Claim)> = claims.into_iter().map(words).collect();
        let sum = u64::try_from(sum).map_or_else(|_| "more than 16EiB".into(), show_size);
        let kind = if pages == PAGE { "memory".into() } else { format!("memory in pages of {}", show_size(pages)) };
        let has = match free {
            None => "the host has no such pages".into(),
            Some(free) => format!("{} can be had", show_size(free)),
        };
        if pages == PAGE && frame.reserved_memory > 0 {
            let what = format!("reserves {}", show_size(frame.reserved_memory));
            let reserve = Claim { subject: Subject::Frame, key: "reserved.memory".into(), what };
            claims.push((frame.reserved_memory, reserve));
        }
        let (claims, more) = largest(claims);
        let help = if pages == PAGE {
            "lower a minimum, reserve less, free memory on the host, or remove a partition"
        } else {
            "set aside more pages (/proc/sys/vm/nr_hugepages for 2MiB), lower a minimum, or use pages = \"any\""
        };
        found.push(Finding {
            rule: if free.is_some() { "memory-exceeded" } else { "pages-missing" }.into(),
            text: format!(
                "the minimums of all partitions, active or not, need {sum} of {kind} in frame {}; {has}{more}",
                frame.name
            ),
            claims,
            help: Some(help.into()),
        });
    }
    found
}
