//! Grants: how much each partition gets, before anybody says where.
//!
//! The activation rule of PowerVM: the desired amount if it is free, else what is free down to the
//! minimum, else nothing at all. Minimums come first, then growth by availability priority.

use super::cores::{Budget, Preference};
use super::finding::{Claim, Finding};
use super::memory::Store;
use super::sane::claim;
use crate::declare::{Partition, ProcessorMode};
use crate::inventory::PAGE;
use crate::name::Name;
use crate::units::{Units, show_size};
use std::collections::BTreeMap;
use std::ops::Range;

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
pub(super) struct Grantor<'a> {
    start: Budget,
    /// What is left of `start` when every grant has its CPUs.
    rest: Budget,
    loose: Vec<usize>,
    preference: Preference,
    units: BTreeMap<&'a Name, Units>,
    memory: BTreeMap<u64, u64>,
    store: Store,
    least: Units,
    grants: Vec<Grant<'a>>,
}

impl<'a> Grantor<'a> {
    /// `loose` are the CPUs of the host and of each pool that is still to be placed; `units` is what each
    /// pool has to give; `least` is the least entitlement of a virtual processor.
    pub(super) fn new(
        start: Budget,
        loose: Vec<usize>,
        preference: Preference,
        units: BTreeMap<&'a Name, Units>,
        store: Store,
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
        grantor.rest = grantor.replay(None).unwrap_or_default();
        grantor
    }

    /// What is left when all grants are taken, with the count of one of them replaced; none when they do
    /// not fit.
    fn replay(&self, replaced: Option<(usize, usize)>) -> Option<Budget> {
        let mut budget = self.start.clone();
        let loose = self.loose.iter().all(|&n| budget.any(n, self.preference));
        let fits = loose
            && self.grants.iter().enumerate().all(|(at, grant)| match (grant.dedicated(), replaced) {
                (Some(_), Some((index, count))) if index == at => budget.whole(count),
                (Some(count), _) => budget.whole(count),
                (None, _) => true,
            });
        fits.then_some(budget)
    }

    fn free_memory(&mut self, pages: u64) -> Option<&mut u64> {
        let total = self.store.total(pages)?;
        Some(self.memory.entry(pages).or_insert(total))
    }

    /// Gives a partition its minimum, or says what is missing.
    pub(super) fn admit(&mut self, partition: &'a Partition) -> Result<(), Box<Finding>> {
        let name = &partition.name;
        let lacks = |key: &'static str, needs: String, free: String| {
            Box::new(Finding {
                rule: "held".into(),
                text: format!("partition {name} cannot be activated now: it needs {needs}, {free} free"),
                claims: vec![claim(name, key, format!("needs {needs}"))],
                help: None,
            })
        };
        let count = partition.processors.count.minimum;
        let mut rest = self.rest.clone();
        let mut grant = Grant { partition, count, units: Units::ZERO, bytes: partition.memory.size.minimum };
        match &partition.processors.mode {
            ProcessorMode::Dedicated { .. } => {
                if !rest.whole(count as usize) {
                    let free = format!("{} in whole cores are", self.rest.whole_cpus());
                    return Err(lacks("processors", format!("{count} dedicated CPUs"), free));
                }
            }
            ProcessorMode::Shared { pool, units, .. } => match self.units.get(pool) {
                Some(&free) if units.minimum <= free => grant.units = units.minimum,
                Some(free) => {
                    let needs = format!("{} processing units of pool {pool}", units.minimum);
                    return Err(lacks("processors.units", needs, format!("{free} are")));
                }
                None => {
                    let needs = format!("pool {pool}, whose CPUs are held by others");
                    return Err(lacks("processors", needs, "nothing of it is".into()));
                }
            },
        }
        let (bytes, pages) = (grant.bytes, grant.pages());
        match self.free_memory(pages) {
            Some(free) if bytes <= *free => *free -= bytes,
            free => {
                let free = free.map_or(0, |free| *free);
                let needs = format!("{} of memory in pages of {}", show_size(bytes), show_size(pages));
                return Err(lacks("memory", needs, format!("{} is", show_size(free))));
            }
        }
        if let ProcessorMode::Shared { pool, .. } = &partition.processors.mode {
            if let Some(free) = self.units.get_mut(pool) {
                *free = free.minus(grant.units);
            }
            grant.count = self.shared_count(partition, grant.units);
        }
        self.rest = rest;
        self.grants.push(grant);
        Ok(())
    }

    /// Virtual processors of a shared partition: as many as desired, if its units are enough for them.
    fn shared_count(&self, partition: &Partition, units: Units) -> u32 {
        let most = units.thousandths().checked_div(self.least.thousandths()).unwrap_or(u32::MAX);
        let count = &partition.processors.count;
        count.desired.min(most).max(count.minimum)
    }

    /// Grows the grants of `range` to what they desire, in their order, as far as there is enough.
    pub(super) fn grow(&mut self, range: Range<usize>) {
        self.grow_dedicated(range.clone());
        for at in range {
            self.grow_units(at);
            self.grow_memory(at);
        }
    }

    fn grow_dedicated(&mut self, range: Range<usize>) {
        let minimums: Vec<u32> = self.grants.iter().map(|grant| grant.count).collect();
        let grown: Vec<usize> =
            range.filter(|&at| self.grants.get(at).is_some_and(|grant| grant.dedicated().is_some())).collect();
        let set = |grants: &mut Vec<Grant<'a>>, at: usize, count: u32| {
            if let Some(grant) = grants.get_mut(at) {
                grant.count = count;
            }
        };
        for &at in &grown {
            let desired = self.grants.get(at).map_or(0, |grant| grant.partition.processors.count.desired);
            set(&mut self.grants, at, desired);
        }
        if let Some(rest) = self.replay(None) {
            self.rest = rest;
            return;
        }
        for &at in &grown {
            set(&mut self.grants, at, minimums.get(at).copied().unwrap_or(0));
        }
        for &at in &grown {
            let Some((minimum, desired)) =
                self.grants.get(at).map(|grant| (grant.count, grant.partition.processors.count.desired))
            else {
                continue;
            };
            // The largest count that fits; the minimum is known to.
            let (mut low, mut high) = (minimum, desired);
            while low < high {
                let middle = low + (high - low).div_ceil(2);
                if self.replay(Some((at, middle as usize))).is_some() {
                    low = middle;
                } else {
                    high = middle - 1;
                }
            }
            set(&mut self.grants, at, low);
        }
        self.rest = self.replay(None).unwrap_or_default();
    }

    fn grow_units(&mut self, at: usize) {
        let Some(grant) = self.grants.get(at) else { return };
        let ProcessorMode::Shared { pool, units, .. } = &grant.partition.processors.mode else { return };
        let Some(free) = self.units.get_mut(pool) else { return };
        let more = units.desired.minus(grant.units).min(*free);
        *free = free.minus(more);
        let units = grant.units.plus(more);
        let count = self.shared_count(grant.partition, units);
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

    /// How many grants there are.
    pub(super) fn len(&self) -> usize {
        self.grants.len()
    }

    /// The grants, and how many whole cores nobody needs.
    pub(super) fn finish(self) -> (Vec<Grant<'a>>, usize) {
        (self.grants, self.rest.whole_cores())
    }
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
