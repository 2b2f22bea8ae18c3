//! The course of a plan: check, take what runs as it is, grant, place, and say what should be known.

use super::cores::{Cores, Preference};
use super::finding::{Claim, Finding, Subject};
use super::grant::{Grant, Grantor};
use super::memory::Store;
use super::needs::{self, cpus};
use super::place::{self, Placement, Wishes};
use super::{Backing, Extent, Overhead, PartitionPlan, Plan, PoolPlan, overhead, sane};
use crate::assignment::Assignment;
use crate::cpuset::CpuSet;
use crate::declare::{Frame, IoProcessors, Partition, ProcessorMode, WhenInactive};
use crate::inventory::{Inventory, PAGE};
use crate::name::Name;
use crate::units::{Units, show_size};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

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

/// What runs, and what it keeps from others.
struct Running<'a> {
    cpus: CpuSet,
    memory: Vec<Extent>,
    /// CPUs of the pools that something runs on.
    pools: BTreeMap<&'a Name, CpuSet>,
    /// Entitlement that is given away in each pool.
    units: BTreeMap<&'a Name, Units>,
}

impl<'a> Running<'a> {
    fn new(owned: &'a Assignment) -> Self {
        let mut running = Self { cpus: CpuSet::new(), memory: vec![], pools: BTreeMap::new(), units: BTreeMap::new() };
        for partition in owned.partitions.values() {
            running.cpus = running.cpus.union(&partition.cpus);
            running.memory.extend(&partition.memory);
            if let Backing::Shared { pool, units, .. } = &partition.backing {
                let set = running.pools.entry(pool).or_default();
                *set = set.union(&partition.cpus);
                let sum = running.units.entry(pool).or_default();
                *sum = sum.plus(*units);
            }
        }
        for (pool, cpus) in &owned.pools {
            let used = owned.partitions.values().any(|p| !p.io.intersection(cpus).is_empty());
            if used || running.pools.contains_key(pool) {
                running.pools.insert(pool, cpus.clone());
                running.cpus = running.cpus.union(cpus);
            }
        }
        running
    }
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
    let all = frame_cpus(frame, inventory).map_err(|finding| vec![finding])?;
    let running = Running::new(owned);
    let whole_frame = Cores::new(inventory, &all, &CpuSet::new());
    let nothing_runs = Store::holding(inventory, frame.memory_block, frame.reserved_memory, &running.memory, true);
    refusals.extend(needs::check(frame, &whole_frame.budget(), &nothing_runs));
    if !refusals.is_empty() {
        return Err(refusals);
    }
    let cores = Cores::new(inventory, &all, &running.cpus);
    let store = Store::holding(inventory, frame.memory_block, frame.reserved_memory, &running.memory, false);
    let mut course = Course { frame, inventory, owned, running, all, cores, store, warnings: vec![], withheld: vec![] };
    course.run(wanted).map_err(|finding| vec![finding])
}

struct Course<'a> {
    frame: &'a Frame,
    inventory: &'a Inventory,
    owned: &'a Assignment,
    running: Running<'a>,
    all: CpuSet,
    cores: Cores,
    store: Store,
    warnings: Vec<Finding>,
    withheld: Vec<Finding>,
}

impl<'a> Course<'a> {
    fn run(&mut self, wanted: &dyn Fn(&Partition) -> bool) -> Result<Plan, Finding> {
        let frame = self.frame;
        let budget = self.cores.budget();
        let mut free_pools: Vec<(&Name, usize)> = vec![];
        for pool in &frame.pools {
            match self.running.pools.get(&pool.name) {
                None => free_pools.push((&pool.name, pool.cpus as usize)),
                Some(cpus) if cpus.len() != pool.cpus as usize => {
                    self.warnings.push(pool_pending(&pool.name, pool.cpus, cpus.len()));
                }
                Some(_) => {}
            }
        }
        free_pools.sort();
        // What runs may leave less than the host and the pools want: they go without, in this order.
        let mut reserved = frame.reserved_cpus as usize;
        if reserved > budget.cpus() {
            reserved = budget.cpus();
            self.warnings.push(reserve_short(frame, reserved));
        }
        let mut left = budget.cpus() - reserved;
        free_pools.retain(|&(_, n)| {
            let fits = n <= left;
            left -= if fits { n } else { 0 };
            fits
        });
        let units: BTreeMap<&Name, Units> = frame
            .pools
            .iter()
            .filter_map(|pool| {
                let given = self.running.units.get(&pool.name).copied().unwrap_or_default();
                let cpus = match self.running.pools.get(&pool.name) {
                    Some(cpus) => u32::try_from(cpus.len()).ok()?,
                    None => free_pools.iter().any(|(name, _)| *name == &pool.name).then_some(pool.cpus)?,
                };
                Some((&pool.name, Units::whole(cpus).minus(given)))
            })
            .collect();

        let mut order: Vec<&'a Partition> =
            self.frame.partitions.iter().filter(|p| !self.owned.partitions.contains_key(&p.name)).collect();
        order.sort_by_key(|p| (Reverse(p.availability_priority), &p.name));
        let (first, later): (Vec<_>, Vec<_>) = order.into_iter().partition(|p| wanted(p));
        let (held, released): (Vec<_>, Vec<_>) = later.into_iter().partition(|p| p.when_inactive == WhenInactive::Hold);

        let loose: Vec<usize> = std::iter::once(reserved).chain(free_pools.iter().map(|&(_, n)| n)).collect();
        let grant = |preference| {
            let mut grantor = Grantor::new(
                budget.clone(),
                loose.clone(),
                preference,
                units.clone(),
                self.store.clone(),
                frame.minimum_units,
            );
            let mut refused: Vec<(&'a Partition, Finding)> = vec![];
            let mut admit = |grantor: &mut Grantor<'a>, group: &[&'a Partition]| {
                for &partition in group {
                    if let Err(finding) = grantor.admit(partition) {
                        refused.push((partition, *finding));
                    }
                }
            };
            admit(&mut grantor, &first);
            let ready = grantor.len();
            admit(&mut grantor, &held);
            grantor.grow(0..ready);
            grantor.grow(ready..grantor.len());
            let ready = grantor.len();
            admit(&mut grantor, &released);
            grantor.grow(ready..grantor.len());
            (grantor, refused, preference)
        };
        let mut outcome = grant(Preference::Whole);
        if !outcome.1.is_empty() {
            let other = grant(Preference::Loose);
            if other.1.len() < outcome.1.len() {
                outcome = other;
            }
        }
        let (grantor, refused, preference) = outcome;
        for (partition, mut finding) in refused {
            self.blame(partition, &mut finding);
            self.withheld.push(finding);
        }
        let (grants, slack) = grantor.finish();
        let fixed = self.running.pools.clone();
        let wishes = Wishes { reserved, pools: free_pools, fixed, grants: &grants, preference, slack };
        let placed = place::place(self.inventory, &self.cores, &self.store, &wishes, false)
            .or_else(|| place::place(self.inventory, &self.cores, &self.store, &wishes, true));
        let Some(placement) = placed else { return Err(unplaceable(frame)) };
        Ok(self.write(&grants, placement))
    }

    /// Names who holds what a withheld partition needs.
    fn blame(&self, partition: &Partition, finding: &mut Finding) {
        let block = self.frame.memory_block;
        let holders = self.owned.partitions.values().map(|holder| {
            let what = match &holder.backing {
                Backing::Dedicated => format!("holds CPUs {}", holder.cpus),
                Backing::Shared { pool, units, .. } => format!("holds {units} units of pool {pool}"),
            };
            let bytes = holder.memory_bytes(block);
            let what = format!("{what} and {}", show_size(bytes));
            let subject = Subject::Partition(holder.name.clone());
            ((holder.cpus.len(), bytes), Claim { subject, key: "".into(), what })
        });
        let (claims, more) = super::grant::largest(holders.collect());
        finding.text += &more;
        finding.claims.extend(claims);
        finding.help = Some(format!("shut down or shrink a partition that holds it, then activate {}", partition.name));
    }

    fn write(&mut self, grants: &[Grant<'a>], placement: Placement) -> Plan {
        let frame = self.frame;
        let mut pools: Vec<PoolPlan> = frame
            .pools
            .iter()
            .filter_map(|pool| {
                let running = self.running.pools.get(&pool.name);
                let cpus = running.or_else(|| placement.pools.get(&pool.name))?.clone();
                Some(PoolPlan { name: pool.name.clone(), cpus })
            })
            .collect();
        pools.sort_by(|a, b| a.name.cmp(&b.name));
        let node_of: BTreeMap<u32, u32> = self.inventory.cpus.iter().map(|cpu| (cpu.id, cpu.node)).collect();
        let pool_cpus = |name: &Name| {
            pools.iter().find(|pool| &pool.name == name).map(|pool| pool.cpus.clone()).unwrap_or_default()
        };
        let mut partitions: Vec<PartitionPlan> = self
            .owned
            .partitions
            .values()
            .map(|held| PartitionPlan {
                score: overhead::score(&node_of, &held.processors, &held.memory),
                ..held.clone()
            })
            .collect();
        let given = placement.cpus.into_iter().zip(placement.memory);
        for (grant, (cpus, memory)) in grants.iter().zip(given) {
            let count = grant.count as usize;
            let (cpus, processors, io, backing) = match &grant.partition.processors.mode {
                ProcessorMode::Dedicated { io } => {
                    let processors: Vec<CpuSet> =
                        cpus.iter().take(count).map(|&cpu| CpuSet::from_iter([cpu])).collect();
                    let own: CpuSet = cpus.into_iter().collect();
                    let io = match io {
                        IoProcessors::Own => own.clone(),
                        IoProcessors::Pool(name) => pool_cpus(name),
                    };
                    (own, processors, io, Backing::Dedicated)
                }
                ProcessorMode::Shared { pool, sharing, .. } => {
                    let own = pool_cpus(pool);
                    let backing = Backing::Shared { pool: pool.clone(), units: grant.units, sharing: *sharing };
                    (own.clone(), vec![own.clone(); count], own, backing)
                }
            };
            let score = overhead::score(&node_of, &processors, &memory);
            let partition = PartitionPlan {
                name: grant.partition.name.clone(),
                id: grant.partition.id,
                cpus,
                processors,
                io,
                backing,
                base: grant.partition.memory.base.min(grant.bytes),
                memory,
                score,
            };
            self.remark(grant, &partition);
            partitions.push(partition);
        }
        partitions.sort_by(|a, b| a.name.cmp(&b.name));
        let overhead = self.overhead(&partitions);
        let taken = partitions.iter().flat_map(|p| p.cpus.iter()).chain(pools.iter().flat_map(|p| p.cpus.iter()));
        let taken: CpuSet = taken.chain(placement.reserved.iter()).collect();
        let unassigned = self.all.difference(&taken);
        self.remark_frame(&placement.reserved, &unassigned, &pools, &overhead);
        let key = |finding: &Finding| (finding.rule.clone(), finding.text.clone());
        self.warnings.sort_by_key(key);
        self.withheld.sort_by_key(key);
        Plan {
            frame: frame.name.clone(),
            memory_block: frame.memory_block,
            reserved: placement.reserved,
            unassigned,
            pools,
            partitions,
            withheld: std::mem::take(&mut self.withheld),
            warnings: std::mem::take(&mut self.warnings),
            overhead,
            score: None,
            reserved_memory: vec![],
            guarded: CpuSet::new(),
            guarded_memory: vec![],
            holders: self.owned.partitions.keys().cloned().collect(),
        }
    }

    fn overhead(&self, partitions: &[PartitionPlan]) -> Vec<Overhead> {
        let declared: BTreeMap<&Name, &Partition> = self.frame.partitions.iter().map(|p| (&p.name, p)).collect();
        let items = partitions.iter().filter_map(|planned| {
            let pages = planned.memory.first().map_or(PAGE, |extent| extent.pages);
            Some(overhead::items(declared.get(&planned.name)?, planned.processors.len(), pages))
        });
        items.flatten().collect()
    }

    /// What should be known of one partition.
    fn remark(&mut self, grant: &Grant<'_>, planned: &PartitionPlan) {
        let name = &planned.name;
        let mut warn = |rule: &'static str, key: &'static str, text: String, help: Option<String>| {
            let claims = vec![sane::claim(name, key, "is declared here".into())];
            self.warnings.push(Finding { rule: rule.into(), text, claims, help });
        };
        let desired = &grant.partition.processors.count.desired;
        if grant.count < *desired {
            let text = format!("partition {name} desires {desired} processors and gets {}", grant.count);
            warn("shortfall", "processors.desired", text, None);
        }
        if let (ProcessorMode::Shared { units, .. }, Backing::Shared { units: given, pool, .. }) =
            (&grant.partition.processors.mode, &planned.backing)
            && *given < units.desired
        {
            let text = format!("partition {name} desires {} units of pool {pool} and gets {given}", units.desired);
            warn("shortfall", "processors.units.desired", text, None);
        }
        if grant.bytes < grant.partition.memory.size.desired {
            let desired = show_size(grant.partition.memory.size.desired);
            let text = format!("partition {name} desires {desired} of memory and gets {}", show_size(grant.bytes));
            warn("shortfall", "memory.desired", text, None);
        }
        if planned.backing == Backing::Dedicated && planned.cpus.len() > planned.processors.len() {
            let used: CpuSet = planned.processors.iter().flat_map(CpuSet::iter).collect();
            let idle = planned.cpus.difference(&used);
            let text = format!(
                "partition {name} has {} dedicated in whole cores; CPU {idle} stays idle",
                cpus(planned.processors.len())
            );
            let help = format!("{} would use it at no cost", cpus(planned.cpus.len()));
            warn("idle-sibling", "processors.desired", text, Some(help));
        }
        let nodes: BTreeSet<u32> = planned.memory.iter().map(|extent| extent.node).collect();
        if planned.score < 100 {
            let text = format!(
                "partition {name} has an affinity score of {}; its memory is on {} node(s)",
                planned.score,
                nodes.len()
            );
            warn("affinity", "processors", text, None);
        }
    }

    /// What should be known of the frame.
    fn remark_frame(&mut self, reserved: &CpuSet, unassigned: &CpuSet, pools: &[PoolPlan], overhead: &[Overhead]) {
        let frame = self.frame;
        let mut warn = |rule: &'static str, key: &'static str, text: String, help: &str| {
            let claims = vec![Claim { subject: Subject::Frame, key: key.into(), what: "is declared here".into() }];
            self.warnings.push(Finding { rule: rule.into(), text, claims, help: Some(help.into()) });
        };
        if reserved.is_empty() {
            let shared = pools.iter().find(|pool| pool.name.as_str() == "default").or_else(|| pools.first());
            let shares = shared.map(|pool| format!("shares pool {} (CPUs {})", pool.name, pool.cpus));
            let uses = (!unassigned.is_empty()).then(|| format!("uses what nobody has (CPUs {unassigned})"));
            let lives = match (shares, uses) {
                (Some(shares), Some(uses)) => format!("it {shares} and {uses}"),
                (Some(only), None) | (None, Some(only)) => format!("it {only}"),
                (None, None) => "it runs on CPUs that are dedicated to partitions".into(),
            };
            let text = format!("the host has no CPU of its own; {lives}");
            warn("host-shares", "reserved.cpus", text, "reserve at least 1 CPU when latency matters");
        }
        let cost: u64 = overhead.iter().fold(0, |sum, item| sum.saturating_add(item.bytes));
        if cost > frame.reserved_memory {
            let text = format!(
                "the partitions cost the host about {} of memory, more than the {} it reserves",
                show_size(cost.next_multiple_of(crate::units::KIB)),
                show_size(frame.reserved_memory)
            );
            warn("overhead", "reserved.memory", text, "reserve more memory, or lower maximums");
        }
        let declared: BTreeSet<&Name> = frame.partitions.iter().map(|p| &p.name).collect();
        for name in self.owned.partitions.keys().filter(|name| !declared.contains(name)) {
            let text = format!("partition {name} runs, but is no longer declared; it keeps what it owns");
            warn("undeclared", "name", text, "shut it down, or declare it again");
        }
        let mut split = CpuSet::new();
        let mut cores: BTreeMap<(u32, u32), CpuSet> = BTreeMap::new();
        for cpu in &self.inventory.cpus {
            cores.entry((cpu.package, cpu.core)).or_default().insert(cpu.id);
        }
        for core in cores.values() {
            let inside = core.intersection(&self.all);
            if !inside.is_empty() && inside.len() < core.len() {
                split = split.union(&inside);
            }
        }
        if !split.is_empty() {
            let text =
                format!("the siblings of CPUs {split} are outside the frame; only pools and the host can use them");
            warn("split-core", "cpus", text, "let frame.cpus name whole cores");
        }
    }
}

fn pool_pending(pool: &Name, declared: u32, has: usize) -> Finding {
    Finding {
        rule: "pending".into(),
        text: format!(
            "pool {pool} is declared with {} and has {has} while partitions run on it",
            cpus(declared as usize)
        ),
        claims: vec![Claim {
            subject: Subject::Pool(pool.clone()),
            key: "cpus".into(),
            what: "takes effect when none runs".into(),
        }],
        help: Some("shut down its partitions to change it".into()),
    }
}

fn reserve_short(frame: &Frame, has: usize) -> Finding {
    Finding {
        rule: "reserve-short".into(),
        text: format!(
            "the host reserves {} and has {has}: what runs holds the others",
            cpus(frame.reserved_cpus as usize)
        ),
        claims: vec![Claim {
            subject: Subject::Frame,
            key: "reserved.cpus".into(),
            what: "takes effect when they are free".into(),
        }],
        help: Some("shut down a partition to change it".into()),
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
