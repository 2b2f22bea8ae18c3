//! Virtual processors: a thread each, behind a handle.
//!
//! A virtual processor is paused, running or finished. It starts paused; commands move it on. Whatever
//! happens to it, its thread says exactly one [`Message::Finished`], with its registers.

pub mod affinity;
pub mod alarm;
pub mod exit;
pub mod kick;
pub mod local;

use crate::devices::Devices;
use crate::devices::pci::freeze::Fault;
use crate::devices::virtio::freezer::Witness;
use crate::interrupts::{Controllers, Pulse};
use crate::jail::{self, Class, JailError};
use crate::record::Record;
use crate::vm;
use affinity::AffinityError;
use crossbeam_channel::{Receiver, Sender, bounded};
use exit::Exit;
use frame::cpuset::CpuSet;
use frame::record::{Cause, ExitReason, Registers};
use frame::storm::Limit;
use frame::wire::{Frozen, Stormed};
use kick::Kickable;
use kvm_ioctls::VcpuFd;
use local::{Local, Next, Seat};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{Ordering, compiler_fence};
use std::thread::JoinHandle;
use vmm_sys_util::eventfd::EventFd;

/// Stack of a virtual processor's thread, bytes.
const STACK: usize = 256 << 10;
/// Commands that can wait. Non-maskable interrupts are not queued beyond [`INTERRUPTS`], so that there is
/// always room for the others.
const COMMANDS: usize = 8;
/// Non-maskable interrupts that can wait; a processor keeps no more apart (one served, one pending).
const INTERRUPTS: usize = 2;

/// What a virtual processor is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Command {
    Run,
    Nmi,
    Stop,
}

/// What a virtual processor says.
#[derive(Debug)]
pub enum Message {
    /// Its thread, which has this identifier, is where it should be, jailed, and waits; or it cannot be.
    Prepared(Result<i32, Unprepared>),
    /// It is about to enter the guest for the first time.
    Entered,
    /// It will not run any more.
    Finished(End),
    /// A device froze; said by the device, under [`DEVICES`].
    Froze(Frozen),
    /// An interrupt source was quarantined; said by the device, under [`DEVICES`].
    Stormed(Stormed),
    /// The watchdog has expired; said under [`DEVICES`], and again until the partition ends.
    Expired,
}

/// Why the thread of a virtual processor cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unprepared {
    /// It is not where it should be.
    #[error(transparent)]
    Affinity(#[from] AffinityError),
    /// It is not jailed.
    #[error(transparent)]
    Jail(#[from] JailError),
}

/// The number under which devices say something.
pub const DEVICES: u32 = u32::MAX;

/// How a virtual processor came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// Why; absent when it was told to stop.
    pub cause: Option<Cause>,
    /// Its registers.
    pub registers: Registers,
}

/// Where messages go: the queue, and the eventfd that says that it is not empty.
#[derive(Clone, Debug)]
pub struct Mailbox {
    /// The queue: number of the virtual processor and message.
    pub queue: Sender<(u32, Message)>,
    /// The eventfd.
    pub wake: Arc<EventFd>,
}

impl Witness for Mailbox {
    fn froze(&self, device: &str, fault: &Fault, permanent: bool) {
        let (device, reason) = (device.to_owned(), fault.to_string());
        self.say(DEVICES, Message::Froze(Frozen { device, reason, permanent }));
    }

    fn stormed(&self, device: &str, vector: u16, limit: Limit, lasting: bool) {
        let stormed = Stormed { device: device.to_owned(), vector, rate: limit.rate, lasting };
        // Whoever raises it may hold what the reader waits for. Where there is no room, the event is lost, and the
        // source's state tells.
        let _ = self.queue.try_send((DEVICES, Message::Stormed(stormed)));
        let _ = self.wake.write(1);
    }
}

/// The way of the watchdog to the driver.
#[derive(Debug)]
pub struct Bark(pub Mailbox);

impl Pulse for Bark {
    fn raise(&self) {
        // The thread that reads the queue may be the one that raises: where there is no room, it is said again.
        let _ = self.0.queue.try_send((DEVICES, Message::Expired));
        let _ = self.0.wake.write(1);
    }
}

impl Mailbox {
    fn say(&self, id: u32, message: Message) {
        // A queue without a reader means that the process ends; a full eventfd wakes just as well.
        let _ = self.queue.send((id, message));
        let _ = self.wake.write(1);
    }
}

/// What a virtual processor's thread works with.
#[derive(Debug)]
pub struct Parts {
    /// Its number.
    pub id: u32,
    /// The virtual processor, set up.
    pub fd: VcpuFd,
    /// Bytes of its `kvm_run` mapping.
    pub mapped: usize,
    /// Where its thread runs.
    pub affinity: CpuSet,
    /// What it needs where its local APIC is in user space.
    pub seat: Option<Seat>,
    /// The interrupt controllers.
    pub interrupts: Arc<Controllers>,
    /// The devices.
    pub devices: Arc<Devices>,
    /// The shared record.
    pub record: Arc<Record>,
    /// Where messages go.
    pub mailbox: Mailbox,
}

/// A virtual processor, from outside.
#[derive(Debug)]
pub struct Handle {
    thread: JoinHandle<()>,
    commands: Sender<Command>,
    descriptor: OwnedFd,
}

impl Handle {
    /// Starts a virtual processor's thread, paused. It says [`Message::Prepared`].
    ///
    /// # Errors
    /// When there can be no more threads or descriptors.
    pub fn spawn(parts: Parts) -> io::Result<Self> {
        let descriptor = vm::duplicate(&parts.fd)?;
        let (commands, inbox) = bounded(COMMANDS);
        let name = format!("vcpu{}", parts.id);
        let thread = std::thread::Builder::new().name(name).stack_size(STACK).spawn(move || body(parts, &inbox))?;
        Ok(Self { thread, commands, descriptor })
    }

    /// Its descriptor, for others to map.
    #[must_use]
    pub fn descriptor(&self) -> &OwnedFd {
        &self.descriptor
    }

    /// Enters the guest.
    pub fn run(&self) {
        let _ = self.commands.try_send(Command::Run);
    }

    /// Raises a non-maskable interrupt.
    pub fn nmi(&self) {
        if self.commands.len() < INTERRUPTS {
            let _ = self.commands.try_send(Command::Nmi);
            self.kick();
        }
    }

    /// Leaves the guest for good.
    pub fn stop(&self) {
        let _ = self.commands.try_send(Command::Stop);
        self.kick();
    }

    /// Gets the thread out of the guest to look at its commands.
    pub fn kick(&self) {
        kick::kick(&self.thread);
    }

    /// Whether a command was not taken yet: then a kick may be repeated.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        !self.commands.is_empty()
    }
}

/// The thread: every path through [`live`] gives one end, and it is said once.
fn body(parts: Parts, inbox: &Receiver<Command>) {
    let (id, mailbox) = (parts.id, parts.mailbox.clone());
    let end = live(parts, inbox);
    mailbox.say(id, Message::Finished(end));
}

fn live(parts: Parts, inbox: &Receiver<Command>) -> End {
    let Parts { id, fd, mapped, affinity, seat, interrupts, devices, record, mailbox } = parts;
    let thread = rustix::thread::gettid().as_raw_nonzero().get();
    let placed = affinity::set(&affinity);
    let mut kickable = Kickable::new(fd);
    let local = seat.map(|seat| Local::new(seat, id, &mut kickable.fd)).transpose();
    let (local, failure) = match local {
        Ok(local) => (local, None),
        Err(error) => (None, Some(Cause::RunFailed { errno: error.raw_os_error().unwrap_or(0) })),
    };
    let mut guest = Guest { id, kickable, mapped, local, interrupts, devices, record, exit: None, inbox };
    // The last of what it prepares: from here on the thread has the calls of its class only.
    let prepared = placed.map_err(Unprepared::from).and_then(|()| Ok(jail::confine(Class::Processor)?));
    mailbox.say(id, Message::Prepared(prepared.map(|()| thread)));
    let cause = if guest.wait() {
        mailbox.say(id, Message::Entered);
        failure.or_else(|| guest.run())
    } else {
        None
    };
    End { cause, registers: guest.registers() }
}

struct Guest<'thread> {
    id: u32,
    kickable: Kickable,
    mapped: usize,
    local: Option<Local>,
    interrupts: Arc<Controllers>,
    devices: Arc<Devices>,
    record: Arc<Record>,
    /// The last exit and when it came, by [`alarm::now`], until its time is counted.
    exit: Option<(ExitReason, u64)>,
    inbox: &'thread Receiver<Command>,
}

impl Guest<'_> {
    /// Paused: waits for a command; `true` when it is to run.
    fn wait(&self) -> bool {
        loop {
            match self.inbox.recv() {
                Ok(Command::Run) => return true,
                Ok(Command::Nmi) => self.nmi(),
                // Without a handle there is nobody to run for.
                Ok(Command::Stop) | Err(_) => return false,
            }
        }
    }

    fn nmi(&self) {
        match &self.local {
            Some(local) => local.nmi(),
            // It fails only where there is no local APIC.
            None => drop(self.kickable.fd.nmi()),
        }
    }

    /// Running: until there is a cause to end, or a command.
    fn run(&mut self) -> Option<Cause> {
        loop {
            match self.prepare() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(cause) => return Some(cause),
            }
            self.spend();
            let result = self.kickable.fd.run().map(drop);
            let begin = alarm::now();
            if let Some(local) = &mut self.local {
                local.settle(&mut self.kickable.fd);
            }
            match result {
                Ok(()) => match self.handle(begin) {
                    Ok(()) => {}
                    Err(cause) => return Some(cause),
                },
                Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
                    self.count(ExitReason::Interrupted, begin);
                    // Cleared before the commands are looked at, or a kick between would be lost. The handler
                    // runs on this thread, so it is enough to hold the compiler to the order.
                    self.kickable.fd.set_kvm_immediate_exit(0);
                    compiler_fence(Ordering::SeqCst);
                    if !self.obey() {
                        return None;
                    }
                }
                Err(error) => {
                    self.count(ExitReason::Other, begin);
                    return Some(Cause::RunFailed { errno: error.errno() });
                }
            }
        }
    }

    /// Brings interrupts into the processor, where that is done here, and waits while it has nothing to run; `false`
    /// when it is to stop.
    fn prepare(&mut self) -> Result<bool, Cause> {
        let Some(local) = &mut self.local else { return Ok(true) };
        loop {
            let Next::Wait(time) = local.prepare(&mut self.kickable.fd)? else { return Ok(true) };
            // Whoever has a command or an interrupt for it unparks it after that, so none is missed between.
            for command in self.inbox.try_iter() {
                match command {
                    Command::Run => {}
                    Command::Nmi => local.nmi(),
                    Command::Stop => return Ok(false),
                }
            }
            if let Some((reason, begin)) = self.exit.take() {
                self.record.spend(self.id as usize, reason, alarm::now().saturating_sub(begin));
            }
            match time {
                Some(time) => std::thread::park_timeout(time),
                None => std::thread::park(),
            }
        }
    }

    fn count(&mut self, reason: ExitReason, begin: u64) {
        self.record.count(self.id as usize, reason);
        self.exit = Some((reason, begin));
    }

    /// Counts the time that was spent with the last exit, which is now: the guest goes on, or it waits.
    fn spend(&mut self) {
        if let Some((reason, begin)) = self.exit.take() {
            self.record.spend(self.id as usize, reason, alarm::now().saturating_sub(begin));
        }
    }

    /// Does what is asked; `false` when it is to stop.
    fn obey(&self) -> bool {
        for command in self.inbox.try_iter() {
            match command {
                Command::Run => {}
                Command::Nmi => self.nmi(),
                Command::Stop => return false,
            }
        }
        true
    }

    /// Handles one exit, which came at `begin`.
    fn handle(&mut self, begin: u64) -> Result<(), Cause> {
        let run = &raw mut *self.kickable.fd.get_kvm_run();
        // SAFETY: the mapping is the virtual processor's, of the size that KVM gave, and this thread's alone
        // but for `immediate_exit`, which no exit refers to.
        let exit = unsafe { Exit::read(run, self.mapped) };
        self.record.count(self.id as usize, exit.reason());
        self.exit = Some((exit.reason(), begin));
        let local = self.local.as_ref();
        let cause = match exit {
            Exit::PortRead { port, size, data } => {
                self.devices.ports.read(port.into(), size, data);
                None
            }
            Exit::PortWrite { port, size, data } => self.devices.ports.write(port.into(), size, data),
            Exit::MmioRead { address, data } => {
                if !local.is_some_and(|local| local.read(address, data)) {
                    self.devices.mmio.read(address, data.len(), data);
                }
                None
            }
            Exit::MmioWrite { address, data } => {
                let taken = local.is_some_and(|local| local.write(address, data));
                if taken { None } else { self.devices.mmio.write(address, data.len(), data) }
            }
            Exit::Halt => match &mut self.local {
                Some(local) => {
                    local.halt();
                    None
                }
                // KVM waits out the halts of its own local APICs.
                None => return Err(Cause::UnhandledExit { reason: kvm_bindings::KVM_EXIT_HLT }),
            },
            Exit::Ended(vector) => {
                self.interrupts.ended(vector);
                None
            }
            Exit::Again(_) => None,
            Exit::End(_, cause) => return Err(cause),
        };
        match cause {
            None => Ok(()),
            Some(cause) => {
                self.complete();
                Err(cause)
            }
        }
    }

    /// Lets KVM finish the instruction that made a device end the partition, without entering the guest, so
    /// that the registers are those after it.
    fn complete(&mut self) {
        self.kickable.fd.set_kvm_immediate_exit(1);
        let _ = self.kickable.fd.run();
    }

    /// The registers; zeros where KVM does not give them.
    fn registers(&self) -> Registers {
        let regs = self.kickable.fd.get_regs().unwrap_or_default();
        let sregs = self.kickable.fd.get_sregs().unwrap_or_default();
        Registers {
            rax: regs.rax,
            rbx: regs.rbx,
            rcx: regs.rcx,
            rdx: regs.rdx,
            rsi: regs.rsi,
            rdi: regs.rdi,
            rsp: regs.rsp,
            rbp: regs.rbp,
            r8: regs.r8,
            r9: regs.r9,
            r10: regs.r10,
            r11: regs.r11,
            r12: regs.r12,
            r13: regs.r13,
            r14: regs.r14,
            r15: regs.r15,
            rip: regs.rip,
            rflags: regs.rflags,
            cr0: sregs.cr0,
            cr2: sregs.cr2,
            cr3: sregs.cr3,
            cr4: sregs.cr4,
            efer: sregs.efer,
            cs: sregs.cs.selector.into(),
            ss: sregs.ss.selector.into(),
            gdt: sregs.gdt.base,
            idt: sregs.idt.base,
        }
    }
}
