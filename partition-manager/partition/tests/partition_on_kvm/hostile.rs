//! Guests that do what no driver does.

use super::Test;
use super::guest::Code;
use super::harness::{Partition, Setup, readable};
use anyhow::{Result, ensure};
use frame::platform::{PM1A_EVENT_PORT, SERIAL_PORT};
use frame::record::{CONSOLE_SIZE, CONSOLE_TOTAL_OFFSET, Cause, ExitReason};
use frame::wire::{LARGEST_INPUT, Report, Request};
use std::time::{Duration, Instant};

/// The tests.
pub const TESTS: &[Test] = &[
    ("every_port_takes_every_width", ports),
    ("strings_of_every_width_and_direction_hurt_nobody", strings),
    ("random_code_gives_exactly_one_final_record", garbage),
    ("a_guest_that_floods_its_console_is_still_served", flood),
];

fn ports() -> Result<()> {
    // Reads and writes zero, 8, 16 and 32 bits wide, at each port from 0 to 0xffff: no zero ends a partition.
    let code = Code::new()
        .raw(&[0x31, 0xd2])
        .raw(&[0xec, 0x66, 0xed, 0xed])
        .raw(&[0x31, 0xc0, 0xee, 0x66, 0xef, 0xef])
        .raw(&[0x66, 0x42, 0x75, 0xf2])
        .power_off();
    // With everything that there is but the exit device, whose purpose is the end.
    let setup = Setup { pit: Some(true), ..Setup::guest(&code) };
    let (last, status, partition) = Partition::end(&setup)?;
    ensure!(last.cause == Cause::PowerOff && status == Some(0), "{last:?}");
    let (reads, writes) = (partition.exits(0, ExitReason::IoIn)?, partition.exits(0, ExitReason::IoOut)?);
    // The few ports that KVM's own devices have do not leave it.
    ensure!(reads > 3 * 65_000 && writes > 3 * 65_000, "{reads} reads, {writes} writes");
    Ok(())
}

fn strings() -> Result<()> {
    let mut code = Code::new();
    for port in [SERIAL_PORT, SERIAL_PORT + 3, SERIAL_PORT + 6, PM1A_EVENT_PORT, 0x70, 0x620, 0xfffe, 0x40, 0x43, 0x61]
    {
        // insb, insw, insd, then outsb, outsw, outsd of zeros; forwards, then backwards.
        for (direction, operation) in [0xfc, 0xfd].into_iter().flat_map(|direction| {
            [&[0xf3, 0x6c][..], &[0x66, 0xf3, 0x6d], &[0xf3, 0x6d], &[0xf3, 0x6e], &[0x66, 0xf3, 0x6f], &[0xf3, 0x6f]]
                .map(|operation| (direction, operation))
        }) {
            code = code
                .raw(&[direction, 0xbe, 0xff, 0x0f, 0x30, 0, 0xbf, 0xff, 0x0f, 0x20, 0])
                .ecx(3000)
                .raw(&[0x66, 0xba])
                .raw(&port.to_le_bytes())
                .raw(operation);
        }
    }
    let setup = Setup { pit: Some(true), ..Setup::guest(&code.raw(&[0xfc]).power_off()) };
    let (last, status, _) = Partition::end(&setup)?;
    ensure!(last.cause == Cause::PowerOff && status == Some(0), "{last:?}");
    Ok(())
}

/// Code that means nothing, the same for the same `seed` (xorshift64).
fn random(seed: u64) -> Code {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let bytes: Vec<u8> = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    })
    .take(2048)
    .collect();
    // A stack, and registers that point to devices as often as to memory.
    Code::new().raw(&[0xbc, 0, 0, 0x40, 0]).eax(0xfec0_0010).ecx(0x1b).raw(&[0x66, 0xba, 0xf8, 0x03]).raw(&bytes)
}

/// Random guests that are tried: among them are some that crash, some that KVM cannot run, some that go on.
const SEEDS: u64 = 40;

fn garbage() -> Result<()> {
    for seed in 1..=SEEDS {
        let mut partition = Partition::run(&Setup::guest(&random(seed)).processors(2))?;
        // Most end by themselves; the others are stopped.
        if !readable(&partition.manager.socket, Instant::now() + Duration::from_millis(20))? {
            partition.manager.send(Request::Stop)?;
        }
        let last = partition.manager.last()?;
        ensure!(last.registers.len() == 2, "seed {seed}: {last:?}");
        ensure!(partition.concluded()?.as_ref() == Some(&last), "seed {seed}: the record says something else");
        partition.manager.send(Request::Ping)?;
        partition.manager.expect(&Report::Pong)?;
        let expected = if last.cause.is_orderly() { 0 } else { 2 };
        ensure!(partition.acknowledge()? == Some(expected), "seed {seed}: {last:?}");
    }
    Ok(())
}

fn flood() -> Result<()> {
    // Strings of output as long as an instruction can make them, for ever: the console is busy all the time.
    let code = Code::new()
        .raw(&[0x66, 0xba])
        .raw(&SERIAL_PORT.to_le_bytes())
        .raw(&[0xbe, 0, 0, 0x20, 0])
        .ecx(0x10_0000)
        .raw(&[0xf3, 0x6e, 0xeb, 0xf2]);
    let partition = Partition::run(&Setup::guest(&code))?;
    Partition::wait_for("the flood", || {
        let total = partition.record(CONSOLE_TOTAL_OFFSET, 8)?;
        Ok(u64::from_le_bytes(total.try_into().unwrap_or_default()) > CONSOLE_SIZE)
    })?;
    for _ in 0..100 {
        partition.manager.send(Request::Input(vec![b'x'; LARGEST_INPUT]))?;
        partition.manager.send(Request::PowerButton)?;
        partition.manager.send(Request::Ping)?;
        partition.manager.expect(&Report::Pong)?;
    }
    partition.manager.send(Request::Stop)?;
    let last = partition.manager.last()?;
    ensure!(last.cause == Cause::Stopped, "{last:?}");
    Ok(())
}
