//! The 8254 as a guest sees it: its interrupt by the 8259, counter 2 by port 0x61, and no harm done with it.

use super::Test;
use super::guest::{Code, FLAT_CODE};
use super::harness::{Partition, Setup};
use anyhow::{Result, ensure};
use frame::record::{Cause, ExitReason};
use frame::wire::{Report, Request};
use std::time::{Duration, Instant};

/// The tests.
pub const TESTS: &[Test] = &[
    ("the_interval_timer_interrupts_by_the_8259", interrupts),
    ("counter_2_is_seen_at_port_0x61", counter_2),
    ("only_multiboot_guests_have_an_interval_timer_unless_asked", there),
    ("an_interval_timer_at_its_fastest_hurts_nobody_else", fastest),
];

/// Ticks of one period, near a millisecond.
const PERIOD: u16 = 1193;
/// Interrupts that the guest waits for.
const COUNT: u8 = 10;

/// Gives the first counter `count` in rate generator mode.
fn program(code: Code, count: u16) -> Code {
    let [low, high] = count.to_le_bytes();
    code.out8(0x43, 0x34).out8(0x40, low).out8(0x40, high)
}

/// A multiboot guest with descriptor tables of its own, that takes the timer's interrupt by the 8259.
fn interrupted() -> Vec<u8> {
    // The handler is the last of the code, whose length does not depend on where that is.
    let ends = |code: &Code| (FLAT_CODE + code.here() - super::guest::CODE) as u32;
    let handler = ends(&until_waiting(0));
    until_waiting(handler)
        // inc ebx; mov al, 0x20; out 0x20, al; mov esp, 0x400000; cmp ebx, COUNT; jb to the wait. There is no return
        // from the interrupt: some hosts interpret ring 0, and not that instruction.
        .raw(&[0x43, 0xb0, 0x20, 0xe6, 0x20, 0xbc, 0, 0, 0x40, 0, 0x83, 0xfb, COUNT, 0x72, 0xed])
        // mov eax, ebx
        .raw(&[0x89, 0xd8])
        .exit_eax()
        .multiboot_flat()
}

/// Everything up to the wait for an interrupt, which `handler` is to take.
fn until_waiting(handler: u32) -> Code {
    // mov esp, 0x400000
    let code = Code::new()
        .raw(&[0xbc, 0, 0, 0x40, 0])
        .put(0x20_1008, 0x0000_ffff)
        .put(0x20_100c, 0x00cf_9b00)
        .put(0x20_1010, 0x0000_ffff)
        .put(0x20_1014, 0x00cf_9300)
        .put(0x20_1100, 0x1000_0017)
        .put(0x20_1104, 0x0000_0020)
        .put(0x20_2100, 0x0008_0000 | handler & 0xffff)
        .put(0x20_2104, handler & 0xffff_0000 | 0x8e00)
        .put(0x20_1200, 0x2000_07ff)
        .put(0x20_1204, 0x0000_0020)
        // lgdt, lidt.
        .raw(&[0x0f, 0x01, 0x15, 0, 0x11, 0x20, 0, 0x0f, 0x01, 0x1d, 0, 0x12, 0x20, 0]);
    // A far jump to the next instruction, then the data segments.
    let next = (FLAT_CODE + code.here() - super::guest::CODE) as u32 + 7;
    let mut code = code
        .raw(&[0xea])
        .raw(&next.to_le_bytes())
        .raw(&[0x08, 0, 0x66, 0xb8, 0x10, 0, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0]);
    // Both 8259s: vectors from 0x20 and 0x28, and only the timer is let through.
    for (port, value) in [
        (0x20, 0x11),
        (0xa0, 0x11),
        (0x21, 0x20),
        (0xa1, 0x28),
        (0x21, 4),
        (0xa1, 2),
        (0x21, 1),
        (0xa1, 1),
        (0x21, 0xfe),
        (0xa1, 0xff),
    ] {
        code = code.out8(port, value);
    }
    // xor ebx, ebx; wait: sti; hlt; jmp wait
    program(code, PERIOD).raw(&[0x31, 0xdb, 0xfb, 0xf4, 0xeb, 0xfc])
}

fn interrupts() -> Result<()> {
    let begin = Instant::now();
    let (last, status, _) = Partition::end(&Setup::kernel(interrupted()))?;
    ensure!(last.cause == Cause::Exit { status: COUNT.into() } && status == Some(0), "{last:?}");
    // However slow the machine is, no interrupt comes early.
    let least = Duration::from_secs(1) * u32::from(COUNT) * u32::from(PERIOD) / 1_193_182;
    ensure!(begin.elapsed() >= least, "{:?} for {COUNT} interrupts", begin.elapsed());
    Ok(())
}

fn counter_2() -> Result<()> {
    // Gate on, mode 0, 1000 ticks; in al, 0x61; test al, 0x20; jz; then exit with what is there.
    let code = Code::new()
        .out8(0x61, 1)
        .out8(0x43, 0xb0)
        .out8(0x42, 0xe8)
        .out8(0x42, 0x03)
        .raw(&[0xe4, 0x61, 0xa8, 0x20, 0x74, 0xfa, 0x25, 0x2f, 0, 0, 0])
        .exit_eax()
        .spin();
    let (last, ..) = Partition::end(&Setup::kernel(code.multiboot_flat()))?;
    ensure!(last.cause == Cause::Exit { status: 0x21 }, "{last:?}");
    Ok(())
}

fn there() -> Result<()> {
    // Reads a byte that was latched: with a timer the low byte of a count, without one all ones.
    let code = Code::new().out8(0x43, 0x10).out8(0x40, 1).out8(0x43, 0xe2).eax(0).in8(0x40).exit_eax().spin();
    let status = |setup: &Setup| match Partition::end(setup)?.0.cause {
        Cause::Exit { status } => anyhow::Ok(status),
        other => anyhow::bail!("{other:?}"),
    };
    let setups = [
        (Setup::kernel(code.multiboot_flat()), true),
        (Setup { pit: Some(false), ..Setup::kernel(code.multiboot_flat()) }, false),
        (Setup::kernel(code.elf()), false),
        (Setup { pit: Some(true), ..Setup::kernel(code.elf()) }, true),
    ];
    for (index, (setup, expected)) in setups.iter().enumerate() {
        let status = status(setup)?;
        // OUT may be high already: mode 0, low byte only.
        ensure!((status & 0x3f == 0x10) == *expected && (status == 0xff) != *expected, "{index}: {status:#x}");
    }
    Ok(())
}

fn fastest() -> Result<()> {
    // Programs the highest rate again and again, for ever.
    let code = program(Code::new(), 1);
    let back = code.here() - super::guest::CODE + 2;
    let code = code.raw(&[0xeb, (256 - back) as u8]);
    let partition = Partition::run(&Setup { pit: Some(true), ..Setup::guest(&code) })?;
    Partition::wait_for("a thousand writes", || Ok(partition.exits(0, ExitReason::IoOut)? > 1000))?;
    for _ in 0..100 {
        partition.manager.send(Request::Ping)?;
        partition.manager.expect(&Report::Pong)?;
    }
    partition.manager.send(Request::Stop)?;
    let last = partition.manager.last()?;
    ensure!(last.cause == Cause::Stopped, "{last:?}");
    Ok(())
}
