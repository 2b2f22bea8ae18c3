//! The virtual machine: what KVM is asked for, and in which order.
//!
//! Memory slots come before the interrupt controller: on some hosts every slot set after it costs
//! milliseconds. KVM's 8254 is not used: its kernel thread would run outside of the partition. The 8259 that
//! comes with the I/O APIC has no routes, so it raises nothing, unless [`Vm::connect_8259`] gives it some.

pub mod cpuid;
mod machine_check;
pub mod processor;

use crate::devices::pm::Line;
use crate::interrupts::routes::Routes;
use crate::memory::Memory;
use frame::platform::{IDENTITY_MAP_ADDRESS, TSS_ADDRESS};
use kvm_bindings::{
    KVM_API_VERSION, KVM_CAP_X2APIC_API, KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE, KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK, KVM_X2APIC_API_USE_32BIT_IDS, kvm_enable_cap,
    kvm_irq_routing_entry, kvm_irq_routing_irqchip, kvm_irqchip, kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, Kvm, VmFd};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::sync::Arc;
use vm_memory::{GuestAddress, GuestMemoryBackend};
use vmm_sys_util::errno;
use vmm_sys_util::eventfd::EventFd;

/// Pins of the I/O APIC, which are the global system interrupts 0..24.
pub const PINS: u32 = 24;

/// Why KVM could not make what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// The descriptor is not KVM's.
    #[error("the descriptor for /dev/kvm answers API version {0}, it must be {KVM_API_VERSION}: it is no /dev/kvm")]
    NotKvm(i32),
    /// An ioctl failed.
    #[error("{what} failed")]
    Call {
        /// Which, and for what.
        what: String,
        /// The error.
        #[source]
        source: errno::Error,
    },
    /// A table does not fit what KVM takes.
    #[error("{0} does not fit into the table that KVM takes")]
    Table(&'static str),
    /// Guest memory that is not mapped: a fault of this program.
    #[error("guest memory at {0:#x} is not mapped")]
    Memory(u64),
}

/// For `map_err`: the call that failed.
pub(crate) fn call(what: impl Into<String>) -> impl FnOnce(errno::Error) -> VmError {
    move |source| VmError::Call { what: what.into(), source }
}

/// A virtual machine without virtual processors.
#[derive(Debug)]
pub struct Vm {
    /// KVM.
    pub kvm: Kvm,
    /// The virtual machine.
    pub fd: Arc<VmFd>,
    /// Where interrupts lead.
    pub routes: Arc<Routes>,
    /// Whether the 8259 raises interrupts, through LINT0 of the boot processor.
    pub has_8259: bool,
}

impl Vm {
    /// Makes a virtual machine with `memory`, interrupt controllers and routing.
    ///
    /// # Errors
    /// [`VmError`] with the call that failed.
    pub fn new(kvm: OwnedFd, memory: &Memory) -> Result<Self, VmError> {
        // SAFETY: the descriptor is owned and given away here; whether it is KVM's is asked next.
        let kvm = unsafe { Kvm::from_raw_fd(kvm.into_raw_fd()) };
        let version = kvm.get_api_version();
        if version != KVM_API_VERSION as i32 {
            return Err(VmError::NotKvm(version));
        }
        let fd = kvm.create_vm().map_err(call("KVM_CREATE_VM"))?;
        set_slots(&fd, memory)?;
        if kvm.check_extension(Cap::SetTssAddr) {
            fd.set_tss_address(TSS_ADDRESS as usize).map_err(call("KVM_SET_TSS_ADDR"))?;
        }
        if kvm.check_extension(Cap::SetIdentityMapAddr) {
            fd.set_identity_map_address(IDENTITY_MAP_ADDRESS).map_err(call("KVM_SET_IDENTITY_MAP_ADDR"))?;
        }
        fd.create_irq_chip().map_err(call("KVM_CREATE_IRQCHIP"))?;
        let fd = Arc::new(fd);
        let routes = Routes::new(Arc::clone(&fd));
        routes.set_pins(routing(false))?;
        let mut wide = kvm_enable_cap { cap: KVM_CAP_X2APIC_API, ..Default::default() };
        let flags = KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK;
        if let Some(argument) = wide.args.first_mut() {
            *argument = flags.into();
        }
        if kvm.check_extension_raw(KVM_CAP_X2APIC_API.into()) & flags as i32 == flags as i32 {
            fd.enable_cap(&wide).map_err(call("KVM_ENABLE_CAP of KVM_CAP_X2APIC_API"))?;
        }
        Ok(Self { kvm, fd, routes, has_8259: false })
    }

    /// Gives the 8259 its interrupts too, for guests that know nothing newer. It is left as firmware leaves it:
    /// vectors from 0x08 and 0x70 on, every input masked.
    ///
    /// # Errors
    /// [`VmError::Call`].
    pub fn connect_8259(&mut self) -> Result<(), VmError> {
        for (chip_id, base) in [(KVM_IRQCHIP_PIC_MASTER, 0x08), (KVM_IRQCHIP_PIC_SLAVE, 0x70)] {
            let mut chip = kvm_irqchip { chip_id, ..Default::default() };
            self.fd.get_irqchip(&mut chip).map_err(call("KVM_GET_IRQCHIP of an 8259"))?;
            chip.chip.pic.imr = 0xff;
            chip.chip.pic.irq_base = base;
            self.fd.set_irqchip(&chip).map_err(call("KVM_SET_IRQCHIP of an 8259"))?;
        }
        self.routes.set_pins(routing(true))?;
        self.has_8259 = true;
        Ok(())
    }

    /// Makes writes to `source`, an eventfd, raise the I/O APIC's pin `gsi` for an instant.
    ///
    /// # Errors
    /// [`VmError::Call`], also when `source` is no eventfd.
    pub fn wire(&self, source: &EventFd, gsi: u32) -> Result<(), VmError> {
        self.fd.register_irqfd(source, gsi).map_err(call(format!("KVM_IRQFD for interrupt {gsi}")))
    }

    /// A line that holds the I/O APIC's pin `gsi`.
    #[must_use]
    pub fn line(&self, gsi: u32) -> Box<dyn Line> {
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

fn set_slots(fd: &VmFd, memory: &Memory) -> Result<(), VmError> {
    for (number, slot) in (0..).zip(&memory.slots) {
        let address =
            memory.guest.get_host_address(GuestAddress(slot.start)).map_err(|_| VmError::Memory(slot.start))?;
        let region = kvm_userspace_memory_region {
            slot: number,
            guest_phys_addr: slot.start,
            memory_size: slot.bytes,
            userspace_addr: address as u64,
            flags: 0,
        };
        // SAFETY: the mapping is that of this slot, as long as it, and stays while the process lives.
        unsafe { fd.set_user_memory_region(region) }
            .map_err(call(format!("KVM_SET_USER_MEMORY_REGION of {} bytes at {:#x}", slot.bytes, slot.start)))?;
    }
    Ok(())
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

/// An eventfd, from a descriptor that the manager gave.
#[must_use]
pub fn eventfd(descriptor: OwnedFd) -> EventFd {
    // SAFETY: the descriptor is owned and given away here; KVM itself checks that it is an eventfd.
    unsafe { EventFd::from_raw_fd(descriptor.into_raw_fd()) }
}

/// Another descriptor of the same open file.
///
/// # Errors
/// When there are too many.
pub fn duplicate(of: &impl AsRawFd) -> std::io::Result<OwnedFd> {
    // SAFETY: `of` keeps its descriptor open during the call.
    let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(of.as_raw_fd()) };
    borrowed.try_clone_to_owned()
}
