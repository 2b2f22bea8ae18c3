//! The probe page: figures at a known address, for whoever watches guest memory from outside.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::Release};

use crate::platform;

/// The 64-bit word at an offset on the probe page.
pub fn word(offset: u64) -> &'static AtomicU64 {
    // SAFETY: the page is mapped, aligned, inside every memory map's first 640 KiB, and reached by atomic
    // words only; offsets are platform.rs's constants, multiples of 8 below 4096.
    unsafe { &*((platform::PROBE_ADDRESS + offset) as *const AtomicU64) }
}

/// Interrupts taken at a vector.
pub fn interrupts(vector: u8) -> u64 {
    word(platform::PROBE_INTERRUPTS + u64::from(vector) * 8).load(Relaxed)
}

/// Interrupts taken from an I/O APIC pin.
pub fn pin_interrupts(pin: u32) -> u64 {
    interrupts(platform::PROBE_PIN_VECTOR + pin as u8)
}

/// Clears the page and marks it valid.
pub fn publish(kilohertz: u64) {
    for offset in (0..0x1000).step_by(8) {
        word(offset).store(0, Relaxed);
    }
    word(platform::PROBE_TSC_KHZ).store(kilohertz, Relaxed);
    word(platform::PROBE_PROCESSORS).store(1, Relaxed);
    word(0).store(platform::PROBE_MAGIC, Release);
}
