//! A driver for tests: sets a device up as a guest does, by its registers, and drives its queues in memory.

use super::Model;
use super::freezer::{Freezer, Witness};
use super::function::{Doorbells, NOTIFY, NOTIFY_STEP, Parts, VirtioFunction};
use super::interrupter::Interrupter;
use super::worker::{Service, Worker};
use crate::devices::lock;
use crate::devices::pci::freeze::Fault;
use crate::devices::pci::msix::tests::{Wire, wires};
use crate::devices::pci::msix::{Message, Msix};
use crate::devices::pci::root::Function;
use crate::devices::pm::Line;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

pub(crate) const VERSION_1: u64 = 1 << 32;
pub(crate) const EVENT_INDEX: u64 = 1 << 29;
const MEMORY: usize = 16 << 20;
/// Buffers lie from here on.
const BUFFERS: u64 = 1 << 20;
const DEADLINE: Duration = Duration::from_secs(20);

/// Descriptor flags (virtio 1.2, section 2.7.5).
pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

#[derive(Clone, Debug, Default)]
pub(crate) struct Seen(pub(crate) Arc<Mutex<Vec<(Fault, bool)>>>);

impl Witness for Seen {
    fn froze(&self, _: &str, fault: &Fault, permanent: bool) {
        lock(&self.0).push((fault.clone(), permanent));
    }

    fn stormed(&self, _: &str, _: u16, _: frame::storm::Limit, _: bool) {}
}

#[derive(Debug)]
struct Nowhere;

impl Doorbells for Nowhere {
    fn place(&self, _: Option<u64>) {}
}

/// An INTx line that remembers its level.
#[derive(Clone, Debug, Default)]
pub(crate) struct Level(pub(crate) Arc<Mutex<bool>>);

impl Line for Level {
    fn set(&self, high: bool) {
        *lock(&self.0) = high;
    }
}

#[derive(Clone, Copy, Debug)]
struct Laid {
    size: u16,
    descriptors: u64,
    driver: u64,
    device: u64,
    next: u16,
    used: u16,
}

/// A request that came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Used {
    pub(crate) head: u16,
    pub(crate) written: u32,
}

#[derive(Debug)]
pub(crate) struct Driver {
    pub(crate) memory: GuestMemoryMmap,
    pub(crate) function: VirtioFunction,
    pub(crate) wires: Vec<Wire>,
    pub(crate) pin: Level,
    pub(crate) seen: Seen,
    queues: Vec<Laid>,
    buffer: u64,
}

impl Driver {
    /// The device after a reset, with memory of 16 MiB.
    pub(crate) fn new(model: Arc<dyn Model>, service: Box<dyn Service>) -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap();
        let sizes = model.queues();
        let (wires, vectors) = wires(sizes.len() + 1);
        let (pin, seen) = (Level::default(), Seen::default());
        let interrupter = Arc::new(Interrupter::new(sizes.len(), Msix::new(vectors), Box::new(pin.clone())));
        let freezer = Arc::new(Freezer::new("device", Arc::clone(&interrupter), Arc::new(seen.clone())));
        let kicks: Vec<Arc<EventFd>> =
            sizes.iter().map(|_| Arc::new(EventFd::new(libc::EFD_NONBLOCK).unwrap())).collect();
        let worker = Worker::spawn("device", kicks.clone(), service, Arc::clone(&freezer)).unwrap();
        let parts = Parts {
            name: "device".into(),
            model,
            worker,
            kicks,
            interrupter,
            freezer,
            doorbells: Box::new(Nowhere),
            memory: memory.clone(),
            address: 0xd000_0000,
            gsi: 16,
        };
        let mut at = 0x1000;
        let lay = |size: &u16| {
            let bytes = u64::from(*size) * 16 + 0x1000;
            let laid = Laid {
                size: *size,
                descriptors: at,
                driver: at + u64::from(*size) * 16,
                device: at + u64::from(*size) * 16 + 0x800,
                next: 0,
                used: 0,
            };
            at += bytes;
            laid
        };
        let queues = sizes.iter().map(|size| (*size).min(64)).collect::<Vec<_>>().iter().map(lay).collect();
        let function = VirtioFunction::new(parts).unwrap();
        Self { memory, function, wires, pin, seen, queues, buffer: BUFFERS }
    }

    pub(crate) fn status(&self) -> u8 {
        let mut status = [0];
        self.function.read(20, &mut status);
        status[0]
    }

    fn set(&self, offset: u64, data: &[u8]) {
        self.function.write(offset, data);
    }

    /// What the device offers.
    pub(crate) fn offered(&self) -> u64 {
        let half = |select: u32| {
            self.set(0, &select.to_le_bytes());
            let mut bytes = [0; 4];
            self.function.read(4, &mut bytes);
            u64::from(u32::from_le_bytes(bytes))
        };
        half(0) | half(1) << 32
    }

    /// Resets the device and waits until it is done.
    pub(crate) fn reset(&mut self) {
        self.set(20, &[0]);
        wait("the reset", || (self.status() == 0).then_some(()));
        for queue in &mut self.queues {
            (queue.next, queue.used) = (0, 0);
        }
        self.buffer = BUFFERS;
    }

    /// Agrees on features; the status after it.
    pub(crate) fn agree(&mut self, features: u64) -> u8 {
        self.reset();
        self.set(20, &[3]);
        for (select, half) in [(0u32, features as u32), (1, (features >> 32) as u32)] {
            self.set(8, &select.to_le_bytes());
            self.set(12, &half.to_le_bytes());
        }
        self.set(20, &[0xb]);
        self.status()
    }

    /// Takes what was used of a queue: where the event index was agreed on, the device sees that.
    pub(crate) fn answer(&self, queue: usize, used_event: u16) {
        let Laid { size, driver, .. } = self.queues[queue];
        self.memory.write_obj(used_event, GuestAddress(driver + 4 + 2 * u64::from(size))).unwrap();
    }

    /// Starts the device with all its queues, vector n + 1 for queue n and vector 0 for the configuration.
    pub(crate) fn start(&mut self, features: u64) {
        assert_eq!(self.agree(features | VERSION_1), 0xb, "the features are refused");
        self.messages();
        for (index, queue) in (0u16..).zip(&self.queues) {
            let zeros = vec![0; (usize::from(queue.size)) * 16 + 0x1000];
            self.memory.write_slice(&zeros, GuestAddress(queue.descriptors)).unwrap();
            self.set(22, &index.to_le_bytes());
            self.set(24, &queue.size.to_le_bytes());
            self.set(26, &(index + 1).to_le_bytes());
            self.set(32, &queue.descriptors.to_le_bytes());
            self.set(40, &queue.driver.to_le_bytes());
            self.set(48, &queue.device.to_le_bytes());
            self.set(28, &[1, 0]);
        }
        self.set(20, &[0xf]);
    }

    /// Turns MSI-X on.
    fn messages(&self) {
        let mut at = [0];
        self.function.read_config(0x34, &mut at);
        loop {
            let mut header = [0; 2];
            self.function.read_config(at[0].into(), &mut header);
            if header[0] == 0x11 {
                break;
            }
            at[0] = header[1];
            assert_ne!(at[0], 0, "there is no MSI-X capability");
        }
        for (index, _) in (0u64..).zip(&self.wires) {
            self.set(0x4000 + index * 16, &0xfee0_0000u64.to_le_bytes());
            self.set(0x4000 + index * 16 + 8, &(0x40 + index).to_le_bytes());
        }
        self.function.write_config(u16::from(at[0]) + 2, &0x8000u16.to_le_bytes());
        self.set(16, &[0, 0]);
    }

    /// Room for `bytes`, filled with 0xee.
    pub(crate) fn buffer(&mut self, bytes: usize) -> u64 {
        let at = self.buffer;
        self.buffer += (bytes as u64).next_multiple_of(16);
        self.memory.write_slice(&vec![0xee; bytes], GuestAddress(at)).unwrap();
        at
    }

    /// Makes room for further buffers where those were that came back since.
    pub(crate) fn reuse_from(&mut self, address: u64) {
        self.buffer = address;
    }

    /// Writes descriptor `index` of queue `queue`.
    pub(crate) fn descriptor(&self, queue: usize, index: u16, address: u64, bytes: u32, flags: u16, next: u16) {
        self.raw(self.queues[queue].descriptors + u64::from(index) * 16, address, bytes, flags, next);
    }

    /// Writes a descriptor anywhere.
    pub(crate) fn raw(&self, at: u64, address: u64, bytes: u32, flags: u16, next: u16) {
        let word = u128::from(address) | u128::from(bytes) << 64 | u128::from(flags) << 96 | u128::from(next) << 112;
        self.memory.write_slice(&word.to_le_bytes(), GuestAddress(at)).unwrap();
    }

    /// Makes the chain that begins at `head` available, and kicks.
    pub(crate) fn offer(&mut self, queue: usize, head: u16) {
        let laid = &mut self.queues[queue];
        let slot = laid.driver + 4 + u64::from(laid.next % laid.size) * 2;
        self.memory.write_slice(&head.to_le_bytes(), GuestAddress(slot)).unwrap();
        laid.next = laid.next.wrapping_add(1);
        let index = laid.next;
        self.set_available(queue, index);
    }

    /// Sets the available index, whatever it is, and kicks.
    pub(crate) fn set_available(&mut self, queue: usize, index: u16) {
        let at = GuestAddress(self.queues[queue].driver + 2);
        self.memory.store(index, at, std::sync::atomic::Ordering::SeqCst).unwrap();
        self.set(NOTIFY + NOTIFY_STEP * queue as u64, &[queue as u8, 0]);
    }

    /// A request: `readable` is copied to memory; gives the addresses of the writable buffers. It begins at
    /// descriptor `head`.
    pub(crate) fn submit(&mut self, queue: usize, head: u16, readable: &[&[u8]], writable: &[usize]) -> Vec<u64> {
        let count = (readable.len() + writable.len()) as u16;
        let mut index = head;
        let mut addresses = vec![];
        for part in readable {
            let at = self.buffer(part.len());
            self.memory.write_slice(part, GuestAddress(at)).unwrap();
            let more = if index + 1 < head + count { NEXT } else { 0 };
            self.descriptor(queue, index, at, part.len() as u32, more, index + 1);
            index += 1;
        }
        for bytes in writable {
            let at = self.buffer(*bytes);
            addresses.push(at);
            let more = if index + 1 < head + count { NEXT } else { 0 };
            self.descriptor(queue, index, at, *bytes as u32, WRITE | more, index + 1);
            index += 1;
        }
        self.offer(queue, head);
        addresses
    }

    /// Waits for the next request to come back.
    pub(crate) fn wait(&mut self, queue: usize) -> Used {
        let laid = self.queues[queue];
        wait("a request", || {
            let index: u16 =
                self.memory.load(GuestAddress(laid.device + 2), std::sync::atomic::Ordering::SeqCst).unwrap();
            (index != laid.used).then_some(())
        });
        self.queues[queue].used = laid.used.wrapping_add(1);
        let at = laid.device + 4 + u64::from(laid.used % laid.size) * 8;
        let word: u64 = self.memory.read_obj(GuestAddress(at)).unwrap();
        Used { head: word as u16, written: (word >> 32) as u32 }
    }

    /// Looks without a pause until requests have come back, and takes them; how many were seen at first.
    pub(crate) fn first_seen(&mut self, queue: usize) -> u16 {
        let laid = &mut self.queues[queue];
        let (at, begin) = (GuestAddress(laid.device + 2), Instant::now());
        loop {
            let index: u16 = self.memory.load(at, std::sync::atomic::Ordering::SeqCst).unwrap();
            let seen = index.wrapping_sub(laid.used);
            if seen != 0 {
                laid.used = index;
                return seen;
            }
            assert!(begin.elapsed() < Duration::from_secs(20), "no request came back");
            std::hint::spin_loop();
        }
    }

    /// Waits until the device is frozen; gives what froze it.
    pub(crate) fn wait_frozen(&self) -> Fault {
        wait("the freeze", || self.function.freezer().is_frozen().then_some(()));
        self.function.freezer().freezes().last().cloned().unwrap()
    }

    /// Bytes of memory.
    pub(crate) fn bytes(&self, address: u64, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    /// Messages that vector `vector` sent.
    pub(crate) fn sent(&self, vector: usize) -> Vec<Message> {
        lock(&self.wires[vector].0).1.clone()
    }
}

/// Waits for something that must come.
pub(crate) fn wait<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begin.elapsed() < DEADLINE, "{what} does not come");
        std::thread::yield_now();
    }
}
