//! Ring 0 and what it does for ring 3: the assembly, its constants, its services.

use core::mem::{offset_of, size_of};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::platform;
use crate::processors::Record;

/// Address of the sections that lie at known places; link.ld says the same.
const FIXED: u64 = 0x10_0000;
/// Address of the first processor block; link.ld says the same.
pub const PROCESSORS: u64 = 0x14_0000;
/// Most processors that the payload runs on.
pub const MAX_PROCESSORS: usize = 64;
/// Bytes of one processor's block: its stacks and its record.
pub const BLOCK: u64 = 0x2000;
/// Offset in a block: the record, and the top of the interrupt stack beneath it.
pub const RECORD: u64 = 0x400;
/// Bytes from one processor's task state segment to the next.
const TSS_SIZE: u64 = 128;
/// Offset in a block: top of the NMI stack.
pub const NMI_STACK_TOP: u64 = 0x800;
/// Offset in a block: top of the exception stack.
pub const FAULT_STACK_TOP: u64 = 0xc00;
/// Offset in a block: top of the stack that services run on. The ring 3 stack follows, to the block's end.
pub const SERVICE_STACK_TOP: u64 = 0x1000;
/// Where the first instructions of another processor are copied to: a page below 1 MiB.
pub const TRAMPOLINE: u64 = 0x9000;
/// Vector of the local APIC timer, the highest in use.
pub const TIMER_VECTOR: u8 = 0xe0;
/// Vector of interrupts that a processor sends itself.
pub const STORM_VECTOR: u8 = 0xd0;
/// Vector of spurious interrupts.
pub const SPURIOUS_VECTOR: u8 = 0xff;
/// An address below 4 GiB where no monitor has memory.
const UNBACKED: u64 = 0xd000_0000;

const _: () = assert!(size_of::<Record>() as u64 <= 0x100);

core::arch::global_asm!(
    include_str!("ring0.s"),
    FIXED = const FIXED,
    PROCESSORS = const PROCESSORS,
    MAX_PROCESSORS = const MAX_PROCESSORS,
    TSS_SIZE = const TSS_SIZE,
    BLOCK = const BLOCK,
    RECORD = const RECORD,
    NMI_STACK_TOP = const NMI_STACK_TOP,
    FAULT_STACK_TOP = const FAULT_STACK_TOP,
    SERVICE_STACK_TOP = const SERVICE_STACK_TOP,
    TRAMPOLINE = const TRAMPOLINE,
    TIMER_VECTOR = const TIMER_VECTOR,
    SPURIOUS_VECTOR = const SPURIOUS_VECTOR,
    PIN_VECTOR = const platform::PROBE_PIN_VECTOR,
    SCI_VECTOR = const platform::PROBE_PIN_VECTOR as u32 + platform::SCI_GSI,
    PROBE_INTERRUPT_TSC = const platform::PROBE_ADDRESS + platform::PROBE_INTERRUPT_TSC,
    PROBE_INTERRUPTS = const platform::PROBE_ADDRESS + platform::PROBE_INTERRUPTS,
    UNBACKED = const UNBACKED,
    EVENTS = const offset_of!(Record, events),
    LAST = const offset_of!(Record, last),
    LARGEST = const offset_of!(Record, largest),
    DEADLINE = const offset_of!(Record, deadline),
    PERIOD = const offset_of!(Record, period),
    MISSED = const offset_of!(Record, missed),
    PUBLISHED = const offset_of!(Record, published),
    NANOSECONDS = const offset_of!(Record, nanoseconds),
    COUNTS = const offset_of!(Record, counts),
    ONE_SHOT = const offset_of!(Record, one_shot),
);

// SAFETY: ring0.s defines these with the same sizes; it and ring 3 reach the words by single accesses only.
unsafe extern "C" {
    static x2apic_in_use: AtomicU32;
    static nmi_armed: AtomicU32;
    static pm1_port: AtomicU32;
    static pm1_status: AtomicU32;
    static fault_record: [AtomicU64; 4];
    static other_tss: [[AtomicU32; TSS_SIZE as usize / 4]; MAX_PROCESSORS - 1];
    static gdt: [AtomicU64; 7 + 2 * MAX_PROCESSORS];
    static trampoline: u8;
    static trampoline_end: u8;
}

/// Something that only ring 0 can do, done in a batch by [`operate`]. `repr` and order are ring0.s's.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Operation {
    kind: u32,
    index: u32,
    low: u32,
    high: u32,
    third: u32,
    fourth: u32,
}

impl Operation {
    /// `rdmsr`; the answer is [`Operation::value`].
    pub const fn read(msr: u32) -> Self {
        Self { kind: 0, index: msr, low: 0, high: 0, third: 0, fourth: 0 }
    }

    /// `wrmsr`.
    pub const fn write(msr: u32, value: u64) -> Self {
        Self { kind: 1, index: msr, low: value as u32, high: (value >> 32) as u32, third: 0, fourth: 0 }
    }

    /// `cpuid` of a leaf, first subleaf; the answer is [`Operation::registers`].
    pub const fn cpuid(leaf: u32) -> Self {
        Self { kind: 2, index: leaf, low: 0, high: 0, third: 0, fourth: 0 }
    }

    /// The 64-bit answer of `rdmsr`.
    pub const fn value(&self) -> u64 {
        (self.high as u64) << 32 | self.low as u64
    }

    /// EAX, EBX, ECX, EDX as `cpuid` left them.
    pub const fn registers(&self) -> [u32; 4] {
        [self.low, self.high, self.third, self.fourth]
    }
}

fn service(which: u64, first: u64, second: u64, third: u64) {
    // SAFETY: ring 0 clobbers exactly these registers, keeps to its own stack, and each caller below passes
    // addresses of memory that lives across the call.
    unsafe {
        core::arch::asm!(
            "call ring0_service",
            inout("rax") which => _,
            inout("rdi") first => _,
            inout("rsi") second => _,
            inout("rdx") third => _,
            lateout("rcx") _,
        );
    }
}

/// Carries out the operations in order; answers are in the operations.
pub fn operate(operations: &mut [Operation]) {
    if !operations.is_empty() {
        service(0, operations.as_mut_ptr() as u64, operations.len() as u64, 0);
    }
}

/// Halts this processor until an interrupt, unless `word` is no longer `seen`.
pub fn wait(word: &AtomicU32, seen: u32) {
    service(1, core::ptr::from_ref(word) as u64, u64::from(seen), 0);
}

/// Writes bytes to a port with one `rep outsb`.
pub fn output(port: u16, bytes: &[u8]) {
    service(2, bytes.as_ptr() as u64, bytes.len() as u64, u64::from(port));
}

/// Turns interrupts off for this processor.
pub fn mask() {
    service(3, 0, 0, 0);
}

/// Turns interrupts on for this processor.
pub fn unmask() {
    service(4, 0, 0, 0);
}

/// Runs instructions where there is no memory, which KVM reports as an internal error.
pub fn crash() -> ! {
    service(5, 0, 0, 0);
    triple_fault()
}

/// Ends the machine by a triple fault.
pub fn triple_fault() -> ! {
    loop {
        service(6, 0, 0, 0);
    }
}

/// What the last fatal exception left: vector, error code, RIP, CR2.
pub fn fault() -> [u64; 4] {
    // SAFETY: see the declaration.
    let words = unsafe { &fault_record };
    [words[0].load(Relaxed), words[1].load(Relaxed), words[2].load(Relaxed), words[3].load(Relaxed)]
}

/// Tells the interrupt stubs which way to end an interrupt.
pub fn set_x2apic(used: bool) {
    // SAFETY: see the declaration.
    unsafe { &x2apic_in_use }.store(u32::from(used), Relaxed);
}

/// Whether the local APICs are in x2APIC mode.
pub fn x2apic() -> bool {
    // SAFETY: see the declaration.
    unsafe { &x2apic_in_use }.load(Relaxed) != 0
}

/// Makes the next NMI end the payload (`true`), or only be counted.
pub fn arm_nmi(armed: bool) {
    // SAFETY: see the declaration.
    unsafe { &nmi_armed }.store(u32::from(armed), Relaxed);
}

/// Tells the SCI stub where the PM1 status register is.
pub fn set_pm1_port(port: u16) {
    // SAFETY: see the declaration.
    unsafe { &pm1_port }.store(u32::from(port), Relaxed);
}

/// Takes the PM1 status bits that the SCI stub has seen and cleared.
pub fn take_pm1_status() -> u16 {
    // SAFETY: see the declaration.
    unsafe { &pm1_status }.swap(0, Relaxed) as u16
}

/// Gives processor `index` (1 and up) its task state segment, with the stacks of the block at `block`.
pub fn set_task_state(index: usize, block: u64) {
    // SAFETY: see the declaration.
    let states = unsafe { &other_tss };
    // SAFETY: see the declaration.
    let entries = unsafe { &gdt };
    let (Some(state), Some(entry)) = (states.get(index.wrapping_sub(1)), entries.get(7 + 2 * index)) else {
        return;
    };
    // Offsets by the Intel SDM, volume 3, section 9.7, in words of 32 bits; all stacks lie below 4 GiB.
    for (word, top) in [(1, SERVICE_STACK_TOP), (9, RECORD), (11, NMI_STACK_TOP), (13, FAULT_STACK_TOP)] {
        state[word].store((block + top) as u32, Relaxed);
    }
    let bitmap = (MAX_PROCESSORS - index) as u64 * TSS_SIZE;
    state[25].store((bitmap as u32) << 16, Relaxed);
    let address = core::ptr::from_ref(state) as u64;
    let limit = bitmap + 8192;
    entry.store(limit | (address & 0xff_ffff) << 16 | 0x89 << 40 | (address >> 24 & 0xff) << 56, Relaxed);
}

/// The code that another processor starts with.
pub fn trampoline_code() -> &'static [u8] {
    let start = &raw const trampoline;
    let length = &raw const trampoline_end as usize - start as usize;
    // SAFETY: ring0.s lays both labels around one run of code.
    unsafe { core::slice::from_raw_parts(start, length) }
}

/// Reads the time stamp counter.
pub fn tsc() -> u64 {
    // SAFETY: every x86-64 processor has it, and nothing turns it off for ring 3.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Writes a byte to a port.
pub fn out8(port: u16, value: u8) {
    // SAFETY: ring 3 has I/O privilege; a port is a device's, not memory.
    unsafe { core::arch::asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack)) };
}

/// Writes a 16-bit word to a port.
pub fn out16(port: u16, value: u16) {
    // SAFETY: as for out8.
    unsafe { core::arch::asm!("out dx, ax", in("dx") port, in("ax") value, options(nomem, nostack)) };
}

/// Writes a 32-bit word to a port.
pub fn out32(port: u16, value: u32) {
    // SAFETY: as for out8.
    unsafe { core::arch::asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack)) };
}

/// Reads a byte from a port.
pub fn in8(port: u16) -> u8 {
    let value: u8;
    // SAFETY: as for out8.
    unsafe { core::arch::asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack)) };
    value
}

/// Reads a 32-bit word from a port.
pub fn in32(port: u16) -> u32 {
    let value: u32;
    // SAFETY: as for out8.
    unsafe { core::arch::asm!("in eax, dx", in("dx") port, out("eax") value, options(nomem, nostack)) };
    value
}
