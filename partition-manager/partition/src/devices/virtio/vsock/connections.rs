//! The connections of a socket device, without the sockets: what each side may send, and what is due to the guest.

use super::packet::{HOST, Header, NO_RECEIVE, NO_SEND, STREAM, operation};
use frame::vsock::{Call, MOST_CALLS, SERVE};
use std::collections::VecDeque;

/// Most connections of one device.
pub const MOST_CONNECTIONS: usize = 64;
/// Bytes of the guest's that are kept for a program of the host that does not read.
pub const ROOM: u32 = 64 << 10;
/// Most refusals that wait for the guest's buffers; further ones are left out.
const MOST_RESETS: usize = 64;
/// Longest line with which a program of the host asks for a port, bytes: `CONNECT 4294967295` and its end.
const LONGEST_LINE: usize = 20;
/// First port of the host's side.
const FIRST_PORT: u32 = 1 << 30;

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The program of the host has not yet said which port it wants.
    Greeting,
    /// The guest is asked.
    Asked,
    /// The guest asks, and somebody connects for it.
    Calling,
    /// It is there.
    Open,
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    stage: Stage,
    host_port: u32,
    guest_port: u32,
    /// Its number among all that ever were, as far as numbers go.
    id: u32,
    line: Vec<u8>,
    /// What the guest sent and the host's program has not taken yet, at most [`ROOM`] bytes.
    kept: VecDeque<u8>,
    /// Bytes passed on to the host's program, and those that the guest was told of.
    passed: u32,
    told: u32,
    /// Bytes sent to the guest, the room that it said it has, and what it passed on.
    sent: u32,
    guest_room: u32,
    guest_passed: u32,
    ask: bool,
    grant: bool,
    credit: bool,
    /// Nobody is left who would take what the guest sends.
    deaf: bool,
    /// The host's program sends no more; the guest is to be told so.
    ended: bool,
    say_ended: bool,
    /// What the guest will do no more, [`NO_RECEIVE`] and [`NO_SEND`].
    shut: u32,
}

impl Connection {
    const fn new(stage: Stage, id: u32, host_port: u32, guest_port: u32) -> Self {
        Self {
            stage,
            host_port,
            guest_port,
            id,
            line: vec![],
            kept: VecDeque::new(),
            passed: 0,
            told: 0,
            sent: 0,
            guest_room: 0,
            guest_passed: 0,
            ask: false,
            grant: false,
            credit: false,
            deaf: false,
            ended: false,
            say_ended: false,
            shut: 0,
        }
    }

    /// How far it is.
    #[must_use]
    pub const fn stage(&self) -> Stage {
        self.stage
    }

    /// Bytes that the guest has room for now.
    #[must_use]
    pub const fn credit(&self) -> u32 {
        // Both counts wrap. A guest that passed on more than it was sent, or shrank its room, has none.
        let under_way = self.sent.wrapping_sub(self.guest_passed);
        self.guest_room.saturating_sub(under_way)
    }

    /// Whether something of the host's program can go to the guest.
    #[must_use]
    pub fn may_send(&self) -> bool {
        self.stage == Stage::Open && !self.grant && !self.ended && self.shut & NO_RECEIVE == 0 && self.credit() > 0
    }

    /// What waits for the host's program, in two parts.
    #[must_use]
    pub fn kept(&self) -> (&[u8], &[u8]) {
        self.kept.as_slices()
    }

    /// The host's program took the first `count` bytes.
    pub fn took(&mut self, count: usize) {
        let count = count.min(self.kept.len());
        self.kept.drain(..count);
        self.passed = self.passed.wrapping_add(count as u32);
        // The guest is told before it runs out of room, not of every byte.
        self.credit |= self.passed.wrapping_sub(self.told) >= ROOM / 2;
    }

    /// The host's program takes no more: what the guest sends is lost from here on, as the program chose. What it sent
    /// itself before still goes to the guest.
    pub fn deafen(&mut self) {
        self.deaf = true;
        self.took(self.kept.len());
    }

    /// The host's program sends no more.
    pub const fn end(&mut self) {
        self.say_ended = !self.ended;
        self.ended = true;
    }

    /// Whether the host's program sends no more.
    #[must_use]
    pub const fn is_ended(&self) -> bool {
        self.ended
    }

    /// The guest sends no more, and what it sent was passed on.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.shut & NO_SEND != 0 && self.kept.is_empty()
    }

    /// Neither side has anything to say to the other.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.is_drained() && (self.shut & NO_RECEIVE != 0 || self.ended && !self.say_ended)
    }
}

/// What a byte of a greeting led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Greeted {
    /// More is to come.
    More,
    /// The guest is asked.
    Asked,
    /// The program takes the guest's calls: it is no connection.
    Serves,
    /// It asks for nothing that there is.
    Wrong,
}

/// What a packet of the guest's led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// Nothing that a socket hears of.
    Nothing,
    /// The guest granted this connection.
    Opened(usize),
    /// The guest asks for this one, and somebody is to connect for it.
    Called(usize, Call),
    /// There is data for this one, or less is to come.
    Changed(usize),
    /// This one is gone.
    Gone(usize),
}

/// The connections.
#[derive(Debug)]
pub struct Connections {
    cid: u32,
    next_port: u32,
    next_id: u32,
    /// Whether there is somebody who connects for the guest.
    served: bool,
    slots: Vec<Option<Connection>>,
    /// Refusals that are due to the guest: port of the host's side, port of the guest's.
    resets: VecDeque<(u32, u32)>,
    turn: usize,
}

impl Connections {
    /// None, of the guest with context identifier `cid`.
    #[must_use]
    pub fn new(cid: u32) -> Self {
        let slots = (0..MOST_CONNECTIONS).map(|_| None).collect();
        Self { cid, next_port: FIRST_PORT, next_id: 0, served: false, slots, resets: VecDeque::new(), turn: 0 }
    }

    /// The guest is gone or begins again: no connection is left.
    pub fn clear(&mut self) {
        self.slots.iter_mut().for_each(|slot| *slot = None);
        self.resets.clear();
    }

    /// The connection in a slot.
    pub fn get(&mut self, slot: usize) -> Option<&mut Connection> {
        self.slots.get_mut(slot)?.as_mut()
    }

    /// There is somebody who connects for the guest now, or nobody any more: then who waits for that is refused.
    pub fn serve(&mut self, served: bool) {
        self.served = served;
        for slot in 0..MOST_CONNECTIONS {
            if !served && self.get(slot).is_some_and(|one| one.stage == Stage::Calling) {
                self.close(slot);
            }
        }
    }

    /// Whether there is room for one more: a program that has not said yet what it wants gives way.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.slots.iter().flatten().filter(|one| one.stage != Stage::Greeting).count() < MOST_CONNECTIONS
    }

    /// A program of the host has connected; its slot, if there is one. What was in the slot is gone.
    pub fn accept(&mut self) -> Option<usize> {
        let silent = |slots: &[Option<Connection>]| {
            let waits = slots.iter().enumerate().filter_map(|(slot, one)| Some((slot, one.as_ref()?)));
            let waits = waits.filter(|(_, one)| one.stage == Stage::Greeting);
            // The one that came first: numbers wrap.
            waits.max_by_key(|(_, one)| self.next_id.wrapping_sub(one.id)).map(|(slot, _)| slot)
        };
        let slot = self.slots.iter().position(Option::is_none).or_else(|| silent(&self.slots))?;
        let host_port = self.next_port;
        // The upper half, over and over: a port comes back long after its connection.
        self.next_port = self.next_port.wrapping_add(1) | FIRST_PORT;
        let id = self.number();
        *self.slots.get_mut(slot)? = Some(Connection::new(Stage::Greeting, id, host_port, 0));
        Some(slot)
    }

    const fn number(&mut self) -> u32 {
        self.next_id = self.next_id.wrapping_add(1);
        self.next_id
    }

    /// The guest asks for a port of the host.
    fn called(&mut self, header: &Header) -> Option<Received> {
        let calls = self.slots.iter().flatten().filter(|one| one.stage == Stage::Calling).count();
        if !self.served || header.kind != STREAM || calls >= MOST_CALLS {
            return None;
        }
        // Programs of the host that are silent do not keep the guest from its own connections.
        let slot = self.accept()?;
        let id = self.number();
        let (port, guest_port) = (header.destination_port, header.source_port);
        let mut connection = Connection::new(Stage::Calling, id, port, guest_port);
        (connection.guest_room, connection.guest_passed) = (header.room, header.passed);
        *self.slots.get_mut(slot)? = Some(connection);
        Some(Received::Called(slot, Call { id, port }))
    }

    /// Somebody has connected for the guest's call `id`; the slot, unless the guest has given it up.
    pub fn connected(&mut self, id: u32) -> Option<usize> {
        let slot = self.calling(id)?;
        let connection = self.get(slot)?;
        (connection.stage, connection.grant) = (Stage::Open, true);
        Some(slot)
    }

    /// The slot of the guest's call `id`, while it waits.
    #[must_use]
    pub fn calling(&self, id: u32) -> Option<usize> {
        self.slots.iter().position(|slot| slot.as_ref().is_some_and(|one| one.stage == Stage::Calling && one.id == id))
    }

    /// The next byte of the line with which the program in a slot asks for a port.
    pub fn greet(&mut self, slot: usize, byte: u8) -> Greeted {
        let Some(connection) = self.get(slot).filter(|one| one.stage == Stage::Greeting) else { return Greeted::Wrong };
        if byte != b'\n' {
            connection.line.push(byte);
            return if connection.line.len() < LONGEST_LINE { Greeted::More } else { Greeted::Wrong };
        }
        let line = std::mem::take(&mut connection.line);
        if Some(line.as_slice()) == SERVE.strip_suffix(b"\n") {
            return Greeted::Serves;
        }
        let port = line.strip_prefix(b"CONNECT ").filter(|digits| digits.iter().all(u8::is_ascii_digit));
        let port = port.and_then(|digits| std::str::from_utf8(digits).ok()).and_then(|digits| digits.parse().ok());
        let Some(port) = port else { return Greeted::Wrong };
        let host_port = connection.host_port;
        // The guest has chosen that very pair of ports.
        if self.slots.iter().flatten().any(|one| (one.host_port, one.guest_port) == (host_port, port)) {
            return Greeted::Wrong;
        }
        let Some(connection) = self.get(slot) else { return Greeted::Wrong };
        (connection.guest_port, connection.ask, connection.stage) = (port, true, Stage::Asked);
        Greeted::Asked
    }

    /// The line that says to the program in a slot that it has its stream.
    pub fn granted(&mut self, slot: usize) -> Option<String> {
        self.get(slot).map(|connection| format!("OK {}\n", connection.host_port))
    }

    /// Ends the connection in a slot, and has the guest told of it if it knows it.
    pub fn close(&mut self, slot: usize) {
        let Some(connection) = self.slots.get_mut(slot).and_then(Option::take) else { return };
        if connection.stage != Stage::Greeting && !connection.ask {
            self.refuse(connection.host_port, connection.guest_port);
        }
    }

    fn refuse(&mut self, host_port: u32, guest_port: u32) {
        if self.resets.len() < MOST_RESETS {
            self.resets.push_back((host_port, guest_port));
        }
    }

    /// Takes a packet of the guest's with its data.
    pub fn receive(&mut self, header: &Header, data: &[u8]) -> Received {
        if header.source != u64::from(self.cid) || header.destination != HOST {
            return Received::Nothing;
        }
        let (host_port, guest_port) = (header.destination_port, header.source_port);
        let is_it = |one: &Connection| (one.host_port, one.guest_port) == (host_port, guest_port);
        let known = |one: &Connection| one.stage != Stage::Greeting && !one.ask;
        let slot = self.slots.iter().position(|slot| slot.as_ref().is_some_and(|one| is_it(one) && known(one)));
        let Some((slot, connection)) = slot.and_then(|slot| Some((slot, self.slots.get_mut(slot)?.as_mut()?))) else {
            let called = if header.operation == operation::REQUEST { self.called(header) } else { None };
            if called.is_none() && header.operation != operation::RESET {
                self.refuse(host_port, guest_port);
            }
            return called.unwrap_or(Received::Nothing);
        };
        if header.kind != STREAM {
            self.close(slot);
            return Received::Gone(slot);
        }
        (connection.guest_room, connection.guest_passed) = (header.room, header.passed);
        match (header.operation, connection.stage) {
            (operation::RESPONSE, Stage::Asked) => {
                connection.stage = Stage::Open;
                Received::Opened(slot)
            }
            (operation::RESET, _) => {
                self.slots.get_mut(slot).map(Option::take);
                Received::Gone(slot)
            }
            (operation::DATA, Stage::Open)
                if connection.shut & NO_SEND == 0 && connection.kept.len() + data.len() <= ROOM as usize =>
            {
                connection.kept.extend(data);
                if connection.deaf {
                    connection.took(data.len());
                }
                Received::Changed(slot)
            }
            (operation::SHUTDOWN, Stage::Open) => {
                connection.shut |= header.flags & (NO_RECEIVE | NO_SEND);
                Received::Changed(slot)
            }
            (operation::CREDIT, Stage::Open) => Received::Changed(slot),
            (operation::CREDIT_REQUEST, Stage::Open) => {
                connection.credit = true;
                Received::Nothing
            }
            // Out of turn, or more than there is room for.
            _ => {
                self.close(slot);
                Received::Gone(slot)
            }
        }
    }

    /// The next packet without data that is due to the guest.
    pub fn due(&mut self) -> Option<Header> {
        if let Some((host_port, guest_port)) = self.resets.pop_front() {
            return Some(self.header(host_port, guest_port, operation::RESET));
        }
        let slot = self.slots.iter().position(|slot| {
            slot.as_ref()
                .is_some_and(|one| one.ask || one.grant || one.credit || one.say_ended && one.stage == Stage::Open)
        })?;
        let connection = self.get(slot)?;
        let (what, flags) = if std::mem::take(&mut connection.ask) {
            (operation::REQUEST, 0)
        } else if std::mem::take(&mut connection.grant) {
            (operation::RESPONSE, 0)
        } else if std::mem::take(&mut connection.credit) {
            (operation::CREDIT, 0)
        } else {
            connection.say_ended = false;
            (operation::SHUTDOWN, NO_SEND)
        };
        self.of(slot, what).map(|header| Header { flags, ..header })
    }

    /// The next connection in turn of which `ready` says that its program has sent something, and how much of it the
    /// guest has room for.
    pub fn next_sender(&mut self, ready: impl Fn(usize) -> bool) -> Option<(usize, u32)> {
        let slots = (0..MOST_CONNECTIONS).map(|at| (self.turn + at) % MOST_CONNECTIONS);
        let sends = |slot: &usize| self.slots.get(*slot).and_then(Option::as_ref).is_some_and(Connection::may_send);
        let slot = slots.into_iter().find(|slot| sends(slot) && ready(*slot))?;
        self.turn = slot + 1;
        let credit = self.get(slot)?.credit();
        Some((slot, credit))
    }

    /// The header of `bytes` bytes for the guest, which are counted as sent.
    pub fn send(&mut self, slot: usize, bytes: u32) -> Option<Header> {
        let connection = self.get(slot)?;
        connection.sent = connection.sent.wrapping_add(bytes);
        self.of(slot, operation::DATA).map(|header| Header { bytes, ..header })
    }

    fn of(&mut self, slot: usize, what: u16) -> Option<Header> {
        let connection = self.get(slot)?;
        connection.told = connection.passed;
        let (host_port, guest_port, passed) = (connection.host_port, connection.guest_port, connection.passed);
        Some(Header { passed, ..self.header(host_port, guest_port, what) })
    }

    fn header(&self, host_port: u32, guest_port: u32, what: u16) -> Header {
        Header {
            source: HOST,
            destination: self.cid.into(),
            source_port: host_port,
            destination_port: guest_port,
            kind: STREAM,
            operation: what,
            room: ROOM,
            ..Header::default()
        }
    }
}
