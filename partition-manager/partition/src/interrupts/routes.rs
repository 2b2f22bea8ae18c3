//! KVM's routing table: which global system interrupt is a pin of a controller, and which a message
//! (KVM API, sections 4.52 `KVM_SET_GSI_ROUTING` and 4.75 `KVM_IRQFD`).

use crate::devices::pci::msix::{Message, Vector};
use crate::vm::{PINS, VmError, call};
use kvm_bindings::{KVM_IRQ_ROUTING_MSI, KvmIrqRouting, kvm_irq_routing_entry, kvm_irq_routing_msi};
use kvm_ioctls::VmFd;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vmm_sys_util::errno;
use vmm_sys_util::eventfd::EventFd;

/// Most messages of one partition.
pub const MOST_MESSAGES: u32 = 1024;

/// The table, as KVM has it.
#[derive(Debug)]
pub struct Routes {
    fd: Arc<VmFd>,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    pins: Vec<kvm_irq_routing_entry>,
    messages: BTreeMap<u32, Message>,
    vectors: u32,
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table").field("pins", &self.pins.len()).field("messages", &self.messages).finish()
    }
}

impl Table {
    fn entries(&self) -> Vec<kvm_irq_routing_entry> {
        let message = |(&gsi, message): (&u32, &Message)| message_entry(gsi, message.address, message.data);
        self.pins.iter().copied().chain(self.messages.iter().map(message)).collect()
    }
}

/// An entry that sends a message.
pub(super) fn message_entry(gsi: u32, address: u64, data: u32) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_MSI, ..Default::default() };
    entry.u.msi = kvm_irq_routing_msi {
        address_lo: address as u32,
        address_hi: (address >> 32) as u32,
        data,
        ..Default::default()
    };
    entry
}

impl Routes {
    /// An empty table.
    #[must_use]
    pub fn new(fd: Arc<VmFd>) -> Arc<Self> {
        Arc::new(Self { fd, table: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, table: &Table) -> Result<(), VmError> {
        let routing =
            KvmIrqRouting::from_entries(&table.entries()).map_err(|_| VmError::Table("the interrupt routing"))?;
        self.fd.set_gsi_routing(&routing).map_err(call("KVM_SET_GSI_ROUTING"))
    }

    /// Replaces the routes of the pins.
    ///
    /// # Errors
    /// [`VmError`].
    pub fn set_pins(&self, pins: Vec<kvm_irq_routing_entry>) -> Result<(), VmError> {
        let mut table = self.lock();
        table.pins = pins;
        self.write(&table)
    }

    /// A new way for messages. It leads nowhere yet, and KVM hears of it when it does.
    ///
    /// # Errors
    /// [`VmError::Table`] when there are [`MOST_MESSAGES`].
    pub fn vector(self: &Arc<Self>) -> Result<Box<dyn Vector>, VmError> {
        let mut table = self.lock();
        if table.vectors >= MOST_MESSAGES {
            return Err(VmError::Table("one more message-signalled interrupt"));
        }
        let gsi = PINS + table.vectors;
        table.vectors += 1;
        drop(table);
        let event = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)
            .map_err(|error| call("eventfd")(errno::Error::new(error.raw_os_error().unwrap_or(0))))?;
        Ok(Box::new(Route { routes: Arc::clone(self), gsi, event, bound: AtomicBool::new(false) }))
    }
}

#[derive(Debug)]
struct Route {
    routes: Arc<Routes>,
    gsi: u32,
    event: EventFd,
    /// Whether KVM has the eventfd: many vectors are never used.
    bound: AtomicBool,
}

impl Vector for Route {
    fn route(&self, message: Option<Message>) {
        let mut table = self.routes.lock();
        if message.is_some() && !self.bound.swap(true, Ordering::Relaxed) {
            // Without it the guest misses this interrupt, and nobody else anything.
            let _ = self.routes.fd.register_irqfd(&self.event, self.gsi);
        }
        let before = match message {
            Some(message) => table.messages.insert(self.gsi, message),
            None => table.messages.remove(&self.gsi),
        };
        // A message that KVM does not take, such as one to an address that is no interrupt controller's, goes
        // nowhere: the guest's own affair.
        if before != message && self.routes.write(&table).is_err() && table.messages.remove(&self.gsi).is_some() {
            let _ = self.routes.write(&table);
        }
    }

    fn trigger(&self) {
        let _ = self.event.write(1);
    }
}
