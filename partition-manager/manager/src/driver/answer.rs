//! Answers: what partitions are, and who waits for what they become.

use super::Driver;
use super::entry::{Entry, Process};
use crate::journal::Kept;
use crate::message::{Refusal, Reply};
use crate::{clock, host};
use frame::api::{
    FrameStatus, PartitionDetail, PartitionRow, PartitionStat, ProcessorStat, Resource, ShutdownRequest, WaitAnswer,
};
use frame::declare::{IoProcessors, Partition, ProcessorMode};
use frame::lifecycle::{Answer, Input};
use frame::name::Name;
use frame::plan::Backing;
use frame::state::State;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Longest wait for a state, milliseconds.
const LONGEST_WAIT_MS: u64 = 24 * 60 * 60 * 1000;

/// Somebody who waits for something.
#[derive(Debug)]
pub struct Waiter {
    name: Name,
    what: What,
}

#[derive(Debug)]
enum What {
    Activate(Reply<PartitionRow>),
    Shutdown { restart: bool, reply: Reply<PartitionRow> },
    State { state: State, until: u64, reply: Reply<WaitAnswer> },
}

impl Waiter {
    /// When the wait is over in any case.
    pub fn deadline(&self) -> Option<u64> {
        match &self.what {
            What::State { until, .. } => Some(*until),
            What::Activate(_) | What::Shutdown { .. } => None,
        }
    }

    fn is_abandoned(&self) -> bool {
        match &self.what {
            What::Activate(reply) | What::Shutdown { reply, .. } => reply.is_closed(),
            What::State { reply, .. } => reply.is_closed(),
        }
    }

    fn refuse(self, refusal: Refusal) {
        // Whoever asked may be gone, here and below.
        match self.what {
            What::Activate(reply) | What::Shutdown { reply, .. } => drop(reply.send(Err(refusal))),
            What::State { reply, .. } => drop(reply.send(Err(refusal))),
        }
    }

    /// What this waiter is told when the partition is told `answer`; none when it waits on.
    fn outcome(&self, answer: &Answer) -> Option<Result<(), Refusal>> {
        let name = &self.name;
        let failed = |reason: &String| Some(Err(Refusal::failed(format!("partition {name} failed: {reason}"))));
        match (&self.what, answer) {
            (What::State { .. }, _) => None,
            (What::Activate(_), Answer::Active) => Some(Ok(())),
            (What::Activate(_), Answer::Inactive) => {
                Some(Err(Refusal::failed(format!("partition {name} ended before it ran"))))
            }
            (What::Activate(_), Answer::Failed(reason)) => {
                Some(Err(Refusal::failed(format!("partition {name} could not be activated: {reason}"))))
            }
            (What::Activate(_), Answer::Denied) => None,
            (What::Shutdown { restart, .. }, Answer::Active) => restart.then_some(Ok(())),
            (What::Shutdown { .. }, Answer::Inactive) => Some(Ok(())),
            (What::Shutdown { .. }, Answer::Failed(reason)) => failed(reason),
            (What::Shutdown { .. }, Answer::Denied) => Some(Err(Refusal::conflict(format!(
                "the guest of partition {name} objects to its shutdown and keeps running; settle it inside the guest, or use `lpar shutdown {name} --immediate`"
            )))),
        }
    }
}

impl Driver {
    pub(super) fn activate(&mut self, name: Name, reply: Reply<PartitionRow>) {
        let waiter = Waiter { name: name.clone(), what: What::Activate(reply) };
        let Some(entry) = self.entries.get(&name) else { return waiter.refuse(Refusal::unknown(&name)) };
        if self.down.is_some() {
            return waiter.refuse(Refusal::conflict("the frame is being brought down"));
        }
        if entry.declared.is_none() && !entry.kept.lifecycle.is_active() {
            return waiter.refuse(Refusal::conflict(format!("partition {name} is no longer declared")));
        }
        self.waiters.push(waiter);
        self.apply(&name, Input::Activate);
    }

    pub(super) fn shutdown(&mut self, name: Name, request: ShutdownRequest, reply: Reply<PartitionRow>) {
        let what = What::Shutdown { restart: request.restart, reply };
        let waiter = Waiter { name: name.clone(), what };
        if !self.entries.contains_key(&name) {
            return waiter.refuse(Refusal::unknown(&name));
        }
        self.waiters.push(waiter);
        self.apply(&name, Input::Shutdown { request, down: self.down.is_some() });
    }

    pub(super) fn wait(&mut self, name: Name, state: State, timeout_ms: u64, reply: Reply<WaitAnswer>) {
        let until = clock::now().saturating_add(timeout_ms.min(LONGEST_WAIT_MS));
        let waiter = Waiter { name: name.clone(), what: What::State { state, until, reply } };
        if !self.entries.contains_key(&name) {
            return waiter.refuse(Refusal::unknown(&name));
        }
        self.waiters.push(waiter);
        self.look_at_waiters(&name);
    }

    /// Refuses the request that was just made about a partition.
    pub(super) fn refuse(&mut self, name: &Name, reason: &str) {
        let last = self.waiters.iter().rposition(|waiter| waiter.name == *name && waiter.deadline().is_none());
        if let Some(index) = last {
            self.waiters.remove(index).refuse(Refusal::conflict(reason));
        }
    }

    /// Refuses those who wait for something of a partition that is no more.
    pub(super) fn dismiss_waiters(&mut self, name: &Name) {
        let (told, rest): (Vec<Waiter>, _) =
            std::mem::take(&mut self.waiters).into_iter().partition(|waiter| waiter.name == *name);
        self.waiters = rest;
        told.into_iter().for_each(|waiter| waiter.refuse(Refusal::unknown(name)));
    }

    /// Answers those who wait for an activation or a shutdown.
    pub(super) fn answer(&mut self, name: &Name, answer: &Answer) {
        let Some(row) = self.entries.get(name).map(row) else { return };
        let (told, rest) = std::mem::take(&mut self.waiters)
            .into_iter()
            .partition(|waiter| waiter.name == *name && waiter.outcome(answer).is_some());
        self.waiters = rest;
        for waiter in told {
            let Some(outcome) = waiter.outcome(answer) else { continue };
            match (waiter.what, outcome) {
                (What::Activate(reply) | What::Shutdown { reply, .. }, outcome) => {
                    drop(reply.send(outcome.map(|()| row.clone())));
                }
                (What::State { .. }, _) => {}
            }
        }
    }

    /// Answers those who wait for the state that a partition has now.
    pub(super) fn look_at_waiters(&mut self, name: &Name) {
        let Some(row) = self.entries.get(name).map(row) else { return };
        let reached = |waiter: &Waiter| {
            waiter.name == *name && matches!(&waiter.what, What::State { state, .. } if *state == row.state)
        };
        let (told, rest) = std::mem::take(&mut self.waiters).into_iter().partition(reached);
        self.waiters = rest;
        tell(told, true, &row);
    }

    /// Answers those whose time is over, and forgets those who are gone.
    pub(super) fn expire_waiters(&mut self, now: u64) {
        self.waiters.retain(|waiter| !waiter.is_abandoned());
        let (told, rest): (Vec<Waiter>, _) = std::mem::take(&mut self.waiters)
            .into_iter()
            .partition(|waiter| waiter.deadline().is_some_and(|until| until <= now));
        self.waiters = rest;
        for waiter in told {
            if let Some(row) = self.entries.get(&waiter.name).map(row) {
                tell(vec![waiter], false, &row);
            }
        }
    }

    pub(super) fn status(&self) -> FrameStatus {
        FrameStatus {
            name: self.settings.frame.name.clone(),
            epoch: self.epoch,
            pid: std::process::id(),
            lacks: self.lacks.clone(),
            outbox: self.journal.waiting().unwrap_or(0),
            going_down: self.down.is_some(),
        }
    }

    pub(super) fn detail(&self, entry: &Entry) -> PartitionDetail {
        let block = self.settings.frame.memory_block;
        let cgroup = match &entry.process {
            Some(_) => {
                self.groups.of(&entry.kept.declared.name).iter().map(|path| path.display().to_string()).collect()
            }
            None => vec![],
        };
        let resources = resources(entry.declaration(), &entry.kept, block);
        let jail = entry.process.as_ref().and_then(|process| host::jail::report(process.identity.pid));
        PartitionDetail { row: row(entry), resources, cgroup, jail }
    }
}

fn tell(waiters: Vec<Waiter>, reached: bool, row: &PartitionRow) {
    for waiter in waiters {
        if let What::State { reply, .. } = waiter.what {
            drop(reply.send(Ok(WaitAnswer { reached, partition: row.clone() })));
        }
    }
}

/// The row of one partition.
pub fn row(entry: &Entry) -> PartitionRow {
    let declared = entry.declaration();
    let lifecycle = &entry.kept.lifecycle;
    let plan = entry.kept.plan.as_ref();
    let desired = match &declared.processors.mode {
        ProcessorMode::Dedicated { .. } => f64::from(declared.processors.count.desired),
        ProcessorMode::Shared { units, .. } => units.desired.as_f64(),
    };
    let assigned = entry.process.as_ref().and_then(|process| process.spec.as_ref()).map(|spec| spec.memory_bytes());
    PartitionRow {
        name: declared.name.clone(),
        id: plan.map_or(declared.id, |plan| plan.id),
        state: lifecycle.state(),
        reason: lifecycle.reason().to_owned(),
        processors: plan
            .and_then(|plan| u32::try_from(plan.processors.len()).ok())
            .unwrap_or(declared.processors.count.desired),
        units: plan.map_or(desired, |plan| plan.units().as_f64()),
        memory: assigned.unwrap_or(declared.memory.size.desired),
        mode: mode(plan.map_or(&declared.processors.mode, |_| &entry.kept.declared.processors.mode)).to_owned(),
        cpus: plan.map_or_else(String::new, |plan| plan.cpus.to_string()),
        availability_priority: declared.availability_priority,
        pid: entry.process.as_ref().map(|process| process.identity.pid),
        incarnation: entry.kept.incarnation,
        uptime: entry.kept.started.map(|started| clock::now().saturating_sub(started) as f64 / 1000.0),
        exit_status: lifecycle.exit_status(),
    }
}

const fn mode(mode: &ProcessorMode) -> &'static str {
    match mode {
        ProcessorMode::Dedicated { .. } => "dedicated",
        ProcessorMode::Shared { .. } => "shared",
    }
}

/// Each resource with its three values. What is pending is what was desired: a plan may give less.
fn resources(declared: &Partition, kept: &Kept, block: u64) -> BTreeMap<String, Resource> {
    let plan = kept.plan.as_ref();
    let of = |declared: Value, assigned: Option<Value>, pending: Value| Resource {
        declared,
        assigned: assigned.unwrap_or(Value::Null),
        pending,
    };
    let mut all = BTreeMap::new();
    let count = &declared.processors.count;
    let processors = of(json!(count), plan.map(|plan| json!(plan.processors.len())), json!(count.desired));
    all.insert("processors".to_owned(), processors);
    let size = &declared.memory.size;
    let memory = of(json!(size), plan.map(|plan| json!(plan.memory_bytes(block))), json!(size.desired));
    all.insert("memory".to_owned(), memory);
    match &declared.processors.mode {
        ProcessorMode::Shared { pool, units, sharing } => {
            let assigned = plan.map(|plan| json!(plan.units()));
            all.insert("units".to_owned(), of(json!(units), assigned, json!(units.desired)));
            let now = plan.and_then(|plan| match &plan.backing {
                Backing::Shared { pool, .. } => Some(json!(pool)),
                Backing::Dedicated => None,
            });
            all.insert("pool".to_owned(), of(json!(pool), now, json!(pool)));
            let now = plan.and_then(|plan| match &plan.backing {
                Backing::Shared { sharing, .. } => Some(json!(sharing)),
                Backing::Dedicated => None,
            });
            all.insert("sharing".to_owned(), of(json!(sharing), now, json!(sharing)));
        }
        ProcessorMode::Dedicated { io } => {
            let declared = match io {
                IoProcessors::Own => json!("own"),
                IoProcessors::Pool(pool) => json!(format!("pool:{pool}")),
            };
            let now = plan.map(|plan| json!(plan.io.to_string()));
            all.insert("io".to_owned(), of(declared.clone(), now, declared));
        }
    }
    let cpus = plan.map(|plan| json!(plan.cpus.to_string()));
    all.insert("cpus".to_owned(), of(Value::Null, cpus, Value::Null));
    let extents = plan.map(|plan| json!(plan.memory));
    all.insert("extents".to_owned(), of(Value::Null, extents, Value::Null));
    let boot = json!(declared.boot);
    all.insert("boot".to_owned(), of(boot.clone(), plan.map(|_| json!(kept.declared.boot)), boot));
    all
}

/// Figures of one partition.
pub fn stat(entry: &Entry) -> PartitionStat {
    let exits = entry.record.as_ref().and_then(|record| record.exits(entry.processors).ok()).unwrap_or_default();
    let spent = entry.record.as_ref().and_then(|record| record.exit_times(entry.processors).ok()).unwrap_or_default();
    let times = entry.process.as_ref().map(|process| cpu_times(process.identity.pid)).unwrap_or_default();
    let processors = exits
        .into_iter()
        .zip(spent)
        .zip(0u32..)
        .map(|((exits, exit_time), processor)| {
            let cpu_time = times.get(&processor).copied();
            ProcessorStat { processor, exits, exit_time, cpu_time }
        })
        .collect();
    PartitionStat {
        name: entry.kept.declared.name.clone(),
        processors,
        console_bytes: entry.record.as_ref().and_then(|record| record.console_total().ok()).unwrap_or(0),
        resident: entry.process.as_ref().and_then(resident),
    }
}

/// Memory of a partition that has pages, bytes.
fn resident(process: &Process) -> Option<u64> {
    // `st_blocks` counts 512 bytes each, whatever the page size.
    let bytes = |memory| Some(u64::try_from(rustix::fs::fstat(memory).ok()?.st_blocks).ok()?.saturating_mul(512));
    let all: Option<Vec<u64>> = process.memory.iter().map(bytes).collect();
    all.filter(|all| !all.is_empty()).map(|all| all.into_iter().fold(0, u64::saturating_add))
}

/// Most threads of a partition that are looked at.
const MOST_THREADS: usize = 256;

/// Processor time of each virtual processor, nanoseconds, by the names of a partition's threads (`vcpuN`).
fn cpu_times(pid: u32) -> BTreeMap<u32, u64> {
    let mut times = BTreeMap::new();
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    for task in tasks.take(MOST_THREADS) {
        let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        let Some(number) = name.trim().strip_prefix("vcpu").and_then(|number| number.parse().ok()) else { continue };
        let text = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        if let Some(time) = text.split_ascii_whitespace().next().and_then(|time| time.parse().ok()) {
            times.insert(number, time);
        }
    }
    times
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    fn waiter(what: impl Fn(Reply<PartitionRow>) -> What) -> Waiter {
        let (reply, _) = oneshot::channel();
        Waiter { name: Name::new("a").unwrap(), what: what(reply) }
    }

    #[test]
    fn waiters_are_told_what_they_asked_about() {
        let activate = waiter(What::Activate);
        let stop = waiter(|reply| What::Shutdown { restart: false, reply });
        let restart = waiter(|reply| What::Shutdown { restart: true, reply });
        let failed = Answer::Failed("no kernel".into());
        assert_eq!(activate.outcome(&Answer::Active), Some(Ok(())));
        assert_eq!(stop.outcome(&Answer::Active), None);
        assert_eq!(restart.outcome(&Answer::Active), Some(Ok(())));
        assert_eq!(stop.outcome(&Answer::Inactive), Some(Ok(())));
        assert_eq!(activate.outcome(&Answer::Denied), None);
        assert_eq!(stop.outcome(&Answer::Denied).unwrap().unwrap_err().status, 409);
        let refusal = activate.outcome(&failed).unwrap().unwrap_err();
        assert!(refusal.status == 500 && refusal.message.contains("no kernel"));
        assert!(activate.is_abandoned());
    }

    #[test]
    fn only_virtual_processors_have_times() {
        assert!(cpu_times(std::process::id()).is_empty());
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let (ready, started) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().name("vcpu3".into()).spawn(move || {
            ready.send(()).unwrap();
            let _ = wait.recv();
        });
        started.recv().unwrap();
        let times = cpu_times(std::process::id());
        assert_eq!(times.keys().copied().collect::<Vec<_>>(), [3]);
        drop(go);
        thread.unwrap().join().unwrap();
    }
}
