//! Rules that span several declarations.

use super::partition::Declared;
use super::sink::Sink;
use super::spans::Spans;
use super::walk::Named;
use crate::declare::{Frame, IoProcessors, Partition, Pool, ProcessorMode};
use crate::diagnostic::Diagnostic;
use crate::name::Name;
use crate::plan::Subject;
use crate::rule::{self, Rule};
use crate::units::Units;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Most claimants that one diagnostic labels.
const LABELLED: usize = 8;

/// Names and numbers that are declared twice; both claimants are shown.
pub(super) fn duplicates(pools: &[Named<Pool>], partitions: &[Named<Declared>], sink: &mut Sink) {
    let pools = pools.iter().filter_map(|pool| pool.place.as_ref().map(|place| (&pool.item.name, place)));
    twice(rule::DUPLICATE_POOL, "pool name", pools, sink);
    let names = partitions.iter().filter_map(|one| one.place.as_ref().map(|place| (&one.item.partition.name, place)));
    twice(rule::DUPLICATE_NAME, "partition name", names, sink);
    let ids = partitions.iter().filter_map(|one| one.item.id.as_ref());
    twice(rule::DUPLICATE_ID, "partition id", ids.map(|id| (&id.value, &id.span)), sink);
}

fn twice<'a, K: Ord + std::fmt::Display + 'a>(
    rule: &'static Rule,
    what: &str,
    declared: impl Iterator<Item = (&'a K, &'a Range<usize>)>,
    sink: &mut Sink,
) {
    let mut first: BTreeMap<&K, &Range<usize>> = BTreeMap::new();
    for (key, span) in declared {
        let Some(before) = first.get(key) else {
            first.insert(key, span);
            continue;
        };
        sink.push(
            Diagnostic::of(rule, format!("the {what} {key} is declared twice"))
                .at(span.clone(), "declared again here")
                .see((*before).clone(), "first declared here"),
        );
    }
}

/// Pools that are named but not declared, and sums that cannot be.
pub(super) fn check(frame: &Frame, spans: &Spans, all_pools_known: bool, sink: &mut Sink) {
    if all_pools_known {
        pools_exist(frame, spans, sink);
    }
    entitlements(frame, spans, sink);
    processors(frame, spans, sink);
}

fn place(spans: &Spans, partition: &Partition, key: &str) -> Range<usize> {
    spans.find(&Subject::Partition(partition.name.clone()), key).unwrap_or(0..0)
}

fn pools_exist(frame: &Frame, spans: &Spans, sink: &mut Sink) {
    let declared: BTreeSet<&Name> = frame.pools.iter().map(|pool| &pool.name).collect();
    for partition in &frame.partitions {
        let (pool, key) = match &partition.processors.mode {
            ProcessorMode::Shared { pool, .. } => (pool, "processors.pool"),
            ProcessorMode::Dedicated { io: IoProcessors::Pool(pool) } => (pool, "processors.io"),
            ProcessorMode::Dedicated { io: IoProcessors::Own } => continue,
        };
        if declared.contains(pool) {
            continue;
        }
        if sink.is_full() {
            sink.drop_more(1);
            continue;
        }
        let near = super::near::nearest(pool.as_str(), frame.pools.iter().map(|pool| pool.name.as_str()));
        let label = near.map_or_else(|| "no such pool".into(), |near| format!("did you mean {near}?"));
        let message = format!("partition {} uses pool {pool}, which is not declared", partition.name);
        let help = format!("declare it: [[pool]] with name = \"{pool}\" and cpus = 1");
        sink.push(Diagnostic::of(rule::POOL_MISSING, message).at(place(spans, partition, key), label).help(help));
    }
}

fn entitlements(frame: &Frame, spans: &Spans, sink: &mut Sink) {
    let mut by_pool: BTreeMap<&Name, Vec<(Units, &Partition)>> = BTreeMap::new();
    for partition in &frame.partitions {
        if let ProcessorMode::Shared { pool, units, .. } = &partition.processors.mode {
            by_pool.entry(pool).or_default().push((units.minimum, partition));
        }
    }
    for pool in frame.pools.iter().filter(|pool| pool.cpus > 0) {
        let mut claims = by_pool.remove(&pool.name).unwrap_or_default();
        let sum: Units = claims.iter().map(|(units, _)| *units).sum();
        let has = Units::whole(pool.cpus);
        if sum <= has {
            continue;
        }
        claims.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.name.cmp(&b.1.name)));
        let message = format!(
            "pool {} has {has} processing units, but the minimums of its {} partition(s) need {sum}",
            pool.name,
            claims.len()
        );
        let at = spans.find(&Subject::Pool(pool.name.clone()), "cpus").unwrap_or(0..0);
        let mut diagnostic = Diagnostic::of(rule::UNITS_EXCEEDED, message).at(at, format!("this is {has} units"));
        for (units, partition) in claims.iter().take(LABELLED) {
            let text = format!("partition {} is entitled to {units} at least", partition.name);
            diagnostic = diagnostic.see(place(spans, partition, "processors.units.minimum"), text);
        }
        sink.push(diagnostic);
    }
}

/// When the file says which CPUs the frame has, their sum can be checked without a host.
fn processors(frame: &Frame, spans: &Spans, sink: &mut Sink) {
    let Some(cpus) = &frame.cpus else { return };
    let mut claims: Vec<(u64, Range<usize>, String)> = vec![];
    let mut claim = |subject: &Subject, key: &str, n: u32, what: String| {
        claims.push((u64::from(n), spans.find(subject, key).unwrap_or(0..0), what));
    };
    if frame.reserved_cpus > 0 {
        let what = format!("the host reserves {}", frame.reserved_cpus);
        claim(&Subject::Frame, "reserved.cpus", frame.reserved_cpus, what);
    }
    for pool in &frame.pools {
        let what = format!("pool {} claims {}", pool.name, pool.cpus);
        claim(&Subject::Pool(pool.name.clone()), "cpus", pool.cpus, what);
    }
    for partition in &frame.partitions {
        if let ProcessorMode::Dedicated { .. } = partition.processors.mode {
            let n = partition.processors.count.minimum;
            let what = format!("partition {} needs {n} at least", partition.name);
            claim(&Subject::Partition(partition.name.clone()), "processors.minimum", n, what);
        }
    }
    let sum: u64 = claims.iter().map(|(n, _, _)| n).sum();
    if sum <= cpus.len() as u64 {
        return;
    }
    claims.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.start.cmp(&b.1.start)));
    let message = format!("the frame has {} CPU(s), but {sum} are claimed by {} claimant(s)", cpus.len(), claims.len());
    let at = spans.find(&Subject::Frame, "cpus").unwrap_or(0..0);
    let mut diagnostic = Diagnostic::of(rule::CPUS_EXCEEDED, message).at(at, format!("these are {}", cpus.len()));
    for (_, span, what) in claims.into_iter().take(LABELLED) {
        diagnostic = diagnostic.see(span, what);
    }
    sink.push(diagnostic);
}
