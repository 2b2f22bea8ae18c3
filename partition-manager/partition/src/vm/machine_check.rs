//! Machine-check banks: where a guest finds what went wrong with its memory or processors (Intel SDM, volume
//! 3, chapter 17; KVM API, sections 4.104 to 4.106).

use kvm_bindings::{KVM_CAP_MCE, KVMIO};
use kvm_ioctls::{Kvm, VcpuFd};
use vmm_sys_util::errno;
use vmm_sys_util::ioctl::{ioctl_with_mut_ref, ioctl_with_ref};
use vmm_sys_util::{ioctl_ior_nr, ioctl_iow_nr};

ioctl_iow_nr!(KVM_X86_SETUP_MCE, KVMIO, 0x9c, u64);
ioctl_ior_nr!(KVM_X86_GET_MCE_CAP_SUPPORTED, KVMIO, 0x9d, u64);

/// Banks of a virtual processor: as many as hypervisors customarily show, each costs a guest a few registers.
const BANKS: u64 = 10;
/// `IA32_MCG_CAP`: there is a control register.
const CONTROL: u64 = 1 << 8;
/// `IA32_MCG_CAP`: software can recover from some errors, such as one of a page that it can do without.
const RECOVERY: u64 = 1 << 24;

/// What `IA32_MCG_CAP` shall be: as far as this host's KVM has it, none where it has no machine checks.
pub(super) fn supported(kvm: &Kvm) -> Option<u64> {
    let banks = u64::try_from(kvm.check_extension_raw(KVM_CAP_MCE.into())).ok().filter(|banks| *banks > 0)?;
    let mut capabilities = 0u64;
    // SAFETY: the descriptor is KVM's, and the call writes one u64, which is what it gets.
    let status = unsafe { ioctl_with_mut_ref(kvm, KVM_X86_GET_MCE_CAP_SUPPORTED(), &mut capabilities) };
    (status == 0).then_some(capabilities & (CONTROL | RECOVERY) | banks.min(BANKS))
}

/// Gives a virtual processor its banks, empty.
pub(super) fn set_up(processor: &VcpuFd, capabilities: u64) -> Result<(), errno::Error> {
    // SAFETY: the descriptor is a virtual processor's, and the call reads one u64, which is what it gets.
    let status = unsafe { ioctl_with_ref(processor, KVM_X86_SETUP_MCE(), &capabilities) };
    if status == 0 { Ok(()) } else { Err(errno::Error::last()) }
}
