//! The tables as a guest walks them.

use super::*;
use proptest::prelude::*;

fn identity() -> Identity {
    Identity {
        name: "db".into(),
        frame: "rack7".into(),
        id: 7,
        packages: vec![(2, 4), (1, 1)],
        signature: [0x806f8, 0x178b_fbff],
        brand: "A Processor".into(),
        nodes: vec![(0, 64 * MIB), (3, 40 << 30)],
        ranges: vec![(0, 64 * MIB), (1 << 32, 40 << 30)],
    }
}

fn number(bytes: &[u8], at: usize, length: usize) -> u64 {
    bytes[at..at + length].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// The structures behind an entry point: kind, fields from the header on, strings.
fn walk(area: &[u8]) -> Vec<(u8, Vec<u8>, Vec<String>)> {
    assert_eq!((&area[..5], sum(&area[..0x18])), (&b"_SM3_"[..], 0));
    let mut at = (number(area, 16, 8) - TABLES) as usize;
    let end = at + number(area, 12, 4) as usize;
    let mut all = vec![];
    while at < end {
        let (kind, length) = (area[at], usize::from(area[at + 1]));
        let fields = area[at..at + length].to_vec();
        at += length;
        let mut strings = vec![];
        while area[at] != 0 {
            let stop = at + area[at..].iter().position(|byte| *byte == 0).unwrap();
            strings.push(String::from_utf8(area[at..stop].to_vec()).unwrap());
            at = stop + 1;
        }
        at += if strings.is_empty() { 2 } else { 1 };
        all.push((kind, fields, strings));
    }
    assert_eq!((at, all.last().map(|last| last.0)), (area.len(), Some(127)));
    all
}

#[test]
fn both_entry_points_lead_to_the_same_structures() {
    let area = tables(&identity());
    let all = walk(&area);
    let old = &area[0x20..0x3f];
    assert_eq!((&old[..4], sum(old), &old[16..21], sum(&old[16..])), (&b"_SM_"[..], 0, &b"_DMI_"[..], 0));
    assert_eq!(number(old, 24, 4), number(&area, 16, 8));
    assert_eq!(number(old, 22, 2), number(&area, 12, 4));
    assert_eq!(number(old, 28, 2), all.len() as u64);
    let kinds: Vec<u8> = all.iter().map(|structure| structure.0).collect();
    assert_eq!(kinds, [0, 1, 3, 4, 4, 16, 17, 17, 19, 19, 32, 127]);
    // The lengths that DSP0134 3.6 gives for what is told.
    let lengths: Vec<usize> = all.iter().map(|structure| structure.1.len()).collect();
    assert_eq!(lengths, [0x1a, 0x1b, 0x16, 0x30, 0x30, 0x17, 0x28, 0x28, 0x1f, 0x1f, 0x0b, 4]);
}

#[test]
fn the_system_is_the_partition() {
    let all = walk(&tables(&identity()));
    let (_, system, strings) = &all[1];
    assert_eq!(strings[..], ["Bulkhead", "Logical Partition", VERSION, "7", "db", "rack7"]);
    assert_eq!(system[4..8], [1, 2, 3, 4]);
    assert_eq!(all[2].2, ["Bulkhead", VERSION, "rack7", "db", "Frame"]);
    let (_, processor, strings) = &all[3];
    assert_eq!((strings[0].as_str(), strings[2].as_str()), ("CPU 0", "A Processor"));
    assert_eq!((processor[0x23], processor[0x25]), (2, 4));
    assert_eq!((number(processor, 8, 4), number(processor, 12, 4)), (0x806f8, 0x178b_fbff));
    let (_, module, strings) = &all[7];
    assert_eq!((number(module, 12, 2), number(module, 0x1c, 4)), (0x7fff, 40 << 10));
    assert_eq!(strings[1], "Node 3");
    let (_, range, _) = &all[9];
    assert_eq!((number(range, 4, 4), number(range, 8, 4)), (4 << 20, (44 << 20) - 1));
}

#[test]
fn the_identifier_is_the_names_and_nothing_else() {
    let one = uuid("rack7", "db");
    assert_eq!(one, uuid("rack7", "db"));
    assert_eq!((one >> 76 & 0xf, one >> 62 & 3), (8, 2), "version and variant");
    for other in [uuid("rack7", "db2"), uuid("rack8", "db"), uuid("rack7d", "b")] {
        assert_ne!(one, other);
    }
}

proptest! {
    #[test]
    fn every_partition_fits_into_the_segment(
        packages in proptest::collection::vec((1u32..65, 1u32..65), 1..65),
        sizes in proptest::collection::vec(1u64..1 << 30, 1..65),
    ) {
        let ranges = || (0u64..).zip(&sizes).map(|(at, kib)| (at << 40, kib * KIB)).collect::<Vec<_>>();
        let nodes = (0u32..).zip(&sizes).map(|(node, kib)| (node, kib * KIB)).collect();
        let name = "n".repeat(63);
        let area = tables(&Identity { name, packages, nodes, ranges: ranges(), ..identity() });
        prop_assert!(TABLES + area.len() as u64 <= TABLES_END);
        for (found, (start, bytes)) in walk(&area).iter().filter(|one| one.0 == 19).zip(ranges()) {
            let fields = &found.1;
            let (first, last) = match number(fields, 4, 4) {
                0xffff_ffff => (number(fields, 0xf, 8), number(fields, 0x17, 8)),
                first => (first * KIB, number(fields, 8, 4) * KIB + KIB - 1),
            };
            prop_assert_eq!((first, last), (start, start + bytes - 1));
        }
    }
}
