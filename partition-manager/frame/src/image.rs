//! Kernel images: what a file is, by its first bytes and its length.
//!
//! Three kinds start here: ELF (System V ABI, chapters 4 and 5), the bzImage of Linux on x86
//! (Linux, Documentation/arch/x86/boot.rst), and multiboot kernels ([`multiboot`]), which are ELFs of 32 or 64 bits
//! or files whose header says what goes where. Only what must hold for the file to be whole is checked; the loader
//! looks at the rest.

pub mod multiboot;

/// Bytes from the beginning of a file that [`identify`] should be given, if the file has as many. The
/// program headers of an ELF may lie further back; then they are not checked here.
pub const HEAD: usize = 64 * 1024;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Image {
    /// An ELF for x86-64.
    Elf {
        /// Entry point: a virtual address; 64-bit when the file has no PVH note.
        entry: u64,
        /// Entry point of the PVH boot protocol, 32-bit; none when the note is absent or not in the head.
        pvh_entry: Option<u32>,
        /// Whether it has a multiboot header.
        multiboot: bool,
        /// Bytes that the file must at least have.
        needs: u64,
    },
    /// A multiboot kernel that is no ELF for x86-64: an ELF of 32 bits, or any file whose multiboot header says
    /// what goes where.
    Multiboot {
        /// Bytes that the file must at least have.
        needs: u64,
    },
    /// A Linux bzImage.
    BzImage {
        /// Version of the boot protocol, such as 0x20f.
        protocol: u16,
        /// Whether there is a 64-bit entry point (`XLF_KERNEL_64`).
        entry_64: bool,
        /// Bytes that the file must at least have.
        needs: u64,
    },
}

impl Image {
    /// Whether it can be given multiboot modules.
    #[must_use]
    pub const fn takes_modules(&self) -> bool {
        matches!(self, Self::Multiboot { .. } | Self::Elf { multiboot: true, .. })
    }
}

/// Why a file is no image that can be started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// The file has no byte.
    #[error("the file is empty")]
    Empty,
    /// It begins as neither.
    #[error("it is neither ELF nor bzImage nor multiboot")]
    Unknown,
    /// The file ends before the image does.
    #[error("{kind} cut short: needs {needs} bytes, file has {has}")]
    Short {
        /// `ELF`, `bzImage` or `multiboot image`.
        kind: &'static str,
        /// Bytes that it needs at least.
        needs: u64,
        /// Bytes that the file has.
        has: u64,
    },
    /// An ELF for another machine, class or byte order.
    #[error("this ELF is {0}; it must be 64-bit, little-endian, for x86-64")]
    Machine(String),
    /// An ELF that is no program.
    #[error("this ELF is not executable: {0}")]
    NotExecutable(&'static str),
    /// A header contradicts itself.
    #[error("the {kind} header is damaged: {why}")]
    Damaged {
        /// `ELF`, `bzImage` or `multiboot`.
        kind: &'static str,
        /// What contradicts.
        why: &'static str,
    },
    /// A Linux image that an old loader was meant for.
    #[error("this bzImage speaks boot protocol {0}.{1:02}; 2.06 is the oldest supported")]
    OldProtocol(u8, u8),
    /// A Linux zImage, which loads low.
    #[error("this is a zImage, which loads below 1 MiB; build a bzImage")]
    LoadsLow,
}

/// Little-endian fields of a file's head.
#[derive(Clone, Copy)]
struct Head<'a>(&'a [u8]);

impl<'a> Head<'a> {
    fn bytes<const N: usize>(self, at: u64) -> Option<[u8; N]> {
        let at = usize::try_from(at).ok()?;
        self.0.get(at..at.checked_add(N)?)?.try_into().ok()
    }

    fn u8(self, at: u64) -> Option<u8> {
        self.bytes::<1>(at).map(|[byte]| byte)
    }

    fn u16(self, at: u64) -> Option<u16> {
        self.bytes(at).map(u16::from_le_bytes)
    }

    fn u32(self, at: u64) -> Option<u32> {
        self.bytes(at).map(u32::from_le_bytes)
    }

    fn u64(self, at: u64) -> Option<u64> {
        self.bytes(at).map(u64::from_le_bytes)
    }

    /// The field of 4 or 8 bytes at `field.0` behind `at`.
    fn number(self, at: u64, field: (u64, u64)) -> Option<u64> {
        let at = at.checked_add(field.0)?;
        if field.1 == 4 { self.u32(at).map(u64::from) } else { self.u64(at) }
    }

    fn slice(self, at: u64, length: u64) -> Option<&'a [u8]> {
        let (at, length) = (usize::try_from(at).ok()?, usize::try_from(length).ok()?);
        self.0.get(at..at.checked_add(length)?)
    }
}

/// Says what a file of `length` bytes is that begins with `head`.
///
/// # Errors
/// [`ImageError`]: it is no image, or not a whole one.
pub fn identify(head: &[u8], length: u64) -> Result<Image, ImageError> {
    if length == 0 || head.is_empty() {
        return Err(ImageError::Empty);
    }
    let header = multiboot::find(head);
    let head = Head(head);
    // The boot flag and the header's magic (boot.rst, "The Real-Mode Kernel Header").
    if head.u16(0x1fe) == Some(0xaa55) && head.bytes(0x202) == Some(*b"HdrS") {
        return bz_image(head, length);
    }
    let damaged = |why| ImageError::Damaged { kind: "multiboot", why };
    if let Some(header) = header {
        header.check().map_err(damaged)?;
        if header.is_flat() {
            let flat = header.flat(length).map_err(damaged)?;
            let needs = flat.offset + flat.in_file;
            return if needs > length {
                Err(ImageError::Short { kind: "multiboot image", needs, has: length })
            } else {
                Ok(Image::Multiboot { needs })
            };
        }
    }
    if head.bytes(0) == Some(*b"\x7fELF") {
        return elf(head, length, header.is_some());
    }
    Err(ImageError::Unknown)
}

/// Where an ELF of one class keeps what (System V ABI, figures 4-3 and 5-1).
struct Class {
    header: u64,
    program_header: u64,
    /// Byte offset and length of: entry, table, then in a program header offset and file size.
    entry: (u64, u64),
    table: (u64, u64),
    offset: (u64, u64),
    in_file: (u64, u64),
    /// Byte offset of the size of a program header; the count of them follows.
    size: u64,
}

const CLASS_32: Class = Class {
    header: 52,
    program_header: 32,
    entry: (24, 4),
    table: (28, 4),
    offset: (4, 4),
    in_file: (16, 4),
    size: 42,
};
const CLASS_64: Class = Class {
    header: 64,
    program_header: 56,
    entry: (24, 8),
    table: (32, 8),
    offset: (8, 8),
    in_file: (32, 8),
    size: 54,
};
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// The note that names the PVH entry point (Xen, public/elfnote.h, `XEN_ELFNOTE_PHYS32_ENTRY`).
const PHYS32_ENTRY: u32 = 18;

fn elf(head: Head<'_>, length: u64, multiboot: bool) -> Result<Image, ImageError> {
    let short = |needs: u64| ImageError::Short { kind: "ELF", needs, has: length };
    let damaged = |why: &'static str| ImageError::Damaged { kind: "ELF", why };
    let in_head = || damaged("its first bytes are missing");
    if length < CLASS_32.header {
        return Err(short(CLASS_64.header));
    }
    // Only multiboot says how a kernel of 32 bits is started.
    let class = match (head.u8(4).ok_or_else(in_head)?, head.u8(5).ok_or_else(in_head)?) {
        (2, 1) => CLASS_64,
        (1, 1) if multiboot => CLASS_32,
        (1, _) => return Err(ImageError::Machine("32-bit".into())),
        (2, 2) => return Err(ImageError::Machine("big-endian".into())),
        _ => return Err(damaged("no such class or byte order")),
    };
    if length < class.header {
        return Err(short(class.header));
    }
    let is_wide = class.header == CLASS_64.header;
    match head.u16(18).ok_or_else(in_head)? {
        62 if is_wide => {}
        3 if !is_wide => {}
        183 => return Err(ImageError::Machine("for AArch64".into())),
        243 => return Err(ImageError::Machine("for RISC-V".into())),
        machine => return Err(ImageError::Machine(format!("for machine {machine}"))),
    }
    // ET_EXEC, or ET_DYN for kernels that are built position independent.
    match head.u16(16).ok_or_else(in_head)? {
        2 | 3 => {}
        1 => return Err(ImageError::NotExecutable("it is an object file")),
        4 => return Err(ImageError::NotExecutable("it is a core dump")),
        _ => return Err(ImageError::NotExecutable("it is of no known type")),
    }
    let entry = head.number(0, class.entry).ok_or_else(in_head)?;
    let table = head.number(0, class.table).ok_or_else(in_head)?;
    let size = u64::from(head.u16(class.size).ok_or_else(in_head)?);
    let count = u64::from(head.u16(class.size + 2).ok_or_else(in_head)?);
    if count == 0 {
        return Err(ImageError::NotExecutable("it has no program header"));
    }
    if size < class.program_header {
        return Err(damaged("its program headers are too small"));
    }
    let end = |at: u64, bytes: u64| at.checked_add(bytes).ok_or_else(|| damaged("its data ends beyond 16 EiB"));
    let mut needs = end(table, size * count)?;
    if needs > length {
        return Err(short(needs));
    }
    let (mut loads, mut pvh_entry) = (false, None);
    for index in 0..count {
        let at = end(table, index * size)?;
        // Beyond the head, the loader checks.
        let (Some(kind), Some(offset), Some(bytes)) =
            (head.u32(at), head.number(at, class.offset), head.number(at, class.in_file))
        else {
            loads = true;
            break;
        };
        if kind == PT_LOAD || kind == PT_NOTE {
            needs = needs.max(end(offset, bytes)?);
        }
        loads |= kind == PT_LOAD;
        if kind == PT_NOTE && pvh_entry.is_none() && is_wide {
            pvh_entry = head.slice(offset, bytes).and_then(pvh);
        }
    }
    if needs > length {
        return Err(short(needs));
    }
    if !loads {
        return Err(ImageError::NotExecutable("no program header says what to load"));
    }
    Ok(if is_wide { Image::Elf { entry, pvh_entry, multiboot, needs } } else { Image::Multiboot { needs } })
}

/// The PVH entry point among notes, each: length of the name, of the data, type, name, data, padded to 4.
fn pvh(notes: &[u8]) -> Option<u32> {
    let notes = Head(notes);
    let mut at = 0u64;
    loop {
        let name_length = u64::from(notes.u32(at)?);
        let data_length = u64::from(notes.u32(at + 4)?);
        let kind = notes.u32(at + 8)?;
        let name = at + 12;
        let data = name + name_length.next_multiple_of(4);
        if kind == PHYS32_ENTRY && notes.slice(name, name_length) == Some(b"Xen\0") && data_length >= 4 {
            return notes.u32(data);
        }
        at = data + data_length.next_multiple_of(4);
    }
}

fn bz_image(head: Head<'_>, length: u64) -> Result<Image, ImageError> {
    let damaged = |why: &'static str| ImageError::Damaged { kind: "bzImage", why };
    let ends = || damaged("its setup header ends too early");
    let protocol = head.u16(0x206).ok_or_else(ends)?;
    if protocol < 0x206 {
        let [minor, major] = protocol.to_le_bytes();
        return Err(ImageError::OldProtocol(major, minor));
    }
    // Bit 0: the protected-mode code loads at 1 MiB.
    if head.u8(0x211).ok_or_else(ends)? & 1 == 0 {
        return Err(ImageError::LoadsLow);
    }
    // A count of zero means four (boot.rst, "Details of Header Fields", setup_sects).
    let sectors = match head.u8(0x1f1).ok_or_else(ends)? {
        0 => 4,
        sectors => u64::from(sectors),
    };
    // The protected-mode code, in paragraphs of 16 bytes.
    let code = u64::from(head.u32(0x1f4).ok_or_else(ends)?) * 16;
    if code == 0 {
        return Err(damaged("it has no protected-mode code"));
    }
    let needs = (sectors + 1) * 512 + code;
    // The count of paragraphs is rounded up; the file need not be, as memtest86+ is not.
    let needs = if needs - length.min(needs) < 16 { needs.min(length) } else { needs };
    if length < needs {
        return Err(ImageError::Short { kind: "bzImage", needs, has: length });
    }
    let entry_64 = protocol >= 0x20c && head.u16(0x236).ok_or_else(ends)? & 1 == 1;
    Ok(Image::BzImage { protocol, entry_64, needs })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
        image[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// An ELF with one segment of 0x1000 bytes at 0x1000 and a PVH note at 0x200.
    fn elf() -> Vec<u8> {
        let mut image = vec![0; 0x2000];
        put(&mut image, 0, b"\x7fELF\x02\x01\x01");
        put(&mut image, 16, &2u16.to_le_bytes());
        put(&mut image, 18, &62u16.to_le_bytes());
        put(&mut image, 24, &0x0010_0000u64.to_le_bytes());
        put(&mut image, 32, &64u64.to_le_bytes());
        put(&mut image, 54, &56u16.to_le_bytes());
        put(&mut image, 56, &2u16.to_le_bytes());
        for (at, kind, offset, bytes) in [(64, PT_LOAD, 0x1000u64, 0x1000u64), (120, PT_NOTE, 0x200, 36)] {
            put(&mut image, at, &kind.to_le_bytes());
            put(&mut image, at + 8, &offset.to_le_bytes());
            put(&mut image, at + 32, &bytes.to_le_bytes());
        }
        // A note of another owner first.
        for (at, value) in [(0x200, 4u32), (0x204, 0), (0x208, 1), (0x210, 4), (0x214, 4), (0x218, PHYS32_ENTRY)] {
            put(&mut image, at, &value.to_le_bytes());
        }
        put(&mut image, 0x20c, b"GNU\0");
        put(&mut image, 0x21c, b"Xen\0");
        put(&mut image, 0x220, &0x0010_0040u32.to_le_bytes());
        image
    }

    fn bz_image() -> Vec<u8> {
        let mut image = vec![0; 5 * 512 + 0x100];
        put(&mut image, 0x1f1, &[4]);
        put(&mut image, 0x1f4, &0x10u32.to_le_bytes());
        put(&mut image, 0x1fe, &0xaa55u16.to_le_bytes());
        put(&mut image, 0x202, b"HdrS");
        put(&mut image, 0x206, &0x20fu16.to_le_bytes());
        put(&mut image, 0x211, &[1]);
        put(&mut image, 0x236, &1u16.to_le_bytes());
        image
    }

    fn of(image: &[u8]) -> Result<Image, ImageError> {
        identify(image, image.len() as u64)
    }

    #[test]
    fn knows_an_elf_and_its_pvh_note() {
        let expected = Image::Elf { entry: 0x0010_0000, pvh_entry: Some(0x0010_0040), multiboot: false, needs: 0x2000 };
        assert_eq!(of(&elf()), Ok(expected));
    }

    #[test]
    fn an_elf_cut_short_says_how_much_is_missing() {
        let error = of(&elf()[..0x1800]).unwrap_err();
        assert_eq!(error.to_string(), "ELF cut short: needs 8192 bytes, file has 6144");
        assert!(matches!(of(&elf()[..40]), Err(ImageError::Short { needs: 64, has: 40, .. })));
        assert!(matches!(of(&elf()[..100]), Err(ImageError::Short { needs: 176, has: 100, .. })));
    }

    #[test]
    fn the_last_paragraph_of_a_bz_image_need_not_be_whole() {
        let image = bz_image();
        let whole = image.len();
        assert!(matches!(of(&image[..whole - 15]), Ok(Image::BzImage { needs, .. }) if needs == whole as u64 - 15));
        let (needs, has) = (whole as u64, whole as u64 - 16);
        assert_eq!(of(&image[..whole - 16]), Err(ImageError::Short { kind: "bzImage", needs, has }));
    }

    #[test]
    fn other_elfs_are_refused_by_what_they_are() {
        let with = |at: usize, bytes: &[u8]| {
            let mut image = elf();
            put(&mut image, at, bytes);
            of(&image).unwrap_err()
        };
        assert_eq!(with(4, &[1]), ImageError::Machine("32-bit".into()));
        assert_eq!(with(5, &[2]), ImageError::Machine("big-endian".into()));
        assert_eq!(with(18, &183u16.to_le_bytes()), ImageError::Machine("for AArch64".into()));
        assert!(matches!(with(16, &[1]), ImageError::NotExecutable(_)));
        assert!(matches!(with(56, &[0, 0]), ImageError::NotExecutable(_)));
        assert!(matches!(with(64, &[6]), ImageError::NotExecutable(_)));
        assert!(matches!(with(54, &[8, 0]), ImageError::Damaged { .. }));
        assert!(matches!(with(72, &u64::MAX.to_le_bytes()), ImageError::Damaged { .. }));
    }

    /// A multiboot header without addresses at 0x400.
    fn with_header(mut image: Vec<u8>) -> Vec<u8> {
        let sum = 0u32.wrapping_sub(multiboot::MAGIC).wrapping_sub(3);
        for (at, word) in [(0x400, multiboot::MAGIC), (0x404, 3), (0x408, sum)] {
            put(&mut image, at, &word.to_le_bytes());
        }
        image
    }

    /// An ELF of 32 bits with one segment of 0x1000 bytes at 0x1000.
    fn elf_32() -> Vec<u8> {
        let mut image = vec![0; 0x2000];
        put(&mut image, 0, b"\x7fELF\x01\x01\x01");
        for (at, half) in [(16, 2u16), (18, 3), (42, 32), (44, 1)] {
            put(&mut image, at, &half.to_le_bytes());
        }
        for (at, word) in [(24, 0x10_0000u32), (28, 52), (52, PT_LOAD), (56, 0x1000), (68, 0x1000)] {
            put(&mut image, at, &word.to_le_bytes());
        }
        image
    }

    #[test]
    fn knows_multiboot_kernels_of_each_kind() {
        let image = of(&with_header(elf())).unwrap();
        assert!(matches!(image, Image::Elf { multiboot: true, .. }) && image.takes_modules());
        let image = of(&with_header(elf_32())).unwrap();
        assert_eq!((image, image.takes_modules()), (Image::Multiboot { needs: 0x2000 }, true));
        assert_eq!(of(&elf_32()), Err(ImageError::Machine("32-bit".into())));
        assert!(matches!(of(&with_header(elf_32())[..0x1800]), Err(ImageError::Short { needs: 0x2000, .. })));
        assert!(!of(&elf()).unwrap().takes_modules() && !of(&bz_image()).unwrap().takes_modules());
        // A header with addresses is enough for any file.
        let sum = 0u32.wrapping_sub(multiboot::MAGIC).wrapping_sub(1 << 16);
        let words = [multiboot::MAGIC, 1 << 16, sum, 0x10_0000, 0x10_0000, 0x10_0100, 0x10_0200, 0x10_0020];
        let mut flat: Vec<u8> = words.iter().flat_map(|word: &u32| word.to_le_bytes()).collect();
        flat.resize(0x100, 0x90);
        assert_eq!(of(&flat), Ok(Image::Multiboot { needs: 0x100 }));
        assert!(matches!(of(&flat[..0x80]), Err(ImageError::Short { needs: 0x100, has: 0x80, .. })));
        let mut wrong = flat.clone();
        put(&mut wrong, 28, &0u32.to_le_bytes());
        assert!(matches!(of(&wrong), Err(ImageError::Damaged { kind: "multiboot", .. })));
    }

    #[test]
    fn knows_a_bz_image_and_whether_it_is_whole() {
        let image = bz_image();
        assert_eq!(of(&image), Ok(Image::BzImage { protocol: 0x20f, entry_64: true, needs: 5 * 512 + 0x100 }));
        assert!(matches!(of(&image[..image.len() - 16]), Err(ImageError::Short { kind: "bzImage", .. })));
        let mut old = image.clone();
        put(&mut old, 0x206, &0x204u16.to_le_bytes());
        assert_eq!(of(&old), Err(ImageError::OldProtocol(2, 4)));
        let mut low = image;
        put(&mut low, 0x211, &[0]);
        assert_eq!(of(&low), Err(ImageError::LoadsLow));
    }

    #[test]
    fn other_files_are_neither() {
        assert_eq!(of(b"#!/bin/sh\n"), Err(ImageError::Unknown));
        assert_eq!(of(b""), Err(ImageError::Empty));
        assert_eq!(ImageError::Unknown.to_string(), "it is neither ELF nor bzImage nor multiboot");
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..2000), length in any::<u64>()) {
            let _ = identify(&bytes, length);
        }

        #[test]
        fn never_panics_on_a_damaged_image(
            kind in 0..4, damage in proptest::collection::vec((any::<usize>(), any::<u8>()), 0..40),
            length in prop_oneof![any::<u64>(), 0..0x3000u64],
        ) {
            let mut image = match kind {
                0 => elf(),
                1 => bz_image(),
                2 => with_header(elf()),
                _ => with_header(elf_32()),
            };
            for (at, byte) in damage {
                let at = at % 0x240;
                image[at] = byte;
            }
            if let Ok(Image::Elf { needs, .. } | Image::BzImage { needs, .. } | Image::Multiboot { needs }) = identify(&image, length) {
                prop_assert!(needs <= length);
            }
        }
    }
}
