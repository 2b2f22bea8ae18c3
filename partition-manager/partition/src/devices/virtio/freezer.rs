//! The freeze of a virtio device, as its thread and its registers share it.

use super::interrupter::Interrupter;
use crate::devices::lock;
use crate::devices::pci::freeze::{Fault, Freezes, State};
use frame::storm::Limit;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// Told about every freeze and every storm.
pub trait Witness: Send + Sync + std::fmt::Debug {
    /// A device froze.
    fn froze(&self, device: &str, fault: &Fault, permanent: bool);

    /// A vector of a device was raised far beyond its limit: it is quarantined until it is quiet, or, if `lasting`,
    /// until it is cleared.
    fn stormed(&self, device: &str, vector: u16, limit: Limit, lasting: bool);
}

/// Freezes and thaws one device.
#[derive(Debug)]
pub struct Freezer {
    name: String,
    frozen: AtomicBool,
    freezes: Mutex<Freezes>,
    interrupter: Arc<Interrupter>,
    witness: Arc<dyn Witness>,
    begin: Instant,
}

impl Freezer {
    /// A device that works. `interrupter` is how its driver hears of a freeze.
    #[must_use]
    pub fn new(name: &str, interrupter: Arc<Interrupter>, witness: Arc<dyn Witness>) -> Self {
        Self {
            name: name.to_owned(),
            frozen: AtomicBool::new(false),
            freezes: Mutex::default(),
            interrupter,
            witness,
            begin: Instant::now(),
        }
    }

    /// Freezes the device and tells the driver (virtio 1.2, section 2.1.2: `DEVICE_NEEDS_RESET`).
    pub fn freeze(&self, fault: Fault) {
        let permanent = {
            let mut freezes = lock(&self.freezes);
            if !freezes.freeze(self.begin.elapsed(), fault.clone()) {
                return;
            }
            self.frozen.store(true, Ordering::Release);
            freezes.state() == State::Permanent
        };
        self.witness.froze(&self.name, &fault, permanent);
        self.interrupter.config();
    }

    /// Whether the device is frozen.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::Acquire)
    }

    /// The driver resets the device. Whether it works now.
    pub fn reset(&self) -> bool {
        let works = lock(&self.freezes).reset();
        self.frozen.store(!works, Ordering::Release);
        works
    }

    /// Somebody serviced a device that froze permanently: the driver's next reset thaws it.
    pub fn service(&self) {
        lock(&self.freezes).service();
    }

    /// The state and its history.
    #[must_use]
    pub fn freezes(&self) -> Freezes {
        lock(&self.freezes).clone()
    }
}
