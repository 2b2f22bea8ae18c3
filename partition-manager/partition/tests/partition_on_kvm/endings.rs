//! How guests end, and what stays of them.

use super::Test;
use super::guest::{CODE, Code};
use super::harness::{Partition, Setup, failure, memfd};
use anyhow::{Context, Result, ensure};
use frame::cpuset::{CpuSet, HIGHEST};
use frame::platform::{EXIT_PORT, KEYBOARD_COMMAND_PORT, KEYBOARD_RESET, RESET_PORT, RESET_VALUE, SERIAL_PORT};
use frame::record::{CONSOLE_SIZE, CONSOLE_TOTAL_OFFSET, Cause, ExitReason};
use frame::wire::{Report, Request};
use kvm_bindings::kvm_run;
use rustix::mm::{MapFlags, ProtFlags};

/// The tests.
pub const TESTS: &[Test] = &[
    ("power_off_is_orderly", power_off),
    ("a_reset_by_either_way_is_orderly", resets),
    ("an_exit_status_is_what_the_guest_wrote", exit_status),
    ("without_an_exit_device_its_port_is_nothing", no_exit_device),
    ("the_payload_exits_with_a_status", payload_exits),
    ("a_triple_fault_gives_one_final_record_with_registers", triple_fault),
    ("an_instruction_nowhere_is_an_internal_error", internal_error),
    ("accesses_to_nothing_read_all_ones_and_are_counted", nothing),
    ("a_string_of_output_fills_the_ring_and_goes_on", string),
    ("registers_stay_readable_after_a_kill", killed),
    ("an_elf_cut_short_is_a_failure", cut_short),
    ("a_launch_that_cannot_be_is_a_failure", impossible),
    ("the_final_record_waits_for_a_manager", linger),
];

fn power_off() -> Result<()> {
    let code = Code::new().eax(0x1234).ebx_from_eax().power_off();
    let after = code.here();
    let (last, status, partition) = Partition::end(&Setup::guest(&code.spin()))?;
    ensure!(last.cause == Cause::PowerOff && last.processor == Some(0), "{last:?}");
    ensure!(status == Some(0), "{status:?}");
    let registers = last.registers.first().context("no registers")?;
    ensure!(registers.rbx == 0x1234 && registers.rip == after, "{registers:?}");
    ensure!(partition.concluded()?.as_ref() == Some(&last), "the record says something else");
    Ok(())
}

fn resets() -> Result<()> {
    for (port, value) in [(KEYBOARD_COMMAND_PORT, KEYBOARD_RESET), (RESET_PORT, RESET_VALUE)] {
        let (last, status, _) = Partition::end(&Setup::guest(&Code::new().out8(port, value).spin()))?;
        ensure!(last.cause == Cause::Reset && status == Some(0), "{port:#x}: {last:?} {status:?}");
    }
    Ok(())
}

fn exit_status() -> Result<()> {
    let widths = [
        (Code::new().out8(EXIT_PORT, 0x85), 0x85),
        (Code::new().out16(EXIT_PORT, 0xbeef), 0xbeef),
        (Code::new().eax(0xdead_beef).exit_eax(), 0xdead_beef),
        (Code::new().eax(0).exit_eax(), 0),
    ];
    for (code, expected) in widths {
        let (last, status, partition) = Partition::end(&Setup::guest(&code.spin()).exit_device())?;
        ensure!(last.cause == Cause::Exit { status: expected } && status == Some(0), "{last:?} {status:?}");
        ensure!(partition.concluded()?.as_ref() == Some(&last), "the record says something else");
    }
    Ok(())
}

fn no_exit_device() -> Result<()> {
    let found = 0x20_0000;
    let code = Code::new().eax(7).exit_eax().eax(0).in32(EXIT_PORT).store(found).power_off();
    let (last, _, partition) = Partition::end(&Setup::guest(&code))?;
    ensure!(last.cause == Cause::PowerOff, "{last:?}");
    ensure!(partition.guest_word(found.into())? == u64::from(u32::MAX), "something answers");
    Ok(())
}

fn payload_exits() -> Result<()> {
    let mut partition = Partition::run(&Setup::payload("name=alpha"))?;
    partition.until("ready")?;
    partition.manager.send(Request::Input(b"exit 7\n".to_vec()))?;
    partition.until("there is no exit device")?;
    let mut partition = Partition::run(&Setup::payload("name=alpha").exit_device())?;
    partition.until("ready")?;
    partition.manager.send(Request::Input(b"exit 0x100000007\nexit 7\n".to_vec()))?;
    partition.until("an exit status has 32 bits")?;
    let last = partition.manager.last()?;
    ensure!(last.cause == Cause::Exit { status: 7 }, "{last:?}");
    Ok(())
}

fn triple_fault() -> Result<()> {
    // lidt of an empty table at the code's own zeros, then ud2.
    let code = Code::new().eax(0xfeed).ebx_from_eax().raw(&[0x0f, 0x01, 0x1d, 0, 0, 0x40, 0, 0x0f, 0x0b]);
    let partition = Partition::run(&Setup::guest(&code).processors(2))?;
    let last = partition.manager.last()?;
    ensure!(last.cause == Cause::TripleFault && last.processor == Some(0), "{last:?}");
    ensure!(last.registers.len() == 2, "{last:?}");
    ensure!(
        last.registers.first().is_some_and(|registers| registers.cr0 & 1 == 1 || registers.rip == 0xfff0),
        "{last:?}"
    );
    ensure!(partition.exits(0, ExitReason::Shutdown)? == 1, "not counted");
    // Nothing more comes of it than answers.
    partition.manager.send(Request::Stop)?;
    partition.manager.send(Request::Ping)?;
    partition.manager.expect(&Report::Pong)?;
    let mut partition = partition;
    ensure!(partition.acknowledge()? == Some(2), "a triple fault is not orderly");
    Ok(())
}

fn internal_error() -> Result<()> {
    let code = Code::new().eax(0xd000_0000).raw(&[0xff, 0xe0]);
    let (last, status, _) = Partition::end(&Setup::guest(&code))?;
    ensure!(matches!(last.cause, Cause::InternalError { .. }), "{last:?}");
    ensure!(last.registers.first().is_some_and(|registers| registers.rip == 0xd000_0000), "{last:?}");
    ensure!(status == Some(2), "{status:?}");
    Ok(())
}

fn nothing() -> Result<()> {
    let ones = 0x20_0000;
    let code = Code::new()
        .load(0xd000_0000)
        .store(ones)
        .eax(0)
        .in32(0x1ce)
        .store(ones + 4)
        .eax(7)
        .store(0xd000_0000)
        .in8(0x99)
        .out8(0x80, 1)
        .power_off();
    let (last, _, partition) = Partition::end(&Setup::guest(&code))?;
    ensure!(last.cause == Cause::PowerOff, "{last:?}");
    ensure!(partition.guest_word(ones.into())? == u64::MAX, "{:#x}", partition.guest_word(ones.into())?);
    for (reason, expected) in [
        (ExitReason::MmioRead, 1),
        (ExitReason::MmioWrite, 1),
        (ExitReason::IoIn, 2),
        (ExitReason::IoOut, 2),
        (ExitReason::Shutdown, 0),
    ] {
        let exits = partition.exits(0, reason)?;
        ensure!(exits == expected, "{}: {exits}", reason.as_str());
    }
    Ok(())
}

fn string() -> Result<()> {
    let bytes = CONSOLE_SIZE as u32 + 1000;
    // Fill memory with 'x' by stosd, then rep outsb.
    let code = Code::new()
        .eax(u32::from_le_bytes(*b"xxxx"))
        .raw(&[0xbf, 0, 0, 0x20, 0])
        .ecx(bytes / 4)
        .raw(&[0xf3, 0xab])
        .raw(&[0xbe, 0, 0, 0x20, 0])
        .ecx(bytes)
        .raw(&[0x66, 0xba])
        .raw(&SERIAL_PORT.to_le_bytes())
        .raw(&[0xf3, 0x6e])
        .out8(SERIAL_PORT, b'!')
        .power_off();
    let (last, _, mut partition) = Partition::end(&Setup::guest(&code))?;
    ensure!(last.cause == Cause::PowerOff, "{last:?}");
    let total = u64::from_le_bytes(partition.record(CONSOLE_TOTAL_OFFSET, 8)?.try_into().unwrap_or_default());
    ensure!(total == u64::from(bytes) + 1, "{total}");
    let held = partition.output()?;
    ensure!(held.len() as u64 == CONSOLE_SIZE && held.ends_with("xx!"), "{} bytes", held.len());
    ensure!(held.trim_start_matches('x') == "!", "something else in the ring");
    Ok(())
}

fn killed() -> Result<()> {
    let mark = 0x20_0000;
    let code = Code::new().eax(0xabcd).store(mark).ebx_from_eax();
    let spins = code.here();
    let mut partition = Partition::run(&Setup::guest(&code.spin()))?;
    Partition::wait_for("the guest", || Ok(partition.guest_word(mark.into())? == 0xabcd))?;
    partition.process.child.kill()?;
    partition.process.wait()?;
    let processor = partition.processors.first().context("no processor")?;
    let flags = MapFlags::SHARED;
    // SAFETY: a new mapping at an address of the kernel's choice.
    let address =
        unsafe { rustix::mm::mmap(std::ptr::null_mut(), size_of::<kvm_run>(), ProtFlags::READ, flags, processor, 0)? };
    // SAFETY: the kernel maps a kvm_run there, which nobody writes any more; any bits are valid in it.
    let run = unsafe { address.cast::<kvm_run>().read() };
    // SAFETY: the registers are plain numbers.
    let registers = unsafe { run.s.regs.regs };
    ensure!(registers.rip == spins && registers.rbx == 0xabcd, "{registers:x?}");
    ensure!(partition.concluded()?.is_none(), "who was killed says nothing");
    Ok(())
}

fn cut_short() -> Result<()> {
    let mut elf = Code::new().raw(&[0x90; 100]).elf();
    elf.truncate(elf.len() - 50);
    let setup = Setup { boot: super::harness::Boot::Kernel(elf), ..Setup::guest(&Code::new()) };
    let reason = failure(&setup, |_, _| Ok(()))?;
    let expected = "nothing can be started: the kernel ends after 250 bytes, its program header 0 needs 300: the file is cut short";
    ensure!(reason == expected, "{reason}");
    Ok(())
}

fn impossible() -> Result<()> {
    let setup = Setup::payload("");
    let reason = failure(&setup, |spec, _| {
        spec.memory.iter_mut().for_each(|range| range.bytes = u64::MAX - 4095);
        Ok(())
    })?;
    ensure!(reason.contains("at most 65532 GiB"), "{reason}");
    let reason = failure(&setup, |_, given| {
        given.memory = vec![memfd(1 << 20)?];
        Ok(())
    })?;
    ensure!(reason.contains("memory range 0 has 1048576 bytes, the specification says 16777216"), "{reason}");
    let reason = failure(&setup, |_, given| {
        given.memory.clear();
        Ok(())
    })?;
    ensure!(reason.contains("needs 4 descriptors, 3 came"), "{reason}");
    let reason = failure(&setup, |spec, _| {
        spec.processors.iter_mut().for_each(|processor| processor.affinity = CpuSet::from_iter([HIGHEST]));
        Ok(())
    })?;
    ensure!(reason.starts_with("virtual processor 0 cannot run where it should"), "{reason}");
    Ok(())
}

fn linger() -> Result<()> {
    // The guest waits for a byte on its console, then powers off.
    let wait = Code::new().in8(SERIAL_PORT + 5).raw(&[0xa8, 0x01, 0x74, 0xf7]).power_off().spin();
    let partition = Partition::run(&Setup::guest(&wait))?;
    partition.manager.send(Request::Input(b"x".to_vec()))?;
    let Partition { mut process, manager, given, .. } = partition;
    drop(manager);
    let length = frame::record::FINAL_LENGTH_OFFSET;
    Partition::wait_for("the end", || {
        let mut bytes = [0; 8];
        rustix::io::pread(&given.record, &mut bytes, length)?;
        Ok(bytes != [0; 8])
    })?;
    let manager = process.hello(7)?;
    let (Report::Welcome(welcome), _) = manager.report()? else { anyhow::bail!("no welcome") };
    ensure!(welcome.phase == frame::wire::Phase::Ended, "{welcome:?}");
    let last = welcome.ended.context("no final record")?;
    ensure!(last.cause == Cause::PowerOff, "{last:?}");
    ensure!(last.registers.first().is_some_and(|registers| registers.rip > CODE), "{last:?}");
    manager.send(Request::Acknowledge)?;
    ensure!(process.wait()?.code() == Some(0), "not orderly");
    Ok(())
}
