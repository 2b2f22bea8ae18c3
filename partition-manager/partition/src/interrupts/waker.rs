//! Getting a virtual processor's thread to look at its local APIC.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Thread;
use vmm_sys_util::signal::SIGRTMIN;

/// Wakes one thread, wherever it is.
///
/// The thread says [`Waker::enter`] before it looks at the state for the last time, and whoever changes the state calls
/// [`Waker::wake`] after that, so one of the two sees the other; the state's lock orders them.
#[derive(Debug, Default)]
pub(crate) struct Waker {
    inside: AtomicBool,
    thread: OnceLock<(Thread, libc::pid_t)>,
}

impl Waker {
    /// Wakes the current thread from now on.
    pub(crate) fn attach(&self) {
        let _ = self.thread.set((std::thread::current(), rustix::thread::gettid().as_raw_nonzero().get()));
    }

    /// The thread is about to enter its guest: only a signal gets it out.
    pub(crate) fn enter(&self) {
        self.inside.store(true, Ordering::SeqCst);
    }

    /// The thread is back.
    pub(crate) fn leave(&self) {
        self.inside.store(false, Ordering::SeqCst);
    }

    /// Has the thread look again: the next time that it parks, at once, or now, if it is in its guest.
    pub(crate) fn wake(&self) {
        let Some((thread, id)) = self.thread.get() else { return };
        thread.unpark();
        if self.inside.load(Ordering::SeqCst) {
            let process = std::process::id();
            // SAFETY: the call takes no memory. The signal's handler is installed, and harmless on any thread of this
            // process, should the number be another's by now.
            unsafe { libc::syscall(libc::SYS_tgkill, process, *id, SIGRTMIN()) };
        }
    }
}
