//! How a device interrupts its driver: by MSI-X vectors, or by its INTx pin (virtio 1.2, section 4.1.5.3).

use crate::devices::lock;
use crate::devices::pci::msix::Msix;
use crate::devices::pm::Line;
use crate::interrupts::latency::Latency;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

/// The vector that stands for none (virtio 1.2, section 4.1.5.1.2).
pub const NO_VECTOR: u16 = 0xffff;
/// Bit of the interrupt status: a queue was used.
const QUEUE: u8 = 1;
/// Bit of the interrupt status: the configuration changed.
const CONFIG: u8 = 2;

/// The interrupts of one device.
#[derive(Debug)]
pub struct Interrupter {
    msix: Msix,
    queues: Vec<AtomicU16>,
    config: AtomicU16,
    pin: Mutex<Pin>,
}

#[derive(Debug)]
struct Pin {
    status: u8,
    disabled: bool,
    high: bool,
    line: Box<dyn Line>,
}

impl Pin {
    fn update(&mut self, messages: bool) {
        let high = self.status != 0 && !self.disabled && !messages;
        if high != self.high {
            self.high = high;
            self.line.set(high);
        }
    }
}

impl Interrupter {
    /// For a device of `queues` queues, with its vectors and its INTx line.
    #[must_use]
    pub fn new(queues: usize, msix: Msix, line: Box<dyn Line>) -> Self {
        Self {
            msix,
            queues: std::iter::repeat_with(|| AtomicU16::new(NO_VECTOR)).take(queues).collect(),
            config: AtomicU16::new(NO_VECTOR),
            pin: Mutex::new(Pin { status: 0, disabled: false, high: false, line }),
        }
    }

    /// The vectors.
    #[must_use]
    pub const fn msix(&self) -> &Msix {
        &self.msix
    }

    /// Queue `queue` was used. Whether a message was sent at once.
    pub fn queue(&self, queue: u16) -> bool {
        let Some(vector) = self.queues.get(usize::from(queue)) else { return false };
        self.raise(vector.load(Ordering::Acquire), QUEUE)
    }

    /// Where the device is to count how long the driver takes to answer the messages of queue `queue`; none where
    /// somebody else does, or where there are no messages.
    #[must_use]
    pub fn untimed(&self, queue: u16) -> Option<&Arc<Latency>> {
        self.msix.is_enabled().then(|| self.msix.untimed(self.queue_vector(queue))).flatten()
    }

    /// The configuration changed, or the device needs a reset.
    pub fn config(&self) {
        let _ = self.raise(self.config.load(Ordering::Acquire), CONFIG);
    }

    fn raise(&self, vector: u16, bit: u8) -> bool {
        if self.msix.is_enabled() {
            return vector != NO_VECTOR && self.msix.trigger(vector);
        }
        let mut pin = lock(&self.pin);
        pin.status |= bit;
        pin.update(self.msix.is_enabled());
        false
    }

    /// Reads and clears the interrupt status.
    pub fn take_status(&self) -> u8 {
        let mut pin = lock(&self.pin);
        let status = std::mem::take(&mut pin.status);
        pin.update(self.msix.is_enabled());
        status
    }

    /// Whether the INTx pin has something to say.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        lock(&self.pin).status != 0
    }

    /// Takes over what the guest wrote to command and message control registers.
    pub fn control(&self, intx_disabled: bool, message_control: u16) {
        self.msix.control(message_control);
        let mut pin = lock(&self.pin);
        pin.disabled = intx_disabled;
        pin.update(self.msix.is_enabled());
    }

    /// Gives queue `queue` a vector; one that is not there is [`NO_VECTOR`].
    pub fn set_queue_vector(&self, queue: u16, vector: u16) {
        if let Some(place) = self.queues.get(usize::from(queue)) {
            place.store(self.known(vector), Ordering::Release);
        }
    }

    /// Gives changes of the configuration a vector.
    pub fn set_config_vector(&self, vector: u16) {
        self.config.store(self.known(vector), Ordering::Release);
    }

    fn known(&self, vector: u16) -> u16 {
        if vector < self.msix.count() { vector } else { NO_VECTOR }
    }

    /// The vector of a queue.
    #[must_use]
    pub fn queue_vector(&self, queue: u16) -> u16 {
        self.queues.get(usize::from(queue)).map_or(NO_VECTOR, |vector| vector.load(Ordering::Acquire))
    }

    /// The vector of changes of the configuration.
    #[must_use]
    pub fn config_vector(&self) -> u16 {
        self.config.load(Ordering::Acquire)
    }

    /// As after a reset of the device: no vectors, nothing pending. The MSI-X table is the function's and stays.
    pub fn reset(&self) {
        self.config.store(NO_VECTOR, Ordering::Release);
        self.queues.iter().for_each(|vector| vector.store(NO_VECTOR, Ordering::Release));
        let _ = self.take_status();
    }
}
