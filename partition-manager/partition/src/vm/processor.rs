//! A virtual processor before it runs: CPUID, MSRs, local APIC, first registers.

use super::cpuid::{self, Facts};
use super::{Vm, VmError, call, machine_check};
use crate::boot::Entry;
use crate::interrupts::Emulated;
use crate::vcpu::local::{APIC_BOOT, APIC_ON, Seat};
use frame::launch::LaunchSpec;
use frame::platform::LAPIC_BASE;
use kvm_bindings::{
    CpuId, KVM_CAP_SYNC_REGS, KVM_MAX_CPUID_ENTRIES, Msrs, kvm_cpuid_entry2, kvm_lapic_state, kvm_msr_entry,
};
use kvm_ioctls::{Cap, SyncReg, VcpuFd};
use std::sync::Arc;

const MISC_ENABLE: u32 = 0x1a0;
const FAST_STRINGS: u64 = 1;
const MTRR_DEFAULT: u32 = 0x2ff;
const MTRR_ON_WRITE_BACK: u64 = 1 << 11 | 6;

/// Offsets of registers in the local APIC's page (Intel SDM, volume 3, table 12-1).
const LVT_LINT0: usize = 0x350;
const LVT_LINT1: usize = 0x360;
/// Delivery by an external controller, the 8259.
const EXTINT: u32 = 7 << 8;
const MASKED: u32 = 1 << 16;
/// Delivery as NMI.
const NMI: u32 = 4 << 8;

/// What all virtual processors of a partition have in common.
#[derive(Debug)]
pub struct Kit {
    offered: Vec<kvm_cpuid_entry2>,
    facts: Facts,
    sync: Vec<SyncReg>,
    banks: Option<u64>,
}

impl Kit {
    /// Asks KVM what it offers for a partition of `spec`, which was validated.
    ///
    /// # Errors
    /// When `KVM_GET_SUPPORTED_CPUID` fails.
    pub fn new(vm: &Vm, spec: &LaunchSpec) -> Result<Self, VmError> {
        let offered = vm
            .kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(call("KVM_GET_SUPPORTED_CPUID"))?
            .as_slice()
            .to_vec();
        let deadline = vm.kvm.check_extension(Cap::TscDeadlineTimer) && vm.interrupts.emulated().is_none();
        let supported = vm.kvm.check_extension_raw(KVM_CAP_SYNC_REGS.into());
        let sync = [SyncReg::Register, SyncReg::SystemRegister, SyncReg::VcpuEvents]
            .into_iter()
            .filter(|set| supported & *set as i32 != 0)
            .collect();
        let banks = machine_check::supported(&vm.kvm);
        Ok(Self { offered, facts: Facts { deadline, ..Facts::of(spec) }, sync, banks })
    }

    /// The local APIC identifier of virtual processor `index`.
    #[must_use]
    pub fn identifier(&self, index: u32) -> u32 {
        self.facts.id(index as usize)
    }

    /// A leaf as KVM offers it, where it does: EAX, EBX, ECX, EDX.
    #[must_use]
    pub fn leaf(&self, function: u32) -> Option<[u32; 4]> {
        let found = self.offered.iter().find(|entry| entry.function == function);
        found.map(|entry| [entry.eax, entry.ebx, entry.ecx, entry.edx])
    }

    /// Makes virtual processor number `id`, ready to run: the boot processor, with an `entry`, at its first
    /// instruction; the others where they wait for a start-up interrupt. With it comes what its thread needs where its
    /// local APIC is in user space.
    ///
    /// # Errors
    /// [`VmError`] with the call that failed.
    pub fn build(&mut self, vm: &Vm, id: u32, entry: Option<&Entry>) -> Result<(VcpuFd, Option<Seat>), VmError> {
        let failed = |what: &str| call(format!("{what} of virtual processor {id}"));
        let mut fd = vm.fd.create_vcpu(self.identifier(id).into()).map_err(failed("KVM_CREATE_VCPU"))?;
        if self.facts.tsc_khz.is_none() {
            self.facts.tsc_khz = fd.get_tsc_khz().ok().filter(|khz| *khz > 0);
        }
        let table = CpuId::from_entries(&cpuid::table(&self.offered, &self.facts, id as usize))
            .map_err(|_| VmError::Table("the CPUID table"))?;
        fd.set_cpuid2(&table).map_err(failed("KVM_SET_CPUID2"))?;
        if let Some(banks) = self.banks {
            machine_check::set_up(&fd, banks).map_err(failed("KVM_X86_SETUP_MCE"))?;
        }
        set_msrs(&fd).map_err(failed("KVM_SET_MSRS"))?;
        let seat = match vm.interrupts.emulated() {
            Some(emulated) => Some(seat(&fd, emulated, id).map_err(failed("a register's ioctl"))?),
            None => {
                let mut lapic = fd.get_lapic().map_err(failed("KVM_GET_LAPIC"))?;
                let by_8259 = vm.has_8259 && id == 0;
                set_register(&mut lapic, LVT_LINT0, if by_8259 { EXTINT } else { EXTINT | MASKED });
                set_register(&mut lapic, LVT_LINT1, NMI);
                fd.set_lapic(&lapic).map_err(failed("KVM_SET_LAPIC"))?;
                None
            }
        };
        if let Some(entry) = entry {
            let mut sregs = fd.get_sregs().map_err(failed("KVM_GET_SREGS"))?;
            let regs = entry.registers(&mut sregs);
            fd.set_sregs(&sregs).map_err(failed("KVM_SET_SREGS"))?;
            fd.set_regs(&regs).map_err(failed("KVM_SET_REGS"))?;
        }
        // From now on the kernel leaves the registers in `kvm_run` at every exit, where others can read
        // them when this process is gone.
        for set in &self.sync {
            fd.set_sync_valid_reg(*set);
        }
        Ok((fd, seat))
    }
}

/// Switches on the local APIC that is in user space, of which KVM knows the base alone.
fn seat(fd: &VcpuFd, emulated: &Arc<Emulated>, id: u32) -> Result<Seat, vmm_sys_util::errno::Error> {
    let mut sregs = fd.get_sregs()?;
    sregs.apic_base = LAPIC_BASE | APIC_ON | if id == 0 { APIC_BOOT } else { 0 };
    fd.set_sregs(&sregs)?;
    Ok(Seat { emulated: Arc::clone(emulated), reset: (fd.get_regs()?, sregs) })
}

/// Sets what this host's KVM honours of what firmware would have set; the rest stays as it is.
fn set_msrs(fd: &VcpuFd) -> Result<(), vmm_sys_util::errno::Error> {
    let wanted = [(MISC_ENABLE, FAST_STRINGS), (MTRR_DEFAULT, MTRR_ON_WRITE_BACK)];
    let entries = wanted.map(|(index, data)| kvm_msr_entry { index, data, ..Default::default() });
    let mut rest = entries.as_slice();
    while !rest.is_empty() {
        let Ok(msrs) = Msrs::from_entries(rest) else { return Ok(()) };
        // KVM stops at the first that it refuses, and says how many it took.
        let taken = fd.set_msrs(&msrs)?;
        rest = rest.get(taken + 1..).unwrap_or_default();
    }
    Ok(())
}

fn set_register(lapic: &mut kvm_lapic_state, offset: usize, value: u32) {
    for (register, byte) in lapic.regs.iter_mut().skip(offset).zip(value.to_le_bytes()) {
        *register = byte.cast_signed();
    }
}
