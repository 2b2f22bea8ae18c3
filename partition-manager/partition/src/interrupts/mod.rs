//! Interrupt routing: from a device's line or message to the partition's interrupt controllers, wherever those are.

mod board;
mod chip;
pub mod doorbells;
mod emulated;
pub mod ioapic;
mod kernel;
pub mod lapic;
pub mod latency;
mod lines;
pub mod message;
pub mod pins;
pub mod routes;
mod split;
mod waker;
mod wired;

pub use emulated::Emulated;

use crate::devices::alarm::Timed;
use crate::devices::bus::Device;
use crate::devices::pci::msix::Vector;
use crate::devices::pm::Line;
use crate::vm::{PINS, VmError, call};
use chip::{Chip, ChipPin};
use frame::launch::InterruptMode;
use frame::wire::LineStatus;
use kernel::Kernel;
use kvm_ioctls::VmFd;
use lines::Counts;
use routes::Routes;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vmm_sys_util::errno;
use vmm_sys_util::eventfd::EventFd;

/// A pin that is raised for an instant.
pub trait Pulse: Send + Sync + Debug {
    /// Raises it. What is pending already is not raised twice.
    fn raise(&self);
}

impl Pulse for EventFd {
    fn raise(&self) {
        // A full eventfd raises it just as well.
        let _ = self.write(1);
    }
}

/// The interrupt controllers of a partition: where its devices get their interrupts, the same in every mode.
#[derive(Debug)]
pub struct Controllers {
    mode: Mode,
    counts: Counts,
}

#[derive(Debug)]
enum Mode {
    Kernel(Kernel),
    Split { chip: Arc<Chip>, routes: Arc<Routes> },
    Emulated(Arc<Emulated>),
}

impl Controllers {
    /// Makes the controllers of `mode`. `ids` are the identifiers of the local APICs, by virtual processor. Comes
    /// before the virtual processors.
    ///
    /// # Errors
    /// [`VmError`] with the call that failed.
    pub fn new(mode: InterruptMode, fd: &Arc<VmFd>, ids: &[u32]) -> Result<Self, VmError> {
        let mode = match mode {
            InterruptMode::Kernel => Mode::Kernel(Kernel::new(Arc::clone(fd))?),
            InterruptMode::Split => {
                let routes = Routes::new(Arc::clone(fd));
                let chip = Chip::new(split::Messages::new(Arc::clone(fd), Arc::clone(&routes))?);
                Mode::Split { chip, routes }
            }
            InterruptMode::Emulated => {
                let ids: Result<Vec<u8>, _> = ids.iter().map(|id| u8::try_from(*id)).collect();
                Mode::Emulated(Emulated::new(&ids.map_err(|_| VmError::Table("the identifier of a local APIC"))?))
            }
        };
        Ok(Self { mode, counts: Counts::new(PINS) })
    }

    /// Routes the pins to KVM's 8259s too.
    ///
    /// # Errors
    /// [`VmError`]; also where there is no 8259.
    pub fn connect_8259(&self) -> Result<(), VmError> {
        match &self.mode {
            Mode::Kernel(kernel) => kernel.connect_8259(),
            _ => Err(VmError::No8259),
        }
    }

    /// A line that holds the I/O APIC's pin `gsi`. A level-triggered interrupt comes again after its end while the line
    /// is high.
    #[must_use]
    pub fn line(&self, gsi: u32) -> Box<dyn Line> {
        let line = match &self.mode {
            Mode::Kernel(kernel) => kernel.line(gsi),
            Mode::Split { chip, .. } => Box::new(ChipPin { chip: Arc::clone(chip), pin: gsi }),
            Mode::Emulated(emulated) => Box::new(ChipPin { chip: Arc::clone(&emulated.chip), pin: gsi }),
        };
        self.counts.line(gsi, line)
    }

    /// What raises the I/O APIC's pin `gsi` for an instant.
    ///
    /// # Errors
    /// [`VmError`].
    pub fn pulse(&self, gsi: u32) -> Result<Box<dyn Pulse>, VmError> {
        let pulse: Box<dyn Pulse> = match &self.mode {
            Mode::Kernel(kernel) => {
                let eventfd = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)
                    .map_err(|error| call("eventfd")(errno::Error::new(error.raw_os_error().unwrap_or(0))))?;
                kernel.wire(&eventfd, gsi)?;
                Box::new(eventfd)
            }
            Mode::Split { chip, .. } => Box::new(ChipPin { chip: Arc::clone(chip), pin: gsi }),
            Mode::Emulated(emulated) => Box::new(ChipPin { chip: Arc::clone(&emulated.chip), pin: gsi }),
        };
        Ok(self.counts.pulse(gsi, pulse))
    }

    /// What the pins of the I/O APIC that something can raise do and did. Pins that KVM raises for others are not
    /// counted ([`Controllers::wire`]).
    #[must_use]
    pub fn lines(&self) -> Vec<LineStatus> {
        let routes = match &self.mode {
            Mode::Kernel(kernel) => kernel.pins(),
            Mode::Split { chip, .. } => chip.state(),
            Mode::Emulated(emulated) => emulated.chip.state(),
        };
        let line = |(gsi, raised): (u32, u64)| {
            let message = routes.route(gsi as usize).map(|interrupt| interrupt.message());
            let (address, data) = (message.map(|message| message.0), message.map_or(0, |message| message.1));
            LineStatus { gsi, address, data, raised }
        };
        self.counts.figures().map(line).collect()
    }

    /// Makes writes to `source`, an eventfd, raise the I/O APIC's pin `gsi` for an instant. Where KVM does not read it
    /// itself, the event thread has to: with what is given back.
    ///
    /// # Errors
    /// [`VmError`], also when `source` is no eventfd.
    pub fn wire(&self, source: EventFd, gsi: u32) -> Result<Option<Arc<dyn Timed>>, VmError> {
        match &self.mode {
            Mode::Kernel(kernel) => kernel.keep(source, gsi).map(|()| None),
            _ => Ok(Some(Arc::new(wired::Wired { source, pulse: self.pulse(gsi)? }))),
        }
    }

    /// A way for messages. It leads nowhere yet.
    ///
    /// # Errors
    /// [`VmError::Table`] when there are too many.
    pub fn vector(&self) -> Result<Box<dyn Vector>, VmError> {
        match &self.mode {
            Mode::Kernel(kernel) => kernel.routes.vector(),
            Mode::Split { routes, .. } => routes.vector(),
            Mode::Emulated(emulated) => emulated.vector(),
        }
    }

    /// The registers of the I/O APIC, where it is in user space.
    #[must_use]
    pub fn ioapic(&self) -> Option<Arc<dyn Device>> {
        match &self.mode {
            Mode::Kernel(_) => None,
            Mode::Split { chip, .. } => Some(Arc::clone(chip) as _),
            Mode::Emulated(emulated) => Some(Arc::clone(&emulated.chip) as _),
        }
    }

    /// KVM says that a level-triggered interrupt with `vector` ended (`KVM_EXIT_IOAPIC_EOI`).
    pub fn ended(&self, vector: u8) {
        if let Mode::Split { chip, .. } = &self.mode {
            chip.end(vector);
        }
    }

    /// The controllers in user space, if all are.
    #[must_use]
    pub const fn emulated(&self) -> Option<&Arc<Emulated>> {
        match &self.mode {
            Mode::Emulated(emulated) => Some(emulated),
            _ => None,
        }
    }
}

/// Locks, also where a thread panicked: the process ends then anyway, and the state is plain data.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
