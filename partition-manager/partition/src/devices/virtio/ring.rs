//! A queue as a device sees it: chains of descriptors that were checked, and their way back.
//!
//! Everything that is read from the guest's memory may be wrong. A chain that contradicts itself, or an address
//! that is not memory, is a [`Fault`] and freezes the device (virtio 1.2, section 2.7).

use super::answer::{Answer, Look};
use super::interrupter::Interrupter;
use crate::devices::pci::freeze::Fault;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, VolatileSlice};

/// Most descriptors of one chain, in every device: what Linux ever makes, and QEMU takes.
pub const MOST_DESCRIPTORS: usize = 1024;

/// A run of the guest's memory that a descriptor names, which is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Guest-physical address.
    pub address: u64,
    /// Bytes, not 0.
    pub bytes: u32,
}

/// A request: what the driver wrote for the device, and where the device may write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Index of its first descriptor: its name when it goes back.
    pub head: u16,
    /// What the device reads, in order.
    pub readable: Vec<Segment>,
    /// What the device writes, in order.
    pub writable: Vec<Segment>,
}

fn sum(segments: &[Segment]) -> u64 {
    segments.iter().map(|segment| u64::from(segment.bytes)).sum()
}

impl Chain {
    /// Bytes that the device can read.
    #[must_use]
    pub fn readable_bytes(&self) -> u64 {
        sum(&self.readable)
    }

    /// Bytes that the device can write.
    #[must_use]
    pub fn writable_bytes(&self) -> u64 {
        sum(&self.writable)
    }
}

/// The parts of `segments` that `bytes` from `offset` on are in; fewer where they end earlier.
pub fn parts(segments: &[Segment], offset: u64, bytes: u64) -> impl Iterator<Item = Segment> {
    let end = offset.saturating_add(bytes);
    let mut start = 0u64;
    segments.iter().filter_map(move |segment| {
        let (from, to) = (start.max(offset), (start + u64::from(segment.bytes)).min(end));
        let part =
            (from < to).then(|| Segment { address: segment.address + (from - start), bytes: (to - from) as u32 });
        start += u64::from(segment.bytes);
        part
    })
}

/// A queue of a started device.
#[derive(Debug)]
pub struct Ring {
    index: u16,
    queue: Queue,
    memory: GuestMemoryMmap,
    interrupter: Arc<Interrupter>,
    /// Whether something was given back since the driver was last interrupted.
    used: bool,
    /// Index of the used ring when it was last considered to interrupt the driver.
    considered: u16,
    /// The interrupts whose answer is waited for.
    answer: Answer,
    begin: Instant,
}

/// Flag of the available ring: the driver wants no interrupts (virtio 1.2, section 2.7.6).
const NO_INTERRUPT: u16 = 1;

impl Ring {
    /// Queue `index`, which the driver has set up.
    ///
    /// # Errors
    /// [`Fault::Queue`] when it is not wholly in memory.
    pub fn new(
        index: u16,
        queue: Queue,
        memory: GuestMemoryMmap,
        interrupter: Arc<Interrupter>,
    ) -> Result<Self, Fault> {
        if !queue.is_valid(&memory) {
            return Err(Fault::Queue { queue: index, why: "its rings are not in the partition's memory".into() });
        }
        let (considered, begin) = (queue.next_used(), Instant::now());
        Ok(Self { index, queue, memory, interrupter, used: false, considered, answer: Answer::default(), begin })
    }

    /// The number of the queue.
    #[must_use]
    pub const fn index(&self) -> u16 {
        self.index
    }

    fn fault(&self, error: &virtio_queue::Error) -> Fault {
        Fault::Queue { queue: self.index, why: error.to_string() }
    }

    fn malformed(&self, head: u16, why: &str) -> Fault {
        Fault::Chain { queue: self.index, head, why: why.into() }
    }

    /// The next request, if there is one.
    ///
    /// # Errors
    /// [`Fault`] when the ring or the chain is malformed.
    pub fn take(&mut self) -> Result<Option<Chain>, Fault> {
        let index = self.index;
        let error = |error: virtio_queue::Error| Fault::Queue { queue: index, why: error.to_string() };
        let Some(descriptors) = self.queue.iter(&self.memory).map_err(error)?.next() else { return Ok(None) };
        let head = descriptors.head_index();
        if head >= self.queue.size() {
            return Err(self.malformed(head, "there is no such descriptor"));
        }
        let mut chain = Chain { head, ..Chain::default() };
        let (mut count, mut ended) = (0, false);
        for descriptor in descriptors {
            count += 1;
            if count > MOST_DESCRIPTORS {
                return Err(self.malformed(head, "it is too long"));
            }
            let segment = Segment { address: descriptor.addr().0, bytes: descriptor.len() };
            if segment.bytes == 0 {
                return Err(self.malformed(head, "a descriptor is of no bytes"));
            }
            if !self.memory.check_range(descriptor.addr(), segment.bytes as usize) {
                let Segment { address, bytes } = segment;
                return Err(Fault::Address { queue: self.index, address, bytes: bytes.into() });
            }
            if descriptor.is_write_only() {
                chain.writable.push(segment);
            } else if chain.writable.is_empty() {
                chain.readable.push(segment);
            } else {
                return Err(self.malformed(head, "what the device reads comes after what it writes"));
            }
            ended = !descriptor.has_next();
        }
        // The walk stops without a last descriptor where the table is left, a loop closes, an indirect table is
        // none or is nested, or the sum of the lengths overflows.
        if ended { Ok(Some(chain)) } else { Err(self.malformed(head, "it does not end")) }
    }

    /// Gives a request back, with `written` bytes that the device wrote.
    ///
    /// # Errors
    /// [`Fault::Queue`].
    pub fn complete(&mut self, head: u16, written: u32) -> Result<(), Fault> {
        self.used = true;
        self.queue.add_used(&self.memory, head, written).map_err(|error| self.fault(&error))
    }

    /// Gives requests back, each with the bytes that the device wrote, so that the driver sees all of them or none: it
    /// takes a frame in several buffers for broken when one is not there yet (virtio 1.2, section 5.1.6.4).
    ///
    /// # Errors
    /// [`Fault::Queue`].
    pub fn complete_together(&mut self, requests: &[(u16, u32)]) -> Result<(), Fault> {
        let Some(((last, last_written), others)) = requests.split_last() else { return Ok(()) };
        let mut next = self.queue.next_used();
        for (head, written) in others {
            // Of the split ring: flags and index, then elements of index and length (section 2.7.8).
            let place = next.checked_rem(self.queue.size()).unwrap_or(0);
            let element = GuestAddress(self.queue.used_ring() + 4 + u64::from(place) * 8);
            let bytes = (u64::from(*head) | u64::from(*written) << 32).to_le_bytes();
            let wild = |_| Fault::Address { queue: self.index, address: element.0, bytes: 8 };
            self.memory.write_slice(&bytes, element).map_err(wild)?;
            next = next.wrapping_add(1);
        }
        // The index moves with the last one, past all.
        self.queue.set_next_used(next);
        self.complete(*last, *last_written)
    }

    /// Interrupts the driver, if it wants to hear of what was given back.
    ///
    /// # Errors
    /// [`Fault::Queue`].
    pub fn notify(&mut self) -> Result<(), Fault> {
        if !std::mem::take(&mut self.used) {
            return Ok(());
        }
        let considered = std::mem::replace(&mut self.considered, self.queue.next_used());
        // What was given back is there before it is looked what the driver wants to hear of.
        fence(Ordering::SeqCst);
        if !self.queue.event_idx_enabled() {
            if self.driver_word(0)? & NO_INTERRUPT == 0 {
                self.interrupter.queue(self.index);
            }
            return Ok(());
        }
        // The driver names an index: whether the ring's moved past it (section 2.7.10).
        let event = self.used_event()?;
        let (new, old) = (self.considered, considered);
        if new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old) {
            let now = self.begin.elapsed();
            let timed = self.answer.is_due(now) && self.interrupter.untimed(self.index).is_some();
            if self.interrupter.queue(self.index) && timed {
                self.answer.sent(now, event);
            }
        }
        Ok(())
    }

    /// The driver's word of when it wants to be interrupted next, at the end of the available ring (virtio 1.2, section
    /// 2.7.6).
    fn used_event(&self) -> Result<u16, Fault> {
        self.driver_word(4 + u64::from(self.queue.size()) * 2)
    }

    /// Looks whether the driver answered the interrupt that is timed, and counts the time when it did. Gives when to
    /// look again.
    ///
    /// # Errors
    /// [`Fault::Address`].
    pub fn look(&mut self) -> Result<Option<Duration>, Fault> {
        if !self.answer.is_watching() {
            return Ok(None);
        }
        let used_event = self.used_event()?;
        match self.answer.look(self.begin.elapsed(), used_event) {
            Look::Nothing => Ok(None),
            Look::Wait(wait) => Ok(Some(wait)),
            Look::Answered(time) => {
                self.interrupter.untimed(self.index).inspect(|latency| latency.record(time));
                Ok(None)
            }
        }
    }

    /// A word of the available ring, `offset` bytes from its beginning.
    fn driver_word(&self, offset: u64) -> Result<u16, Fault> {
        let address = GuestAddress(self.queue.avail_ring() + offset);
        let wild = |_| Fault::Address { queue: self.index, address: address.0, bytes: 2 };
        let word: u16 = self.memory.load(address, Ordering::Acquire).map_err(wild)?;
        Ok(u16::from_le(word))
    }

    /// Asks the driver to say when it adds requests. Whether some were added before it could know.
    ///
    /// # Errors
    /// [`Fault::Queue`].
    pub fn enable_notification(&mut self) -> Result<bool, Fault> {
        self.queue.enable_notification(&self.memory).map_err(|error| self.fault(&error))
    }

    /// Asks the driver to be silent while requests are taken.
    ///
    /// # Errors
    /// [`Fault::Queue`].
    pub fn disable_notification(&mut self) -> Result<(), Fault> {
        self.queue.disable_notification(&self.memory).map_err(|error| self.fault(&error))
    }

    /// Puts the last request back: the next [`Ring::take`] gives it again.
    pub fn put_back(&mut self) {
        self.queue.go_to_previous_position();
    }

    /// Copies from `segments`, beginning at byte `offset`. Gives how many bytes there were.
    ///
    /// # Errors
    /// [`Fault::Address`].
    pub fn read(&self, segments: &[Segment], offset: u64, into: &mut [u8]) -> Result<usize, Fault> {
        let mut done = 0;
        for part in parts(segments, offset, into.len() as u64) {
            let length = part.bytes as usize;
            let Some(piece) = into.get_mut(done..done + length) else { break };
            self.memory.read_slice(piece, GuestAddress(part.address)).map_err(|_| self.wild(part))?;
            done += length;
        }
        Ok(done)
    }

    /// Copies to `segments`, beginning at byte `offset`. Gives how many bytes there was room for.
    ///
    /// # Errors
    /// [`Fault::Address`].
    pub fn write(&self, segments: &[Segment], offset: u64, from: &[u8]) -> Result<usize, Fault> {
        let mut done = 0;
        for part in parts(segments, offset, from.len() as u64) {
            let length = part.bytes as usize;
            let Some(piece) = from.get(done..done + length) else { break };
            self.memory.write_slice(piece, GuestAddress(part.address)).map_err(|_| self.wild(part))?;
            done += length;
        }
        Ok(done)
    }

    /// The mapped memory of `bytes` from byte `offset` of `segments` on: what a system call is given.
    ///
    /// # Errors
    /// [`Fault::Address`].
    pub fn slices(&self, segments: &[Segment], offset: u64, bytes: u64) -> Result<Vec<VolatileSlice<'_>>, Fault> {
        let mut slices = vec![];
        for part in parts(segments, offset, bytes) {
            // A segment may lie across two ranges of memory.
            for slice in self.memory.get_slices(GuestAddress(part.address), part.bytes as usize) {
                slices.push(slice.map_err(|_| self.wild(part))?);
            }
        }
        Ok(slices)
    }

    fn wild(&self, part: Segment) -> Fault {
        Fault::Address { queue: self.index, address: part.address, bytes: part.bytes.into() }
    }
}
