//! Grants: how much each partition gets, before anybody says where.
//!
//! The activation rule of PowerVM: the desired amount if it is free, else what is free down to the
//! minimum, else nothing at all. Minimums come first, then growth by availability priority.

use super::cores::{Budget, Cover, Preference};
use super::finding::{Claim, Finding, lacks, poolless};
use super::memory::Store;
use crate::declare::{Partition, ProcessorMode};
use crate::inventory::PAGE;
use crate::name::Name;
use crate::units::{Units, show_size};
use std::collections::BTreeMap;

/// How much one partition gets.
#[derive(Clone, Debug)]
pub(super) struct Grant<'a> {
    /// Whose it is.
    pub(super) partition: &'a Partition,
    /// Virtual processors.
    pub(super) count: u32,
    /// Entitlement when shared.
    pub(super) units: Units,
    /// Memory, bytes.
    pub(super) bytes: u64,
    /// Its whole cores, counted; empty when shared.
    pub(super) cover: Cover,
}

impl Grant<'_> {
    /// Size of its pages, bytes.
    pub(super) fn pages(&self) -> u64 {
        self.partition.memory.pages.unwrap_or(PAGE)
    }

    fn dedicated(&self) -> Option<usize> {
        match self.partition.processors.mode {
            ProcessorMode::Dedicated { .. } => Some(self.count as usize),
            ProcessorMode::Shared { .. } => None,
        }
    }
}

/// Gives out what is free.
#[derive(Debug)]
pub(super) struct Grantor<'s, 'a> {
    start: Budget,
    /// What is left of `start` when every grant has its CPUs.
    rest: Budget,
    loose: Vec<usize>,
    preference: Preference,
    units: BTreeMap<&'a Name, Units>,
    memory: BTreeMap<u64, u64>,
    store: &'s Store,
    least: Units,
    grants: Vec<Grant<'a>>,
}

impl<'s, 'a> Grantor<'s, 'a> {
    /// `loose` are the CPUs of the host and of each pool that is still to be placed; `units` is what each
    /// pool has to give; `least` is the least entitlement of a virtual processor.
    pub(super) fn new(
        start: Budget,
        loose: Vec<usize>,
        preference: Preference,
        units: BTreeMap<&'a Name, Units>,
        store: &'s Store,
        least: Units,
    ) -> Self {
        let mut grantor = Self {
            rest: start.clone(),
            start,
            loose,
            preference,
            units,
            memory: BTreeMap::new(),
            store,
            least,
            grants: vec![],
        };
        grantor.rest = grantor.replay().map(|(rest, _)| rest).unwrap_or_default();
        grantor
    }

    /// What is left when all grants are taken, and the cores of each; none when they do not fit.
    fn replay(&self) -> Option<(Budget, Vec<Cover>)> {
        let mut budget = self.start.clone();
        if !self.loose.iter().all(|&n| budget.any(n, self.preference)) {
            return None;
        }
        let cover = |grant: &Grant<'_>| grant.dedicated().map_or(Some(Cover::new()), |n| budget.whole(n));
        let covers = self.grants.iter().map(cover).collect::<Option<_>>()?;
        Some((budget, covers))
    }

    fn free_memory(&mut self, pages: u64) -> Option<&mut u64> {
        let total = self.store.total(pages)?;
        Some(self.memory.entry(pages).or_insert(total))
    }

    /// Gives a partition its minimum, or says what is missing.
    pub(super) fn admit(&mut self, partition: &'a Partition) -> Result<(), Box<Finding>> {
        let count = partition.processors.count.minimum;
        let mut rest = self.rest.clone();
        let bytes = partition.memory.size.minimum;
        let mut grant = Grant { partition, count, units: Units::ZERO, bytes, cover: Cover::new() };
        match &partition.processors.mode {
            ProcessorMode::Dedicated { io } => {
                if let Some(pool) = io.pool().filter(|pool| !self.units.contains_key(pool)) {
                    return Err(poolless(&partition.name, "processors.io", pool));
                }
                let Some(taken) = rest.whole(count as usize) else {
                    let free = format!("{} in whole cores are", self.rest.whole_cpus());
                    return Err(lacks(&partition.name, "processors", format!("{count} dedicated CPUs"), free));
                };
                grant.cover = taken;
            }
            ProcessorMode::Shared { pool, units, .. } => match self.units.get(pool) {
                Some(&free) if units.minimum <= free => grant.units = units.minimum,
                Some(free) => {
                    let needs = format!("{} processing units of pool {pool}", units.minimum);
                    return Err(lacks(&partition.name, "processors.units", needs, format!("{free} are")));
                }
                None => return Err(poolless(&partition.name, "processors", pool)),
            },
        }
        let pages = grant.pages();
        match self.free_memory(pages) {
            Some(free) if bytes <= *free => *free -= bytes,
            free => {
                let free = free.map_or(0, |free| *free);
                let needs = format!("{} of memory in pages of {}", show_size(bytes), show_size(pages));
                return Err(lacks(&partition.name, "memory", needs, format!("{} is", show_size(free))));
            }
        }
        if let ProcessorMode::Shared { pool, .. } = &partition.processors.mode {
            if let Some(free) = self.units.get_mut(pool) {
                *free = free.minus(grant.units);
            }
            grant.count = shared_count(partition, grant.units, self.least);
        }
        self.rest = rest;
        self.grants.push(grant);
        Ok(())
    }

    /// Grows the grants to what they desire, in their order, as far as there is enough.
    pub(super) fn grow(&mut self) {
        self.grow_dedicated();
        for at in 0..self.grants.len() {
            self.grow_units(at);
            self.grow_memory(at);
        }
    }

    fn grow_dedicated(&mut self) {
        let minimums: Vec<u32> = self.grants.iter().map(|grant| grant.count).collect();
        for grant in &mut self.grants {
            if grant.dedicated().is_some() {
                grant.count = grant.partition.processors.count.desired;
            }
        }
        if let Some((rest, covers)) = self.replay() {
            self.rest = rest;
            self.grants.iter_mut().zip(covers).for_each(|(grant, cover)| grant.cover = cover);
            return;
        }
        for (grant, minimum) in self.grants.iter_mut().zip(minimums) {
            if grant.dedicated().is_none() {
                continue;
            }
            // What it has and what nobody has: one claim can use all of that.
            self.rest.put(&grant.cover);
            let most = u32::try_from(self.rest.whole_cpus()).unwrap_or(u32::MAX);
            grant.count = grant.partition.processors.count.desired.min(most).max(minimum);
            grant.cover = self.rest.whole(grant.count as usize).unwrap_or_default();
        }
    }

    fn grow_units(&mut self, at: usize) {
        let Some(grant) = self.grants.get(at) else { return };
        let ProcessorMode::Shared { pool, units, .. } = &grant.partition.processors.mode else { return };
        let Some(free) = self.units.get_mut(pool) else { return };
        let more = units.desired.minus(grant.units).min(*free);
        *free = free.minus(more);
        let units = grant.units.plus(more);
        let count = shared_count(grant.partition, units, self.least);
        if let Some(grant) = self.grants.get_mut(at) {
            (grant.units, grant.count) = (units, count);
        }
    }

    fn grow_memory(&mut self, at: usize) {
        let Some((pages, wanted)) =
            self.grants.get(at).map(|grant| (grant.pages(), grant.partition.memory.size.desired - grant.bytes))
        else {
            return;
        };
        let Some(free) = self.free_memory(pages) else { return };
        let more = wanted.min(*free);
        *free -= more;
        if let Some(grant) = self.grants.get_mut(at) {
            grant.bytes += more;
        }
    }

    /// The grants, and how many whole cores nobody needs.
    pub(super) fn finish(self) -> (Vec<Grant<'a>>, usize) {
        (self.grants, self.rest.whole_cores())
    }
}

/// Virtual processors of a shared partition: as many as desired, if its units are enough for them at `least`
/// units each.
pub(super) fn shared_count(partition: &Partition, units: Units, least: Units) -> u32 {
    let most = units.thousandths().checked_div(least.thousandths()).unwrap_or(u32::MAX);
    let count = &partition.processors.count;
    count.desired.min(most).max(count.minimum)
}

/// The claims of a finding, the largest first, and words for those that are left out.
pub(super) fn largest<T: Ord>(mut claims: Vec<(T, Claim)>) -> (Vec<Claim>, String) {
    const SHOWN: usize = 8;
    let all = claims.len();
    claims.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.subject.cmp(&b.1.subject)));
    claims.truncate(SHOWN);
    let words = if all > SHOWN { format!(" (the {SHOWN} largest of {all} claims)") } else { String::new() };
    (claims.into_iter().map(|(_, claim)| claim).collect(), words)
}
