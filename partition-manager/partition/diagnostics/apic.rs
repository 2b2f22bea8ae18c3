//! The local APIC, its timer, and the I/O APIC (Intel SDM volume 3, chapter 12; 82093AA data sheet).

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::Release};

use crate::platform::{LAPIC_BASE, PROBE_PIN_VECTOR, SCI_GSI, SERIAL_GSI};
use crate::processors::{self, Record};
use crate::ring0::{self, Operation, SPURIOUS_VECTOR, TIMER_VECTOR};
use crate::{clock, memory};

const BASE_MSR: u32 = 0x1b;
const TSC_DEADLINE: u32 = 0x6e0;
const X2APIC_MSR: u32 = 0x800;
const SPURIOUS: u32 = 0xf0;
const COMMAND: u32 = 0x300;
const TIMER: u32 = 0x320;
const LINT0: u32 = 0x350;
const INITIAL_COUNT: u32 = 0x380;
const CURRENT_COUNT: u32 = 0x390;
const DIVIDE: u32 = 0x3e0;
const MASKED: u32 = 1 << 16;
const DEADLINE_MODE: u32 = 2 << 17;
const INIT: u32 = 0x4500;
const STARTUP: u32 = 0x4600;
const SELF: u32 = 0x4_4000;
const OTHERS: u32 = 0xc_4000;

/// Whether the timer has the TSC deadline mode.
static DEADLINE: AtomicBool = AtomicBool::new(false);
/// Counts of the local APIC timer per cycle, times 2^32, for the one-shot mode.
static COUNTS: AtomicU64 = AtomicU64::new(0);

/// Looks what the processor offers, and returns the boot processor's APIC identifier.
pub fn detect() -> u32 {
    let mut leaf = [Operation::cpuid(1)];
    ring0::operate(&mut leaf);
    let [_, identifier, features, _] = leaf[0].registers();
    ring0::set_x2apic(features & 1 << 21 != 0);
    DEADLINE.store(features & 1 << 24 != 0, Relaxed);
    identifier >> 24
}

/// Whether the timer is in TSC deadline mode.
pub fn deadline_mode() -> bool {
    DEADLINE.load(Relaxed)
}

/// Writes a register of this processor's local APIC.
fn write(register: u32, value: u32) {
    if ring0::x2apic() {
        ring0::operate(&mut [write_operation(register, value)]);
    } else {
        memory::write_register(LAPIC_BASE + u64::from(register), value);
    }
}

fn write_operation(register: u32, value: u32) -> Operation {
    Operation::write(X2APIC_MSR + (register >> 4), u64::from(value))
}

fn current_count() -> u32 {
    if ring0::x2apic() {
        let mut operation = [Operation::read(X2APIC_MSR + (CURRENT_COUNT >> 4))];
        ring0::operate(&mut operation);
        operation[0].value() as u32
    } else {
        memory::read_register(LAPIC_BASE + u64::from(CURRENT_COUNT))
    }
}

/// Turns this processor's local APIC on, with the timer quiet and the legacy interrupt line masked.
pub fn enable() {
    let mut base = [Operation::read(BASE_MSR)];
    ring0::operate(&mut base);
    let timer = timer_entry();
    let spurious = 0x100 | u32::from(SPURIOUS_VECTOR);
    if ring0::x2apic() {
        ring0::operate(&mut [
            Operation::write(BASE_MSR, base[0].value() | 0xc00),
            write_operation(LINT0, MASKED),
            write_operation(SPURIOUS, spurious),
            write_operation(DIVIDE, 0xb),
            write_operation(TIMER, timer),
        ]);
    } else {
        ring0::operate(&mut [Operation::write(BASE_MSR, base[0].value() | 0x800)]);
        write(LINT0, MASKED);
        write(SPURIOUS, spurious);
        write(DIVIDE, 0xb);
        write(TIMER, timer);
    }
}

/// Counts of the timer and cycles in the same short time.
pub fn timer_against_cycles() -> (u64, u64) {
    write(TIMER, MASKED | u32::from(TIMER_VECTOR));
    write(INITIAL_COUNT, u32::MAX);
    let (start, first) = (ring0::tsc(), current_count());
    clock::within(2, || false);
    let (last, end) = (current_count(), ring0::tsc());
    write(INITIAL_COUNT, 0);
    write(TIMER, timer_entry());
    (u64::from(first.wrapping_sub(last)), end.wrapping_sub(start).max(1))
}

/// Measures the timer against the time stamp counter, if it has no deadline mode.
pub fn calibrate_timer() {
    if !deadline_mode() {
        let (counts, cycles) = timer_against_cycles();
        COUNTS.store((counts << 32) / cycles, Relaxed);
    }
}

fn timer_entry() -> u32 {
    u32::from(TIMER_VECTOR) | if deadline_mode() { DEADLINE_MODE } else { 0 }
}

/// Starts the beats of the processor whose record this is, which is the one that calls.
pub fn start_beats(record: &Record, period: u64) {
    let now = ring0::tsc();
    record.period.store(period, Relaxed);
    record.deadline.store(now + period, Relaxed);
    record.nanoseconds.store((1_000_000 << 32) / clock::kilohertz(), Relaxed);
    record.counts.store(COUNTS.load(Relaxed), Relaxed);
    record.one_shot.store(u32::from(!deadline_mode()), Release);
    if deadline_mode() {
        ring0::operate(&mut [Operation::write(TSC_DEADLINE, now + period)]);
    } else {
        // Any short count will do: the stub arms the rest against absolute deadlines.
        write(INITIAL_COUNT, 1000);
    }
}

/// Sends INIT (`startup` false) or start-up (`startup` true) to another processor.
pub fn kick(identifier: u32, startup: bool) {
    let command = if startup { STARTUP | (ring0::TRAMPOLINE >> 12) as u32 } else { INIT };
    if ring0::x2apic() {
        let value = u64::from(identifier) << 32 | u64::from(command);
        ring0::operate(&mut [Operation::write(X2APIC_MSR + (COMMAND >> 4), value)]);
    } else {
        memory::write_register(LAPIC_BASE + u64::from(COMMAND) + 0x10, identifier << 24);
        memory::write_register(LAPIC_BASE + u64::from(COMMAND), command);
    }
}

/// Sends this processor interrupts, as many as asked for, each on its own: what is pending does not add up.
pub fn storm(vector: u8, count: u64) {
    for _ in 0..count {
        write(COMMAND, SELF | u32::from(vector));
    }
}

/// Sends all other processors an interrupt.
pub fn interrupt_others(vector: u8) {
    write(COMMAND, OTHERS | u32::from(vector));
}

/// Routes the I/O APIC's pins to the boot processor: 4 and 5 to 23 edge-triggered, the SCI level-triggered
/// if the machine has one.
pub fn enable_pins(base: u64, identifier: u32, sci: bool) {
    let read = |index: u32| {
        memory::write_register(base, index);
        memory::read_register(base + 0x10)
    };
    let write = |index: u32, value: u32| {
        memory::write_register(base, index);
        memory::write_register(base + 0x10, value);
    };
    let last = (read(1) >> 16 & 0xff).min(23);
    for pin in SERIAL_GSI..=last {
        let level = pin == SCI_GSI;
        if level && !sci {
            continue;
        }
        if identifier != 0 {
            write(0x11 + 2 * pin, identifier << 24);
        }
        write(0x10 + 2 * pin, (u32::from(PROBE_PIN_VECTOR) + pin) | (u32::from(level) << 15));
    }
}

/// Starts the other processors and waits until they run; a processor that does not come is left out.
pub fn start_others(identifiers: &[u32], own: u32) {
    let others = || identifiers.iter().copied().filter(move |&identifier| identifier != own);
    let expected = 1 + others().count() as u64;
    if expected == 1 {
        return;
    }
    processors::prepare(expected as usize);
    others().for_each(|identifier| kick(identifier, false));
    // The second start-up is for a processor that was not yet through with INIT at the first; one that runs
    // ignores it.
    for patience in [10, 100, 2000] {
        others().for_each(|identifier| kick(identifier, true));
        if clock::within(patience, || processors::running() >= expected) {
            return;
        }
    }
}
