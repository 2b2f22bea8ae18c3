//! The console: a 16550 UART at its customary port, lines out and lines in.

use core::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering::Relaxed};

use crate::digits;
use crate::platform::SERIAL_PORT;
use crate::ring0;

const DATA: u16 = SERIAL_PORT;
const INTERRUPT_ENABLE: u16 = SERIAL_PORT + 1;
const FIFO_CONTROL: u16 = SERIAL_PORT + 2;
const MODEM_CONTROL: u16 = SERIAL_PORT + 4;
const LINE_STATUS: u16 = SERIAL_PORT + 5;
const DATA_READY: u8 = 1;
const TRANSMITTER_EMPTY: u8 = 0x20;
/// Bytes that the transmitter takes when it is empty.
const FIFO: usize = 16;
/// How long a line waits for the transmitter, in cycles: a fraction of a second on any machine.
const PATIENCE: u64 = 1 << 29;
/// Bytes taken from the receiver in one go.
const BURST: usize = 64;

/// The name that lines begin with, byte by byte: the assembly may send any processor to code that prints.
static NAME: [AtomicU8; 63] = [const { AtomicU8::new(0) }; 63];
static NAME_LENGTH: AtomicUsize = AtomicUsize::new(0);
/// Whether anything was written yet.
static OPEN: AtomicBool = AtomicBool::new(false);

/// Sets the name that [`Line::named`] begins with.
pub fn set_name(name: &[u8]) {
    let mut length = 0;
    for (to, &from) in NAME.iter().zip(name) {
        to.store(from, Relaxed);
        length += 1;
    }
    NAME_LENGTH.store(length, Relaxed);
}

/// A line being put together; what does not fit is cut off.
pub struct Line {
    bytes: [u8; 480],
    length: usize,
}

impl Line {
    /// An empty line.
    pub const fn new() -> Self {
        Self { bytes: [0; 480], length: 0 }
    }

    /// A line that begins with the payload's name.
    #[inline(never)]
    pub fn named() -> Self {
        let mut line = Self::new();
        for byte in NAME.iter().take(NAME_LENGTH.load(Relaxed)) {
            line.push(byte.load(Relaxed));
        }
        line
    }

    fn push(&mut self, byte: u8) {
        if let Some(to) = self.bytes.get_mut(self.length) {
            *to = byte;
            self.length += 1;
        }
    }

    /// Appends bytes.
    #[inline(never)]
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        for &byte in bytes {
            self.push(byte);
        }
        self
    }

    /// Appends text.
    #[inline(never)]
    pub fn text(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    /// Appends a decimal number.
    #[inline(never)]
    pub fn number(&mut self, value: u64) -> &mut Self {
        self.bytes(digits::decimal(value, &mut [0; digits::MOST]))
    }

    /// Appends a hexadecimal number.
    #[inline(never)]
    pub fn hex(&mut self, value: u64) -> &mut Self {
        self.bytes(digits::hexadecimal(value, &mut [0; digits::MOST]))
    }

    /// Appends ` KEY=` and a decimal number.
    #[inline(never)]
    pub fn field(&mut self, key: &str, value: u64) -> &mut Self {
        self.text(" ").text(key).text("=").number(value)
    }

    fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

/// Writes a line and its end. What the transmitter does not take in a fraction of a second is dropped.
pub fn say(line: &Line) {
    let mut bytes = [0; 482];
    let (text, end) = bytes.split_at_mut(line.length);
    text.copy_from_slice(line.as_bytes());
    end[..2].copy_from_slice(b"\r\n");
    write(&bytes[..line.length + 2]);
}

fn write(bytes: &[u8]) {
    // Straight after reset the transmitter is empty; asking it would only delay the first output.
    let mut empty = !OPEN.swap(true, Relaxed);
    if empty {
        ring0::out8(FIFO_CONTROL, 1);
    }
    for chunk in bytes.chunks(FIFO) {
        if !empty && !wait_for_transmitter() {
            return;
        }
        empty = false;
        if let [byte] = chunk {
            ring0::out8(DATA, *byte);
        } else {
            ring0::output(DATA, chunk);
        }
    }
}

fn wait_for_transmitter() -> bool {
    let start = ring0::tsc();
    while ring0::in8(LINE_STATUS) & TRANSMITTER_EMPTY == 0 {
        if ring0::tsc().wrapping_sub(start) > PATIENCE {
            return false;
        }
    }
    true
}

/// Lets the receiver interrupt (on a PC, OUT2 connects the interrupt line).
pub fn enable_input() {
    ring0::out8(MODEM_CONTROL, 0x0b);
    ring0::out8(INTERRUPT_ENABLE, 1);
}

/// A line that is being typed.
pub struct Input {
    bytes: [u8; 128],
    length: usize,
    after_return: bool,
}

/// What a look at the receiver found.
pub enum Received {
    /// Nothing, or part of a line, all of it taken.
    Nothing,
    /// More may be waiting.
    More,
    /// A line; [`Input::take`] has it.
    Line,
}

impl Input {
    /// Nothing typed.
    pub const fn new() -> Self {
        Self { bytes: [0; 128], length: 0, after_return: false }
    }

    /// Takes and echoes what the receiver holds, up to the end of a line.
    pub fn receive(&mut self) -> Received {
        for _ in 0..BURST {
            if ring0::in8(LINE_STATUS) & DATA_READY == 0 {
                return Received::Nothing;
            }
            let byte = ring0::in8(DATA);
            let after_return = core::mem::replace(&mut self.after_return, byte == b'\r');
            match byte {
                b'\n' if after_return => {}
                b'\r' | b'\n' => {
                    write(b"\r\n");
                    return Received::Line;
                }
                0x08 | 0x7f if self.length > 0 => {
                    self.length -= 1;
                    write(b"\x08 \x08");
                }
                b' '..=b'~' => {
                    if let Some(to) = self.bytes.get_mut(self.length) {
                        *to = byte;
                        self.length += 1;
                        write(&[byte]);
                    }
                }
                _ => {}
            }
        }
        Received::More
    }

    /// Takes the line; the next starts empty.
    pub fn take(&mut self) -> ([u8; 128], usize) {
        (self.bytes, core::mem::take(&mut self.length))
    }
}
