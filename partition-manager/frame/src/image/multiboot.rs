//! The header by which a file says that it is a multiboot kernel (Multiboot Specification 0.6.96, section 3.1).

use super::Head;

/// The header lies within this many bytes from the file's beginning.
pub const SEARCHED: usize = 8192;
/// What the header begins with.
pub const MAGIC: u32 = 0x1bad_b002;
/// Flags that a loader must know to load the file: modules at page boundaries, sizes of memory, a video mode.
/// Modules always lie at page boundaries, sizes are always told; a video mode is asked for, not needed, and
/// there is none.
const REQUIRED_KNOWN: u32 = 1 | 1 << 1 | 1 << 2;
const REQUIRED: u32 = 0xffff;
const HAS_ADDRESSES: u32 = 1 << 16;

/// Where the header lies and what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Byte offset in the file, a multiple of 4.
    pub offset: u32,
    /// What the kernel wants.
    pub flags: u32,
    addresses: Option<Addresses>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Addresses {
    header: u32,
    load: u32,
    load_end: u32,
    bss_end: u32,
    entry: u32,
}

/// What of a file goes where, as its header says it (the "a.out kludge").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flat {
    /// Byte offset in the file of what is loaded.
    pub offset: u64,
    /// Bytes of it.
    pub in_file: u64,
    /// Physical address that it is loaded to.
    pub address: u64,
    /// Bytes in memory, with the zeros behind.
    pub in_memory: u64,
    /// Physical address of the first instruction.
    pub entry: u32,
}

/// Looks for a header; `head` begins where the file does.
#[must_use]
pub fn find(head: &[u8]) -> Option<Header> {
    let head = head.get(..head.len().min(SEARCHED)).unwrap_or_default();
    let fields = Head(head);
    (0..head.len() as u32).step_by(4).find_map(|offset| {
        let field = |index: u64| fields.u32(u64::from(offset) + index * 4);
        let (magic, flags, checksum) = (field(0)?, field(1)?, field(2)?);
        if magic != MAGIC || magic.wrapping_add(flags).wrapping_add(checksum) != 0 {
            return None;
        }
        let addresses = || {
            Some(Addresses {
                header: field(3)?,
                load: field(4)?,
                load_end: field(5)?,
                bss_end: field(6)?,
                entry: field(7)?,
            })
        };
        let wants_addresses = flags & HAS_ADDRESSES != 0;
        let addresses = if wants_addresses { Some(addresses()?) } else { None };
        Some(Header { offset, flags, addresses })
    })
}

impl Header {
    /// Checks that nothing is required that nobody here knows.
    ///
    /// # Errors
    /// What is wrong.
    pub const fn check(&self) -> Result<(), &'static str> {
        if self.flags & REQUIRED & !REQUIRED_KNOWN != 0 {
            return Err("its multiboot header requires a feature that Multiboot 0.6.96 does not define");
        }
        Ok(())
    }

    /// Whether the header says itself what goes where. Otherwise the file must be an ELF.
    #[must_use]
    pub const fn is_flat(&self) -> bool {
        self.addresses.is_some()
    }

    /// What goes where, of a file of `length` bytes whose header says it.
    ///
    /// # Errors
    /// What contradicts itself.
    pub fn flat(&self, length: u64) -> Result<Flat, &'static str> {
        let Some(addresses) = self.addresses else { return Err("its multiboot header has no addresses") };
        let Addresses { header, load, load_end, bss_end, entry } = addresses;
        let before = header.checked_sub(load).ok_or("its multiboot header lies before what it loads")?;
        let offset = self.offset.checked_sub(before).ok_or("its multiboot header loads what lies before the file")?;
        let offset = u64::from(offset);
        // An end of zero: all that the file has.
        let in_file = match load_end {
            0 => length.saturating_sub(offset),
            end => u64::from(end.checked_sub(load).ok_or("its multiboot header ends the load before its beginning")?),
        };
        let in_memory = match bss_end {
            0 => in_file,
            end => match u64::from(end).checked_sub(u64::from(load)) {
                Some(bytes) if bytes >= in_file => bytes,
                _ => return Err("its multiboot header ends the zeros before what is loaded"),
            },
        };
        if in_file == 0 {
            return Err("its multiboot header loads nothing");
        }
        if u64::from(entry) < u64::from(load) || u64::from(entry) >= u64::from(load) + in_memory {
            return Err("its multiboot header has an entry point outside of what it loads");
        }
        Ok(Flat { offset, in_file, address: load.into(), in_memory, entry })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(at: usize, flags: u32, words: &[u32]) -> Vec<u8> {
        let mut file = vec![0; at];
        for word in [MAGIC, flags, 0u32.wrapping_sub(MAGIC).wrapping_sub(flags)].iter().chain(words) {
            file.extend(word.to_le_bytes());
        }
        file
    }

    #[test]
    fn a_header_is_found_where_it_may_lie() {
        for at in [0, 4, 64, SEARCHED - 12] {
            let found = find(&header(at, 3, &[])).unwrap();
            assert_eq!((found.offset as usize, found.flags, found.is_flat()), (at, 3, false));
        }
        assert_eq!(find(&header(SEARCHED - 8, 3, &[])), None, "not whole within what is searched");
        assert_eq!(find(&header(6, 3, &[])), None, "not aligned");
        let mut wrong = header(0, 3, &[]);
        wrong[8] ^= 1;
        assert_eq!(find(&wrong), None, "another sum");
        // What looks like one first does not hide the real one.
        wrong.extend(header(0, 1, &[]));
        assert_eq!(find(&wrong).unwrap().offset, 12);
        assert_eq!(find(&header(0, HAS_ADDRESSES, &[1, 2, 3, 4])), None, "its addresses are cut off");
    }

    #[test]
    fn unknown_requirements_are_refused_and_wishes_are_not() {
        for (flags, good) in [(0, true), (7, true), (0xfffe_0003, true), (1 << 3, false), (1 << 15, false)] {
            let header = header(0, flags & !HAS_ADDRESSES, &[]);
            assert_eq!(find(&header).unwrap().check().is_ok(), good, "{flags:#x}");
        }
    }

    #[test]
    fn addresses_say_what_goes_where() {
        let flat = |words: &[u32]| find(&header(8, HAS_ADDRESSES, words)).unwrap().flat(1000);
        let whole = Flat { offset: 0, in_file: 1000, address: 0x10_0000, in_memory: 1000, entry: 0x10_0020 };
        assert_eq!(flat(&[0x10_0008, 0x10_0000, 0, 0, 0x10_0020]), Ok(whole));
        let zeros = Flat { offset: 8, in_file: 100, address: 0x10_0000, in_memory: 0x1000, entry: 0x10_0fff };
        assert_eq!(flat(&[0x10_0000, 0x10_0000, 0x10_0064, 0x10_1000, 0x10_0fff]), Ok(zeros));
        for wrong in [
            [0x10_0000, 0x10_0001, 0, 0, 0x10_0001],
            [0x10_0009, 0x10_0000, 0, 0, 0x10_0000],
            [0x10_0008, 0x10_0000, 0x0f_ffff, 0, 0x10_0000],
            [0x10_0008, 0x10_0000, 0x10_0064, 0x10_0063, 0x10_0000],
            [0x10_0008, 0x10_0000, 0x10_0000, 0, 0x10_0000],
            [0x10_0008, 0x10_0000, 0x10_0064, 0, 0x10_0064],
            [0x10_0008, 0x10_0000, 0x10_0064, 0, 0x0f_ffff],
        ] {
            assert!(flat(&wrong).is_err(), "{wrong:x?}");
        }
    }

    proptest! {
        #[test]
        fn no_header_hurts(
            at in 0usize..40, flags: u32, words in proptest::collection::vec(any::<u32>(), 0..6), length: u64,
            noise in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let mut file = noise;
            file.extend(header(at, flags, &words));
            if let Some(found) = find(&file) {
                let _ = found.check();
                prop_assert!(found.offset as usize + 12 <= file.len());
                if let Ok(flat) = found.flat(length) {
                    prop_assert!(flat.in_file <= flat.in_memory);
                    prop_assert!(u64::from(flat.entry) - flat.address < flat.in_memory);
                    prop_assert!(flat.offset <= u64::from(found.offset));
                }
            }
        }
    }
}
