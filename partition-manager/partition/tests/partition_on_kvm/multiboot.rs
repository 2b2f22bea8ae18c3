//! Multiboot kernels of every form, and what they are given.

use super::Test;
use super::guest::Code;
use super::harness::{Boot, Partition, Setup, failure};
use anyhow::{Context, Result, ensure};
use frame::record::Cause;

/// The tests.
pub const TESTS: &[Test] = &[
    ("multiboot_kernels_of_each_form_are_given_their_modules", forms),
    ("a_multiboot_kernel_without_modules_is_told_so", without),
    ("modules_are_refused_where_nobody_takes_them", refused),
    ("an_initial_ram_disk_is_the_first_module", initrd),
    ("pvh_is_given_its_initial_ram_disk", pvh_initrd),
];

/// Where the guest leaves EAX and EBX as it found them.
const LEFT: u32 = 0x20_0000;

/// A guest that keeps its first registers and exits with the sum of its first module's bytes.
fn sums() -> Code {
    Code::new()
        .store(LEFT)
        // mov [LEFT + 4], ebx; mov ecx, [ebx + 24]; mov esi, [ecx]; mov edi, [ecx + 4]
        .raw(&[0x89, 0x1d])
        .raw(&(LEFT + 4).to_le_bytes())
        .raw(&[0x8b, 0x4b, 0x18, 0x8b, 0x31, 0x8b, 0x79, 0x04])
        // xor eax, eax; again: movzx edx, byte [esi]; add eax, edx; inc esi; cmp esi, edi; jb again
        .raw(&[0x31, 0xc0, 0x0f, 0xb6, 0x16, 0x01, 0xd0, 0x46, 0x39, 0xfe, 0x72, 0xf6])
        .exit_eax()
        .spin()
}

fn word(partition: &Partition, address: u64) -> Result<u64> {
    Ok(partition.guest_word(address)? & 0xffff_ffff)
}

/// The text at an address, up to its NUL.
fn text(partition: &Partition, address: u64) -> Result<String> {
    let mut bytes = Vec::new();
    for at in address..address + 2048 {
        match partition.guest_word(at)? as u8 {
            0 => return Ok(String::from_utf8(bytes)?),
            byte => bytes.push(byte),
        }
    }
    anyhow::bail!("a text without an end")
}

/// Checks everything that the specification says of the information; gives the modules: begin, end, command line.
fn information(partition: &Partition, cmdline: &str) -> Result<Vec<(u64, u64, String)>> {
    ensure!(word(partition, LEFT.into())? == 0x2bad_b002, "EAX");
    let at = word(partition, u64::from(LEFT) + 4)?;
    let field = |offset: u64| word(partition, at + offset);
    ensure!(field(0)? == 1 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9, "flags {:#x}", field(0)?);
    ensure!(field(4)? == 639 && field(8)? == 15 << 10, "{} KiB and {} KiB", field(4)?, field(8)?);
    ensure!(text(partition, field(16)?)? == cmdline, "{}", text(partition, field(16)?)?);
    ensure!(text(partition, field(64)?)? == "Bulkhead", "the loader's name");
    let (length, map) = (field(44)?, field(48)?);
    let mut ram = 0;
    let mut entry = map;
    while entry < map + length {
        if word(partition, entry + 20)? == 1 {
            ram += partition.guest_word(entry + 12)?;
        }
        entry += word(partition, entry)? + 4;
    }
    ensure!(entry == map + length && ram == (16 << 20) - (0x10_0000 - 0x9_fc00), "{ram:#x} bytes of memory");
    let list = field(24)?;
    (0..field(20)?)
        .map(|index| {
            let of = |offset: u64| word(partition, list + index * 16 + offset);
            Ok((of(0)?, of(4)?, text(partition, of(8)?)?))
        })
        .collect()
}

fn forms() -> Result<()> {
    let code = sums();
    for file in [code.multiboot_flat(), code.multiboot_elf_32(), code.multiboot_elf_64()] {
        let end = 0x10_0000 + file.len() as u64;
        let first: Vec<u8> = (0..5000u32).map(|at| at as u8).collect();
        let sum = first.iter().map(|byte| u32::from(*byte)).sum();
        let setup = Setup {
            cmdline: "kernel verbose=1",
            modules: vec![(first, "first one"), (vec![7; 4096], ""), (vec![9; 1], "third")],
            ..Setup::kernel(file)
        };
        let (last, status, partition) = Partition::end(&setup)?;
        ensure!(last.cause == Cause::Exit { status: sum } && status == Some(0), "{last:?}");
        let modules = information(&partition, "kernel verbose=1")?;
        let lines: Vec<&str> = modules.iter().map(|(_, _, line)| line.as_str()).collect();
        ensure!(lines == ["first one", "", "third"], "{lines:?}");
        let mut before = end & !0xfff;
        for ((start, end, _), (bytes, _)) in modules.iter().zip(&setup.modules) {
            ensure!(start % 4096 == 0 && *start >= before && end - start == bytes.len() as u64, "{modules:x?}");
            before = *end;
        }
        let (_, end, _) = modules.last().context("no module")?;
        ensure!(partition.guest_word(end - 1)? as u8 == 9, "the third module");
    }
    Ok(())
}

fn without() -> Result<()> {
    // Exits with the count of its modules.
    let code = Code::new()
        .store(LEFT)
        .raw(&[0x89, 0x1d])
        .raw(&(LEFT + 4).to_le_bytes())
        .raw(&[0x8b, 0x43, 0x14])
        .exit_eax()
        .spin();
    let (last, _, partition) = Partition::end(&Setup::kernel(code.multiboot_flat()))?;
    ensure!(last.cause == Cause::Exit { status: 0 }, "{last:?}");
    ensure!(information(&partition, "")?.is_empty(), "modules");
    Ok(())
}

fn initrd() -> Result<()> {
    let setup = Setup {
        initrd: Some(vec![3; 100]),
        modules: vec![(vec![5; 10], "second")],
        ..Setup::kernel(sums().multiboot_elf_32())
    };
    let (last, _, partition) = Partition::end(&setup)?;
    ensure!(last.cause == Cause::Exit { status: 300 }, "{last:?}");
    ensure!(information(&partition, "")?.len() == 2, "not two modules");
    Ok(())
}

fn refused() -> Result<()> {
    let setup = Setup { modules: vec![(vec![1], "")], ..Setup::kernel(Code::new().elf()) };
    let reason = failure(&setup, |_, _| Ok(()))?;
    ensure!(reason.contains("no multiboot header, so it cannot be given modules"), "{reason}");
    // A module that does not fit is named.
    let large = Setup { modules: vec![(vec![1; 16 << 20], "")], ..Setup::kernel(sums().multiboot_flat()) };
    let reason = failure(&large, |_, _| Ok(()))?;
    ensure!(reason.contains("module 0 does not fit"), "{reason}");
    let mut file = sums().multiboot_elf_32();
    file.truncate(file.len() - 1);
    let reason = failure(&Setup { boot: Boot::Kernel(file), ..Setup::payload("") }, |_, _| Ok(()))?;
    ensure!(reason.contains("cut short"), "{reason}");
    Ok(())
}

fn pvh_initrd() -> Result<()> {
    // The start information: magic, then the list of modules at +16, whose first word is the address.
    let code = Code::new()
        // mov eax, [ebx + 12]; mov ecx, [ebx + 16]; mov edx, [ecx]; add al, [edx]
        .raw(&[0x8b, 0x43, 0x0c, 0x8b, 0x4b, 0x10, 0x8b, 0x11, 0x02, 0x02])
        .exit_eax()
        .spin();
    let setup = Setup { initrd: Some(vec![41; 10]), ..Setup::kernel(code.elf()) };
    let (last, _, _) = Partition::end(&setup)?;
    ensure!(last.cause == Cause::Exit { status: 42 }, "one module that begins with 41: {last:?}");
    Ok(())
}
