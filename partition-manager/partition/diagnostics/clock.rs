//! Time: how fast the time stamp counter goes.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::apic;
use crate::ring0::{self, Operation};

/// MSR_KVM_SYSTEM_TIME_NEW and its enabling bit (kernel: Documentation/virt/kvm/x86/msr.rst).
const KVM_SYSTEM_TIME: u32 = 0x4b56_4d01;
/// KVM_FEATURE_CLOCKSOURCE2 (kernel: Documentation/virt/kvm/x86/cpuid.rst).
const KVM_CLOCK: u32 = 1 << 3;
/// Input of the 8254, Hz.
const PIT_HZ: u64 = 1_193_182;

/// The page part that KVM fills: pvclock_vcpu_time_info, 32 bytes.
#[repr(C, align(64))]
struct Page {
    version: AtomicU32,
    rest: [AtomicU32; 5],
    multiplier: AtomicU32,
    shift: AtomicU32,
}

static PAGE: Page = Page {
    version: AtomicU32::new(0),
    rest: [const { AtomicU32::new(0) }; 5],
    multiplier: AtomicU32::new(0),
    shift: AtomicU32::new(0),
};

static KILOHERTZ: AtomicU64 = AtomicU64::new(1_000_000);

/// Frequency of the time stamp counter, kHz.
pub fn kilohertz() -> u64 {
    KILOHERTZ.load(Relaxed)
}

/// Cycles as microseconds.
pub fn microseconds(cycles: u64) -> u64 {
    cycles / (kilohertz() / 1000).max(1)
}

/// Milliseconds as cycles.
pub fn cycles(milliseconds: u64) -> u64 {
    milliseconds * kilohertz()
}

/// Spins until `done` or until `milliseconds` have passed; says whether it was done.
pub fn within(milliseconds: u64, mut done: impl FnMut() -> bool) -> bool {
    let start = ring0::tsc();
    loop {
        if done() {
            return true;
        }
        if ring0::tsc().wrapping_sub(start) > cycles(milliseconds) {
            return false;
        }
        core::hint::spin_loop();
    }
}

/// Finds the frequency out and says from where: KVM's clock, the 8254, or the local APIC's timer, which must
/// be on.
pub fn calibrate() -> &'static str {
    let (kilohertz, source) = if let Some(value) = from_kvm() {
        (value, "kvm")
    } else if let Some(value) = from_pit() {
        (value, "pit")
    } else {
        (from_apic(), "apic")
    };
    KILOHERTZ.store(kilohertz.max(1000), Relaxed);
    source
}

/// Counts cycles against the local APIC's timer: 1 GHz by default in KVM, and in QEMU always.
fn from_apic() -> u64 {
    let (counts, cycles) = apic::timer_against_cycles();
    cycles * 1_000_000 / counts.max(1)
}

fn from_kvm() -> Option<u64> {
    let mut leaves = [Operation::cpuid(0x4000_0000), Operation::cpuid(0x4000_0001)];
    ring0::operate(&mut leaves);
    let [_, b, c, d] = leaves[0].registers();
    let [features, ..] = leaves[1].registers();
    let signature = [b.to_le_bytes(), c.to_le_bytes(), d.to_le_bytes()];
    if signature.as_flattened() != b"KVMKVMKVM\0\0\0" || features & KVM_CLOCK == 0 {
        return None;
    }
    ring0::operate(&mut [Operation::write(KVM_SYSTEM_TIME, (&raw const PAGE) as u64 | 1)]);
    // KVM fills the page before it lets the processor go on; the loop is for one that does so a little later.
    let filled = within(100, || PAGE.multiplier.load(Relaxed) != 0 && PAGE.version.load(Relaxed) & 1 == 0);
    let multiplier = u64::from(PAGE.multiplier.load(Relaxed));
    let shift = PAGE.shift.load(Relaxed) as i8;
    ring0::operate(&mut [Operation::write(KVM_SYSTEM_TIME, 0)]);
    if !filled || multiplier == 0 {
        return None;
    }
    // ns = ((cycles << shift) * multiplier) >> 32
    let scaled = 1_000_000u64 << 32;
    let down = u32::from(shift.unsigned_abs()).min(10);
    Some(if shift < 0 { (scaled << down) / multiplier } else { (scaled / multiplier) >> down })
}

/// Counts cycles while channel 2 of the 8254 counts 10 ms down.
fn from_pit() -> Option<u64> {
    const COUNT: u64 = PIT_HZ / 100;
    ring0::out8(0x61, ring0::in8(0x61) & !2 | 1);
    ring0::out8(0x43, 0xb0);
    ring0::out8(0x42, COUNT as u8);
    ring0::out8(0x42, (COUNT >> 8) as u8);
    let start = ring0::tsc();
    if ring0::in8(0x61) & 0x20 != 0 {
        return None;
    }
    for _ in 0..1_000_000 {
        if ring0::in8(0x61) & 0x20 != 0 {
            let cycles = ring0::tsc().wrapping_sub(start);
            return Some(cycles * PIT_HZ / (COUNT * 1000));
        }
    }
    None
}
