//! An interrupt source outside of the partition: an eventfd.

use super::Pulse;
use crate::devices::alarm::Timed;
use std::os::fd::{AsRawFd, BorrowedFd};
use vmm_sys_util::eventfd::EventFd;

/// An eventfd that raises a pin, where KVM does not read it itself.
#[derive(Debug)]
pub(super) struct Wired {
    pub(super) source: EventFd,
    pub(super) pulse: Box<dyn Pulse>,
}

impl Timed for Wired {
    fn descriptor(&self) -> BorrowedFd<'_> {
        // SAFETY: the eventfd is this value's, and stays open as long.
        unsafe { BorrowedFd::borrow_raw(self.source.as_raw_fd()) }
    }

    fn expire(&self) {
        if self.source.read().is_ok() {
            self.pulse.raise();
        }
    }
}
