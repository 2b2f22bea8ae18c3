//! A virtual processor before it runs: CPUID, MSRs, local APIC, first registers.

use super::cpuid::{self, Facts};
use super::{Vm, VmError, call};
use crate::boot::Entry;
use kvm_bindings::{
    CpuId, KVM_CAP_SYNC_REGS, KVM_MAX_CPUID_ENTRIES, Msrs, kvm_cpuid_entry2, kvm_lapic_state, kvm_msr_entry,
};
use kvm_ioctls::{Cap, SyncReg, VcpuFd};

const MISC_ENABLE: u32 = 0x1a0;
const FAST_STRINGS: u64 = 1;
const MTRR_DEFAULT: u32 = 0x2ff;
const MTRR_ON_WRITE_BACK: u64 = 1 << 11 | 6;

/// Offsets of registers in the local APIC's page (Intel SDM, volume 3, table 12-1).
const LVT_LINT0: usize = 0x350;
const LVT_LINT1: usize = 0x360;
/// Delivery by an external controller, masked: there is none.
const MASKED_EXTINT: u32 = 1 << 16 | 7 << 8;
/// Delivery as NMI.
const NMI: u32 = 4 << 8;

/// What all virtual processors of a partition have in common.
#[derive(Debug)]
pub struct Kit {
    offered: Vec<kvm_cpuid_entry2>,
    facts: Facts,
    sync: Vec<SyncReg>,
}

impl Kit {
    /// Asks KVM what it offers.
    ///
    /// # Errors
    /// When `KVM_GET_SUPPORTED_CPUID` fails.
    pub fn new(vm: &Vm, processors: u32) -> Result<Self, VmError> {
        let offered = vm
            .kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(call("KVM_GET_SUPPORTED_CPUID"))?
            .as_slice()
            .to_vec();
        let deadline = vm.kvm.check_extension(Cap::TscDeadlineTimer);
        let supported = vm.kvm.check_extension_raw(KVM_CAP_SYNC_REGS.into());
        let sync = [SyncReg::Register, SyncReg::SystemRegister, SyncReg::VcpuEvents]
            .into_iter()
            .filter(|set| supported & *set as i32 != 0)
            .collect();
        Ok(Self { offered, facts: Facts { processors, deadline, tsc_khz: None }, sync })
    }

    /// Makes virtual processor `id`, ready to run: the boot processor, with an `entry`, at its first
    /// instruction; the others where they wait for a start-up interrupt.
    ///
    /// # Errors
    /// [`VmError`] with the call that failed.
    pub fn build(&mut self, vm: &Vm, id: u32, entry: Option<&Entry>) -> Result<VcpuFd, VmError> {
        let failed = |what: &str| call(format!("{what} of virtual processor {id}"));
        let mut fd = vm.fd.create_vcpu(id.into()).map_err(failed("KVM_CREATE_VCPU"))?;
        if self.facts.tsc_khz.is_none() {
            self.facts.tsc_khz = fd.get_tsc_khz().ok().filter(|khz| *khz > 0);
        }
        let table = CpuId::from_entries(&cpuid::table(&self.offered, self.facts, id))
            .map_err(|_| VmError::Table("the CPUID table"))?;
        fd.set_cpuid2(&table).map_err(failed("KVM_SET_CPUID2"))?;
        set_msrs(&fd).map_err(failed("KVM_SET_MSRS"))?;
        let mut lapic = fd.get_lapic().map_err(failed("KVM_GET_LAPIC"))?;
        set_register(&mut lapic, LVT_LINT0, MASKED_EXTINT);
        set_register(&mut lapic, LVT_LINT1, NMI);
        fd.set_lapic(&lapic).map_err(failed("KVM_SET_LAPIC"))?;
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
        Ok(fd)
    }
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
