//! What device and driver tell each other of the ports (virtio 1.2, section 5.3.6.2), without queues.
//!
//! What is still to be told follows from what each port is and what was told: a driver that asks without end has
//! nothing pile up.

use frame::name::Name;

/// Bytes of a message, without a name that follows it.
pub const MESSAGE: usize = 8;

/// Events.
pub mod event {
    /// The driver: it is ready, or not, to hear of ports.
    pub const DEVICE_READY: u16 = 0;
    /// The device: there is this port.
    pub const PORT_ADD: u16 = 1;
    /// The driver: it is ready, or not, to use this port.
    pub const PORT_READY: u16 = 3;
    /// The device: this port is a terminal.
    pub const CONSOLE_PORT: u16 = 4;
    /// Either: this port is open on its side, or not.
    pub const PORT_OPEN: u16 = 6;
    /// The device: this port's name, which follows.
    pub const PORT_NAME: u16 = 7;
}

/// A message: whose, what, and how it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// The port.
    pub port: u32,
    /// One of [`event`].
    pub event: u16,
    /// Mostly whether.
    pub value: u16,
}

impl Message {
    /// As it is in memory.
    pub fn bytes(self) -> [u8; MESSAGE] {
        let word = u64::from(self.port) | u64::from(self.event) << 32 | u64::from(self.value) << 48;
        word.to_le_bytes()
    }

    /// From memory.
    pub const fn parse(bytes: [u8; MESSAGE]) -> Self {
        let word = u64::from_le_bytes(bytes);
        Self { port: word as u32, event: (word >> 32) as u16, value: (word >> 48) as u16 }
    }
}

/// What is due to the driver of one port.
#[derive(Clone, Copy, Debug, Default)]
struct Due {
    add: bool,
    console: bool,
    name: bool,
    open: bool,
}

#[derive(Debug)]
struct Port {
    name: Name,
    /// Whether a program of the host has it; the terminal is always open.
    here: bool,
    /// Whether one of the guest has.
    there: bool,
    /// The driver is ready to use it.
    ready: bool,
    due: Due,
}

/// The ports of a device; the first is its terminal.
#[derive(Debug)]
pub struct Control {
    ports: Vec<Port>,
    /// The port that is told about first: none keeps others waiting.
    turn: usize,
}

impl Control {
    /// Ports of these names, of which no driver has heard yet.
    pub fn new(names: &[Name]) -> Self {
        let port = |(at, name): (usize, &Name)| Port {
            name: name.clone(),
            here: at == 0,
            there: false,
            ready: false,
            due: Due::default(),
        };
        Self { ports: names.iter().enumerate().map(port).collect(), turn: 0 }
    }

    /// Another driver begins: one that knows of several ports, or of the terminal alone.
    pub fn begin(&mut self, several: bool) {
        for (at, port) in self.ports.iter_mut().enumerate() {
            (port.there, port.ready, port.due) = (!several && at == 0, false, Due::default());
        }
    }

    /// The driver says something. What makes no sense is left alone.
    pub fn hear(&mut self, message: Message) {
        if message.event == event::DEVICE_READY && message.value == 1 {
            self.ports.iter_mut().for_each(|port| port.due.add = true);
        }
        let Some(port) = self.ports.get_mut(message.port as usize) else { return };
        let yes = message.value == 1;
        match message.event {
            event::PORT_READY => {
                port.ready = yes;
                port.due = Due { add: false, console: yes && message.port == 0, name: yes, open: yes };
            }
            event::PORT_OPEN => port.there = yes,
            _ => {}
        }
    }

    /// A program of the host has the port now, or has it no more.
    pub fn set_here(&mut self, at: usize, here: bool) {
        let Some(port) = self.ports.get_mut(at).filter(|_| at > 0) else { return };
        if port.here != here {
            port.here = here;
            port.due.open = port.ready;
        }
    }

    /// Whether the guest takes what comes on a port.
    pub fn is_there(&self, at: usize) -> bool {
        self.ports.get(at).is_some_and(|port| port.there)
    }

    /// What the driver is told next, with the name that follows.
    pub fn due(&self) -> Option<(Message, &[u8])> {
        let count = self.ports.len();
        (0..count).map(|step| (self.turn + step) % count).find_map(|at| {
            let Port { name, here, due, .. } = self.ports.get(at)?;
            let tell = |event, value| Message { port: at as u32, event, value };
            Some(match *due {
                Due { add: true, .. } => (tell(event::PORT_ADD, 1), &[][..]),
                Due { console: true, .. } => (tell(event::CONSOLE_PORT, 1), &[][..]),
                Due { name: true, .. } => (tell(event::PORT_NAME, 1), name.as_str().as_bytes()),
                Due { open: true, .. } => (tell(event::PORT_OPEN, u16::from(*here)), &[][..]),
                _ => return None,
            })
        })
    }

    /// It was told that.
    pub fn told(&mut self, message: Message) {
        let at = message.port as usize;
        let Some(port) = self.ports.get_mut(at) else { return };
        let due = match message.event {
            event::PORT_ADD => &mut port.due.add,
            event::CONSOLE_PORT => &mut port.due.console,
            event::PORT_NAME => &mut port.due.name,
            _ => &mut port.due.open,
        };
        *due = false;
        self.turn = at + 1;
    }
}
