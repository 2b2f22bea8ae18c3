//! ELF kernels (System V ABI, AMD64 supplement), and the PVH note that one may carry (Xen's public
//! elfnote.h, `XEN_ELFNOTE_PHYS32_ENTRY`).

use super::source::number;
use super::{BootError, Source, check_fit};
use crate::memory::Memory;

const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
/// Most program headers that are looked at; Linux has five.
const MOST_HEADERS: u64 = 64;
/// Most bytes of notes that are looked at.
const MOST_NOTES: u64 = 64 << 10;
const LOAD: u64 = 1;
const NOTE: u64 = 4;
const EXECUTABLE: u64 = 2;
const SHARED: u64 = 3;
const X86_64: u64 = 62;
const PVH_ENTRY: u64 = 18;

/// A kernel in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Physical address of the 64-bit entry.
    pub entry: u64,
    /// Physical address of the PVH entry, if there is one.
    pub pvh: Option<u64>,
    /// First address above everything that it loads.
    pub end: u64,
}

#[derive(Clone, Copy, Debug)]
struct Segment {
    offset: u64,
    address: u64,
    in_file: u64,
    in_memory: u64,
}

impl Segment {
    const fn holds(&self, address: u64) -> bool {
        address >= self.address && address - self.address < self.in_memory
    }
}

/// Loads every segment to its physical address.
///
/// # Errors
/// [`BootError`].
pub fn load(file: &Source<'_>, memory: &Memory) -> Result<Kernel, BootError> {
    let mut header = [0; HEADER];
    file.read("its header", 0, &mut header)?;
    if number(&header, 4, 1) != 2 || number(&header, 5, 1) != 1 {
        return Err(BootError::Elf("it is not a 64-bit little-endian one"));
    }
    if number(&header, 18, 2) != X86_64 {
        return Err(BootError::Elf("it is for another processor"));
    }
    if !matches!(number(&header, 16, 2), EXECUTABLE | SHARED) {
        return Err(BootError::Elf("it is no executable"));
    }
    let (table, size, count) = (number(&header, 32, 8), number(&header, 54, 2), number(&header, 56, 2));
    if size != PROGRAM_HEADER as u64 {
        return Err(BootError::Elf("its program headers have another size than 56 bytes"));
    }
    if count > MOST_HEADERS {
        return Err(BootError::Elf("it has more than 64 program headers"));
    }
    let mut segments = Vec::new();
    let mut pvh = None;
    for index in 0..count {
        let what = format!("its program header {index}");
        let mut entry = [0; PROGRAM_HEADER];
        file.read(&what, table.saturating_add(index * PROGRAM_HEADER as u64), &mut entry)?;
        let segment = Segment {
            offset: number(&entry, 8, 8),
            address: number(&entry, 24, 8),
            in_file: number(&entry, 32, 8),
            in_memory: number(&entry, 40, 8),
        };
        match number(&entry, 0, 4) {
            LOAD if segment.in_memory > 0 => {
                check(file, &what, &segment, memory)?;
                segments.push((what, segment));
            }
            NOTE => pvh = pvh.or(pvh_entry(file, &what, &segment)?),
            _ => {}
        }
    }
    // Nothing is written before everything is checked.
    for (what, segment) in &segments {
        file.copy(what, segment.offset, segment.in_file, memory, segment.address)?;
    }
    let entry = number(&header, 24, 8);
    let first = pvh.unwrap_or(entry);
    if !segments.iter().any(|(_, segment)| segment.holds(first)) {
        return Err(BootError::Entry(first));
    }
    let end = segments.iter().map(|(_, segment)| segment.address + segment.in_memory).max().unwrap_or_default();
    Ok(Kernel { entry, pvh, end })
}

fn check(file: &Source<'_>, what: &str, segment: &Segment, memory: &Memory) -> Result<(), BootError> {
    if segment.in_file > segment.in_memory {
        return Err(BootError::Elf("a segment is larger in the file than in memory"));
    }
    file.check(what, segment.offset, segment.in_file)?;
    let name = || format!("the segment of {}", what.replace("its", "the kernel's"));
    check_fit(name, segment.address, segment.in_memory, memory)
}

fn pvh_entry(file: &Source<'_>, what: &str, segment: &Segment) -> Result<Option<u64>, BootError> {
    file.check(what, segment.offset, segment.in_file)?;
    let mut notes = vec![0; segment.in_file.min(MOST_NOTES) as usize];
    file.read(what, segment.offset, &mut notes)?;
    Ok(find_pvh_entry(&notes))
}

/// Looks for the PVH entry in notes. Their parts are aligned to four bytes.
pub(super) fn find_pvh_entry(notes: &[u8]) -> Option<u64> {
    let mut at = 0usize;
    loop {
        notes.get(at..at.checked_add(12)?)?;
        let (name, value) = (number(notes, at, 4) as usize, number(notes, at + 4, 4) as usize);
        let name_at = at + 12;
        let value_at = name_at.checked_add(name.checked_next_multiple_of(4)?)?;
        let next = value_at.checked_add(value.checked_next_multiple_of(4)?)?;
        let is_xen = notes.get(name_at..name_at.checked_add(name)?)?.starts_with(b"Xen\0");
        if is_xen && number(notes, at + 8, 4) == PVH_ENTRY && matches!(value, 4 | 8) {
            notes.get(value_at..value_at.checked_add(value)?)?;
            return Some(number(notes, value_at, value));
        }
        at = next;
    }
}
