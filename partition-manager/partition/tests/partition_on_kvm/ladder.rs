//! The rungs of a shutdown: ask, power button, non-maskable interrupt, stop.

use super::Test;
use super::guest::Code;
use super::harness::{Partition, Setup};
use anyhow::{Result, ensure};
use frame::platform::{CHANNEL_ANSWER, CHANNEL_APPROVE, CHANNEL_PORT};
use frame::record::Cause;
use frame::wire::{ChannelAnswer, Report, Request};
use std::time::{Duration, Instant};

/// The tests.
pub const TESTS: &[Test] = &[
    ("stop_ends_a_spin_in_ring_0", || stop(&Setup::guest(&Code::new().spin()))),
    ("stop_ends_a_long_rep_stosb", || stop(&Setup::guest(&stosb()))),
    ("stop_ends_a_halt", || stop(&Setup::guest(&Code::new().raw(&[0xfa, 0xf4]).spin()))),
    ("stop_ends_a_storm_of_exits", || stop(&Setup::guest(&Code::new().out8(0x80, 0).raw(&[0xeb, 0xfd])))),
    ("stop_ends_a_spin_in_ring_3", || stop(&Setup::payload("run=spin"))),
    ("stop_ends_a_hang_with_interrupts_off", || stop(&Setup::payload("run=hang"))),
    ("stop_ends_idle_processors", || stop(&Setup::payload("").processors(2))),
    ("a_guest_that_listens_approves", approve),
    ("a_guest_that_listens_denies", deny),
    ("a_guest_that_does_not_listen_is_absent", absent),
    ("the_power_button_reaches_the_guest", button),
    ("an_nmi_reaches_a_guest_that_hangs", nmi),
];

/// Fills 8 MiB by single bytes, for ever.
fn stosb() -> Code {
    Code::new().raw(&[0xbf, 0, 0, 0x20, 0]).ecx(8 << 20).raw(&[0xf3, 0xaa, 0xeb, 0xf2])
}

/// A partition stops within 50 ms whatever its guest does. A machine that is busy with other things can be
/// late, so that the best of a few counts; that each is in time is a matter of the harness's deadline.
fn stop(setup: &Setup) -> Result<()> {
    const PROMISED: Duration = Duration::from_millis(50);
    let mut times = Vec::new();
    for _ in 0..5 {
        let mut partition = Partition::run(setup)?;
        if matches!(setup.boot, super::harness::Boot::Payload(_)) {
            partition.until("\n")?;
        }
        let begin = Instant::now();
        partition.manager.send(Request::Stop)?;
        let last = partition.manager.last()?;
        times.push(begin.elapsed());
        ensure!(last.cause == Cause::Stopped && last.processor.is_none(), "{last:?}");
        ensure!(last.registers.len() == setup.processors.len(), "{last:?}");
        ensure!(partition.acknowledge()? == Some(0), "not orderly");
        if times.iter().any(|time| *time <= PROMISED) {
            return Ok(());
        }
    }
    anyhow::bail!("it took {times:?} to stop")
}

fn approve() -> Result<()> {
    let mut partition = Partition::run(&Setup::payload(""))?;
    partition.until("ready")?;
    partition.manager.send(Request::Ask)?;
    partition.manager.expect(&Report::Channel(ChannelAnswer::Pending))?;
    partition.manager.expect(&Report::Channel(ChannelAnswer::Approved))?;
    let last = partition.manager.last()?;
    ensure!(last.cause == Cause::PowerOff, "{last:?}");
    Ok(())
}

fn deny() -> Result<()> {
    let mut partition = Partition::run(&Setup::payload(""))?;
    partition.until("ready")?;
    partition.manager.send(Request::Input(b"deny\n".to_vec()))?;
    partition.until("will be denied")?;
    for _ in 0..2 {
        partition.manager.send(Request::Ask)?;
        partition.manager.expect(&Report::Channel(ChannelAnswer::Pending))?;
        partition.manager.expect(&Report::Channel(ChannelAnswer::Denied))?;
        // The payload looks at each beat whether a request is new: it must see that this one is over.
        let beats = frame::platform::PROBE_ADDRESS + frame::platform::PROBE_BEATS;
        let before = partition.guest_word(beats)?;
        Partition::wait_for("two beats", || Ok(partition.guest_word(beats)? >= before + 2))?;
    }
    Ok(())
}

fn absent() -> Result<()> {
    // It answers what nobody asked, for ever, and never says that it is there.
    let answer = CHANNEL_PORT + CHANNEL_ANSWER;
    let partition = Partition::run(&Setup::guest(&Code::new().out8(answer, CHANNEL_APPROVE).raw(&[0xeb, 0xfd])))?;
    for _ in 0..10 {
        partition.manager.send(Request::Ask)?;
        partition.manager.expect(&Report::Channel(ChannelAnswer::Absent))?;
    }
    Ok(())
}

fn button() -> Result<()> {
    let mut partition = Partition::run(&Setup::payload(""))?;
    partition.until("ready")?;
    partition.manager.send(Request::PowerButton)?;
    let last = partition.manager.last()?;
    ensure!(last.cause == Cause::PowerOff, "{last:?}");
    partition.until("power button")?;
    Ok(())
}

fn nmi() -> Result<()> {
    let mut partition = Partition::run(&Setup::payload("run=hang"))?;
    partition.until("hanging")?;
    // The guest arms its handler just after it has said so; an interrupt before that is only counted.
    let begin = Instant::now();
    loop {
        partition.manager.send(Request::Nmi)?;
        partition.manager.send(Request::Ping)?;
        match partition.manager.report()?.0 {
            Report::Pong => {}
            Report::Final(last) => {
                ensure!(last.cause == Cause::PowerOff, "{last:?}");
                break;
            }
            other => anyhow::bail!("{other:?}"),
        }
        ensure!(begin.elapsed() < super::harness::DEADLINE, "no NMI in time");
        std::thread::yield_now();
    }
    partition.until("NMI")?;
    Ok(())
}
