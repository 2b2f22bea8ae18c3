//! The multiboot protocol (Multiboot Specification 0.6.96): what a kernel with such a header is given.
//!
//! Told are sizes of memory, the memory map, modules, the command line and the loader's name. Not told, and said
//! so by the flags: a boot device, symbols, drives, a configuration table, APM, and video of any kind: there is
//! none. The command line is as it was declared; nothing is put in front of it.

use super::elf::Parsed;
use super::{Boot, BootError, Entry, Source, check_fit, place, write};
use crate::layout::{self, EBDA_START, HIGH_START};
use crate::memory::Memory;
use frame::image::multiboot::Header;

/// What EAX holds at the entry (section 3.2).
const MAGIC: u32 = 0x2bad_b002;
const MEMORY: u32 = 1;
const COMMAND_LINE: u32 = 1 << 2;
const MODULES: u32 = 1 << 3;
const MEMORY_MAP: u32 = 1 << 6;
const LOADER_NAME: u32 = 1 << 9;
/// Length of the information, bytes: up to the last field that the specification defines.
const LENGTH: usize = 116;
const NAME: &[u8] = b"Bulkhead\0";
const PAGE: u64 = 4096;

/// A kernel in memory.
struct Kernel {
    entry: u32,
    /// First address above it.
    end: u64,
}

/// Loads a kernel whose header says what goes where.
fn load_flat(file: &Source<'_>, header: &Header, memory: &Memory) -> Result<Kernel, BootError> {
    let flat = header.flat(file.length()).map_err(BootError::Multiboot)?;
    let what = "what its multiboot header loads";
    file.check(what, flat.offset, flat.in_file)?;
    check_fit(|| "the kernel".to_owned(), flat.address, flat.in_memory, memory)?;
    file.copy(what, flat.offset, flat.in_file, memory, flat.address)?;
    Ok(Kernel { entry: flat.entry, end: flat.address + flat.in_memory })
}

fn load_elf(file: &Source<'_>, elf: &Parsed, memory: &Memory) -> Result<Kernel, BootError> {
    let entry = elf.physical_entry();
    elf.load(file, memory, entry)?;
    let entry = u32::try_from(entry).map_err(|_| BootError::Entry(entry))?;
    Ok(Kernel { entry, end: elf.end() })
}

/// Loads the kernel, which is `elf` where its header does not say what goes where, and all that it is given.
pub fn load(boot: &Boot<'_>, header: &Header, elf: Option<&Parsed>, memory: &Memory) -> Result<Entry, BootError> {
    header.check().map_err(BootError::Multiboot)?;
    let kernel = match elf {
        Some(elf) => load_elf(&boot.kernel, elf, memory)?,
        None => load_flat(&boot.kernel, header, memory)?,
    };
    let modules = modules(boot, memory, kernel.end)?;
    let map = memory_map(memory.bytes());
    write(memory, place::MULTIBOOT_MAP, &map)?;
    write(memory, place::MULTIBOOT_MODULES, &modules)?;
    write(memory, place::MULTIBOOT_NAME, NAME)?;
    let mut information = [0; LENGTH];
    let mut put = |at: usize, value: u64| {
        for (to, from) in information.iter_mut().skip(at).zip((value as u32).to_le_bytes()) {
            *to = from;
        }
    };
    put(0, (MEMORY | COMMAND_LINE | MODULES | MEMORY_MAP | LOADER_NAME).into());
    put(4, EBDA_START >> 10);
    put(8, (memory.low_end() - HIGH_START) >> 10);
    put(16, place::COMMAND_LINE);
    put(20, modules.len() as u64 / MODULE as u64);
    put(24, place::MULTIBOOT_MODULES);
    put(44, map.len() as u64);
    put(48, place::MULTIBOOT_MAP);
    put(64, place::MULTIBOOT_NAME);
    write(memory, place::MULTIBOOT, &information)?;
    Ok(Entry::Protected { address: kernel.entry, information: place::MULTIBOOT as u32, magic: MAGIC })
}

/// Length of one entry of the modules' list, bytes.
const MODULE: usize = 16;

/// Puts the modules behind the kernel, each at a page's beginning, and gives their list: begin, end, command line,
/// zero. An initial RAM disk comes first, without a command line.
fn modules(boot: &Boot<'_>, memory: &Memory, kernel_end: u64) -> Result<Vec<u8>, BootError> {
    let mut list = Vec::new();
    let mut next = kernel_end;
    let mut line = place::MODULE_LINES;
    let initrd = boot.initrd.iter().map(|source| ("the initial RAM disk".to_owned(), source, ""));
    let modules =
        boot.modules.iter().enumerate().map(|(index, (source, line))| (format!("module {index}"), source, *line));
    for (what, source, text) in initrd.chain(modules) {
        let start = next.next_multiple_of(PAGE);
        check_fit(|| what, start, source.length(), memory)?;
        source.copy("its end", 0, source.length(), memory, start)?;
        next = start + source.length();
        for word in [start, next, line, 0] {
            list.extend((word as u32).to_le_bytes());
        }
        write(memory, line, text.as_bytes())?;
        write(memory, line + text.len() as u64, &[0])?;
        line += text.len() as u64 + 1;
    }
    Ok(list)
}

/// The memory map of a guest with `total` bytes: each entry's size without that field, base, length, type
/// (section 3.3, bit 6).
fn memory_map(total: u64) -> Vec<u8> {
    const SIZE: u32 = 20;
    let mut entries = Vec::new();
    for range in layout::map(total) {
        entries.extend(SIZE.to_le_bytes());
        entries.extend(range.start.to_le_bytes());
        entries.extend(range.bytes.to_le_bytes());
        entries.extend((range.kind as u32).to_le_bytes());
    }
    entries
}
