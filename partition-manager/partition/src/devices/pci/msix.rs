//! Message-signalled interrupts of one function: the MSI-X table and its pending bits (PCI Local Bus
//! Specification 3.0, section 6.8.2).

use super::storms::Guarded;
use crate::devices::lock;
use crate::interrupts::latency::Latency;
use frame::latency::Histogram;
use frame::storm::{Guard, Quarantine};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Identifier of the capability.
pub const CAPABILITY: u8 = 0x11;
/// Bytes of one entry of the table.
pub const ENTRY: usize = 16;
/// Most entries of one function here.
pub const MOST_VECTORS: u16 = 128;

/// Bits of the message control register, whose high byte is the second after the capability's header.
const ENABLE: u16 = 1 << 15;
const FUNCTION_MASK: u16 = 1 << 14;
/// Bit of an entry's vector control.
const MASK: u32 = 1;

/// What a function writes to interrupt a processor (Intel SDM, volume 3, section 11.11).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Address.
    pub address: u64,
    /// Data.
    pub data: u32,
}

/// The way of one vector to the partition's interrupt controllers.
pub trait Vector: Send + Sync + std::fmt::Debug {
    /// Where it leads from now on; nowhere when there is none.
    fn route(&self, message: Option<Message>);

    /// Sends the message.
    fn trigger(&self);

    /// Has the time from each message to its acknowledgement be counted in `latency`. False where that is not seen
    /// here.
    fn watch(&self, latency: &Arc<Latency>) -> bool {
        let _ = latency;
        false
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    message: Message,
    control: u32,
}

#[derive(Debug, Default)]
struct Table {
    entries: Vec<Entry>,
    control: u16,
}

/// One vector's state that device threads see without a lock.
#[derive(Debug)]
struct Line {
    vector: Box<dyn Vector>,
    open: AtomicBool,
    pending: AtomicBool,
    delivered: AtomicU64,
    held: AtomicU64,
    guard: Option<Guarded>,
    latency: Arc<Latency>,
    /// Whether the interrupt controllers count it.
    watched: bool,
}

/// What a vector does and did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// Where it leads; none while it is masked or off.
    pub message: Option<Message>,
    /// Whether it waits to be unmasked.
    pub pending: bool,
    /// Messages sent.
    pub delivered: u64,
    /// Times it was raised while it was masked.
    pub masked: u64,
    /// Times it was raised beyond its limit, and one with another that waited.
    pub coalesced: u64,
    /// Storms.
    pub storms: u64,
    /// Whether it is quarantined.
    pub quarantine: Quarantine,
    /// Time from messages to their acknowledgement, as far as it is known.
    pub latency: Histogram,
}

/// The MSI-X vectors of one function.
#[derive(Debug)]
pub struct Msix {
    table: Mutex<Table>,
    lines: Vec<Line>,
    enabled: AtomicBool,
}

impl Msix {
    /// A table of as many entries as there are vectors, at most [`MOST_VECTORS`]: all masked, as after reset.
    #[must_use]
    pub fn new(vectors: Vec<Box<dyn Vector>>) -> Self {
        Self::guarded(vectors, |_| None)
    }

    /// As [`Msix::new`], each vector with the guard that `guard` gives for its number.
    #[must_use]
    pub fn guarded(vectors: Vec<Box<dyn Vector>>, guard: impl Fn(u16) -> Option<Guarded>) -> Self {
        let line = |(vector, number): (Box<dyn Vector>, u16)| {
            let latency = Arc::new(Latency::default());
            Line {
                watched: vector.watch(&latency),
                latency,
                vector,
                open: AtomicBool::new(false),
                pending: AtomicBool::new(false),
                delivered: AtomicU64::new(0),
                held: AtomicU64::new(0),
                guard: guard(number),
            }
        };
        let lines: Vec<Line> = vectors.into_iter().zip(0..MOST_VECTORS).map(line).collect();
        let entries = vec![Entry { message: Message::default(), control: MASK }; lines.len()];
        Self { table: Mutex::new(Table { entries, control: 0 }), lines, enabled: AtomicBool::new(false) }
    }

    /// Vectors.
    #[must_use]
    pub fn count(&self) -> u16 {
        self.lines.len() as u16
    }

    /// The capability's body and the mask of what can be written of it: the table is at offset `table` of base
    /// address 0, the pending bits at offset `pending`.
    #[must_use]
    pub fn capability(&self, table: u32, pending: u32) -> ([u8; 10], [u8; 10]) {
        let mut body = [0; 10];
        let size = self.count().saturating_sub(1).to_le_bytes();
        let parts = size.into_iter().chain(table.to_le_bytes()).chain(pending.to_le_bytes());
        body.iter_mut().zip(parts).for_each(|(to, from)| *to = from);
        let mut mask = [0; 10];
        mask.iter_mut().zip((ENABLE | FUNCTION_MASK).to_le_bytes()).for_each(|(to, from)| *to = from);
        (body, mask)
    }

    /// Takes over the message control register after the guest wrote it.
    pub fn control(&self, control: u16) {
        let mut table = lock(&self.table);
        table.control = control & (ENABLE | FUNCTION_MASK);
        self.enabled.store(control & ENABLE != 0, Ordering::Release);
        for at in 0..self.lines.len() {
            self.apply(&table, at);
        }
    }

    /// Whether messages are used instead of the INTx pin.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.enabled.load(Ordering::Acquire)
    }

    /// Makes one vector what the table says. The table's lock is held, so that the last word counts.
    fn apply(&self, table: &Table, at: usize) {
        let (Some(line), Some(entry)) = (self.lines.get(at), table.entries.get(at)) else { return };
        let open = table.control & ENABLE != 0 && table.control & FUNCTION_MASK == 0 && entry.control & MASK == 0;
        if !open {
            line.open.store(false, Ordering::SeqCst);
            line.vector.route(None);
            return;
        }
        line.vector.route(Some(entry.message));
        line.open.store(true, Ordering::SeqCst);
        if line.pending.swap(false, Ordering::SeqCst) {
            line.send();
        }
    }

    /// Raises a vector: sends its message, or keeps it pending while it is masked. What is not there is dropped.
    /// Whether it was sent at once.
    pub fn trigger(&self, vector: u16) -> bool {
        let Some(line) = self.lines.get(usize::from(vector)) else { return false };
        if line.open.load(Ordering::SeqCst) {
            return line.send();
        }
        line.held.fetch_add(1, Ordering::Relaxed);
        line.keep();
        false
    }

    /// Where the device is to count the times of a vector; none where the interrupt controllers do, or for one that is
    /// not there.
    #[must_use]
    pub fn untimed(&self, vector: u16) -> Option<&Arc<Latency>> {
        self.lines.get(usize::from(vector)).filter(|line| !line.watched).map(|line| &line.latency)
    }

    /// Sends what the guards held back and whose time has come.
    pub fn release(&self) {
        for line in self.lines.iter().filter(|line| line.guard.as_ref().is_some_and(Guarded::poll)) {
            if line.open.load(Ordering::SeqCst) {
                line.deliver();
            } else {
                line.keep();
            }
        }
    }

    /// Somebody looked after the function: no vector is quarantined any more.
    pub fn clear(&self) {
        self.lines.iter().filter_map(|line| line.guard.as_ref()).for_each(Guarded::clear);
    }

    /// Reads from byte `offset` of the table; beyond it are all ones.
    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        let table = lock(&self.table);
        for (byte, at) in data.iter_mut().zip(offset..) {
            let at = at as usize;
            *byte =
                table.entries.get(at / ENTRY).and_then(|entry| entry.bytes().get(at % ENTRY).copied()).unwrap_or(0xff);
        }
    }

    /// Writes the table, 4 or 8 bytes at a multiple of that; anything else is dropped (section 6.8.2: undefined).
    pub fn write_table(&self, offset: u64, data: &[u8]) {
        if !matches!(data.len(), 4 | 8) || !offset.is_multiple_of(data.len() as u64) {
            return;
        }
        let (at, from) = (offset as usize / ENTRY, offset as usize % ENTRY);
        let mut table = lock(&self.table);
        let Some(entry) = table.entries.get_mut(at) else { return };
        let mut bytes = entry.bytes();
        bytes.iter_mut().skip(from).zip(data).for_each(|(to, new)| *to = *new);
        let new = Entry::of(bytes);
        if *entry != new {
            *entry = new;
            self.apply(&table, at);
        }
    }

    /// Reads from byte `offset` of the pending bits.
    pub fn read_pending(&self, offset: u64, data: &mut [u8]) {
        for (byte, at) in data.iter_mut().zip(offset..) {
            let lines = self.lines.iter().skip((at as usize).saturating_mul(8)).take(8).enumerate();
            *byte = lines.fold(0, |bits, (bit, line)| bits | u8::from(line.pending.load(Ordering::SeqCst)) << bit);
        }
    }

    /// Off, and all masked, as after reset.
    pub fn reset(&self) {
        let mut table = lock(&self.table);
        table.control = 0;
        table.entries.fill(Entry { message: Message::default(), control: MASK });
        self.enabled.store(false, Ordering::Release);
        for (at, line) in self.lines.iter().enumerate() {
            line.pending.store(false, Ordering::SeqCst);
            line.guard.iter().for_each(Guarded::forget);
            self.apply(&table, at);
        }
    }

    /// What each vector does and did.
    #[must_use]
    pub fn figures(&self) -> Vec<Figures> {
        let table = lock(&self.table);
        let each = self.lines.iter().zip(&table.entries);
        each.map(|(line, entry)| Figures {
            message: line.open.load(Ordering::SeqCst).then_some(entry.message),
            pending: line.pending.load(Ordering::SeqCst),
            delivered: line.delivered.load(Ordering::Relaxed),
            masked: line.held.load(Ordering::Relaxed),
            coalesced: line.guard.as_ref().map_or(0, |guard| guard.with(Guard::coalesced)),
            storms: line.guard.as_ref().map_or(0, |guard| guard.with(Guard::storms)),
            quarantine: line.guard.as_ref().map_or(Quarantine::No, |guard| guard.with(Guard::quarantine)),
            latency: line.latency.read(),
        })
        .collect()
    }
}

impl Line {
    /// Keeps a raise while the vector is masked.
    fn keep(&self) {
        self.pending.store(true, Ordering::SeqCst);
        // It may have been unmasked in between: then it was too late for the one who unmasked.
        if self.open.load(Ordering::SeqCst) && self.pending.swap(false, Ordering::SeqCst) {
            self.send();
        }
    }

    /// Sends, as far as the limit lets it. Whether it did.
    fn send(&self) -> bool {
        let free = self.guard.as_ref().is_none_or(Guarded::raise);
        if free {
            self.deliver();
        }
        free
    }

    fn deliver(&self) {
        self.delivered.fetch_add(1, Ordering::Relaxed);
        self.vector.trigger();
    }
}

impl Entry {
    /// Address low and high, data, vector control.
    fn bytes(&self) -> [u8; ENTRY] {
        let word =
            u128::from(self.message.address) | u128::from(self.message.data) << 64 | u128::from(self.control) << 96;
        word.to_le_bytes()
    }

    const fn of(bytes: [u8; ENTRY]) -> Self {
        let word = u128::from_le_bytes(bytes);
        let message = Message { address: word as u64, data: (word >> 64) as u32 };
        Self { message, control: (word >> 96) as u32 & MASK }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::devices::pci::freeze::Fault;
    use crate::devices::pci::storms::Keeper;
    use crate::devices::virtio::freezer::Witness;
    use frame::storm::Limit;
    use proptest::prelude::*;

    /// A vector that remembers what it sent.
    #[derive(Clone, Debug, Default)]
    pub(crate) struct Wire(pub(crate) Arc<Mutex<(Option<Message>, Vec<Message>)>>);

    impl Vector for Wire {
        fn route(&self, message: Option<Message>) {
            lock(&self.0).0 = message;
        }

        fn trigger(&self) {
            let mut state = lock(&self.0);
            let message = state.0.expect("a message goes out only where there is a route");
            state.1.push(message);
        }
    }

    pub(crate) fn wires(count: usize) -> (Vec<Wire>, Vec<Box<dyn Vector>>) {
        let wires = vec![(); count].into_iter().map(|()| Wire::default()).collect::<Vec<_>>();
        let vectors = wires.iter().map(|wire| Box::new(wire.clone()) as _).collect();
        (wires, vectors)
    }

    fn entry(msix: &Msix, at: u64, address: u64, data: u32, control: u32) {
        msix.write_table(at * 16, &address.to_le_bytes());
        msix.write_table(at * 16 + 8, &data.to_le_bytes());
        msix.write_table(at * 16 + 12, &control.to_le_bytes());
    }

    #[test]
    fn a_masked_vector_waits_and_comes_once() {
        let (wires, vectors) = wires(2);
        let msix = Msix::new(vectors);
        entry(&msix, 1, 0xfee0_1000, 0x41, 0);
        msix.trigger(1);
        let mut bits = [0; 1];
        msix.read_pending(0, &mut bits);
        assert_eq!(bits, [2], "pending while it is off");
        msix.control(ENABLE | FUNCTION_MASK);
        msix.trigger(1);
        assert!(lock(&wires[1].0).1.is_empty());
        msix.control(ENABLE);
        assert_eq!(lock(&wires[1].0).1, [Message { address: 0xfee0_1000, data: 0x41 }]);
        msix.trigger(1);
        msix.trigger(9);
        assert_eq!(lock(&wires[1].0).1.len(), 2);
        let figures = msix.figures();
        assert_eq!((figures[1].delivered, figures[1].masked, figures[0].message), (2, 2, None));
        msix.reset();
        assert_eq!(lock(&wires[1].0).0, None);
    }

    #[derive(Debug, Default)]
    struct Storms(Mutex<Vec<(String, u16, bool)>>);

    impl Witness for Storms {
        fn froze(&self, _: &str, _: &Fault, _: bool) {}

        fn stormed(&self, device: &str, vector: u16, _: Limit, lasting: bool) {
            lock(&self.0).push((device.to_owned(), vector, lasting));
        }
    }

    #[test]
    fn a_storm_of_one_vector_is_quarantined_and_the_other_goes_on() {
        let witness = Arc::new(Storms::default());
        // So slow that no time that a test takes gives a second interrupt.
        let keeper = Keeper::new(Limit { rate: 1, burst: 1 }, Arc::clone(&witness) as _).unwrap();
        let (wires, vectors) = wires(2);
        let msix = Msix::guarded(vectors, |vector| Some(Guarded::new(&keeper, "disk", vector)));
        entry(&msix, 0, 0xfee0_0000, 0x40, 0);
        entry(&msix, 1, 0xfee0_0000, 0x41, 0);
        msix.control(ENABLE);
        // Counting may begin anew once in between, or a rare interrupt be due: the bounds leave room for both.
        for _ in 0..10_000 {
            msix.trigger(0);
        }
        msix.trigger(1);
        let count = |wire: usize| lock(&wires[wire].0).1.len();
        let figures = msix.figures();
        assert!(count(0) < 10, "{} were sent", count(0));
        assert_eq!((count(1), figures[1].storms, figures[1].quarantine), (1, 0, Quarantine::No));
        assert_eq!((figures[0].storms, figures[0].quarantine), (1, Quarantine::UntilQuiet));
        assert!(figures[0].coalesced > 9_900);
        assert_eq!(*lock(&witness.0), [("disk".to_owned(), 0, false)]);
        msix.clear();
        assert_eq!(msix.figures()[0].quarantine, Quarantine::No);
    }

    #[test]
    fn what_a_limit_held_back_is_sent_when_there_is_room_or_kept_while_masked() {
        let keeper = Keeper::new(Limit { rate: 1_000, burst: 1 }, Arc::new(Storms::default())).unwrap();
        for masked in [false, true] {
            let (wires, vectors) = wires(1);
            let msix = Msix::guarded(vectors, |vector| Some(Guarded::new(&keeper, "disk", vector)));
            entry(&msix, 0, 0xfee0_0000, 0x40, 0);
            msix.control(ENABLE);
            let count = || lock(&wires[0].0).1.len();
            // Until one waits: on a machine that is slow enough each has room.
            let mut raised = 0;
            while count() == raised {
                msix.trigger(0);
                raised += 1;
            }
            if masked {
                entry(&msix, 0, 0xfee0_0000, 0x40, MASK);
            }
            while !msix.figures()[0].pending && count() < raised {
                msix.release();
            }
            assert_eq!((count(), msix.figures()[0].pending), if masked { (raised - 1, true) } else { (raised, false) });
        }
    }

    proptest! {
        #[test]
        fn a_raised_vector_is_sent_or_pending_and_goes_where_the_table_says(
            steps in proptest::collection::vec((0..6u8, 0..3u64, any::<u32>(), any::<bool>()), 0..80),
        ) {
            let (wires, vectors) = wires(3);
            let msix = Msix::new(vectors);
            for (step, at, number, bit) in steps {
                match step {
                    0 => msix.control(if bit { ENABLE } else { 0 } | if number & 1 == 1 { FUNCTION_MASK } else { 0 }),
                    1 => msix.write_table(at * 16 + 12, &u32::from(bit).to_le_bytes()),
                    2 => msix.write_table(at * 16, &u64::from(number).to_le_bytes()),
                    3 => msix.write_table(at * 16 + 8, &number.to_le_bytes()),
                    4 => msix.write_table(u64::from(number), &[0; 4]),
                    _ => {
                        let before = msix.figures()[at as usize];
                        msix.trigger(at as u16);
                        let after = msix.figures()[at as usize];
                        prop_assert_eq!(after.delivered - before.delivered, u64::from(before.message.is_some()));
                        prop_assert!(after.pending == before.message.is_none());
                    }
                }
                for (wire, figures) in wires.iter().zip(msix.figures()) {
                    prop_assert_eq!(lock(&wire.0).0, figures.message);
                    prop_assert_eq!(lock(&wire.0).1.len() as u64, figures.delivered);
                    prop_assert!(!(figures.pending && figures.message.is_some()));
                }
                let mut data = [0; 8];
                msix.read_table(u64::from(number), &mut data);
            }
        }
    }
}
