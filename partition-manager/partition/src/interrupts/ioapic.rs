//! An I/O APIC of 24 pins and version 0x20: the 82093AA with the EOI register that later ones have. Pure.
//!
//! Sources: Intel 82093AA data sheet, sections 3.1 and 3.2; the EOI register: Intel ICH9 data sheet, section 13.5.5.

use super::message::{Delivery, Interrupt};
use serde::{Deserialize, Serialize};

/// Pins.
pub const PINS: usize = 24;
/// Bytes of its registers' page.
pub const BYTES: u64 = 0x1000;

/// Offsets of the registers.
const SELECT: u64 = 0x00;
const WINDOW: u64 = 0x10;
const EOI: u64 = 0x40;
/// Registers behind the window.
const ID: u8 = 0;
const VERSION: u8 = 1;
const ARBITRATION: u8 = 2;
const FIRST_ENTRY: u8 = 0x10;

/// Bits of a redirection entry (section 3.2.4).
const LOGICAL: u64 = 1 << 11;
const REMOTE_IRR: u64 = 1 << 14;
const LEVEL: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;
/// Bits that a guest can set. Polarity is kept, but every pin is active while it is raised.
const WRITABLE: u64 = 0xff00_0000_0001_afff;

/// Where interrupts go.
pub type Send<'to> = &'to mut dyn FnMut(Interrupt) -> bool;

/// The state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ioapic {
    select: u8,
    id: u8,
    entries: [u64; PINS],
    /// Pins that are raised, a bit each.
    raised: u32,
}

impl Default for Ioapic {
    fn default() -> Self {
        Self { select: 0, id: 0, entries: [MASKED; PINS], raised: 0 }
    }
}

impl Ioapic {
    /// Reads the register at `offset` of the page.
    #[must_use]
    pub fn read(&self, offset: u64) -> u32 {
        match offset {
            SELECT => self.select.into(),
            WINDOW => match self.select {
                ID | ARBITRATION => u32::from(self.id) << 24,
                VERSION => 0x20 | (PINS as u32 - 1) << 16,
                register => self.half(register).map_or(0, |(entry, high)| {
                    let entry = self.entries.get(entry).copied().unwrap_or_default();
                    (if high { entry >> 32 } else { entry }) as u32
                }),
            },
            _ => 0,
        }
    }

    /// Writes the register at `offset` of the page. What that sends is sent. Gives the pins, a bit each, of which a
    /// level-triggered interrupt ended.
    pub fn write(&mut self, offset: u64, value: u32, send: Send<'_>) -> u32 {
        match offset {
            SELECT => self.select = value as u8,
            WINDOW if self.select == ID => self.id = (value >> 24 & 0xf) as u8,
            WINDOW => {
                if let Some((pin, high)) = self.half(self.select)
                    && let Some(entry) = self.entries.get_mut(pin)
                {
                    let shift = if high { 32 } else { 0 };
                    let writable = (0xffff_ffff << shift) & WRITABLE;
                    *entry = *entry & !writable | u64::from(value) << shift & writable;
                    if *entry & LEVEL == 0 {
                        // How drivers for older versions end an interrupt: to edge and back.
                        *entry &= !REMOTE_IRR;
                    }
                    self.service(pin, send);
                }
            }
            EOI => return self.end(value as u8, send),
            _ => {}
        }
        0
    }

    /// Which pin's entry a register belongs to, and whether it is the higher half.
    fn half(&self, register: u8) -> Option<(usize, bool)> {
        let half = register.checked_sub(FIRST_ENTRY)?;
        let pin = usize::from(half / 2);
        (pin < PINS).then_some((pin, half % 2 != 0))
    }

    /// Raises or lowers `pin`. `true` when that sent an interrupt which was not pending already.
    pub fn set(&mut self, pin: usize, high: bool, send: Send<'_>) -> bool {
        if pin >= PINS {
            return false;
        }
        let bit = 1 << pin;
        let before = self.raised & bit != 0;
        self.raised = if high { self.raised | bit } else { self.raised & !bit };
        let Some(&entry) = self.entries.get(pin) else { return false };
        if entry & LEVEL != 0 {
            return self.service(pin, send);
        }
        // An edge at a pin that is masked is ignored, not kept (section 3.2.4, interrupt mask).
        high && !before && entry & MASKED == 0 && interrupt(entry).is_some_and(send)
    }

    /// Sends the level-triggered interrupt of `pin`, if one is due.
    fn service(&mut self, pin: usize, send: Send<'_>) -> bool {
        let raised = self.raised & 1 << pin != 0;
        let Some(entry) = self.entries.get_mut(pin) else { return false };
        if *entry & LEVEL == 0 || *entry & (MASKED | REMOTE_IRR) != 0 || !raised {
            return false;
        }
        let Some(interrupt) = interrupt(*entry) else { return false };
        // Only what has a vector has an end; the others are sent once for each change.
        if interrupt.delivery.has_vector() {
            *entry |= REMOTE_IRR;
        }
        send(interrupt)
    }

    /// A processor ended the interrupt with `vector`: those of its pins that are still raised send it again. Gives
    /// the pins, a bit each, of which it was the end.
    pub fn end(&mut self, vector: u8, send: Send<'_>) -> u32 {
        let mut ended = 0;
        for pin in 0..PINS {
            if let Some(entry) = self.entries.get_mut(pin)
                && *entry as u8 == vector
                && *entry & REMOTE_IRR != 0
            {
                *entry &= !REMOTE_IRR;
                ended |= 1 << pin;
                self.service(pin, send);
            }
        }
        ended
    }

    /// What each pin sends, those that are masked too, and of nothing that does not exist.
    pub fn interrupts(&self) -> impl Iterator<Item = (usize, Interrupt)> {
        self.entries.iter().enumerate().filter_map(|(pin, entry)| interrupt(*entry).map(|sent| (pin, sent)))
    }

    /// An I/O APIC that is programmed so.
    #[must_use]
    pub fn programmed(entries: [u64; PINS]) -> Self {
        Self { entries, ..Self::default() }
    }

    /// What `pin` sends when it is raised; nothing while it is masked, or when it does not exist.
    #[must_use]
    pub fn route(&self, pin: usize) -> Option<Interrupt> {
        let entry = self.entries.get(pin).filter(|entry| *entry & MASKED == 0)?;
        interrupt(*entry)
    }

    /// Whether `pin` is masked; a pin that does not exist is.
    #[must_use]
    pub fn is_masked(&self, pin: usize) -> bool {
        self.entries.get(pin).is_none_or(|entry| entry & MASKED != 0)
    }
}

/// What an entry sends (section 3.2.4). NMI and INIT are always edges.
fn interrupt(entry: u64) -> Option<Interrupt> {
    let delivery = Delivery::of((entry >> 8) as u32).filter(|delivery| *delivery != Delivery::Startup)?;
    Some(Interrupt {
        vector: entry as u8,
        delivery,
        level: entry & LEVEL != 0 && delivery.has_vector(),
        destination: (entry >> 56) as u8,
        logical: entry & LOGICAL != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn program(ioapic: &mut Ioapic, pin: u8, low: u32) -> Vec<Interrupt> {
        let mut sent = vec![];
        let mut send = |interrupt| {
            sent.push(interrupt);
            true
        };
        let _ = ioapic.write(SELECT, (FIRST_ENTRY + 2 * pin).into(), &mut send);
        let _ = ioapic.write(WINDOW, low, &mut send);
        sent
    }

    #[test]
    fn a_guest_reads_what_it_is() {
        let mut ioapic = Ioapic::default();
        assert_eq!(ioapic.write(SELECT, 1, &mut |_| true), 0);
        assert_eq!(ioapic.read(WINDOW), 0x0017_0020);
        let _ = ioapic.write(SELECT, 0x10 + 2 * 23 + 1, &mut |_| true);
        let _ = ioapic.write(WINDOW, u32::MAX, &mut |_| true);
        assert_eq!(ioapic.read(WINDOW), 0xff00_0000);
        let _ = ioapic.write(SELECT, 0x10 + 2 * 24, &mut |_| true);
        let _ = ioapic.write(WINDOW, u32::MAX, &mut |_| true);
        assert_eq!(ioapic.read(WINDOW), 0);
    }

    #[test]
    fn a_level_comes_again_after_its_end_while_it_is_high() {
        let mut ioapic = Ioapic::default();
        assert!(program(&mut ioapic, 9, 0x59 | LEVEL as u32).is_empty());
        let mut count = 0;
        let mut send = |_| {
            count += 1;
            true
        };
        assert!(ioapic.set(9, true, &mut send));
        assert!(!ioapic.set(9, true, &mut send), "remote IRR holds it back");
        assert_eq!(ioapic.end(0x58, &mut send), 0);
        assert_eq!(ioapic.end(0x59, &mut send), 1 << 9);
        assert!(!ioapic.set(9, false, &mut send));
        assert_eq!(ioapic.write(EOI, 0x59, &mut send), 1 << 9);
        assert_eq!(ioapic.end(0x59, &mut send), 0);
        assert_eq!(count, 2);
    }

    #[test]
    fn switching_to_edge_and_back_ends_an_interrupt() {
        let mut ioapic = Ioapic::default();
        let low = 0x59 | LEVEL as u32;
        assert!(program(&mut ioapic, 9, low).is_empty());
        assert!(ioapic.set(9, true, &mut |_| true));
        assert!(program(&mut ioapic, 9, low).is_empty());
        assert!(program(&mut ioapic, 9, 0x59).is_empty());
        assert_eq!(program(&mut ioapic, 9, low).len(), 1);
    }

    /// What the specification says of one pin.
    #[derive(Default)]
    struct Model {
        raised: bool,
        remote_irr: bool,
    }

    proptest! {
        #[test]
        fn remote_irr_holds_a_level_back_and_edges_count_once(
            steps in proptest::collection::vec((0u8..5, any::<bool>()), 0..200),
        ) {
            let mut ioapic = Ioapic::default();
            let mut model = Model::default();
            let (mut level, mut masked, mut sent, mut due) = (false, true, 0, 0);
            for (step, flag) in steps {
                match step {
                    0 => {
                        let edge = flag && !model.raised && !level && !masked;
                        model.raised = flag;
                        due += u32::from(edge);
                        ioapic.set(5, flag, &mut |_| { sent += 1; true });
                    }
                    1 => {
                        prop_assert_eq!(ioapic.end(0x45, &mut |_| { sent += 1; true }) != 0, model.remote_irr);
                        model.remote_irr = false;
                    }
                    _ => {
                        if step == 2 { level = flag } else { masked = flag }
                        model.remote_irr &= level;
                        let low = 0x45 | u32::from(level) << 15 | u32::from(masked) << 16;
                        sent += program(&mut ioapic, 5, low).len() as u32;
                    }
                }
                if level && !masked && model.raised && !model.remote_irr {
                    model.remote_irr = true;
                    due += 1;
                }
                prop_assert_eq!(sent, due);
                let _ = ioapic.write(SELECT, 0x1a, &mut |_| true);
                prop_assert_eq!(ioapic.read(WINDOW) >> 14 & 1 != 0, model.remote_irr);
            }
        }

        #[test]
        fn no_access_is_too_odd(
            steps in proptest::collection::vec((0u8..4, 0u64..0x1000, any::<u32>()), 0..200),
        ) {
            let mut ioapic = Ioapic::default();
            for (step, offset, value) in steps {
                let mut sent = 0;
                let mut send = |_| { sent += 1; true };
                match step {
                    0 => { let _ = ioapic.write(offset & 0x50, value, &mut send); }
                    1 => { let _ = ioapic.write(offset, value, &mut send); }
                    2 => { ioapic.set(value as usize % 40, offset % 2 == 0, &mut send); }
                    _ => { let _ = ioapic.end(value as u8, &mut send); }
                }
                prop_assert!(sent <= PINS);
                let _ = (ioapic.read(offset), ioapic.read(WINDOW));
                let text = serde_json::to_string(&ioapic).unwrap();
                prop_assert_eq!(serde_json::from_str::<Ioapic>(&text).unwrap(), ioapic.clone());
            }
        }
    }
}
