//! What an adapter does on its thread: frames from the guest to the taps, and from the taps to the guest.

use super::filter::{Filter, LOOKED_AT};
use super::tap::{HEADER, Tap, offload};
use super::{CONTROL, Counters, GUEST_CHECKSUM, GUEST_ECN, GUEST_TCP4, GUEST_TCP6, MERGEABLE, MULTIQUEUE};
use crate::devices::pci::freeze::Fault;
use crate::devices::virtio::limits::Limits;
use crate::devices::virtio::ring::{Chain, Ring};
use crate::devices::virtio::worker::{Served, Service};
use frame::device::NetworkSpec;
use rustix::event::epoll;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// Longest frame: what segmentation leaves to the host, with addresses, type and a tag.
const LONGEST: usize = 65_535 + LOOKED_AT;
/// Frames that are taken from a tap, or from a queue, before others have their turn.
const BATCH: usize = 64;
/// Frames that a tap can have kept from before the start (Linux, drivers/net/tun.c: its queue has 500).
const MOST_OLD: usize = 4096;

/// Flag of a frame's header: its checksum is to be completed (section 5.1.6).
const NEEDS_CHECKSUM: u8 = 1;

/// The control queue's one command that is known: class 4, command 0 (section 5.1.6.5.6.1).
const SET_PAIRS: [u8; 2] = [4, 0];
const OK: u8 = 0;
const ERROR: u8 = 1;

/// Tokens of what is waited for: the limits, then taps.
const SENDING: u64 = u64::MAX;
const RECEIVING: u64 = u64::MAX - 1;

/// A tap of one queue pair.
struct Port {
    tap: Tap,
    pair: usize,
    /// Which of the pair's taps.
    index: usize,
    /// A frame that waits for room in the guest's buffers.
    held: Option<Vec<u8>>,
    /// Whether it is waited for.
    watched: bool,
}

/// The service of an adapter.
pub struct Adapter {
    filter: Filter,
    counters: Arc<Counters>,
    /// Taps of a pair stand together.
    ports: Vec<Port>,
    each: usize,
    pairs: usize,
    /// Pairs that the driver uses.
    active: usize,
    features: u64,
    sending: Limits,
    receiving: Limits,
    /// What is waited for: a tap without room in the guest's buffers is not.
    poll: OwnedFd,
    buffer: Vec<u8>,
}

impl std::fmt::Debug for Adapter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Adapter").field("filter", &self.filter).field("taps", &self.ports.len()).finish_non_exhaustive()
    }
}

fn backend(what: &str, error: &io::Error) -> Fault {
    match error.raw_os_error() {
        Some(libc::EBADFD | libc::ENODEV) => Fault::Gone(format!("{what}: the tap was removed: {error}")),
        _ => Fault::Backend(format!("{what}: {error}")),
    }
}

impl Adapter {
    /// The adapter `spec` with its taps: those of the first queue pair, then of the next.
    ///
    /// # Errors
    /// When there is another number of taps, or no more descriptors.
    pub fn new(spec: &NetworkSpec, taps: Vec<Tap>, counters: Arc<Counters>) -> io::Result<Self> {
        let (pairs, each) = (usize::from(spec.queues), spec.taps());
        if taps.len() != pairs * each {
            return Err(io::Error::other(format!("{} taps came with it, not {}", taps.len(), pairs * each)));
        }
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let limits = || Limits::new(spec.operations, spec.bandwidth);
        let (sending, receiving) = (limits()?, limits()?);
        let add = |what: BorrowedFd<'_>, token| {
            epoll::add(&poll, what, epoll::EventData::new_u64(token), epoll::EventFlags::IN)
        };
        add(sending.as_fd(), SENDING)?;
        add(receiving.as_fd(), RECEIVING)?;
        let mut ports = Vec::with_capacity(taps.len());
        for (place, tap) in taps.into_iter().enumerate() {
            add(tap.as_fd(), place as u64)?;
            ports.push(Port { tap, pair: place / each, index: place % each, held: None, watched: true });
        }
        let filter = Filter::new(spec);
        let buffer = vec![0; HEADER + LONGEST];
        Ok(Self { filter, counters, ports, each, pairs, active: 1, features: 0, sending, receiving, poll, buffer })
    }

    fn watch(&mut self, place: usize, on: bool) {
        let Some(port) = self.ports.get_mut(place).filter(|port| port.watched != on) else { return };
        let flags = if on { epoll::EventFlags::IN } else { epoll::EventFlags::empty() };
        if epoll::modify(&self.poll, port.tap.as_fd(), epoll::EventData::new_u64(place as u64), flags).is_ok() {
            port.watched = on;
        }
    }

    /// Sends what the guest put into the sending queue of `pair`.
    fn send(&mut self, ring: &mut Ring, pair: usize) -> Result<Served, Fault> {
        let mut served = Served::All;
        for _ in 0..BATCH {
            if self.sending.must_wait().map_err(|error| backend("a timer", &error))? {
                served = Served::Waits;
                break;
            }
            let Some(chain) = ring.take()? else { break };
            let bytes = self.send_one(ring, &chain, pair)?;
            self.sending.took(bytes);
            ring.complete(chain.head, 0)?;
        }
        ring.notify()?;
        Ok(served)
    }

    /// Sends one frame, or drops it; gives its bytes.
    fn send_one(&self, ring: &Ring, chain: &Chain, pair: usize) -> Result<u64, Fault> {
        let malformed = |why: &str| Fault::Chain { queue: ring.index(), head: chain.head, why: why.into() };
        if !chain.writable.is_empty() {
            return Err(malformed("a frame to send that the device shall write"));
        }
        // One copy is judged, and the same copy is sent: the guest may change its memory meanwhile.
        let mut copy = [0; HEADER + LOOKED_AT];
        let there = ring.read(&chain.readable, 0, &mut copy)?;
        let Some((header, frame)) = copy.get_mut(..there).and_then(|copy| copy.split_at_mut_checked(HEADER)) else {
            return Err(malformed("a frame without a whole header"));
        };
        let bytes = chain.readable_bytes() - HEADER as u64;
        if bytes > LONGEST as u64 {
            Counters::count(&self.counters.refused);
            return Ok(0);
        }
        let edited = match self.filter.send(frame) {
            Ok(edited) => edited,
            Err(why) => {
                self.counters.dropped(why);
                return Ok(bytes);
            }
        };
        if !shift(header, edited.shift()) {
            Counters::count(&self.counters.refused);
            return Ok(bytes);
        }
        let mut head = [0; HEADER + LOOKED_AT];
        let length = HEADER + edited.head().len();
        head.iter_mut().zip(header.iter().chain(edited.head())).for_each(|(to, from)| *to = *from);
        let taken = (HEADER + edited.taken) as u64;
        let rest = ring.slices(&chain.readable, taken, chain.readable_bytes() - taken)?;
        let Some(port) = self.ports.get(pair * self.each + edited.tap) else { return Ok(bytes) };
        match port.tap.write(head.get(..length).unwrap_or_default(), &rest) {
            Ok(()) => Counters::count(&self.counters.sent),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EBADFD | libc::ENODEV)) => {
                return Err(backend("sending", &error));
            }
            // A header that contradicts its frame, an interface that is down, no room: as on any wire, it is lost.
            Err(_) => Counters::count(&self.counters.refused),
        }
        Ok(bytes)
    }

    /// Gives the guest what came from a tap. Where its buffers are full, the tap is not waited for.
    fn receive(&mut self, rings: &mut [Option<Ring>], place: usize) -> Result<(), Fault> {
        let Some(pair) = self.ports.get(place).map(|port| port.pair % self.active.max(1)) else { return Ok(()) };
        let Some(ring) = rings.get_mut(pair * 2).and_then(Option::as_mut) else {
            self.watch(place, false);
            return Ok(());
        };
        for _ in 0..BATCH {
            if self.receiving.must_wait().map_err(|error| backend("a timer", &error))? {
                self.watch(place, false);
                break;
            }
            let Some(port) = self.ports.get_mut(place) else { break };
            let held = port.held.take();
            let frame = match &held {
                Some(frame) => frame.as_slice(),
                None => {
                    let read = port.tap.read(&mut self.buffer).map_err(|error| backend("receiving", &error))?;
                    let Some(count) = read else { break };
                    self.buffer.get(..count).unwrap_or_default()
                }
            };
            let index = port.index;
            match deliver(&self.filter, &self.counters, self.features, ring, index, frame)? {
                Delivered::Done(bytes) => self.receiving.took(bytes),
                Delivered::NoRoom => {
                    let frame = frame.to_vec();
                    if let Some(port) = self.ports.get_mut(place) {
                        port.held = Some(frame);
                    }
                    self.watch(place, false);
                    break;
                }
            }
        }
        ring.notify()
    }

    /// Goes on with the taps of a receiving queue, to which the driver may have added buffers.
    fn refilled(&mut self, rings: &mut [Option<Ring>], pair: usize) -> Result<Served, Fault> {
        let active = self.active.max(1);
        let waits = |port: &Port| !port.watched && port.pair % active == pair;
        let places: Vec<usize> = (0..self.ports.len()).filter(|at| self.ports.get(*at).is_some_and(waits)).collect();
        for place in &places {
            self.watch(*place, true);
            self.receive(rings, *place)?;
        }
        // Only a driver whose buffers are awaited need say that it added some.
        let stalled = places.iter().any(|place| self.ports.get(*place).is_some_and(|port| port.held.is_some()));
        Ok(if stalled { Served::All } else { Served::Waits })
    }

    /// Does what the driver asks on the control queue.
    fn control(&mut self, ring: &mut Ring) -> Result<Served, Fault> {
        for _ in 0..BATCH {
            let Some(chain) = ring.take()? else { break };
            let malformed = |why: &str| Fault::Chain { queue: ring.index(), head: chain.head, why: why.into() };
            let mut command = [0; 4];
            let there = ring.read(&chain.readable, 0, &mut command)?;
            let Some(end) = chain.writable_bytes().checked_sub(1) else {
                return Err(malformed("a command without room for its answer"));
            };
            if there < 2 {
                return Err(malformed("a command without a whole header"));
            }
            let [class, code, low, high] = command;
            let pairs = usize::from(u16::from_le_bytes([low, high]));
            let known = [class, code] == SET_PAIRS && there == 4 && self.features & MULTIQUEUE != 0;
            let answer = if known && (1..=self.pairs).contains(&pairs) {
                self.active = pairs;
                OK
            } else {
                ERROR
            };
            ring.write(&chain.writable, end, &[answer])?;
            ring.complete(chain.head, 1)?;
        }
        ring.notify()?;
        Ok(Served::All)
    }
}

/// Moves what a header says of places in its frame; false when that is nowhere.
fn shift(header: &mut [u8], by: i16) -> bool {
    let word = |header: &[u8], at: usize| {
        header.get(at..at + 2).and_then(|bytes| bytes.try_into().ok()).map_or(0, u16::from_le_bytes)
    };
    let (flags, kind) = (header.first().copied().unwrap_or(0), header.get(1).copied().unwrap_or(0));
    if by == 0 {
        return true;
    }
    let (length, start) = (word(header, 2), word(header, 6));
    let mut put = |at: usize, value: u16| {
        header.iter_mut().skip(at).zip(value.to_le_bytes()).for_each(|(to, from)| *to = from);
    };
    if kind != 0 {
        put(2, length.saturating_add_signed(by));
    }
    if flags & NEEDS_CHECKSUM != 0 {
        let Some(start) = start.checked_add_signed(by) else { return false };
        put(6, start);
    }
    true
}

enum Delivered {
    /// Given to the guest or dropped; bytes.
    Done(u64),
    /// The guest's buffers do not suffice.
    NoRoom,
}

/// Puts one frame into the guest's buffers: one of them, or several where that was agreed on (section 5.1.6.4).
fn deliver(
    filter: &Filter,
    counters: &Counters,
    features: u64,
    ring: &mut Ring,
    tap: usize,
    frame: &[u8],
) -> Result<Delivered, Fault> {
    let Some((header, frame)) = frame.split_at_checked(HEADER) else {
        Counters::count(&counters.short);
        return Ok(Delivered::Done(0));
    };
    let done = Ok(Delivered::Done(frame.len() as u64));
    let edited = match filter.receive(tap, frame.get(..LOOKED_AT).unwrap_or(frame)) {
        Ok(edited) => edited,
        Err(why) => {
            counters.dropped(why);
            return done;
        }
    };
    let mut head = [0; HEADER + LOOKED_AT];
    head.iter_mut().zip(header.iter()).for_each(|(to, from)| *to = *from);
    if !head.get_mut(..HEADER).is_some_and(|header| shift(header, edited.shift())) {
        Counters::count(&counters.refused);
        return done;
    }
    head.iter_mut().skip(HEADER).zip(edited.head()).for_each(|(to, from)| *to = *from);
    let length = HEADER + edited.head().len();
    let rest = frame.get(edited.taken..).unwrap_or_default();
    let whole = (length + rest.len()) as u64;
    let mut chains: Vec<Chain> = vec![];
    let mut room = 0;
    while room < whole && (chains.is_empty() || features & MERGEABLE != 0) {
        let Some(chain) = ring.take()? else {
            chains.iter().for_each(|_| ring.put_back());
            return Ok(Delivered::NoRoom);
        };
        if !chain.readable.is_empty() || chain.writable_bytes() < HEADER as u64 {
            let why = "a buffer for frames that the device shall read, or without room for a header".into();
            return Err(Fault::Chain { queue: ring.index(), head: chain.head, why });
        }
        room += chain.writable_bytes();
        chains.push(chain);
    }
    if room < whole {
        // One buffer for each frame, and this one is too small: the frame is lost, the buffer is not.
        chains.iter().for_each(|_| ring.put_back());
        Counters::count(&counters.refused);
        return done;
    }
    let count = u16::try_from(chains.len()).unwrap_or(u16::MAX);
    head.iter_mut().skip(10).zip(count.to_le_bytes()).for_each(|(to, from)| *to = from);
    let head = head.get(..length).unwrap_or_default();
    let (mut at, mut left) = (0usize, whole);
    let mut used = Vec::with_capacity(chains.len());
    for chain in &chains {
        let here = chain.writable_bytes().min(left);
        let end = at + here as usize;
        let from_head = head.get(at.min(length)..end.min(length)).unwrap_or_default();
        let from_rest = rest.get(at.max(length) - length..end.max(length) - length).unwrap_or_default();
        ring.write(&chain.writable, 0, from_head)?;
        ring.write(&chain.writable, from_head.len() as u64, from_rest)?;
        used.push((chain.head, here as u32));
        (at, left) = (end, left - here);
    }
    ring.complete_together(&used)?;
    Counters::count(&counters.received);
    done
}

impl Service for Adapter {
    fn start(&mut self, features: u64, _: &mut [Option<Ring>]) -> Result<(), Fault> {
        self.features = features;
        self.active = 1;
        let wanted = [
            (GUEST_CHECKSUM, offload::CHECKSUM),
            (GUEST_TCP4, offload::TCP4),
            (GUEST_TCP6, offload::TCP6),
            (GUEST_ECN, offload::ECN),
        ];
        let agreed = wanted.iter().filter(|(feature, _)| features & feature != 0).fold(0, |all, (_, one)| all | one);
        // Segmentation without checksums is none (section 5.1.3.1), and the host refuses it.
        let offloads = if agreed & offload::CHECKSUM == 0 { 0 } else { agreed };
        for place in 0..self.ports.len() {
            let Some(port) = self.ports.get_mut(place) else { continue };
            port.tap.set_offloads(offloads).map_err(|error| backend("its offloads", &error))?;
            port.held = None;
            // What came before the driver was there is not for it, and may leave undone what it did not agree to.
            for _ in 0..MOST_OLD {
                if port.tap.read(&mut self.buffer).map_err(|error| backend("receiving", &error))?.is_none() {
                    break;
                }
            }
            self.watch(place, true);
        }
        Ok(())
    }

    fn serve(&mut self, rings: &mut [Option<Ring>], queue: usize) -> Result<Served, Fault> {
        let pairs = if self.features & MULTIQUEUE != 0 { self.pairs } else { 1 };
        if queue == pairs * 2 && self.features & CONTROL != 0 {
            let Some(Some(ring)) = rings.get_mut(queue) else { return Ok(Served::All) };
            return self.control(ring);
        }
        if queue >= pairs * 2 {
            return Ok(Served::All);
        }
        if queue.is_multiple_of(2) {
            return self.refilled(rings, queue / 2);
        }
        let Some(Some(ring)) = rings.get_mut(queue) else { return Ok(Served::All) };
        self.send(ring, queue / 2)
    }

    fn sources(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.poll.as_fd()]
    }

    fn ready(&mut self, rings: &mut [Option<Ring>], _: usize) -> Result<(), Fault> {
        let mut events = Vec::with_capacity(32);
        let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
        match epoll::wait(&self.poll, rustix::buffer::spare_capacity(&mut events), Some(&now)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(backend("waiting", &errno.into())),
        }
        for event in events {
            match event.data.u64() {
                // The queues have their turn after this.
                SENDING => self.sending.ring(),
                RECEIVING => self.receiving.ring(),
                place => self.receive(rings, place as usize)?,
            }
        }
        Ok(())
    }

    fn stop(&mut self) {
        self.ports.iter_mut().for_each(|port| port.held = None);
    }
}
