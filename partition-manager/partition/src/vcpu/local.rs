//! A virtual processor whose local APIC is in user space: what KVM would do for it otherwise. It injects interrupts
//! (KVM API, section 4.16 `KVM_INTERRUPT`, and section 5), waits out halts, and obeys INIT and start-up.

use super::alarm::{ThreadAlarm, now};
use crate::interrupts::Emulated;
use crate::interrupts::lapic::{BYTES, Lapic};
use frame::record::Cause;
use kvm_bindings::{KVMIO, kvm_interrupt, kvm_regs, kvm_sregs};
use kvm_ioctls::VcpuFd;
use std::sync::Arc;
use std::time::Duration;
use vmm_sys_util::errno;
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;

mod request {
    use super::{KVMIO, ioctl_iow_nr, kvm_interrupt};

    ioctl_iow_nr!(KVM_INTERRUPT, KVMIO, 0x86, kvm_interrupt);
}

/// Bits of `IA32_APIC_BASE` (Intel SDM, volume 3, section 11.4.4).
pub const APIC_ON: u64 = 1 << 11;
/// The boot processor.
pub const APIC_BOOT: u64 = 1 << 8;
const APIC_ADDRESS: u64 = 0xf_ffff_ffff_f000;

/// What a virtual processor is made with.
#[derive(Debug)]
pub struct Seat {
    /// The controllers.
    pub emulated: Arc<Emulated>,
    /// Its registers as after a reset.
    pub reset: (kvm_regs, kvm_sregs),
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Enter the guest.
    Enter,
    /// Wait to be woken, or for so long.
    Wait(Option<Duration>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Activity {
    Running,
    Halted,
    WaitingForStartup,
}

/// A virtual processor and its local APIC, on the processor's thread.
#[derive(Debug)]
pub struct Local {
    emulated: Arc<Emulated>,
    processor: usize,
    reset: (kvm_regs, kvm_sregs),
    alarm: ThreadAlarm,
    activity: Activity,
    base: u64,
}

fn failed(error: errno::Error) -> Cause {
    Cause::RunFailed { errno: error.errno() }
}

impl Local {
    /// For the current thread, which is that of virtual processor `id`: number 0 runs, the others wait to be started.
    ///
    /// # Errors
    /// When there are too many timers.
    pub fn new(seat: Seat, id: u32, fd: &mut VcpuFd) -> std::io::Result<Self> {
        let Seat { emulated, reset } = seat;
        let processor = id as usize;
        if let Some(waker) = emulated.board.waker(processor) {
            waker.attach();
        }
        let activity = if id == 0 { Activity::Running } else { Activity::WaitingForStartup };
        let base = reset.1.apic_base;
        fd.get_kvm_run().apic_base = base;
        Ok(Self { emulated, processor, reset, alarm: ThreadAlarm::new()?, activity, base })
    }

    fn with<T>(&self, act: impl FnOnce(&mut Lapic) -> T) -> Option<T> {
        self.emulated.board.with(self.processor, act)
    }

    /// Brings what waits for the processor into it.
    ///
    /// # Errors
    /// The cause to end with, when KVM refuses.
    pub fn prepare(&mut self, fd: &mut VcpuFd) -> Result<Next, Cause> {
        if let Some(waker) = self.emulated.board.waker(self.processor) {
            waker.enter();
        }
        let now = now();
        if self.with(|lapic| {
            lapic.advance(now);
            lapic.take_init()
        }) == Some(true)
        {
            self.initialize(fd).map_err(failed)?;
        }
        if let Some(page) = self.with(Lapic::take_startup).flatten()
            && self.activity == Activity::WaitingForStartup
        {
            self.start(fd, page).map_err(failed)?;
        }
        if self.activity == Activity::WaitingForStartup {
            return Ok(self.wait(None));
        }
        if self.with(Lapic::take_nmi) == Some(true) {
            fd.nmi().map_err(failed)?;
            self.activity = Activity::Running;
        }
        let run = fd.get_kvm_run();
        let (open, enabled) = (run.ready_for_interrupt_injection != 0 && run.if_flag != 0, run.if_flag != 0);
        if self.activity == Activity::Halted {
            if !enabled || self.with(|lapic| lapic.deliverable()).flatten().is_none() {
                let left = self.with(|lapic| lapic.deadline()).flatten().map(|deadline| deadline.saturating_sub(now));
                return Ok(self.wait(left.map(Duration::from_nanos)));
            }
            self.activity = Activity::Running;
        }
        let vector = if open { self.emulated.board.acknowledge(self.processor) } else { None };
        if let Some(vector) = vector {
            inject(fd, vector).map_err(failed)?;
        }
        let (more, class, deadline) = self
            .with(|lapic| (lapic.deliverable().is_some(), lapic.task_priority() >> 4, lapic.deadline()))
            .unwrap_or_default();
        self.alarm.set(deadline);
        let run = fd.get_kvm_run();
        run.request_interrupt_window = more.into();
        run.cr8 = class.into();
        Ok(Next::Enter)
    }

    fn wait(&self, time: Option<Duration>) -> Next {
        self.leave();
        Next::Wait(time)
    }

    fn leave(&self) {
        if let Some(waker) = self.emulated.board.waker(self.processor) {
            waker.leave();
        }
    }

    /// After `KVM_RUN`: takes over what the guest changed without an exit.
    pub fn settle(&mut self, fd: &mut VcpuFd) {
        self.leave();
        let run = fd.get_kvm_run();
        let (class, base) = (run.cr8 as u8, run.apic_base);
        self.base = base;
        let _ = self.with(|lapic| {
            lapic.set_class(class);
            lapic.switch(base & APIC_ON != 0);
        });
    }

    /// The guest executed HLT.
    pub const fn halt(&mut self) {
        self.activity = Activity::Halted;
    }

    /// Raises a non-maskable interrupt, which wakes it too.
    pub fn nmi(&self) {
        let _ = self.with(|lapic| lapic.raise(1));
    }

    /// The offset of `address` in the local APIC's page, if it is there.
    fn offset(&self, address: u64) -> Option<u64> {
        let offset = address.checked_sub(self.base & APIC_ADDRESS)?;
        (self.base & APIC_ON != 0 && offset < BYTES).then_some(offset)
    }

    /// Reads from the local APIC. `false` when it is not there.
    pub fn read(&self, address: u64, data: &mut [u8]) -> bool {
        let Some(offset) = self.offset(address) else { return false };
        let word = self.with(|lapic| lapic.read(offset & !0xf, now())).unwrap_or_default().to_le_bytes();
        let bytes = word.into_iter().skip((offset & 0xf) as usize).chain(std::iter::repeat(0));
        data.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
        true
    }

    /// Writes to the local APIC: registers are 32 bits wide at multiples of 16 (section 11.4.1), other writes are
    /// dropped. `false` when it is not there.
    pub fn write(&self, address: u64, data: &[u8]) -> bool {
        let Some(offset) = self.offset(address) else { return false };
        if let (Ok(word), 0) = (<[u8; 4]>::try_from(data), offset & 0xf)
            && let Some(effect) = self.with(|lapic| lapic.write(offset, u32::from_le_bytes(word), now()))
            && let Some(ended) = self.emulated.board.carry_out(self.processor, effect)
        {
            self.emulated.end(ended);
        }
        true
    }

    /// INIT: the registers are those after a reset, and all but the boot processor wait to be started (section 9.4.4).
    fn initialize(&mut self, fd: &mut VcpuFd) -> errno::Result<()> {
        let (regs, mut sregs) = self.reset;
        sregs.apic_base = self.base;
        fd.set_sregs(&sregs)?;
        fd.set_regs(&regs)?;
        let mut events = fd.get_vcpu_events()?;
        (events.exception.injected, events.exception.pending) = (0, 0);
        (events.interrupt.injected, events.interrupt.shadow) = (0, 0);
        (events.nmi.injected, events.nmi.pending, events.nmi.masked) = (0, 0, 0);
        fd.set_vcpu_events(&events)?;
        self.forget_window(fd);
        self.activity = if self.base & APIC_BOOT != 0 { Activity::Running } else { Activity::WaitingForStartup };
        Ok(())
    }

    /// Start-up: real mode at the page.
    fn start(&mut self, fd: &mut VcpuFd, page: u8) -> errno::Result<()> {
        let mut sregs = fd.get_sregs()?;
        sregs.cs.selector = u16::from(page) << 8;
        sregs.cs.base = u64::from(page) << 12;
        fd.set_sregs(&sregs)?;
        fd.set_regs(&kvm_regs { rip: 0, ..fd.get_regs()? })?;
        self.forget_window(fd);
        self.activity = Activity::Running;
        Ok(())
    }

    /// What the last exit said of interrupts is no longer so.
    fn forget_window(&self, fd: &mut VcpuFd) {
        let run = fd.get_kvm_run();
        (run.ready_for_interrupt_injection, run.if_flag) = (0, 0);
    }
}

fn inject(fd: &mut VcpuFd, vector: u8) -> errno::Result<()> {
    let interrupt = kvm_interrupt { irq: vector.into() };
    // SAFETY: the descriptor is a virtual processor's, and the structure is read only.
    let result = unsafe { ioctl_with_ref(fd, request::KVM_INTERRUPT(), &interrupt) };
    if result < 0 {
        return Err(errno::Error::last());
    }
    // Until the next exit says otherwise, there is no room for another.
    fd.get_kvm_run().ready_for_interrupt_injection = 0;
    Ok(())
}
