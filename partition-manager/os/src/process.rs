//! Which process is which: a number alone is taken again by the next process.

use rustix::process::{Pid, PidfdFlags, Signal};
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// What tells one process from every other one that ever ran on this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The boot of the host (`/proc/sys/kernel/random/boot_id`).
    pub boot: String,
    /// The process number.
    pub pid: u32,
    /// When it started, in clock ticks since boot (`proc(5)`, `/proc/pid/stat`, field 22).
    pub start: u64,
}

/// The boot of the host.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// When process `pid` started, in clock ticks since boot.
///
/// # Errors
/// `NotFound` when there is no such process; `InvalidData` when `/proc` has another form.
pub fn start_time(pid: u32) -> io::Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).map_err(|error| {
        // A process that ends between opening and reading.
        let gone = error.raw_os_error() == Some(libc::ESRCH);
        if gone { io::ErrorKind::NotFound.into() } else { error }
    })?;
    // The command's name may hold blanks and brackets; fields count from behind its last bracket.
    let field = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_ascii_whitespace().nth(19));
    field
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat has an unknown form")))
}

impl Identity {
    /// The identity of process `pid`.
    ///
    /// # Errors
    /// As [`start_time`].
    pub fn of(pid: u32) -> io::Result<Self> {
        Ok(Self { boot: boot_id()?, pid, start: start_time(pid)? })
    }

    /// A handle of this very process; none when it is gone (or is a zombie already reaped, or another
    /// process has its number).
    ///
    /// # Errors
    /// When the host cannot make the handle for another reason.
    pub fn open(&self) -> io::Result<Option<Handle>> {
        let Some(handle) = Handle::open(self.pid)? else { return Ok(None) };
        // With the handle held the number cannot pass to another process unnoticed.
        match Self::of(self.pid) {
            Ok(now) if now == *self => Ok(Some(handle)),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A process, held by `pidfd_open(2)`: it can be signalled and waited for, and never mistaken.
#[derive(Debug)]
pub struct Handle {
    descriptor: OwnedFd,
}

impl Handle {
    /// Holds process `pid`; none when there is no such process.
    ///
    /// # Errors
    /// When the host cannot make the handle for another reason.
    pub fn open(pid: u32) -> io::Result<Option<Self>> {
        let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
        match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(descriptor) => Ok(Some(Self { descriptor })),
            // The number may have passed to a thread of another process: `EINVAL`, or `ENOENT` since Linux 6.13.
            Err(rustix::io::Errno::SRCH | rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Readable once the process has ended.
    #[must_use]
    pub fn descriptor(&self) -> &OwnedFd {
        &self.descriptor
    }

    /// Sends a signal; a process that has ended is no error.
    ///
    /// # Errors
    /// When the caller may not.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        match rustix::process::pidfd_send_signal(&self.descriptor, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Waits until the process has ended; false when it has not within `timeout`.
    ///
    /// # Errors
    /// When the host cannot wait.
    pub fn wait(&self, timeout: Duration) -> io::Result<bool> {
        readable(&self.descriptor, Some(timeout))
    }

    /// Ends the process for good and waits until it is gone; false when it is still there after `timeout`.
    ///
    /// # Errors
    /// When the caller may not signal it.
    pub fn kill(&self, timeout: Duration) -> io::Result<bool> {
        self.signal(Signal::KILL)?;
        self.wait(timeout)
    }
}

/// Waits until `descriptor` is readable; false when it is not within `timeout` (forever when absent).
///
/// # Errors
/// The error of `poll(2)`.
pub fn readable(descriptor: impl AsFd, timeout: Option<Duration>) -> io::Result<bool> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let deadline = timeout.map(|timeout| std::time::Instant::now() + timeout);
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(std::time::Instant::now()));
        let spec = left.map(|left| Timespec::try_from(left).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 }));
        match poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], spec.as_ref()) {
            Ok(count) => return Ok(count > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_itself_and_no_other() {
        let own = Identity::of(std::process::id()).unwrap();
        assert!(own.open().unwrap().is_some());
        assert!(Identity { start: own.start + 1, ..own.clone() }.open().unwrap().is_none());
        assert!(Identity { boot: "another".into(), ..own }.open().unwrap().is_none());
        assert!(Handle::open(u32::MAX).unwrap().is_none());
    }

    #[test]
    fn a_thread_is_no_process() {
        let (number, numbers) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            number.send(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
            let _ = ended.recv();
        });
        let own = Identity::of(std::process::id()).unwrap();
        let pid = u32::try_from(numbers.recv().unwrap()).unwrap();
        assert!(Handle::open(pid).unwrap().is_none());
        assert!(Identity { pid, ..own }.open().unwrap().is_none());
        drop(end);
        thread.join().unwrap();
    }

    #[test]
    fn kills_what_it_holds() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let handle = Handle::open(child.id()).unwrap().unwrap();
        assert!(!handle.wait(Duration::ZERO).unwrap());
        assert!(handle.kill(Duration::from_secs(10)).unwrap());
        assert!(!child.wait().unwrap().success());
        assert!(handle.signal(Signal::TERM).is_ok());
    }
}
