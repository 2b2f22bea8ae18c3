//! The processors: a block of memory each, with stacks and a record that ring 0's timer stub keeps.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::AcqRel, Ordering::Acquire, Ordering::Relaxed};

use crate::{apic, clock, memory, platform, probe, ring0};

/// A processor's record; ring0.s knows the fields by their offsets.
#[repr(C)]
pub struct Record {
    /// Interrupts of any kind, modulo 2^32: what a wait waits for.
    pub events: AtomicU32,
    /// Not zero: the timer is armed by counts instead of deadlines.
    pub one_shot: AtomicU32,
    /// Address of two words: beats, and the largest gap in nanoseconds.
    pub published: AtomicU64,
    /// Those two words, for all but the boot processor, whose words are on the probe page.
    own: [AtomicU64; 2],
    /// Time stamp of the last beat, 0 before the first.
    pub last: AtomicU64,
    /// Largest gap between two beats, cycles.
    pub largest: AtomicU64,
    /// When the next beat is due, time stamp.
    pub deadline: AtomicU64,
    /// Cycles between beats.
    pub period: AtomicU64,
    /// Beats that were due while another was late.
    pub missed: AtomicU64,
    /// Nanoseconds per cycle, times 2^32.
    pub nanoseconds: AtomicU64,
    /// Timer counts per cycle, times 2^32.
    pub counts: AtomicU64,
    base: AtomicU64,
}

impl Record {
    fn published(&self) -> &'static [AtomicU64; 2] {
        // SAFETY: `prepare_record` stored the address of two words that live for ever, before any reader.
        unsafe { &*(self.published.load(Relaxed) as *const [AtomicU64; 2]) }
    }

    /// Beats since the last reset.
    pub fn beats(&self) -> u64 {
        self.total().wrapping_sub(self.base.load(Relaxed))
    }

    /// Beats since start.
    pub fn total(&self) -> u64 {
        self.published()[0].load(Acquire)
    }

    /// Largest gap between two beats since the last reset, nanoseconds.
    pub fn largest_gap(&self) -> u64 {
        self.published()[1].load(Relaxed)
    }

    /// Starts counting anew. The beat counter itself goes on: others watch it.
    pub fn reset(&self) {
        // Right after a beat of that processor the stub is surely not in the middle of one.
        let seen = self.total();
        clock::within(1000, || self.total() != seen);
        self.base.store(self.total(), Relaxed);
        self.missed.store(0, Relaxed);
        self.largest.store(0, Relaxed);
        self.published()[1].store(0, Relaxed);
    }
}

/// The block of a processor.
const fn block(index: usize) -> u64 {
    ring0::PROCESSORS + index as u64 * ring0::BLOCK
}

/// The record of a processor, below [`ring0::MAX_PROCESSORS`].
pub fn record(index: usize) -> &'static Record {
    let index = index.min(ring0::MAX_PROCESSORS - 1);
    // SAFETY: the block is inside .processors, zeroed at load, aligned, and all fields are atomic.
    unsafe { &*((block(index) + ring0::RECORD) as *const Record) }
}

/// Processors that run.
pub fn running() -> u64 {
    probe::word(platform::PROBE_PROCESSORS).load(Acquire)
}

/// Makes the boot processor's record publish on the probe page.
pub fn prepare_boot() {
    record(0).published.store(platform::PROBE_ADDRESS + platform::PROBE_BEATS, Relaxed);
}

/// Makes everything ready that other processors need to start.
pub fn prepare(count: usize) {
    for index in 1..count.min(ring0::MAX_PROCESSORS) {
        let record = record(index);
        record.published.store((&raw const record.own) as u64, Relaxed);
        record.period.store(self::record(0).period.load(Relaxed), Relaxed);
        ring0::set_task_state(index, block(index));
    }
    memory::place(ring0::TRAMPOLINE, ring0::trampoline_code());
}

/// First code in ring 3 of another processor, interrupts off: beats and nothing else.
#[unsafe(no_mangle)]
extern "C" fn processor_main(index: usize) -> ! {
    let record = record(index);
    apic::enable();
    probe::word(platform::PROBE_PROCESSORS).fetch_add(1, AcqRel);
    apic::start_beats(record, record.period.load(Relaxed));
    ring0::unmask();
    loop {
        ring0::wait(&record.events, record.events.load(Relaxed));
    }
}
