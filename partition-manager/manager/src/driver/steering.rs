//! Work of the host that belongs to no task is kept off the CPUs that are partitions' alone, but for the interrupts of
//! devices that are dedicated to them.

use super::Driver;
use crate::clock;
use crate::host::work::{Places, Work};
use frame::audit::alone;
use frame::code::Code;
use frame::cpuset::CpuSet;
use frame::declare::Disk;
use frame::name::Name;
use frame::steer::{HostInterruptRow, HostRoute, Moved, steer};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::MetadataExt;

/// How long after a partition came or went its CPUs are looked after, milliseconds: not while it starts, and once for
/// many.
const DELAY_MS: u64 = 100;
/// The journal's fact about what was moved.
const FACT: &str = "steered";

/// What is known of the host's work.
#[derive(Debug, Default)]
pub struct Steering {
    places: Places,
    at: Option<u64>,
    rows: Vec<HostInterruptRow>,
    /// Refusals that were said, so that each is said once.
    said: BTreeSet<Work>,
}

impl Steering {
    /// When there is something to do, milliseconds of the monotonic clock.
    pub fn deadline(&self) -> Option<u64> {
        self.at
    }

    /// The interrupts that are steered, and where each goes now: the kernel sends an interrupt elsewhere when the
    /// next one comes.
    pub fn rows(&self) -> Vec<HostInterruptRow> {
        let now = |row: &HostInterruptRow| HostInterruptRow {
            cpus: self.places.effective(row.interrupt).unwrap_or_else(|| row.cpus.clone()),
            ..row.clone()
        };
        self.rows.iter().map(now).collect()
    }
}

/// What was done about the host's work, as the journal has it.
#[derive(Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Steered {
    /// By the name of the work.
    moved: BTreeMap<String, Moved>,
    /// Partitions whose devices the kernel keeps from them: in which incarnation that was said.
    told: BTreeMap<Name, u64>,
}

/// Whose an interrupt is.
struct Owner {
    partition: Name,
    function: String,
    cpus: CpuSet,
}

impl Driver {
    /// A partition came or went.
    pub(super) fn steer_soon(&mut self) {
        self.steering.at.get_or_insert_with(|| clock::now() + DELAY_MS);
    }

    pub(super) fn steer_when_due(&mut self, now: u64) {
        if self.starting.is_none() && self.steering.at.is_some_and(|at| at <= now) {
            self.steer();
        }
    }

    /// Sends the host's work where it may go now.
    pub(super) fn steer(&mut self) {
        self.steering.at = None;
        let steered: Steered = self.journal.fact(FACT).unwrap_or_default().unwrap_or_default();
        let fenced = self.fenced();
        let owners = self.owners();
        // A host that was never touched is not even looked at.
        if fenced.is_empty() && owners.is_empty() && steered == Steered::default() {
            self.steering.rows.clear();
            return;
        }
        let places = self.steering.places.clone();
        let Ok(online) = places.online() else { return };
        let mut next = Steered { told: steered.told.clone(), ..Steered::default() };
        let mut orders = vec![];
        for work in places.all() {
            let Ok(current) = places.read(work) else { continue };
            let owner = match work {
                Work::Interrupt(number) => owners.get(&number),
                Work::NewInterrupts | Work::Workqueues => None,
            };
            let moved = steered.moved.get(&work.to_string());
            let (wanted, change) = steer(&current, moved, &fenced, &online, owner.map(|owner| &owner.cpus));
            if wanted != current || change.is_some() || owner.is_some() {
                orders.push((work, current, wanted));
            }
            next.moved.extend(change.map(|change| (work.to_string(), change)));
        }
        // Written down before it is done.
        self.keep_steered(&steered, &next);
        let before = Steered { moved: next.moved.clone(), told: next.told.clone() };
        let mut rows = vec![];
        for (work, current, wanted) in orders {
            let done = if wanted == current { Ok(()) } else { places.write(work, &wanted) };
            if done.is_err() {
                // It stayed where it was.
                next.moved.remove(&work.to_string());
            }
            self.say_refusal(work, &wanted, &done);
            if let Work::Interrupt(number) = work {
                rows.push(row(&places, number, wanted, owners.get(&number), done.err()));
            }
        }
        self.tell_owners(&rows, &mut next);
        self.keep_steered(&before, &next);
        self.steering.rows = rows;
    }

    /// The CPUs that active partitions have for themselves. None where other frames may use them too.
    fn fenced(&self) -> CpuSet {
        if self.settings.frame.shared_host {
            return CpuSet::new();
        }
        let active = self.entries.values().filter(|entry| entry.kept.lifecycle.is_active());
        active.filter_map(|entry| entry.kept.plan.as_ref()).fold(CpuSet::new(), |all, plan| all.union(&alone(plan)))
    }

    /// Whose the interrupts of dedicated devices are.
    fn owners(&self) -> BTreeMap<u32, Owner> {
        let mut owners = BTreeMap::new();
        for (name, entry) in self.entries.iter().filter(|(_, entry)| entry.kept.lifecycle.is_active()) {
            let Some(plan) = &entry.kept.plan else { continue };
            for function in entry.kept.declared.disks.iter().filter(|disk| disk.dedicated).filter_map(function_of) {
                for number in os::pci::interrupts(&function) {
                    let (partition, function) = (name.clone(), function.clone());
                    owners.insert(number, Owner { partition, function, cpus: plan.cpus.clone() });
                }
            }
        }
        owners
    }

    /// Looks whether the devices that a partition has for itself are used by no other, and the other way round.
    ///
    /// # Errors
    /// What is used by whom.
    pub(super) fn check_functions(&self, name: &Name) -> anyhow::Result<()> {
        let Some(own) = self.entries.get(name) else { return Ok(()) };
        let running = self.entries.iter().filter(|(other, entry)| *other != name && entry.process.is_some());
        let others: Vec<(&Name, &Disk)> = running
            .flat_map(|(other, entry)| entry.kept.declared.disks.iter().map(move |disk| (other, disk)))
            .collect();
        let all = own.kept.declared.disks.iter().chain(others.iter().map(|(_, disk)| *disk));
        if !all.into_iter().any(|disk| disk.dedicated) {
            return Ok(());
        }
        for disk in &own.kept.declared.disks {
            let Some(function) = function_of(disk) else {
                anyhow::ensure!(!disk.dedicated, "disk {} is dedicated, and has no PCI function of its own", disk.name);
                continue;
            };
            for (other, theirs) in &others {
                if (disk.dedicated || theirs.dedicated) && function_of(theirs).as_ref() == Some(&function) {
                    anyhow::bail!(
                        "disk {} is on the PCI function {function}, as disk {} of partition {other} is, and it is dedicated to one of them",
                        disk.name,
                        theirs.name
                    );
                }
            }
        }
        Ok(())
    }

    fn keep_steered(&self, before: &Steered, now: &Steered) {
        if before != now
            && let Err(error) = self.journal.set_fact(FACT, now)
        {
            tracing::error!("what is moved of the host's interrupts could not be written down: {error}");
        }
    }

    /// Each refusal is logged once, until the work can be moved again.
    fn say_refusal(&mut self, work: Work, wanted: &CpuSet, done: &io::Result<()>) {
        match done {
            Ok(()) => {
                self.steering.said.remove(&work);
            }
            Err(error) if self.steering.said.insert(work) => {
                tracing::warn!("the host's {work} could not be sent to CPUs {wanted}: {}", reason(error));
            }
            Err(_) => {}
        }
    }

    /// Says of each partition, once in each life, what the kernel keeps from it.
    fn tell_owners(&mut self, rows: &[HostInterruptRow], steered: &mut Steered) {
        let mut refused: BTreeMap<Name, Vec<&HostInterruptRow>> = BTreeMap::new();
        for row in rows.iter().filter(|row| row.state == HostRoute::Refused) {
            if let Some(partition) = &row.partition {
                refused.entry(partition.clone()).or_default().push(row);
            }
        }
        steered.told.retain(|name, _| refused.contains_key(name));
        for (name, rows) in refused {
            let Some(incarnation) = self.entries.get(&name).map(|entry| entry.kept.incarnation) else { continue };
            if steered.told.insert(name.clone(), incarnation) == Some(incarnation) {
                continue;
            }
            let list: Vec<String> = rows.iter().map(|row| format!("{} ({})", row.interrupt, row.name)).collect();
            let why = rows.iter().find_map(|row| row.reason.clone()).unwrap_or_default();
            let text =
                format!("interrupts of the host stay where they are for partition {name}: {}: {why}", list.join(", "));
            let data = serde_json::json!({ "interrupts": rows });
            self.raise(Code::InterruptKept, vec![name], text, data);
        }
    }
}

/// The PCI function behind a disk.
fn function_of(disk: &Disk) -> Option<String> {
    os::pci::behind(std::fs::metadata(&disk.path).ok()?.rdev())
}

fn row(
    places: &Places,
    interrupt: u32,
    wanted: CpuSet,
    owner: Option<&Owner>,
    refused: Option<io::Error>,
) -> HostInterruptRow {
    let state = match (&refused, owner) {
        (Some(_), _) => HostRoute::Refused,
        (None, Some(_)) => HostRoute::Own,
        (None, None) => HostRoute::Away,
    };
    HostInterruptRow {
        interrupt,
        name: places.name(interrupt),
        partition: owner.map(|owner| owner.partition.clone()),
        function: owner.map(|owner| owner.function.clone()),
        cpus: places.effective(interrupt).unwrap_or_else(|| wanted.clone()),
        wanted,
        state,
        reason: refused.as_ref().map(reason),
    }
}

fn reason(error: &io::Error) -> String {
    match Errno::from_io_error(error) {
        // Newer kernels say the latter, to root too.
        Some(Errno::IO | Errno::PERM) => format!("the kernel manages it itself, or it cannot be moved ({error})"),
        Some(Errno::ACCESS) => "only root may move it".into(),
        _ => error.to_string(),
    }
}
