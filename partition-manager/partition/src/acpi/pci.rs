//! The PCI bus in the namespace (ACPI 6.5, section 6.2; PCI Firmware Specification 3.3, section 4.1).

use acpi_tables::{Aml, aml, mcfg::MCFG};
use frame::platform::{ECAM_BASE, PCI_APERTURE, PCI_APERTURE_BYTES, PCI_GSI, PCI_PINS, PCI_SLOTS};

use crate::devices::pci::root::{ADDRESS_PORT, ECAM_BYTES};

/// Where the enhanced configuration area of bus 0 is.
pub(super) fn mcfg(oem: [u8; 6], table: [u8; 8], revision: u32) -> MCFG {
    let mut mcfg = MCFG::new(oem, table, revision);
    mcfg.add_ecam(ECAM_BASE, 0, 0, 0);
    mcfg
}

/// The host bridge, the ways of the INTx pins, and the configuration area as a resource of the board.
pub(super) fn objects(body: &mut Vec<u8>) {
    let aperture_end = PCI_APERTURE + PCI_APERTURE_BYTES - 1;
    let routes: Vec<(u32, u32)> =
        (1..u32::from(PCI_SLOTS)).map(|slot| (slot << 16 | 0xffff, PCI_GSI + slot % PCI_PINS)).collect();
    let packages: Vec<aml::Package<'_>> =
        routes.iter().map(|(address, gsi)| aml::Package::new(vec![address, &aml::ZERO, &aml::ZERO, gsi])).collect();
    let routes = aml::Package::new(packages.iter().map(|package| package as &dyn Aml).collect());
    aml::Scope::new(
        "_SB_".into(),
        vec![
            &aml::Device::new(
                "PCI0".into(),
                vec![
                    &aml::Name::new("_HID".into(), &aml::EISAName::new("PNP0A08")),
                    &aml::Name::new("_CID".into(), &aml::EISAName::new("PNP0A03")),
                    &aml::Name::new("_UID".into(), &aml::ZERO),
                    &aml::Name::new("_SEG".into(), &aml::ZERO),
                    &aml::Name::new("_BBN".into(), &aml::ZERO),
                    &aml::Name::new("_PRT".into(), &routes),
                    &aml::Name::new(
                        "_CRS".into(),
                        &aml::ResourceTemplate::new(vec![
                            &aml::AddressSpace::new_bus_number(0u16, 0u16),
                            &aml::IO::new(ADDRESS_PORT, ADDRESS_PORT, 1, 8),
                            &aml::AddressSpace::new_memory(
                                aml::AddressSpaceCacheable::NotCacheable,
                                true,
                                PCI_APERTURE as u32,
                                aperture_end as u32,
                                None,
                            ),
                        ]),
                    ),
                ],
            ),
            &aml::Device::new(
                "MBRD".into(),
                vec![
                    &aml::Name::new("_HID".into(), &aml::EISAName::new("PNP0C02")),
                    &aml::Name::new("_UID".into(), &aml::ONE),
                    &aml::Name::new(
                        "_CRS".into(),
                        &aml::ResourceTemplate::new(vec![&aml::Memory32Fixed::new(
                            true,
                            ECAM_BASE as u32,
                            ECAM_BYTES as u32,
                        )]),
                    ),
                ],
            ),
        ],
    )
    .to_aml_bytes(body);
}
