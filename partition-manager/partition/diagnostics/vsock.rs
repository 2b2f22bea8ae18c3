//! What the commands about the socket device do: one stream at a time, whose bytes go back as they come (virtio 1.2,
//! section 5.10).

use crate::console::Line;
use crate::devices;
use crate::memory;
use crate::virtio::{DATA, DATA_BYTES, Device, SOCKET, Trouble};

/// Bytes of a packet's header (section 5.10.6), and its fields.
const HEADER: u64 = 44;
const DESTINATION_PORT: u64 = 20;
const SOURCE_PORT: u64 = 16;
const BYTES: u64 = 24;
const OPERATION: u64 = 30;
const FLAGS: u64 = 32;
const ROOM: u64 = 36;
const PASSED: u64 = 40;
/// The host, and the type of streams.
const HOST: u64 = 2;
const STREAM: u32 = 1;
/// Operations.
const REQUEST: u16 = 1;
const RESPONSE: u16 = 2;
const RESET: u16 = 3;
const SHUTDOWN: u16 = 4;
const TRANSFER: u16 = 5;
const CREDIT: u16 = 6;
const CREDIT_REQUEST: u16 = 7;
/// Shutdown: nothing is received any more, nothing is sent any more.
const NO_RECEIVE: u32 = 1;
const NO_SEND: u32 = 2;
/// Bytes that came and did not go back yet: in a ring in the second half of the data; packets come to the first.
const KEPT: u64 = DATA + DATA_BYTES as u64 / 2;
const KEPT_BYTES: u32 = DATA_BYTES / 2;
/// Port that the guest calls from.
const OWN_PORT: u32 = 4096;

/// One stream.
struct Stream {
    device: Device,
    cid: u32,
    own: u32,
    other: u32,
    /// Bytes received, sent, and those that the host can take in all.
    received: u32,
    sent: u32,
    allowed: u32,
    ended: bool,
    reset: bool,
}

impl Stream {
    fn new(slot: u64) -> Result<Self, Trouble> {
        let device = devices::ready(slot)?;
        if device.kind != SOCKET {
            return Err(Trouble::Absent);
        }
        let cid = (0..4).rev().fold(0, |cid, at| cid << 8 | u32::from(device.own(at)));
        let (own, other, received, sent, allowed) = (0, 0, 0, 0, 0);
        Ok(Self { device, cid, own, other, received, sent, allowed, ended: false, reset: false })
    }

    /// Sends a packet with `bytes` of what is kept, which lie together.
    fn send(&mut self, operation: u16, flags: u32, bytes: u32) -> Result<(), Trouble> {
        let sender = self.device.second();
        let header = sender.segment();
        let words = [
            self.cid,
            0,
            HOST as u32,
            0,
            self.own,
            self.other,
            bytes,
            STREAM | u32::from(operation) << 16,
            flags,
            KEPT_BYTES,
            // What went back was passed on.
            self.sent.wrapping_add(bytes),
        ];
        (0u64..).zip(words).for_each(|(at, word)| memory::write_register(header + at * 4, word));
        let data = (KEPT + u64::from(self.sent % KEPT_BYTES), bytes, false);
        let whole = [(header, HEADER as u32, false), data];
        sender.request(if bytes == 0 { &whole[..1] } else { &whole })?;
        self.sent = self.sent.wrapping_add(bytes);
        Ok(())
    }

    /// Takes the next packet of this stream, or of any that asks for `listening`; its operation.
    fn receive(&mut self, listening: Option<u32>) -> Result<u16, Trouble> {
        loop {
            self.device.request(&[(DATA, DATA_BYTES / 2, true)])?;
            let operation = (memory::word(DATA + OPERATION - 2) >> 16) as u16;
            let (from, to) = (memory::word(DATA + SOURCE_PORT), memory::word(DATA + DESTINATION_PORT));
            if operation == REQUEST && listening == Some(to) {
                (self.own, self.other) = (to, from);
            } else if (from, to) != (self.other, self.own) {
                continue;
            }
            self.allowed = memory::word(DATA + PASSED).wrapping_add(memory::word(DATA + ROOM));
            match operation {
                TRANSFER => self.keep(memory::word(DATA + BYTES)),
                SHUTDOWN => self.ended |= memory::word(DATA + FLAGS) & NO_SEND != 0,
                RESET => self.reset = true,
                _ => {}
            }
            return Ok(operation);
        }
    }

    fn keep(&mut self, bytes: u32) {
        for at in 0..bytes {
            let place = KEPT + u64::from(self.received.wrapping_add(at) % KEPT_BYTES);
            memory::write_byte(place, memory::byte(DATA + HEADER + u64::from(at)));
        }
        self.received = self.received.wrapping_add(bytes);
    }

    /// Sends everything back until the other side ends.
    fn echo(&mut self) -> Result<(), Trouble> {
        while !self.reset {
            let kept = self.received.wrapping_sub(self.sent);
            let together = KEPT_BYTES - self.sent % KEPT_BYTES;
            let count = kept.min(together).min(self.allowed.wrapping_sub(self.sent));
            if count > 0 {
                self.send(TRANSFER, 0, count)?;
            } else if kept > 0 {
                self.send(CREDIT_REQUEST, 0, 0)?;
                while !matches!(self.receive(None)?, CREDIT | RESET) {}
            } else if self.ended {
                self.send(SHUTDOWN, NO_RECEIVE | NO_SEND, 0)?;
                while self.receive(None)? != RESET {}
            } else {
                self.receive(None)?;
            }
        }
        Ok(())
    }

    fn tell(&self, line: &mut Line) {
        line.text("vsock port=").number(self.own.into()).field("peer", self.other.into());
        line.field("echoed", self.sent.into()).field("interrupts", self.device.interrupts());
    }
}

/// Waits for a program of the host at `port`, and sends back what it says until it ends.
pub fn listen(slot: u64, port: u64, line: &mut Line) {
    let outcome = Stream::new(slot).and_then(|mut stream| {
        while stream.receive(Some(port as u32))? != REQUEST {}
        stream.send(RESPONSE, 0, 0)?;
        stream.echo()?;
        stream.tell(line);
        Ok(())
    });
    devices::said(line, outcome);
}

/// Connects to `port` of the host, and sends back what who is there says until that ends.
pub fn call(slot: u64, port: u64, line: &mut Line) {
    let outcome = Stream::new(slot).and_then(|mut stream| {
        (stream.own, stream.other) = (OWN_PORT, port as u32);
        stream.send(REQUEST, 0, 0)?;
        while !stream.reset && stream.receive(None)? != RESPONSE {}
        stream.echo()?;
        stream.tell(line);
        Ok(())
    });
    devices::said(line, outcome);
}
