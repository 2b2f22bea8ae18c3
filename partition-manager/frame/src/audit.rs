//! The audit: whether the host really is as the division says, partition by partition.
//!
//! What was seen goes in, a verdict with its reasons comes out; looking is somebody else's work.

use crate::cpuset::CpuSet;
use crate::name::Name;
use crate::plan::{Backing, PartitionPlan};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Tasks, interrupts or whatever that one finding names at most.
const NAMED: usize = 5;

/// How a partition, or the host, fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The division holds, and nobody may disturb it.
    Holds,
    /// The division holds, but somebody else may run or interrupt where the partition should be alone.
    Weak,
    /// Something is not as it was divided.
    Broken,
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Holds => "holds",
            Self::Weak => "weak",
            Self::Broken => "broken",
        })
    }
}

/// One reason for a verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What it makes of the verdict.
    pub verdict: Verdict,
    /// What was found, on one line.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

/// A thread, as it was over the time of the audit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// Its process.
    pub pid: u32,
    /// Its own number.
    pub tid: u32,
    /// Its name.
    pub name: String,
    /// Where it may run.
    pub allowed: CpuSet,
    /// Where it ran last.
    pub cpu: u32,
    /// Processor time, milliseconds.
    pub ran_ms: f64,
    /// Switches that it did not ask for.
    pub involuntary: u64,
    /// Page faults, minor and major.
    pub faults: u64,
}

/// Guest memory that is there, of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resident {
    /// The node that it is on.
    pub node: u32,
    /// Bytes of each page.
    pub page: u64,
    /// Bytes.
    pub bytes: u64,
}

/// What was seen of one active partition.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// What it owns.
    pub plan: PartitionPlan,
    /// The threads of its process.
    pub tasks: Vec<Task>,
    /// Threads of others that may run on CPUs that are its alone, and could be moved away.
    pub strangers: Vec<Task>,
    /// Processes of other partitions.
    pub neighbours: BTreeSet<u32>,
    /// Interrupts of the host's devices that those CPUs took, by name.
    pub interrupts: BTreeMap<String, u64>,
    /// Siblings of those CPUs' cores that are not its own.
    pub siblings: CpuSet,
    /// Milliseconds in which those CPUs, or its pool's, were kept from this host by the one below it.
    pub steal_ms: u64,
    /// Its guest's memory; absent when it may not be looked at.
    pub memory: Option<Vec<Resident>>,
    /// What is open of its jail.
    pub jail: Vec<String>,
    /// Groups that it should be in and is not.
    pub outside: Vec<String>,
    /// Exits of its virtual processors by reason.
    pub exits: BTreeMap<String, u64>,
}

/// The figures of one partition, over the time of the audit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Threads of its process.
    pub threads: usize,
    /// Their processor time, milliseconds.
    pub ran_ms: f64,
    /// Switches that they did not ask for.
    pub involuntary: u64,
    /// Their page faults.
    pub faults: u64,
    /// Threads of others that may run where it should be alone, and could be moved away.
    pub strangers: usize,
    /// Processor time of those that were last seen there, milliseconds.
    pub strangers_ms: f64,
    /// Interrupts of the host's devices that its own CPUs took.
    pub interrupts: u64,
    /// Milliseconds in which its CPUs were kept from this host.
    pub steal_ms: u64,
    /// Its guest's memory by node and page size; empty when it could not be looked at.
    pub memory: Vec<Resident>,
    /// Exits of its virtual processors by reason.
    pub exits: BTreeMap<String, u64>,
}

/// The audit of one partition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartitionAudit {
    /// The partition.
    pub name: Name,
    /// The worst of its findings.
    pub verdict: Verdict,
    /// `dedicated` or `shared`.
    pub mode: String,
    /// CPUs that its virtual processors may use.
    pub cpus: CpuSet,
    /// What was found, the worst first.
    pub findings: Vec<Finding>,
    /// What was measured.
    pub figures: Figures,
}

/// The audit of a frame.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AuditReport {
    /// The frame.
    pub frame: Name,
    /// How long was looked, seconds.
    pub seconds: f64,
    /// The worst of all verdicts.
    pub verdict: Verdict,
    /// What concerns all partitions.
    pub host: Vec<Finding>,
    /// The active partitions, by name.
    pub partitions: Vec<PartitionAudit>,
}

impl AuditReport {
    /// The report of these partitions on a host of which this was found.
    #[must_use]
    pub fn new(frame: Name, seconds: f64, host: Vec<Finding>, partitions: Vec<PartitionAudit>) -> Self {
        let verdicts = partitions.iter().map(|one| one.verdict).chain(host.iter().map(|one| one.verdict));
        let verdict = verdicts.max().unwrap_or(Verdict::Holds);
        Self { frame, seconds, verdict, host, partitions }
    }
}

/// CPUs that are a partition's alone: none of one that shares a pool.
#[must_use]
pub fn alone(plan: &PartitionPlan) -> CpuSet {
    match plan.backing {
        Backing::Dedicated => plan.cpus.clone(),
        Backing::Shared { .. } => CpuSet::new(),
    }
}

/// Judges a partition by what was seen of it.
#[must_use]
pub fn judge(seen: &Seen) -> PartitionAudit {
    let plan = &seen.plan;
    let mut findings = vec![];
    let mut found = |verdict, what: String, remedy: &str| {
        findings.push(Finding { verdict, what, remedy: remedy.to_owned() });
    };
    let own = plan.processors.iter().fold(plan.cpus.union(&plan.io), |all, one| all.union(one));
    let astray: Vec<&Task> = seen.tasks.iter().filter(|task| !task.allowed.difference(&own).is_empty()).collect();
    if !astray.is_empty() {
        let what = format!("{} of its threads may run on CPUs that are not its own: {}", astray.len(), names(&astray));
        found(Verdict::Broken, what, "restart the partition; `lpar doctor` says why CPUs cannot be kept apart here");
    }
    let is_neighbour = |task: &&Task| seen.neighbours.contains(&task.pid);
    let neighbours: Vec<&Task> = seen.strangers.iter().filter(is_neighbour).collect();
    if !neighbours.is_empty() {
        let what = format!("threads of other partitions may run on its CPUs: {}", names(&neighbours));
        found(Verdict::Broken, what, "restart those partitions");
    }
    let alone = alone(plan);
    let ran = |task: &&Task| task.ran_ms > 0.0 && alone.contains(task.cpu);
    let others: Vec<&Task> = seen.strangers.iter().filter(|task| !is_neighbour(task)).collect();
    let running: Vec<&Task> = others.iter().copied().filter(ran).collect();
    if !running.is_empty() {
        let what = format!("{} tasks of the host ran on its CPUs: {}", running.len(), names(&running));
        found(
            Verdict::Broken,
            what,
            "move them away (taskset, cpusets), or boot the host with isolcpus= for these CPUs",
        );
    } else if !others.is_empty() {
        let what = format!("{} tasks of the host may run on its CPUs, and none did: {}", others.len(), names(&others));
        found(Verdict::Weak, what, "move them away (taskset, cpusets), or boot the host with isolcpus= for these CPUs");
    }
    if !seen.interrupts.is_empty() {
        let all: Vec<String> = seen.interrupts.iter().map(|(name, count)| format!("{name} {count} times")).collect();
        let what = format!("its CPUs took interrupts of the host's devices: {}", listed(&all));
        found(
            Verdict::Weak,
            what,
            "`lpar interrupts --host` says why they are there; those that the kernel keeps need isolcpus=managed_irq for these CPUs",
        );
    }
    if !seen.siblings.is_empty() {
        let what = format!("CPUs {} are of its cores, and not its own", seen.siblings);
        found(Verdict::Broken, what, "restart the partition: a plan gives whole cores");
    }
    if seen.steal_ms > 0 && !alone.is_empty() {
        let what = format!("its CPUs were kept from this host for {} ms: it is a guest itself", seen.steal_ms);
        found(Verdict::Weak, what, "give this host processors of its own on the machine below it");
    }
    memory(seen, &mut found);
    if !seen.jail.is_empty() {
        found(
            Verdict::Broken,
            format!("its jail is open: {}", listed(&seen.jail)),
            "restart the partition; `lpar doctor` says what the host lacks",
        );
    }
    if !seen.outside.is_empty() {
        found(
            Verdict::Broken,
            format!("its process is not in its group {}", listed(&seen.outside)),
            "restart the partition",
        );
    }
    findings.sort_by_key(|one| std::cmp::Reverse(one.verdict));
    PartitionAudit {
        name: plan.name.clone(),
        verdict: findings.iter().map(|one| one.verdict).max().unwrap_or(Verdict::Holds),
        mode: if alone.is_empty() { "shared" } else { "dedicated" }.to_owned(),
        cpus: plan.cpus.clone(),
        figures: Figures {
            threads: seen.tasks.len(),
            ran_ms: milliseconds(seen.tasks.iter()),
            involuntary: seen.tasks.iter().map(|task| task.involuntary).sum(),
            faults: seen.tasks.iter().map(|task| task.faults).sum(),
            strangers: seen.strangers.len(),
            strangers_ms: milliseconds(seen.strangers.iter().filter(ran)),
            interrupts: seen.interrupts.values().sum(),
            steal_ms: seen.steal_ms,
            memory: seen.memory.clone().unwrap_or_default(),
            exits: seen.exits.clone(),
        },
        findings,
    }
}

/// Processor time of all; a sum of nothing by itself would be below zero.
fn milliseconds<'a>(tasks: impl Iterator<Item = &'a Task>) -> f64 {
    tasks.fold(0.0, |sum, task| sum + task.ran_ms)
}

/// Whether the memory that is there is where, and in pages of which, it was planned.
fn memory(seen: &Seen, found: &mut impl FnMut(Verdict, String, &str)) {
    let Some(resident) = &seen.memory else {
        let remedy = "run the audit as the user of the frame, or as root";
        return found(Verdict::Weak, "its memory cannot be looked at".to_owned(), remedy);
    };
    let planned = |one: &&Resident| seen.plan.memory.iter().any(|extent| extent.node == one.node);
    let elsewhere: u64 = resident.iter().filter(|one| !planned(one)).map(|one| one.bytes).sum();
    if elsewhere > 0 {
        let what = format!("{elsewhere} bytes of its memory are on nodes that it has none of");
        found(Verdict::Broken, what, "restart the partition");
    }
    let suits =
        |one: &&Resident| seen.plan.memory.iter().any(|extent| extent.node == one.node && extent.pages <= one.page);
    let small: u64 = resident.iter().filter(planned).filter(|one| !suits(one)).map(|one| one.bytes).sum();
    if small > 0 {
        let what = format!("{small} bytes of its memory are in smaller pages than planned");
        found(Verdict::Broken, what, "restart the partition");
    }
}

fn names(tasks: &[&Task]) -> String {
    let all: Vec<String> = tasks.iter().map(|task| format!("{} ({})", task.name, task.tid)).collect();
    listed(&all)
}

/// The first of them, and how many more there are.
fn listed(all: &[String]) -> String {
    let more = all.len().saturating_sub(NAMED);
    let first = all.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    if more == 0 { first } else { format!("{first} and {more} more") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Extent;
    use crate::units::Units;

    const MIB: u64 = 1 << 20;

    fn set(text: &str) -> CpuSet {
        CpuSet::parse(text).unwrap()
    }

    fn task(tid: u32, allowed: &str) -> Task {
        Task { pid: tid, tid, name: "t".into(), allowed: set(allowed), cpu: 2, ..Task::default() }
    }

    /// A dedicated partition on CPUs 2 and 3, all as it should be.
    fn seen() -> Seen {
        let plan = PartitionPlan {
            name: Name::new("a").unwrap(),
            id: 1,
            cpus: set("2-3"),
            processors: vec![set("2"), set("3")],
            io: set("2-3"),
            backing: Backing::Dedicated,
            memory: vec![Extent { node: 1, blocks: 8, pages: 2 * MIB }],
            base: 16 * MIB,
            score: 100,
        };
        Seen {
            plan,
            tasks: vec![task(10, "2"), task(11, "2-3")],
            strangers: vec![],
            neighbours: BTreeSet::from([99]),
            interrupts: BTreeMap::new(),
            siblings: CpuSet::new(),
            steal_ms: 0,
            memory: Some(vec![Resident { node: 1, page: 2 * MIB, bytes: 16 * MIB }]),
            jail: vec![],
            outside: vec![],
            exits: BTreeMap::new(),
        }
    }

    #[test]
    fn what_is_as_it_was_divided_holds() {
        let audit = judge(&seen());
        assert_eq!((audit.verdict, audit.findings.len(), audit.mode.as_str()), (Verdict::Holds, 0, "dedicated"));
        assert_eq!((audit.figures.threads, audit.figures.memory.len()), (2, 1));
    }

    #[test]
    fn each_breach_is_named_alone() {
        type Breach = fn(&mut Seen);
        let breaches: [(Breach, Verdict, &str); 13] = [
            (|seen| seen.tasks[0].allowed = set("0-3"), Verdict::Broken, "not its own: t (10)"),
            (|seen| seen.strangers.push(task(99, "0-3")), Verdict::Broken, "other partitions may run"),
            (|seen| seen.strangers.push(task(7, "0-3")), Verdict::Weak, "and none did: t (7)"),
            (|seen| seen.strangers.push(Task { ran_ms: 0.1, ..task(7, "0-3") }), Verdict::Broken, "ran on its CPUs"),
            (|seen| seen.strangers.push(Task { ran_ms: 9.0, cpu: 0, ..task(7, "0-3") }), Verdict::Weak, "none did"),
            (|seen| seen.interrupts.extend([("36 disk".into(), 4)]), Verdict::Weak, "36 disk 4 times"),
            (|seen| seen.siblings = set("5"), Verdict::Broken, "CPUs 5 are of its cores"),
            (|seen| seen.steal_ms = 3, Verdict::Weak, "3 ms"),
            (|seen| seen.memory = None, Verdict::Weak, "cannot be looked at"),
            (
                |seen| seen.memory.as_mut().unwrap()[0].node = 0,
                Verdict::Broken,
                "16777216 bytes of its memory are on nodes",
            ),
            (|seen| seen.memory.as_mut().unwrap()[0].page = 4096, Verdict::Broken, "smaller pages"),
            (
                |seen| seen.jail.push("it has capabilities".into()),
                Verdict::Broken,
                "its jail is open: it has capabilities",
            ),
            (|seen| seen.outside.push("/g".into()), Verdict::Broken, "not in its group /g"),
        ];
        for (breach, verdict, text) in breaches {
            let mut seen = seen();
            breach(&mut seen);
            let audit = judge(&seen);
            assert_eq!(audit.findings.len(), 1, "{text}: {:?}", audit.findings);
            assert_eq!(audit.verdict, verdict, "{text}");
            assert!(audit.findings[0].what.contains(text), "{:?}", audit.findings);
            assert!(!audit.findings[0].remedy.is_empty());
        }
    }

    #[test]
    fn the_worst_comes_first_and_is_the_verdict_and_long_lists_are_cut() {
        let mut seen = seen();
        seen.steal_ms = 1;
        seen.strangers = (0..9).map(|tid| Task { ran_ms: 1.0, ..task(tid, "2") }).collect();
        let audit = judge(&seen);
        assert_eq!(
            (audit.verdict, audit.findings[0].verdict, audit.findings[1].verdict),
            (Verdict::Broken, Verdict::Broken, Verdict::Weak)
        );
        assert!(audit.findings[0].what.ends_with("t (4) and 4 more"), "{:?}", audit.findings);
        assert_eq!((audit.figures.strangers, audit.figures.strangers_ms), (9, 9.0));
        let report = AuditReport::new(Name::new("f").unwrap(), 1.0, vec![], vec![audit]);
        assert_eq!(report.verdict, Verdict::Broken);
    }

    #[test]
    fn a_pool_is_nobodys_alone() {
        let mut seen = seen();
        seen.plan.backing = Backing::Shared {
            pool: Name::new("p").unwrap(),
            units: Units::whole(1),
            sharing: crate::declare::Sharing::Capped,
        };
        seen.steal_ms = 5;
        let audit = judge(&seen);
        assert_eq!((audit.verdict, audit.mode.as_str(), audit.figures.steal_ms), (Verdict::Holds, "shared", 5));
        assert!(alone(&seen.plan).is_empty());
    }
}
