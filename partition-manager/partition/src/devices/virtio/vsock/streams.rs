//! The device's thread: the sockets of the host's programs, and the guest's queues.

use super::broker::{Broker, Said};
use super::connections::{Connections, Greeted, MOST_CONNECTIONS, Received, Stage};
use super::packet::{HEADER, Header};
use crate::devices::pci::freeze::Fault;
use crate::devices::virtio::ring::{Chain, Ring};
use crate::devices::virtio::worker::{Served, Service};
use frame::vsock::{Call, MOST_CALLS};
use rustix::event::epoll::{self, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvFlags, SendFlags, Shutdown, SocketFlags};
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

const RECEIVING: usize = 0;
const SENDING: usize = 1;
/// Most bytes of one packet.
const PACKET: usize = 64 << 10;
/// Packets each way before others have their turn.
const TURN: usize = 128;
/// The listening socket among the events; others are slots.
const LISTENER: u64 = u64::MAX;
/// Somebody comes: told once, so that one who cannot be let in does not keep the thread busy.
const COMES: EventFlags = EventFlags::IN.union(EventFlags::ET);
/// Whoever connects for the guest, likewise.
const BROKER: u64 = LISTENER - 1;
/// Events that are taken at once.
const EVENTS: usize = 16;
/// Nothing waits, whatever sort of socket somebody passed.
const NOW: SendFlags = SendFlags::NOSIGNAL.union(SendFlags::DONTWAIT);

/// The socket of one program of the host.
#[derive(Debug)]
struct Stream {
    socket: OwnedFd,
    /// It may have something to read; looked at again when it has not.
    readable: bool,
    /// It takes no more for now.
    full: bool,
    /// Its program has closed it.
    hung: bool,
    /// It was told that the guest sends no more.
    shut: bool,
    /// What is waited for; nothing at all when absent.
    awaited: Option<EventFlags>,
}

/// The sockets of a device.
#[derive(Debug)]
pub struct Streams {
    listener: OwnedFd,
    /// Has the listener and the sockets: the device's thread waits for this one only.
    poll: OwnedFd,
    connections: Connections,
    streams: Vec<Option<Stream>>,
    broker: Option<Broker>,
    listening: bool,
    /// The guest has no buffers for what is sent to it.
    starved: bool,
    buffer: Vec<u8>,
}

impl Streams {
    /// The streams of the guest with context identifier `cid`, whose programs of the host come to `listener`.
    ///
    /// # Errors
    /// When the listener is none, or when there can be no more descriptors.
    pub fn new(cid: u32, listener: OwnedFd) -> io::Result<Self> {
        if !rustix::net::sockopt::socket_acceptconn(&listener)? {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        rustix::io::ioctl_fionbio(&listener, true)?;
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&poll, &listener, epoll::EventData::new_u64(LISTENER), COMES)?;
        let streams = (0..MOST_CONNECTIONS).map(|_| None).collect();
        let (connections, buffer) = (Connections::new(cid), vec![0; PACKET]);
        Ok(Self { listener, poll, connections, streams, broker: None, listening: true, starved: false, buffer })
    }

    fn accept(&mut self) {
        while self.connections.has_room() {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            // Without descriptors or memory left, it is tried again when the next one comes.
            let Ok(socket) = rustix::net::accept_with(&self.listener, flags) else { return };
            let Some(slot) = self.connections.accept() else { return };
            self.put(slot, socket);
        }
    }

    /// The socket of a connection.
    fn put(&mut self, slot: usize, socket: OwnedFd) {
        self.forget(slot);
        let data = epoll::EventData::new_u64(slot as u64);
        if epoll::add(&self.poll, &socket, data, EventFlags::IN).is_err() {
            self.connections.close(slot);
            return;
        }
        let awaited = Some(EventFlags::IN);
        let stream = Stream { socket, readable: false, full: false, hung: false, shut: false, awaited };
        if let Some(place) = self.streams.get_mut(slot) {
            *place = Some(stream);
        }
    }

    /// The program in a slot takes the guest's calls from here on. An earlier one no longer does: a manager that was
    /// replaced may not know that yet.
    fn served_by(&mut self, slot: usize) {
        self.connections.close(slot);
        let Some(stream) = self.streams.get_mut(slot).and_then(Option::take) else { return };
        self.broker = None;
        self.connections.serve(false);
        if epoll::modify(&self.poll, &stream.socket, epoll::EventData::new_u64(BROKER), EventFlags::IN).is_ok() {
            self.broker = Some(Broker(stream.socket));
            self.connections.serve(true);
        }
    }

    /// Has somebody connect for the guest.
    fn call(&mut self, slot: usize, call: Call) {
        self.forget(slot);
        if !self.broker.as_ref().is_some_and(|broker| broker.ask(call)) {
            self.close(slot);
        }
    }

    /// Hears what became of the guest's calls.
    fn hear(&mut self) {
        for _ in 0..=MOST_CALLS {
            let Some(broker) = &self.broker else { return };
            match broker.hear() {
                Said::Answer(id, Some(socket)) => {
                    if let Some(slot) = self.connections.connected(id) {
                        self.put(slot, socket);
                    }
                }
                Said::Answer(id, None) => {
                    if let Some(slot) = self.connections.calling(id) {
                        self.close(slot);
                    }
                }
                Said::Nothing => return,
                Said::Gone => {
                    self.broker = None;
                    self.connections.serve(false);
                }
            }
        }
    }

    fn close(&mut self, slot: usize) {
        self.connections.close(slot);
        self.forget(slot);
    }

    /// The socket goes; epoll forgets it with that (epoll(7)).
    fn forget(&mut self, slot: usize) {
        if let Some(place) = self.streams.get_mut(slot) {
            *place = None;
        }
    }

    fn stream(&mut self, slot: usize) -> Option<&mut Stream> {
        self.streams.get_mut(slot)?.as_mut()
    }

    /// Reads the line with which a program asks for a port; byte by byte, for what comes after it is the guest's.
    fn greet(&mut self, slot: usize) {
        loop {
            let Some(stream) = self.stream(slot) else { return };
            let mut byte = [0];
            match read(&stream.socket, &mut byte) {
                Ok(1..) => match self.connections.greet(slot, byte[0]) {
                    Greeted::More => {}
                    Greeted::Asked => return,
                    Greeted::Serves => return self.served_by(slot),
                    Greeted::Wrong => return self.close(slot),
                },
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    stream.readable = false;
                    return;
                }
                Ok(0) | Err(_) => return self.close(slot),
            }
        }
    }

    /// Passes on what the guest sent.
    fn pass(&mut self, slot: usize) {
        loop {
            let Some(connection) = self.connections.get(slot) else { return };
            let Some(stream) = self.streams.get_mut(slot).and_then(Option::as_mut) else { return };
            if connection.is_drained() && !stream.shut {
                stream.shut = true;
                let _ = rustix::net::shutdown(&stream.socket, Shutdown::Write);
            }
            if connection.is_over() || stream.hung && connection.is_ended() {
                return self.close(slot);
            }
            let (first, _) = connection.kept();
            if first.is_empty() || stream.full {
                return;
            }
            match rustix::net::send(&stream.socket, first, NOW) {
                Ok(count) => connection.took(count),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => stream.full = true,
                Err(_) if connection.is_ended() => return self.close(slot),
                // It may have said something before it went.
                Err(_) => connection.deafen(),
            }
        }
    }

    /// Takes what the guest sends.
    fn take(&mut self, rings: &mut [Option<Ring>]) -> Result<(), Fault> {
        let Some(Some(ring)) = rings.get_mut(SENDING) else { return Ok(()) };
        for _ in 0..TURN {
            let Some(chain) = ring.take()? else { break };
            let wrong = |why: &str| Fault::Chain { queue: ring.index(), head: chain.head, why: why.into() };
            let mut header = [0; HEADER];
            if ring.read(&chain.readable, 0, &mut header)? < HEADER {
                return Err(wrong("it is shorter than a packet's header"));
            }
            let header = Header::parse(&header);
            if u64::from(header.bytes) > chain.readable_bytes() - HEADER as u64 {
                return Err(wrong("it is shorter than its packet's header says"));
            }
            let Some(data) = self.buffer.get_mut(..header.bytes as usize) else {
                return Err(wrong("its packet is larger than 64 KiB"));
            };
            ring.read(&chain.readable, HEADER as u64, data)?;
            let received = self.connections.receive(&header, data);
            ring.complete(chain.head, 0)?;
            match received {
                Received::Nothing => {}
                Received::Opened(slot) => {
                    let line = self.connections.granted(slot).unwrap_or_default();
                    let told = self
                        .stream(slot)
                        .map(|one| rustix::net::send(&one.socket, line.as_bytes(), NOW) == Ok(line.len()));
                    // Nothing was sent on it before: there is room.
                    if told != Some(true) {
                        self.close(slot);
                    }
                }
                Received::Called(slot, call) => self.call(slot, call),
                Received::Changed(slot) => self.pass(slot),
                Received::Gone(slot) => self.forget(slot),
            }
        }
        ring.notify()
    }

    /// A buffer of the guest's for what is sent to it.
    fn room(&mut self, ring: &mut Ring) -> Result<Option<Chain>, Fault> {
        loop {
            if let Some(chain) = ring.take()? {
                if chain.writable_bytes() < HEADER as u64 {
                    let why = "it has no room for a packet's header".into();
                    return Err(Fault::Chain { queue: ring.index(), head: chain.head, why });
                }
                ring.disable_notification()?;
                return Ok(Some(chain));
            }
            // Whoever made this call: the guest says when it has added some.
            if !ring.enable_notification()? {
                self.starved = true;
                return Ok(None);
            }
        }
    }

    /// Gives the guest what is due to it.
    fn give(&mut self, rings: &mut [Option<Ring>]) -> Result<(), Fault> {
        let Some(Some(ring)) = rings.get_mut(RECEIVING) else { return Ok(()) };
        self.starved = false;
        for turn in 0..=TURN {
            let Some(chain) = self.room(ring)? else { break };
            if let Some(header) = self.connections.due() {
                ring.write(&chain.writable, 0, &header.bytes())?;
                ring.complete(chain.head, HEADER as u32)?;
                continue;
            }
            let readable = |slot: usize| matches!(self.streams.get(slot), Some(Some(stream)) if stream.readable);
            let room = (chain.writable_bytes() - HEADER as u64).min(PACKET as u64);
            let sender = self.connections.next_sender(readable).filter(|_| room > 0);
            let Some((slot, credit)) = sender else {
                ring.put_back();
                break;
            };
            let Some(stream) = self.streams.get_mut(slot).and_then(Option::as_mut) else { continue };
            let count = (room as usize).min(credit as usize);
            let outcome = match self.buffer.get_mut(..count).filter(|_| turn < TURN) {
                Some(into) => read(&stream.socket, into),
                // Others have their turn; epoll says again that it can be read.
                None => Err(Errno::AGAIN),
            };
            match outcome {
                Ok(count @ 1..) => {
                    let data = self.buffer.get(..count).unwrap_or_default();
                    let header = self.connections.send(slot, count as u32).unwrap_or_default();
                    ring.write(&chain.writable, 0, &header.bytes())?;
                    ring.write(&chain.writable, HEADER as u64, data)?;
                    ring.complete(chain.head, (HEADER + count) as u32)?;
                    continue;
                }
                Ok(0) => {
                    stream.readable = false;
                    if let Some(connection) = self.connections.get(slot) {
                        connection.end();
                    }
                    self.pass(slot);
                }
                Err(Errno::AGAIN) => stream.readable = false,
                Err(Errno::INTR) => {}
                Err(_) => self.close(slot),
            }
            ring.put_back();
        }
        ring.notify()
    }

    /// Waits for what can be done something with, and for nothing else.
    fn watch(&mut self) {
        if self.listening != self.connections.has_room() {
            self.listening = !self.listening;
            let flags = if self.listening { COMES } else { EventFlags::empty() };
            let _ = epoll::modify(&self.poll, &self.listener, epoll::EventData::new_u64(LISTENER), flags);
        }
        for (slot, place) in self.streams.iter_mut().enumerate() {
            let (Some(stream), Some(connection)) = (place, self.connections.get(slot)) else { continue };
            let read = !stream.readable && !connection.is_ended() && connection.stage() != Stage::Asked;
            let mut flags = EventFlags::empty();
            flags.set(EventFlags::IN, read);
            flags.set(EventFlags::OUT, stream.full);
            // One whose program is gone says so without end.
            let wanted = (!stream.hung).then_some(flags);
            if stream.awaited == wanted {
                continue;
            }
            let _ = match wanted {
                Some(flags) => epoll::modify(&self.poll, &stream.socket, epoll::EventData::new_u64(slot as u64), flags),
                None => epoll::delete(&self.poll, &stream.socket),
            };
            stream.awaited = wanted;
        }
    }

    /// Takes and gives what there is.
    fn work(&mut self, rings: &mut [Option<Ring>]) -> Result<(), Fault> {
        self.take(rings)?;
        self.give(rings)?;
        self.watch();
        Ok(())
    }

    fn happened(&mut self, slot: usize, flags: EventFlags) {
        let gone = flags.intersects(EventFlags::HUP | EventFlags::ERR);
        let Some(stream) = self.stream(slot) else { return };
        stream.readable |= flags.contains(EventFlags::IN) || gone;
        stream.full &= !(flags.contains(EventFlags::OUT) || gone);
        stream.hung |= gone;
        match self.connections.get(slot).map(|one| one.stage()) {
            Some(Stage::Greeting) => self.greet(slot),
            Some(Stage::Asked) if gone => self.close(slot),
            _ => self.pass(slot),
        }
    }
}

/// What a socket has to say now.
fn read(socket: &OwnedFd, into: &mut [u8]) -> rustix::io::Result<usize> {
    let mut beside = RecvAncillaryBuffer::default();
    let received = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(into)], &mut beside, RecvFlags::DONTWAIT)?;
    Ok(received.bytes)
}

impl Service for Streams {
    fn serve(&mut self, rings: &mut [Option<Ring>], queue: usize) -> Result<Served, Fault> {
        match queue {
            RECEIVING | SENDING => self.work(rings)?,
            // No event ever happens: the guest's buffers stay.
            _ => return Ok(Served::Waits),
        }
        // With buffers left it need not say that it adds some.
        Ok(if queue == RECEIVING && !self.starved { Served::Waits } else { Served::All })
    }

    fn sources(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.poll.as_fd()]
    }

    fn ready(&mut self, _: &mut [Option<Ring>], _: usize) -> Result<(), Fault> {
        let mut events = Vec::with_capacity(EVENTS);
        let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
        match epoll::wait(&self.poll, rustix::buffer::spare_capacity(&mut events), Some(&now)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(Fault::Backend(format!("epoll_wait of its sockets: {error}"))),
        }
        for event in &events {
            match event.data.u64() {
                LISTENER => self.accept(),
                BROKER => self.hear(),
                slot => self.happened(slot as usize, event.flags),
            }
        }
        self.watch();
        Ok(())
    }

    fn stop(&mut self) {
        self.connections.clear();
        self.streams.iter_mut().for_each(|stream| *stream = None);
        self.watch();
    }
}
