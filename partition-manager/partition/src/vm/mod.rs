//! The virtual machine: what KVM is asked for, and in which order.
//!
//! Memory slots come before the interrupt controller: on some hosts every slot set after it costs
//! milliseconds. KVM's 8254 is not used: its kernel thread would run outside of the partition. The 8259 that
//! comes with the I/O APIC has no routes, so it raises nothing, unless [`Vm::connect_8259`] gives it some.

pub mod cpuid;
mod machine_check;
pub mod processor;

use crate::interrupts::Controllers;
use crate::memory::Memory;
use frame::launch::InterruptMode;
use frame::platform::{IDENTITY_MAP_ADDRESS, TSS_ADDRESS};
use kvm_bindings::{
    KVM_API_VERSION, KVM_CAP_X2APIC_API, KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK, KVM_X2APIC_API_USE_32BIT_IDS,
    kvm_enable_cap, kvm_userspace_memory_region,
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
    /// A guest needs an 8259 where there is none.
    #[error(
        "an 8259, which the guest's 8254 needs, is there only with interrupts = \"kernel\"; set pit = false or change the mode"
    )]
    No8259,
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
    /// The interrupt controllers.
    pub interrupts: Arc<Controllers>,
    /// Whether the 8259 raises interrupts, through LINT0 of the boot processor.
    pub has_8259: bool,
}

impl Vm {
    /// Makes a virtual machine with `memory` and the interrupt controllers of `mode`. `ids` are the identifiers of the
    /// local APICs, by virtual processor.
    ///
    /// # Errors
    /// [`VmError`] with the call that failed.
    pub fn new(kvm: OwnedFd, memory: &Memory, mode: InterruptMode, ids: &[u32]) -> Result<Self, VmError> {
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
        let fd = Arc::new(fd);
        let interrupts = Arc::new(Controllers::new(mode, &fd, ids)?);
        let mut wide = kvm_enable_cap { cap: KVM_CAP_X2APIC_API, ..Default::default() };
        let flags = KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK;
        if let Some(argument) = wide.args.first_mut() {
            *argument = flags.into();
        }
        if interrupts.emulated().is_none()
            && kvm.check_extension_raw(KVM_CAP_X2APIC_API.into()) & flags as i32 == flags as i32
        {
            fd.enable_cap(&wide).map_err(call("KVM_ENABLE_CAP of KVM_CAP_X2APIC_API"))?;
        }
        Ok(Self { kvm, fd, interrupts, has_8259: false })
    }

    /// Gives the 8259 its interrupts too, for guests that know nothing newer.
    ///
    /// # Errors
    /// [`VmError`]; also where there is no 8259.
    pub fn connect_8259(&mut self) -> Result<(), VmError> {
        self.interrupts.connect_8259()?;
        self.has_8259 = true;
        Ok(())
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
