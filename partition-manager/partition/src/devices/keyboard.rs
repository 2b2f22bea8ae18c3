//! A keyboard controller without a keyboard (Intel 8042, as a PC has it), and system control port A.
//!
//! It is there for its reset line and its A20 gate, and answers at once: a driver that waits for its input buffer
//! goes on, and one that looks for a keyboard or a mouse is told that nothing answers there. It raises no
//! interrupts. ACPI says that there is none.

use super::bus::Device;
use super::lock;
use frame::record::Cause;
use std::sync::{Arc, Mutex};

/// Port of the data.
pub const DATA_PORT: u16 = 0x60;
/// System control port A: A20 gate and reset.
pub const CONTROL_A_PORT: u16 = 0x92;

/// Status: there is something to read.
const OUTPUT_FULL: u8 = 1;
/// Status: the machine passed its test.
const SYSTEM: u8 = 1 << 2;
/// Status: the last write was a command.
const COMMAND: u8 = 1 << 3;
/// Status: the keyboard is not locked.
const UNLOCKED: u8 = 1 << 4;
/// Status: what is to be read is of the mouse's side.
const OF_MOUSE: u8 = 1 << 5;
/// Status: nothing answered in time.
const TIMED_OUT: u8 = 1 << 6;
/// What a device that does not answer is said to have sent: send it again.
const RESEND: u8 = 0xfe;
/// Result of a test of a side: its clock line does not move.
const NO_CLOCK: u8 = 1;
/// Command byte: both sides disabled, the machine passed its test.
const COMMAND_BYTE: u8 = 0x34;
/// Output port: not in reset, A20 open.
const OUTPUT_PORT: u8 = 0x03;

#[derive(Clone, Copy, Debug)]
struct State {
    status: u8,
    output: u8,
    command_byte: u8,
    /// The command that wants a byte.
    pending: Option<u8>,
}

impl State {
    const fn answer(&mut self, value: u8, with: u8) {
        self.output = value;
        self.status = self.status & !(OF_MOUSE | TIMED_OUT) | OUTPUT_FULL | with;
    }

    fn command(&mut self, command: u8) -> Option<Cause> {
        self.status |= COMMAND;
        self.pending = None;
        match command {
            0x20 => self.answer(self.command_byte, 0),
            0x60 | 0xd1..=0xd4 => self.pending = Some(command),
            // The test of the controller itself, of the mouse's side, of the keyboard's.
            0xaa => self.answer(0x55, 0),
            0xa9 | 0xab => self.answer(NO_CLOCK, 0),
            0xc0 => self.answer(0, 0),
            0xd0 => self.answer(OUTPUT_PORT, 0),
            // Pulses the lines of the output port whose bits are low: bit 0 is reset.
            0xf0..=0xff if command & 1 == 0 => return Some(Cause::Reset),
            _ => {}
        }
        None
    }

    fn data(&mut self, value: u8) -> Option<Cause> {
        self.status &= !COMMAND;
        match self.pending.take() {
            Some(0x60) => self.command_byte = value,
            Some(0xd1) => return (value & 1 == 0).then_some(Cause::Reset),
            // What is written to an output buffer is there to be read.
            Some(0xd2) => self.answer(value, 0),
            Some(0xd3) => self.answer(value, OF_MOUSE),
            Some(_) => self.answer(RESEND, OF_MOUSE | TIMED_OUT),
            None => self.answer(RESEND, TIMED_OUT),
        }
        None
    }

    const fn read(&mut self) -> u8 {
        self.status &= !(OUTPUT_FULL | OF_MOUSE | TIMED_OUT);
        self.output
    }
}

#[derive(Debug)]
struct Controller(Mutex<State>);

/// The data port.
#[derive(Clone, Debug)]
pub struct Data(Arc<Controller>);

/// The status and command port.
#[derive(Clone, Debug)]
pub struct Command(Arc<Controller>);

/// The two ports of a controller.
#[must_use]
pub fn ports() -> (Data, Command) {
    let state = State { status: SYSTEM | UNLOCKED, output: 0, command_byte: COMMAND_BYTE, pending: None };
    let controller = Arc::new(Controller(Mutex::new(state)));
    (Data(Arc::clone(&controller)), Command(controller))
}

impl Device for Data {
    fn read(&self, _offset: u64) -> u8 {
        lock(&self.0.0).read()
    }

    fn write(&self, _offset: u64, value: u8) -> Option<Cause> {
        lock(&self.0.0).data(value)
    }
}

impl Device for Command {
    fn read(&self, _offset: u64) -> u8 {
        lock(&self.0.0).status
    }

    fn write(&self, _offset: u64, value: u8) -> Option<Cause> {
        lock(&self.0.0).command(value)
    }
}

/// System control port A: A20 is always open; a one in bit 0 resets.
#[derive(Clone, Copy, Debug)]
pub struct ControlA;

impl Device for ControlA {
    fn read(&self, _offset: u64) -> u8 {
        2
    }

    fn write(&self, _offset: u64, value: u8) -> Option<Cause> {
        (value & 1 != 0).then_some(Cause::Reset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use frame::platform::KEYBOARD_RESET;
    use proptest::prelude::*;

    #[test]
    fn its_reset_line_can_be_pulsed_at_once() {
        let (data, command) = ports();
        assert_eq!(command.read(0) & 2, 0, "nobody waits for an input buffer");
        assert_eq!(command.write(0, 0xff), None, "no line is low");
        assert_eq!(command.write(0, KEYBOARD_RESET), Some(Cause::Reset));
        assert_eq!(command.write(0, 0xd1), None);
        assert_eq!(data.write(0, 0xdf), None, "the A20 gate of old loaders");
        assert_eq!(command.write(0, 0xd1), None);
        assert_eq!(data.write(0, 0xde), Some(Cause::Reset));
        assert_eq!(ControlA.read(0), 2, "A20 is open");
        assert_eq!(ControlA.write(0, 2), None);
        assert_eq!(ControlA.write(0, 3), Some(Cause::Reset));
    }

    #[test]
    fn nobody_waits_for_a_keyboard() {
        let (data, command) = ports();
        assert_eq!(command.read(0) & OUTPUT_FULL, 0, "nothing to be flushed");
        assert_eq!(command.write(0, 0xaa), None);
        assert_eq!((command.read(0) & OUTPUT_FULL, data.read(0)), (1, 0x55));
        assert_eq!(command.read(0) & OUTPUT_FULL, 0);
        // Identify the keyboard: it times out, at once.
        assert_eq!(data.write(0, 0xf2), None);
        assert_eq!((command.read(0) & (OUTPUT_FULL | TIMED_OUT), data.read(0)), (OUTPUT_FULL | TIMED_OUT, RESEND));
        for test in [0xa9, 0xab] {
            assert_eq!(command.write(0, test), None);
            assert_eq!(data.read(0), NO_CLOCK);
        }
        assert_eq!(command.write(0, 0x60), None);
        assert_eq!(data.write(0, 0x47), None);
        assert_eq!(command.write(0, 0x20), None);
        assert_eq!(data.read(0), 0x47);
    }

    proptest! {
        #[test]
        fn its_input_buffer_is_always_empty_and_only_resets_end_anything(
            steps in proptest::collection::vec((any::<bool>(), any::<bool>(), any::<u8>()), 0..100),
        ) {
            let (data, command) = ports();
            for (is_data, write, value) in steps {
                let port: &dyn Device = if is_data { &data } else { &command };
                if write {
                    let cause = port.write(0, value);
                    prop_assert!(cause.is_none() || cause == Some(Cause::Reset) && value & 1 == 0);
                } else {
                    let _ = port.read(0);
                }
                prop_assert_eq!(command.read(0) & 2, 0);
            }
        }
    }
}
