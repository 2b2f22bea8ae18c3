//! The same guest and devices with the interrupt controllers in the kernel, split, and in user space.

use super::Test;
use super::harness::{Partition, Setup};
use anyhow::{Context, Result, ensure};
use frame::launch::InterruptMode;
use frame::platform::{PROBE_ADDRESS, PROBE_BEATS, PROBE_INTERRUPTS, PROBE_PIN_VECTOR, SCI_GSI, SERIAL_GSI};
use frame::record::{Cause, ExitReason};
use frame::wire::Request;

/// The tests.
pub const TESTS: &[Test] = &[
    ("interrupts_come_by_controllers_in_the_kernel", || all(InterruptMode::Kernel)),
    ("interrupts_come_by_split_controllers", || all(InterruptMode::Split)),
    ("interrupts_come_by_emulated_controllers", || all(InterruptMode::Emulated)),
    ("a_halted_processor_with_emulated_controllers_stops", || stops("idle", "halting when idle")),
    ("a_busy_processor_with_emulated_controllers_stops", || stops("spin", "spinning")),
    ("an_8259_is_refused_where_there_is_none", no_8259),
];

fn counter(vector: u64) -> u64 {
    PROBE_ADDRESS + PROBE_INTERRUPTS + vector * 8
}

fn pin(gsi: u32) -> u64 {
    counter(u64::from(PROBE_PIN_VECTOR) + u64::from(gsi))
}

/// INIT and start-up, the timer, an edge and a level at a pin, an interprocessor interrupt, an NMI.
fn all(interrupt_mode: InterruptMode) -> Result<()> {
    let setup = Setup { interrupt_mode, interrupts: vec![11], ..Setup::payload("name=alpha").processors(2) };
    let mut partition = Partition::run(&setup)?;
    partition.until("ready, 2 of 2 processors up")?;
    let beats = partition.guest_word(PROBE_ADDRESS + PROBE_BEATS)?;
    Partition::wait_for("beats", || Ok(partition.guest_word(PROBE_ADDRESS + PROBE_BEATS)? >= beats + 20))?;

    let before = partition.guest_word(pin(SERIAL_GSI))?;
    partition.manager.send(Request::Input(b"info\n".to_vec()))?;
    let info = partition.until("channel=yes")?;
    let emulated = interrupt_mode == InterruptMode::Emulated;
    ensure!(info.contains("apic=xapic") || !emulated, "{info:?}");
    ensure!(info.contains("timer=one-shot") || !emulated, "{info:?}");
    ensure!(partition.guest_word(pin(SERIAL_GSI))? > before, "input without an interrupt");

    let source = partition.given.interrupts.first().context("no source")?;
    let before = partition.guest_word(pin(11))?;
    rustix::io::write(source, &1u64.to_ne_bytes())?;
    Partition::wait_for("an edge", || Ok(partition.guest_word(pin(11))? == before + 1))?;

    partition.manager.send(Request::Input(b"storm 50\n".to_vec()))?;
    let storm = partition.until("total_us")?;
    ensure!(storm.contains("storm=50 taken=50"), "{storm:?}");

    partition.manager.send(Request::Input(b"ipi 50\n".to_vec()))?;
    let ipi = partition.until("total_us")?;
    ensure!(ipi.contains("ipi=50 taken=50"), "{ipi:?}");

    partition.manager.send(Request::Input(b"ignore-nmi\n".to_vec()))?;
    partition.until("NMIs will only be counted")?;
    partition.manager.send(Request::Nmi)?;
    Partition::wait_for("an NMI", || Ok(partition.guest_word(counter(2))? >= 1))?;

    let halts = partition.exits(0, ExitReason::Halt)?;
    ensure!(emulated == (halts > 0), "{halts} halts came to user space");
    partition.manager.send(Request::PowerButton)?;
    let last = partition.manager.last()?;
    ensure!(last.cause == Cause::PowerOff, "{last:?}");
    ensure!(partition.guest_word(pin(SCI_GSI))? >= 1, "no level-triggered interrupt");
    Ok(())
}

fn stops(command: &str, answer: &str) -> Result<()> {
    let setup = Setup { interrupt_mode: InterruptMode::Emulated, ..Setup::payload("").processors(2) };
    let mut partition = Partition::run(&setup)?;
    partition.until("2 of 2 processors up")?;
    partition.manager.send(Request::Input(format!("{command}\n").into_bytes()))?;
    partition.until(answer)?;
    partition.manager.send(Request::Stop)?;
    let last = partition.manager.last()?;
    ensure!(last.cause == Cause::Stopped && last.registers.len() == 2, "{last:?}");
    Ok(())
}

fn no_8259() -> Result<()> {
    for interrupt_mode in [InterruptMode::Split, InterruptMode::Emulated] {
        let setup = Setup { interrupt_mode, pit: Some(true), ..Setup::payload("") };
        let reason = super::harness::failure(&setup, |_, _| Ok(()))?;
        ensure!(reason.contains("interrupts = \"kernel\""), "{reason:?}");
    }
    Ok(())
}
