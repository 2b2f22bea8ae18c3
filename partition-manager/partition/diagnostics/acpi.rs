//! What ACPI's static tables say (ACPI 6.5, chapter 5): processors, and how to power off.

use core::sync::atomic::{AtomicU16, AtomicU32, Ordering::Relaxed};

use crate::memory::{byte, long, word};
use crate::ring0::MAX_PROCESSORS;
use crate::{platform, ring0};

/// Most bytes that are read of one table: a broken length must not cost seconds.
const TABLE_LIMIT: u64 = 1 << 20;
/// Most tables that are looked at.
const TABLES_LIMIT: u64 = 64;

/// PM1a control port, 0 where the machine has none.
static CONTROL_PORT: AtomicU16 = AtomicU16::new(platform::PM1A_CONTROL_PORT);
/// Address of the hardware-reduced sleep control register; the low bit says whether it is a port.
static SLEEP_CONTROL: [AtomicU32; 2] = [const { AtomicU32::new(0) }; 2];
/// The sleep type that means soft off.
static SOFT_OFF: AtomicU16 = AtomicU16::new(platform::SLEEP_TYPE_S5);

/// The machine's description, as far as it is used here.
pub struct Tables {
    processors: [u32; MAX_PROCESSORS],
    count: usize,
    /// Address of the registers of the I/O APIC with interrupt 0.
    pub ioapic: u64,
    /// PM1 event port, 0 where the machine has none.
    pub event_port: u16,
    /// Port and value that turn ACPI mode on, where firmware starts in legacy mode.
    pub enable: Option<(u16, u8)>,
}

impl Tables {
    /// Follows the root pointer; without one, the machine has one processor and no power button.
    pub fn find(rsdp: u64) -> Self {
        let mut tables = Self {
            processors: [0; MAX_PROCESSORS],
            count: 0,
            ioapic: platform::IOAPIC_BASE,
            event_port: 0,
            enable: None,
        };
        if long(rsdp) != u64::from_le_bytes(*b"RSD PTR ") {
            return tables;
        }
        let extended = if byte(rsdp + 15) >= 2 { long(rsdp + 24) } else { 0 };
        let (root, size) = if extended == 0 { (u64::from(word(rsdp + 16)), 4) } else { (extended, 8) };
        let entries = (length(root).saturating_sub(36) / size).min(TABLES_LIMIT);
        for entry in 0..entries {
            let at = root + 36 + entry * size;
            let table = if size == 8 { long(at) } else { u64::from(word(at)) };
            match &word(table).to_le_bytes() {
                b"APIC" => tables.read_madt(table),
                b"FACP" => tables.read_fadt(table),
                _ => {}
            }
        }
        tables
    }

    /// Local APIC identifiers of the enabled processors.
    pub fn processors(&self) -> &[u32] {
        self.processors.get(..self.count).unwrap_or_default()
    }

    fn add_processor(&mut self, identifier: u32, flags: u32) {
        if flags & 1 != 0
            && let Some(slot) = self.processors.get_mut(self.count)
        {
            *slot = identifier;
            self.count += 1;
        }
    }

    /// MADT, section 5.2.12.
    fn read_madt(&mut self, table: u64) {
        let end = table + length(table);
        let mut at = table + 44;
        while at + 2 <= end {
            match byte(at) {
                0 => self.add_processor(u32::from(byte(at + 3)), word(at + 4)),
                1 if word(at + 8) == 0 => self.ioapic = u64::from(word(at + 4)),
                9 => self.add_processor(word(at + 4), word(at + 8)),
                _ => {}
            }
            at += u64::from(byte(at + 1)).max(2);
        }
    }

    /// FADT, section 5.2.9.
    fn read_fadt(&mut self, table: u64) {
        let has = |end: u64| length(table) >= end;
        let dsdt = match if has(148) { long(table + 140) } else { 0 } {
            0 => u64::from(word(table + 40)),
            extended => extended,
        };
        if let Some(kind) = soft_off_type(dsdt) {
            SOFT_OFF.store(u16::from(kind), Relaxed);
        }
        let hardware_reduced = word(table + 112) & 1 << 20 != 0;
        if hardware_reduced {
            CONTROL_PORT.store(0, Relaxed);
            if has(256) && word(table + 248) != 0 {
                SLEEP_CONTROL[0].store(word(table + 248), Relaxed);
                SLEEP_CONTROL[1].store(u32::from(byte(table + 244)), Relaxed);
            }
            return;
        }
        let event = word(table + 56) as u16;
        self.event_port = if event == 0 && has(160) { long(table + 152) as u16 } else { event };
        let control = word(table + 64) as u16;
        CONTROL_PORT.store(if control == 0 && has(184) { long(table + 176) as u16 } else { control }, Relaxed);
        let command = word(table + 48) as u16;
        if command != 0 && byte(table + 52) != 0 {
            self.enable = Some((command, byte(table + 52)));
        }
    }
}

/// The length that a table gives itself, bytes.
fn length(table: u64) -> u64 {
    u64::from(word(table + 4)).min(TABLE_LIMIT)
}

/// The first element of the package `_S5_` in a DSDT (sections 7.4.2 and 20.2): found by its bytes, without
/// an interpreter.
fn soft_off_type(dsdt: u64) -> Option<u8> {
    const PACKAGE: u8 = 0x12;
    const BYTE_PREFIX: u8 = 0x0a;
    if dsdt == 0 {
        return None;
    }
    let end = dsdt + length(dsdt);
    let mut at = dsdt + 36;
    while at + 12 <= end {
        if word(at) == u32::from_le_bytes(*b"_S5_") && byte(at + 4) == PACKAGE {
            // The package length has one byte, and as many more as its two top bits say; then a count.
            let element = at + 5 + 1 + u64::from(byte(at + 5) >> 6) + 1;
            return match byte(element) {
                BYTE_PREFIX => Some(byte(element + 1)),
                small @ (0 | 1) => Some(small),
                _ => None,
            };
        }
        at += 1;
    }
    None
}

/// Powers off, by the first way that works: ACPI, the keyboard controller's reset line, a triple fault.
pub fn power_off() -> ! {
    let kind = SOFT_OFF.load(Relaxed);
    let reduced = SLEEP_CONTROL[0].load(Relaxed);
    if reduced != 0 {
        let value = (kind as u8) << 2 | 1 << 5;
        if SLEEP_CONTROL[1].load(Relaxed) == 1 {
            ring0::out8(reduced as u16, value);
        } else {
            // SAFETY: a device register below 4 GiB, which the tables map.
            unsafe { (u64::from(reduced) as *mut u8).write_volatile(value) };
        }
    }
    let port = CONTROL_PORT.load(Relaxed);
    if port != 0 {
        ring0::out16(port, kind << 10 | 1 << 13);
    }
    end()
}

/// Resets, by the first way that works: the reset register, the keyboard controller, a triple fault.
pub fn reboot() -> ! {
    ring0::out8(platform::RESET_PORT, platform::RESET_VALUE);
    end()
}

fn end() -> ! {
    // A monitor may act on the request a little later than the write; the next way must not overtake it.
    let start = ring0::tsc();
    while ring0::tsc().wrapping_sub(start) < 1 << 30 {
        core::hint::spin_loop();
    }
    ring0::out8(platform::KEYBOARD_COMMAND_PORT, platform::KEYBOARD_RESET);
    ring0::triple_fault()
}
