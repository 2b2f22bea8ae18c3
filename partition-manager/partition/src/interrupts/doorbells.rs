//! Notifications of a driver, written to eventfds by KVM without an exit (KVM API, section 4.59 `KVM_IOEVENTFD`).

use crate::devices::virtio::function::{Doorbells, NOTIFY_STEP};
use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use std::sync::{Arc, Mutex, PoisonError};
use vmm_sys_util::eventfd::EventFd;

/// The doorbells of one device. Where KVM does not take one, the write is an exit, and comes to the same.
#[derive(Debug)]
pub struct KvmDoorbells {
    fd: Arc<VmFd>,
    kicks: Vec<Arc<EventFd>>,
    place: Mutex<Option<u64>>,
}

impl KvmDoorbells {
    /// One for each of `kicks`, placed nowhere.
    #[must_use]
    pub fn new(fd: Arc<VmFd>, kicks: Vec<Arc<EventFd>>) -> Self {
        Self { fd, kicks, place: Mutex::new(None) }
    }
}

impl Doorbells for KvmDoorbells {
    fn place(&self, address: Option<u64>) {
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        let at = |start: u64, index: u64| IoEventAddress::Mmio(start.saturating_add(index * NOTIFY_STEP));
        if let Some(old) = place.take() {
            for (kick, index) in self.kicks.iter().zip(0..) {
                let _ = self.fd.unregister_ioevent(kick, &at(old, index), NoDatamatch);
            }
        }
        if let Some(new) = address {
            for (kick, index) in self.kicks.iter().zip(0..) {
                let _ = self.fd.register_ioevent(kick, &at(new, index), NoDatamatch);
            }
        }
        *place = address;
    }
}
