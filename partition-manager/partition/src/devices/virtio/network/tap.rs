//! A tap of the host (Linux, Documentation/networking/tuntap.rst), open and attached to a switch already.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use vm_memory::VolatileSlice;
use vm_memory::bitmap::BitmapSlice;

/// Bytes of the header before each frame (virtio 1.2, section 5.1.6: `struct virtio_net_hdr_v1`).
pub const HEADER: usize = 12;

// Linux, include/uapi/linux/if_tun.h.
const TUNSETOFFLOAD: libc::Ioctl = 0x4004_54d0 as libc::Ioctl;
const TUNSETVNETHDRSZ: libc::Ioctl = 0x4004_54d8 as libc::Ioctl;

/// What frames from the host may leave undone (`TUN_F_*`).
pub mod offload {
    /// Checksums.
    pub const CHECKSUM: u32 = 1;
    /// Segmentation of TCP over IPv4.
    pub const TCP4: u32 = 2;
    /// Segmentation of TCP over IPv6.
    pub const TCP6: u32 = 4;
    /// Both with congestion notification.
    pub const ECN: u32 = 8;
}

/// One queue of a tap.
#[derive(Debug)]
pub struct Tap {
    file: File,
    /// Whether it is a tap; the other end of a socket, in tests, takes no orders.
    tap: bool,
}

impl Tap {
    /// Takes an open tap and gives its frames headers of [`HEADER`] bytes.
    ///
    /// # Errors
    /// When it is no tap, or one that knows no such headers.
    pub fn new(descriptor: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&descriptor, true)?;
        let size = HEADER as libc::c_int;
        // SAFETY: the kernel reads one int, which is there.
        let outcome = unsafe { libc::ioctl(descriptor.as_raw_fd(), TUNSETVNETHDRSZ, &raw const size) };
        if outcome < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { file: descriptor.into(), tap: true })
    }

    /// Takes one end of a socket pair of datagrams, each a frame with its header: for tests, which have the other
    /// end. It takes no orders.
    ///
    /// # Errors
    /// When it cannot be set not to block.
    pub fn socket(descriptor: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&descriptor, true)?;
        Ok(Self { file: descriptor.into(), tap: false })
    }

    /// Says what frames may leave undone, [`offload`].
    ///
    /// # Errors
    /// What the host says.
    pub fn set_offloads(&self, offloads: u32) -> io::Result<()> {
        if !self.tap {
            return Ok(());
        }
        // SAFETY: the argument is a number, and nothing of this process is touched.
        let outcome = unsafe { libc::ioctl(self.file.as_raw_fd(), TUNSETOFFLOAD, libc::c_ulong::from(offloads)) };
        if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Reads one frame with its header; none when there is none now.
    ///
    /// # Errors
    /// What the host says.
    pub fn read(&self, into: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            return match rustix::io::read(&self.file, &mut *into) {
                Ok(count) => Ok(Some(count)),
                Err(rustix::io::Errno::INTR) => continue,
                Err(rustix::io::Errno::AGAIN) => Ok(None),
                Err(errno) => Err(errno.into()),
            };
        }
    }

    /// Writes one frame: `head`, which has its header and its beginning, and the rest from the guest's memory.
    ///
    /// # Errors
    /// What the host says.
    pub fn write<B: BitmapSlice>(&self, head: &[u8], rest: &[VolatileSlice<'_, B>]) -> io::Result<()> {
        let mut parts: Vec<libc::iovec> = Vec::with_capacity(rest.len() + 1);
        parts.push(libc::iovec { iov_base: head.as_ptr().cast_mut().cast(), iov_len: head.len() });
        for slice in rest {
            parts.push(libc::iovec { iov_base: slice.ptr_guard_mut().as_ptr().cast(), iov_len: slice.len() });
        }
        let count = i32::try_from(parts.len()).unwrap_or(i32::MAX);
        loop {
            // SAFETY: the parts are `head`, which is only read, and mapped guest memory, which stays mapped while
            // `rest` is borrowed.
            let done = unsafe { libc::writev(self.file.as_raw_fd(), parts.as_ptr(), count) };
            if done >= 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
