//! The console device (virtio 1.2, section 5.3): the partition's second terminal, and ports by which programs of the
//! host and of the guest talk.
//!
//! Each port has a Unix socket, and the program that came to it last. The terminal keeps the end of what the guest
//! wrote for whoever comes, and waits for nobody; on another port the guest waits for a program that does not read, and
//! is told whether one is there.

mod control;
mod history;
pub mod ports;

#[cfg(test)]
mod tests;

use super::{Model, read_bytes};

/// Type of the device.
const CONSOLE: u16 = 3;
/// Entries of each queue.
const QUEUE: u16 = 64;
/// Feature: several ports, and queues to speak of them (section 5.3.3).
const MULTIPORT: u64 = 1 << 1;
/// Queues of one port, or of those that speak of all.
const PAIR: usize = 2;
/// Where the number of ports is in the configuration (section 5.3.4).
const MOST: std::ops::Range<usize> = 4..8;

/// The model: its configuration is how many ports there are.
#[derive(Debug)]
pub struct Console {
    ports: usize,
}

impl Console {
    /// The device with so many ports.
    #[must_use]
    pub const fn new(ports: usize) -> Self {
        Self { ports }
    }
}

impl Model for Console {
    fn kind(&self) -> u16 {
        CONSOLE
    }

    fn class(&self) -> u32 {
        // Communication controller, other.
        0x07_80_00
    }

    fn features(&self) -> u64 {
        MULTIPORT
    }

    fn queues(&self) -> Vec<u16> {
        vec![QUEUE; PAIR * (1 + self.ports)]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let mut config = [0; 12];
        if let Some(most) = config.get_mut(MOST) {
            most.copy_from_slice(&(self.ports as u32).to_le_bytes());
        }
        read_bytes(&config, offset, data);
    }
}

/// What a queue is for (section 5.3.2): those of port 0 come first, then those that speak of all ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// What this port gives to the guest.
    Give(usize),
    /// What the guest gives to this port.
    Take(usize),
    /// What the guest is told about ports.
    Tell,
    /// What it says about them.
    Hear,
}

impl Role {
    const fn of(queue: usize) -> Self {
        let (pair, takes) = (queue / PAIR, queue % PAIR == 1);
        match (pair, takes) {
            (1, false) => Self::Tell,
            (1, true) => Self::Hear,
            (0, false) => Self::Give(0),
            (0, true) => Self::Take(0),
            (_, false) => Self::Give(pair - 1),
            (_, true) => Self::Take(pair - 1),
        }
    }

    const fn queue(self) -> usize {
        match self {
            Self::Give(0) => 0,
            Self::Take(0) => 1,
            Self::Tell => 2,
            Self::Hear => 3,
            Self::Give(port) => PAIR * (port + 1),
            Self::Take(port) => PAIR * (port + 1) + 1,
        }
    }
}
