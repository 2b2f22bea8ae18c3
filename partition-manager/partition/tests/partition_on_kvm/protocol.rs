//! Who may speak, and what happens to those who may not.

use super::Test;
use super::guest::Code;
use super::harness::{DEADLINE, Partition, Process, Setup};
use anyhow::{Context, Result, bail, ensure};
use frame::platform::{PROBE_ADDRESS, PROBE_BEATS};
use frame::record::Cause;
use frame::wire::{LARGEST_PACKET, Phase, Report, Request};
use os::packet::{self, PacketError};
use rustix::net::SendFlags;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::time::Instant;

/// The tests.
pub const TESTS: &[Test] = &[
    ("a_lower_epoch_is_refused", lower),
    ("a_new_manager_is_given_everything", take_over),
    ("nonsense_closes_its_connection_and_nothing_else", nonsense),
    ("silent_connections_do_not_keep_others_out", silent),
    ("a_manager_that_does_not_read_is_dropped_and_may_come_again", slow),
    ("a_process_is_launched_once_and_in_order", order),
];

/// The tests that need no KVM.
pub const ALONE: &[Test] = &[
    ("stop_before_a_launch_ends_the_process", unlaunched),
    ("a_process_without_a_socket_says_what_it_needs", no_socket),
    ("the_image_is_written_to_standard_output", image),
];

fn refused(connection: &super::harness::Connection) -> Result<String> {
    match connection.report()?.0 {
        Report::Refused { reason } => {
            connection.closed()?;
            Ok(reason)
        }
        other => bail!("{other:?} instead of Refused"),
    }
}

fn beats(partition: &Partition) -> Result<()> {
    let word = PROBE_ADDRESS + PROBE_BEATS;
    let before = partition.guest_word(word)?;
    Partition::wait_for("a beat", || Ok(partition.guest_word(word)? > before))
}

fn lower() -> Result<()> {
    let partition = Partition::run(&Setup::payload(""))?;
    let reason = refused(&partition.process.hello(4)?)?;
    ensure!(reason == "epoch 4 is over: this partition has served epoch 5", "{reason}");
    // The manager is still the manager.
    partition.manager.send(Request::Ping)?;
    partition.manager.expect(&Report::Pong)?;
    // Until one with a higher epoch comes; what the old one sends then has no effect.
    let new = partition.process.hello(6)?;
    ensure!(matches!(new.report()?.0, Report::Welcome(_)), "no welcome");
    let _ = partition.manager.send(Request::Stop);
    partition.manager.closed()?;
    let fallen = super::harness::Connection { epoch: 5, ..new };
    fallen.send(Request::Stop)?;
    refused(&fallen)?;
    beats(&partition)
}

fn identity(descriptor: impl AsFd) -> Result<(u64, u64)> {
    let stat = rustix::fs::fstat(descriptor)?;
    Ok((stat.st_dev, stat.st_ino))
}

fn take_over() -> Result<()> {
    let setup = Setup { memory: vec![8, 8], ..Setup::payload("").processors(2) };
    let mut partition = Partition::run(&setup)?;
    partition.until("ready, 2 of 2")?;
    let new = partition.process.hello(super::harness::EPOCH)?;
    let (Report::Welcome(welcome), descriptors) = new.report()? else { bail!("no welcome") };
    partition.manager.closed()?;
    ensure!(welcome.phase == Phase::Running && welcome.ended.is_none(), "{welcome:?}");
    ensure!(welcome.spec.as_deref() == Some(&setup.spec()?), "{welcome:?}");
    ensure!(descriptors.len() == 2 + 2 + 2, "{} descriptors", descriptors.len());
    let kept: Vec<&OwnedFd> =
        [&partition.given.record, &partition.given.doorbell].into_iter().chain(&partition.given.memory).collect();
    for (taken, kept) in descriptors.iter().zip(kept) {
        ensure!(identity(taken)? == identity(kept)?, "another file");
    }
    // Every virtual processor can be mapped.
    for processor in descriptors.iter().skip(4) {
        let (read, shared) = (rustix::mm::ProtFlags::READ, rustix::mm::MapFlags::SHARED);
        // SAFETY: a new mapping at an address of the kernel's choice, which is not read.
        unsafe { rustix::mm::mmap(std::ptr::null_mut(), 4096, read, shared, processor, 0) }.context("kvm_run")?;
    }
    new.send(Request::Stop)?;
    ensure!(new.last()?.cause == Cause::Stopped, "not stopped");
    Ok(())
}

fn nonsense() -> Result<()> {
    let partition = Partition::run(&Setup::payload(""))?;
    let large = vec![b'['; LARGEST_PACKET + 1];
    let nonsense: [&[u8]; 5] = [b"nonsense", b"{}", b"{\"version\":1}", &[0xff; 300], &large];
    for bytes in nonsense {
        let stranger = partition.process.connect()?;
        rustix::net::send(&stranger.socket, bytes, SendFlags::NOSIGNAL)?;
        stranger.closed()?;
    }
    let stranger = partition.process.connect()?;
    rustix::net::send(&stranger.socket, b"{\"version\":99,\"epoch\":1,\"message\":\"hello\"}", SendFlags::NOSIGNAL)?;
    let reason = refused(&stranger)?;
    ensure!(reason.contains("version 99"), "{reason}");
    let stranger = partition.process.connect()?;
    stranger.send(Request::Stop)?;
    let reason = refused(&stranger)?;
    ensure!(reason.contains("hello"), "{reason}");
    // Descriptors where none belong are closed.
    partition.manager.send_with(Request::Ping, &[partition.given.record.as_fd(); 100])?;
    partition.manager.expect(&Report::Pong)?;
    let open = std::fs::read_dir(format!("/proc/{}/fd", partition.process.child.id()))?.count();
    ensure!(open < 50, "{open} descriptors are open");
    beats(&partition)
}

fn silent() -> Result<()> {
    let partition = Partition::run(&Setup::payload(""))?;
    let strangers = (0..20).map(|_| partition.process.connect()).collect::<Result<Vec<_>>>()?;
    partition.manager.send(Request::Ping)?;
    partition.manager.expect(&Report::Pong)?;
    strangers.first().context("no stranger")?.closed()?;
    let new = partition.process.hello(6)?;
    ensure!(matches!(new.report()?.0, Report::Welcome(_)), "no welcome");
    Ok(())
}

fn slow() -> Result<()> {
    let partition = Partition::run(&Setup::payload(""))?;
    rustix::io::ioctl_fionbio(&partition.manager.socket, true)?;
    let begin = Instant::now();
    loop {
        ensure!(begin.elapsed() < DEADLINE, "a manager that does not read is still connected");
        let packet = frame::wire::Packet::new(partition.manager.epoch, Request::Ping);
        match packet::send(&partition.manager.socket, &packet, &[]) {
            Ok(()) => {}
            Err(PacketError::NotReady) => std::thread::yield_now(),
            Err(PacketError::Closed) => break,
            Err(error) => return Err(error.into()),
        }
    }
    let again = partition.process.hello(super::harness::EPOCH)?;
    ensure!(matches!(again.report()?.0, Report::Welcome(_)), "no welcome");
    beats(&partition)
}

fn order() -> Result<()> {
    let process = Process::start()?;
    let early = process.hello(5)?;
    ensure!(matches!(early.report()?.0, Report::Welcome(_)), "no welcome");
    early.send(Request::Start)?;
    refused(&early)?;
    let setup = Setup::guest(&Code::new().spin());
    let partition = Partition::launch_in(process, &setup)?;
    partition.start()?;
    // A second start has happened already.
    partition.start()?;
    partition.manager.send_with(Request::Launch(Box::new(setup.spec()?)), &partition.given.descriptors())?;
    let reason = refused(&partition.manager)?;
    ensure!(reason.contains("only once"), "{reason}");
    Ok(())
}

fn unlaunched() -> Result<()> {
    let mut process = Process::start()?;
    let manager = process.hello(5)?;
    ensure!(matches!(manager.report()?.0, Report::Welcome(_)), "no welcome");
    manager.send(Request::Stop)?;
    ensure!(manager.last()?.cause == Cause::Stopped, "not stopped");
    ensure!(process.wait()?.code() == Some(0), "not orderly");
    Ok(())
}

fn no_socket() -> Result<()> {
    let output = Command::new(super::harness::binary()).output()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(2), "{}", output.status);
    ensure!(text.contains("descriptor 3 must be a listening socket"), "{text}");
    Ok(())
}

fn image() -> Result<()> {
    let output = Command::new(super::harness::binary()).arg("--image").output()?;
    ensure!(output.status.success() && output.stdout == partition::diagnostics::IMAGE, "another image");
    Ok(())
}
