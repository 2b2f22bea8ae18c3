//! What is behind a disk: a raw image file or a block device, by its descriptor.

use super::SECTOR;
use rustix::fs::{FallocateFlags, FileType, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use vm_memory::VolatileSlice;
use vm_memory::bitmap::BitmapSlice;

/// Most parts of one system call (Linux, `UIO_MAXIOV`).
pub const MOST_PARTS: usize = 1024;
/// How much is written at once where a range cannot be zeroed otherwise, bytes.
const ZEROES: u64 = 1 << 16;

/// Why something cannot be a disk.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// It cannot be examined.
    #[error("its image cannot be examined: {0}")]
    Examine(#[source] io::Error),
    /// It is neither a file nor a block device.
    #[error("its image is neither a regular file nor a block device")]
    Kind,
    /// It has not even one sector.
    #[error("its image has {0} bytes, less than a sector of 512")]
    TooShort(u64),
    /// It was opened for reading only, or for something else than asked.
    #[error("its image is not open for writing, and the disk is not read-only")]
    Access,
}

/// The image of a disk.
#[derive(Clone, Debug)]
pub struct Image {
    file: Arc<File>,
    bytes: u64,
    block: u32,
    read_only: bool,
}

impl Image {
    /// Takes `file` as an image; whole sectors of it.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn new(file: File, read_only: bool) -> Result<Self, ImageError> {
        let errno = |errno: Errno| ImageError::Examine(errno.into());
        let stat = rustix::fs::fstat(&file).map_err(errno)?;
        let device = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => false,
            FileType::BlockDevice => true,
            _ => return Err(ImageError::Kind),
        };
        let flags = rustix::fs::fcntl_getfl(&file).map_err(errno)?;
        if flags.contains(OFlags::NONBLOCK) {
            // A ring would not wait for what is not in memory, but fail.
            rustix::fs::fcntl_setfl(&file, flags - OFlags::NONBLOCK).map_err(errno)?;
        }
        let access = flags & OFlags::ACCMODE;
        if !read_only && access != OFlags::RDWR || access == OFlags::WRONLY {
            return Err(ImageError::Access);
        }
        // The end of a block device is its size too, where the file's size is 0.
        let bytes = (&file).seek(SeekFrom::End(0)).map_err(ImageError::Examine)?;
        if bytes < SECTOR {
            return Err(ImageError::TooShort(bytes));
        }
        // Guests write whole blocks of this size, so that the host's page cache need not read before.
        let block = if bytes.is_multiple_of(4096) && !device { 4096 } else { SECTOR as u32 };
        Ok(Self { file: Arc::new(file), bytes: bytes - bytes % SECTOR, block, read_only })
    }

    /// The file or device itself.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Memory as system calls take it.
    #[must_use]
    pub fn parts<B: BitmapSlice>(memory: &[VolatileSlice<'_, B>]) -> Vec<libc::iovec> {
        let part = |slice: &VolatileSlice<'_, B>| libc::iovec {
            iov_base: slice.ptr_guard_mut().as_ptr().cast(),
            iov_len: slice.len(),
        };
        memory.iter().map(part).collect()
    }

    /// Bytes, a multiple of the sector.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of the block that is best written as a whole; every sector can be read and written alone.
    #[must_use]
    pub const fn block(&self) -> u32 {
        self.block
    }

    /// Whether it may only be read.
    #[must_use]
    pub const fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// Whether `bytes` from `position` on are on the disk.
    #[must_use]
    pub fn has(&self, position: u64, bytes: u64) -> bool {
        position.checked_add(bytes).is_some_and(|end| end <= self.bytes)
    }

    /// Reads from `position` on into memory. An image that became shorter is an error.
    ///
    /// # Errors
    /// What the host says.
    pub fn read<B: BitmapSlice>(&self, into: &[VolatileSlice<'_, B>], position: u64) -> io::Result<()> {
        self.transfer(into, position, false)
    }

    /// Writes from memory to `position` on.
    ///
    /// # Errors
    /// What the host says.
    pub fn write<B: BitmapSlice>(&self, from: &[VolatileSlice<'_, B>], position: u64) -> io::Result<()> {
        self.transfer(from, position, true)
    }

    fn transfer<B: BitmapSlice>(&self, memory: &[VolatileSlice<'_, B>], position: u64, out: bool) -> io::Result<()> {
        let mut parts = Self::parts(memory);
        let (mut first, mut at) = (0, position);
        while let Some(rest) = parts.get(first..).filter(|rest| !rest.is_empty()) {
            let count = rest.len().min(MOST_PARTS) as i32;
            let (descriptor, offset) = (self.file.as_raw_fd(), at as i64);
            let done = if out {
                // SAFETY: each part is mapped guest memory that stays mapped while `memory` is borrowed.
                unsafe { libc::pwritev(descriptor, rest.as_ptr(), count, offset) }
            } else {
                // SAFETY: as above; whatever is written there is what any guest memory may be.
                unsafe { libc::preadv(descriptor, rest.as_ptr(), count, offset) }
            };
            let mut done = match usize::try_from(done) {
                Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it became shorter")),
                Ok(done) => done,
                Err(_) => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::Interrupted => continue,
                    error => return Err(error),
                },
            };
            at += done as u64;
            while let Some(part) = parts.get_mut(first) {
                if done < part.iov_len {
                    part.iov_base = part.iov_base.wrapping_byte_add(done);
                    part.iov_len -= done;
                    break;
                }
                done -= part.iov_len;
                first += 1;
            }
        }
        Ok(())
    }

    /// Makes sure that everything written so far outlasts a crash of the host.
    ///
    /// # Errors
    /// What the host says.
    pub fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Gives the space of a range back to the host. False when the host cannot do that here.
    ///
    /// # Errors
    /// What the host says.
    pub fn discard(&self, position: u64, bytes: u64) -> io::Result<bool> {
        self.free(FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, position, bytes)
    }

    /// Makes a range read as zeros; with `free`, its space may go back to the host.
    ///
    /// # Errors
    /// What the host says.
    pub fn zero(&self, position: u64, bytes: u64, free: bool) -> io::Result<()> {
        let (hole, zero) = (FallocateFlags::PUNCH_HOLE, FallocateFlags::ZERO_RANGE);
        let way = if free { hole } else { zero };
        if self.free(way | FallocateFlags::KEEP_SIZE, position, bytes)? {
            return Ok(());
        }
        let zeros = vec![0; bytes.min(ZEROES) as usize];
        let mut done = 0;
        while done < bytes {
            let piece = zeros.get(..(bytes - done).min(ZEROES) as usize).unwrap_or_default();
            self.file.write_all_at(piece, position + done)?;
            done += piece.len() as u64;
        }
        Ok(())
    }

    /// A call that some file systems do not know (fallocate(2)); block devices know it too, and keep their size.
    fn free(&self, how: FallocateFlags, position: u64, bytes: u64) -> io::Result<bool> {
        loop {
            match rustix::fs::fallocate(&self.file, how, position, bytes) {
                Ok(()) => return Ok(true),
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => return Ok(false),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}
