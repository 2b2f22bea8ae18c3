//! ELF kernels (System V ABI, chapters 4 and 5), and the PVH note that one may carry (Xen's public elfnote.h,
//! `XEN_ELFNOTE_PHYS32_ENTRY`).

use super::source::number;
use super::{BootError, Source, check_fit};
use crate::memory::Memory;

const HEADER_32: usize = 52;
const HEADER_64: usize = 64;
/// Most program headers that are looked at; Linux has five.
const MOST_HEADERS: u64 = 64;
/// Most bytes of notes that are looked at.
const MOST_NOTES: u64 = 64 << 10;
const LOAD: u64 = 1;
const NOTE: u64 = 4;
const EXECUTABLE: u64 = 2;
const SHARED: u64 = 3;
const I386: u64 = 3;
const X86_64: u64 = 62;
const PVH_ENTRY: u64 = 18;

/// Byte offset and length of the fields of each class's headers.
struct Class {
    machine: u64,
    header: usize,
    entry: (usize, usize),
    table: (usize, usize),
    /// Offset of the size of a program header; the count of them follows.
    size: usize,
    program_header: usize,
    offset: (usize, usize),
    virtual_address: (usize, usize),
    address: (usize, usize),
    in_file: (usize, usize),
    in_memory: (usize, usize),
}

const CLASS_32: Class = Class {
    machine: I386,
    header: HEADER_32,
    entry: (24, 4),
    table: (28, 4),
    size: 42,
    program_header: 32,
    offset: (4, 4),
    virtual_address: (8, 4),
    address: (12, 4),
    in_file: (16, 4),
    in_memory: (20, 4),
};
const CLASS_64: Class = Class {
    machine: X86_64,
    header: HEADER_64,
    entry: (24, 8),
    table: (32, 8),
    size: 54,
    program_header: 56,
    offset: (8, 8),
    virtual_address: (16, 8),
    address: (24, 8),
    in_file: (32, 8),
    in_memory: (40, 8),
};

/// A kernel whose headers were read and found to fit, and of which nothing is loaded yet.
#[derive(Clone, Debug)]
pub struct Parsed {
    /// The entry point as the file says it.
    pub entry: u64,
    /// Physical address of the PVH entry, if there is one.
    pub pvh: Option<u64>,
    segments: Vec<(String, Segment)>,
}

#[derive(Clone, Copy, Debug)]
struct Segment {
    offset: u64,
    virtual_address: u64,
    address: u64,
    in_file: u64,
    in_memory: u64,
}

impl Segment {
    const fn holds(&self, address: u64) -> bool {
        address >= self.address && address - self.address < self.in_memory
    }

    /// The physical address of a virtual one, if this segment has it.
    const fn translate(&self, address: u64) -> Option<u64> {
        if address >= self.virtual_address && address - self.virtual_address < self.in_memory {
            Some(address - self.virtual_address + self.address)
        } else {
            None
        }
    }
}

/// Reads the headers. One of 32 bits is taken only where `narrow` says that somebody can start it.
///
/// # Errors
/// [`BootError`].
pub fn parse(file: &Source<'_>, memory: &Memory, narrow: bool) -> Result<Parsed, BootError> {
    let mut header = [0; HEADER_64];
    let class = class(file, narrow)?;
    let there = header.get_mut(..class.header).unwrap_or_default();
    file.read("its header", 0, there)?;
    let field = |(at, length): (usize, usize)| number(&header, at, length);
    if field((18, 2)) != class.machine {
        return Err(BootError::Elf("it is for another processor"));
    }
    if !matches!(field((16, 2)), EXECUTABLE | SHARED) {
        return Err(BootError::Elf("it is no executable"));
    }
    let (table, size, count) = (field(class.table), field((class.size, 2)), field((class.size + 2, 2)));
    if size != class.program_header as u64 {
        return Err(BootError::Elf("its program headers have another size than its class's"));
    }
    if count > MOST_HEADERS {
        return Err(BootError::Elf("it has more than 64 program headers"));
    }
    let is_wide = class.header == HEADER_64;
    let mut parsed = Parsed { entry: field(class.entry), pvh: None, segments: Vec::new() };
    for index in 0..count {
        let what = format!("its program header {index}");
        let mut entry = vec![0; class.program_header];
        file.read(&what, table.saturating_add(index * size), &mut entry)?;
        let field = |(at, length): (usize, usize)| number(&entry, at, length);
        let segment = Segment {
            offset: field(class.offset),
            virtual_address: field(class.virtual_address),
            address: field(class.address),
            in_file: field(class.in_file),
            in_memory: field(class.in_memory),
        };
        match field((0, 4)) {
            LOAD if segment.in_memory > 0 => {
                check(file, &what, &segment, memory)?;
                parsed.segments.push((what, segment));
            }
            NOTE if is_wide => parsed.pvh = parsed.pvh.or(pvh_entry(file, &what, &segment)?),
            _ => {}
        }
    }
    Ok(parsed)
}

fn class(file: &Source<'_>, narrow: bool) -> Result<&'static Class, BootError> {
    let mut identity = [0; 16];
    file.read("its header", 0, &mut identity)?;
    match (number(&identity, 4, 1), number(&identity, 5, 1)) {
        (2, 1) => Ok(&CLASS_64),
        (1, 1) if narrow => Ok(&CLASS_32),
        (1, 1) => Err(BootError::Elf("it is for 32 bits and has no multiboot header")),
        _ => Err(BootError::Elf("it is not a 64-bit little-endian one")),
    }
}

impl Parsed {
    /// Loads every segment to its physical address; `first` is where the guest starts.
    ///
    /// # Errors
    /// [`BootError`].
    pub fn load(&self, file: &Source<'_>, memory: &Memory, first: u64) -> Result<(), BootError> {
        if !self.segments.iter().any(|(_, segment)| segment.holds(first)) {
            return Err(BootError::Entry(first));
        }
        for (what, segment) in &self.segments {
            file.copy(what, segment.offset, segment.in_file, memory, segment.address)?;
        }
        Ok(())
    }

    /// First address above everything that it loads.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.segments.iter().map(|(_, segment)| segment.address + segment.in_memory).max().unwrap_or_default()
    }

    /// The entry point as a physical address, where a segment has it as a virtual one.
    #[must_use]
    pub fn physical_entry(&self) -> u64 {
        self.segments.iter().find_map(|(_, segment)| segment.translate(self.entry)).unwrap_or(self.entry)
    }
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
