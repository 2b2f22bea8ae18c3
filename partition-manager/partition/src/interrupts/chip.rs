//! The I/O APIC in user space, of the split and the emulated mode: its state, and where it sends.

use super::ioapic::{BYTES, Ioapic, PINS};
use super::message::Interrupt;
use super::{Pulse, lock};
use crate::devices::bus::Device;
use crate::devices::pm::Line;
use frame::record::Cause;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

/// Where an I/O APIC sends.
pub(super) trait Sink: Send + Sync + Debug {
    /// Sends an interrupt. `false` when that changed nothing.
    fn send(&self, interrupt: Interrupt) -> bool;

    /// A guest programmed the I/O APIC: called before what that sends is sent.
    fn programmed(&self, _: &Ioapic) {}
}

/// An I/O APIC in user space.
#[derive(Debug)]
pub(super) struct Chip {
    state: Mutex<Ioapic>,
    sink: Arc<dyn Sink>,
}

impl Chip {
    pub(super) fn new(sink: Arc<dyn Sink>) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), sink })
    }

    /// How it is programmed now.
    pub(super) fn state(&self) -> Ioapic {
        lock(&self.state).clone()
    }

    /// Raises or lowers a pin. What that sends is sent under the lock, so that a level and its end stay in order.
    fn set(&self, pin: u32, high: bool) {
        lock(&self.state).set(pin as usize, high, &mut |interrupt| self.sink.send(interrupt));
    }

    /// A processor ended the level-triggered interrupt with `vector`.
    pub(super) fn end(&self, vector: u8) {
        lock(&self.state).end(vector, &mut |interrupt| self.sink.send(interrupt));
    }
}

/// A pin of an I/O APIC in user space.
#[derive(Debug)]
pub(super) struct ChipPin {
    pub(super) chip: Arc<Chip>,
    pub(super) pin: u32,
}

impl Line for ChipPin {
    fn set(&self, high: bool) {
        self.chip.set(self.pin, high);
    }
}

impl Pulse for ChipPin {
    fn raise(&self) {
        self.chip.set(self.pin, true);
        self.chip.set(self.pin, false);
    }
}

/// Its registers take accesses of 32 bits at multiples of 16 (82093AA data sheet, section 3.1); of others, reads see the
/// bytes and writes are dropped.
impl Device for Chip {
    fn read(&self, offset: u64) -> u8 {
        let [byte, ..] = (lock(&self.state).read(offset & !0xf) >> (8 * (offset & 3))).to_le_bytes();
        if offset & 0xf < 4 { byte } else { 0 }
    }

    fn read_access(&self, offset: u64, data: &mut [u8]) {
        let word = lock(&self.state).read(offset & !0xf).to_le_bytes();
        let bytes = word.iter().copied().skip((offset & 0xf) as usize).chain(std::iter::repeat(0));
        data.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
    }

    fn write(&self, _: u64, _: u8) -> Option<Cause> {
        None
    }

    fn write_access(&self, offset: u64, bytes: &[u8]) -> Option<Cause> {
        let (Ok(word), true) = (<[u8; 4]>::try_from(bytes), offset.is_multiple_of(16) && offset < BYTES) else {
            return None;
        };
        let mut state = lock(&self.state);
        // At most one for each pin.
        let mut due = Vec::new();
        state.write(offset, u32::from_le_bytes(word), &mut |interrupt| {
            due.push(interrupt);
            due.len() <= PINS
        });
        self.sink.programmed(&state);
        for interrupt in due {
            self.sink.send(interrupt);
        }
        None
    }
}
