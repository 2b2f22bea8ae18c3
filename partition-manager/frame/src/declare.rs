//! What is declared: the frame file as plain data, after every rule has been checked.

use crate::cpuset::CpuSet;
use crate::device::DiskEngine;
use crate::launch::{InterruptMode, WatchdogAction};
use crate::mac::Mac;
use crate::name::Name;
use crate::storm::Limit;
use crate::units::Units;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// A frame: a host, or a declared part of one, and the partitions that divide it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Frame {
    /// The frame's name.
    pub name: Name,
    /// The CPUs that belong to the frame; all of the host when absent.
    pub cpus: Option<CpuSet>,
    /// Allocation granule of memory, bytes; every memory size is a multiple.
    pub memory_block: u64,
    /// CPUs that stay the host's own.
    pub reserved_cpus: u32,
    /// Memory that stays the host's own, bytes.
    pub reserved_memory: u64,
    /// Least entitlement for each virtual processor of a shared partition.
    pub minimum_units: Units,
    /// Whether another frame may use the same host CPUs.
    pub shared_host: bool,
    /// Shared processor pools, in the order of the file.
    pub pools: Vec<Pool>,
    /// Virtual Ethernet switches, in the order of the file.
    #[serde(default)]
    pub switches: Vec<Switch>,
    /// Partitions, in the order of the file.
    pub partitions: Vec<Partition>,
}

impl Frame {
    /// The same frame with every path absolute; relative ones begin at `directory`, that of the frame file.
    #[must_use]
    pub fn with_paths_from(mut self, directory: &Path) -> Self {
        for partition in &mut self.partitions {
            for disk in &mut partition.disks {
                disk.path = directory.join(&disk.path);
            }
            if let Boot::Kernel { kernel, initrd, modules, .. } = &mut partition.boot {
                let modules = modules.iter_mut().map(|module| &mut module.path);
                for path in std::iter::once(kernel).chain(initrd).chain(modules) {
                    *path = directory.join(&*path);
                }
            }
        }
        self
    }
}

/// A shared processor pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pool {
    /// The pool's name.
    pub name: Name,
    /// Physical CPUs that its partitions live on.
    pub cpus: u32,
}

/// A virtual Ethernet switch: what its adapters send stays in the frame, and within their VLANs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switch {
    /// Its name, and that of its bridge; at most [`crate::device::LONGEST_SWITCH_NAME`] bytes.
    pub name: Name,
    /// The host's network interface by which it reaches the world, if it does.
    pub uplink: Option<String>,
}

/// One declared partition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Partition {
    /// The partition's name, unique in the frame.
    pub name: Name,
    /// The partition's number, unique in the frame, 1..=65535.
    pub id: u32,
    /// Who loses last when there is not enough for all: 0 loses first, 255 last.
    pub availability_priority: u8,
    /// Its processors.
    pub processors: Processors,
    /// Its memory.
    pub memory: Memory,
    /// What it starts.
    pub boot: Boot,
    /// Whether it starts with the frame.
    pub auto_start: bool,
    /// What it holds while it is not active.
    pub when_inactive: WhenInactive,
    /// Deadlines of the shutdown ladder.
    pub shutdown: Shutdown,
    /// Whether it has an 8254 timer; when absent, only a guest booted by multiboot has one.
    pub pit: Option<bool>,
    /// Whether a write to port 0xf4 ends it with an exit status.
    pub exit_device: bool,
    /// Whether its kernel can say that it panicked, which ends it.
    pub panic_device: bool,
    /// What becomes of it when its watchdog expires; it has none when absent.
    pub watchdog: Option<WatchdogAction>,
    /// Where its interrupt controllers are.
    pub interrupts: InterruptMode,
    /// How often each interrupt source of its devices may be raised.
    pub interrupt_limit: Limit,
    /// Whether it has a source of random numbers; when absent, a kernel has one and the payload has none.
    pub entropy: Option<bool>,
    /// Its disks, in the order of the file.
    pub disks: Vec<Disk>,
    /// Its network adapters, in the order of the file.
    #[serde(default)]
    pub networks: Vec<Network>,
    /// Its socket device, if it has one.
    #[serde(default)]
    pub vsock: Option<Vsock>,
    /// Its console device, if it has one.
    #[serde(default)]
    pub console: Option<Console>,
}

/// A console device: the partition's second terminal, and ports by which programs of the host and of the guest talk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Console {
    /// Names of the ports besides the terminal, in the order of the file.
    pub ports: Vec<Name>,
}

impl Console {
    /// The names of all its ports, in the order of their numbers: first the terminal's.
    #[must_use]
    pub fn names(&self) -> Vec<Name> {
        let terminal = Name::new(crate::device::TERMINAL).ok();
        terminal.into_iter().chain(self.ports.iter().cloned()).collect()
    }
}

/// A socket device: streams between programs of the host and of the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vsock {
    /// The guest's context identifier, in [`crate::device::CIDS`]; when absent, one that follows from the partition's
    /// number.
    pub cid: Option<u32>,
}

impl Partition {
    /// The context identifier of its socket device, if it has one.
    #[must_use]
    pub fn cid(&self) -> Option<u32> {
        self.vsock.map(|vsock| vsock.cid.unwrap_or_else(|| self.id.saturating_add(*crate::device::CIDS.start() - 1)))
    }
}

/// A network adapter on a switch of the frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its name, unique among the devices of the partition.
    pub name: Name,
    /// The switch.
    pub switch: Name,
    /// The VLAN of frames without a tag: the port VLAN, 1..=4094.
    pub vlan: u16,
    /// Further VLANs, of which it sends and receives tagged frames; ascending.
    pub tagged: Vec<u16>,
    /// Its address; when absent, one that follows from the names.
    pub mac: Option<Mac>,
    /// Queue pairs, 1..=[`crate::device::MOST_QUEUE_PAIRS`].
    pub queues: u8,
    /// Its PCI slot; given by [`crate::device::assign`] when absent.
    pub slot: Option<u8>,
    /// Most frames in a second, each way.
    pub operations: Option<u64>,
    /// Most bytes in a second, each way.
    pub bandwidth: Option<u64>,
}

impl Network {
    /// Its address, as an adapter of `partition` in `frame`.
    #[must_use]
    pub fn address(&self, frame: &Name, partition: &Name) -> Mac {
        self.mac.unwrap_or_else(|| Mac::derived(&[frame.as_str(), partition.as_str(), self.name.as_str()]))
    }
}

/// A disk: a raw image or a block device of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Its name, unique among the devices of the partition.
    pub name: Name,
    /// The image or block device, absolute or relative to the frame file.
    pub path: PathBuf,
    /// Whether the guest may only read.
    pub read_only: bool,
    /// Serial number that the guest reads.
    pub serial: String,
    /// Its PCI slot; given by [`crate::device::assign`] when absent.
    pub slot: Option<u8>,
    /// Most requests in a second.
    pub operations: Option<u64>,
    /// Most bytes in a second.
    pub bandwidth: Option<u64>,
    /// How the image is asked.
    pub engine: DiskEngine,
    /// Whether the device of the host behind it is this partition's alone, so that its interrupts go to the
    /// partition's CPUs.
    #[serde(default)]
    pub dedicated: bool,
}

/// What an inactive partition holds of the frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenInactive {
    /// Its minimum, so that it can always be activated.
    #[default]
    Hold,
    /// Nothing.
    Release,
}

/// The least, the wanted and the most of a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range<T> {
    /// Less than this and the partition does not start.
    pub minimum: T,
    /// Given when it is free.
    pub desired: T,
    /// Never exceeded, whatever changes while it runs.
    pub maximum: T,
}

/// The processors of a partition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Processors {
    /// Virtual processors: what the guest sees.
    pub count: Range<u32>,
    /// What backs them.
    pub mode: ProcessorMode,
}

/// What backs virtual processors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "snake_case")]
pub enum ProcessorMode {
    /// Each virtual processor has a logical CPU of its own; the set is whole cores.
    Dedicated {
        /// Where device threads run.
        io: IoProcessors,
    },
    /// Virtual processors share a pool and are entitled to a part of it.
    Shared {
        /// The pool's name.
        pool: Name,
        /// Entitlement.
        units: Range<Units>,
        /// What happens above the entitlement.
        sharing: Sharing,
    },
}

/// Where the device threads of a dedicated partition run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IoProcessors {
    /// On the partition's own CPUs.
    Own,
    /// On a shared processor pool.
    Pool(Name),
}

impl IoProcessors {
    /// The pool, if it is one.
    pub fn pool(&self) -> Option<&Name> {
        match self {
            Self::Own => None,
            Self::Pool(name) => Some(name),
        }
    }
}

/// What a shared partition gets above its entitlement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sharing {
    /// Nothing.
    Capped,
    /// A part of what is spare, by weight 0..=255; weight 0 is capped.
    Uncapped {
        /// The weight.
        weight: u8,
    },
}

/// The memory of a partition, bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Least, wanted and most.
    pub size: Range<u64>,
    /// Memory that is there from boot and never leaves while the partition runs.
    pub base: u64,
    /// Page size that backs it, bytes; any when absent.
    pub pages: Option<u64>,
}

/// What a partition starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Boot {
    /// The built-in payload, with its own command line.
    Diagnostics {
        /// Command line of the payload.
        cmdline: String,
    },
    /// A kernel from a file: Linux bzImage, ELF vmlinux, an ELF with a PVH note, or a multiboot image.
    Kernel {
        /// The kernel, absolute or relative to the frame file.
        kernel: PathBuf,
        /// The initial RAM disk, likewise.
        initrd: Option<PathBuf>,
        /// Multiboot modules, in order.
        modules: Vec<Module>,
        /// Kernel command line.
        cmdline: String,
    },
}

/// A file that a multiboot kernel is given (Multiboot 0.6.96, section 3.3).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Module {
    /// The file, absolute or relative to the frame file.
    pub path: PathBuf,
    /// The module's command line.
    pub cmdline: String,
}

/// Deadlines of the shutdown ladder, milliseconds; a rung of zero is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shutdown {
    /// After the communication channel asked.
    pub ask_ms: u32,
    /// After the ACPI power button.
    pub button_ms: u32,
    /// After the NMI.
    pub nmi_ms: u32,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { ask_ms: 5_000, button_ms: 30_000, nmi_ms: 2_000 }
    }
}
