//! From a launch specification and its descriptors to a virtual machine that waits for its first entry.

use crate::acpi;
use crate::boot::{self, Boot, BootError, Source};
use crate::descriptors::{DescriptorError, Descriptors};
use crate::devices::alarm::{Alarm, Timed};
use crate::devices::channel::Channel;
use crate::devices::console::Console;
use crate::devices::pci::storms::{Keeper, Release};
use crate::devices::pit::Pit;
use crate::devices::rtc::Rtc;
use crate::devices::slots::{self, SlotError};
use crate::devices::timer::PmTimer;
use crate::devices::virtio::freezer::Witness;
use crate::devices::virtio::function::VirtioFunction;
use crate::devices::watchdog::Watchdog;
use crate::devices::watchdog::tasks::Tasks;
use crate::devices::{self, Devices, DevicesError};
use crate::diagnostics;
use crate::jail::{self, Class, JailError};
use crate::memory::{Memory, MemoryError};
use crate::record::Record;
use crate::smbios;
use crate::vcpu::affinity::{self, AffinityError};
use crate::vcpu::{Bark, Handle, Mailbox, Message, Parts, Unprepared, kick};
use crate::vm::processor::Kit;
use crate::vm::{self, Vm, VmError};
use crossbeam_channel::Receiver;
use frame::cpuset::CpuSet;
use frame::launch::{BootSpec, LaunchError, LaunchSpec};
use frame::platform::{PIT_GSI, RTC_GSI, SCI_GSI, SERIAL_GSI};
use frame::wire::LineStatus;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use vm_memory::mmap::MmapRegionError;
use vm_memory::{Bytes, GuestAddress};

/// A partition that was launched: everything that it owns.
#[derive(Debug)]
pub struct Partition {
    /// What it was launched with.
    pub spec: Box<LaunchSpec>,
    /// The shared record.
    pub record: Arc<Record>,
    /// The devices.
    pub devices: Arc<Devices>,
    /// The virtual processors.
    pub processors: Vec<Handle>,
    record_file: OwnedFd,
    memory: Memory,
    vm: Vm,
}

/// Why a partition cannot be launched.
#[derive(Debug, thiserror::Error)]
pub enum LaunchFailure {
    /// The specification breaks a rule.
    #[error("the launch specification cannot be carried out")]
    Specification(#[from] LaunchError),
    /// A descriptor is not what it should be.
    #[error("the descriptors beside the launch specification are not what it says")]
    Descriptors(#[from] DescriptorError),
    /// The shared record cannot be mapped.
    #[error("the shared record cannot be mapped")]
    Record(#[source] MmapRegionError),
    /// Guest memory cannot be had.
    #[error("the partition's memory cannot be set up")]
    Memory(#[from] MemoryError),
    /// KVM refused.
    #[error("the virtual machine cannot be made")]
    Vm(#[from] VmError),
    /// The devices do not fit together.
    #[error("the devices cannot be put on their buses")]
    Devices(#[from] DevicesError),
    /// A device cannot be had.
    #[error("a device cannot be had")]
    Slot(#[from] SlotError),
    /// There is nothing to start.
    #[error("nothing can be started")]
    Boot(#[from] BootError),
    /// The main thread is not where it should be.
    #[error("the partition's main thread cannot run where it should")]
    Affinity(#[from] AffinityError),
    /// A virtual processor's thread is not where or as it should be.
    #[error("virtual processor {id} cannot run where it should, jailed")]
    Processor {
        /// Its number.
        id: u32,
        /// Why.
        #[source]
        source: Unprepared,
    },
    /// The main thread is not jailed.
    #[error("the partition's main thread cannot be jailed")]
    Jail(#[from] JailError),
    /// The operating system refused something else.
    #[error("{what} cannot be made")]
    System {
        /// What.
        what: &'static str,
        /// The error.
        #[source]
        source: io::Error,
    },
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> LaunchFailure {
    move |source| LaunchFailure::System { what, source }
}

impl Partition {
    /// What the lines to its I/O APIC do and did.
    #[must_use]
    pub fn lines(&self) -> Vec<LineStatus> {
        self.vm.interrupts.lines()
    }

    /// Launches a partition: everything stands when this returns, and every virtual processor waits.
    ///
    /// `messages` is the other end of `mailbox`, empty so far. The calling thread is moved to where the
    /// specification wants everything that is no virtual processor.
    ///
    /// # Errors
    /// [`LaunchFailure`]; the process is of no use then.
    pub fn launch(
        spec: Box<LaunchSpec>,
        given: Vec<OwnedFd>,
        mailbox: &Mailbox,
        messages: &Receiver<(u32, Message)>,
    ) -> Result<Self, LaunchFailure> {
        spec.validate()?;
        let given = Descriptors::sort(&spec, given)?;
        let anywhere = affinity::current().map_err(system("the process's CPU affinity"))?;
        if !spec.io.is_empty() {
            affinity::set(&spec.io)?;
        }
        kick::install().map_err(|error| LaunchFailure::System { what: "the kick's handler", source: error.into() })?;
        let record_file = vm::duplicate(&given.record).map_err(system("a descriptor"))?;
        let record = Arc::new(Record::map(given.record.into()).map_err(LaunchFailure::Record)?);
        let memory = Memory::map(&spec.memory, given.memory)?;
        let loaded = load(&spec, given.kernel.as_ref(), given.initrd.as_ref(), &given.modules, &memory)?;
        let mut vm = Vm::new(given.kvm, &memory, spec.interrupt_mode, &spec.apic_ids())?;
        let pit = spec.pit.unwrap_or(loaded.multiboot);
        if pit {
            vm.connect_8259()?;
        }
        let pit = pit.then(|| alarm(&vm, PIT_GSI)).transpose()?.map(|alarm| Arc::new(Pit::new(alarm)));
        let witness: Arc<dyn Witness> = Arc::new(mailbox.clone());
        let keeper = Keeper::new(spec.interrupt_limit, Arc::clone(&witness)).map_err(system("a timer"))?;
        let functions = slots::functions(&vm, &spec.devices, given.devices, &memory.guest, &witness, &keeper)?;
        let guarded = functions.iter().map(|(_, function)| Arc::clone(function)).collect();
        let mut wired: Vec<Arc<dyn Timed>> = vec![Arc::new(Release { keeper, functions: guarded })];
        for (source, descriptor) in spec.interrupts.iter().zip(given.interrupts) {
            wired.extend(vm.interrupts.wire(vm::eventfd(descriptor), source.gsi)?);
        }
        let watchdog = spec.watchdog.map(|_| watchdog(mailbox)).transpose()?;
        let (exit_device, panic_device) = (spec.exit_device, spec.panic_device);
        let extra = Extra { pit, exit_device, panic_device, watchdog: watchdog.clone(), functions, wired };
        let devices = devices(&vm, &record, given.doorbell, mailbox, extra)?;
        let count = spec.processors.len() as u32;
        let mut kit = Kit::new(&vm, &spec)?;
        describe(&spec, &kit, &memory)?;
        let mut processors = Vec::with_capacity(spec.processors.len());
        for (id, processor) in (0..count).zip(&spec.processors) {
            let (fd, seat) = kit.build(&vm, id, (id == 0).then_some(&loaded.entry))?;
            let parts = Parts {
                id,
                fd,
                mapped: vm.fd.run_size(),
                affinity: or(&processor.affinity, &anywhere),
                seat,
                interrupts: Arc::clone(&vm.interrupts),
                devices: Arc::clone(&devices),
                record: Arc::clone(&record),
                mailbox: mailbox.clone(),
            };
            processors.push(Handle::spawn(parts).map_err(system("a virtual processor's thread"))?);
        }
        let mut threads = Vec::with_capacity(processors.len());
        for _ in &processors {
            // A thread that could not say so would have ended the process.
            let Ok((id, Message::Prepared(placed))) = messages.recv() else { break };
            threads.push(placed.map_err(|source| LaunchFailure::Processor { id, source })?);
        }
        if let (Some(watchdog), Some(directory)) = (&watchdog, &given.tasks) {
            watchdog.watch(Tasks::open(directory, &threads));
        }
        // Every other thread stands, so this one needs to start none any more.
        jail::confine(Class::Monitor)?;
        Ok(Self { spec, record, devices, processors, record_file, memory, vm })
    }

    /// What a manager that takes over is given: record, doorbell, memory in order, virtual processors in
    /// order.
    #[must_use]
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let mut all = vec![self.record_file.as_fd(), self.devices.console.doorbell().as_fd()];
        all.extend(self.memory.descriptors());
        all.extend(self.processor_descriptors());
        all
    }

    /// Tells the device of this name that it was serviced; one that is not there is nothing.
    pub fn service(&self, device: &str) {
        let functions = self.spec.devices.iter().zip(&self.devices.functions);
        for (_, (_, function)) in functions.filter(|(spec, _)| spec.name.as_str() == device) {
            function.service();
        }
    }

    /// The virtual processors' descriptors, in order.
    #[must_use]
    pub fn processor_descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.processors.iter().map(|processor| processor.descriptor().as_fd()).collect()
    }
}

fn or(affinity: &CpuSet, anywhere: &CpuSet) -> CpuSet {
    if affinity.is_empty() { anywhere.clone() } else { affinity.clone() }
}

/// What not every partition has.
struct Extra {
    pit: Option<Arc<Pit>>,
    exit_device: bool,
    panic_device: bool,
    watchdog: Option<Arc<Watchdog>>,
    functions: Vec<(u8, Arc<VirtioFunction>)>,
    wired: Vec<Arc<dyn Timed>>,
}

fn devices(
    vm: &Vm,
    record: &Arc<Record>,
    doorbell: OwnedFd,
    mailbox: &Mailbox,
    extra: Extra,
) -> Result<Arc<Devices>, LaunchFailure> {
    let Extra { pit, exit_device, panic_device, watchdog, functions, wired } = extra;
    let console = Arc::new(Console::new(Arc::clone(record), doorbell, vm.interrupts.pulse(SERIAL_GSI)?));
    let channel = Arc::new(Channel::new(mailbox.wake.try_clone().map_err(system("a descriptor"))?));
    let sci = vm.interrupts.line(SCI_GSI);
    let rtc = Arc::new(Rtc::new(alarm(vm, RTC_GSI)?));
    let ioapic = vm.interrupts.ioapic();
    let timer = vm.interrupts.emulated().map(|_| PmTimer::new(crate::vcpu::alarm::now));
    let parts = devices::Parts {
        console,
        channel,
        sci,
        rtc,
        pit,
        timer,
        exit_device,
        panic_device,
        watchdog,
        functions,
        ioapic,
        wired,
    };
    Ok(Arc::new(Devices::new(parts)?))
}

/// The watchdog, whose expiry goes to the driver.
fn watchdog(mailbox: &Mailbox) -> Result<Arc<Watchdog>, LaunchFailure> {
    let alarm = Alarm::new(Box::new(Bark(mailbox.clone()))).map_err(system("a timer"))?;
    let made = Watchdog::new(alarm, crate::vcpu::alarm::now);
    let made = made.map_err(|error| system("the watchdog")(io::Error::other(error)))?;
    Ok(Arc::new(made))
}

/// A timer on an interrupt.
fn alarm(vm: &Vm, gsi: u32) -> Result<Alarm, LaunchFailure> {
    Alarm::new(vm.interrupts.pulse(gsi)?).map_err(system("a timer"))
}

/// Leaves the tables by which the guest knows its machine.
fn describe(spec: &LaunchSpec, kit: &Kit, memory: &Memory) -> Result<(), LaunchFailure> {
    let machine = acpi::Machine::of(spec, &memory.slots);
    let (start, tables) = (smbios::TABLES, smbios::tables(&smbios::Identity::of(spec, kit, &memory.slots)));
    for (address, bytes) in [(acpi::TABLES, acpi::tables(&machine)), (start, tables)] {
        memory.guest.write_slice(&bytes, GuestAddress(address)).map_err(|_| VmError::Memory(address))?;
    }
    Ok(())
}

fn load(
    spec: &LaunchSpec,
    kernel: Option<&File>,
    initrd: Option<&File>,
    modules: &[File],
    memory: &Memory,
) -> Result<boot::Loaded, LaunchFailure> {
    let (cmdline, lines) = match &spec.boot {
        BootSpec::Diagnostics { cmdline } => (cmdline, &[][..]),
        BootSpec::Kernel { cmdline, modules, .. } => (cmdline, modules.as_slice()),
    };
    let kernel = match kernel {
        Some(file) => Source::file("kernel", file)?,
        None => Source::bytes("built-in payload", diagnostics::IMAGE),
    };
    let initrd = initrd.map(|file| Source::file("initial RAM disk", file)).transpose()?;
    let modules = modules
        .iter()
        .zip(lines)
        .map(|(file, line)| Ok((Source::file("module", file)?, line.as_str())))
        .collect::<Result<_, BootError>>()?;
    Ok(boot::load(&Boot { kernel, initrd, modules, cmdline }, memory)?)
}
