//! The memory of partitions: one sealed memfd for each extent, bound to its NUMA node.

use crate::record::sealed;
use frame::inventory::PAGE;
use frame::launch::MemorySpec;
use rustix::fs::MemfdFlags;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// Name of such a memfd, by which it is found in a list of mappings.
pub const NAME: &str = "bulkhead-memory";

/// Makes the memory of one range. `several` says whether the host has more than one node.
///
/// # Errors
/// The error of the system call that failed: the page size does not exist, the node does not.
pub fn make(spec: &MemorySpec, several: bool) -> io::Result<OwnedFd> {
    let memory = sealed(NAME, spec.bytes, page_flags(spec.pages))?;
    if several {
        bind(&memory, spec)?;
    }
    Ok(memory)
}

/// The flags of `memfd_create(2)` that choose a page size: its logarithm in the upper bits.
fn page_flags(pages: u64) -> MemfdFlags {
    if pages <= PAGE {
        return MemfdFlags::empty();
    }
    MemfdFlags::HUGETLB | MemfdFlags::from_bits_retain(pages.trailing_zeros() << libc::MFD_HUGE_SHIFT)
}

/// Binds all pages that the range will ever have to its node. The policy of shared memory stays with the
/// memory, not with the mapping it was set through (`mbind(2)`).
fn bind(memory: &OwnedFd, spec: &MemorySpec) -> io::Result<()> {
    const BITS: usize = usize::BITS as usize;
    let length = usize::try_from(spec.bytes).map_err(|_| io::ErrorKind::OutOfMemory)?;
    let node = spec.node as usize;
    let mut mask = vec![0usize; node / BITS + 1];
    if let Some(word) = mask.last_mut() {
        *word = 1 << (node % BITS);
    }
    let (protection, flags) = (libc::PROT_NONE, libc::MAP_SHARED | libc::MAP_NORESERVE);
    // SAFETY: a new mapping at an address of the kernel's choice; nothing is read or written through it.
    let page = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, memory.as_raw_fd(), 0) };
    if page == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the range was just mapped, and the mask has as many bits as are said, plus one that the kernel
    // takes off.
    let outcome = unsafe {
        libc::syscall(libc::SYS_mbind, page, length, libc::MPOL_BIND, mask.as_ptr(), mask.len() * BITS + 1, 0)
    };
    let error = io::Error::last_os_error();
    // SAFETY: the mapping of above, which nothing else refers to.
    unsafe { libc::munmap(page, length) };
    if outcome == 0 { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_sizes_become_flags() {
        assert_eq!(page_flags(4096), MemfdFlags::empty());
        assert_eq!(page_flags(2 << 20), MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB);
        assert_eq!(page_flags(1 << 30), MemfdFlags::HUGETLB | MemfdFlags::HUGE_1GB);
    }

    #[test]
    fn memory_has_its_size_for_good() {
        let spec = MemorySpec { node: 0, bytes: 8 << 20, pages: 4096 };
        let memory = make(&spec, true).unwrap();
        assert!(crate::record::check_sealed(&memory, spec.bytes).is_ok());
        assert!(rustix::fs::ftruncate(&memory, 4096).is_err());
    }
}
