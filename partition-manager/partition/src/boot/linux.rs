//! Linux's 64-bit boot protocol (kernel, Documentation/arch/x86/boot.rst and zero-page.rst).

use super::{BootError, Entry, elf, place, seed, write};
use crate::acpi;
use crate::layout::{self, Range};
use crate::memory::Memory;

/// Where the setup header lies in the zero page, and its most bytes: (offset, length).
pub const SETUP_HEADER: (usize, usize) = (0x1f1, 0x290 - 0x1f1);
/// Most entries of the memory map in the zero page.
const MOST_RANGES: usize = 128;
const PAGE: usize = 4096;

/// A kernel in memory that wants the zero page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Address of its first instruction.
    pub entry: u64,
    /// First address above what it loads and unpacks.
    pub end: u64,
    /// Highest address that an initial RAM disk may take.
    pub initrd_highest: u64,
    /// Its setup header, from offset 0x1f1 on.
    pub header: Vec<u8>,
}

impl Kernel {
    /// An ELF kernel has no header of its own; this is what a loader must set anyway.
    pub fn from_elf(kernel: &elf::Parsed) -> Self {
        let mut header = vec![0; SETUP_HEADER.1];
        put(&mut header, 0x1fe - SETUP_HEADER.0, &0xaa55u16.to_le_bytes());
        put(&mut header, 0x202 - SETUP_HEADER.0, b"HdrS");
        put(&mut header, 0x206 - SETUP_HEADER.0, &0x20cu16.to_le_bytes());
        put(&mut header, 0x211 - SETUP_HEADER.0, &[1]);
        Self { entry: kernel.entry, end: kernel.end(), initrd_highest: u32::MAX.into(), header }
    }
}

fn put(page: &mut [u8], at: usize, bytes: &[u8]) {
    for (to, from) in page.iter_mut().skip(at).zip(bytes) {
        *to = *from;
    }
}

/// The zero page.
fn zero_page(kernel: &Kernel, initrd: Option<(u64, u64)>, line: usize, map: &[Range]) -> Vec<u8> {
    /// A loader without a number of its own.
    const UNDEFINED_LOADER: u8 = 0xff;
    let mut page = vec![0; PAGE];
    put(&mut page, 0x70, &acpi::TABLES.to_le_bytes());
    let header = kernel.header.get(..kernel.header.len().min(SETUP_HEADER.1)).unwrap_or_default();
    put(&mut page, SETUP_HEADER.0, header);
    put(&mut page, 0x210, &[UNDEFINED_LOADER]);
    // No video mode: "normal".
    put(&mut page, 0x1fa, &0xffffu16.to_le_bytes());
    if let Some((address, bytes)) = initrd {
        put(&mut page, 0x218, &(address as u32).to_le_bytes());
        put(&mut page, 0x21c, &(bytes as u32).to_le_bytes());
    }
    put(&mut page, 0x228, &(place::COMMAND_LINE as u32).to_le_bytes());
    put(&mut page, 0x238, &(line as u32).to_le_bytes());
    put(&mut page, 0x250, &place::SETUP_DATA.to_le_bytes());
    let map = map.get(..map.len().min(MOST_RANGES)).unwrap_or_default();
    put(&mut page, 0x1e8, &[map.len() as u8]);
    for (index, range) in map.iter().enumerate() {
        let at = 0x2d0 + index * 20;
        put(&mut page, at, &range.start.to_le_bytes());
        put(&mut page, at + 8, &range.bytes.to_le_bytes());
        put(&mut page, at + 16, &(range.kind as u32).to_le_bytes());
    }
    page
}

/// Leaves the zero page, page tables and a descriptor table for `kernel`; `line` is the command line's
/// length with its NUL.
pub fn prepare(memory: &Memory, kernel: &Kernel, initrd: Option<(u64, u64)>, line: usize) -> Result<Entry, BootError> {
    let map = layout::map(memory.bytes());
    seed::leave(memory)?;
    write(memory, place::BOOT_PARAMETERS, &zero_page(kernel, initrd, line, &map))?;
    write(memory, place::GDT, &Entry::descriptor_table())?;
    write(memory, place::PAGE_TABLES, &identity_map())?;
    Ok(Entry::Long {
        address: kernel.entry,
        parameters: place::BOOT_PARAMETERS,
        tables: place::PAGE_TABLES,
        descriptors: place::GDT,
    })
}

/// Page tables for the first 4 GiB, one to one, in pages of 2 MiB (Intel SDM, volume 3, section 4.5).
fn identity_map() -> Vec<u8> {
    const PRESENT_WRITABLE: u64 = 3;
    const LARGE: u64 = 1 << 7;
    let table = |index: u64| place::PAGE_TABLES + index * PAGE as u64;
    let mut pages = vec![0; 6 * PAGE];
    put(&mut pages, 0, &(table(1) | PRESENT_WRITABLE).to_le_bytes());
    for directory in 0..4u64 {
        let entry = table(2 + directory) | PRESENT_WRITABLE;
        put(&mut pages, PAGE + directory as usize * 8, &entry.to_le_bytes());
    }
    for (entry, page) in pages.chunks_exact_mut(8).skip(2 * PAGE / 8).zip(0u64..) {
        entry.copy_from_slice(&(page << 21 | PRESENT_WRITABLE | LARGE).to_le_bytes());
    }
    pages
}

#[cfg(test)]
mod tests {
    use super::super::source::number;
    use super::*;

    #[test]
    fn the_zero_page_says_where_everything_is() {
        let kernel = Kernel { entry: 0x10_0200, end: 0x20_0000, initrd_highest: 0, header: vec![0xaa; 200] };
        let page = zero_page(&kernel, Some((0x300_0000, 0x1234)), 5, &layout::map(5 << 30));
        assert_eq!(page.len(), PAGE);
        assert_eq!(number(&page, 0x218, 4), 0x300_0000);
        assert_eq!(number(&page, 0x21c, 4), 0x1234);
        assert_eq!(number(&page, 0x228, 4), place::COMMAND_LINE);
        assert_eq!(number(&page, 0x70, 8), acpi::TABLES);
        assert_eq!(number(&page, 0x250, 8), place::SETUP_DATA);
        assert_eq!(number(&page, 0x1e8, 1), 5);
        assert_eq!(number(&page, 0x2d0 + 4 * 20, 8), frame::platform::HOLE_END);
        assert_eq!(number(&page, 0x1f1, 1), 0xaa);
        assert_eq!(number(&page, 0x290, 8), 0, "a header that is too long is cut");
    }

    #[test]
    fn every_address_is_its_own() {
        let pages = identity_map();
        let walk = |address: u64| {
            let table = (address >> 30) as usize;
            let directory = number(&pages, PAGE + table * 8, 8) & !0xfff;
            let at = (directory - place::PAGE_TABLES) as usize + (address >> 21 & 511) as usize * 8;
            number(&pages, at, 8) & !0x1f_ffff
        };
        for address in [0, 0x20_0000, 0x3fff_ffff, 0x4000_0000, 0xffff_ffff] {
            assert_eq!(walk(address), address & !0x1f_ffff);
        }
    }
}
