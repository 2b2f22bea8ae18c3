//! The interrupt controllers that run in the partition's process.

use crate::Bytes;
use partition::interrupts::ioapic::Ioapic;
use partition::interrupts::lapic::Lapic;
use partition::interrupts::message::{Delivery, Interrupt};

/// Ways of delivery, as an interrupt command or a redirection entry names them (Intel SDM, volume 3, 12.6.1).
const DELIVERIES: u8 = 8;

/// Nanoseconds that no host is up for: 146 years.
const FOREVER: u64 = 1 << 62;

fn interrupt(bytes: &mut Bytes<'_>) -> Option<Interrupt> {
    let flags = bytes.byte();
    let delivery = Delivery::of((flags % DELIVERIES).into())?;
    Some(Interrupt {
        vector: bytes.byte(),
        delivery,
        level: flags & 8 != 0,
        destination: bytes.byte(),
        logical: flags & 16 != 0,
    })
}

/// A local APIC: any register accesses, interrupts and times.
pub fn local_apic(bytes: &[u8]) {
    let mut bytes = Bytes::new(bytes);
    let mut apic = Lapic::new(bytes.byte());
    let mut now = 0u64;
    while !bytes.is_empty() {
        let choice = bytes.byte();
        match choice % 12 {
            0 => drop(apic.read(u64::from(bytes.half()), now)),
            1..=3 => drop(apic.write(u64::from(bytes.byte()) << 4, bytes.word(), now)),
            4 => drop(apic.write(u64::from(bytes.half()), bytes.word(), now)),
            5 | 6 => {
                if let Some(interrupt) = interrupt(&mut bytes) {
                    apic.accept(interrupt);
                }
            }
            7 => {
                let vector = apic.deliverable();
                let priority = apic.processor_priority();
                assert!(vector.is_none_or(|vector| vector >> 4 > priority >> 4), "{vector:?} beside {priority:#x}");
                assert_eq!(apic.acknowledge(), vector, "another vector was acknowledged than was deliverable");
            }
            8 => {
                now = (now + (bytes.long() >> (8 + (choice >> 4)))).min(FOREVER);
                apic.advance(now);
                assert!(apic.deadline().is_none_or(|deadline| deadline > now), "a deadline has passed");
            }
            9 => apic.raise(bytes.byte()),
            10 => {
                let _ = (apic.take_nmi(), apic.take_init(), apic.take_startup());
            }
            _ => apic.switch(choice & 0x80 != 0),
        }
    }
}

/// An I/O APIC: any register accesses, levels and ends of interrupts.
pub fn io_apic(bytes: &[u8]) {
    let mut bytes = Bytes::new(bytes);
    let mut apic = Ioapic::default();
    while !bytes.is_empty() {
        let choice = bytes.byte();
        let mut sent = 0;
        let mut send = |_: Interrupt| {
            sent += 1;
            choice & 0x80 == 0
        };
        match choice % 6 {
            0 => drop(apic.read(u64::from(bytes.half()))),
            1 => drop(apic.write(0, u32::from(bytes.byte()), &mut send)),
            2 => drop(apic.write(0x10, bytes.word(), &mut send)),
            3 => drop(apic.write(u64::from(bytes.half()), bytes.word(), &mut send)),
            4 => drop(apic.set(usize::from(bytes.byte() & 0x3f), choice & 0x40 != 0, &mut send)),
            _ => drop(apic.end(bytes.byte(), &mut send)),
        }
        assert!(sent <= 24, "one access sent {sent} interrupts");
    }
    assert!(apic.interrupts().count() <= 24, "there are more entries than pins");
}
