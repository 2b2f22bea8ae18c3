//! What the commands about the console device do: lines of its terminal, out and in (virtio 1.2, section 5.3).

use crate::console::Line;
use crate::devices;
use crate::digits;
use crate::memory;
use crate::virtio::{DATA, Device, TERMINAL, Trouble};

/// Most lines of one command.
const LINES_LIMIT: u64 = 100_000;
/// Room for what is typed at once, and most bytes of a line that comes back.
const ROOM: u32 = 256;
/// What is written comes from here; what is typed comes to [`DATA`].
const OUT: u64 = DATA + 0x1000;

fn terminal(slot: u64) -> Result<Device, Trouble> {
    let device = devices::ready(slot)?;
    if device.kind == TERMINAL { Ok(device) } else { Err(Trouble::Absent) }
}

/// Writes `lines` lines, each with its number.
pub fn say(slot: u64, lines: u64, line: &mut Line) {
    let outcome = terminal(slot).and_then(|device| {
        let lines = lines.min(LINES_LIMIT);
        for number in 1..=lines {
            let mut buffer = [0; digits::MOST];
            let text = digits::decimal(number, &mut buffer);
            memory::place(OUT, b"terminal line ");
            memory::place(OUT + 14, text);
            memory::place(OUT + 14 + text.len() as u64, b"\n");
            device.second().request(&[(OUT, 15 + text.len() as u32, false)])?;
        }
        line.text("terminal said=").number(lines);
        Ok(())
    });
    devices::said(line, outcome);
}

/// Waits for a line, and sends it back.
pub fn echo(slot: u64, line: &mut Line) {
    let outcome = terminal(slot).and_then(|device| {
        let mut bytes = 0;
        loop {
            let given = device.request(&[(DATA, ROOM, true)])?.min(ROOM);
            let kept = given.min(ROOM - bytes);
            for at in 0..u64::from(kept) {
                memory::write_byte(OUT + u64::from(bytes) + at, memory::byte(DATA + at));
            }
            bytes += kept;
            if (0..u64::from(given)).any(|at| memory::byte(DATA + at) == b'\n') {
                break;
            }
        }
        device.second().request(&[(OUT, bytes, false)])?;
        line.text("terminal echoed=").number(bytes.into()).field("interrupts", device.interrupts());
        Ok(())
    });
    devices::said(line, outcome);
}
