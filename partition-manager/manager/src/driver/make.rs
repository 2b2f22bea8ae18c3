//! Making the process of a partition: everything it will ever touch, then itself.

use super::entry::{Entry, Link, Process};
use super::{Driver, Watch};
use crate::cgroup::limits::{Limits, SLACK, THREADS};
use crate::cgroup::share;
use crate::record::Record;
use crate::spawn::{self, Child, Jail, Spare};
use crate::{clock, host, memory};
use anyhow::{Context, anyhow, bail};
use frame::assignment::Assignment;
use frame::declare::{Boot, Console, Disk, Partition};
use frame::device::{Attachment, DeviceSpec};
use frame::inventory::Inventory;
use frame::jail::Inmate;
use frame::launch::{BootSpec, Descriptor, LaunchSpec, MemorySpec, ProcessorSpec};
use frame::lifecycle::Input;
use frame::name::Name;
use frame::plan::{PartitionPlan, Subject, plan_for};
use frame::step::{self, Step};
use frame::topology;
use frame::units::Units;
use frame::wire::Request;
use os::claim::Claim;
use os::packet;
use os::process::{Handle, Identity};
use rustix::event::EventfdFlags;
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::collections::BTreeMap;
use std::fs::{File, Permissions};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

/// First delay before a lost connection is made again, milliseconds.
const RETRY_MS: u64 = 50;
/// Connections of programs of the host that may wait for a socket device.
const MOST_WAITING: i32 = 16;

impl Driver {
    /// Makes the process of a partition and connects to it. When it fails, what was made stays to be given
    /// up by what follows from the failure; the process does not.
    ///
    /// # Errors
    /// What happened, to what, why: the chain is for people.
    pub(super) fn make(&mut self, name: &Name) -> anyhow::Result<()> {
        let inventory = self.host.here()?;
        let plan = self.assign(name, &inventory)?;
        self.confine(name, &plan)?;
        let entry = self.entries.get_mut(name).ok_or_else(|| anyhow!("it is not declared"))?;
        entry.kept.incarnation += 1;
        let incarnation = entry.kept.incarnation;
        self.store(name);
        let mut process = self.start(name, incarnation)?;
        // The process comes up meanwhile.
        match self.equip(name, &inventory) {
            Ok(kit) => kit.put(&mut process),
            Err(error) => {
                process.child.as_mut().map(Child::kill);
                self.watches.remove(&process.end);
                return Err(error);
            }
        }
        if let Some(entry) = self.entries.get_mut(name) {
            entry.kept.started = Some(clock::now());
            entry.processors = plan.processors.len();
            entry.process = Some(process);
        }
        self.connect(name);
        self.launch_ahead(name);
        self.steer_soon();
        Ok(())
    }

    /// Sends a process that just began its launch right behind the greeting. It obeys packets in their order, so
    /// nothing is gained by waiting for its answer in between; if the connection is lost, its next welcome says
    /// whether the launch arrived.
    fn launch_ahead(&mut self, name: &Name) {
        let fresh = |process: &Process| process.link.is_some() && process.spec.is_some();
        let process = self.entries.get_mut(name).and_then(|entry| entry.process.as_mut());
        let Some(process) = process.filter(|process| fresh(process)) else { return };
        process.launch_sent = true;
        self.launch(name);
    }

    /// Sends a partition its launch, unless it has it already.
    pub(super) fn launch_once(&mut self, name: &Name) {
        let process = self.entries.get_mut(name).and_then(|entry| entry.process.as_mut());
        if !process.is_some_and(|process| std::mem::take(&mut process.launch_sent)) {
            self.launch(name);
        }
    }

    /// Makes or opens what a partition's launch needs.
    fn equip(&mut self, name: &Name, inventory: &Inventory) -> anyhow::Result<Kit> {
        self.check_functions(name)?;
        let block = self.settings.frame.memory_block;
        let entry = self.entries.get_mut(name).ok_or_else(|| anyhow!("it is not declared"))?;
        let plan = entry.kept.plan.as_ref().ok_or_else(|| anyhow!("nothing is assigned to it"))?;
        let declared = &entry.kept.declared;
        let frame = &self.settings.frame.name;
        let attachment = match declared.networks.is_empty() {
            true => Attachment::Trunk,
            false => self.switches.attachment().context("its network adapters")?,
        };
        let devices = frame::device::of(frame, declared, &entry.slots, attachment)?;
        entry.slots = devices.iter().map(|device| (device.name.clone(), device.slot)).collect();
        let spec = specification(plan, inventory, frame, block, entry.kept.incarnation, declared, devices);
        spec.validate()?;
        let mut memory = Vec::new();
        for range in &spec.memory {
            let made = memory::make(range, inventory.nodes.len() > 1);
            memory.push(made.with_context(|| {
                format!("{} bytes of memory in pages of {} bytes on node {}", range.bytes, range.pages, range.node)
            })?);
        }
        let mut files = vec![host::kvm::open()?];
        if let Boot::Kernel { kernel, initrd, modules, .. } = &declared.boot {
            files.push(image(kernel, "kernel")?);
            if let Some(initrd) = initrd {
                files.push(image(initrd, "initial RAM disk")?);
            }
            for module in modules {
                files.push(image(&module.path, "module")?);
            }
        }
        for disk in &declared.disks {
            files.push(open_disk(disk).with_context(|| format!("disk {}, {}", disk.name, disk.path.display()))?);
        }
        for (network, spec) in declared.networks.iter().zip(spec.networks()) {
            let switch = self.settings.frame.switches.iter().find(|switch| switch.name == network.switch);
            let switch = switch.ok_or_else(|| anyhow!("switch {} is no longer declared", network.switch))?;
            let taps = self.switches.plug(switch, spec, name, &network.name);
            files.extend(taps.with_context(|| format!("network {}", network.name))?);
        }
        if declared.vsock.is_some() {
            let path = self.settings.root.vsock(name);
            files.push(listen(&path).with_context(|| format!("the socket {}", path.display()))?);
        }
        for port in declared.console.iter().flat_map(Console::names) {
            let path = self.settings.root.console_port(name, &port);
            files.push(listen(&path).with_context(|| format!("the socket {}", path.display()))?);
        }
        prepare_record(entry)?;
        Ok(Kit { spec: Box::new(spec), memory, files })
    }

    /// What the partition owns: what it owned before its restart, or what is planned for it now.
    fn assign(&mut self, name: &Name, inventory: &Inventory) -> anyhow::Result<PartitionPlan> {
        let entry = self.entries.get(name).ok_or_else(|| anyhow!("it is not declared"))?;
        if let Some(plan) = &entry.kept.plan {
            return Ok(plan.clone());
        }
        let declared = entry.declared.clone().ok_or_else(|| anyhow!("the frame no longer declares it"))?;
        let owned = self.assignment();
        let active = |partition: &Partition| {
            self.entries.get(&partition.name).is_some_and(|entry| entry.kept.lifecycle.is_active())
        };
        let plan = plan_for(&self.settings.frame, inventory, &owned, &active).map_err(|refusals| {
            anyhow!("{}", refusals.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
        })?;
        let Some(own) = plan.partition(name).cloned() else {
            let about = Subject::Partition(name.clone());
            let reasons = plan.withheld.iter().filter(|one| one.claims.iter().any(|claim| claim.subject == about));
            let reasons: Vec<String> = reasons.map(ToString::to_string).collect();
            bail!("{}", if reasons.is_empty() { "what it needs is not free".to_owned() } else { reasons.join("; ") });
        };
        let pools = plan.pools.iter().map(|pool| (pool.name.clone(), pool.cpus.clone())).collect();
        if self.pools != pools {
            self.journal.set_fact("pools", &pools)?;
            self.pools = pools;
        }
        if let Some(entry) = self.entries.get_mut(name) {
            entry.kept.lifecycle.set_deadlines(declared.shutdown);
            entry.kept.declared = declared;
            entry.kept.plan = Some(own.clone());
            self.journal.keep([&entry.kept])?;
        }
        Ok(own)
    }

    /// What is owned now.
    pub(super) fn assignment(&self) -> Assignment {
        let plans = self.entries.values().filter_map(|entry| entry.kept.plan.clone());
        Assignment { pools: self.pools.clone(), partitions: plans.map(|plan| (plan.name.clone(), plan)).collect() }
    }

    /// Makes the partition's groups and writes the limits of all that share with it.
    fn confine(&mut self, name: &Name, plan: &PartitionPlan) -> anyhow::Result<()> {
        let directories = self.groups.of(name);
        if directories.is_empty() {
            return Ok(());
        }
        let groups = directories.iter().map(|path| path.display().to_string()).collect();
        self.journal.step(name, &Step::Confine { groups })?;
        self.doomed.retain(|doomed| !directories.contains(&doomed.directory));
        let shares = self.shares();
        let limits = self.limits(plan, &shares);
        self.groups.confine(name, &limits)?;
        self.share_out(&shares, Some(name));
        Ok(())
    }

    fn shares(&self) -> BTreeMap<Name, Units> {
        let pools = self.pools.iter().map(|(name, cpus)| (name.clone(), u32::try_from(cpus.len()).unwrap_or(u32::MAX)));
        share::shares(self.entries.values().filter_map(|entry| entry.kept.plan.as_ref()), &pools.collect())
    }

    /// Writes the limits of every active partition whose share may have changed, but `except`.
    pub(super) fn share_again(&mut self) {
        let shares = self.shares();
        self.share_out(&shares, None);
    }

    fn share_out(&mut self, shares: &BTreeMap<Name, Units>, except: Option<&Name>) {
        let runs = self.entries.values().filter(|entry| entry.process.is_some());
        let plans = runs.filter_map(|entry| entry.kept.plan.as_ref()).filter(|plan| except != Some(&plan.name));
        let limits: Vec<(Name, Limits)> = plans.map(|plan| (plan.name.clone(), self.limits(plan, shares))).collect();
        for (name, limits) in limits {
            if let Err(error) = self.groups.adjust(&name, &limits) {
                tracing::warn!("partition {name}: its share could not be written: {error}: {}", error.source);
            }
        }
    }

    fn limits(&self, plan: &PartitionPlan, shares: &BTreeMap<Name, Units>) -> Limits {
        let memory = plan.memory_bytes(self.settings.frame.memory_block);
        // Page tables: eight bytes for each page, for the guest and for its monitor.
        let tables = plan.memory.iter().fold(0u64, |sum, extent| {
            let bytes = extent.blocks.saturating_mul(self.settings.frame.memory_block);
            sum.saturating_add(bytes / extent.pages.max(4096) * 16)
        });
        let processors = plan.processors.len() as u64;
        let monitor = frame::plan::overhead::MONITOR + frame::plan::overhead::MACHINE + SLACK;
        let overhead = monitor.saturating_add(processors.saturating_mul(frame::plan::overhead::PROCESSOR));
        Limits {
            cpus: plan.cpus.union(&plan.io),
            nodes: plan.memory.iter().map(|extent| extent.node).collect(),
            cap: share::cap(plan),
            share: shares.get(&plan.name).copied().unwrap_or_else(|| plan.units()),
            memory: memory.saturating_add(tables).saturating_add(overhead),
            threads: processors
                .saturating_add(THREADS)
                .saturating_add(frame::device::MOST_DEVICES as u64 * frame::device::MOST_THREADS),
        }
    }

    /// Starts the process behind a socket that it listens on.
    fn start(&mut self, name: &Name, incarnation: u64) -> anyhow::Result<Process> {
        let socket = self.settings.root.partition_socket(name);
        self.journal.step(name, &Step::Listen { socket: socket.display().to_string() })?;
        remove_socket(&socket)?;
        let listener = packet::listen(&socket).with_context(|| format!("the socket {}", socket.display()))?;
        let doors = self.groups.doors(name)?;
        // The claim lasts as long as a partition that uses the CPUs, whatever becomes of the daemons.
        let claim = self.settings.claim.as_ref().map(Claim::another).transpose().context("the claim on the CPUs")?;
        let binary = &self.settings.binary;
        let title = format!("partition {}/{name}", self.tag);
        self.journal.step(name, &Step::Spawn { incarnation })?;
        let places = self.spare.as_ref().and_then(Spare::take);
        let jail = self.inmate(name).map(|inmate| Jail { inmate, places });
        let mut child = spawn::spawn(binary, &title, &listener, claim.as_ref(), &doors, jail.as_ref())
            .with_context(|| format!("the program {} could not be started", binary.display()))?;
        match self.hold(name, child.id()) {
            Ok(mut process) => {
                process.child = Some(child);
                Ok(process)
            }
            Err(error) => {
                // It ends at once, so waiting for it does not take long.
                let _ = child.kill();
                Err(error)
            }
        }
    }

    /// Who a partition's process is to be; nobody else than this one where this one may not build a jail.
    fn inmate(&self, name: &Name) -> Option<Inmate> {
        let plan = self.entries.get(name)?.kept.plan.as_ref()?;
        self.jail.then(|| Inmate::new(&self.tag, plan.id))
    }

    /// Looks whether the process that this manager started shut itself in, before its guest has its first word.
    ///
    /// # Errors
    /// What is open.
    pub(super) fn check_jail(&self, name: &Name) -> anyhow::Result<()> {
        let process = self.entries.get(name).and_then(|entry| entry.process.as_ref());
        // One that was adopted was looked at by the manager that started it.
        let Some(process) = process.filter(|process| process.child.is_some()) else { return Ok(()) };
        let gaps = host::jail::gaps(process.identity.pid, self.inmate(name));
        if gaps.is_empty() { Ok(()) } else { bail!("its process is not jailed: {}", gaps.join("; ")) }
    }

    fn hold(&mut self, name: &Name, pid: u32) -> anyhow::Result<Process> {
        // A child that was not waited for keeps its number.
        let handle = Handle::open(pid)?.ok_or_else(|| anyhow!("process {pid} is gone at once"))?;
        let identity = Identity::of(pid)?;
        let process = step::Process { boot: identity.boot.clone(), pid, start: identity.start };
        self.journal.step(name, &Step::Spawned { process })?;
        let end = self.poller.watch(handle.descriptor())?;
        self.watches.insert(end, Watch::End(name.clone()));
        Ok(Process::new(identity, handle, end))
    }

    /// Connects to the process of a partition, or tries again later.
    pub(super) fn connect(&mut self, name: &Name) {
        self.disconnect(name);
        let socket = self.settings.root.partition_socket(name);
        let epoch = self.epoch;
        let connected = packet::connect_now(&socket).and_then(|socket| Ok((self.poller.watch(&socket)?, socket)));
        let Some(process) = self.entries.get_mut(name).and_then(|entry| entry.process.as_mut()) else { return };
        match connected {
            Ok((token, socket)) => {
                process.retry = None;
                process.link = Some(Link { socket, token });
                self.watches.insert(token, Watch::Link(name.clone()));
                let outcome = process.send(epoch, Request::Hello, &[]);
                self.sent(name, outcome);
                self.serve_calls(name);
            }
            Err(error) => tracing::debug!("partition {name}: no connection: {error}"),
        }
    }

    /// Gives up the connection to a partition, and sees to the next one.
    pub(super) fn disconnect(&mut self, name: &Name) {
        let Some(process) = self.entries.get_mut(name).and_then(|entry| entry.process.as_mut()) else { return };
        if let Some(link) = process.link.take() {
            self.watches.remove(&link.token);
        }
        process.launch_sent = false;
        let delay = RETRY_MS << process.losses.min(5);
        process.losses = process.losses.saturating_add(1);
        process.retry = Some(clock::now() + delay);
    }

    /// Sends a partition what it is to run, with all that it will ever touch.
    fn launch(&mut self, name: &Name) {
        if let Err(error) = self.equip_adopted(name) {
            self.apply(name, Input::Failed { reason: format!("{error:#}") });
            return;
        }
        let Some(entry) = self.entries.get(name) else { return };
        let (Some(process), Some(record), Some(doorbell)) = (&entry.process, &entry.record, &entry.doorbell) else {
            return;
        };
        let Some(spec) = &process.spec else { return };
        // Its number is its own: until it was waited for, or, after an adoption, as long as its handle says so.
        let tasks = spec.watchdog.and_then(|_| File::open(format!("/proc/{}/task", process.identity.pid)).ok());
        let mut files = process.files.iter();
        let beside: Option<Vec<BorrowedFd<'_>>> = spec
            .descriptors()
            .into_iter()
            .map(|descriptor| match descriptor {
                Descriptor::Record => Some(record.as_fd()),
                Descriptor::Doorbell => Some(doorbell.as_fd()),
                Descriptor::Memory(index) => process.memory.get(index).map(AsFd::as_fd),
                Descriptor::Kvm
                | Descriptor::Kernel
                | Descriptor::Initrd
                | Descriptor::Module(_)
                | Descriptor::Device { .. } => files.next().map(AsFd::as_fd),
                Descriptor::Tasks => tasks.as_ref().map(AsFd::as_fd),
                Descriptor::Interrupt(_) => None,
            })
            .collect();
        let Some(beside) = beside else {
            self.apply(name, Input::Failed { reason: "what it was to be launched with is gone".into() });
            return;
        };
        let outcome = process.send(self.epoch, Request::Launch(spec.clone()), &beside);
        self.sent(name, outcome);
    }

    /// A process that an earlier manager started and could not launch any more is launched by this one.
    fn equip_adopted(&mut self, name: &Name) -> anyhow::Result<()> {
        let waits = |entry: &Entry| entry.process.as_ref().is_some_and(|process| process.spec.is_none());
        if !self.entries.get(name).is_some_and(waits) {
            return Ok(());
        }
        let inventory = self.host.here()?;
        let kit = self.equip(name, &inventory)?;
        if let Some(process) = self.entries.get_mut(name).and_then(|entry| entry.process.as_mut()) {
            kit.put(process);
        }
        Ok(())
    }
}

/// What a launch needs.
struct Kit {
    spec: Box<LaunchSpec>,
    memory: Vec<OwnedFd>,
    files: Vec<OwnedFd>,
}

impl Kit {
    fn put(self, process: &mut Process) {
        process.spec = Some(self.spec);
        process.memory = self.memory;
        process.files = self.files;
    }
}

/// The launch specification of a partition.
fn specification(
    plan: &PartitionPlan,
    inventory: &Inventory,
    frame: &Name,
    block: u64,
    incarnation: u64,
    declared: &Partition,
    devices: Vec<DeviceSpec>,
) -> LaunchSpec {
    let (places, topology) = topology::shown(plan, inventory);
    let memory = plan.memory.iter().map(|extent| MemorySpec {
        node: extent.node,
        bytes: extent.blocks.saturating_mul(block),
        pages: extent.pages,
    });
    let boot = match &declared.boot {
        // The payload says whose output it is.
        Boot::Diagnostics { cmdline } => {
            BootSpec::Diagnostics { cmdline: format!("name={} {cmdline}", plan.name).trim_end().to_owned() }
        }
        Boot::Kernel { initrd, modules, cmdline, .. } => BootSpec::Kernel {
            cmdline: cmdline.clone(),
            initrd: initrd.is_some(),
            modules: modules.iter().map(|module| module.cmdline.clone()).collect(),
        },
    };
    LaunchSpec {
        name: plan.name.clone(),
        frame: frame.clone(),
        id: plan.id,
        incarnation,
        processors: plan
            .processors
            .iter()
            .zip(places)
            .map(|(cpus, place)| ProcessorSpec { affinity: cpus.clone(), place })
            .collect(),
        io: plan.io.clone(),
        memory: memory.collect(),
        boot,
        interrupts: vec![],
        topology,
        pit: declared.pit,
        exit_device: declared.exit_device,
        panic_device: declared.panic_device,
        watchdog: declared.watchdog,
        interrupt_mode: declared.interrupts,
        interrupt_limit: declared.interrupt_limit,
        devices,
    }
}

/// The record and the doorbell of a partition, ready for its next process.
pub(super) fn prepare_record(entry: &mut Entry) -> anyhow::Result<()> {
    match &entry.record {
        Some(record) => record.clear()?,
        None => entry.record = Some(Arc::new(Record::create()?)),
    }
    if entry.doorbell.is_none() {
        let doorbell = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        entry.doorbell = Some(Arc::new(doorbell));
    }
    Ok(())
}

/// Opens a file that a partition boots from, without ever waiting for it.
fn image(path: &Path, what: &str) -> anyhow::Result<OwnedFd> {
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .with_context(|| format!("the {what} {} cannot be opened", path.display()))?;
    if !file.metadata().with_context(|| format!("the {what} {}", path.display()))?.is_file() {
        bail!("the {what} {} is no file", path.display());
    }
    Ok(file.into())
}

/// Opens the image of a disk, without ever waiting for it, and locks it: as long as a process has it, nobody else
/// who asks for the lock writes it, nor reads what is written.
fn open_disk(disk: &Disk) -> anyhow::Result<OwnedFd> {
    let file = File::options()
        .read(true)
        .write(!disk.read_only)
        .custom_flags(libc::O_NONBLOCK)
        .open(&disk.path)
        .with_context(|| format!("it cannot be opened{}", if disk.read_only { "" } else { " for writing" }))?;
    let kind = file.metadata()?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        bail!("it is neither a file nor a block device");
    }
    let lock =
        if disk.read_only { FlockOperation::NonBlockingLockShared } else { FlockOperation::NonBlockingLockExclusive };
    match rustix::fs::flock(&file, lock) {
        Ok(()) => Ok(file.into()),
        Err(Errno::WOULDBLOCK) => bail!("another partition or program uses it; end that first, or use another image"),
        Err(errno) => Err(errno).context("it cannot be locked"),
    }
}

/// A socket for the programs of the host that ask for a partition's ports: only its owner can connect.
fn listen(path: &Path) -> anyhow::Result<OwnedFd> {
    remove_socket(path)?;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    // Nobody can connect before it listens.
    std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    rustix::net::listen(&socket, MOST_WAITING)?;
    Ok(socket)
}

/// Removes a socket that an earlier process left.
pub(super) fn remove_socket(path: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("the old socket {} cannot be removed", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use frame::cpuset::CpuSet;
    use frame::inventory::Cpu;
    use frame::plan::{Backing, Extent};

    #[test]
    fn a_plan_becomes_a_specification() {
        let plan = PartitionPlan {
            name: Name::new("a").unwrap(),
            id: 3,
            cpus: CpuSet::parse("2-3").unwrap(),
            processors: vec![CpuSet::parse("2").unwrap()],
            io: CpuSet::parse("0").unwrap(),
            backing: Backing::Dedicated,
            memory: vec![Extent { node: 0, blocks: 3, pages: 4096 }],
            base: 0,
            score: 100,
        };
        let frame = r#"
            [frame]
            name = "t"
            [[partition]]
            name = "a"
            processors = { mode = "dedicated", desired = 1 }
            memory = { desired = "6MiB" }
            boot = { payload = "diagnostics", cmdline = "beat=5" }
        "#;
        let declared = frame::file::read(frame).frame.unwrap().partitions.remove(0);
        let cpu = |id| Cpu { id, package: 0, core: 0, node: 0 };
        let inventory = Inventory { cpus: vec![cpu(2), cpu(3)], ..Inventory::default() };
        let spec = specification(&plan, &inventory, &Name::new("t").unwrap(), 2 << 20, 4, &declared, vec![]);
        assert_eq!(spec.validate(), Ok(()));
        assert_eq!(spec.boot, BootSpec::Diagnostics { cmdline: "name=a beat=5".into() });
        assert_eq!(spec.memory, [MemorySpec { node: 0, bytes: 6 << 20, pages: 4096 }]);
        assert_eq!((spec.incarnation, spec.id), (4, 3));
    }

    #[test]
    fn only_files_are_booted() {
        let error = image(Path::new("/no/such/kernel"), "kernel").unwrap_err();
        assert!(format!("{error:#}").contains("/no/such/kernel"));
        assert!(image(Path::new("/dev/null"), "kernel").is_err());
        assert!(image(Path::new("/"), "kernel").is_err());
    }
}
