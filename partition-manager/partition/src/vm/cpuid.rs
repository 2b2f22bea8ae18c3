//! What a guest reads with CPUID: what KVM offers on this host, less what has nothing behind it here, with
//! the partition's own topology. Pure.
//!
//! Leaves and bits: Intel SDM, volume 2, CPUID; AMD APM, volume 3, appendix E; the hypervisor's leaves:
//! kernel, Documentation/virt/kvm/x86/cpuid.rst.

mod topology;

use frame::launch::{CacheSpec, InterruptMode, LaunchSpec, Place};
use frame::topology::ApicLayout;
use kvm_bindings::kvm_cpuid_entry2;

const HYPERVISOR: u32 = 1 << 31;
const TSC_DEADLINE: u32 = 1 << 24;
const X2APIC: u32 = 1 << 21;
/// Leaf 1, ECX: 64-bit debug store, virtual machine extensions, performance capabilities.
const DEBUG_STORE_64: u32 = 1 << 2;
const VMX: u32 = 1 << 5;
const PERFORMANCE_CAPABILITIES: u32 = 1 << 15;
/// Leaf 1, EDX: debug store.
const DEBUG_STORE: u32 = 1 << 21;
/// Leaf 7, EBX: enclaves, bounds checks; ECX: launch control of enclaves.
const ENCLAVES: u32 = 1 << 2;
const BOUNDS_CHECKS: u32 = 1 << 14;
const ENCLAVE_CONTROL: u32 = 1 << 30;
/// Leaf 0xd, EAX, and its subleaves 3 and 4: the state of bounds checks.
const BOUNDS_STATE: u32 = 3 << 3;
/// Leaf 0x8000_0001, ECX: AMD's virtual machines.
const SVM: u32 = 1 << 2;
/// Rate of KVM's local APIC timer, kHz: one count is a nanosecond.
const BUS_KHZ: u32 = 1_000_000;
const HYPERVISOR_BASE: u32 = 0x4000_0000;
/// KVM's features, of which these need its local APIC: asynchronous page faults, paravirtual end of interrupt, kicks
/// of halted processors, interprocessor interrupts, yields, and wider destinations of messages.
const HYPERVISOR_FEATURES: u32 = 0x4000_0001;
const NEED_KERNEL_APIC: u32 = 1 << 4 | 1 << 6 | 1 << 7 | 1 << 10 | 1 << 11 | 1 << 13 | 1 << 14 | 1 << 15;
const HYPERVISOR_TIMING: u32 = 0x4000_0010;
const TIME_STAMP_COUNTER: u32 = 0x15;
const FREQUENCIES: u32 = 0x16;

/// What the tables depend on besides what KVM offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Where the guest sees its processors.
    pub places: Vec<Place>,
    /// How their identifiers are put together.
    pub layout: ApicLayout,
    /// The caches that it sees; those that KVM offers when empty.
    pub caches: Vec<CacheSpec>,
    /// Whether the local APIC has TSC deadline mode.
    pub deadline: bool,
    /// Whether the local APIC is KVM's.
    pub kernel_apic: bool,
    /// Frequency of the guest's time stamp counter, kHz, where KVM knows it.
    pub tsc_khz: Option<u32>,
}

impl Facts {
    /// The facts of a specification that was validated; KVM's are not known yet.
    #[must_use]
    pub fn of(spec: &LaunchSpec) -> Self {
        let places: Vec<Place> = spec.processors.iter().map(|processor| processor.place).collect();
        let layout = ApicLayout::of(&places).unwrap_or(ApicLayout { thread_bits: 0, core_bits: 0 });
        Self {
            places,
            layout,
            caches: spec.topology.caches.clone(),
            deadline: false,
            kernel_apic: spec.interrupt_mode != InterruptMode::Emulated,
            tsc_khz: None,
        }
    }

    /// The APIC identifier of virtual processor `index`.
    #[must_use]
    pub fn id(&self, index: usize) -> u32 {
        self.places.get(index).map_or(0, |place| self.layout.id(*place))
    }
}

/// Whose leaves they are: some mean different things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Vendor {
    Intel,
    Amd,
    Other,
}

impl Vendor {
    fn of(offered: &[kvm_cpuid_entry2]) -> Self {
        let name = offered.iter().find(|entry| entry.function == 0).map(|entry| entry.ebx.to_le_bytes());
        match name.as_ref() {
            Some(b"Genu") => Self::Intel,
            Some(b"Auth" | b"Hygo") => Self::Amd,
            _ => Self::Other,
        }
    }
}

/// The table of virtual processor `index`, from what KVM offers.
#[must_use]
pub fn table(offered: &[kvm_cpuid_entry2], facts: &Facts, index: usize) -> Vec<kvm_cpuid_entry2> {
    let leaf = |function| offered.iter().find(|entry| entry.function == function);
    let vendor = Vendor::of(offered);
    let highest = leaf(0).map_or(0, |entry| entry.eax);
    let counts = leaf(0xa).is_some_and(|entry| entry.eax & 0xff > 0);
    let mut table: Vec<kvm_cpuid_entry2> =
        offered.iter().filter(|entry| !is_replaced(entry.function) && !is_hidden(entry)).copied().collect();
    for entry in &mut table {
        hide(entry, vendor, counts);
        match entry.function {
            1 => {
                entry.ecx = with(entry.ecx, TSC_DEADLINE, facts.deadline) | HYPERVISOR;
                entry.ecx = with(entry.ecx, X2APIC, facts.kernel_apic);
            }
            HYPERVISOR_FEATURES if !facts.kernel_apic => entry.eax &= !NEED_KERNEL_APIC,
            HYPERVISOR_BASE if facts.tsc_khz.is_some() => entry.eax = entry.eax.max(HYPERVISOR_TIMING),
            _ => {}
        }
    }
    topology::put(&mut table, offered, vendor, facts, index, highest);
    if let Some(khz) = facts.tsc_khz {
        if leaf(HYPERVISOR_BASE).is_some() {
            table.push(entry(HYPERVISOR_TIMING, [khz, BUS_KHZ, 0, 0]));
        }
        if vendor == Vendor::Intel && highest >= TIME_STAMP_COUNTER {
            // The ratio of the counter to the clock of the local APIC's timer, and that clock's rate, Hz.
            let (numerator, denominator) = ratio(khz);
            table.push(entry(TIME_STAMP_COUNTER, [denominator, numerator, BUS_KHZ * 1000, 0]));
        }
        if vendor == Vendor::Intel && highest >= FREQUENCIES {
            const BUS_MHZ: u32 = 100;
            table.push(entry(FREQUENCIES, [khz / 1000, khz / 1000, BUS_MHZ, 0]));
        }
    }
    table
}

/// The fraction nearest to the counter's rate over that of the bus, of those that Linux can reckon with: it multiplies
/// the bus's rate in kHz with the numerator in 32 bits (arch/x86/kernel/tsc.c, `native_calibrate_tsc`).
fn ratio(khz: u32) -> (u32, u32) {
    const MOST: u64 = u32::MAX as u64 / BUS_KHZ as u64;
    let (khz, bus) = (u64::from(khz), u64::from(BUS_KHZ));
    let numerator = |denominator: u64| (khz * denominator + bus / 2) / bus;
    let error = |denominator: u64| (numerator(denominator) * bus).abs_diff(khz * denominator);
    let fits = (1..=MOST).filter(|&denominator| (1..=MOST).contains(&numerator(denominator)));
    // Of two fractions the better one has less error for each unit of its denominator.
    let best = fits.reduce(|a, b| if error(b) * a < error(a) * b { b } else { a }).unwrap_or(1);
    let narrow = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    (narrow(numerator(best).clamp(1, MOST)), narrow(best))
}

fn entry(function: u32, [eax, ebx, ecx, edx]: [u32; 4]) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 { function, eax, ebx, ecx, edx, ..Default::default() }
}

/// Leaves that are not taken over, but made here.
const fn is_replaced(function: u32) -> bool {
    matches!(function, 4 | 0xb | 0x1f | TIME_STAMP_COUNTER | FREQUENCIES | HYPERVISOR_TIMING | 0x8000_001d)
}

/// Leaves of what a guest does not get: enclaves, nested virtual machines, encrypted memory, the extended
/// topology of AMD, and the state of bounds checks.
const fn is_hidden(entry: &kvm_cpuid_entry2) -> bool {
    matches!(entry.function, 0x12 | 0x8000_000a | 0x8000_001f | 0x8000_0026)
        || entry.function == 0xd && matches!(entry.index, 3 | 4)
}

/// Takes away what has nothing behind it; `counts` says whether there are Intel's performance counters.
fn hide(entry: &mut kvm_cpuid_entry2, vendor: Vendor, counts: bool) {
    match entry.function {
        1 => {
            entry.ecx &= !VMX;
            if !counts {
                entry.ecx &= !(PERFORMANCE_CAPABILITIES | DEBUG_STORE_64);
                entry.edx &= !DEBUG_STORE;
            }
        }
        7 if entry.index == 0 => {
            entry.ebx &= !(ENCLAVES | BOUNDS_CHECKS);
            entry.ecx &= !ENCLAVE_CONTROL;
        }
        0xd if entry.index == 0 => entry.eax &= !BOUNDS_STATE,
        0x8000_0001 if vendor == Vendor::Amd => entry.ecx &= !SVM,
        _ => {}
    }
}

const fn with(word: u32, bit: u32, on: bool) -> u32 {
    if on { word | bit } else { word & !bit }
}

#[cfg(test)]
mod tests;
