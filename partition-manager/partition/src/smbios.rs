//! The SMBIOS tables, by which a guest knows whose machine it is on (DMTF DSP0134, version 3.6).
//!
//! Of both kinds of entry point there is one, since older readers know only the first. Everything is derived:
//! a partition looks the same each time it is activated.

use crate::layout::Slot;
use crate::vm::processor::Kit;
use frame::launch::LaunchSpec;
use std::collections::BTreeMap;

/// Where the tables begin: in the segment that guests search, at a multiple of 16 bytes.
pub const TABLES: u64 = 0xf_0000;
/// First address above the area that the tables may take.
pub const TABLES_END: u64 = 0x10_0000;

const MAKER: &str = "Bulkhead";
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// What is told as the firmware's date: that of this layout of the tables.
const DATE: &str = "11/22/2026";
/// Where the structures begin, after both entry points.
const STRUCTURES: u64 = TABLES + 0x40;
const NO_HANDLE: u16 = 0xfffe;
const NOT_PROVIDED: u16 = 0xffff;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// What the tables tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The partition's name.
    pub name: String,
    /// The frame's name.
    pub frame: String,
    /// The partition's number.
    pub id: u32,
    /// For each package: cores, and threads of all of them.
    pub packages: Vec<(u32, u32)>,
    /// What CPUID says of the processor: leaf 1, EAX and EDX.
    pub signature: [u32; 2],
    /// Its name, as CPUID spells it.
    pub brand: String,
    /// Memory of each node: number, bytes.
    pub nodes: Vec<(u32, u64)>,
    /// Memory ranges: first address, bytes.
    pub ranges: Vec<(u64, u64)>,
}

impl Identity {
    /// The identity of a partition whose processors `kit` makes and whose memory is at `slots`.
    #[must_use]
    pub fn of(spec: &LaunchSpec, kit: &Kit, slots: &[Slot]) -> Self {
        let mut packages: BTreeMap<u32, BTreeMap<u32, u32>> = BTreeMap::new();
        for place in spec.processors.iter().map(|processor| processor.place) {
            *packages.entry(place.package).or_default().entry(place.core).or_default() += 1;
        }
        let mut nodes: BTreeMap<u32, u64> = BTreeMap::new();
        for range in &spec.memory {
            let bytes = nodes.entry(range.node).or_default();
            *bytes = bytes.saturating_add(range.bytes);
        }
        let [signature, _, _, features] = kit.leaf(1).unwrap_or_default();
        let words = [0x8000_0002, 0x8000_0003, 0x8000_0004].map(|leaf| kit.leaf(leaf).unwrap_or_default());
        let bytes: Vec<u8> = words.as_flattened().iter().flat_map(|word| word.to_le_bytes()).collect();
        Self {
            name: spec.name.to_string(),
            frame: spec.frame.to_string(),
            id: spec.id,
            packages: packages.values().map(|cores| (cores.len() as u32, cores.values().sum())).collect(),
            signature: [signature, features],
            brand: String::from_utf8_lossy(&bytes).trim_matches(['\0', ' ']).to_owned(),
            nodes: nodes.into_iter().collect(),
            ranges: slots.iter().map(|slot| (slot.start, slot.bytes)).collect(),
        }
    }
}

/// The identifier of a partition: the same for the same names of frame and partition (RFC 9562, section 5.8:
/// version 8, here from a 128-bit FNV-1a hash of both names).
#[must_use]
pub fn uuid(frame: &str, name: &str) -> u128 {
    const BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    // No name has a NUL, so that no two pairs are one text.
    let text = [MAKER, "\0", frame, "\0", name].concat();
    let hash = text.bytes().fold(BASIS, |hash, byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME));
    hash & !(0xf << 76) & !(3 << 62) | 8 << 76 | 2 << 62
}

/// The tables, as bytes that belong at [`TABLES`]: entry points of versions 3 and 2, then the structures.
#[must_use]
pub fn tables(identity: &Identity) -> Vec<u8> {
    let mut structures = Structures::default();
    identity.put(&mut structures);
    let Structures { bytes, count, longest } = structures;
    let mut area = entry_point_3(bytes.len() as u32);
    area.resize(0x20, 0);
    area.extend(entry_point_2(bytes.len() as u16, count, longest));
    area.resize((STRUCTURES - TABLES) as usize, 0);
    area.extend(bytes);
    area
}

fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte))
}

/// Section 5.2.2.
fn entry_point_3(length: u32) -> Vec<u8> {
    let mut point = b"_SM3_".to_vec();
    point.extend([0, 0x18, 3, 6, 0, 1, 0]);
    point.extend(length.to_le_bytes());
    point.extend(STRUCTURES.to_le_bytes());
    let sum = checksum(&point);
    point.splice(5..6, [sum]);
    point
}

/// Section 5.2.1.
fn entry_point_2(length: u16, count: u16, longest: u16) -> Vec<u8> {
    let mut inner = b"_DMI_\0".to_vec();
    inner.extend(length.to_le_bytes());
    inner.extend((STRUCTURES as u32).to_le_bytes());
    inner.extend(count.to_le_bytes());
    inner.push(0x28);
    let sum = checksum(&inner);
    inner.splice(5..6, [sum]);
    let mut point = b"_SM_".to_vec();
    point.extend([0, 0x1f, 2, 8]);
    point.extend(longest.to_le_bytes());
    point.extend([0; 6]);
    point.extend(inner);
    let sum = checksum(&point);
    point.splice(4..5, [sum]);
    point
}

/// Structures in the making.
#[derive(Debug, Default)]
struct Structures {
    bytes: Vec<u8>,
    count: u16,
    longest: u16,
}

impl Structures {
    /// Adds a structure with its handle and strings; no string is empty.
    fn add(&mut self, kind: u8, handle: u16, fields: &[u8], strings: &[&str]) {
        let start = self.bytes.len();
        self.bytes.extend([kind, fields.len() as u8 + 4]);
        self.bytes.extend(handle.to_le_bytes());
        self.bytes.extend(fields);
        for string in strings {
            self.bytes.extend(string.as_bytes());
            self.bytes.push(0);
        }
        self.bytes.extend(if strings.is_empty() { &[0, 0][..] } else { &[0] });
        self.count += 1;
        self.longest = self.longest.max((self.bytes.len() - start) as u16);
    }
}

const CHASSIS: u16 = 0x300;
const PROCESSORS: u16 = 0x400;
const MEMORY: u16 = 0x1000;
const MODULES: u16 = 0x1100;
const RANGES: u16 = 0x1300;

impl Identity {
    fn put(&self, all: &mut Structures) {
        self.put_system(all);
        for (number, package) in (0u16..).zip(&self.packages) {
            self.put_processor(all, number, *package);
        }
        self.put_memory(all);
        // System boot status: no error.
        all.add(32, 0x2000, &[0, 0, 0, 0, 0, 0, 0], &[]);
        all.add(127, 0x7f00, &[], &[]);
    }

    fn put_system(&self, all: &mut Structures) {
        // Firmware: its characteristics are not supported; a virtual machine's.
        let segment = (TABLES >> 4) as u16;
        let mut fields = vec![1, 2];
        fields.extend(segment.to_le_bytes());
        fields.extend([3, 0]);
        fields.extend((1u64 << 3).to_le_bytes());
        const ACPI: u8 = 1;
        const VIRTUAL_MACHINE: u8 = 1 << 4;
        fields.extend([ACPI, VIRTUAL_MACHINE, 0xff, 0xff, 0xff, 0xff, 0, 0]);
        all.add(0, 0, &fields, &[MAKER, VERSION, DATE]);

        let [b0, b1, b2, b3, b4, b5, b6, b7, rest @ ..] = uuid(&self.frame, &self.name).to_be_bytes();
        let mut fields = vec![1, 2, 3, 4];
        // The first three fields are little-endian (section 7.2.1).
        fields.extend([b3, b2, b1, b0, b5, b4, b7, b6]);
        fields.extend(rest);
        const POWER_SWITCH: u8 = 6;
        fields.extend([POWER_SWITCH, 5, 6]);
        let serial = self.id.to_string();
        all.add(1, 1, &fields, &[MAKER, "Logical Partition", VERSION, &serial, &self.name, &self.frame]);

        const OTHER: u8 = 1;
        const SAFE: u8 = 3;
        let fields = [1, OTHER, 2, 3, 4, SAFE, SAFE, SAFE, 2, 0, 0, 0, 0, 0, 0, 0, 0, 5];
        all.add(3, CHASSIS, &fields, &[MAKER, VERSION, &self.frame, &self.name, "Frame"]);
    }

    fn put_processor(&self, all: &mut Structures, number: u16, (cores, threads): (u32, u32)) {
        const CENTRAL: u8 = 3;
        const SEE_FAMILY_2: u8 = 0xfe;
        const UNKNOWN: u8 = 2;
        const ENABLED: u8 = 0x41;
        const BITS_64: u16 = 1 << 2;
        let small = |count: u32| u8::try_from(count).unwrap_or(0xff);
        let wide = |count: u32| u16::try_from(count).unwrap_or(u16::MAX).to_le_bytes();
        let mut fields = vec![1, CENTRAL, SEE_FAMILY_2, 2];
        for word in self.signature {
            fields.extend(word.to_le_bytes());
        }
        // Version, voltage; clocks and speeds are not known.
        fields.extend([3, 0, 0, 0, 0, 0, 0, 0, ENABLED, UNKNOWN]);
        for _cache in 1..=3 {
            fields.extend(NOT_PROVIDED.to_le_bytes());
        }
        fields.extend([0, 0, 0, small(cores), small(cores), small(threads)]);
        fields.extend(BITS_64.to_le_bytes());
        fields.extend(u16::from(UNKNOWN).to_le_bytes());
        for count in [cores, cores, threads] {
            fields.extend(wide(count));
        }
        let brand = if self.brand.is_empty() { "Virtual processor" } else { &self.brand };
        all.add(4, PROCESSORS + number, &fields, &[&format!("CPU {number}"), MAKER, brand]);
    }

    fn put_memory(&self, all: &mut Structures) {
        const BOARD: u8 = 3;
        const SYSTEM: u8 = 3;
        const UNKNOWN: u8 = 2;
        const IN_EXTENDED: u32 = 0x8000_0000;
        let total = self.nodes.iter().fold(0u64, |sum, (_, bytes)| sum.saturating_add(*bytes));
        let kib = u32::try_from(total / KIB).ok().filter(|kib| *kib < IN_EXTENDED);
        let mut fields = vec![BOARD, SYSTEM, UNKNOWN];
        fields.extend(kib.unwrap_or(IN_EXTENDED).to_le_bytes());
        fields.extend(NO_HANDLE.to_le_bytes());
        fields.extend((self.nodes.len() as u16).to_le_bytes());
        fields.extend(if kib.is_some() { 0 } else { total }.to_le_bytes());
        all.add(16, MEMORY, &fields, &[]);
        for (index, &(node, bytes)) in (0u16..).zip(&self.nodes) {
            put_module(all, index, node, bytes);
        }
        for (index, &(start, bytes)) in (0u16..).zip(&self.ranges) {
            let last = start.saturating_add(bytes) / KIB - 1;
            let short = u32::try_from(start / KIB).ok().zip(u32::try_from(last).ok());
            let mut fields = Vec::new();
            let (first_kib, last_kib) = short.filter(|(_, last)| *last < u32::MAX).unwrap_or((u32::MAX, u32::MAX));
            fields.extend(first_kib.to_le_bytes());
            fields.extend(last_kib.to_le_bytes());
            fields.extend(MEMORY.to_le_bytes());
            fields.push(1);
            let extended = if first_kib == u32::MAX { [start, start.saturating_add(bytes) - 1] } else { [0, 0] };
            for word in extended {
                fields.extend(word.to_le_bytes());
            }
            all.add(19, RANGES + index, &fields, &[]);
        }
    }
}

fn put_module(all: &mut Structures, index: u16, node: u32, bytes: u64) {
    const IN_EXTENDED: u16 = 0x7fff;
    const IN_KIB: u16 = 0x8000;
    const DIMM: u8 = 9;
    const RAM: u8 = 7;
    const OTHER: u16 = 1 << 1;
    let mib = bytes / MIB;
    let (size, extended) = match u16::try_from(mib).ok().filter(|mib| *mib < IN_EXTENDED) {
        Some(_) if !bytes.is_multiple_of(MIB) && bytes / KIB < u64::from(IN_KIB) => ((bytes / KIB) as u16 | IN_KIB, 0),
        Some(mib) => (mib, 0),
        None => (IN_EXTENDED, u32::try_from(mib).unwrap_or(u32::MAX) & 0x7fff_ffff),
    };
    let mut fields = Vec::new();
    for word in [MEMORY, NO_HANDLE, NOT_PROVIDED, NOT_PROVIDED, size] {
        fields.extend(word.to_le_bytes());
    }
    fields.extend([DIMM, 0, 1, 2, RAM]);
    fields.extend(OTHER.to_le_bytes());
    // Speed is not known; the maker; no serial number, asset tag, part number; ranks are not known.
    fields.extend([0, 0, 3, 0, 0, 0, 0]);
    fields.extend(extended.to_le_bytes());
    // Configured speed and voltages are not known.
    fields.extend([0; 8]);
    all.add(17, MODULES + index, &fields, &[&format!("DIMM {index}"), &format!("Node {node}"), MAKER]);
}

#[cfg(test)]
mod tests;
