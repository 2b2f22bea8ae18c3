//! The PVH boot protocol (Xen's docs/misc/pvh and public arch-x86/hvm/start_info.h), version 1.

use super::{BootError, Entry, place, write};
use crate::acpi;
use crate::layout;
use crate::memory::Memory;

const MAGIC: u32 = 0x336e_c578;
const VERSION: u32 = 1;

/// Leaves the start information for a kernel whose PVH entry is at `entry`.
pub fn prepare(memory: &Memory, entry: u64, initrd: Option<(u64, u64)>) -> Result<Entry, BootError> {
    let address = u32::try_from(entry).map_err(|_| BootError::Entry(entry))?;
    let map = layout::map(memory.bytes());
    let mut info = Vec::with_capacity(56);
    for word in [MAGIC, VERSION, 0, u32::from(initrd.is_some())] {
        info.extend(word.to_le_bytes());
    }
    let modules = if initrd.is_some() { place::MODULES } else { 0 };
    for address in [modules, place::COMMAND_LINE, acpi::TABLES, place::MEMORY_MAP] {
        info.extend(address.to_le_bytes());
    }
    info.extend((map.len() as u32).to_le_bytes());
    info.extend(0u32.to_le_bytes());
    write(memory, place::START_INFO, &info)?;
    if let Some((address, bytes)) = initrd {
        let module: Vec<u8> = [address, bytes, 0, 0].iter().flat_map(|word| word.to_le_bytes()).collect();
        write(memory, place::MODULES, &module)?;
    }
    let mut entries = Vec::with_capacity(map.len() * 24);
    for range in &map {
        entries.extend(range.start.to_le_bytes());
        entries.extend(range.bytes.to_le_bytes());
        entries.extend((range.kind as u32).to_le_bytes());
        entries.extend(0u32.to_le_bytes());
    }
    write(memory, place::MEMORY_MAP, &entries)?;
    Ok(Entry::Protected { address, information: place::START_INFO as u32, magic: 0 })
}
