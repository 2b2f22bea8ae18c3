//! A timer that raises an interrupt: a timerfd that the event thread waits for.

use crate::interrupts::Pulse;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// Shortest time until an alarm: whatever a guest asks for, the event thread has time for others.
pub const SHORTEST: Duration = Duration::from_micros(200);

/// A device that the event thread wakes.
pub trait Timed: Send + Sync + std::fmt::Debug {
    /// Can be read when [`Timed::expire`] is to be called.
    fn descriptor(&self) -> BorrowedFd<'_>;

    /// The time has come.
    fn expire(&self);
}

/// A timer and an interrupt.
#[derive(Debug)]
pub struct Alarm {
    timer: OwnedFd,
    line: Box<dyn Pulse>,
}

impl Alarm {
    /// A timer that is not set, beside what raises the interrupt.
    ///
    /// # Errors
    /// When there are too many descriptors.
    pub fn new(line: Box<dyn Pulse>) -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        Ok(Self { timer: rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?, line })
    }

    /// Sets the time from now, at least [`SHORTEST`]; never when absent.
    pub fn set(&self, wait: Option<Duration>) {
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let value = wait.map_or(zero, |wait| {
            // What is too long for the kernel is as good as never.
            Timespec::try_from(wait.max(SHORTEST)).unwrap_or(zero)
        });
        // It fails only for times that are none.
        let _ = rustix::time::timerfd_settime(
            &self.timer,
            TimerfdTimerFlags::empty(),
            &Itimerspec { it_interval: zero, it_value: value },
        );
    }

    /// Takes note that it went off.
    pub fn clear(&self) {
        let _ = rustix::io::read(&self.timer, &mut [0; 8]);
    }

    /// Raises the interrupt.
    pub fn raise(&self) {
        self.line.raise();
    }

    /// Can be read when it went off.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}
