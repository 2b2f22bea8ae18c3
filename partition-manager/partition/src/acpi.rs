//! The ACPI tables that describe the partition to its guest (ACPI 6.5): nothing that is not there.

mod pci;
mod processors;

pub use processors::Machine;

use acpi_tables::facs::FACS;
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, aml};
use frame::platform::{
    CHANNEL_PORT, PANIC_PORT, PM_TIMER_PORT, PM1A_CONTROL_PORT, PM1A_EVENT_PORT, RESET_PORT, RESET_VALUE, RTC_GSI,
    SCI_GSI, SERIAL_GSI, SERIAL_PORT, SLEEP_TYPE_S5,
};

use crate::devices::rtc;

/// Where the tables begin: the root pointer, where a guest looks for it if nobody tells it
/// (ACPI 6.5, section 5.2.5.1).
pub const TABLES: u64 = 0xe_0000;
/// First address above the area that the tables may take.
pub const TABLES_END: u64 = 0xf_0000;

const OEM: [u8; 6] = *b"BLKHD ";
const OEM_TABLE: [u8; 8] = *b"BULKHEAD";
const OEM_REVISION: u32 = 1;
/// IA-PC boot architecture flags (section 5.2.9.3): there are ISA devices; there is neither VGA, nor PCI Express
/// power management, nor a keyboard controller.
const BOOT_ARCHITECTURE: u16 = 1 | 1 << 2 | 1 << 4;

/// The tables for `machine`, as bytes that belong at [`TABLES`].
#[must_use]
pub fn tables(machine: &Machine) -> Vec<u8> {
    let mut area = Area { bytes: vec![0; Rsdp::len()] };
    let facs = area.add(&FACS::new());
    let dsdt = area.add(&dsdt(machine));
    let fadt = area.add(&fadt(facs, dsdt, machine.has_pm_timer));
    let madt = area.add(&processors::madt(machine));
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    xsdt.add_entry(area.add(&pci::mcfg(OEM, OEM_TABLE, OEM_REVISION)));
    // One node needs no table: there is nothing that it could be told from.
    if machine.nodes > 1 {
        xsdt.add_entry(area.add(&processors::srat(machine)));
        if !machine.distances.is_empty() {
            xsdt.add_entry(area.add(&processors::slit(machine)));
        }
    }
    let xsdt = area.add(&xsdt);
    let root = bytes_of(&Rsdp::new(OEM, xsdt));
    area.bytes.splice(..root.len(), root);
    area.bytes
}

struct Area {
    bytes: Vec<u8>,
}

impl Area {
    /// Adds a table, aligned as the strictest of them, the FACS, wants it; gives its address.
    fn add(&mut self, table: &dyn Aml) -> u64 {
        self.bytes.resize(self.bytes.len().next_multiple_of(64), 0);
        let address = TABLES + self.bytes.len() as u64;
        table.to_aml_bytes(&mut self.bytes);
        address
    }
}

fn bytes_of(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

fn port(address: u16, bits: u8, access: AccessSize) -> GAS {
    GAS::new(AddressSpace::SystemIo, bits, 0, access, address.into())
}

/// Fixed hardware (section 5.2.9): always in ACPI mode, so there is no command port; a power button and no
/// sleep button; a timer only where a guest needs one, since the specification no longer asks for it; a reset register.
fn fadt(facs: u64, dsdt: u64, timer: bool) -> impl Aml {
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Headless);
    // Everything is below 4 GiB: both fields say the same, for old readers and new ones.
    fadt.firmware_ctrl = (facs as u32).into();
    fadt.dsdt = (dsdt as u32).into();
    fadt.x_dsdt = dsdt.into();
    fadt.sci_int = (SCI_GSI as u16).into();
    fadt.pm1a_evt_blk = u32::from(PM1A_EVENT_PORT).into();
    fadt.pm1a_cnt_blk = u32::from(PM1A_CONTROL_PORT).into();
    fadt.pm1_evt_len = 4;
    fadt.pm1_cnt_len = 2;
    fadt.x_pm1a_evt_blk = port(PM1A_EVENT_PORT, 32, AccessSize::WordAccess);
    fadt.x_pm1a_cnt_blk = port(PM1A_CONTROL_PORT, 16, AccessSize::WordAccess);
    if timer {
        fadt.pm_tmr_blk = u32::from(PM_TIMER_PORT).into();
        fadt.pm_tmr_len = 4;
        fadt.x_pm_tmr_blk = port(PM_TIMER_PORT, 32, AccessSize::DwordAccess);
    }
    // Latencies above these limits say that there are no C2 and C3 states.
    fadt.p_lvl2_lat = 101.into();
    fadt.p_lvl3_lat = 1001.into();
    fadt.century = rtc::CENTURY;
    fadt.iapc_boot_arch = BOOT_ARCHITECTURE.into();
    fadt.reset_reg = port(RESET_PORT, 8, AccessSize::ByteAccess);
    fadt.reset_value = RESET_VALUE;
    fadt.finalize()
}

/// What is not fixed hardware: soft off, the processors, the console, the communication channel, the clock.
fn dsdt(machine: &Machine) -> impl Aml {
    let soft_off = SLEEP_TYPE_S5 as u8;
    let mut body = Vec::new();
    aml::Name::new("_S5_".into(), &aml::Package::new(vec![&soft_off, &soft_off, &aml::ZERO, &aml::ZERO]))
        .to_aml_bytes(&mut body);
    processors::objects(machine, &mut body);
    pci::objects(&mut body);
    aml::Scope::new(
        "_SB_".into(),
        vec![
            &aml::Device::new(
                "COM1".into(),
                vec![
                    &aml::Name::new("_HID".into(), &aml::EISAName::new("PNP0501")),
                    &aml::Name::new("_UID".into(), &aml::ONE),
                    &aml::Name::new("_DDN".into(), &"COM1"),
                    &aml::Name::new(
                        "_CRS".into(),
                        &aml::ResourceTemplate::new(vec![
                            &aml::IO::new(SERIAL_PORT, SERIAL_PORT, 1, 8),
                            &aml::Interrupt::new(true, true, false, false, SERIAL_GSI),
                        ]),
                    ),
                ],
            ),
            &aml::Device::new(
                "CHNL".into(),
                vec![
                    &aml::Name::new("_HID".into(), &"BLKH0001"),
                    &aml::Name::new("_DDN".into(), &"Communication channel"),
                    &aml::Name::new(
                        "_CRS".into(),
                        &aml::ResourceTemplate::new(vec![&aml::IO::new(CHANNEL_PORT, CHANNEL_PORT, 1, 8)]),
                    ),
                ],
            ),
            &aml::Device::new(
                "RTC_".into(),
                vec![
                    &aml::Name::new("_HID".into(), &aml::EISAName::new("PNP0B00")),
                    &aml::Name::new(
                        "_CRS".into(),
                        &aml::ResourceTemplate::new(vec![
                            &aml::IO::new(rtc::INDEX_PORT, rtc::INDEX_PORT, 1, 2),
                            &aml::Interrupt::new(true, true, false, false, RTC_GSI),
                        ]),
                    ),
                ],
            ),
        ],
    )
    .to_aml_bytes(&mut body);
    if machine.has_panic_device {
        panic_device(&mut body);
    }
    let mut dsdt = Sdt::new(*b"DSDT", 36, 2, OEM, OEM_TABLE, OEM_REVISION);
    dsdt.append_slice(&body);
    dsdt
}

/// The panic device, by the identifier that guests have a driver for (QEMU, docs/specs/pvpanic.rst).
fn panic_device(body: &mut Vec<u8>) {
    aml::Scope::new(
        "_SB_".into(),
        vec![&aml::Device::new(
            "PEVT".into(),
            vec![
                &aml::Name::new("_HID".into(), &"QEMU0001"),
                &aml::Name::new(
                    "_CRS".into(),
                    &aml::ResourceTemplate::new(vec![&aml::IO::new(PANIC_PORT, PANIC_PORT, 1, 1)]),
                ),
            ],
        )],
    )
    .to_aml_bytes(body);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn number(bytes: &[u8], at: usize, length: usize) -> u64 {
        bytes[at..at + length].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    fn machine(processors: u32, nodes: u32) -> Machine {
        Machine {
            processors: (0..processors).map(|id| (id, id % nodes)).collect(),
            memory: (0..nodes).map(|node| (u64::from(node) << 30, 1 << 30, node)).collect(),
            nodes,
            has_8259: true,
            has_pm_timer: false,
            has_panic_device: true,
            distances: vec![10; (nodes * nodes) as usize],
        }
    }

    /// A table by its address, with its checksum proved.
    fn table(area: &[u8], address: u64) -> &[u8] {
        let at = usize::try_from(address - TABLES).unwrap();
        let table = &area[at..at + number(area, at + 4, 4) as usize];
        if &table[..4] != b"FACS" {
            assert_eq!(table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
        }
        table
    }

    proptest! {
        #[test]
        fn every_table_is_found_from_the_root_and_whole(processors in 1u32..=64, nodes in 1u32..=64) {
            let area = tables(&machine(processors, nodes));
            prop_assert!(TABLES + area.len() as u64 <= TABLES_END);
            prop_assert_eq!(&area[..8], b"RSD PTR ");
            prop_assert_eq!(area[..20].iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
            prop_assert_eq!(area[..36].iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
            let xsdt = table(&area, number(&area, 24, 8));
            prop_assert_eq!(&xsdt[..4], b"XSDT");
            let fadt = table(&area, number(xsdt, 36, 8));
            prop_assert_eq!(&fadt[..4], b"FACP");
            let facs = number(fadt, 36, 4);
            prop_assert_eq!(facs % 64, 0);
            prop_assert_eq!(&table(&area, facs)[..4], b"FACS");
            prop_assert_eq!(number(fadt, 40, 4), number(fadt, 140, 8));
            prop_assert_eq!(&table(&area, number(fadt, 40, 4))[..4], b"DSDT");
            prop_assert_eq!(number(fadt, 56, 4), u64::from(PM1A_EVENT_PORT));
            prop_assert_eq!(number(fadt, 64, 4), u64::from(PM1A_CONTROL_PORT));
            prop_assert_eq!(number(fadt, 48, 4), 0, "no command port");
            prop_assert_eq!(number(fadt, 112, 4) & 1 << 20, 0, "not hardware-reduced");
            let madt = table(&area, number(xsdt, 44, 8));
            prop_assert_eq!(&madt[..4], b"APIC");
            let mut at = 44;
            let mut found = 0;
            while at < madt.len() {
                found += u32::from(madt[at] == 0);
                prop_assert!(madt[at + 1] > 0);
                at += usize::from(madt[at + 1]);
            }
            prop_assert_eq!((found, at), (processors, madt.len()));
            let mcfg = table(&area, number(xsdt, 52, 8));
            prop_assert_eq!((&mcfg[..4], number(mcfg, 44, 8)), (&b"MCFG"[..], frame::platform::ECAM_BASE));
            let more: Vec<&[u8]> =
                (60..xsdt.len()).step_by(8).map(|at| &table(&area, number(xsdt, at, 8))[..4]).collect();
            prop_assert_eq!(more, if nodes > 1 { vec![b"SRAT", b"SLIT"] } else { vec![] });
        }
    }

    #[test]
    fn the_timer_is_told_of_where_it_is_and_nowhere_else() {
        for has_pm_timer in [false, true] {
            let area = tables(&Machine { has_pm_timer, ..machine(1, 1) });
            let fadt = table(&area, number(table(&area, number(&area, 24, 8)), 36, 8));
            // PM_TMR_BLK, PM_TMR_LEN and the address of X_PM_TMR_BLK (ACPI 6.5, table 5.9).
            let told = (number(fadt, 76, 4), number(fadt, 91, 1), number(fadt, 208 + 4, 8));
            let port = u64::from(PM_TIMER_PORT);
            assert_eq!(told, if has_pm_timer { (port, 4, port) } else { (0, 0, 0) });
        }
    }

    #[test]
    fn soft_off_is_the_type_that_the_control_block_takes() {
        let area = tables(&machine(1, 1));
        let at = area.windows(4).position(|window| window == b"_S5_").unwrap();
        // PackageOp, length, count, byte prefix, value.
        assert_eq!(&area[at + 4..at + 9], &[0x12, 8, 4, 0x0a, SLEEP_TYPE_S5 as u8]);
    }
}
