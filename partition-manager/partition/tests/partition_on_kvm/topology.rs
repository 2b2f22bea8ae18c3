//! What a guest sees of its machine: processors by CPUID and ACPI, itself by SMBIOS, machine-check banks.

use super::Test;
use super::guest::Code;
use super::harness::{Partition, Setup};
use anyhow::{Context, Result, ensure};
use frame::inventory::CacheKind;
use frame::launch::{CacheSpec, Place, Topology};
use frame::record::Cause;
use frame::wire::Request;
use partition::{acpi, smbios};
use std::time::Instant;

/// The tests.
pub const TESTS: &[Test] = &[
    ("sixty_four_processors_come_up", sixty_four),
    ("processors_with_gaps_between_their_identifiers_come_up", gaps),
    ("cpuid_tells_the_planned_topology", planned),
    ("the_tables_tell_nodes_and_the_partition", tables),
    ("there_are_machine_check_banks", machine_check),
];

/// Where the micro guests leave what they read.
const FOUND: u32 = 0x20_0000;

fn sixty_four() -> Result<()> {
    let start = Instant::now();
    let mut partition = Partition::run(&Setup::payload("").processors(64))?;
    partition.until("ready, 64 of 64 processors up")?;
    eprintln!("64 virtual processors: {} ms from the process to all up", start.elapsed().as_millis());
    partition.manager.send(Request::Input(b"info\n".to_vec()))?;
    partition.until("processors=64")?;
    partition.manager.send(Request::Stop)?;
    let last = partition.manager.last()?;
    ensure!(last.registers.len() == 64 && last.registers.iter().all(|one| one.rip != 0), "{last:?}");
    Ok(())
}

/// Two packages of three cores of two threads: an identifier has a field of two bits for the core.
fn places() -> Vec<Place> {
    (0..12).map(|at| Place { package: at / 6, core: at / 2 % 3, thread: at % 2, node: at / 6 }).collect()
}

fn setup(setup: Setup) -> Setup {
    let cache = |level, kind, size, ways, shared_by| CacheSpec { level, kind, size, line: 64, ways, shared_by };
    let caches = vec![
        cache(1, CacheKind::Data, 48 << 10, 12, 2),
        cache(2, CacheKind::Unified, 2 << 20, 16, 2),
        cache(3, CacheKind::Unified, 96 << 20, 12, 8),
    ];
    let topology = Topology { nodes: vec![0, 1], distances: vec![10, 21, 21, 10], caches };
    Setup { places: places(), topology, memory: vec![8, 24], ..setup.processors(12) }
}

fn gaps() -> Result<()> {
    let mut partition = Partition::run(&setup(Setup::payload("")))?;
    partition.until("ready, 12 of 12 processors up")?;
    Ok(())
}

/// Runs `code` on the boot processor, and gives the words that it left.
fn found(setup: &Setup, words: u64) -> Result<Vec<u32>> {
    let (last, _, partition) = Partition::end(setup)?;
    ensure!(last.cause == Cause::PowerOff, "{last:?}");
    (0..words).map(|at| Ok(partition.guest_word(u64::from(FOUND) + 4 * at)? as u32)).collect()
}

fn planned() -> Result<()> {
    let leaves =
        [(0, 0), (1, 0), (0xb, 0), (0xb, 1), (4, 0), (4, 1), (4, 2), (4, 3), (0x4000_0000, 0), (0x8000_001e, 0)];
    let code =
        (0u32..).zip(leaves).fold(Code::new(), |code, (at, (leaf, index))| code.cpuid(leaf, index, FOUND + 16 * at));
    let words = found(&setup(Setup::guest(&code.power_off())), 4 * leaves.len() as u64)?;
    let leaf = |at: usize| words.get(4 * at..4 * at + 4).and_then(|found| found.first_chunk::<4>()).context("no leaf");
    let [highest, vendor, ..] = *leaf(0)?;
    let [_, identifier, features, _] = *leaf(1)?;
    ensure!(identifier >> 24 == 0 && identifier >> 16 & 0xff == 8, "{identifier:#x}");
    ensure!(features & 1 << 31 != 0 && features & 1 << 5 == 0, "{features:#x}");
    if highest >= 0xb {
        ensure!(*leaf(2)? == [1, 2, 1 << 8, 0] && *leaf(3)? == [3, 6, 2 << 8 | 1, 0], "{:?} {:?}", leaf(2)?, leaf(3)?);
    }
    if &vendor.to_le_bytes() == b"Genu" {
        for (at, (level, size, shared)) in [(4, (1, 48 << 10, 2)), (5, (2, 2 << 20, 2)), (6, (3, 96 << 20, 8))] {
            let [eax, ebx, ecx, _] = *leaf(at)?;
            let bytes = u64::from((ebx >> 22) + 1) * u64::from((ebx & 0xfff) + 1) * (u64::from(ecx) + 1);
            ensure!((eax >> 5 & 7, bytes, (eax >> 14 & 0xfff) + 1) == (level, size, shared), "{eax:#x} {bytes}");
            ensure!(eax >> 26 == 3, "{eax:#x}");
        }
        ensure!(leaf(7)?[0] & 0x1f == 0, "a fourth cache");
    } else {
        ensure!(leaf(9)?[1] == 1 << 8, "{:?}", leaf(9)?);
    }
    let signature: Vec<u8> = leaf(8)?[1..].iter().flat_map(|word| word.to_le_bytes()).collect();
    ensure!(signature == b"KVMKVMKVM\0\0\0", "{signature:?}");
    Ok(())
}

fn tables() -> Result<()> {
    let mut partition = Partition::run(&setup(Setup::payload("")))?;
    partition.until("ready")?;
    let memory = partition.given.memory.first().context("no memory")?;
    let area = |from: u64, to: u64| -> Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(to - from)?];
        rustix::io::pread(memory, &mut bytes, from)?;
        Ok(bytes)
    };
    let tables = area(acpi::TABLES, acpi::TABLES_END)?;
    let at = tables.windows(4).position(|window| window == b"SRAT").context("no SRAT")?;
    let length = u32::from_le_bytes(*tables.get(at + 4..).and_then(|rest| rest.first_chunk()).context("cut")?);
    // Twelve processors of 16 bytes, two ranges of 40.
    ensure!(length == 48 + 12 * 16 + 2 * 40, "{length}");
    ensure!(tables.windows(4).any(|window| window == b"SLIT"), "no SLIT");
    let told = area(smbios::TABLES, smbios::TABLES_END)?;
    ensure!(told.starts_with(b"_SM3_"), "no entry point");
    for text in [&b"Bulkhead\0Logical Partition\0"[..], b"test\0frame\0", b"Node 1\0"] {
        ensure!(told.windows(text.len()).any(|window| window == text), "no {:?}", String::from_utf8_lossy(text));
    }
    Ok(())
}

fn machine_check() -> Result<()> {
    const CAPABILITIES: u32 = 0x179;
    const CONTROL_REGISTER: u32 = 1 << 8;
    let code = Code::new().rdmsr(CAPABILITIES, FOUND).cpuid(1, 0, FOUND + 16).power_off();
    let words = found(&Setup::guest(&code), 8)?;
    let (capabilities, features) = (words.first().context("cut")?, words.get(7).context("cut")?);
    ensure!(capabilities & 0xff == 10 && capabilities & CONTROL_REGISTER != 0, "{capabilities:#x}");
    ensure!(features & (1 << 7 | 1 << 14) == 1 << 7 | 1 << 14, "{features:#x}");
    Ok(())
}
