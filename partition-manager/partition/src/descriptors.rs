//! The descriptors that come with a launch: sorted by purpose and checked by kind.

use frame::launch::{Descriptor, LaunchError, LaunchSpec};
use frame::record;
use rustix::fs::{FileType, OFlags, SealFlags};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

/// The processor's smallest page, bytes.
const SMALL_PAGE: u64 = 4096;

/// What a launch was given, each checked to be of its kind.
#[derive(Debug)]
pub struct Descriptors {
    /// `/dev/kvm`.
    pub kvm: OwnedFd,
    /// The shared record, a memfd of [`record::SIZE`] bytes.
    pub record: OwnedFd,
    /// The eventfd that says that the console has output.
    pub doorbell: OwnedFd,
    /// Guest memory, one memfd for each node, in the specification's order.
    pub memory: Vec<File>,
    /// The kernel.
    pub kernel: Option<File>,
    /// The initial RAM disk.
    pub initrd: Option<File>,
    /// The multiboot modules, in the specification's order.
    pub modules: Vec<File>,
    /// The eventfds of the interrupt sources, in the specification's order.
    pub interrupts: Vec<OwnedFd>,
    /// The directory of this process's threads.
    pub tasks: Option<OwnedFd>,
    /// Those of each device, in the specification's order; the device itself knows what they must be.
    pub devices: Vec<Vec<OwnedFd>>,
}

/// Why a descriptor is not what the specification says.
#[derive(Debug, thiserror::Error)]
pub enum DescriptorError {
    /// The count is wrong.
    #[error(transparent)]
    Count(#[from] LaunchError),
    /// A system call on it failed.
    #[error("the descriptor for {purpose} cannot be examined")]
    Examine {
        /// What it is for.
        purpose: String,
        /// What failed.
        #[source]
        source: std::io::Error,
    },
    /// It is another kind of file.
    #[error("the descriptor for {purpose} is {found}, it must be {needed}")]
    Kind {
        /// What it is for.
        purpose: String,
        /// What it is.
        found: String,
        /// What it must be.
        needed: &'static str,
    },
    /// It has another size.
    #[error("the memfd for {purpose} has {found} bytes, the specification says {needed}")]
    Size {
        /// What it is for.
        purpose: String,
        /// Its size, bytes.
        found: u64,
        /// The size it must have, bytes.
        needed: u64,
    },
    /// It can shrink or grow under the guest.
    #[error("the memfd for {purpose} is not sealed against shrinking and growing (F_SEAL_SHRINK, F_SEAL_GROW)")]
    Unsealed {
        /// What it is for.
        purpose: String,
    },
    /// It is backed by other pages.
    #[error("the memfd for {purpose} is backed by pages of {found} bytes, the specification says {needed}")]
    Pages {
        /// What it is for.
        purpose: String,
        /// Its page size, bytes.
        found: u64,
        /// The page size it must have, bytes.
        needed: u64,
    },
}

/// The name of a descriptor's purpose, for people.
fn purpose(of: Descriptor) -> String {
    match of {
        Descriptor::Kvm => "/dev/kvm".to_owned(),
        Descriptor::Record => "the shared record".to_owned(),
        Descriptor::Doorbell => "the console's doorbell".to_owned(),
        Descriptor::Memory(node) => format!("memory range {node}"),
        Descriptor::Kernel => "the kernel".to_owned(),
        Descriptor::Initrd => "the initial RAM disk".to_owned(),
        Descriptor::Module(index) => format!("module {index}"),
        Descriptor::Interrupt(index) => format!("interrupt source {index}"),
        Descriptor::Tasks => "the directory of the process's threads".to_owned(),
        Descriptor::Device { device, part } => format!("part {part} of device {device}"),
    }
}

impl Descriptors {
    /// Sorts `given` by the order of [`LaunchSpec::descriptors`] and checks each.
    ///
    /// # Errors
    /// [`DescriptorError`] names the first that is wrong. All are closed then.
    pub fn sort(spec: &LaunchSpec, given: Vec<OwnedFd>) -> Result<Self, DescriptorError> {
        let purposes = spec.descriptors();
        let count = LaunchError::Descriptors { needed: purposes.len(), given: given.len() };
        if purposes.len() != given.len() {
            return Err(count.into());
        }
        let (mut kvm, mut record, mut doorbell) = (None, None, None);
        let (mut memory, mut modules, mut interrupts) = (Vec::new(), Vec::new(), Vec::new());
        let (mut kernel, mut initrd, mut tasks) = (None, None, None);
        let mut devices: Vec<Vec<OwnedFd>> = spec.devices.iter().map(|_| vec![]).collect();
        for (descriptor, of) in given.into_iter().zip(purposes) {
            match of {
                Descriptor::Kvm => {
                    needs_type(&descriptor, of, FileType::CharacterDevice, "a character device")?;
                    kvm = Some(descriptor);
                }
                Descriptor::Record => {
                    sealed(&descriptor, of, record::SIZE)?;
                    record = Some(descriptor);
                }
                Descriptor::Doorbell => {
                    eventfd(&descriptor, of)?;
                    doorbell = Some(descriptor);
                }
                Descriptor::Memory(index) => {
                    let (bytes, pages) = spec.memory.get(index).map_or((0, 0), |spec| (spec.bytes, spec.pages));
                    sealed(&descriptor, of, bytes)?;
                    backed(&descriptor, of, pages)?;
                    memory.push(descriptor.into());
                }
                Descriptor::Kernel => {
                    needs_type(&descriptor, of, FileType::RegularFile, "a regular file")?;
                    kernel = Some(descriptor.into());
                }
                Descriptor::Initrd => {
                    needs_type(&descriptor, of, FileType::RegularFile, "a regular file")?;
                    initrd = Some(descriptor.into());
                }
                Descriptor::Module(_) => {
                    needs_type(&descriptor, of, FileType::RegularFile, "a regular file")?;
                    modules.push(descriptor.into());
                }
                Descriptor::Interrupt(_) => {
                    eventfd(&descriptor, of)?;
                    interrupts.push(descriptor);
                }
                Descriptor::Tasks => {
                    needs_type(&descriptor, of, FileType::Directory, "a directory")?;
                    tasks = Some(descriptor);
                }
                Descriptor::Device { device, .. } => {
                    if let Some(its) = devices.get_mut(device) {
                        its.push(descriptor);
                    }
                }
            }
        }
        let (Some(kvm), Some(record), Some(doorbell)) = (kvm, record, doorbell) else { return Err(count.into()) };
        Ok(Self { kvm, record, doorbell, memory, kernel, initrd, modules, interrupts, tasks, devices })
    }
}

fn examine(of: Descriptor) -> impl Fn(rustix::io::Errno) -> DescriptorError {
    move |errno| DescriptorError::Examine { purpose: purpose(of), source: errno.into() }
}

fn file_type(descriptor: impl AsFd, of: Descriptor) -> Result<FileType, DescriptorError> {
    let stat = rustix::fs::fstat(descriptor).map_err(examine(of))?;
    Ok(FileType::from_raw_mode(stat.st_mode))
}

fn needs_type(
    descriptor: &OwnedFd,
    of: Descriptor,
    kind: FileType,
    needed: &'static str,
) -> Result<(), DescriptorError> {
    let found = file_type(descriptor, of)?;
    if found == kind {
        return Ok(());
    }
    Err(DescriptorError::Kind { purpose: purpose(of), found: describe(found), needed })
}

fn describe(kind: FileType) -> String {
    let text = match kind {
        FileType::RegularFile => "a regular file",
        FileType::Directory => "a directory",
        FileType::Socket => "a socket",
        FileType::Fifo => "a pipe",
        FileType::CharacterDevice => "a character device",
        FileType::BlockDevice => "a block device",
        _ => "an anonymous file",
    };
    text.to_owned()
}

/// An eventfd has no type of file of its own; what has one is none. Writes to it must never block.
fn eventfd(descriptor: &OwnedFd, of: Descriptor) -> Result<(), DescriptorError> {
    let found = file_type(descriptor, of)?;
    if found != FileType::Unknown {
        return Err(DescriptorError::Kind { purpose: purpose(of), found: describe(found), needed: "an eventfd" });
    }
    let flags = rustix::fs::fcntl_getfl(descriptor).map_err(examine(of))?;
    if !flags.contains(OFlags::NONBLOCK) {
        rustix::fs::fcntl_setfl(descriptor, flags | OFlags::NONBLOCK).map_err(examine(of))?;
    }
    Ok(())
}

fn sealed(descriptor: &OwnedFd, of: Descriptor, needed: u64) -> Result<(), DescriptorError> {
    needs_type(descriptor, of, FileType::RegularFile, "a memfd")?;
    let seals = rustix::fs::fcntl_get_seals(descriptor).map_err(|_| DescriptorError::Kind {
        purpose: purpose(of),
        found: describe(FileType::RegularFile),
        needed: "a memfd",
    })?;
    if !seals.contains(SealFlags::SHRINK | SealFlags::GROW) {
        return Err(DescriptorError::Unsealed { purpose: purpose(of) });
    }
    let stat = rustix::fs::fstat(descriptor).map_err(examine(of))?;
    let found = u64::try_from(stat.st_size).unwrap_or_default();
    if found == needed { Ok(()) } else { Err(DescriptorError::Size { purpose: purpose(of), found, needed }) }
}

/// Memfds of huge pages live in a file system of their own, whose blocks are those pages. (The block size of
/// the file itself says nothing: other memfds have a large one where transparent huge pages are on.)
fn backed(descriptor: &OwnedFd, of: Descriptor, needed: u64) -> Result<(), DescriptorError> {
    /// Linux, `HUGETLBFS_MAGIC`.
    const HUGE_PAGES: u64 = 0x9584_58f6;
    let system = rustix::fs::fstatfs(descriptor).map_err(examine(of))?;
    let is_huge = system.f_type.cast_unsigned() == HUGE_PAGES;
    let found = if is_huge { u64::try_from(system.f_bsize).unwrap_or_default() } else { SMALL_PAGE };
    if found == needed { Ok(()) } else { Err(DescriptorError::Pages { purpose: purpose(of), found, needed }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use frame::cpuset::CpuSet;
    use frame::launch::{BootSpec, MemorySpec, Place, ProcessorSpec, Topology};
    use frame::name::Name;
    use rustix::event::EventfdFlags;
    use rustix::fs::MemfdFlags;

    fn spec() -> LaunchSpec {
        LaunchSpec {
            name: Name::new("a").unwrap(),
            frame: Name::new("f").unwrap(),
            id: 1,
            incarnation: 1,
            processors: vec![ProcessorSpec { affinity: CpuSet::new(), place: Place::default() }],
            io: CpuSet::new(),
            memory: vec![MemorySpec { node: 0, bytes: 4 << 20, pages: 4096 }],
            boot: BootSpec::Diagnostics { cmdline: String::new() },
            topology: Topology::default(),
            pit: None,
            exit_device: false,
            panic_device: false,
            watchdog: None,
            devices: vec![],
            interrupt_mode: frame::launch::InterruptMode::default(),
            interrupt_limit: frame::storm::Limit::default(),
            interrupts: vec![],
        }
    }

    fn memfd(bytes: u64, seals: SealFlags) -> OwnedFd {
        let memfd = rustix::fs::memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&memfd, bytes).unwrap();
        rustix::fs::fcntl_add_seals(&memfd, seals).unwrap();
        memfd
    }

    fn given() -> Vec<OwnedFd> {
        let both = SealFlags::SHRINK | SealFlags::GROW;
        vec![
            // Any character device: KVM itself is asked for its version later.
            File::open("/dev/null").unwrap().into(),
            memfd(record::SIZE, both),
            rustix::event::eventfd(0, EventfdFlags::CLOEXEC).unwrap(),
            memfd(4 << 20, both),
        ]
    }

    #[test]
    fn what_is_right_is_taken_and_eventfds_do_not_block() {
        let sorted = Descriptors::sort(&spec(), given()).unwrap();
        assert!(rustix::fs::fcntl_getfl(&sorted.doorbell).unwrap().contains(OFlags::NONBLOCK));
        assert_eq!(sorted.memory.len(), 1);
        assert!(sorted.kernel.is_none() && sorted.initrd.is_none() && sorted.interrupts.is_empty());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let broken = |at: usize, with: OwnedFd| {
            let mut given = given();
            given[at] = with;
            Descriptors::sort(&spec(), given).unwrap_err()
        };
        let both = SealFlags::SHRINK | SealFlags::GROW;
        assert!(matches!(broken(0, memfd(1, both)), DescriptorError::Kind { .. }));
        assert!(matches!(broken(1, memfd(1, both)), DescriptorError::Size { found: 1, .. }));
        assert!(matches!(broken(2, memfd(1, both)), DescriptorError::Kind { .. }));
        assert!(matches!(broken(3, memfd(4 << 20, SealFlags::SHRINK)), DescriptorError::Unsealed { .. }));
        assert!(matches!(broken(3, tempfile::tempfile().unwrap().into()), DescriptorError::Kind { .. }));
        let mut few = given();
        few.pop();
        assert!(matches!(
            Descriptors::sort(&spec(), few),
            Err(DescriptorError::Count(LaunchError::Descriptors { needed: 4, given: 3 }))
        ));
        let mut huge = spec();
        huge.memory[0].pages = 2 << 20;
        assert!(matches!(Descriptors::sort(&huge, given()), Err(DescriptorError::Pages { found: 4096, .. })));
    }
}
