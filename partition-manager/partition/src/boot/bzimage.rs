//! bzImage kernels (kernel, Documentation/arch/x86/boot.rst): the protected-mode part, for its 64-bit entry.

use super::linux::{Kernel, SETUP_HEADER};
use super::source::number;
use super::{BootError, Source, check_fit};
use crate::layout;
use crate::memory::Memory;

/// The real-mode part's header lies in the first sectors.
const HEAD: usize = 0x300;
const SECTOR: u64 = 512;
/// The protected-mode part is counted in these, rounded up.
const PARAGRAPH: u64 = 16;
/// The first version of the boot protocol that tells of a 64-bit entry.
const LEAST_VERSION: u64 = 0x20c;
/// `XLF_KERNEL_64` in `xloadflags`.
const HAS_64_BIT_ENTRY: u64 = 1;
/// Where the 64-bit entry lies in the protected-mode part.
const ENTRY_64: u64 = 0x200;

/// Whether a file that begins with `head` is a bzImage.
pub fn is_one(head: &[u8]) -> bool {
    number(head, 0x1fe, 2) == 0xaa55 && head.get(0x202..0x206) == Some(b"HdrS")
}

/// Loads the protected-mode part to 1 MiB.
///
/// # Errors
/// [`BootError`].
pub fn load(file: &Source<'_>, memory: &Memory) -> Result<Kernel, BootError> {
    let mut head = vec![0; HEAD];
    let there = file.length().min(HEAD as u64) as usize;
    file.read("its header", 0, head.get_mut(..there).unwrap_or_default())?;
    let field = |at: usize, length: usize| number(&head, at, length);
    if !is_one(&head) {
        return Err(BootError::Unknown);
    }
    file.check("its header", 0, HEAD as u64)?;
    if field(0x206, 2) < LEAST_VERSION || field(0x236, 2) & HAS_64_BIT_ENTRY == 0 {
        return Err(BootError::BzImage("it has no 64-bit entry (boot protocol 2.12, XLF_KERNEL_64)"));
    }
    if field(0x211, 1) & 1 == 0 {
        return Err(BootError::BzImage("it is not loaded high (LOADED_HIGH)"));
    }
    let sectors = match field(0x1f1, 1) {
        0 => 4,
        sectors => sectors,
    };
    let setup = (sectors + 1) * SECTOR;
    let payload = field(0x1f4, 4) * PARAGRAPH;
    // The file need not be rounded up with the count; memtest86+ is not.
    let lacking = (setup + payload).saturating_sub(file.length());
    let payload = if lacking < PARAGRAPH { payload.saturating_sub(lacking) } else { payload };
    if payload <= ENTRY_64 {
        return Err(BootError::BzImage("its protected-mode part ends before the 64-bit entry"));
    }
    file.check("its protected-mode part", setup, payload)?;
    let start = layout::HIGH_START;
    check_fit(|| "the compressed kernel".to_owned(), start, payload, memory)?;
    // It unpacks itself to where it prefers to be, and needs this much room there.
    let (preferred, room) = (field(0x258, 8), field(0x260, 4));
    check_fit(|| "the unpacked kernel".to_owned(), preferred.max(start), room, memory)?;
    file.copy("its protected-mode part", setup, payload, memory, start)?;
    let mut header = head.get(SETUP_HEADER.0..).unwrap_or_default().to_vec();
    // The header ends where the jump at its front leads to.
    let ends = 0x202 + field(0x201, 1) as usize;
    header.truncate(ends.saturating_sub(SETUP_HEADER.0).min(SETUP_HEADER.1));
    Ok(Kernel {
        entry: start + ENTRY_64,
        end: (start + payload).max(preferred.max(start) + room),
        initrd_highest: field(0x22c, 4),
        header,
    })
}
