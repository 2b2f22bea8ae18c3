//! Guest memory: the manager's memfds, mapped.

use crate::layout::{self, Slot};
use frame::launch::MemorySpec;
use rustix::fs::FallocateFlags;
use rustix::mm::Advice;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use vm_memory::mmap::MmapRegionError;
use vm_memory::{
    Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestRegionMmap, MemoryRegionAddress,
    MmapRegion,
};

/// Guest memory and the descriptors behind it.
#[derive(Debug)]
pub struct Memory {
    /// Guest memory by guest-physical address.
    pub guest: GuestMemoryMmap,
    /// Where it lies, in the order of KVM's slots.
    pub slots: Vec<Slot>,
    files: Vec<Arc<File>>,
}

/// Why guest memory cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// Too little for anything to start.
    #[error("a partition needs at least {} bytes of memory, the specification gives {given}", layout::LEAST_MEMORY)]
    TooLittle {
        /// Bytes that the specification gives.
        given: u64,
    },
    /// A range could not be mapped.
    #[error("memory range {node} cannot be mapped: {bytes} bytes from offset {offset} of its memfd")]
    Map {
        /// Entry of the launch specification.
        node: usize,
        /// Length, bytes.
        bytes: u64,
        /// Offset, bytes.
        offset: u64,
        /// What failed.
        #[source]
        source: MmapRegionError,
    },
    /// What a former guest left could not be taken away.
    #[error("memory range {node} still holds a former guest's data and cannot be emptied")]
    Empty {
        /// Entry of the launch specification.
        node: usize,
        /// What failed.
        #[source]
        source: std::io::Error,
    },
    /// The ranges cannot be put together.
    #[error("the memory ranges do not make one guest-physical address space")]
    Arrange(#[source] vm_memory::GuestRegionCollectionError),
}

impl Memory {
    /// Maps `files`, one for each entry of `specs`, and makes sure that they are empty: what a former guest
    /// left there is no business of the next.
    ///
    /// Huge pages are reserved by the mapping, so that a shortage is an error here and not a signal later.
    ///
    /// # Errors
    /// [`MemoryError`].
    pub fn map(specs: &[MemorySpec], files: Vec<File>) -> Result<Self, MemoryError> {
        let total = specs.iter().fold(0u64, |sum, spec| sum.saturating_add(spec.bytes));
        if total < layout::LEAST_MEMORY {
            return Err(MemoryError::TooLittle { given: total });
        }
        let files: Vec<Arc<File>> = files.into_iter().map(Arc::new).collect();
        let slots = layout::slots(specs);
        let mut regions = Vec::with_capacity(slots.len());
        for slot in &slots {
            let region = map_slot(slot, specs, &files)?;
            regions.push(region);
        }
        let guest = GuestMemoryMmap::from_regions(regions).map_err(MemoryError::Arrange)?;
        for (node, (spec, file)) in specs.iter().zip(&files).enumerate() {
            empty(&guest, &slots, node, spec, file)?;
        }
        Ok(Self { guest, slots, files })
    }

    /// The memfds, in the order of the specification.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.files.iter().map(AsFd::as_fd)
    }

    /// All memory, bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.slots.iter().map(|slot| slot.bytes).sum()
    }

    /// First address above the memory that lies below the device hole.
    #[must_use]
    pub fn low_end(&self) -> u64 {
        layout::low_end(self.bytes())
    }

    /// Whether `bytes` from `start` on are memory.
    #[must_use]
    pub fn holds(&self, start: u64, bytes: u64) -> bool {
        usize::try_from(bytes).is_ok_and(|bytes| self.guest.check_range(GuestAddress(start), bytes))
    }
}

fn map_slot(slot: &Slot, specs: &[MemorySpec], files: &[Arc<File>]) -> Result<GuestRegionMmap, MemoryError> {
    let failed = |source| MemoryError::Map { node: slot.node, bytes: slot.bytes, offset: slot.offset, source };
    let (Some(spec), Some(file)) = (specs.get(slot.node), files.get(slot.node)) else {
        return Err(failed(MmapRegionError::InvalidPointer));
    };
    let small = if spec.pages > 4096 { 0 } else { libc::MAP_NORESERVE };
    let offset = FileOffset::from_arc(Arc::clone(file), slot.offset);
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let region =
        MmapRegion::build(Some(offset), slot.bytes as usize, protection, libc::MAP_SHARED | small).map_err(failed)?;
    // A core dump of the monitor is no place for a guest's memory. A kernel that refuses only dumps more.
    // SAFETY: the range is the mapping just made, and the advice changes nothing of its contents.
    let _ = unsafe { rustix::mm::madvise(region.as_ptr().cast(), region.size(), Advice::LinuxDontDump) };
    GuestRegionMmap::new(region, GuestAddress(slot.start)).ok_or_else(|| failed(MmapRegionError::InvalidPointer))
}

fn empty(
    guest: &GuestMemoryMmap,
    slots: &[Slot],
    node: usize,
    spec: &MemorySpec,
    file: &File,
) -> Result<(), MemoryError> {
    let failed = |source| MemoryError::Empty { node, source };
    let stat = rustix::fs::fstat(file).map_err(|errno| failed(errno.into()))?;
    if stat.st_blocks == 0 {
        return Ok(());
    }
    if spec.pages <= 4096 {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        return rustix::fs::fallocate(file, flags, 0, spec.bytes).map_err(|errno| failed(errno.into()));
    }
    // Huge pages that the manager secured stay where they are.
    let zeros = vec![0; 1 << 20];
    for slot in slots.iter().filter(|slot| slot.node == node) {
        let Some(region) = guest.find_region(GuestAddress(slot.start)) else { continue };
        let mut at = 0;
        while at < slot.bytes {
            let length = (slot.bytes - at).min(zeros.len() as u64);
            let piece = zeros.get(..length as usize).unwrap_or_default();
            region.write_slice(piece, MemoryRegionAddress(at)).map_err(|error| failed(std::io::Error::other(error)))?;
            at += length;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    fn file(bytes: u64) -> File {
        let file = File::from(rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
        file.set_len(bytes).unwrap();
        file
    }

    fn spec(bytes: u64) -> MemorySpec {
        MemorySpec { node: 0, bytes, pages: 4096 }
    }

    #[test]
    fn two_nodes_make_one_address_space() {
        let files = [file(2 << 20), file(1 << 20)];
        let clones = files.iter().map(|file| file.try_clone().unwrap()).collect();
        let memory = Memory::map(&[spec(2 << 20), spec(1 << 20)], clones).unwrap();
        memory.guest.write_slice(b"both", GuestAddress((2 << 20) - 2)).unwrap();
        let mut bytes = [0; 2];
        files[1].read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"th");
        assert!(memory.holds(0, 3 << 20));
        assert!(!memory.holds(0, (3 << 20) + 1));
        assert!(!memory.holds(u64::MAX, 2));
    }

    #[test]
    fn what_a_former_guest_left_is_gone() {
        let old = file(4 << 20);
        old.write_all_at(b"secret", 0x12_3456).unwrap();
        let _memory = Memory::map(&[spec(4 << 20)], vec![old.try_clone().unwrap()]).unwrap();
        let mut bytes = [0; 6];
        old.read_exact_at(&mut bytes, 0x12_3456).unwrap();
        assert_eq!(bytes, [0; 6]);
    }

    #[test]
    fn a_megabyte_is_too_little() {
        assert!(matches!(
            Memory::map(&[spec(1 << 20)], vec![file(1 << 20)]),
            Err(MemoryError::TooLittle { given: 0x10_0000 })
        ));
    }
}
