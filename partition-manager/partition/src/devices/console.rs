//! The console: a 16550 UART whose output goes to the shared record.

use super::bus::Device;
use super::lock;
use crate::interrupts::Pulse;
use crate::record::Record;
use frame::record::Cause;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use vm_superio::Trigger;
use vm_superio::serial::{NoEvents, Serial};

/// Most bytes of input that wait for the guest, beyond the UART's own FIFO. What comes on top is dropped, as
/// a line without flow control does.
pub const INPUT_LIMIT: usize = 4096;

/// The UART's interrupt.
#[derive(Debug)]
pub struct Interrupt(pub Box<dyn Pulse>);

impl Trigger for Interrupt {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        self.0.raise();
        Ok(())
    }
}

/// The way out: the record's ring.
#[derive(Debug)]
struct Ring {
    record: Arc<Record>,
    total: u64,
    unannounced: bool,
}

impl Write for Ring {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.total = self.record.console_write(self.total, bytes);
        self.unannounced = true;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct State {
    uart: Serial<Interrupt, NoEvents, Ring>,
    waiting: VecDeque<u8>,
    fifo: usize,
}

/// The console device.
pub struct Console {
    state: Mutex<State>,
    doorbell: OwnedFd,
}

impl std::fmt::Debug for Console {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Console").field("doorbell", &self.doorbell).finish_non_exhaustive()
    }
}

impl Console {
    /// A UART that writes to `record`, signals `doorbell` (an eventfd that does not block) and raises
    /// `interrupt`.
    #[must_use]
    pub fn new(record: Arc<Record>, doorbell: OwnedFd, interrupt: Box<dyn Pulse>) -> Self {
        let ring = Ring { total: record.console_total(), record, unannounced: false };
        let uart = Serial::new(Interrupt(interrupt), ring);
        let fifo = uart.fifo_capacity();
        Self { state: Mutex::new(State { uart, waiting: VecDeque::new(), fifo }), doorbell }
    }

    /// Types `bytes`. What does not fit into [`INPUT_LIMIT`] is dropped.
    pub fn input(&self, bytes: &[u8]) {
        let mut state = lock(&self.state);
        let room = INPUT_LIMIT.saturating_sub(state.waiting.len());
        state.waiting.extend(bytes.iter().take(room));
        state.feed();
    }

    /// The eventfd that is signalled after output.
    #[must_use]
    pub fn doorbell(&self) -> &OwnedFd {
        &self.doorbell
    }
}

impl State {
    /// Moves waiting input into the FIFO when that is empty, so that a long paste costs the guest one
    /// interrupt for each FIFO and not for each byte.
    fn feed(&mut self) {
        if self.waiting.is_empty() || self.uart.fifo_capacity() < self.fifo {
            return;
        }
        let length = self.fifo.min(self.waiting.len());
        let bytes: Vec<u8> = self.waiting.iter().take(length).copied().collect();
        // In loopback mode nothing is taken. An interrupt that cannot be raised is already pending.
        match self.uart.enqueue_raw_bytes(&bytes) {
            Ok(taken) => drop(self.waiting.drain(..taken.min(length))),
            Err(_) => drop(self.waiting.drain(..(self.fifo - self.uart.fifo_capacity()).min(length))),
        }
    }
}

impl Device for Console {
    fn read(&self, offset: u64) -> u8 {
        let mut state = lock(&self.state);
        let value = state.uart.read(offset as u8);
        state.feed();
        value
    }

    fn write(&self, offset: u64, value: u8) -> Option<Cause> {
        let mut state = lock(&self.state);
        // The ring takes every byte; an interrupt that cannot be raised is already pending.
        let _ = state.uart.write(offset as u8, value);
        state.feed();
        None
    }

    fn settle(&self) {
        let ring = std::mem::take(&mut lock(&self.state).uart.writer_mut().unannounced);
        if ring {
            // An eventfd that is full was not read yet; its reader will find these bytes too.
            let _ = rustix::io::write(&self.doorbell, &1u64.to_ne_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use frame::record::{CONSOLE_OFFSET, SIZE};
    use proptest::prelude::*;
    use rustix::event::EventfdFlags;
    use std::fs::File;
    use std::os::unix::fs::FileExt;
    use vmm_sys_util::eventfd::EventFd;

    const DATA: u64 = 0;
    const ENABLE: u64 = 1;
    const MODEM_CONTROL: u64 = 4;
    const LINE_STATUS: u64 = 5;

    fn console() -> (File, EventFd, Console) {
        let file = tempfile::tempfile().unwrap();
        file.set_len(SIZE).unwrap();
        let record = Arc::new(Record::map(file.try_clone().unwrap()).unwrap());
        let doorbell = rustix::event::eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        let interrupt = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        (file, interrupt.try_clone().unwrap(), Console::new(record, doorbell, Box::new(interrupt)))
    }

    fn rings(console: &Console) -> u64 {
        let mut count = [0; 8];
        rustix::io::read(console.doorbell(), &mut count).map_or(0, |_| u64::from_ne_bytes(count))
    }

    #[test]
    fn output_goes_to_the_record_and_rings_once_for_each_exit() {
        let (file, _interrupt, console) = console();
        for byte in b"hello" {
            assert_eq!(console.write(DATA, *byte), None);
        }
        assert_eq!(rings(&console), 0);
        console.settle();
        console.settle();
        assert_eq!(rings(&console), 1);
        let mut text = [0; 5];
        file.read_exact_at(&mut text, CONSOLE_OFFSET).unwrap();
        assert_eq!(&text, b"hello");
    }

    #[test]
    fn input_waits_beyond_the_fifo_and_no_further() {
        let (_file, interrupt, console) = console();
        assert_eq!(console.write(ENABLE, 1), None);
        let typed: Vec<u8> = (0..5000u32).map(|at| (at % 251) as u8).collect();
        console.input(&typed);
        assert!(interrupt.read().unwrap() >= 1);
        let mut read = Vec::new();
        while console.read(LINE_STATUS) & 1 != 0 {
            read.push(console.read(DATA));
        }
        // The FIFO's share was moved out of the queue only after the limit was applied.
        assert_eq!(read, typed[..INPUT_LIMIT]);
        assert!(interrupt.read().unwrap() >= 1, "every further FIFO raises the interrupt");
    }

    #[test]
    fn input_waits_for_the_end_of_loopback() {
        let (_file, _interrupt, console) = console();
        assert_eq!(console.write(MODEM_CONTROL, 0x10), None);
        console.input(b"x");
        assert_eq!(console.read(LINE_STATUS) & 1, 0);
        assert_eq!(console.write(MODEM_CONTROL, 0), None);
        assert_eq!(console.read(DATA), b'x');
    }

    proptest! {
        #[test]
        fn no_order_of_accesses_hurts(steps in proptest::collection::vec((0u64..8, any::<u8>(), 0u8..3), 0..400)) {
            let (_file, _interrupt, console) = console();
            for (offset, value, kind) in steps {
                match kind {
                    0 => drop(console.read(offset)),
                    1 => prop_assert_eq!(console.write(offset, value), None),
                    _ => console.input(&[value; 100]),
                }
                prop_assert!(lock(&console.state).waiting.len() <= INPUT_LIMIT);
            }
        }
    }
}
