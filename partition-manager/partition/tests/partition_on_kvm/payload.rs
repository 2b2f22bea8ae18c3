//! The built-in payload runs: output, input, interrupts, several processors.

use super::Test;
use super::harness::{Partition, Setup};
use anyhow::{Result, ensure};
use frame::platform::{PROBE_ADDRESS, PROBE_BEATS, PROBE_INTERRUPTS, PROBE_MAGIC, PROBE_PIN_VECTOR};
use frame::record::ExitReason;
use frame::wire::Request;

/// The tests.
pub const TESTS: &[Test] = &[
    ("the_banner_comes_through_the_record_and_the_doorbell", banner),
    ("the_console_takes_input", input),
    ("a_paste_longer_than_the_uart_arrives_whole", paste),
    ("every_virtual_processor_comes_up", several),
    ("memory_of_several_nodes_is_one_space", nodes),
    ("an_interrupt_source_reaches_its_pin", interrupt),
    ("exits_of_the_payload_are_counted", counted),
];

fn banner() -> Result<()> {
    let mut partition = Partition::run(&Setup::payload("name=alpha"))?;
    let banner = partition.until("\n")?;
    ensure!(banner.starts_with("alpha: diagnostics, 1 processor, 16 MiB"), "{banner:?}");
    partition.until("alpha: ready, 1 of 1 processor up")?;
    ensure!(partition.guest_word(PROBE_ADDRESS)? == PROBE_MAGIC, "no probe page");
    Partition::wait_for("three beats", || Ok(partition.guest_word(PROBE_ADDRESS + PROBE_BEATS)? >= 3))
}

fn input() -> Result<()> {
    let mut partition = Partition::run(&Setup::payload("name=alpha"))?;
    partition.until("ready")?;
    partition.manager.send(Request::Input(b"info\n".to_vec()))?;
    let info = partition.until("channel=yes")?;
    ensure!(info.contains("name=alpha processors=1 memory_mib=16"), "{info:?}");
    Ok(())
}

fn paste() -> Result<()> {
    let mut partition = Partition::run(&Setup::payload(""))?;
    partition.until("ready")?;
    let lines = 40;
    partition.manager.send(Request::Input(b"digest\n".repeat(lines)))?;
    let mut answers = Vec::new();
    for _ in 0..lines {
        partition.until("digest=0x")?;
        answers.push(partition.until("\n")?);
    }
    ensure!(answers.iter().all(|answer| Some(answer) == answers.first()), "{answers:?}");
    Ok(())
}

fn several() -> Result<()> {
    let mut partition = Partition::run(&Setup::payload("").processors(4))?;
    partition.until("ready, 4 of 4 processors up")?;
    partition.manager.send(Request::Stop)?;
    let last = partition.manager.last()?;
    ensure!(last.registers.len() == 4, "{last:?}");
    ensure!(last.registers.iter().all(|registers| registers.rip != 0), "{last:?}");
    Ok(())
}

fn nodes() -> Result<()> {
    let setup = Setup { memory: vec![8, 24], ..Setup::payload("") };
    let banner = Partition::run(&setup)?.until("\n")?;
    ensure!(banner.contains("32 MiB"), "{banner:?}");
    Ok(())
}

fn interrupt() -> Result<()> {
    let setup = Setup { interrupts: vec![11, 5], ..Setup::payload("") };
    let mut partition = Partition::run(&setup)?;
    partition.until("ready")?;
    let counter = |gsi: u64| PROBE_ADDRESS + PROBE_INTERRUPTS + (u64::from(PROBE_PIN_VECTOR) + gsi) * 8;
    for (source, gsi) in partition.given.interrupts.iter().zip([11, 5]) {
        let before = partition.guest_word(counter(gsi))?;
        rustix::io::write(source, &1u64.to_ne_bytes())?;
        Partition::wait_for("an interrupt", || Ok(partition.guest_word(counter(gsi))? == before + 1))?;
    }
    Ok(())
}

fn counted() -> Result<()> {
    let mut partition = Partition::run(&Setup::payload(""))?;
    partition.until("ready")?;
    let before = partition.exits(0, ExitReason::IoOut)?;
    partition.manager.send(Request::Input(b"exits 500\n".to_vec()))?;
    partition.until("p99")?;
    let after = partition.exits(0, ExitReason::IoOut)?;
    ensure!(after - before >= 500, "{before} to {after}");
    ensure!(partition.exits(0, ExitReason::Shutdown)? == 0, "counted what did not happen");
    Ok(())
}
