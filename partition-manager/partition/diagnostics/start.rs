//! What the monitor hands over: Xen's `hvm_start_info` (Xen's public arch-x86/hvm/start_info.h).

use crate::memory;
use crate::ring0::PROCESSORS;

const MAGIC: u32 = 0x336e_c578;
/// Most bytes of command line that are read.
const LINE: usize = 512;
/// Most entries of the memory map that are read.
const ENTRIES: u32 = 128;
/// Type of usable memory in the memory map.
const RAM: u32 = 1;
/// Memory below this address may be the payload's.
const PAYLOAD_END: u64 = 0x20_0000;

/// A copy of what is needed: the original may lie where the payload publishes later.
pub struct Start {
    line: [u8; LINE],
    line_length: usize,
    /// Address of the ACPI root pointer, 0 if there is none.
    pub rsdp: u64,
    memory: u64,
    /// Usable memory that the payload does not need: from 2 MiB to this address.
    spare_end: u64,
}

/// Reads the start info at `address`; a wrong magic gives an empty one.
pub fn read(address: u64) -> Start {
    let mut start = Start { line: [0; LINE], line_length: 0, rsdp: 0, memory: 0, spare_end: PAYLOAD_END };
    if memory::word(address) != MAGIC {
        return start;
    }
    let line = memory::long(address + 24);
    for (to, at) in start.line.iter_mut().zip(line..) {
        let byte = memory::byte(at);
        if byte == 0 {
            break;
        }
        *to = byte;
        start.line_length += 1;
    }
    start.rsdp = memory::long(address + 32);
    // The memory map came with version 1.
    if memory::word(address + 4) >= 1 {
        let map = memory::long(address + 40);
        for index in 0..memory::word(address + 48).min(ENTRIES) {
            let entry = map + u64::from(index) * 24;
            if memory::word(entry + 16) == RAM {
                start.add(memory::long(entry), memory::long(entry + 8));
            }
        }
    }
    start
}

impl Start {
    fn add(&mut self, base: u64, size: u64) {
        self.memory = self.memory.saturating_add(size);
        if base <= PROCESSORS && base.saturating_add(size) > PAYLOAD_END {
            self.spare_end = base.saturating_add(size).min(1 << 32);
        }
    }

    /// The command line.
    pub fn command_line(&self) -> &[u8] {
        self.line.get(..self.line_length).unwrap_or_default()
    }

    /// Usable memory, MiB, rounded up: the first MiB is never whole.
    pub const fn memory_mib(&self) -> u64 {
        self.memory.div_ceil(1 << 20)
    }

    /// Usable memory that the payload does not need: base and length in bytes.
    pub const fn spare(&self) -> (u64, u64) {
        (PAYLOAD_END, self.spare_end - PAYLOAD_END)
    }
}
