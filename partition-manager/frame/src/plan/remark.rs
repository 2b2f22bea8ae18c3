//! What the reader of a plan should know, and who holds what somebody else needs.

use super::decide::Course;
use super::finding::{Claim, Finding, Subject};
use super::grant::largest;
use super::needs::cpus;
use super::settle::Refused;
use super::{Backing, PartitionPlan, Plan};
use crate::cpuset::CpuSet;
use crate::declare::{Partition, ProcessorMode};
use crate::guard::{Guard, Unit};
use crate::name::Name;
use crate::units::{KIB, show_size};
use std::collections::{BTreeMap, BTreeSet};

/// Most guard records that one finding names.
const NAMED: usize = 4;

/// Remarks on one plan.
pub(super) struct Remarks<'r, 'a> {
    course: &'r Course<'r, 'a>,
    plan: &'r Plan,
    warnings: Vec<Finding>,
}

/// The order in which findings are given.
fn key(finding: &Finding) -> (String, String) {
    (finding.rule.to_string(), finding.text.clone())
}

impl<'r, 'a> Remarks<'r, 'a> {
    /// On `plan`, which `course` led to.
    pub(super) fn new(course: &'r Course<'r, 'a>, plan: &'r Plan) -> Self {
        Self { course, plan, warnings: vec![] }
    }

    fn warn(&mut self, rule: &'static str, subject: Subject, key: &'static str, text: String, help: Option<String>) {
        let claims = vec![Claim { subject, key: key.into(), what: "is declared here".into() }];
        self.warnings.push(Finding { rule: rule.into(), text, claims, help });
    }

    fn of(&mut self, rule: &'static str, name: &Name, key: &'static str, text: String, help: Option<String>) {
        self.warn(rule, Subject::Partition(name.clone()), key, text, help);
    }

    /// What is legal, but should be known.
    pub(super) fn warnings(mut self) -> Vec<Finding> {
        self.pools();
        self.partitions();
        self.frame();
        self.guards();
        self.warnings.sort_by_cached_key(key);
        self.warnings
    }

    fn pools(&mut self) {
        let course = self.course;
        for pool in &course.frame.pools {
            let has = self.plan.pool(&pool.name).map_or(0, |plan| plan.cpus.len());
            let declared = cpus(pool.cpus as usize);
            let subject = Subject::Pool(pool.name.clone());
            if has == pool.cpus as usize {
                continue;
            }
            if course.running.pools.contains_key(&pool.name) {
                let text =
                    format!("pool {} is declared with {declared} and has {has} while partitions run on it", pool.name);
                let help = "shut down its partitions to change it".into();
                self.warn("pending", subject, "cpus", text, Some(help));
            } else {
                let text = format!("pool {} is declared with {declared} and gets {has}: no more are free", pool.name);
                self.warn("pool-short", subject, "cpus", text, None);
            }
        }
        let (wants, has) = (course.frame.reserved_cpus as usize, self.plan.reserved.len());
        if has < wants {
            let text = format!("the host reserves {} and has {has}: the others are held or guarded", cpus(wants));
            let help = "shut down a partition to change it".into();
            self.warn("reserve-short", Subject::Frame, "reserved.cpus", text, Some(help));
        }
    }

    fn partitions(&mut self) {
        let course = self.course;
        let mut far: BTreeMap<&Name, (usize, u8, u8)> = BTreeMap::new();
        for &partition in course.order {
            if course.owned.partitions.contains_key(&partition.name) {
                continue;
            }
            let Some(planned) = self.plan.partition(&partition.name) else { continue };
            self.shortfalls(partition, planned);
            self.idle(planned);
            match &planned.backing {
                Backing::Shared { pool, .. } if planned.score < 100 => {
                    let (count, low, high) = far.entry(pool).or_insert((0, 100, 0));
                    *count += 1;
                    (*low, *high) = ((*low).min(planned.score), (*high).max(planned.score));
                }
                Backing::Dedicated if planned.score < 100 => {
                    let nodes = planned.memory.iter().map(|extent| extent.node).collect::<BTreeSet<_>>().len();
                    let text = format!(
                        "partition {} has an affinity score of {}; its memory is on {nodes} node(s)",
                        planned.name, planned.score
                    );
                    self.of("affinity", &planned.name, "processors", text, None);
                }
                _ => {}
            }
        }
        for (pool, (count, low, high)) in far {
            let scores = if low == high { low.to_string() } else { format!("{low} to {high}") };
            let text = format!(
                "{count} partition(s) of pool {pool} have an affinity score of {scores}: its CPUs, or their memory, are on several nodes"
            );
            self.warn("affinity", Subject::Pool(pool.clone()), "cpus", text, None);
        }
    }

    fn shortfalls(&mut self, partition: &Partition, planned: &PartitionPlan) {
        let name = &planned.name;
        let (desired, count) = (partition.processors.count.desired, planned.processors.len());
        if count < desired as usize {
            let text = format!("partition {name} desires {desired} processors and gets {count}");
            self.of("shortfall", name, "processors.desired", text, None);
        }
        if let (ProcessorMode::Shared { units, .. }, Backing::Shared { units: given, pool, .. }) =
            (&partition.processors.mode, &planned.backing)
            && *given < units.desired
        {
            let text = format!("partition {name} desires {} units of pool {pool} and gets {given}", units.desired);
            self.of("shortfall", name, "processors.units.desired", text, None);
        }
        let (desired, bytes) = (partition.memory.size.desired, planned.memory_bytes(self.plan.memory_block));
        if bytes < desired {
            let text =
                format!("partition {name} desires {} of memory and gets {}", show_size(desired), show_size(bytes));
            self.of("shortfall", name, "memory.desired", text, None);
        }
    }

    fn idle(&mut self, planned: &PartitionPlan) {
        if planned.backing != Backing::Dedicated || planned.cpus.len() <= planned.processors.len() {
            return;
        }
        let used: CpuSet = planned.processors.iter().flat_map(CpuSet::iter).collect();
        let text = format!(
            "partition {} has {} dedicated in whole cores; CPU {} stays idle",
            planned.name,
            cpus(planned.processors.len()),
            planned.cpus.difference(&used)
        );
        let help = format!("{} would use it at no cost", cpus(planned.cpus.len()));
        self.of("idle-sibling", &planned.name, "processors.desired", text, Some(help));
    }

    fn frame(&mut self) {
        let (course, plan) = (self.course, self.plan);
        let frame = course.frame;
        if plan.reserved.is_empty() {
            let shared = plan.pools.iter().find(|pool| pool.name.as_str() == "default").or_else(|| plan.pools.first());
            let shares = shared.map(|pool| format!("shares pool {} (CPUs {})", pool.name, pool.cpus));
            let uses =
                (!plan.unassigned.is_empty()).then(|| format!("uses what nobody has (CPUs {})", plan.unassigned));
            let lives = match (shares, uses) {
                (Some(shares), Some(uses)) => format!("it {shares} and {uses}"),
                (Some(only), None) | (None, Some(only)) => format!("it {only}"),
                (None, None) => "it runs on CPUs that are dedicated to partitions".into(),
            };
            let text = format!("the host has no CPU of its own; {lives}");
            let help = "reserve at least 1 CPU when latency matters".into();
            self.warn("host-shares", Subject::Frame, "reserved.cpus", text, Some(help));
        }
        let cost: u64 = plan.overhead.iter().fold(0, |sum, item| sum.saturating_add(item.bytes));
        if cost > frame.reserved_memory {
            let text = format!(
                "the partitions cost the host about {} of memory, more than the {} it reserves",
                show_size(cost.checked_next_multiple_of(KIB).unwrap_or(cost)),
                show_size(frame.reserved_memory)
            );
            let help = "reserve more memory, or lower maximums".into();
            self.warn("overhead", Subject::Frame, "reserved.memory", text, Some(help));
        }
        let declared: BTreeSet<&Name> = course.order.iter().map(|partition| &partition.name).collect();
        for name in course.owned.partitions.keys().filter(|name| !declared.contains(name)) {
            let text = format!("partition {name} runs, but is no longer declared; it keeps what it owns");
            let help = "shut it down, or declare it again".into();
            self.warn("undeclared", Subject::Frame, "name", text, Some(help));
        }
        self.split_cores();
    }

    fn split_cores(&mut self) {
        let frame_has = |cpu: u32| self.course.all.contains(cpu) || self.course.guarded.contains(cpu);
        let mut cores: BTreeMap<(u32, u32), (Vec<u32>, bool)> = BTreeMap::new();
        for cpu in &self.course.inventory.cpus {
            let (inside, outside) = cores.entry((cpu.package, cpu.core)).or_default();
            if frame_has(cpu.id) {
                inside.push(cpu.id);
            } else {
                *outside = true;
            }
        }
        let split: CpuSet =
            cores.into_values().filter(|(_, outside)| *outside).flat_map(|(inside, _)| inside).collect();
        if !split.is_empty() {
            let text =
                format!("the siblings of CPUs {split} are outside the frame; only pools and the host can use them");
            let help = "let frame.cpus name whole cores".into();
            self.warn("split-core", Subject::Frame, "cpus", text, Some(help));
        }
    }

    /// Who runs on what is guarded: he keeps it until he ends.
    fn guards(&mut self) {
        let (course, plan) = (self.course, self.plan);
        if course.guarded.is_empty() {
            return;
        }
        let text = |what: String, on: &CpuSet| {
            format!("{what} on CPUs {on}, which guard records take out ({}); they are kept until then", self.why(on))
        };
        let mut told = vec![];
        for held in course.owned.partitions.values().filter(|held| held.backing == Backing::Dedicated) {
            let on = held.cpus.intersection(&course.guarded);
            if !on.is_empty() {
                told.push((Subject::Partition(held.name.clone()), text(format!("partition {} runs", held.name), &on)));
            }
        }
        for pool in plan.pools.iter().filter(|pool| course.running.pools.contains_key(&pool.name)) {
            let on = pool.cpus.intersection(&course.guarded);
            if !on.is_empty() {
                told.push((Subject::Pool(pool.name.clone()), text(format!("pool {} lives", pool.name), &on)));
            }
        }
        for (subject, text) in told {
            let help = "shut down what runs there and activate it again".into();
            self.warn("guarded", subject, "name", text, Some(help));
        }
    }

    /// The reasons of the guard records of some CPUs.
    fn why(&self, cpus: &CpuSet) -> String {
        let inventory = self.course.inventory;
        let concerns = |guard: &&Guard| match guard.unit {
            Unit::Cpu(cpu) => cpus.contains(cpu),
            Unit::Core { package, core } => {
                inventory.cpus.iter().any(|cpu| (cpu.package, cpu.core) == (package, core) && cpus.contains(cpu.id))
            }
            Unit::Memory { .. } => false,
        };
        let words = |guard: &Guard| format!("{}: {}", guard.unit, crate::diagnostic::shown(&guard.reason));
        inventory.guards.iter().filter(concerns).take(NAMED).map(words).collect::<Vec<_>>().join(", ")
    }

    /// Those that cannot be activated at present, each with who holds what it needs.
    pub(super) fn withheld(&self, refused: Refused) -> Vec<Finding> {
        if refused.is_empty() {
            return vec![];
        }
        let holders = self.holders();
        let guards: Vec<Claim> = self.course.inventory.guards.iter().take(NAMED).map(guard_claim).collect();
        let blame = |(at, mut finding): (usize, Finding)| {
            let Some(partition) = self.course.order.get(at) else { return finding };
            let key = finding.claims.first().map_or("", |claim| claim.key.as_ref());
            let of = match (&partition.processors.mode, key) {
                (_, "memory") => What::Memory(partition.memory.pages.unwrap_or(crate::inventory::PAGE)),
                (ProcessorMode::Shared { pool, .. }, "processors.units") => What::Units(pool.clone()),
                _ => What::Cpus,
            };
            if let Some((claims, more)) = holders.get(&of) {
                finding.text += more;
                finding.claims.extend(claims.iter().cloned());
            }
            finding.claims.extend(guards.iter().cloned());
            let name = &partition.name;
            finding.help = Some(format!("shut down or shrink a partition that holds it, then activate {name}"));
            finding
        };
        let mut found: Vec<Finding> = refused.into_iter().map(blame).collect();
        found.sort_by_cached_key(key);
        found
    }

    /// The largest holders of everything that can be lacking.
    fn holders(&self) -> BTreeMap<What, (Vec<Claim>, String)> {
        let mut sums: BTreeMap<What, Vec<(u64, &PartitionPlan)>> = BTreeMap::new();
        for one in &self.plan.partitions {
            match &one.backing {
                Backing::Dedicated => sums.entry(What::Cpus).or_default().push((one.cpus.len() as u64, one)),
                Backing::Shared { pool, units, .. } => {
                    let units = u64::from(units.thousandths());
                    sums.entry(What::Units(pool.clone())).or_default().push((units, one));
                }
            }
            if let Some(extent) = one.memory.first() {
                let bytes = one.memory_bytes(self.plan.memory_block);
                sums.entry(What::Memory(extent.pages)).or_default().push((bytes, one));
            }
        }
        sums.into_iter()
            .map(|(what, mut all)| {
                // Only the largest are shown, so only they are put in words; the others are counted.
                all.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.name.cmp(&b.1.name)));
                let count = all.len();
                let words = |(size, one): (u64, &PartitionPlan)| (size, self.holder(one));
                let (claims, _) = largest(all.into_iter().take(SHOWN).map(words).collect());
                let more =
                    if count > SHOWN { format!(" (the {SHOWN} largest of {count} holders)") } else { String::new() };
                (what, (claims, more))
            })
            .collect()
    }

    fn holder(&self, one: &PartitionPlan) -> Claim {
        let owned = self.course.owned.partitions.contains_key(&one.name);
        let verb = if owned { "holds" } else { "is to have" };
        let what = match &one.backing {
            Backing::Dedicated => format!("{verb} CPUs {}", one.cpus),
            Backing::Shared { pool, units, .. } => format!("{verb} {units} units of pool {pool}"),
        };
        let what = format!("{what} and {}", show_size(one.memory_bytes(self.plan.memory_block)));
        Claim { subject: Subject::Partition(one.name.clone()), key: "".into(), what }
    }
}

/// Most holders that one finding names.
const SHOWN: usize = 8;

/// What can be lacking.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    /// Whole cores.
    Cpus,
    /// Units of a pool.
    Units(Name),
    /// Memory in pages of a size, bytes.
    Memory(u64),
}

fn guard_claim(guard: &Guard) -> Claim {
    let what = format!("is without {}, which a guard record takes out", guard.unit);
    Claim { subject: Subject::Frame, key: "".into(), what }
}
