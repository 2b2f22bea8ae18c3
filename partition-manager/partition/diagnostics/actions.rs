//! What the commands do.

use core::cell::UnsafeCell;

use crate::acpi;
use crate::apic;
use crate::clock;
use crate::command::{Command, HELP};
use crate::console::{self, Line};
use crate::devices;
use crate::network;
use crate::histogram::Histogram;
use crate::memory;
use crate::platform;
use crate::probe;
use crate::processors;
use crate::ring0;
use crate::state::State;
use crate::terminal;
use crate::vsock;
use crate::watchdog::Watchdog;

/// Most exits that one command measures: minutes on the slowest host.
const EXITS_LIMIT: u64 = 10_000_000;
/// Most interrupts of one storm.
const STORM_LIMIT: u64 = 10_000_000;
/// Most beats of one measurement.
const BEATS_LIMIT: u64 = 100_000;
/// 64-bit words of the pattern that `digest` reads.
const PATTERN: usize = 8192;

/// Memory that only the boot processor's serving loop touches.
struct Private<T>(UnsafeCell<T>);

// SAFETY: only `perform` and `fill_pattern` reach it, and only the boot processor calls them, not nested.
unsafe impl<T> Sync for Private<T> {}

static HISTOGRAM: Private<Histogram> = Private(UnsafeCell::new(Histogram::new()));
static MEMORY: Private<[u64; PATTERN]> = Private(UnsafeCell::new([0; PATTERN]));

/// Carries a command out and says one line about it.
pub fn perform(state: &mut State, command: Command) {
    let mut answer = Line::new();
    let line = &mut answer;
    match command {
        Command::Help => {
            line.text(HELP);
        }
        Command::Info => info(state, line),
        Command::Beats => beats(state, line),
        Command::ResetBeats => {
            (0..processors::running() as usize).for_each(|index| processors::record(index).reset());
            state.since = ring0::tsc();
            line.text("beats are counted from here");
        }
        Command::Off => {
            console::say(Line::named().text(": powering off"));
            acpi::power_off()
        }
        Command::Exit(status) => exit(status, line),
        Command::Reboot => {
            console::say(Line::named().text(": rebooting"));
            acpi::reboot()
        }
        Command::Crash => {
            console::say(Line::named().text(": crashing"));
            ring0::crash()
        }
        Command::TripleFault => {
            console::say(Line::named().text(": triple fault"));
            ring0::triple_fault()
        }
        Command::Hang => hang(state),
        Command::Spin => {
            state.spinning = true;
            line.text("spinning");
        }
        Command::Idle => {
            state.spinning = false;
            line.text("halting when idle");
        }
        Command::Exits(count) => exits(count.min(EXITS_LIMIT), line),
        Command::Wild(address) => wild(address, line),
        Command::Dirty(mib) => dirty(state, mib, line),
        Command::Digest => {
            line.text("digest=").hex(digest());
        }
        Command::Storm(count) => storm(count.min(STORM_LIMIT), line),
        Command::Ipi(count) => ipi(count.min(STORM_LIMIT), line),
        Command::Lateness(count) => lateness(count.min(BEATS_LIMIT), line),
        Command::Deny => {
            state.denying = true;
            line.text("requests to shut down will be denied");
        }
        Command::Approve => {
            state.denying = false;
            line.text("requests to shut down will be approved");
        }
        Command::Devices => devices::list(line),
        Command::Reset(slot) => devices::reset(slot, line),
        Command::Random(slot) => devices::random(slot, line),
        Command::Disk(errand, slot, sector) => devices::disk(errand, slot, sector, line),
        Command::Requests(slot, count) => devices::requests(slot, count, line),
        Command::Misdrive(slot, misdeed) => devices::misdrive(slot, misdeed, line),
        Command::Send(slot, number) => network::send(slot, number, false, line),
        Command::Forge(slot, number) => network::send(slot, number, true, line),
        Command::Receive(slot) => network::receive(slot, line),
        Command::Listen(slot, port) => vsock::listen(slot, port, line),
        Command::Call(slot, port) => vsock::call(slot, port, line),
        Command::Say(slot, lines) => terminal::say(slot, lines, line),
        Command::Echo(slot) => terminal::echo(slot, line),
        Command::Watchdog(milliseconds) => watch(state, milliseconds, line),
        Command::IgnoreNmi => {
            state.ignoring_nmi = true;
            line.text("NMIs will only be counted");
        }
        Command::IgnoreButton => {
            state.ignoring_button = true;
            line.text("the power button will only be counted");
        }
    }
    console::say(&answer);
}

fn watch(state: &mut State, milliseconds: u64, line: &mut Line) {
    match Watchdog::find() {
        None => {
            line.text("refused: there is no watchdog; the frame file says watchdog = \"restart\" to have one");
        }
        Some(watchdog) if milliseconds == 0 => {
            watchdog.disarm();
            state.watchdog = None;
            line.text("watchdog=").number(0);
        }
        Some(watchdog) => {
            watchdog.arm(milliseconds);
            state.watchdog = Some(watchdog);
            line.text("watchdog=").number(milliseconds).field("lock", watchdog.lock().into());
        }
    }
}

fn info(state: &State, line: &mut Line) {
    line.text("name=")
        .bytes(state.options.name())
        .field("processors", processors::running())
        .field("memory_mib", state.start.memory_mib())
        .field("beat_ms", state.options.beat)
        .field("tsc_khz", clock::kilohertz())
        .text(" clock=")
        .text(state.clock)
        .text(if apic::deadline_mode() { " timer=tsc-deadline" } else { " timer=one-shot" })
        .text(if ring0::x2apic() { " apic=x2apic" } else { " apic=xapic" })
        .text(if state.channel { " channel=yes" } else { " channel=no" })
        .field("nmis", probe::interrupts(2));
}

/// Ends the partition with a status, if it has an exit device.
fn exit(status: u64, line: &mut Line) {
    let Ok(status) = u32::try_from(status) else {
        line.text("refused: an exit status has 32 bits");
        return;
    };
    // Reads of nothing are all ones.
    if ring0::in8(platform::EXIT_PORT) == u8::MAX {
        line.text("refused: there is no exit device; the frame file says exit_device = true to have one");
        return;
    }
    console::say(Line::named().text(": exiting with ").number(u64::from(status)));
    ring0::out32(platform::EXIT_PORT, status);
    line.text("the exit device did nothing");
}

fn beats(state: &State, line: &mut Line) {
    let boot = processors::record(0);
    let running = processors::running();
    line.text("beats=")
        .number(boot.beats())
        .field("missed", boot.missed.load(core::sync::atomic::Ordering::Relaxed))
        .field("largest_gap_us", boot.largest_gap() / 1000)
        .field("elapsed_ms", clock::microseconds(ring0::tsc().wrapping_sub(state.since)) / 1000)
        .field("processors", running);
    let others = || (1..running as usize).map(processors::record);
    let Some(least) = others().map(processors::Record::beats).min() else {
        return;
    };
    let missed = others().map(|record| record.missed.load(core::sync::atomic::Ordering::Relaxed)).max();
    let gap = others().map(processors::Record::largest_gap).max();
    line.field("others_least_beats", least)
        .field("others_most_missed", missed.unwrap_or_default())
        .field("others_largest_gap_us", gap.unwrap_or_default() / 1000);
}

/// Interrupts off for ever; only an NMI gets through.
fn hang(state: &State) -> ! {
    console::say(Line::named().text(": hanging"));
    ring0::arm_nmi(!state.ignoring_nmi);
    ring0::mask();
    loop {
        core::hint::spin_loop();
    }
}

/// Times writes to a port that swallows them: each is one exit to the monitor. Percentiles are in cycles.
fn exits(count: u64, line: &mut Line) {
    // SAFETY: see Private.
    let histogram = unsafe { &mut *HISTOGRAM.0.get() };
    histogram.clear();
    let start = ring0::tsc();
    let mut before = start;
    for _ in 0..count {
        ring0::out8(platform::POST_PORT, 0);
        let after = ring0::tsc();
        histogram.add(after.wrapping_sub(before));
        // The bookkeeping is not the exit's.
        before = ring0::tsc();
    }
    line.text("exits=")
        .number(count)
        .field("p50", histogram.percentile(50))
        .field("p99", histogram.percentile(99))
        .field("total_us", clock::microseconds(before.wrapping_sub(start)))
        .field("tsc_khz", clock::kilohertz());
}

/// Reads, writes and reads an address that may be anything. Above 4 GiB nothing is mapped: that is a page fault.
fn wild(address: u64, line: &mut Line) {
    let register = address as *mut u32;
    // SAFETY: not safe, on purpose: the command exists to reach where it should not. Assembly, so that the
    // compiler draws no conclusions from it.
    let (first, second) = unsafe {
        let (first, second): (u32, u32);
        core::arch::asm!(
            "mov {first:e}, dword ptr [{register}]",
            "mov dword ptr [{register}], {value:e}",
            "mov {second:e}, dword ptr [{register}]",
            register = in(reg) register,
            value = in(reg) 0x5a5a_5a5a,
            first = out(reg) first,
            second = out(reg) second,
        );
        (first, second)
    };
    line.text("wild ").hex(address).text(" read=").hex(u64::from(first)).text(" then=").hex(u64::from(second));
}

fn dirty(state: &State, mib: u64, line: &mut Line) {
    let (base, length) = state.start.spare();
    let available = length >> 20;
    if mib > available {
        line.text("refused: only ").number(available).text(" MiB can be written");
        return;
    }
    let start = ring0::tsc();
    // Another value each time, so that the memory really changes.
    memory::fill(base, mib << 20, start as u8 | 1);
    line.text("dirty_mib=").number(mib).field("total_us", clock::microseconds(ring0::tsc().wrapping_sub(start)));
}

/// Writes the pattern that `digest` reads.
pub fn fill_pattern() {
    // SAFETY: see Private.
    let memory = unsafe { &mut *MEMORY.0.get() };
    let mut value = 0x9e37_79b9_7f4a_7c15u64;
    for word in memory {
        // Marsaglia's xorshift: any cheap sequence without repetition will do.
        value ^= value << 13;
        value ^= value >> 7;
        value ^= value << 17;
        *word = value;
    }
}

/// FNV-1a over the pattern's words.
fn digest() -> u64 {
    // SAFETY: see Private.
    let memory = unsafe { &*MEMORY.0.get() };
    memory.iter().fold(0xcbf2_9ce4_8422_2325, |digest, word| {
        // SAFETY: a shared reference to an aligned word; volatile, since its change from outside is the point.
        let word = unsafe { core::ptr::from_ref(word).read_volatile() };
        (digest ^ word).wrapping_mul(0x100_0000_01b3)
    })
}

/// Interrupts all other processors again and again, each time once all have taken the one before.
fn ipi(count: u64, line: &mut Line) {
    let others = processors::running().saturating_sub(1);
    let start = ring0::tsc();
    let mut taken = 0;
    for _ in 0..count {
        let before = probe::interrupts(ring0::STORM_VECTOR);
        apic::interrupt_others(ring0::STORM_VECTOR);
        if !clock::within(1000, || probe::interrupts(ring0::STORM_VECTOR) - before >= others) {
            break;
        }
        taken += others;
    }
    let spent = ring0::tsc().wrapping_sub(start);
    line.text("ipi=").number(count).field("taken", taken).field("total_us", clock::microseconds(spent));
}

/// How late beats come: from the time that the timer was set to until its interrupt's first instructions.
/// Percentiles are in nanoseconds.
fn lateness(count: u64, line: &mut Line) {
    // SAFETY: see Private.
    let histogram = unsafe { &mut *HISTOGRAM.0.get() };
    histogram.clear();
    let record = processors::record(0);
    let mut seen = record.total();
    let mut measured = 0;
    while measured < count {
        let events = record.events.load(core::sync::atomic::Ordering::Acquire);
        let total = record.total();
        if total == seen {
            ring0::wait(&record.events, events);
            continue;
        }
        seen = total;
        measured += 1;
        // The stub has set the next deadline, a period after the one that it was called for.
        let load = |word: &core::sync::atomic::AtomicU64| word.load(core::sync::atomic::Ordering::Relaxed);
        let due = load(&record.deadline).wrapping_sub(load(&record.period));
        histogram.add(load(&record.last).saturating_sub(due));
    }
    let nanoseconds = |percent| clock::microseconds(histogram.percentile(percent) * 1000);
    line.text("lateness=").number(measured).field("p50", nanoseconds(50)).field("p99", nanoseconds(99));
}

fn storm(count: u64, line: &mut Line) {
    let before = probe::interrupts(ring0::STORM_VECTOR);
    let start = ring0::tsc();
    apic::storm(ring0::STORM_VECTOR, count);
    let spent = ring0::tsc().wrapping_sub(start);
    line.text("storm=")
        .number(count)
        .field("taken", probe::interrupts(ring0::STORM_VECTOR) - before)
        .field("total_us", clock::microseconds(spent));
}
