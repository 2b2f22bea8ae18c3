//! What a partition starts: images put into guest memory, and the state that their first instruction expects.
//!
//! Images are hostile: nothing is taken from them without a check against the file and the memory, and
//! nothing is allocated by what they say. Guest memory is empty before, so what an image wants as zeros is.

mod bzimage;
mod elf;
mod entry;
mod linux;
mod multiboot;
mod pvh;
mod seed;
mod source;

pub use entry::Entry;
pub use source::Source;

use crate::layout;
use crate::memory::Memory;
use frame::image::multiboot::{SEARCHED, find};
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
    /// What multiboot hands over; its memory map, its list of modules and the loader's name.
    pub const MULTIBOOT: u64 = 0x1_0000;
    /// See [`MULTIBOOT`].
    pub const MULTIBOOT_MAP: u64 = MULTIBOOT + 0x100;
    /// See [`MULTIBOOT`].
    pub const MULTIBOOT_MODULES: u64 = MULTIBOOT + 0x400;
    /// See [`MULTIBOOT`].
    pub const MULTIBOOT_NAME: u64 = MULTIBOOT + 0xf00;
    /// Linux's `setup_data`.
    pub const SETUP_DATA: u64 = 0x1_2000;
    /// The command line.
    pub const COMMAND_LINE: u64 = 0x2_0000;
    /// Command lines of the modules, one behind the other.
    pub const MODULE_LINES: u64 = 0x2_1000;

    // All command lines at their longest, and the list of all modules and an initial RAM disk.
    const LINE: u64 = frame::launch::LONGEST_CMDLINE as u64 + 1;
    const MODULES_MOST: u64 = frame::launch::MOST_MODULES as u64 + 1;
    const _: () = assert!(COMMAND_LINE + LINE <= MODULE_LINES);
    const _: () = assert!(MODULE_LINES + MODULES_MOST * LINE <= crate::layout::EBDA_START);
    const _: () = assert!(MULTIBOOT_MODULES + MODULES_MOST * 16 <= MULTIBOOT_NAME);
}

/// Why nothing can be started.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The image is neither of the kinds that are known.
    #[error("the kernel is neither a 64-bit x86 ELF file nor a bzImage nor a multiboot image")]
    Unknown,
    /// The ELF file is for something else.
    #[error("the kernel is an ELF file that cannot be started here: {0}")]
    Elf(&'static str),
    /// The multiboot image cannot be started.
    #[error("the kernel is a multiboot image that cannot be started here: {0}")]
    Multiboot(&'static str),
    /// There are modules that the kernel cannot be given.
    #[error(
        "the kernel has no multiboot header, so it cannot be given modules: leave them out, or start another kernel"
    )]
    Modules,
    /// The host gave no entropy.
    #[error("the host gives no random numbers for the guest's seed")]
    Entropy(#[source] io::Error),
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
    /// Multiboot modules with their command lines, without NULs.
    pub modules: Vec<(Source<'files>, &'files str)>,
    /// The command line, without a NUL.
    pub cmdline: &'files str,
}

/// What was put into memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// How the boot processor starts.
    pub entry: Entry,
    /// Whether it was by multiboot: such guests look for the devices of a PC.
    pub multiboot: bool,
}

impl Loaded {
    const fn other(entry: Entry) -> Self {
        Self { entry, multiboot: false }
    }
}

/// Puts everything into memory and says how the boot processor starts.
///
/// A bzImage starts at its 64-bit entry, and an image whose multiboot header says where it loads by multiboot. An ELF of 64 bits starts by PVH where it has that note, else by multiboot
/// where it has that header, else as a Linux kernel at its 64-bit entry; modules make it multiboot in any case.
/// Everything else starts by multiboot.
///
/// # Errors
/// [`BootError`].
pub fn load(boot: &Boot<'_>, memory: &Memory) -> Result<Loaded, BootError> {
    let mut line = boot.cmdline.as_bytes().to_vec();
    line.push(0);
    write(memory, place::COMMAND_LINE, &line)?;
    let mut head = vec![0; boot.kernel.length().clamp(4, SEARCHED as u64) as usize];
    boot.kernel.read("its first bytes", 0, &mut head)?;
    let is_bzimage = bzimage::is_one(&head);
    let header = if is_bzimage { None } else { find(&head) };
    if header.is_none() && !boot.modules.is_empty() {
        return Err(BootError::Modules);
    }
    if let Some(header) = header
        && header.is_flat()
    {
        return Ok(Loaded { entry: multiboot::load(boot, &header, None, memory)?, multiboot: true });
    }
    if !head.starts_with(b"\x7fELF") {
        let kernel = bzimage::load(&boot.kernel, memory)?;
        let initrd = initrd(boot, memory, kernel.end, kernel.initrd_highest)?;
        return linux::prepare(memory, &kernel, initrd, line.len()).map(Loaded::other);
    }
    let kernel = elf::parse(&boot.kernel, memory, header.is_some())?;
    if let Some(header) = header
        && (!boot.modules.is_empty() || kernel.pvh.is_none())
    {
        return Ok(Loaded { entry: multiboot::load(boot, &header, Some(&kernel), memory)?, multiboot: true });
    }
    kernel.load(&boot.kernel, memory, kernel.pvh.unwrap_or(kernel.entry))?;
    let initrd = initrd(boot, memory, kernel.end(), u32::MAX.into())?;
    let entry = match kernel.pvh {
        Some(entry) => pvh::prepare(memory, entry, initrd),
        None => linux::prepare(memory, &linux::Kernel::from_elf(&kernel), initrd, line.len()),
    };
    entry.map(Loaded::other)
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
