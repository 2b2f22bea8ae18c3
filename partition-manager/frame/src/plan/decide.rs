//! The course of a plan: check, lay out the ideal, settle it with what runs, and write it down.

use super::affinity::{self, Affinity};
use super::cores::Cores;
use super::finding::{Claim, Finding, Subject};
use super::ideal::{self, Layout, Seat};
use super::memory::Store;
use super::near::Near;
use super::needs;
use super::remark::Remarks;
use super::running::Running;
use super::settle::{self, Matter, settle};
use super::{Backing, Extent, Overhead, PartitionPlan, Plan, PoolPlan, overhead, sane};
use crate::assignment::Assignment;
use crate::cpuset::CpuSet;
use crate::declare::{Frame, IoProcessors, Partition, ProcessorMode};
use crate::inventory::{Inventory, PAGE};
use crate::name::Name;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// The CPUs of the host that belong to the frame.
fn frame_cpus(frame: &Frame, inventory: &Inventory) -> Result<CpuSet, Finding> {
    let online: CpuSet = inventory.cpus.iter().map(|cpu| cpu.id).collect();
    let Some(bound) = &frame.cpus else { return Ok(online) };
    let missing = bound.difference(&online);
    if missing.is_empty() {
        return Ok(bound.clone());
    }
    Err(Finding {
        rule: "cpus-missing".into(),
        text: format!("frame {} claims CPUs {missing}, which the host does not have online", frame.name),
        claims: vec![Claim { subject: Subject::Frame, key: "cpus".into(), what: format!("has CPUs {online}") }],
        help: Some("correct frame.cpus, leave it out to take the whole host, or bring the CPUs online".into()),
    })
}

/// The host without what guard records take out of it.
fn usable<'i>(inventory: &'i Inventory, guarded: &CpuSet) -> Cow<'i, Inventory> {
    if inventory.guards.is_empty() {
        return Cow::Borrowed(inventory);
    }
    let memory = inventory.guarded_memory();
    let mut usable = Inventory { guards: vec![], ..inventory.clone() };
    usable.cpus.retain(|cpu| !guarded.contains(cpu.id));
    for node in &mut usable.nodes {
        let lost = memory.get(&node.id).copied().unwrap_or(0);
        node.memory -= lost.min(node.memory);
        node.available = node.available.min(node.memory);
    }
    Cow::Owned(usable)
}

/// The whole course; see [`super::plan_for`].
pub(super) fn decide(
    frame: &Frame,
    inventory: &Inventory,
    owned: &Assignment,
    wanted: &dyn Fn(&Partition) -> bool,
) -> Result<Plan, Vec<Finding>> {
    let mut refusals = sane::check(frame);
    if let Err(error) = inventory.validate() {
        let text = format!("the inventory is not that of a host: {error}");
        refusals.push(Finding { rule: "inventory".into(), text, claims: vec![], help: None });
    }
    if !refusals.is_empty() {
        return Err(refusals);
    }
    let declared = frame_cpus(frame, inventory).map_err(|finding| vec![finding])?;
    let guarded = inventory.guarded_cpus().intersection(&declared);
    let order = ideal::order(frame);
    let running = Running::new(owned);
    let store =
        |host: &Inventory, home| Store::new(host, frame.memory_block, frame.reserved_memory, home, &running.memory);
    // A file is accepted or refused by what the host has when nothing is broken.
    let intact = Cores::new(inventory, &declared);
    let refusals = needs::check(frame, &order, &intact.budget(), &store(inventory, 0));
    if !refusals.is_empty() {
        return Err(refusals);
    }
    let host = usable(inventory, &guarded);
    let all = declared.difference(&guarded);
    let cores = if guarded.is_empty() { intact } else { Cores::new(&host, &all) };
    let mut best: Option<(ideal::Verdict, Layout<'_>, usize, Store)> = None;
    for home in ideal::homes(frame, &cores, all.iter().next()) {
        let store = store(&host, home);
        let Some((verdict, layout)) = ideal::ideal(frame, &order, &host, &cores, &store, home) else { continue };
        if best.as_ref().is_none_or(|(least, ..)| verdict < *least) {
            best = Some((verdict, layout, home, store));
        }
        if verdict == (0, false, 0) {
            break;
        }
    }
    let Some((_, layout, home, mut store)) = best else { return Err(vec![unplaceable(frame)]) };
    let near = Near::new(&host);
    let wanted: Vec<bool> = order.iter().map(|partition| wanted(partition)).collect();
    let idle = vec![false; order.len()];
    let fresh = Matter { frame, order: &order, wanted: &wanted, active: &idle, near: &near, home };
    // What it would be if nothing ran: a plan goes on towards that, so it does not change while it is carried out.
    let (mut layout, mut refused) = settle(fresh, &layout, &cores, &store, &Running::default());
    if !owned.partitions.is_empty() || !running.pools.is_empty() {
        let active: Vec<bool> = order.iter().map(|one| owned.partitions.contains_key(&one.name)).collect();
        let now = Matter { active: &active, ..fresh };
        store.hold(&running.memory);
        (layout, refused) = settle(now, &layout, &cores, &store, &running);
    }
    let course = Course { frame, inventory, owned, running: &running, order: &order, all, guarded, store: &store };
    Ok(course.write(&layout, refused))
}

/// What a plan is written from.
pub(super) struct Course<'c, 'a> {
    pub(super) frame: &'a Frame,
    pub(super) inventory: &'c Inventory,
    pub(super) owned: &'a Assignment,
    pub(super) running: &'c Running<'a>,
    pub(super) order: &'c [&'a Partition],
    /// CPUs of the frame that are not guarded.
    pub(super) all: CpuSet,
    /// CPUs of the frame that are.
    pub(super) guarded: CpuSet,
    pub(super) store: &'c Store,
}

impl<'a> Course<'_, 'a> {
    fn write(&self, layout: &Layout<'a>, refused: settle::Refused) -> Plan {
        let frame = self.frame;
        let mut pools: Vec<PoolPlan> = frame
            .pools
            .iter()
            .filter_map(|pool| {
                let running = self.running.pools.get(&pool.name).cloned();
                let cpus = running.or_else(|| Some(layout.pools.get(&pool.name)?.iter().copied().collect()))?;
                Some(PoolPlan { name: pool.name.clone(), cpus })
            })
            .collect();
        pools.sort_by(|a, b| a.name.cmp(&b.name));
        let by_name: BTreeMap<&Name, &CpuSet> = pools.iter().map(|pool| (&pool.name, &pool.cpus)).collect();
        let mut affinity = Affinity::new(self.inventory);
        let seated = self.order.iter().zip(&layout.seats);
        let planned = seated.filter_map(|(partition, seat)| Some(self.planned(partition, seat.as_ref()?, &by_name)));
        let mut partitions: Vec<PartitionPlan> = self.owned.partitions.values().cloned().chain(planned).collect();
        partitions.sort_by(|a, b| a.name.cmp(&b.name));
        for partition in &mut partitions {
            partition.score = affinity.score(&partition.processors, &partition.memory);
        }
        let overhead = self.overhead(&partitions);
        let reserved: CpuSet = layout.reserved.iter().copied().collect();
        let dedicated = partitions.iter().filter(|one| one.backing == Backing::Dedicated);
        let taken = dedicated.flat_map(|one| one.cpus.iter()).chain(pools.iter().flat_map(|pool| pool.cpus.iter()));
        let taken: CpuSet = taken.chain(reserved.iter()).chain(self.running.cpus.iter().copied()).collect();
        let guarded_memory = self.inventory.guarded_memory().into_iter();
        let block = frame.memory_block.max(1);
        let mut plan = Plan {
            frame: frame.name.clone(),
            memory_block: frame.memory_block,
            reserved,
            unassigned: self.all.difference(&taken),
            score: affinity::of_frame(&partitions),
            pools,
            partitions,
            withheld: vec![],
            warnings: vec![],
            overhead,
            reserved_memory: self.store.host(),
            guarded: self.guarded.clone(),
            guarded_memory: guarded_memory
                .map(|(node, bytes)| Extent { node, blocks: bytes.div_ceil(block), pages: PAGE })
                .collect(),
            holders: self.owned.partitions.keys().cloned().collect(),
        };
        let remarks = Remarks::new(self, &plan);
        let withheld = remarks.withheld(refused);
        (plan.warnings, plan.withheld) = (remarks.warnings(), withheld);
        plan
    }

    fn planned(&self, partition: &Partition, seat: &Seat, pools: &BTreeMap<&Name, &CpuSet>) -> PartitionPlan {
        let pool_cpus = |name: &Name| pools.get(name).map_or_else(CpuSet::new, |cpus| (*cpus).clone());
        let count = settle::processors(partition, seat, self.frame.minimum_units);
        let (cpus, processors, io, backing) = match &partition.processors.mode {
            ProcessorMode::Dedicated { io } => {
                let processors = seat.cpus.iter().take(count).map(|&cpu| CpuSet::from_iter([cpu])).collect();
                let own: CpuSet = seat.cpus.iter().copied().collect();
                let io = match io {
                    IoProcessors::Own => own.clone(),
                    IoProcessors::Pool(name) => pool_cpus(name),
                };
                (own, processors, io, Backing::Dedicated)
            }
            ProcessorMode::Shared { pool, sharing, .. } => {
                let own = pool_cpus(pool);
                let backing = Backing::Shared { pool: pool.clone(), units: seat.units, sharing: *sharing };
                (own.clone(), vec![own.clone(); count], own, backing)
            }
        };
        PartitionPlan {
            name: partition.name.clone(),
            id: partition.id,
            cpus,
            processors,
            io,
            backing,
            base: partition.memory.base.min(self.store.bytes(&seat.memory)),
            memory: seat.memory.clone(),
            score: 0,
        }
    }

    fn overhead(&self, partitions: &[PartitionPlan]) -> Vec<Overhead> {
        let declared: BTreeMap<&Name, &Partition> = self.order.iter().map(|&one| (&one.name, one)).collect();
        let items = partitions.iter().filter_map(|planned| {
            let pages = planned.memory.first().map_or(PAGE, |extent| extent.pages);
            Some(overhead::items(declared.get(&planned.name)?, planned.processors.len(), pages))
        });
        items.flatten().collect()
    }
}

fn unplaceable(frame: &Frame) -> Finding {
    Finding {
        rule: "unplaceable".into(),
        text: format!("the claims on frame {} add up, but cores of unlike width leave no place for all", frame.name),
        claims: vec![],
        help: Some("make dedicated counts multiples of the threads of a core".into()),
    }
}
