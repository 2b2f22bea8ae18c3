//! Looks whether the host is as the manager divided it, for a while, and believes only the kernel.

mod counters;
mod memory;
mod tasks;

use super::{inventory, jail};
use crate::cgroup::group;
use crate::clock;
use anyhow::Context;
use counters::Counters;
use frame::api::{
    ASSIGNMENT, FrameAssignment, HOST_INTERRUPTS, PARTITIONS, PartitionDetail, PartitionRow, PartitionStat,
};
use frame::audit::{AuditReport, Finding, Seen, Verdict, alone, judge};
use frame::cpuset::CpuSet;
use frame::inventory::Inventory;
use frame::jail::Inmate;
use frame::name::Name;
use frame::plan::PartitionPlan;
use frame::root::Root;
use frame::steer::HostInterruptRow;
use os::http::Client;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;
use tasks::Tasks;

/// How long an answer of the manager may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// An active partition, and how it was at the beginning.
struct Subject {
    plan: PartitionPlan,
    pid: u32,
    groups: Vec<String>,
    exits: BTreeMap<String, u64>,
}

/// Audits the frame that runs at `root` over `time`.
///
/// # Errors
/// When its manager does not answer, or the host does not say what it has.
pub fn audit(root: &Root, time: Duration) -> anyhow::Result<AuditReport> {
    let manager = Client::new(&root.manager_socket(), PATIENCE);
    let FrameAssignment { frame, mut assignment } = manager.get(ASSIGNMENT).context("the partition manager")?;
    let rows: Vec<PartitionRow> = manager.get(PARTITIONS).context("the partition manager")?;
    let mut subjects = vec![];
    for row in rows {
        let (Some(pid), Some(plan)) = (row.pid, assignment.partitions.remove(&row.name)) else { continue };
        let detail: PartitionDetail = manager.get(&format!("{PARTITIONS}/{}", row.name))?;
        let exits = exits(&manager, &row)?;
        subjects.push((row, Subject { plan, pid, groups: detail.cgroup, exits }));
    }
    let steered: Vec<HostInterruptRow> = manager.get(HOST_INTERRUPTS).context("the partition manager")?;
    let inventory = inventory::here()?;
    let (tasks, counters, begin) = (Tasks::now(), Counters::now(), clock::now());
    std::thread::sleep(time);
    let (tasks, counters) = (Tasks::now().since(&tasks), Counters::now().since(&counters));
    let milliseconds = clock::now().saturating_sub(begin);
    let tag = group::tag(&frame, &root.run);
    let is_jailed = jail::available().is_ok();
    let pids: BTreeSet<u32> = subjects.iter().map(|(_, subject)| subject.pid).collect();
    let mut partitions = vec![];
    for (row, subject) in subjects {
        // One that ended meanwhile is not audited.
        let Ok(after) = exits(&manager, &row) else { continue };
        let inmate = is_jailed.then(|| Inmate::new(&tag, subject.plan.id));
        let Some(jail) = jail::report(subject.pid).map(|report| report.gaps(inmate)) else { continue };
        let exits = after.into_iter().map(|(reason, count)| {
            let before = subject.exits.get(&reason).copied().unwrap_or(0);
            (reason, count.saturating_sub(before))
        });
        let own = alone(&subject.plan);
        let looked_at = if own.is_empty() { &subject.plan.cpus } else { &own };
        partitions.push(judge(&Seen {
            tasks: tasks.of(subject.pid),
            strangers: tasks.strangers(subject.pid, &own),
            neighbours: pids.iter().copied().filter(|pid| *pid != subject.pid).collect(),
            interrupts: counters.interrupts(&own, &of(&steered, &row.name)),
            siblings: siblings(&inventory, &own),
            steal_ms: counters.steal_ms(looked_at),
            memory: memory::resident(subject.pid),
            jail,
            outside: subject.groups.into_iter().filter(|group| !is_in(Path::new(group), subject.pid)).collect(),
            exits: exits.filter(|(_, count)| *count > 0).collect(),
            plan: subject.plan,
        }));
    }
    Ok(AuditReport::new(frame, milliseconds as f64 / 1e3, host(Path::new("/sys")), partitions))
}

/// The interrupts of devices that are dedicated to a partition.
fn of(steered: &[HostInterruptRow], partition: &Name) -> BTreeSet<u32> {
    let own = steered.iter().filter(|row| row.partition.as_ref() == Some(partition));
    own.map(|row| row.interrupt).collect()
}

/// Exits of all virtual processors of a partition, by reason.
fn exits(manager: &Client, row: &PartitionRow) -> anyhow::Result<BTreeMap<String, u64>> {
    let stat: PartitionStat = manager.get(&format!("{PARTITIONS}/{}/stat", row.name))?;
    let mut exits = BTreeMap::new();
    for (reason, count) in stat.processors.into_iter().flat_map(|one| one.exits) {
        *exits.entry(reason).or_default() += count;
    }
    Ok(exits)
}

/// The CPUs that are of the same cores as `own`, and not among them.
fn siblings(inventory: &Inventory, own: &CpuSet) -> CpuSet {
    let core = |cpu: &frame::inventory::Cpu| (cpu.package, cpu.core);
    let cores: BTreeSet<_> = inventory.cpus.iter().filter(|cpu| own.contains(cpu.id)).map(core).collect();
    let mut siblings = CpuSet::new();
    for cpu in inventory.cpus.iter().filter(|cpu| cores.contains(&core(cpu)) && !own.contains(cpu.id)) {
        siblings.insert(cpu.id);
    }
    siblings
}

fn is_in(group: &Path, pid: u32) -> bool {
    let members = std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    members.lines().any(|line| line.trim().parse() == Ok(pid))
}

/// What of the host weakens the walls between all partitions.
fn host(sysfs: &Path) -> Vec<Finding> {
    let mut findings = vec![];
    let weak = |what: String, remedy: &str| Finding { verdict: Verdict::Weak, what, remedy: remedy.to_owned() };
    let merges = std::fs::read_to_string(sysfs.join("kernel/mm/ksm/run"));
    if merges.is_ok_and(|run| run.trim() == "1") {
        let what = "the host merges equal pages (KSM): who shares one can be told by the time of a write".to_owned();
        findings.push(weak(what, "echo 2 >/sys/kernel/mm/ksm/run"));
    }
    let holes = std::fs::read_dir(sysfs.join("devices/system/cpu/vulnerabilities")).into_iter().flatten().flatten();
    let is_open = |entry: &std::fs::DirEntry| {
        std::fs::read_to_string(entry.path()).is_ok_and(|text| text.starts_with("Vulnerable"))
    };
    let mut open: Vec<String> =
        holes.filter(is_open).map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    open.sort();
    if !open.is_empty() {
        let what = format!("the processors are vulnerable, and nothing is done about it: {}", open.join(", "));
        findings.push(weak(what, "update microcode and kernel, and boot without mitigations=off"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_merges_or_is_vulnerable_is_weak() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(host(directory.path()), []);
        let put = |file: &str, text: &str| {
            let path = directory.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        put("kernel/mm/ksm/run", "1\n");
        put("devices/system/cpu/vulnerabilities/mds", "Vulnerable: no microcode\n");
        put("devices/system/cpu/vulnerabilities/l1tf", "Mitigation: PTE Inversion\n");
        let found = host(directory.path());
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[1].what.ends_with(": mds"), "{found:?}");
        put("kernel/mm/ksm/run", "0\n");
        assert_eq!(host(directory.path()).len(), 1);
    }
}
