//! Local APICs and I/O APIC in the kernel: `interrupts = "kernel"`.

use super::ioapic::Ioapic;
use super::lock;
use super::routes::Routes;
use crate::devices::pm::Line;
use crate::vm::{PINS, VmError, call};
use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, kvm_irq_routing_entry,
    kvm_irq_routing_irqchip, kvm_irqchip,
};
use kvm_ioctls::VmFd;
use std::sync::{Arc, Mutex};
use vmm_sys_util::eventfd::EventFd;

/// KVM's controllers.
#[derive(Debug)]
pub(super) struct Kernel {
    fd: Arc<VmFd>,
    pub(super) routes: Arc<Routes>,
    /// KVM unwires an eventfd when its last descriptor is closed, and whoever gave it may be gone.
    kept: Mutex<Vec<EventFd>>,
}

impl Kernel {
    /// Makes the controllers and routes the pins to the I/O APIC.
    pub(super) fn new(fd: Arc<VmFd>) -> Result<Self, VmError> {
        fd.create_irq_chip().map_err(call("KVM_CREATE_IRQCHIP"))?;
        let routes = Routes::new(Arc::clone(&fd));
        routes.set_pins(routing(false))?;
        Ok(Self { fd, routes, kept: Mutex::default() })
    }

    /// Routes the pins to the 8259s too. They are left as firmware leaves them: vectors from 0x08 and 0x70 on, every
    /// input masked.
    pub(super) fn connect_8259(&self) -> Result<(), VmError> {
        for (chip_id, base) in [(KVM_IRQCHIP_PIC_MASTER, 0x08), (KVM_IRQCHIP_PIC_SLAVE, 0x70)] {
            let mut chip = kvm_irqchip { chip_id, ..Default::default() };
            self.fd.get_irqchip(&mut chip).map_err(call("KVM_GET_IRQCHIP of an 8259"))?;
            chip.chip.pic.imr = 0xff;
            chip.chip.pic.irq_base = base;
            self.fd.set_irqchip(&chip).map_err(call("KVM_SET_IRQCHIP of an 8259"))?;
        }
        self.routes.set_pins(routing(true))
    }

    /// Makes writes to `source` raise pin `gsi` for an instant.
    pub(super) fn wire(&self, source: &EventFd, gsi: u32) -> Result<(), VmError> {
        self.fd.register_irqfd(source, gsi).map_err(call(format!("KVM_IRQFD for interrupt {gsi}")))
    }

    /// As [`Kernel::wire`], for as long as the partition lives.
    pub(super) fn keep(&self, source: EventFd, gsi: u32) -> Result<(), VmError> {
        self.wire(&source, gsi)?;
        lock(&self.kept).push(source);
        Ok(())
    }

    /// How the I/O APIC is programmed now; not at all where KVM does not say.
    pub(super) fn pins(&self) -> Ioapic {
        let mut chip = kvm_irqchip { chip_id: KVM_IRQCHIP_IOAPIC, ..Default::default() };
        if self.fd.get_irqchip(&mut chip).is_err() {
            return Ioapic::default();
        }
        // SAFETY: KVM filled in the I/O APIC's state, and any bits are one.
        let state = unsafe { chip.chip.ioapic };
        // SAFETY: an entry is 64 bits, whichever view of it was written.
        Ioapic::programmed(state.redirtbl.map(|entry| unsafe { entry.bits }))
    }

    /// A line that holds pin `gsi`.
    pub(super) fn line(&self, gsi: u32) -> Box<dyn Line> {
        Box::new(Pin { fd: Arc::clone(&self.fd), gsi })
    }
}

#[derive(Debug)]
struct Pin {
    fd: Arc<VmFd>,
    gsi: u32,
}

impl Line for Pin {
    fn set(&self, high: bool) {
        // It fails only for a pin that does not exist or without an interrupt controller.
        let _ = self.fd.set_irq_line(self.gsi, high);
    }
}

/// Every global system interrupt goes to the I/O APIC's pin of that number; those below 16 also to the 8259s, if
/// `legacy`, except for number 2, where the second 8259 is.
fn routing(legacy: bool) -> Vec<kvm_irq_routing_entry> {
    let entry = |gsi: u32, irqchip: u32, pin: u32| {
        let mut entry = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_IRQCHIP, ..Default::default() };
        entry.u.irqchip = kvm_irq_routing_irqchip { irqchip, pin };
        entry
    };
    let mut entries: Vec<kvm_irq_routing_entry> = (0..PINS).map(|pin| entry(pin, KVM_IRQCHIP_IOAPIC, pin)).collect();
    if legacy {
        entries.extend((0..8).filter(|pin| *pin != 2).map(|pin| entry(pin, KVM_IRQCHIP_PIC_MASTER, pin)));
        entries.extend((0..8).map(|pin| entry(8 + pin, KVM_IRQCHIP_PIC_SLAVE, pin)));
    }
    entries
}
