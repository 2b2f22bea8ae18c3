//! The limits of a device, with a timer that says when a limit lets something through again.

use super::limiter::Bucket;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// So many operations and bytes in a second.
#[derive(Debug)]
pub struct Limits {
    operations: Option<Bucket>,
    bytes: Option<Bucket>,
    timer: OwnedFd,
    begin: Instant,
}

impl Limits {
    /// Limits of so much in a second, each not 0; none where absent.
    ///
    /// # Errors
    /// When there can be no timer.
    pub fn new(operations: Option<u64>, bytes: Option<u64>) -> io::Result<Self> {
        let timer =
            rustix::time::timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        let bucket = |rate: u64| Bucket::new(rate, Duration::ZERO);
        Ok(Self { operations: operations.map(bucket), bytes: bytes.map(bucket), timer, begin: Instant::now() })
    }

    /// Whether the next operation must wait; the timer is set then.
    ///
    /// # Errors
    /// When the timer cannot be set.
    pub fn must_wait(&mut self) -> io::Result<bool> {
        if self.operations.is_none() && self.bytes.is_none() {
            return Ok(false);
        }
        let now = self.begin.elapsed();
        let wait = [&mut self.operations, &mut self.bytes].into_iter().flatten().filter_map(|bucket| bucket.wait(now));
        let Some(wait) = wait.max() else { return Ok(false) };
        let value = Timespec::try_from(wait).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
        Ok(true)
    }

    /// Notes an operation of so many bytes.
    pub fn took(&mut self, bytes: u64) {
        if let Some(bucket) = &mut self.operations {
            bucket.take(1);
        }
        if let Some(bucket) = &mut self.bytes {
            bucket.take(bytes);
        }
    }

    /// Takes note of the timer, so that it can be waited for again.
    pub fn ring(&self) {
        let _ = rustix::io::read(&self.timer, &mut [0; 8]);
    }
}

impl AsFd for Limits {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}
