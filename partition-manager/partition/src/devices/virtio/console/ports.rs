//! The device's thread: the sockets of the ports, and the guest's queues.

use super::control::{Control, MESSAGE, Message};
use super::history::History;
use super::{MULTIPORT, Role};
use crate::devices::pci::freeze::Fault;
use crate::devices::virtio::ring::{Chain, Ring};
use crate::devices::virtio::worker::{Served, Service};
use frame::name::Name;
use rustix::event::epoll::{self, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvFlags, SendFlags, SocketFlags};
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Bytes that are moved at once.
const PIECE: usize = 4096;
/// Pieces of one port, or messages, before others have their turn.
const TURN: usize = 64;
/// Events that are taken at once.
const EVENTS: usize = 16;
/// Programs that may wait to be let in: more than the host lets wait.
const MOST_WAITING: usize = 64;
/// Listening sockets among the events; others are those of programs.
const LISTENER: u64 = 1 << 32;
/// Nothing waits, whatever sort of socket somebody passed.
const NOW: SendFlags = SendFlags::NOSIGNAL.union(SendFlags::DONTWAIT);

/// The socket of the program that has a port.
#[derive(Debug)]
struct Program {
    socket: OwnedFd,
    /// It may have something to read; looked at again when it has not.
    readable: bool,
    /// It says no more.
    ended: bool,
    /// It takes no more for now.
    full: bool,
    /// It has closed the socket.
    hung: bool,
    /// What is waited for; nothing at all when absent.
    awaited: Option<EventFlags>,
    /// Of the terminal's: how far it has read.
    place: u64,
}

#[derive(Debug)]
struct Port {
    listener: OwnedFd,
    program: Option<Program>,
    /// What the terminal's reader may read; other ports have none.
    history: Option<History>,
    /// Bytes of the guest's next buffer that were passed on already.
    passed: u64,
    /// The guest has no buffers for what is given to it.
    starved: bool,
}

/// The ports of a device.
#[derive(Debug)]
pub struct Ports {
    /// Has all sockets: the device's thread waits for this one only.
    poll: OwnedFd,
    ports: Vec<Port>,
    control: Control,
    /// The guest has no buffers for what it is to be told.
    starved: bool,
    buffer: Vec<u8>,
}

impl Ports {
    /// The ports of these names, each with the socket that its programs come to; the first is the terminal.
    ///
    /// # Errors
    /// When a socket does not listen, or when there can be no more descriptors.
    pub fn new(names: &[Name], listeners: Vec<OwnedFd>) -> io::Result<Self> {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut ports = vec![];
        for (at, listener) in listeners.into_iter().enumerate() {
            if !rustix::net::sockopt::socket_acceptconn(&listener)? {
                return Err(io::Error::from(io::ErrorKind::InvalidInput));
            }
            rustix::io::ioctl_fionbio(&listener, true)?;
            // Told once: one who cannot be let in does not keep the thread busy.
            let (data, comes) = (epoll::EventData::new_u64(LISTENER + at as u64), EventFlags::IN | EventFlags::ET);
            epoll::add(&poll, &listener, data, comes)?;
            let history = (at == 0).then(History::default);
            ports.push(Port { listener, program: None, history, passed: 0, starved: false });
        }
        Ok(Self { poll, ports, control: Control::new(names), starved: false, buffer: vec![0; PIECE] })
    }

    /// The program that comes last has the port: one that hangs keeps nobody out.
    fn accept(&mut self, at: usize) {
        let Some(port) = self.ports.get_mut(at) else { return };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // All who wait, of whom the last has it. Without descriptors left, it is tried again when the next one comes.
        let next = || rustix::net::accept_with(&port.listener, flags).ok();
        let Some(socket) = std::iter::from_fn(next).take(MOST_WAITING).last() else { return };
        // With that, epoll forgets the one before (epoll(7)).
        port.program = None;
        let data = epoll::EventData::new_u64(at as u64);
        if epoll::add(&self.poll, &socket, data, EventFlags::IN).is_ok() {
            let awaited = Some(EventFlags::IN);
            let (readable, ended, full, hung, place) = (false, false, false, false, 0);
            port.program = Some(Program { socket, readable, ended, full, hung, awaited, place });
        }
        self.control.set_here(at, port.program.is_some());
    }

    fn leave(&mut self, at: usize) {
        if let Some(port) = self.ports.get_mut(at) {
            port.program = None;
        }
        self.control.set_here(at, false);
    }

    /// Takes what the guest writes to a port. Whether all of it was taken.
    fn take(&mut self, rings: &mut [Option<Ring>], at: usize) -> Result<bool, Fault> {
        let (Some(Some(ring)), Some(port)) = (rings.get_mut(Role::Take(at).queue()), self.ports.get_mut(at)) else {
            return Ok(true);
        };
        let mut all = true;
        for _ in 0..TURN {
            let Some(chain) = ring.take()? else { break };
            let count = ring.read(&chain.readable, port.passed, &mut self.buffer)?;
            let piece = self.buffer.get(..count).unwrap_or_default();
            match port.pass(piece) {
                Some(count) => port.passed += count as u64,
                None => {
                    ring.put_back();
                    all = false;
                    break;
                }
            }
            if port.passed < chain.readable_bytes() {
                ring.put_back();
                continue;
            }
            port.passed = 0;
            ring.complete(chain.head, 0)?;
        }
        ring.notify()?;
        Ok(all)
    }

    /// Gives the guest what the program of a port says.
    fn give(&mut self, rings: &mut [Option<Ring>], at: usize) -> Result<(), Fault> {
        let (Some(Some(ring)), Some(port)) = (rings.get_mut(Role::Give(at).queue()), self.ports.get_mut(at)) else {
            return Ok(());
        };
        port.starved = false;
        for turn in 0.. {
            let Some(program) = &mut port.program else { break };
            if !program.readable || program.ended || !self.control.is_there(at) {
                break;
            }
            let Some(chain) = room(ring, 1)? else {
                port.starved = true;
                break;
            };
            let count = usize::try_from(chain.writable_bytes()).unwrap_or(PIECE).min(PIECE);
            let outcome = match self.buffer.get_mut(..count).filter(|_| turn < TURN || program.hung) {
                Some(into) => read(&program.socket, into),
                // Others have their turn; epoll says again that it can be read, unless nothing more can come.
                None => Err(Errno::AGAIN),
            };
            match outcome {
                Ok(count @ 1..) => {
                    ring.write(&chain.writable, 0, self.buffer.get(..count).unwrap_or_default())?;
                    ring.complete(chain.head, count as u32)?;
                    continue;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => program.readable = false,
                Ok(0) | Err(_) => program.ended = true,
            }
            ring.put_back();
        }
        ring.notify()
    }

    /// Tells the guest what is due of its ports.
    fn tell(&mut self, rings: &mut [Option<Ring>]) -> Result<(), Fault> {
        let Some(Some(ring)) = rings.get_mut(Role::Tell.queue()) else { return Ok(()) };
        self.starved = false;
        while let Some((message, name)) = self.control.due() {
            let Some(chain) = room(ring, MESSAGE + name.len())? else {
                self.starved = true;
                break;
            };
            ring.write(&chain.writable, 0, &message.bytes())?;
            ring.write(&chain.writable, MESSAGE as u64, name)?;
            ring.complete(chain.head, (MESSAGE + name.len()) as u32)?;
            self.control.told(message);
        }
        ring.notify()
    }

    /// Hears what the guest says of them.
    fn hear(&mut self, rings: &mut [Option<Ring>]) -> Result<(), Fault> {
        let Some(Some(ring)) = rings.get_mut(Role::Hear.queue()) else { return Ok(()) };
        for _ in 0..TURN {
            let Some(chain) = ring.take()? else { break };
            let mut message = [0; MESSAGE];
            if ring.read(&chain.readable, 0, &mut message)? < MESSAGE {
                let why = "it is shorter than a message about a port".into();
                return Err(Fault::Chain { queue: ring.index(), head: chain.head, why });
            }
            self.control.hear(Message::parse(message));
            ring.complete(chain.head, 0)?;
        }
        ring.notify()
    }

    /// Does for the ports what may have become possible, and waits for the rest.
    fn settle(&mut self, rings: &mut [Option<Ring>]) -> Result<(), Fault> {
        for at in 0..self.ports.len() {
            self.give(rings, at)?;
            let program = self.ports.get(at).and_then(|port| port.program.as_ref());
            if program.is_some_and(|program| program.hung && program.ended) {
                self.leave(at);
            }
        }
        self.tell(rings)?;
        for (at, port) in self.ports.iter_mut().enumerate() {
            port.show();
            let Some(program) = &mut port.program else { continue };
            let mut flags = EventFlags::empty();
            flags.set(EventFlags::IN, !program.readable && !program.ended);
            flags.set(EventFlags::OUT, program.full);
            // One whose program is gone says so without end.
            let wanted = (!program.hung).then_some(flags);
            if program.awaited == wanted {
                continue;
            }
            let data = epoll::EventData::new_u64(at as u64);
            let _ = match wanted {
                Some(flags) => epoll::modify(&self.poll, &program.socket, data, flags),
                None => epoll::delete(&self.poll, &program.socket),
            };
            program.awaited = wanted;
        }
        Ok(())
    }

    fn happened(&mut self, at: usize, flags: EventFlags) {
        let Some(port) = self.ports.get_mut(at) else { return };
        let Some(program) = &mut port.program else { return };
        let gone = flags.intersects(EventFlags::HUP | EventFlags::ERR);
        program.readable |= flags.contains(EventFlags::IN) || gone;
        program.full &= !(flags.contains(EventFlags::OUT) || gone);
        program.hung |= gone;
    }
}

impl Port {
    /// Passes on what the guest wrote, as far as that goes now; nothing when it has to wait.
    fn pass(&mut self, bytes: &[u8]) -> Option<usize> {
        if let Some(history) = &mut self.history {
            history.write(bytes);
            return Some(bytes.len());
        }
        // Nobody is there, and the guest knows it.
        let Some(program) = self.program.as_mut().filter(|program| !program.hung) else { return Some(bytes.len()) };
        if program.full {
            return None;
        }
        match rustix::net::send(&program.socket, bytes, NOW) {
            Ok(count) => Some(count),
            Err(Errno::AGAIN) => {
                program.full = true;
                None
            }
            Err(Errno::INTR) => Some(0),
            // It has gone; epoll says so too.
            Err(_) => Some(bytes.len()),
        }
    }

    /// Shows the terminal's reader what it has not seen yet.
    fn show(&mut self) {
        let (Some(history), Some(program)) = (&self.history, &mut self.program) else { return };
        while !program.full && !program.hung {
            let (place, bytes) = history.from(program.place);
            program.place = place;
            if bytes.is_empty() {
                return;
            }
            match rustix::net::send(&program.socket, bytes, NOW) {
                Ok(count) => program.place += count as u64,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => program.full = true,
                Err(_) => return,
            }
        }
    }
}

/// A buffer of the guest's for `bytes`, at least. Without one, the guest says when it has added some.
fn room(ring: &mut Ring, bytes: usize) -> Result<Option<Chain>, Fault> {
    loop {
        if let Some(chain) = ring.take()? {
            if chain.writable_bytes() < bytes as u64 {
                let why = format!("it has no room for {bytes} bytes");
                return Err(Fault::Chain { queue: ring.index(), head: chain.head, why });
            }
            ring.disable_notification()?;
            return Ok(Some(chain));
        }
        if !ring.enable_notification()? {
            return Ok(None);
        }
    }
}

/// What a socket has to say now.
fn read(socket: &OwnedFd, into: &mut [u8]) -> rustix::io::Result<usize> {
    let mut beside = RecvAncillaryBuffer::default();
    let received = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(into)], &mut beside, RecvFlags::DONTWAIT)?;
    Ok(received.bytes)
}

impl Service for Ports {
    fn start(&mut self, features: u64, _: &mut [Option<Ring>]) -> Result<(), Fault> {
        self.control.begin(features & MULTIPORT != 0);
        self.ports.iter_mut().for_each(|port| port.passed = 0);
        Ok(())
    }

    fn serve(&mut self, rings: &mut [Option<Ring>], queue: usize) -> Result<Served, Fault> {
        let role = Role::of(queue);
        let all = match role {
            Role::Take(at) => self.take(rings, at)?,
            Role::Hear => {
                self.hear(rings)?;
                true
            }
            Role::Give(_) | Role::Tell => true,
        };
        self.settle(rings)?;
        // With buffers left the guest need not say that it adds some.
        let all = match role {
            Role::Give(at) => self.ports.get(at).is_none_or(|port| port.starved),
            Role::Tell => self.starved,
            Role::Take(_) | Role::Hear => all,
        };
        Ok(if all { Served::All } else { Served::Waits })
    }

    fn sources(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.poll.as_fd()]
    }

    fn ready(&mut self, rings: &mut [Option<Ring>], _: usize) -> Result<(), Fault> {
        let mut events = Vec::with_capacity(EVENTS);
        let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
        match epoll::wait(&self.poll, rustix::buffer::spare_capacity(&mut events), Some(&now)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(Fault::Backend(format!("epoll_wait of its sockets: {error}"))),
        }
        for event in &events {
            match event.data.u64() {
                data @ LISTENER.. => self.accept((data - LISTENER) as usize),
                at => self.happened(at as usize, event.flags),
            }
        }
        self.settle(rings)
    }
}
