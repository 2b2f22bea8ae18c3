//! What the commands about network adapters do: frames of a type for experiments, each with a number.

use crate::console::Line;
use crate::devices;
use crate::memory;
use crate::virtio::{DATA, Device, NETWORK, Trouble};

/// Bytes before each frame: `struct virtio_net_hdr` with its count of buffers (virtio 1.2, section 5.1.6).
const HEADER: u64 = 12;
/// Bytes of addresses and type, and of a tag.
const ETHERNET: u64 = 14;
/// Local experimental EtherType 1 (IEEE 802, section 9.2.3): nobody else answers.
const KIND: [u8; 2] = [0x88, 0xb5];
/// Shortest frame that switches carry, without its checksum.
const SHORTEST: u32 = 60;
/// Room for a frame without segmentation, with its header and a tag.
const ROOM: u32 = 12 + 1518;
/// Frames of others, such as a host's own searches for neighbours, that are passed over.
const PASSED: u32 = 100;
/// What queue 1 sends from; queue 0 receives at [`DATA`].
const OUT: u64 = DATA + 0x1000;

fn adapter(slot: u64) -> Result<Device, Trouble> {
    let device = devices::ready(slot)?;
    if device.kind == NETWORK { Ok(device) } else { Err(Trouble::Absent) }
}

/// Sends a broadcast with `number`: from the adapter's own address, or from another one if `forged`.
pub fn send(slot: u64, number: u64, forged: bool, line: &mut Line) {
    let outcome = adapter(slot).and_then(|device| {
        memory::fill(OUT, HEADER + u64::from(SHORTEST), 0);
        memory::fill(OUT + HEADER, 6, 0xff);
        for at in 0..6 {
            let byte = device.own(at);
            memory::write_byte(OUT + HEADER + 6 + at, if forged && at == 5 { !byte } else { byte });
        }
        memory::place(OUT + HEADER + 12, &KIND);
        memory::place(OUT + HEADER + ETHERNET, &number.to_le_bytes());
        device.second().request(&[(OUT, HEADER as u32 + SHORTEST, false)])?;
        line.text("network sent=").number(number);
        Ok(())
    });
    devices::said(line, outcome);
}

/// Waits for such a frame, and says its number and the last byte of its sender's address.
pub fn receive(slot: u64, line: &mut Line) {
    let outcome = adapter(slot).and_then(|device| {
        for _ in 0..PASSED {
            let before = device.interrupts();
            let given = device.request(&[(DATA, ROOM, true)])?;
            device.wait_interrupt(before);
            let kind = [memory::byte(DATA + HEADER + 12), memory::byte(DATA + HEADER + 13)];
            if kind == KIND && u64::from(given) >= HEADER + ETHERNET + 8 {
                let number = (0..8).rev().fold(0, |number, at| {
                    number << 8 | u64::from(memory::byte(DATA + HEADER + ETHERNET + at))
                });
                line.text("network received=").number(number);
                line.field("from", memory::byte(DATA + HEADER + 11).into());
                line.field("interrupts", device.interrupts());
                return Ok(());
            }
        }
        Err(Trouble::Silent)
    });
    devices::said(line, outcome);
}
