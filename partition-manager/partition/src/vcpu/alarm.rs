//! A timer that gets the current thread out of `KVM_RUN`, with the signal of a kick.

use std::io;
use std::ptr;
use vmm_sys_util::signal::SIGRTMIN;

/// The time of `CLOCK_MONOTONIC`, nanoseconds.
#[must_use]
pub fn now() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec.cast_unsigned().saturating_mul(1_000_000_000).saturating_add(time.tv_nsec.cast_unsigned())
}

/// A timer of the thread that made it.
#[derive(Debug)]
pub struct ThreadAlarm {
    timer: libc::timer_t,
    set: Option<u64>,
}

impl ThreadAlarm {
    /// A timer that is not set (`timer_create(2)`, `SIGEV_THREAD_ID`).
    ///
    /// # Errors
    /// When there are too many timers.
    pub fn new() -> io::Result<Self> {
        // SAFETY: the structure is plain data, for which zeros are a value.
        let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = SIGRTMIN();
        event.sigev_notify_thread_id = rustix::thread::gettid().as_raw_nonzero().get();
        let mut timer = ptr::null_mut();
        // SAFETY: both point to variables of this function.
        let result = unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(Self { timer, set: None }) }
    }

    /// Sets the time, by [`now`]'s clock; never when absent.
    pub fn set(&mut self, deadline: Option<u64>) {
        if self.set == deadline {
            return;
        }
        self.set = deadline;
        // A time of zero would switch it off.
        let time = deadline.map_or(0, |deadline| deadline.max(1));
        let value = libc::timespec {
            tv_sec: (time / 1_000_000_000).cast_signed(),
            tv_nsec: (time % 1_000_000_000).cast_signed(),
        };
        let zero = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let spec = libc::itimerspec { it_interval: zero, it_value: value };
        // SAFETY: the timer is this value's, and the structure is read only. It fails only for times that are none.
        unsafe { libc::timer_settime(self.timer, libc::TIMER_ABSTIME, &raw const spec, ptr::null_mut()) };
    }
}

impl Drop for ThreadAlarm {
    fn drop(&mut self) {
        // SAFETY: the timer is this value's, and not used any more.
        unsafe { libc::timer_delete(self.timer) };
    }
}
