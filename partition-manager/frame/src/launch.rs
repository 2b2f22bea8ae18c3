//! The launch specification: all that a partition process is told, and the descriptors it is given.
//!
//! It is fully resolved. The process opens no path and looks nothing up; whatever it touches comes as an
//! open descriptor, in the order that [`LaunchSpec::descriptors`] gives.

use crate::cpuset::CpuSet;
use crate::device::{self, DeviceError, DeviceSpec};
use crate::name::Name;
use crate::storm::Limit;
use serde::{Deserialize, Serialize};

/// Most virtual processors of one partition.
pub const MOST_PROCESSORS: usize = 64;
/// Most memory ranges (one for each NUMA node) of one partition.
pub const MOST_NODES: usize = 64;
/// Most multiboot modules of one partition.
pub const MOST_MODULES: usize = 32;
/// Most caches that a topology lists.
pub const MOST_CACHES: usize = 32;
/// Most interrupt sources that the manager may wire to one partition: the pins of the I/O APIC.
pub const MOST_INTERRUPTS: usize = 24;

/// What one partition process runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaunchSpec {
    /// The partition's name.
    pub name: Name,
    /// The name of the frame that it is in.
    pub frame: Name,
    /// The partition's number.
    pub id: u32,
    /// How often this partition was started in this frame; tells one process from the next.
    pub incarnation: u64,
    /// One entry for each virtual processor; the first one boots.
    pub processors: Vec<ProcessorSpec>,
    /// Where everything but virtual processors runs; anywhere in its cgroup when empty.
    pub io: CpuSet,
    /// Memory by NUMA node, in guest-physical order.
    pub memory: Vec<MemorySpec>,
    /// What is started.
    pub boot: BootSpec,
    /// Interrupt sources that the manager wired.
    pub interrupts: Vec<InterruptSpec>,
    /// What the guest is shown of nodes and caches.
    pub topology: Topology,
    /// Whether there is an 8254 timer; when absent, only a multiboot guest has one.
    pub pit: Option<bool>,
    /// Whether a write to port 0xf4 ends the partition with an exit status.
    pub exit_device: bool,
    /// Whether the guest's kernel can say that it panicked, which ends the partition.
    pub panic_device: bool,
    /// What becomes of it when its watchdog expires; it has none when absent.
    #[serde(default)]
    pub watchdog: Option<WatchdogAction>,
    /// Its devices on the PCI bus.
    pub devices: Vec<DeviceSpec>,
    /// Where its interrupt controllers are.
    pub interrupt_mode: InterruptMode,
    /// How often each interrupt source of its devices may be raised.
    #[serde(default)]
    pub interrupt_limit: Limit,
}

/// What becomes of a partition whose watchdog expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WatchdogAction {
    /// It is started again.
    Restart,
    /// It stays in Error.
    Error,
}

/// Where the interrupt controllers of a partition are: its local APICs and its I/O APIC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InterruptMode {
    /// All in the kernel: interrupts are injected without an exit.
    #[default]
    Kernel,
    /// Local APICs in the kernel, the I/O APIC in user space.
    Split,
    /// All in user space, by trap and emulation. There is no x2APIC, no TSC deadline, and no paravirtual interrupt.
    Emulated,
}

/// One virtual processor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessorSpec {
    /// The logical CPUs it may run on; anywhere in its cgroup when empty.
    pub affinity: CpuSet,
    /// Where the guest sees it.
    pub place: Place,
}

/// Where the guest sees a virtual processor. Numbers are the guest's own and begin at 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// The package.
    pub package: u32,
    /// The core within the package.
    pub core: u32,
    /// The thread within the core.
    pub thread: u32,
    /// The NUMA node: an index into [`Topology::nodes`], 0 when that is empty.
    pub node: u32,
}

/// What the guest is shown of nodes and caches. The default is one node, and caches as KVM reports them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topology {
    /// The guest's NUMA nodes, each by the host's number as in [`MemorySpec::node`]; empty: there is one.
    pub nodes: Vec<u32>,
    /// Distance from each node to each, row by row (ACPI 6.5, section 5.2.17: 10 is local); empty: none known.
    pub distances: Vec<u8>,
    /// Caches as seen from virtual processor 0.
    pub caches: Vec<CacheSpec>,
}

/// One cache of a virtual processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheSpec {
    /// Level, 1..=4.
    pub level: u8,
    /// What it holds.
    pub kind: crate::inventory::CacheKind,
    /// Size, bytes.
    pub size: u64,
    /// Bytes of a line.
    pub line: u32,
    /// Lines of a set.
    pub ways: u32,
    /// How many APIC identifiers, a power of two, each group of processors has that shares a cache like it
    /// (Intel SDM, volume 2, CPUID leaf 4: EAX, bits 25..14, plus one).
    pub shared_by: u32,
}

/// The memory of one NUMA node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemorySpec {
    /// The host's node.
    pub node: u32,
    /// Size of the range and of its memfd, bytes; a multiple of the page size.
    pub bytes: u64,
    /// Page size that backs it, bytes.
    pub pages: u64,
}

/// What a partition process starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum BootSpec {
    /// The built-in payload.
    Diagnostics {
        /// Its command line.
        cmdline: String,
    },
    /// A kernel, by descriptor.
    Kernel {
        /// Its command line.
        cmdline: String,
        /// Whether a descriptor of an initial RAM disk follows that of the kernel.
        initrd: bool,
        /// Command lines of the multiboot modules, whose descriptors follow.
        modules: Vec<String>,
    },
}

/// One interrupt source outside the partition: an eventfd that raises a pin of its I/O APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InterruptSpec {
    /// The global system interrupt, 0..=23.
    pub gsi: u32,
}

/// What one descriptor of a launch is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Descriptor {
    /// `/dev/kvm`, open for reading and writing.
    Kvm,
    /// The shared record ([`crate::record`]), a sealed memfd.
    Record,
    /// An eventfd that the partition signals when its console has new output.
    Doorbell,
    /// The memory of entry `n` of [`LaunchSpec::memory`], a sealed memfd.
    Memory(usize),
    /// The kernel, open for reading.
    Kernel,
    /// The initial RAM disk, open for reading.
    Initrd,
    /// Module `n` of [`BootSpec::Kernel`], open for reading.
    Module(usize),
    /// The eventfd of entry `n` of [`LaunchSpec::interrupts`].
    Interrupt(usize),
    /// The directory of the process's threads in the host's `/proc`, where it has a watchdog.
    Tasks,
    /// Number `part` of those of entry `device` of [`LaunchSpec::devices`].
    Device {
        /// The device.
        device: usize,
        /// Which of its descriptors ([`crate::device::DeviceKind::descriptors`]).
        part: usize,
    },
}

/// Why a launch specification cannot be carried out by anybody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LaunchError {
    /// Too few or too many virtual processors.
    #[error("a partition has 1 to {MOST_PROCESSORS} virtual processors, not {0}")]
    Processors(usize),
    /// Too few or too many memory ranges.
    #[error("a partition has memory on 1 to {MOST_NODES} nodes, not {0}")]
    Nodes(usize),
    /// A range of no bytes, or not a multiple of its page size, or of a page size that is none.
    #[error("memory range {index} of {bytes} bytes is not a whole number of pages of {pages} bytes")]
    Memory {
        /// Which entry.
        index: usize,
        /// Its size, bytes.
        bytes: u64,
        /// Its page size, bytes.
        pages: u64,
    },
    /// All ranges together exceed what a guest can address here.
    #[error("the memory of a partition is at most {} GiB", MOST_MEMORY >> 30)]
    TooMuchMemory,
    /// A pin that the I/O APIC has not, or one that is taken twice.
    #[error("interrupt pin {0} does not exist, is used by the platform, or is named twice")]
    Interrupt(u32),
    /// Too many multiboot modules.
    #[error("a partition has at most {MOST_MODULES} modules, not {0}")]
    Modules(usize),
    /// The topology contradicts itself or the rest.
    #[error("the topology cannot be: {0}")]
    Topology(&'static str),
    /// A device that cannot be.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The command line does not fit.
    #[error("a command line has at most {LONGEST_CMDLINE} bytes and no NUL, this one has {0}")]
    CommandLine(usize),
    /// Another count of descriptors came with the specification.
    #[error("the launch specification needs {needed} descriptors, {given} came with it")]
    Descriptors {
        /// How many it needs.
        needed: usize,
        /// How many came.
        given: usize,
    },
}

/// Most memory of one partition, bytes: what 46 bits address, less the device hole.
pub const MOST_MEMORY: u64 = (1 << 46) - (1 << 32);
/// Longest command line, bytes (Linux x86 `COMMAND_LINE_SIZE`, less the NUL).
pub const LONGEST_CMDLINE: usize = 2047;

impl LaunchSpec {
    /// What each descriptor that travels with the specification is for, in order.
    #[must_use]
    pub fn descriptors(&self) -> Vec<Descriptor> {
        let mut all = vec![Descriptor::Kvm, Descriptor::Record, Descriptor::Doorbell];
        all.extend((0..self.memory.len()).map(Descriptor::Memory));
        if let BootSpec::Kernel { initrd, modules, .. } = &self.boot {
            all.push(Descriptor::Kernel);
            if *initrd {
                all.push(Descriptor::Initrd);
            }
            all.extend((0..modules.len()).map(Descriptor::Module));
        }
        all.extend((0..self.interrupts.len()).map(Descriptor::Interrupt));
        all.extend(self.watchdog.map(|_| Descriptor::Tasks));
        for (device, spec) in self.devices.iter().enumerate() {
            all.extend((0..spec.kind.descriptors()).map(|part| Descriptor::Device { device, part }));
        }
        all
    }

    /// Identifiers of the local APICs, by virtual processor.
    #[must_use]
    pub fn apic_ids(&self) -> Vec<u32> {
        let places: Vec<Place> = self.processors.iter().map(|processor| processor.place).collect();
        let Some(layout) = crate::topology::ApicLayout::of(&places) else { return vec![] };
        places.iter().map(|place| layout.id(*place)).collect()
    }

    /// All memory, bytes; saturates.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.memory.iter().fold(0, |sum, range| sum.saturating_add(range.bytes))
    }

    /// Checks the rules that do not depend on a host.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn validate(&self) -> Result<(), LaunchError> {
        if self.processors.is_empty() || self.processors.len() > MOST_PROCESSORS {
            return Err(LaunchError::Processors(self.processors.len()));
        }
        if self.memory.is_empty() || self.memory.len() > MOST_NODES {
            return Err(LaunchError::Nodes(self.memory.len()));
        }
        for (index, range) in self.memory.iter().enumerate() {
            let MemorySpec { bytes, pages, .. } = *range;
            if pages < 4096 || !pages.is_power_of_two() || bytes == 0 || bytes % pages != 0 {
                return Err(LaunchError::Memory { index, bytes, pages });
            }
        }
        if self.memory_bytes() > MOST_MEMORY {
            return Err(LaunchError::TooMuchMemory);
        }
        let platform =
            [crate::platform::PIT_GSI, crate::platform::RTC_GSI, crate::platform::SERIAL_GSI, crate::platform::SCI_GSI];
        let pins = crate::platform::PCI_GSI..crate::platform::PCI_GSI + crate::platform::PCI_PINS;
        let mut taken = Vec::new();
        for source in &self.interrupts {
            let shared = !self.devices.is_empty() && pins.contains(&source.gsi);
            if source.gsi as usize >= MOST_INTERRUPTS
                || shared
                || platform.contains(&source.gsi)
                || taken.contains(&source.gsi)
            {
                return Err(LaunchError::Interrupt(source.gsi));
            }
            taken.push(source.gsi);
        }
        let (BootSpec::Diagnostics { cmdline } | BootSpec::Kernel { cmdline, .. }) = &self.boot;
        if cmdline.len() > LONGEST_CMDLINE || cmdline.contains('\0') {
            return Err(LaunchError::CommandLine(cmdline.len()));
        }
        if let BootSpec::Kernel { modules, .. } = &self.boot {
            if modules.len() > MOST_MODULES {
                return Err(LaunchError::Modules(modules.len()));
            }
            if let Some(wrong) = modules.iter().find(|line| line.len() > LONGEST_CMDLINE || line.contains('\0')) {
                return Err(LaunchError::CommandLine(wrong.len()));
            }
        }
        device::validate(&self.devices)?;
        self.validate_topology()
    }

    /// The network adapters among the devices, in their order.
    pub fn networks(&self) -> impl Iterator<Item = &device::NetworkSpec> {
        self.devices.iter().filter_map(|device| match &device.kind {
            device::DeviceKind::Network(network) => Some(network),
            _ => None,
        })
    }

    fn validate_topology(&self) -> Result<(), LaunchError> {
        let Topology { nodes, distances, caches } = &self.topology;
        let wrong = |why| Err(LaunchError::Topology(why));
        if caches.iter().any(|cache| !(1..=4).contains(&cache.level)) {
            return wrong("a cache is of a level that is not there");
        }
        if nodes.len() > MOST_NODES || caches.len() > MOST_CACHES {
            return wrong("it has too many nodes or caches");
        }
        if !distances.is_empty() && distances.len() != nodes.len() * nodes.len() {
            return wrong("there is not one distance for each pair of nodes");
        }
        if self.processors.iter().any(|processor| processor.place.node as usize >= nodes.len().max(1)) {
            return wrong("a processor is on a node that is not there");
        }
        if !nodes.is_empty() && self.memory.iter().any(|range| !nodes.contains(&range.node)) {
            return wrong("memory is on a node that is not there");
        }
        if !caches.iter().all(|cache| cache.shared_by.is_power_of_two()) {
            return wrong("a cache is shared by a number that is no power of two");
        }
        let mut places = std::collections::BTreeSet::new();
        let place = |processor: &ProcessorSpec| (processor.place.package, processor.place.core, processor.place.thread);
        if !self.processors.iter().all(|processor| places.insert(place(processor))) {
            return wrong("two processors are in one place");
        }
        if self.processors.first().is_some_and(|first| place(first) != (0, 0, 0)) {
            return wrong("the first processor is not the first thread of the first core");
        }
        let all: Vec<Place> = self.processors.iter().map(|processor| processor.place).collect();
        if crate::topology::ApicLayout::of(&all).is_none() {
            return wrong("the places need more bits than an APIC identifier has");
        }
        const BROADCAST: u32 = 0xff;
        if self.interrupt_mode == InterruptMode::Emulated && self.apic_ids().iter().any(|id| *id >= BROADCAST) {
            return wrong("with emulated interrupt controllers, identifiers of local APICs are below 255");
        }
        if !self.interrupt_limit.is_valid() {
            return wrong("the limit of interrupts is outside of its range");
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::units::MIB;

    pub(crate) fn spec() -> LaunchSpec {
        LaunchSpec {
            name: Name::new("a").unwrap(),
            frame: Name::new("f").unwrap(),
            id: 1,
            incarnation: 1,
            processors: vec![ProcessorSpec { affinity: CpuSet::new(), place: Place::default() }],
            io: CpuSet::new(),
            memory: vec![MemorySpec { node: 0, bytes: 64 * MIB, pages: 4096 }],
            boot: BootSpec::Kernel { cmdline: String::new(), initrd: true, modules: vec![String::new()] },
            interrupts: vec![InterruptSpec { gsi: 5 }],
            topology: Topology::default(),
            pit: None,
            exit_device: false,
            panic_device: false,
            watchdog: None,
            devices: vec![],
            interrupt_mode: InterruptMode::default(),
            interrupt_limit: Limit::default(),
        }
    }

    #[test]
    fn descriptors_come_in_a_fixed_order() {
        use Descriptor::{Doorbell, Initrd, Interrupt, Kernel, Kvm, Memory, Module, Record};
        assert_eq!(spec().descriptors(), [Kvm, Record, Doorbell, Memory(0), Kernel, Initrd, Module(0), Interrupt(0)]);
    }

    #[test]
    fn refuses_what_nobody_can_do() {
        assert_eq!(spec().validate(), Ok(()));
        let broken = |change: fn(&mut LaunchSpec)| {
            let mut spec = spec();
            change(&mut spec);
            spec.validate().unwrap_err()
        };
        assert_eq!(broken(|s| s.processors.clear()), LaunchError::Processors(0));
        assert_eq!(broken(|s| s.memory.clear()), LaunchError::Nodes(0));
        assert_eq!(broken(|s| s.memory[0].bytes = u64::MAX - 4095), LaunchError::TooMuchMemory);
        assert_eq!(broken(|s| s.memory[0].bytes = 0), LaunchError::Memory { index: 0, bytes: 0, pages: 4096 });
        assert_eq!(broken(|s| s.memory[0].pages = 3), LaunchError::Memory { index: 0, bytes: 64 * MIB, pages: 3 });
        assert_eq!(broken(|s| s.interrupts[0].gsi = 24), LaunchError::Interrupt(24));
        assert_eq!(broken(|s| s.interrupts[0].gsi = 9), LaunchError::Interrupt(9));
        assert_eq!(broken(|s| s.interrupts.push(InterruptSpec { gsi: 5 })), LaunchError::Interrupt(5));
        assert_eq!(
            broken(|s| s.boot = BootSpec::Diagnostics { cmdline: "x".repeat(2048) }),
            LaunchError::CommandLine(2048)
        );
    }
}
