//! Settling: from a layout to what can be now.
//!
//! What runs keeps what it has. Everybody else gets the place that the layout has for him, as far as it is free:
//! first the minimums of those that are wanted, then of those that hold while inactive, then growth.

use super::cores::{Cores, Preference};
use super::finding::{Finding, lacks, poolless};
use super::grant::shared_count;
use super::ideal::{Layout, Seat};
use super::memory::{Store, merged};
use super::near::Near;
use super::place::{home, weights};
use super::running::Running;
use crate::declare::{Frame, Partition, ProcessorMode, WhenInactive};
use crate::inventory::PAGE;
use crate::name::Name;
use crate::units::{Units, show_size};
use std::collections::BTreeMap;

/// What is settled about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Matter<'m, 'a> {
    /// The frame.
    pub(super) frame: &'a Frame,
    /// Its partitions in the order of giving.
    pub(super) order: &'m [&'a Partition],
    /// Which of them are wanted.
    pub(super) wanted: &'m [bool],
    /// Which of them run.
    pub(super) active: &'m [bool],
    /// Distances between nodes.
    pub(super) near: &'m Near<'m>,
    /// Position of the node where the host takes its CPUs first.
    pub(super) home: usize,
}

/// Why a partition has no seat: its position in the order of giving, and the finding.
pub(super) type Refused = Vec<(usize, Finding)>;

/// Settles everybody, keeping to `layout`, on what is free of `cores` and `store`. The CPUs of what is `running` are
/// taken off, its memory is taken off `store` already.
pub(super) fn settle<'a>(
    matter: Matter<'_, 'a>,
    layout: &Layout<'a>,
    cores: &Cores,
    store: &Store,
    running: &Running<'a>,
) -> (Layout<'a>, Refused) {
    let mut settler = Settler {
        matter,
        layout,
        cores: cores.clone(),
        store: store.clone(),
        units: BTreeMap::new(),
        seats: vec![None; matter.order.len()],
    };
    for &cpu in &running.cpus {
        settler.cores.take_cpu(cpu);
    }
    settler.run(running)
}

struct Settler<'m, 'a> {
    matter: Matter<'m, 'a>,
    layout: &'m Layout<'a>,
    cores: Cores,
    store: Store,
    /// What each pool has to give.
    units: BTreeMap<&'a Name, Units>,
    seats: Vec<Option<Seat>>,
}

impl<'a> Settler<'_, 'a> {
    fn run(mut self, running: &Running<'a>) -> (Layout<'a>, Refused) {
        let preference = self.layout.preference.unwrap_or(Preference::Loose);
        let (wanted, held, released) = self.groups();
        // First whatever finds its own place free: nobody else may take it by accident.
        let own = self.layout.reserved.iter().copied().take(self.matter.frame.reserved_cpus as usize);
        let mut reserved: Vec<u32> = own.filter(|&cpu| self.cores.take_cpu(cpu)).collect();
        let mut pools: BTreeMap<&'a Name, Vec<u32>> = BTreeMap::new();
        let mut homeless: Vec<(&'a Name, usize)> = vec![];
        let mut declared: Vec<(&Name, usize)> =
            self.matter.frame.pools.iter().map(|pool| (&pool.name, pool.cpus as usize)).collect();
        declared.sort();
        for (name, n) in declared {
            if let Some(cpus) = running.pools.get(name) {
                self.offer(name, cpus.len(), running);
            } else if let Some(cpus) = self.layout.pools.get(name).filter(|cpus| self.cores.take(cpus)) {
                self.offer(name, cpus.len(), running);
                pools.insert(name, cpus.clone());
            } else {
                homeless.push((name, n));
            }
        }
        let dedicated: Vec<usize> = wanted.iter().chain(&held).copied().filter(|&at| self.dedicated(at)).collect();
        let mut kept: Vec<Option<Vec<u32>>> = vec![None; self.seats.len()];
        for at in dedicated {
            let floor = self.floor(at).filter(|floor| self.cores.take(floor));
            if let Some(place) = kept.get_mut(at) {
                *place = floor;
            }
        }
        let order = self.matter.near.order(self.matter.home);
        let short = (self.matter.frame.reserved_cpus as usize).saturating_sub(reserved.len()).min(self.cores.cpus());
        reserved.extend(self.cores.any(short, order, preference, &mut 0).unwrap_or_default());
        for (name, n) in homeless {
            let cpus = self.cores.any(n.min(self.cores.cpus()), order, preference, &mut 0).unwrap_or_default();
            if !cpus.is_empty() {
                self.offer(name, cpus.len(), running);
                pools.insert(name, cpus);
            }
        }

        let mut refused: Refused = vec![];
        let mut again: Vec<usize> = vec![];
        for &at in &wanted {
            if self.admit(at, &mut kept).is_err() {
                again.push(at);
            }
        }
        if !again.is_empty() {
            // What is wanted goes before what is only held: an inactive partition lends its place.
            for &at in &held {
                if let Some(floor) = kept.get_mut(at).and_then(Option::take) {
                    self.cores.put(&floor);
                }
            }
            for at in again {
                if let Err(finding) = self.admit(at, &mut kept) {
                    refused.push((at, *finding));
                }
            }
        }
        for &at in &held {
            if let Err(finding) = self.admit(at, &mut kept) {
                refused.push((at, *finding));
            }
        }
        self.grow(&wanted);
        self.grow(&held);
        for &at in &released {
            if let Err(finding) = self.admit(at, &mut kept) {
                refused.push((at, *finding));
            }
        }
        self.grow(&released);
        let layout = Layout { reserved, pools, seats: self.seats, preference: self.layout.preference };
        (layout, refused)
    }

    /// Who is wanted, who holds, and who releases, of those that do not run.
    fn groups(&self) -> (Vec<usize>, Vec<usize>, Vec<usize>) {
        let (mut wanted, mut held, mut released) = (vec![], vec![], vec![]);
        let flags = self.matter.wanted.iter().zip(self.matter.active);
        for (at, (partition, (&is_wanted, &active))) in self.matter.order.iter().zip(flags).enumerate() {
            match partition.when_inactive {
                _ if active => {}
                _ if is_wanted => wanted.push(at),
                WhenInactive::Hold => held.push(at),
                WhenInactive::Release => released.push(at),
            }
        }
        (wanted, held, released)
    }

    fn offer(&mut self, name: &'a Name, cpus: usize, running: &Running<'a>) {
        let given = running.units.get(name).copied().unwrap_or_default();
        let all = Units::whole(u32::try_from(cpus).unwrap_or(u32::MAX));
        self.units.insert(name, all.minus(given));
    }

    fn dedicated(&self, at: usize) -> bool {
        let mode = self.matter.order.get(at).map(|partition| &partition.processors.mode);
        matches!(mode, Some(ProcessorMode::Dedicated { .. }))
    }

    /// The CPUs of its minimum in the layout: the first cores that have enough.
    fn floor(&self, at: usize) -> Option<Vec<u32>> {
        let seat = self.layout.seats.get(at)?.as_ref()?;
        let least = self.matter.order.get(at)?.processors.count.minimum as usize;
        let mut floor = Vec::with_capacity(least);
        for core in self.cores.by_core(&seat.cpus) {
            if floor.len() >= least {
                break;
            }
            floor.extend(core);
        }
        (floor.len() >= least).then_some(floor)
    }

    /// Gives a partition its minimum, where the layout has it if that is free, or says what is missing. Its CPUs
    /// may be `kept` for it already.
    fn admit(&mut self, at: usize, kept: &mut [Option<Vec<u32>>]) -> Result<(), Box<Finding>> {
        let Some(&partition) = self.matter.order.get(at) else { return Ok(()) };
        let least = partition.processors.count.minimum as usize;
        let mut seat = Seat::default();
        match &partition.processors.mode {
            ProcessorMode::Dedicated { io } => {
                let own = kept.get_mut(at).and_then(Option::take);
                if let Some(pool) = io.pool().filter(|pool| !self.units.contains_key(pool)) {
                    own.iter().for_each(|cpus| self.cores.put(cpus));
                    return Err(poolless(&partition.name, "processors.io", pool));
                }
                let own = own.or_else(|| self.floor(at).filter(|floor| self.cores.take(floor)));
                let anew = own.or_else(|| {
                    let order = self.matter.near.few(least, |node| self.cores.whole_on(node));
                    self.cores.whole(least, &order)
                });
                let Some(cpus) = anew else {
                    let free = format!("{} in whole cores are", self.cores.whole_cpus());
                    return Err(lacks(&partition.name, "processors", format!("{least} dedicated CPUs"), free));
                };
                seat.cpus = cpus;
            }
            ProcessorMode::Shared { pool, units, .. } => match self.units.get_mut(pool) {
                Some(free) if units.minimum <= *free => {
                    *free = free.minus(units.minimum);
                    seat.units = units.minimum;
                }
                Some(free) => {
                    let needs = format!("{} processing units of pool {pool}", units.minimum);
                    return Err(lacks(&partition.name, "processors.units", needs, format!("{free} are")));
                }
                None => return Err(poolless(&partition.name, "processors", pool)),
            },
        }
        let (bytes, pages) = (partition.memory.size.minimum, partition.memory.pages.unwrap_or(PAGE));
        let known = self.layout.seats.get(at).and_then(Option::as_ref);
        let mut memory = known.map_or_else(Vec::new, |seat| self.store.take_at(&seat.floor, bytes));
        let missing = bytes - self.store.bytes(&memory);
        if missing > 0 {
            let shares = self.shares(partition, &seat, &memory);
            match self.store.take(pages, missing, &shares, self.matter.near.order(home(&shares))) {
                Some(more) => memory.extend(more),
                None => {
                    self.store.put(&memory);
                    let free = show_size(self.store.total(pages).unwrap_or(0));
                    self.unseat(partition, &seat);
                    let needs = format!("{} of memory in pages of {}", show_size(bytes), show_size(pages));
                    return Err(lacks(&partition.name, "memory", needs, format!("{free} is")));
                }
            }
        }
        seat.memory = merged(memory);
        seat.floor.clone_from(&seat.memory);
        if let Some(place) = self.seats.get_mut(at) {
            *place = Some(seat);
        }
        Ok(())
    }

    /// Gives the processors of a seat back.
    fn unseat(&mut self, partition: &'a Partition, seat: &Seat) {
        self.cores.put(&seat.cpus);
        if let ProcessorMode::Shared { pool, .. } = &partition.processors.mode
            && let Some(free) = self.units.get_mut(pool)
        {
            *free = free.plus(seat.units);
        }
    }

    /// The nodes at which a seat's memory should be: those of its CPUs, else those where it has some.
    fn shares(&self, partition: &'a Partition, seat: &Seat, memory: &[super::Extent]) -> Vec<(usize, usize)> {
        let there = match &partition.processors.mode {
            ProcessorMode::Dedicated { .. } => weights(&self.cores, &seat.cpus),
            ProcessorMode::Shared { pool, .. } => {
                self.layout.pools.get(pool).map_or_else(Vec::new, |cpus| weights(&self.cores, cpus))
            }
        };
        if memory.is_empty() && matches!(partition.processors.mode, ProcessorMode::Dedicated { .. }) {
            return there;
        }
        // A shared partition is as near to one node of its pool as to another: one is enough.
        let largest = memory.iter().max_by_key(|extent| extent.blocks);
        let node = largest.and_then(|extent| self.store.position(extent.node)).unwrap_or_else(|| home(&there));
        vec![(node, 1)]
    }

    /// Grows the seats of a group to what the layout has for them, then to what they desire, in order.
    fn grow(&mut self, group: &[usize]) {
        for beyond in [false, true] {
            for &at in group {
                let Some(mut seat) = self.seats.get_mut(at).and_then(Option::take) else { continue };
                let Some(&partition) = self.matter.order.get(at) else { continue };
                self.grow_cpus(at, partition, &mut seat, beyond);
                self.grow_units(at, partition, &mut seat, beyond);
                self.grow_memory(at, partition, &mut seat, beyond);
                if let Some(place) = self.seats.get_mut(at) {
                    *place = Some(seat);
                }
            }
        }
    }

    fn grow_cpus(&mut self, at: usize, partition: &Partition, seat: &mut Seat, beyond: bool) {
        let ProcessorMode::Dedicated { .. } = partition.processors.mode else { return };
        let desired = partition.processors.count.desired as usize;
        if beyond {
            let missing = desired.saturating_sub(seat.cpus.len());
            if missing > 0 && self.cores.whole_cpus() > 0 {
                let home = home(&weights(&self.cores, &seat.cpus));
                let more = self.cores.whole_up_to(missing, self.matter.near.order(home));
                seat.cpus.extend(more);
            }
            return;
        }
        let Some(planned) = self.layout.seats.get(at).and_then(Option::as_ref) else { return };
        let cores: Vec<&[u32]> = self.cores.by_core(&planned.cpus).collect();
        for core in cores {
            if seat.cpus.len() >= desired {
                break;
            }
            if self.cores.take(core) {
                seat.cpus.extend(core);
            }
        }
    }

    fn grow_units(&mut self, at: usize, partition: &'a Partition, seat: &mut Seat, beyond: bool) {
        let ProcessorMode::Shared { pool, units, .. } = &partition.processors.mode else { return };
        let Some(free) = self.units.get_mut(pool) else { return };
        let planned = self.layout.seats.get(at).and_then(Option::as_ref).map_or(Units::ZERO, |seat| seat.units);
        let goal = if beyond { units.desired } else { planned.min(units.desired) };
        let more = goal.minus(seat.units).min(*free);
        *free = free.minus(more);
        seat.units = seat.units.plus(more);
    }

    fn grow_memory(&mut self, at: usize, partition: &'a Partition, seat: &mut Seat, beyond: bool) {
        let missing = partition.memory.size.desired.saturating_sub(self.store.bytes(&seat.memory));
        if missing == 0 {
            return;
        }
        let more = if beyond {
            let pages = partition.memory.pages.unwrap_or(PAGE);
            let shares = self.shares(partition, seat, &seat.memory);
            self.store.take_up_to(pages, missing, &shares, self.matter.near.order(home(&shares)))
        } else {
            let Some(planned) = self.layout.seats.get(at).and_then(Option::as_ref) else { return };
            self.store.take_at(&less(&planned.memory, &seat.memory), missing)
        };
        seat.memory = merged(seat.memory.drain(..).chain(more).collect());
    }
}

/// What `all` has beyond `some`, extent by extent.
fn less(all: &[super::Extent], some: &[super::Extent]) -> Vec<super::Extent> {
    let has = |extent: &super::Extent| {
        let same = some.iter().filter(|one| (one.node, one.pages) == (extent.node, extent.pages));
        same.fold(0u64, |sum, one| sum.saturating_add(one.blocks))
    };
    let rest = all.iter().map(|extent| super::Extent { blocks: extent.blocks.saturating_sub(has(extent)), ..*extent });
    rest.filter(|extent| extent.blocks > 0).collect()
}

/// How many virtual processors a seat is for.
pub(super) fn processors(partition: &Partition, seat: &Seat, least: Units) -> usize {
    match partition.processors.mode {
        ProcessorMode::Dedicated { .. } => seat.cpus.len().min(partition.processors.count.desired as usize),
        ProcessorMode::Shared { .. } => shared_count(partition, seat.units, least) as usize,
    }
}
