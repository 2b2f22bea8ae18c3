//! What the commands about devices do: ordinary requests, and a driver's misdeeds.

use crate::clock;
use crate::command::{Errand, Misdeed};
use crate::console::Line;
use crate::memory;
use crate::pci;
use crate::ring0;
use crate::virtio::{self, DATA, DATA_BYTES, Device, ENTRIES, INDIRECT, NEXT, Trouble, WRITE};

/// Types of device (virtio 1.2, section 5).
const DISK: u16 = 2;
const ENTROPY: u16 = 4;
/// Types of a disk's request (section 5.2.6).
const READ: u32 = 0;
const WRITE_OUT: u32 = 1;
const FLUSH: u32 = 4;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;
/// Bytes of a sector, and of what one request reads or writes: 8 sectors.
const SECTOR: u64 = 512;
const TRANSFER: u32 = 4096;
/// Most requests of one command.
const REQUESTS_LIMIT: u64 = 1_000_000;

/// Names the devices: slot and type of each.
pub fn list(line: &mut Line) {
    line.text("devices=").number(virtio::devices().count() as u64);
    for device in virtio::devices() {
        line.text(" ").number(device.slot.into()).text(":").number(device.kind.into());
    }
}

/// Finds a device and starts it, if it does not run.
pub fn ready(slot: u64) -> Result<Device, Trouble> {
    let device = u8::try_from(slot).ok().and_then(Device::find).ok_or(Trouble::Absent)?;
    // Its registers read as ones before it may answer.
    pci::enable(device.slot);
    if device.is_frozen() {
        return Err(Trouble::Frozen);
    }
    if !device.runs() {
        device.start()?;
    }
    Ok(device)
}

/// Says why it did not work, if it did not.
pub fn said(line: &mut Line, outcome: Result<(), Trouble>) {
    if let Err(trouble) = outcome {
        line.text("refused: ").text(trouble.text());
    }
}

/// Resets a device, which thaws it, and says whether it starts again.
pub fn reset(slot: u64, line: &mut Line) {
    let outcome = u8::try_from(slot).ok().and_then(Device::find).ok_or(Trouble::Absent).and_then(|device| {
        device.start()?;
        line.text("reset slot=").number(slot).field("status", device.status().into());
        Ok(())
    });
    said(line, outcome);
}

/// Asks the entropy device for bytes, and says the first of them.
pub fn random(slot: u64, line: &mut Line) {
    let outcome = ready(slot).and_then(|device| {
        memory::fill(DATA, 64, 0);
        let before = device.interrupts();
        let given = device.request(&[(DATA, 64, true)])?;
        device.wait_interrupt(before);
        line.text("random=").hex(memory::long(DATA)).text("-").hex(memory::long(DATA + 56));
        line.field("bytes", given.into()).field("interrupts", device.interrupts());
        Ok(())
    });
    said(line, outcome);
}

/// One request of a disk; the answer is its status byte.
fn transact(device: &Device, errand: Errand, sector: u64) -> Result<u8, Trouble> {
    let kind = match errand {
        Errand::Read => READ,
        Errand::Write => WRITE_OUT,
        Errand::Flush => FLUSH,
        Errand::Discard => DISCARD,
        Errand::Zero => WRITE_ZEROES,
    };
    let header = (device.header(), 16, false);
    let answer = (device.answer(), 1, true);
    memory::write_register(device.header(), kind);
    memory::write_register(device.header() + 4, 0);
    let named = if matches!(errand, Errand::Read | Errand::Write) { sector } else { 0 };
    memory::write_register(device.header() + 8, named as u32);
    memory::write_register(device.header() + 12, (named >> 32) as u32);
    memory::write_byte(device.answer(), 0xff);
    match errand {
        Errand::Read => device.request(&[header, (DATA, TRANSFER, true), answer])?,
        Errand::Write => device.request(&[header, (DATA, TRANSFER, false), answer])?,
        Errand::Flush => device.request(&[header, answer])?,
        Errand::Discard | Errand::Zero => {
            // Sector, sectors, flags (section 5.2.6).
            memory::write_register(device.segment(), sector as u32);
            memory::write_register(device.segment() + 4, (sector >> 32) as u32);
            memory::write_register(device.segment() + 8, TRANSFER / SECTOR as u32);
            memory::write_register(device.segment() + 12, 0);
            device.request(&[header, (device.segment(), 16, false), answer])?
        }
    };
    Ok(memory::byte(device.answer()))
}

/// Does an errand of a disk at a sector, and says how it went: the status byte (0 is good, 1 an error, 2 not
/// supported) and what was read.
pub fn disk(errand: Errand, slot: u64, sector: u64, line: &mut Line) {
    let outcome = ready(slot).and_then(|device| {
        if device.kind != DISK {
            return Err(Trouble::Absent);
        }
        if let Errand::Write = errand {
            for at in (0..u64::from(TRANSFER)).step_by(8) {
                let word = (sector + at / SECTOR).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ at;
                memory::write_register(DATA + at, word as u32);
                memory::write_register(DATA + at + 4, (word >> 32) as u32);
            }
        } else {
            memory::fill(DATA, TRANSFER.into(), 0xa5);
        }
        let before = device.interrupts();
        let status = transact(&device, errand, sector)?;
        device.wait_interrupt(before);
        line.text("disk status=").number(status.into()).field("interrupts", device.interrupts());
        if let Errand::Read = errand {
            line.text(" digest=").hex(digest(TRANSFER.into()));
        }
        Ok(())
    });
    said(line, outcome);
}

/// FNV-1a over the first words of the data.
fn digest(bytes: u64) -> u64 {
    (0..bytes).step_by(8).fold(0xcbf2_9ce4_8422_2325, |digest, at| {
        (digest ^ memory::long(DATA + at)).wrapping_mul(0x100_0000_01b3)
    })
}

/// Makes requests of a device one after the other, as fast as it answers: each is an interrupt.
pub fn requests(slot: u64, count: u64, line: &mut Line) {
    let outcome = ready(slot).and_then(|device| {
        let (before, start) = (device.interrupts(), ring0::tsc());
        let mut served = 0u64;
        for _ in 0..count.min(REQUESTS_LIMIT) {
            match device.kind {
                DISK => transact(&device, Errand::Read, 0).map(|_| ())?,
                ENTROPY => device.request(&[(DATA, 8, true)]).map(|_| ())?,
                _ => return Err(Trouble::Absent),
            }
            served += 1;
        }
        let spent = ring0::tsc().wrapping_sub(start);
        if served > 0 {
            device.wait_interrupt(before);
        }
        line.text("requests=").number(served).field("interrupts", device.interrupts() - before);
        line.field("total_us", clock::microseconds(spent));
        Ok(())
    });
    said(line, outcome);
}

/// Does to a device what no driver may, and says whether it froze.
pub fn misdrive(slot: u64, misdeed: Misdeed, line: &mut Line) {
    let outcome = ready(slot).and_then(|device| {
        let beyond = 0xb000_0000_0000;
        match misdeed {
            Misdeed::Loop => {
                device.describe(0, DATA, 16, NEXT, 1);
                device.describe(1, DATA, 16, NEXT | WRITE, 0);
                device.offer(0, 1);
            }
            Misdeed::Index => device.offer(ENTRIES * 4, 1),
            Misdeed::Next => {
                device.describe(0, DATA, 16, NEXT, 0x7fff);
                device.offer(0, 1);
            }
            Misdeed::Address => {
                device.describe(0, beyond, 16, NEXT, 1);
                device.describe(1, beyond + 0x1000, 64, WRITE, 0);
                device.offer(0, 1);
            }
            Misdeed::Length => {
                device.describe(0, DATA, u32::MAX, NEXT, 1);
                device.describe(1, DATA, u32::MAX, WRITE, 0);
                device.offer(0, 1);
            }
            Misdeed::Flood => {
                device.describe(0, DATA, 16, WRITE, 0);
                device.offer(0, ENTRIES * 8);
            }
            Misdeed::Indirect => {
                device.describe(0, DATA, 17, INDIRECT, 0);
                device.offer(0, 1);
            }
            Misdeed::Rings => device.start_at(beyond).or_else(|trouble| match trouble {
                Trouble::Frozen => Ok(()),
                other => Err(other),
            })?,
            Misdeed::Blind => device.start_blindly()?,
            Misdeed::Noise => {
                // Random descriptors, a different table each time; the time stamp counter is random enough.
                let mut value = ring0::tsc() | 1;
                for _ in 0..1000 {
                    for index in 0..ENTRIES {
                        value ^= value << 13;
                        value ^= value >> 7;
                        value ^= value << 17;
                        let address = if value & 1 == 0 { DATA + (value >> 8 & 0xfff) } else { value >> 16 };
                        let length = if value & 2 == 0 { DATA_BYTES } else { (value >> 32) as u32 };
                        device.describe(index, address, length & 0xffff, (value >> 5 & 7) as u16 & !WRITE, (value >> 11) as u16 & 31);
                    }
                    device.offer((value >> 20) as u16 % ENTRIES, 1);
                    device.notify((value >> 24) as u16 & 7);
                    if device.is_frozen() {
                        break;
                    }
                }
            }
        }
        let frozen = device.wait_frozen();
        line.text("misdrive slot=").number(slot).field("frozen", frozen.into());
        Ok(())
    });
    said(line, outcome);
}
