//! What a partition starts: images put into guest memory, and the state that their first instruction expects.
//!
//! Images are hostile: nothing is taken from them without a check against the file and the memory, and
//! nothing is allocated by what they say. Guest memory is empty before, so what an image wants as zeros is.

mod bzimage;
mod elf;
mod entry;
mod linux;
mod pvh;
mod source;

pub use entry::Entry;
pub use source::Source;

use crate::acpi;
use crate::layout;
use crate::memory::Memory;
use std::io;
use vm_memory::{Bytes, GuestAddress};

/// Addresses of what a loader leaves for a kernel; all below the image and inside usable memory.
mod place {
    /// The descriptor table of the 64-bit entry.
    pub const GDT: u64 = 0x500;
    /// `hvm_start_info`.
    pub const START_INFO: u64 = 0x6000;
    /// The list of PVH modules.
    pub const MODULES: u64 = 0x6040;
    /// PVH's memory map.
    pub const MEMORY_MAP: u64 = 0x6100;
    /// Linux's zero page.
    pub const BOOT_PARAMETERS: u64 = 0x7000;
    /// Page tables of the 64-bit entry: six pages.
    pub const PAGE_TABLES: u64 = 0x9000;
    /// The command line.
    pub const COMMAND_LINE: u64 = 0x2_0000;
}

/// Why nothing can be started.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The image is neither of the kinds that are known.
    #[error("the kernel is neither a 64-bit x86 ELF file nor a bzImage")]
    Unknown,
    /// The ELF file is for something else.
    #[error("the kernel is an ELF file that cannot be started here: {0}")]
    Elf(&'static str),
    /// The bzImage cannot be started.
    #[error("the kernel is a bzImage that cannot be started here: {0}")]
    BzImage(&'static str),
    /// The file is cut short.
    #[error("the {image} ends after {has} bytes, {what} needs {needs}: the file is cut short")]
    Short {
        /// Which file.
        image: &'static str,
        /// Its length, bytes.
        has: u64,
        /// What lies behind its end.
        what: String,
        /// The length that would do, bytes.
        needs: u64,
    },
    /// It does not fit.
    #[error(
        "{what} does not fit into the partition's memory: it wants {bytes} bytes at {start:#x}, usable memory there is {from:#x} to {to:#x}"
    )]
    Fit {
        /// What.
        what: String,
        /// Its size, bytes.
        bytes: u64,
        /// Where it wants to be.
        start: u64,
        /// First usable address.
        from: u64,
        /// First address above.
        to: u64,
    },
    /// The first instruction is nowhere.
    #[error("the kernel's entry point {0:#x} lies outside of what it loads")]
    Entry(u64),
    /// A file could not be read.
    #[error("the {image} cannot be read")]
    Read {
        /// Which file.
        image: &'static str,
        /// The error.
        #[source]
        source: io::Error,
    },
    /// Guest memory could not be written: a fault of this program.
    #[error("guest memory at {0:#x} cannot be written")]
    Write(u64),
}

/// What is to be started.
#[derive(Debug)]
pub struct Boot<'files> {
    /// The kernel.
    pub kernel: Source<'files>,
    /// The initial RAM disk.
    pub initrd: Option<Source<'files>>,
    /// The command line, without a NUL.
    pub cmdline: &'files str,
    /// Virtual processors.
    pub processors: u8,
}

/// Puts everything into memory and says how the boot processor starts.
///
/// # Errors
/// [`BootError`].
pub fn load(boot: &Boot<'_>, memory: &Memory) -> Result<Entry, BootError> {
    write(memory, acpi::TABLES, &acpi::tables(boot.processors))?;
    let mut line = boot.cmdline.as_bytes().to_vec();
    line.push(0);
    write(memory, place::COMMAND_LINE, &line)?;
    let mut magic = [0; 4];
    boot.kernel.read("its first bytes", 0, &mut magic)?;
    if &magic != b"\x7fELF" {
        let kernel = bzimage::load(&boot.kernel, memory)?;
        let initrd = initrd(boot, memory, kernel.end, kernel.initrd_highest)?;
        return linux::prepare(memory, &kernel, initrd, line.len());
    }
    let kernel = elf::load(&boot.kernel, memory)?;
    let initrd = initrd(boot, memory, kernel.end, u32::MAX.into())?;
    match kernel.pvh {
        Some(entry) => pvh::prepare(memory, entry, initrd),
        None => linux::prepare(memory, &linux::Kernel::from_elf(&kernel), initrd, line.len()),
    }
}

/// Puts the initial RAM disk as high as it may be, above the kernel. Gives its address and length.
fn initrd(boot: &Boot<'_>, memory: &Memory, kernel_end: u64, highest: u64) -> Result<Option<(u64, u64)>, BootError> {
    let Some(source) = &boot.initrd else { return Ok(None) };
    let bytes = source.length();
    let top = memory.low_end().min(highest.saturating_add(1));
    let start = top.saturating_sub(bytes) & !0xfff;
    if bytes > top || start < kernel_end {
        let what = "the initial RAM disk".to_owned();
        return Err(BootError::Fit { what, bytes, start, from: kernel_end, to: top });
    }
    source.copy("its end", 0, bytes, memory, start)?;
    Ok(Some((start, bytes)))
}

fn write(memory: &Memory, address: u64, bytes: &[u8]) -> Result<(), BootError> {
    memory.guest.write_slice(bytes, GuestAddress(address)).map_err(|_| BootError::Write(address))
}

/// Checks that `what` lies in low memory above the first MiB, where images belong.
fn check_fit(what: impl FnOnce() -> String, start: u64, bytes: u64, memory: &Memory) -> Result<(), BootError> {
    let (from, to) = (layout::HIGH_START, memory.low_end());
    if start >= from && start.checked_add(bytes).is_some_and(|end| end <= to) {
        return Ok(());
    }
    Err(BootError::Fit { what: what(), bytes, start, from, to })
}

#[cfg(test)]
mod tests;
