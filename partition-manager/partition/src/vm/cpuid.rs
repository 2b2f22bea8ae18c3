//! What a guest reads with CPUID: what KVM offers on this host, with the partition's own topology. Pure.
//!
//! The topology is one package of single-threaded cores. Leaves and bits: Intel SDM, volume 2, CPUID; AMD
//! APM, volume 3, appendix E; the hypervisor's leaves: kernel, Documentation/virt/kvm/x86/cpuid.rst.

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

const HYPERVISOR: u32 = 1 << 31;
const TSC_DEADLINE: u32 = 1 << 24;
const X2APIC: u32 = 1 << 21;
const MULTITHREADED: u32 = 1 << 28;
const LEGACY_MULTICORE: u32 = 1 << 1;
/// Rate of KVM's local APIC timer, kHz: one count is a nanosecond.
const BUS_KHZ: u32 = 1_000_000;
const HYPERVISOR_BASE: u32 = 0x4000_0000;
const HYPERVISOR_TIMING: u32 = 0x4000_0010;

/// What the tables depend on besides what KVM offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Virtual processors, 1 to 64; their APIC identifiers are 0, 1, ...
    pub processors: u32,
    /// Whether KVM's local APIC has TSC deadline mode.
    pub deadline: bool,
    /// Frequency of the guest's time stamp counter, kHz, where KVM knows it.
    pub tsc_khz: Option<u32>,
}

/// The table of virtual processor `id`, from what KVM offers.
#[must_use]
pub fn table(offered: &[kvm_cpuid_entry2], facts: Facts, id: u32) -> Vec<kvm_cpuid_entry2> {
    let leaf = |function| offered.iter().find(|entry| entry.function == function);
    let amd = leaf(0)
        .is_some_and(|entry| entry.ebx == u32::from_le_bytes(*b"Auth") || entry.ebx == u32::from_le_bytes(*b"Hygo"));
    let highest = leaf(0).map_or(0, |entry| entry.eax);
    let mut table: Vec<kvm_cpuid_entry2> =
        offered.iter().filter(|entry| !is_topology(entry.function)).copied().collect();
    for entry in &mut table {
        adjust(entry, facts, id, amd);
    }
    for function in [0xb, 0x1f] {
        if highest >= function {
            table.extend(topology(function, facts.processors, id));
        }
    }
    if let Some(tsc_khz) = facts.tsc_khz
        && let Some(base) = table.iter_mut().find(|entry| entry.function == HYPERVISOR_BASE)
    {
        base.eax = base.eax.max(HYPERVISOR_TIMING);
        table.retain(|entry| entry.function != HYPERVISOR_TIMING);
        table.push(kvm_cpuid_entry2 { function: HYPERVISOR_TIMING, eax: tsc_khz, ebx: BUS_KHZ, ..Default::default() });
    }
    table
}

const fn is_topology(function: u32) -> bool {
    matches!(function, 0xb | 0x1f)
}

/// How many low bits of an APIC identifier tell the cores of the package apart.
const fn core_bits(processors: u32) -> u32 {
    processors.next_power_of_two().trailing_zeros()
}

fn adjust(entry: &mut kvm_cpuid_entry2, facts: Facts, id: u32, amd: bool) {
    let Facts { processors, deadline, .. } = facts;
    let several = processors > 1;
    let span = 1 << core_bits(processors);
    match entry.function {
        1 => {
            entry.ebx = entry.ebx & 0xffff | (span & 0xff) << 16 | (id & 0xff) << 24;
            entry.ecx = with(entry.ecx, TSC_DEADLINE, deadline) | HYPERVISOR | X2APIC;
            entry.edx = with(entry.edx, MULTITHREADED, several);
        }
        // Caches: the last level is the package's, the others each core's.
        4 if entry.eax & 0x1f != 0 => {
            let sharing = if entry.eax >> 5 & 7 >= 3 { span - 1 } else { 0 };
            entry.eax = entry.eax & 0x3fff | sharing << 14 | (span - 1).min(63) << 26;
        }
        0x8000_001d if entry.eax & 0x1f != 0 => {
            let sharing = if entry.eax >> 5 & 7 >= 3 { processors - 1 } else { 0 };
            entry.eax = entry.eax & 0x3fff | sharing << 14;
        }
        0x8000_0001 if amd => entry.ecx = with(entry.ecx, LEGACY_MULTICORE, several),
        0x8000_0008 if amd => {
            entry.ecx = entry.ecx & !0xf0ff | (processors - 1) & 0xff | core_bits(processors) << 12;
        }
        0x8000_001e if amd => {
            entry.eax = id;
            entry.ebx = id & 0xff;
            entry.ecx = 0;
        }
        _ => {}
    }
}

const fn with(word: u32, bit: u32, on: bool) -> u32 {
    if on { word | bit } else { word & !bit }
}

/// The extended topology: one thread for each core, all cores in the package, and no level above.
fn topology(function: u32, processors: u32, id: u32) -> [kvm_cpuid_entry2; 3] {
    const THREADS: u32 = 1;
    const CORES: u32 = 2;
    let level = |index: u32, shift: u32, below: u32, kind: u32| kvm_cpuid_entry2 {
        function,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: shift,
        ebx: below,
        ecx: index | kind << 8,
        edx: id,
        ..Default::default()
    };
    [level(0, 0, 1, THREADS), level(1, core_bits(processors), processors, CORES), level(2, 0, 0, 0)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn offered() -> Vec<kvm_cpuid_entry2> {
        let entry = |function, index, eax| kvm_cpuid_entry2 {
            function,
            index,
            eax,
            ebx: if function == 0 { u32::from_le_bytes(*b"Auth") } else { 0 },
            ..Default::default()
        };
        vec![
            entry(0, 0, 0x1f),
            entry(1, 0, 0x123),
            entry(4, 0, 1 | 1 << 5),
            entry(4, 3, 3 | 3 << 5),
            entry(0xb, 0, 99),
            entry(0xb, 1, 99),
            entry(HYPERVISOR_BASE, 0, HYPERVISOR_BASE + 1),
            entry(0x8000_0008, 0, 0x3030),
            entry(0x8000_001e, 0, 7),
        ]
    }

    proptest! {
        #[test]
        fn every_processor_is_its_own_core(processors in 1u32..=64, deadline: bool) {
            let facts = Facts { processors, deadline, tsc_khz: Some(3_000_000) };
            for id in 0..processors {
                let table = table(&offered(), facts, id);
                let leaf = |function, index| {
                    let mut found = table.iter().filter(|e| e.function == function && e.index == index);
                    let entry = *found.next().unwrap();
                    assert!(found.next().is_none(), "leaf {function:#x}.{index} comes twice");
                    entry
                };
                prop_assert_eq!(leaf(1, 0).ebx >> 24, id);
                prop_assert_eq!(leaf(1, 0).ecx & TSC_DEADLINE != 0, deadline);
                prop_assert_eq!(leaf(1, 0).edx & MULTITHREADED != 0, processors > 1);
                for function in [0xb, 0x1f] {
                    let (threads, cores) = (leaf(function, 0), leaf(function, 1));
                    prop_assert_eq!(threads.edx, id);
                    prop_assert_eq!((threads.eax, threads.ebx), (0, 1));
                    prop_assert_eq!(cores.ebx, processors);
                    prop_assert_eq!(id >> cores.eax, 0, "all are in package 0");
                    prop_assert_eq!(leaf(function, 2).ebx, 0);
                }
                prop_assert_eq!(leaf(4, 0).eax >> 14 & 0xfff, 0);
                prop_assert!((leaf(4, 3).eax >> 14 & 0xfff) + 1 >= processors);
                prop_assert_eq!((leaf(0x8000_0008, 0).ecx & 0xff) + 1, processors);
                prop_assert_eq!(leaf(0x8000_001e, 0).eax, id);
                prop_assert_eq!(leaf(HYPERVISOR_BASE, 0).eax, HYPERVISOR_TIMING);
                prop_assert_eq!(leaf(HYPERVISOR_TIMING, 0).eax, 3_000_000);
            }
        }
    }

    #[test]
    fn an_unknown_frequency_is_not_told() {
        let facts = Facts { processors: 1, deadline: false, tsc_khz: None };
        let table = table(&offered(), facts, 0);
        assert!(table.iter().all(|entry| entry.function != HYPERVISOR_TIMING));
    }
}
