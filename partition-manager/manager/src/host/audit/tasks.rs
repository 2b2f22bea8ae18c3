//! The tasks of the host: where each may run, where it ran, how long (proc(5)).

use frame::audit::Task;
use frame::cpuset::CpuSet;
use std::collections::BTreeMap;
use std::fs::{read_dir, read_to_string};
use std::path::Path;

/// Flag of a task: it is bound to its CPU and cannot be moved (Linux, include/linux/sched.h: `PF_NO_SETAFFINITY`).
const BOUND: u64 = 0x0400_0000;

/// One task, and what its counts were.
#[derive(Clone, Debug, PartialEq)]
struct Found {
    task: Task,
    /// When it began, ticks since boot: a number alone is taken again.
    begun: u64,
    bound: bool,
}

/// All tasks, with their counts since they began or over a time.
#[derive(Debug, Default)]
pub struct Tasks(BTreeMap<u32, Found>);

impl Tasks {
    /// The tasks that are there now.
    pub fn now() -> Self {
        let mut tasks = BTreeMap::new();
        for process in read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            for task in read_dir(process.path().join("task")).into_iter().flatten().flatten() {
                // One that ended meanwhile is none.
                if let Some(found) = look(pid, &task.path()) {
                    tasks.insert(found.task.tid, found);
                }
            }
        }
        Self(tasks)
    }

    /// The same tasks with what they did since `before`; one that has begun since then did all of it.
    pub fn since(mut self, before: &Self) -> Self {
        for (tid, found) in &mut self.0 {
            let Some(earlier) = before.0.get(tid).filter(|earlier| earlier.begun == found.begun) else { continue };
            found.task.ran_ms = (found.task.ran_ms - earlier.task.ran_ms).max(0.0);
            found.task.involuntary = found.task.involuntary.saturating_sub(earlier.task.involuntary);
            found.task.faults = found.task.faults.saturating_sub(earlier.task.faults);
        }
        self
    }

    /// The threads of process `pid`.
    pub fn of(&self, pid: u32) -> Vec<Task> {
        self.0.values().filter(|found| found.task.pid == pid).map(|found| found.task.clone()).collect()
    }

    /// Threads of other processes than `pid` that may run on one of `cpus` and could be moved away.
    pub fn strangers(&self, pid: u32, cpus: &CpuSet) -> Vec<Task> {
        if cpus.is_empty() {
            return vec![];
        }
        // The one that looks is gone with the audit.
        let own = std::process::id();
        let is_one = |found: &&Found| {
            let Found { task, bound, .. } = found;
            !bound && task.pid != pid && task.pid != own && !task.allowed.intersection(cpus).is_empty()
        };
        self.0.values().filter(is_one).map(|found| found.task.clone()).collect()
    }
}

fn look(pid: u32, directory: &Path) -> Option<Found> {
    let tid = directory.file_name()?.to_str()?.parse().ok()?;
    let read = |file: &str| read_to_string(directory.join(file)).ok();
    parse(pid, tid, &read("stat")?, &read("status")?, &read("schedstat").unwrap_or_default())
}

fn parse(pid: u32, tid: u32, stat: &str, status: &str, schedstat: &str) -> Option<Found> {
    // The name may hold blanks and brackets; what comes behind its last bracket begins with field 3.
    let (before, rest) = stat.rsplit_once(')')?;
    let name = before.split_once('(')?.1.to_owned();
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number.checked_sub(3)?)?.parse::<u64>().ok();
    let line = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
    let ran = schedstat.split_ascii_whitespace().next().and_then(|text| text.parse::<u64>().ok());
    let task = Task {
        pid,
        tid,
        name,
        allowed: CpuSet::parse(line("Cpus_allowed_list:")?).ok()?,
        cpu: u32::try_from(field(39)?).ok()?,
        ran_ms: ran.unwrap_or(0) as f64 / 1e6,
        involuntary: line("nonvoluntary_ctxt_switches:").and_then(|text| text.parse().ok()).unwrap_or(0),
        faults: field(10)?.saturating_add(field(12)?),
    };
    Some(Found { task, begun: field(22)?, bound: field(9)? & BOUND != 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(flags: u64, faults: u64, begun: u64, cpu: u32) -> String {
        format!(
            "7 (a b) c) S 1 7 7 0 -1 {flags} {faults} 0 2 0 5 6 0 0 20 0 1 0 {begun} 100 50 1 2 3 4 5 6 0 0 0 0 0 0 0 17 {cpu} 0 0"
        )
    }

    const STATUS: &str = "Name:\tx\nCpus_allowed_list:\t0,2-3\nnonvoluntary_ctxt_switches:\t9\n";

    #[test]
    fn a_task_is_read_whatever_its_name() {
        let found = parse(5, 7, &stat(0, 40, 1234, 3), STATUS, "2500000 77 8\n").unwrap();
        let Task { pid, tid, name, allowed, cpu, ran_ms, involuntary, faults } = found.task;
        assert_eq!((pid, tid, name.as_str(), cpu), (5, 7, "a b) c", 3));
        assert_eq!((allowed.to_string().as_str(), ran_ms, involuntary, faults), ("0,2-3", 2.5, 9, 42));
        assert_eq!((found.begun, found.bound), (1234, false));
        assert!(parse(5, 7, &stat(BOUND | 0x0020_0000, 0, 1, 0), STATUS, "").unwrap().bound);
        assert_eq!(parse(5, 7, "7 (x) S", STATUS, ""), None);
        assert_eq!(parse(5, 7, &stat(0, 0, 1, 0), "Name: x", ""), None);
    }

    #[test]
    fn counts_are_over_the_time_and_a_number_that_was_taken_again_is_another() {
        let all = |faults, begun, ran: &str| {
            let found = parse(5, 7, &stat(0, faults, begun, 3), STATUS, ran).unwrap();
            Tasks([(7, found)].into())
        };
        let before = all(40, 1, "1000000 0 0");
        let same = all(50, 1, "4000000 0 0").since(&before);
        assert_eq!((same.of(5)[0].faults, same.of(5)[0].ran_ms), (10, 3.0));
        let other = all(50, 2, "4000000 0 0").since(&before);
        assert_eq!((other.of(5)[0].faults, other.of(5)[0].ran_ms), (52, 4.0));
        let cpus = |text| CpuSet::parse(text).unwrap();
        assert_eq!((same.strangers(6, &cpus("3")).len(), same.strangers(6, &cpus("1")).len()), (1, 0));
        assert_eq!((same.strangers(5, &cpus("3")).len(), same.strangers(6, &CpuSet::new()).len()), (0, 0));
    }

    #[test]
    fn this_process_is_found() {
        let tasks = Tasks::now();
        assert!(!tasks.of(std::process::id()).is_empty());
    }
}
