//! Requests to an image that are under way at once: a ring of the host (io_uring(7)) that can do nothing else.
//!
//! The ring is made disabled, gets the image as its only file, and is restricted to the operations of a disk on that
//! file before it is enabled (io_uring_register(2), `IORING_REGISTER_RESTRICTIONS`): who takes over the process can do
//! with it what the image's descriptor allows already.

use crate::vcpu::affinity;
use io_uring::register::Restriction;
use io_uring::squeue::{Entry, Flags};
use io_uring::types::{Fixed, FsyncFlags};
use io_uring::{IoUring, opcode};
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// Most requests that are under way at once.
pub const DEPTH: usize = 128;
/// Threads of the host's kernel that wait for a slow backend in the disk's place. They are the partition's: its group,
/// and the CPUs of its device threads.
pub const WORKERS: u32 = 2;
const _: () = assert!(WORKERS as u64 + 2 == frame::device::MOST_THREADS);
/// Flag of io_uring_enter(2): wait for answers.
const GET_EVENTS: u32 = 1;
/// The image among the ring's files.
const IMAGE: Fixed = Fixed(0);

/// A ring on one image.
pub struct Engine {
    ring: IoUring,
    under_way: usize,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("under_way", &self.under_way).finish_non_exhaustive()
    }
}

impl Engine {
    /// A ring on `file` for the calling thread; the kernel's threads that help stand where that stands.
    ///
    /// # Errors
    /// The error of io_uring_setup(2) or io_uring_register(2); the host may have no rings or not let this process have
    /// one.
    pub fn new(file: &File) -> io::Result<Self> {
        let ring: IoUring = IoUring::builder().dontfork().setup_r_disabled().build(DEPTH as u32)?;
        // Before Linux 5.5 what a request points at had to stay until its end.
        if !ring.params().is_feature_submit_stable() || !ring.params().is_feature_nodrop() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let submitter = ring.submitter();
        submitter.register_files(&[file.as_raw_fd()])?;
        submitter.register_iowq_max_workers(&mut [WORKERS, 1])?;
        submitter.register_iowq_aff(&here()?)?;
        let operation = Restriction::sqe_op;
        submitter.register_restrictions(&mut [
            operation(opcode::Readv::CODE),
            operation(opcode::Writev::CODE),
            operation(opcode::Fsync::CODE),
            Restriction::sqe_flags_allowed(Flags::FIXED_FILE.bits()),
            Restriction::sqe_flags_required(Flags::FIXED_FILE.bits()),
        ])?;
        submitter.register_enable_rings()?;
        Ok(Self { ring, under_way: 0 })
    }

    /// Requests that have not come back.
    #[must_use]
    pub const fn under_way(&self) -> usize {
        self.under_way
    }

    /// Reads from, or with `out` writes to, `position` on; the answer comes with `tag`.
    ///
    /// # Safety
    /// The memory that `parts` name must stay mapped until the answer has come.
    ///
    /// # Errors
    /// The error of io_uring_enter(2). The request is not under way then, but it lies in the queue: no other may be
    /// submitted.
    pub unsafe fn transfer(&mut self, tag: u64, parts: &[libc::iovec], position: u64, out: bool) -> io::Result<()> {
        let count = parts.len() as u32;
        let entry = if out {
            opcode::Writev::new(IMAGE, parts.as_ptr(), count).offset(position).build()
        } else {
            opcode::Readv::new(IMAGE, parts.as_ptr(), count).offset(position).build()
        };
        // SAFETY: the caller keeps the memory; the list of parts is read before the call returns.
        unsafe { self.submit(entry.user_data(tag)) }
    }

    /// Makes sure that what was written so far outlasts a crash of the host; the answer comes with `tag`.
    ///
    /// # Errors
    /// As [`Engine::transfer`].
    pub fn flush(&mut self, tag: u64) -> io::Result<()> {
        let entry = opcode::Fsync::new(IMAGE).flags(FsyncFlags::DATASYNC).build();
        // SAFETY: the request points at no memory.
        unsafe { self.submit(entry.user_data(tag)) }
    }

    /// # Safety
    /// What the entry points at must stay as [`Engine::transfer`] says.
    unsafe fn submit(&mut self, entry: Entry) -> io::Result<()> {
        // SAFETY: the caller keeps what the entry points at, and the entry leaves the queue in this call or never.
        unsafe { self.ring.submission().push(&entry) }.map_err(|_| io::ErrorKind::WouldBlock)?;
        loop {
            match self.ring.submit() {
                Ok(1..) => break,
                Ok(0) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.under_way += 1;
        Ok(())
    }

    /// An answer that came, if one did: the tag, and the bytes that were moved.
    pub fn answer(&mut self) -> Option<(u64, io::Result<usize>)> {
        let answer = self.ring.completion().next()?;
        self.under_way = self.under_way.saturating_sub(1);
        let result = answer.result();
        Some((answer.user_data(), usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))))
    }

    /// Waits for an answer; none when nothing is under way.
    ///
    /// # Errors
    /// The error of io_uring_enter(2).
    pub fn wait(&mut self) -> io::Result<Option<(u64, io::Result<usize>)>> {
        while self.under_way > 0 {
            if let Some(answer) = self.answer() {
                return Ok(Some(answer));
            }
            // SAFETY: it submits nothing and passes no memory.
            let waited = unsafe { self.ring.submitter().enter::<libc::sigset_t>(0, 1, GET_EVENTS, None) };
            match waited {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

/// Where this thread may run.
fn here() -> io::Result<libc::cpu_set_t> {
    // SAFETY: a set of no CPUs is all zeros.
    let mut cpus: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for cpu in affinity::current()?.iter().filter(|cpu| *cpu < libc::CPU_SETSIZE.cast_unsigned()) {
        // SAFETY: the set has a bit for this CPU.
        unsafe { libc::CPU_SET(cpu as usize, &mut cpus) };
    }
    Ok(cpus)
}

impl Drop for Engine {
    fn drop(&mut self) {
        while let Ok(Some(_)) = self.wait() {}
    }
}

impl AsFd for Engine {
    /// Can be read when an answer has come.
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the ring keeps its descriptor open while it is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }
    }
}

#[cfg(test)]
impl Engine {
    /// What comes of an operation of no disk, of one on another file, and of another file for the ring: errors.
    pub(super) fn attempt_others(mut self) -> [Option<i32>; 3] {
        let standard_input = io_uring::types::Fd(0);
        let others = [opcode::Nop::new().build(), opcode::Fsync::new(standard_input).build()];
        let [nop, sync] = others.map(|entry| {
            // SAFETY: neither points at memory.
            unsafe { self.submit(entry) }.unwrap();
            self.wait().unwrap().unwrap().1.unwrap_err().raw_os_error()
        });
        [nop, sync, self.ring.submitter().register_files_update(0, &[0]).unwrap_err().raw_os_error()]
    }
}
