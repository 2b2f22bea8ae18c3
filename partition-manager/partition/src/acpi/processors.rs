//! Processors and nodes: MADT, SRAT, SLIT, and the processors' objects.

use super::{OEM, OEM_REVISION, OEM_TABLE};
use crate::layout::Slot;
use acpi_tables::sdt::Sdt;
use acpi_tables::{Aml, AmlSink as _, aml};
use frame::launch::{InterruptMode, LaunchSpec, Place};
use frame::platform::{IOAPIC_BASE, LAPIC_BASE, SCI_GSI};
use frame::topology::ApicLayout;

/// The I/O APIC's identifier. Its own name space: it does not clash with processors.
const IOAPIC_ID: u8 = 0;
/// First identifier that only the structures of the x2APIC can hold.
const FIRST_X2APIC: u32 = 255;
const ENABLED: u32 = 1;

/// What the tables tell of processors and memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Each processor's local APIC identifier and node.
    pub processors: Vec<(u32, u32)>,
    /// Memory: first address, bytes, node.
    pub memory: Vec<(u64, u64, u32)>,
    /// How many nodes there are, at least one.
    pub nodes: u32,
    /// Whether there are 8259s.
    pub has_8259: bool,
    /// Whether there is a power management timer.
    pub has_pm_timer: bool,
    /// Whether there is a panic device.
    pub has_panic_device: bool,
    /// Distance from each node to each, row by row; empty when not known.
    pub distances: Vec<u8>,
}

impl Machine {
    /// The machine of a specification that was validated, with its memory at `slots`.
    #[must_use]
    pub fn of(spec: &LaunchSpec, slots: &[Slot]) -> Self {
        let places: Vec<Place> = spec.processors.iter().map(|processor| processor.place).collect();
        let layout = ApicLayout::of(&places).unwrap_or(ApicLayout { thread_bits: 0, core_bits: 0 });
        let nodes = &spec.topology.nodes;
        let node = |slot: &Slot| {
            let host = spec.memory.get(slot.node).map(|range| range.node);
            nodes.iter().position(|node| Some(*node) == host).unwrap_or(0) as u32
        };
        Self {
            processors: places.iter().map(|place| (layout.id(*place), place.node)).collect(),
            memory: slots.iter().map(|slot| (slot.start, slot.bytes, node(slot))).collect(),
            nodes: nodes.len().max(1) as u32,
            has_8259: spec.interrupt_mode == InterruptMode::Kernel,
            has_pm_timer: spec.interrupt_mode == InterruptMode::Emulated,
            has_panic_device: spec.panic_device,
            distances: spec.topology.distances.clone(),
        }
    }
}

fn table(signature: &[u8; 4], revision: u8, body: &[u8]) -> Sdt {
    let mut table = Sdt::new(*signature, 36, revision, OEM, OEM_TABLE, OEM_REVISION);
    table.append_slice(body);
    table
}

/// Interrupt controllers (section 5.2.12). Interrupts are wired one to one, except that the SCI is held
/// high, which the ISA default of a pulse does not say. Every processor takes NMIs on LINT1.
pub(super) fn madt(machine: &Machine) -> Sdt {
    const ACTIVE_HIGH_LEVEL: u16 = 1 | 3 << 2;
    const LINT1: u8 = 1;
    let mut body = Vec::new();
    body.dword(LAPIC_BASE as u32);
    // The 8259s that come with KVM's I/O APIC answer on their ports, so a guest must mask them.
    body.dword(machine.has_8259.into());
    for (number, &(id, _)) in (0u32..).zip(&machine.processors) {
        if id < FIRST_X2APIC {
            body.vec(&[0, 8, number as u8, id as u8]);
            body.dword(ENABLED);
        } else {
            body.vec(&[9, 16, 0, 0]);
            body.dword(id);
            body.dword(ENABLED);
            body.dword(number);
        }
    }
    body.vec(&[1, 12, IOAPIC_ID, 0]);
    body.dword(IOAPIC_BASE as u32);
    body.dword(0);
    body.vec(&[2, 10, 0, SCI_GSI as u8]);
    body.dword(SCI_GSI);
    body.word(ACTIVE_HIGH_LEVEL);
    body.vec(&[4, 6, 0xff, 0, 0, LINT1]);
    if machine.processors.iter().any(|&(id, _)| id >= FIRST_X2APIC) {
        body.vec(&[10, 12, 0, 0]);
        body.dword(u32::MAX);
        body.vec(&[LINT1, 0, 0, 0]);
    }
    table(b"APIC", 5, &body)
}

/// Which node each processor and each range of memory belongs to (section 5.2.16).
pub(super) fn srat(machine: &Machine) -> Sdt {
    let mut body = Vec::new();
    // Reserved: 1 for older readers, then nothing.
    body.dword(1);
    body.qword(0);
    for &(id, node) in &machine.processors {
        if id < FIRST_X2APIC {
            let [lowest, rest @ ..] = node.to_le_bytes();
            body.vec(&[0, 16, lowest, id as u8]);
            body.dword(ENABLED);
            body.byte(0);
            body.vec(&rest);
            body.dword(0);
        } else {
            body.vec(&[2, 24, 0, 0]);
            body.dword(node);
            body.dword(id);
            body.dword(ENABLED);
            body.qword(0);
        }
    }
    for &(start, bytes, node) in &machine.memory {
        body.vec(&[1, 40]);
        body.dword(node);
        body.word(0);
        body.qword(start);
        body.qword(bytes);
        body.dword(0);
        body.dword(ENABLED);
        body.qword(0);
    }
    table(b"SRAT", 3, &body)
}

/// How far nodes are from each other (section 5.2.17).
pub(super) fn slit(machine: &Machine) -> Sdt {
    let mut body = Vec::new();
    body.qword(machine.nodes.into());
    body.vec(&machine.distances);
    table(b"SLIT", 1, &body)
}

/// The processors' objects (section 8.4.2), to which the MADT's numbers refer.
pub(super) fn objects(machine: &Machine, sink: &mut Vec<u8>) {
    let devices: Vec<Vec<u8>> = (0u32..).zip(&machine.processors).map(|(number, _)| object(number)).collect();
    let devices: Vec<Object> = devices.into_iter().map(Object).collect();
    aml::Scope::new("_SB_".into(), devices.iter().map(|device| device as &dyn Aml).collect()).to_aml_bytes(sink);
}

fn object(number: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    aml::Device::new(
        format!("C{number:03}").as_str().into(),
        vec![&aml::Name::new("_HID".into(), &"ACPI0007"), &aml::Name::new("_UID".into(), &number)],
    )
    .to_aml_bytes(&mut bytes);
    bytes
}

/// An object that is bytes already.
struct Object(Vec<u8>);

impl Aml for Object {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn number(bytes: &[u8], at: usize, length: usize) -> u64 {
        bytes[at..at + length].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    fn bytes_of(table: &Sdt) -> Vec<u8> {
        let bytes = table.as_slice().to_vec();
        assert_eq!(bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0, "checksum");
        assert_eq!(number(&bytes, 4, 4), bytes.len() as u64);
        bytes
    }

    /// The structures of a table from `at` on: kind and bytes.
    fn structures(table: &[u8], mut at: usize) -> Vec<(u8, Vec<u8>)> {
        let mut all = vec![];
        while at < table.len() {
            let length = usize::from(table[at + 1]);
            assert!(length > 1, "a structure of no length");
            all.push((table[at], table[at..at + length].to_vec()));
            at += length;
        }
        assert_eq!(at, table.len());
        all
    }

    proptest! {
        #[test]
        fn processors_and_memory_are_in_both_tables(
            ids in proptest::collection::btree_set(0u32..4096, 1..=64),
            memory in proptest::collection::vec((1u64..1 << 20, 0u32..64), 1..64),
        ) {
            let ids: Vec<u32> = ids.into_iter().collect();
            let processors: Vec<(u32, u32)> = ids.iter().map(|id| (*id, id % 64)).collect();
            let memory: Vec<(u64, u64, u32)> =
                (0u64..).zip(memory).map(|(at, (pages, node))| (at << 32, pages << 12, node)).collect();
            let machine =
                Machine { processors: processors.clone(), memory: memory.clone(), nodes: 64, has_8259: true, has_pm_timer: false, has_panic_device: true, distances: vec![10; 4096] };
            let mut told = vec![];
            for (kind, entry) in structures(&bytes_of(&madt(&machine)), 44) {
                let field = |at, length| number(&entry, at, length);
                match kind {
                    0 => told.push((field(2, 1), field(3, 1))),
                    9 => told.push((field(12, 4), field(4, 4))),
                    _ => {}
                }
            }
            let expected: Vec<(u64, u64)> = (0u64..).zip(&ids).map(|(at, id)| (at, u64::from(*id))).collect();
            prop_assert_eq!(told, expected);
            let (mut of_processors, mut of_memory) = (vec![], vec![]);
            for (kind, entry) in structures(&bytes_of(&srat(&machine)), 48) {
                let field = |at, length| number(&entry, at, length);
                match kind {
                    0 => of_processors.push((field(3, 1) as u32, (field(2, 1) | field(9, 3) << 8) as u32)),
                    2 => of_processors.push((field(8, 4) as u32, field(4, 4) as u32)),
                    _ => of_memory.push((field(8, 8), field(16, 8), field(2, 4) as u32)),
                }
                prop_assert_eq!(field(match kind { 0 => 4, 1 => 28, _ => 12 }, 4) & 1, 1, "enabled");
            }
            prop_assert_eq!(of_processors, processors);
            prop_assert_eq!(of_memory, memory);
            prop_assert_eq!(bytes_of(&slit(&machine)).len(), 44 + 4096);
        }
    }

    #[test]
    fn every_processor_has_an_object() {
        let machine = Machine {
            processors: (0..64).map(|id| (id, 0)).collect(),
            memory: vec![],
            nodes: 1,
            has_8259: true,
            has_pm_timer: false,
            has_panic_device: false,
            distances: vec![],
        };
        let mut bytes = Vec::new();
        objects(&machine, &mut bytes);
        assert_eq!(bytes.windows(8).filter(|window| window == b"ACPI0007").count(), 64);
        assert!(bytes.windows(4).any(|window| window == b"C063"));
    }
}
