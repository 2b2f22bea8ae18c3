//! Images of every kind of damage.

use super::elf::find_pvh_entry;
use super::source::number;
use super::*;
use crate::acpi;
use frame::launch::MemorySpec;
use proptest::prelude::*;
use std::fs::File;

const MIB: u64 = 1 << 20;

fn memory(bytes: u64) -> Memory {
    let file = File::from(rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
    file.set_len(bytes).unwrap();
    Memory::map(&[MemorySpec { node: 0, bytes, pages: 4096 }], vec![file]).unwrap()
}

fn start(kernel: &[u8], initrd: Option<&[u8]>, memory: &Memory) -> Result<Entry, BootError> {
    start_with(kernel, initrd, &[], memory).map(|loaded| loaded.entry)
}

fn start_with(
    kernel: &[u8],
    initrd: Option<&[u8]>,
    modules: &[(&[u8], &str)],
    memory: &Memory,
) -> Result<Loaded, BootError> {
    let boot = Boot {
        kernel: Source::bytes("kernel", kernel),
        initrd: initrd.map(|bytes| Source::bytes("initial RAM disk", bytes)),
        modules: modules.iter().map(|(bytes, line)| (Source::bytes("module", bytes), *line)).collect(),
        cmdline: "quiet",
    };
    load(&boot, memory)
}

fn reason(result: Result<Entry, BootError>) -> String {
    result.unwrap_err().to_string()
}

/// An ELF file: header, two program headers (code, note), note, code at 1 MiB.
fn elf() -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let words = |file: &mut Vec<u8>, words: &[(u64, usize)]| {
        for (word, length) in words {
            file.extend(&word.to_le_bytes()[..*length]);
        }
    };
    words(&mut file, &[(2, 2), (62, 2), (1, 4), (0x10_0000, 8), (64, 8), (0, 8), (0, 4), (64, 2), (56, 2)]);
    words(&mut file, &[(2, 2), (0, 2), (0, 2), (0, 2)]);
    words(&mut file, &[(1, 4), (5, 4), (200, 8), (0x10_0000, 8), (0x10_0000, 8), (16, 8), (8192, 8), (1, 8)]);
    words(&mut file, &[(4, 4), (4, 4), (176, 8), (0, 8), (0, 8), (24, 8), (24, 8), (4, 8)]);
    words(&mut file, &[(4, 4), (8, 4), (18, 4)]);
    file.extend(b"Xen\0");
    words(&mut file, &[(0x10_0004, 8)]);
    assert_eq!(file.len(), 200);
    file.extend([0xf4; 16]);
    file
}

fn with(mut file: Vec<u8>, at: usize, value: u64, length: usize) -> Vec<u8> {
    file[at..at + length].copy_from_slice(&value.to_le_bytes()[..length]);
    file
}

#[test]
fn a_note_makes_it_pvh_and_none_makes_it_linux() {
    let memory = memory(4 * MIB);
    assert_eq!(
        start(&elf(), None, &memory).unwrap(),
        Entry::Protected { address: 0x10_0004, information: place::START_INFO as u32, magic: 0 }
    );
    let mut info = [0; 56];
    memory.guest.read_slice(&mut info, GuestAddress(place::START_INFO)).unwrap();
    assert_eq!((number(&info, 0, 4), number(&info, 4, 4)), (0x336e_c578, 1));
    assert_eq!(number(&info, 32, 8), acpi::TABLES);
    assert_eq!(number(&info, 48, 4), 4);
    let mut line = [0; 6];
    memory.guest.read_slice(&mut line, GuestAddress(number(&info, 24, 8))).unwrap();
    assert_eq!(&line, b"quiet\0");
    let no_note = with(elf(), 176 + 8, 1, 4);
    assert!(matches!(start(&no_note, None, &memory), Ok(Entry::Long { address: 0x10_0000, .. })));
}

#[test]
fn an_initrd_lies_above_the_kernel_or_does_not_fit() {
    let memory = memory(4 * MIB);
    start(&elf(), Some(&[7; 5000]), &memory).unwrap();
    let mut module = [0; 16];
    memory.guest.read_slice(&mut module, GuestAddress(place::MODULES)).unwrap();
    assert_eq!((number(&module, 0, 8), number(&module, 8, 8)), (4 * MIB - 8192, 5000));
    let text = reason(start(&elf(), Some(&vec![7; 3 << 20]), &memory));
    assert!(text.starts_with("the initial RAM disk does not fit"), "{text}");
}

#[test]
fn damage_is_named() {
    let memory = memory(4 * MIB);
    let text = reason(start(&elf()[..210], None, &memory));
    assert_eq!(text, "the kernel ends after 210 bytes, its program header 0 needs 216: the file is cut short");
    let text = reason(start(&elf()[..100], None, &memory));
    assert_eq!(text, "the kernel ends after 100 bytes, its program header 0 needs 120: the file is cut short");
    let text = reason(start(&with(elf(), 64 + 40, u64::MAX, 8), None, &memory));
    assert!(text.starts_with("the segment of the kernel's program header 0 does not fit"), "{text}");
    let text = reason(start(&with(elf(), 64 + 24, 0x1000, 8), None, &memory));
    assert!(text.contains("does not fit"), "{text}");
    let text = reason(start(&with(elf(), 192, 0x20_0000, 8), None, &memory));
    assert_eq!(text, "the kernel's entry point 0x200000 lies outside of what it loads");
    assert!(matches!(start(&with(elf(), 56, 1000, 2), None, &memory), Err(BootError::Elf(_))));
    assert!(matches!(start(&with(elf(), 18, 3, 2), None, &memory), Err(BootError::Elf(_))));
    assert!(matches!(start(b"#!/bin/sh\n", None, &memory), Err(BootError::Unknown)));
    assert!(matches!(start(b"", None, &memory), Err(BootError::Short { .. })));
}

/// A bzImage of boot protocol 2.15: one setup sector, 1 KiB of protected-mode code.
fn bzimage() -> Vec<u8> {
    let mut file = vec![0; 1024 + 1024];
    for (at, value, length) in [
        (0x1f1, 1, 1),
        (0x1f4, 64, 4),
        (0x1fe, 0xaa55, 2),
        (0x200, 0x66eb, 2),
        (0x202, u64::from(u32::from_le_bytes(*b"HdrS")), 4),
        (0x206, 0x20f, 2),
        (0x211, 1, 1),
        (0x22c, 0x7fff_ffff, 4),
        (0x236, 1, 2),
        (0x258, 0x10_0000, 8),
        (0x260, 0x10_0000, 4),
    ] {
        file = with(file, at, value, length);
    }
    file[1024..].fill(0x90);
    file
}

#[test]
fn a_bzimage_starts_at_its_64_bit_entry() {
    let memory = memory(4 * MIB);
    let entry = start(&bzimage(), Some(&[1; 10]), &memory).unwrap();
    assert!(matches!(entry, Entry::Long { address: 0x10_0200, .. }));
    let mut page = vec![0; 4096];
    memory.guest.read_slice(&mut page, GuestAddress(place::BOOT_PARAMETERS)).unwrap();
    assert_eq!(&page[0x202..0x206], b"HdrS");
    assert_eq!((number(&page, 0x218, 4), number(&page, 0x21c, 4)), (4 * MIB - 4096, 10));
    let mut code = [0; 1];
    memory.guest.read_slice(&mut code, GuestAddress(0x10_03ff)).unwrap();
    assert_eq!(code, [0x90]);
}

#[test]
fn the_last_paragraph_of_a_bzimage_need_not_be_whole() {
    let memory = memory(4 * MIB);
    start(&bzimage()[..2048 - 15], None, &memory).unwrap();
    let mut code = [0; 2];
    memory.guest.read_slice(&mut code, GuestAddress(0x10_03f0)).unwrap();
    assert_eq!(code, [0x90, 0], "what the file has is loaded");
    let text = reason(start(&bzimage()[..2048 - 16], None, &memory));
    assert_eq!(text, "the kernel ends after 2032 bytes, its protected-mode part needs 2048: the file is cut short");
}

#[test]
fn damage_of_a_bzimage_is_named() {
    let memory = memory(4 * MIB);
    let text = reason(start(&bzimage()[..1500], None, &memory));
    assert_eq!(text, "the kernel ends after 1500 bytes, its protected-mode part needs 2048: the file is cut short");
    let text = reason(start(&with(bzimage(), 0x260, 0x1000_0000, 4), None, &memory));
    assert!(text.starts_with("the unpacked kernel does not fit"), "{text}");
    assert!(matches!(start(&with(bzimage(), 0x236, 0, 2), None, &memory), Err(BootError::BzImage(_))));
    assert!(matches!(start(&with(bzimage(), 0x258, u64::MAX, 8), None, &memory), Err(BootError::Fit { .. })));
    assert!(matches!(start(&bzimage()[..0x204], None, &memory), Err(BootError::Unknown)));
    assert!(matches!(start(&bzimage()[..0x210], None, &memory), Err(BootError::Short { .. })));
}

#[test]
fn the_built_in_payload_loads() {
    let memory = memory(4 * MIB);
    let entry = start(crate::diagnostics::IMAGE, None, &memory).unwrap();
    assert!(matches!(entry, Entry::Protected { .. }));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_damage_hurts(
        which: bool,
        changes in proptest::collection::vec((0usize..0x400, any::<u8>()), 0..12),
        keep in 0usize..4096,
    ) {
        let memory = memory(4 * MIB);
        let mut file = if which { elf() } else { bzimage() };
        let length = file.len();
        for (at, value) in changes {
            file[at % length] = value;
        }
        file.truncate(keep);
        if let Ok(Entry::Protected { address, .. }) = start(&file, None, &memory) {
            prop_assert!(memory.holds(address.into(), 1));
        }
    }

    #[test]
    fn no_notes_hurt(notes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = find_pvh_entry(&notes);
    }
}
