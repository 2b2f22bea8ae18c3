//! Partitions that run and that nobody wrote down, since the journal was lost: they are taken over by what
//! they say of themselves, as far as it can be.

use super::adopt::{title, titled};
use super::entry::{Entry, Process};
use super::{Driver, Watch};
use crate::clock;
use anyhow::{Context, bail};
use frame::cpuset::CpuSet;
use frame::declare::{Partition, ProcessorMode};
use frame::inventory::Inventory;
use frame::launch::LaunchSpec;
use frame::lifecycle::Lifecycle;
use frame::name::Name;
use frame::plan::{Backing, Extent, PartitionPlan};
use frame::step::{self, Step};
use os::process::Identity;
use std::collections::BTreeMap;
use std::path::Path;

impl Driver {
    /// Finds the processes of declared partitions of which the journal knows nothing, and begins to take them
    /// over: those that listen where their partition does. Gives their names.
    pub(super) fn find_unwritten(&mut self) -> Vec<Name> {
        let prefix = format!("partition {}/", self.tag);
        let mut found = Vec::new();
        for pid in titled(&prefix) {
            let Some(name) = title(pid).strip_prefix(&prefix).and_then(|name| Name::new(name).ok()) else { continue };
            let known = self.entries.get(&name).is_none_or(|entry| entry.process.is_some() || entry.declared.is_none());
            if known || !listens(pid, &self.settings.root.partition_socket(&name)) {
                continue;
            }
            match self.take_up(&name, pid) {
                Ok(true) => found.push(name),
                Ok(false) => {}
                Err(error) => tracing::error!("partition {name}: its process {pid} cannot be taken over: {error:#}"),
            }
        }
        found
    }

    /// Holds a process of a partition and writes down what is known of it; false when it has just ended.
    fn take_up(&mut self, name: &Name, pid: u32) -> anyhow::Result<bool> {
        let identity = Identity::of(pid)?;
        let Some(handle) = identity.open()? else { return Ok(false) };
        let Some(declared) = self.entries.get(name).and_then(|entry| entry.declared.clone()) else { return Ok(false) };
        let now = clock::now();
        let socket = self.settings.root.partition_socket(name);
        let groups: Vec<String> = self.groups.of(name).iter().map(|path| path.display().to_string()).collect();
        let process = step::Process { boot: identity.boot.clone(), pid, start: identity.start };
        self.journal.clear_steps(name)?;
        for step in
            [Step::Confine { groups }, Step::Listen { socket: socket.display().to_string() }, Step::Spawned { process }]
        {
            self.journal.step(name, &step)?;
        }
        let end = self.poller.watch(handle.descriptor())?;
        self.watches.insert(end, Watch::End(name.clone()));
        let mut entry = Entry::new(declared.clone());
        entry.kept.lifecycle = Lifecycle::found(name.clone(), declared.shutdown, now);
        entry.kept.started = Some(now.saturating_sub(age(identity.start)));
        entry.process = Some(Process { adopted: true, ..Process::new(identity, handle, end) });
        self.entries.insert(name.clone(), entry);
        self.store(name);
        Ok(true)
    }

    /// What a partition owns by its own word, checked against what is declared and what others own.
    pub(super) fn rebuild(&mut self, name: &Name, spec: &LaunchSpec) -> anyhow::Result<()> {
        let inventory = self.host.here()?;
        let entry = self.entries.get(name).context("it is not declared")?;
        let plan = rebuilt(spec, &entry.kept.declared, self.settings.frame.memory_block, &inventory)?;
        if let Some(bound) = &self.settings.frame.cpus
            && !plan.cpus.difference(bound).is_empty()
        {
            bail!("it runs on CPU {}, which is not the frame's", plan.cpus.difference(bound));
        }
        let dedicated = |plan: &PartitionPlan| plan.backing == Backing::Dedicated;
        let others = self.entries.iter().filter(|(other, _)| *other != name);
        for (other, entry) in others {
            let Some(owned) = &entry.kept.plan else { continue };
            let both = owned.cpus.intersection(&plan.cpus);
            if (dedicated(owned) || dedicated(&plan)) && !both.is_empty() {
                bail!("it says that it owns CPU {both}, which partition {other} does");
            }
        }
        if let Backing::Shared { pool, .. } = &plan.backing {
            match self.pools.get(pool) {
                Some(cpus) if *cpus != plan.cpus => {
                    bail!("it says that it runs on CPU {}, and its pool {pool} has CPU {cpus}", plan.cpus);
                }
                Some(_) => {}
                None => {
                    self.pools.insert(pool.clone(), plan.cpus.clone());
                    self.journal.set_fact("pools", &self.pools)?;
                }
            }
        }
        if let Some(entry) = self.entries.get_mut(name) {
            entry.kept.plan = Some(plan);
            entry.kept.incarnation = spec.incarnation;
        }
        self.store(name);
        self.share_again();
        Ok(())
    }
}

/// The plan by which a partition was launched. Its entitlement is not part of a launch: it is what is declared.
fn rebuilt(
    spec: &LaunchSpec,
    declared: &Partition,
    block: u64,
    inventory: &Inventory,
) -> anyhow::Result<PartitionPlan> {
    let count = u32::try_from(spec.processors.len()).unwrap_or(u32::MAX);
    let bytes = spec.memory.iter().fold(0u64, |sum, range| sum.saturating_add(range.bytes));
    if count > declared.processors.count.maximum || bytes > declared.memory.size.maximum || spec.id != declared.id {
        bail!(
            "it has number {}, {count} processors and {bytes} bytes of memory, which is not what it is declared with",
            spec.id
        );
    }
    let used = spec.processors.iter().fold(CpuSet::new(), |all, one| all.union(&one.affinity));
    let known: BTreeMap<u32, u32> = inventory.cpus.iter().map(|cpu| (cpu.id, cpu.node)).collect();
    if let Some(absent) = used.iter().chain(spec.io.iter()).find(|cpu| !known.contains_key(cpu)) {
        bail!("it says that it runs on CPU {absent}, which this host does not have");
    }
    let (backing, cpus) = match &declared.processors.mode {
        ProcessorMode::Dedicated { .. } => (Backing::Dedicated, whole_cores(&used, inventory)),
        ProcessorMode::Shared { pool, units, sharing } => {
            (Backing::Shared { pool: pool.clone(), units: units.desired, sharing: *sharing }, used)
        }
    };
    let known_node = |node: u32| inventory.nodes.iter().any(|one| one.id == node);
    let odd = |range: &&frame::launch::MemorySpec| !range.bytes.is_multiple_of(block.max(1)) || !known_node(range.node);
    if let Some(range) = spec.memory.iter().find(odd) {
        bail!("it says that it has {} bytes on node {}, which cannot be given away here", range.bytes, range.node);
    }
    let extent = |range: &frame::launch::MemorySpec| Extent {
        node: range.node,
        blocks: range.bytes / block.max(1),
        pages: range.pages,
    };
    let memory: Vec<Extent> = spec.memory.iter().map(extent).collect();
    let weight = |node: u32| cpus.iter().filter(|cpu| known.get(cpu) == Some(&node)).count() as u64;
    let local = memory.iter().fold(0, |sum, extent| sum + weight(extent.node).saturating_mul(extent.blocks));
    let blocks: u64 = memory.iter().map(|extent| extent.blocks).sum();
    let pairs = blocks.saturating_mul(cpus.len() as u64).max(1);
    Ok(PartitionPlan {
        name: spec.name.clone(),
        id: spec.id,
        processors: spec.processors.iter().map(|one| one.affinity.clone()).collect(),
        io: spec.io.clone(),
        backing,
        base: declared.memory.base.min(bytes),
        score: u8::try_from(local.saturating_mul(100) / pairs).unwrap_or(100).min(100),
        memory,
        cpus,
    })
}

/// All CPUs of the cores that some of `used` are of.
fn whole_cores(used: &CpuSet, inventory: &Inventory) -> CpuSet {
    let core = |cpu: &frame::inventory::Cpu| (cpu.package, cpu.core);
    let cores: Vec<_> = inventory.cpus.iter().filter(|cpu| used.contains(cpu.id)).map(core).collect();
    inventory.cpus.iter().filter(|cpu| cores.contains(&core(cpu))).map(|cpu| cpu.id).collect()
}

/// Whether a process has, as descriptor 3, the socket that is bound at `path` (`proc(5)`, `/proc/net/unix`).
fn listens(pid: u32, path: &Path) -> bool {
    // A jailed process has a network namespace of its own; its socket was bound in this one.
    let table = std::fs::read("/proc/self/net/unix").unwrap_or_default();
    let table = String::from_utf8_lossy(&table);
    let Ok(descriptor) = std::fs::read_link(format!("/proc/{pid}/fd/{}", crate::spawn::LISTENER)) else { return false };
    table.lines().any(|line| {
        let mut fields = line.split_ascii_whitespace().skip(6);
        let inode = fields.next().unwrap_or_default();
        line.ends_with(&format!(" {}", path.display())) && descriptor.to_string_lossy() == format!("socket:[{inode}]")
    })
}

/// How long ago a process started, milliseconds; `start` as in [`Identity::start`].
fn age(start: u64) -> u64 {
    let boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(boot.tv_sec).unwrap_or(0);
    let hertz = rustix::param::clock_ticks_per_second().max(1);
    seconds.saturating_mul(1000).saturating_sub(start.saturating_mul(1000) / hertz)
}

#[cfg(test)]
mod tests {
    use super::*;
    use frame::launch::{BootSpec, MemorySpec, Place, ProcessorSpec, Topology};

    fn declared(mode: &str) -> Partition {
        let frame = format!(
            "[frame]\nname = \"t\"\n[[pool]]\nname = \"default\"\ncpus = 1\n[[partition]]\nname = \"a\"\nid = 3\n\
             processors = {{ {mode} }}\nmemory = {{ desired = \"6MiB\" }}\nboot = \"diagnostics\"\n"
        );
        frame::file::read(&frame).frame.unwrap().partitions.remove(0)
    }

    fn spec(cpus: &[&str]) -> LaunchSpec {
        let processor = |cpus: &&str| ProcessorSpec { affinity: CpuSet::parse(cpus).unwrap(), place: Place::default() };
        LaunchSpec {
            name: Name::new("a").unwrap(),
            frame: Name::new("f").unwrap(),
            id: 3,
            incarnation: 9,
            processors: cpus.iter().map(processor).collect(),
            io: CpuSet::parse("0").unwrap(),
            memory: vec![MemorySpec { node: 0, bytes: 6 << 20, pages: 4096 }],
            boot: BootSpec::Diagnostics { cmdline: String::new() },
            interrupts: vec![],
            topology: Topology::default(),
            pit: None,
            exit_device: false,
            panic_device: false,
            watchdog: None,
            devices: vec![],
            interrupt_mode: frame::launch::InterruptMode::default(),
            interrupt_limit: frame::storm::Limit::default(),
        }
    }

    /// Two cores of two threads: 0 and 1, 2 and 3.
    fn inventory() -> Inventory {
        let here = crate::host::inventory::here().unwrap();
        let cpus = (0..4).map(|id| frame::inventory::Cpu { id, core: id / 2, package: 0, node: 0 });
        Inventory { cpus: cpus.collect(), ..here }
    }

    #[test]
    fn a_launch_says_what_is_owned() {
        let dedicated = declared("mode = \"dedicated\", desired = 1");
        let plan = rebuilt(&spec(&["2"]), &dedicated, 2 << 20, &inventory()).unwrap();
        assert_eq!((plan.cpus.to_string().as_str(), plan.backing, plan.score), ("2-3", Backing::Dedicated, 100));
        assert_eq!(plan.memory, [Extent { node: 0, blocks: 3, pages: 4096 }]);
        let shared = "mode = \"shared\", pool = \"default\", desired = 2, sharing = \"capped\", \
            units = { minimum = 0.1, desired = 0.2, maximum = 0.3 }";
        let plan = rebuilt(&spec(&["1-2", "1-2"]), &declared(shared), 2 << 20, &inventory()).unwrap();
        assert_eq!(plan.cpus.to_string(), "1-2");
        assert_eq!(plan.units(), frame::units::Units::from(0.2));
    }

    #[test]
    fn what_cannot_be_is_not_believed() {
        let dedicated = declared("mode = \"dedicated\", desired = 1");
        let refused = |spec: LaunchSpec| rebuilt(&spec, &dedicated, 2 << 20, &inventory()).is_err();
        assert!(refused(spec(&["0", "2"])), "more than its maximum");
        assert!(refused(spec(&["9"])), "a CPU that is not there");
        assert!(refused(LaunchSpec { id: 4, ..spec(&["0"]) }));
        let memory = vec![MemorySpec { node: 0, bytes: 8 << 20, pages: 4096 }];
        assert!(refused(LaunchSpec { memory, ..spec(&["0"]) }));
    }

    #[test]
    fn a_process_is_known_by_its_socket() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let listener = os::packet::listen(&path).unwrap();
        let script = directory.path().join("script");
        std::fs::write(&script, "#!/bin/sh\nexec sleep 1000\n").unwrap();
        std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let mut child = crate::spawn::spawn(&script, "t", &listener, None, &[], None).unwrap();
        let mut other = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let (one, two) = (listens(child.id(), &path), listens(other.id(), &path));
        child.kill().unwrap();
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(one && !two);
    }

    #[test]
    fn ages_are_plausible() {
        let own = Identity::of(std::process::id()).unwrap();
        assert!(age(own.start) < 24 * 3600 * 1000);
    }
}
