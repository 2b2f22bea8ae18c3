//! Local APICs in the kernel, the I/O APIC here: `interrupts = "split"` (KVM API, section 7.5
//! `KVM_CAP_SPLIT_IRQCHIP`).
//!
//! Pins are sent as messages. KVM tells the end of a level-triggered interrupt, by an exit, only for vectors that the
//! routes of the I/O APIC's reserved interrupts have, so those routes follow its redirection table.

use super::chip::Sink;
use super::ioapic::Ioapic;
use super::lock;
use super::message::Interrupt;
use super::routes::{Routes, message_entry};
use crate::vm::{PINS, VmError, call};
use kvm_bindings::{KVM_CAP_SPLIT_IRQCHIP, kvm_enable_cap, kvm_msi};
use kvm_ioctls::VmFd;
use std::sync::{Arc, Mutex};

/// Sends what the I/O APIC sends to KVM's local APICs.
#[derive(Debug)]
pub(super) struct Messages {
    fd: Arc<VmFd>,
    routes: Arc<Routes>,
    /// The level-triggered interrupts that KVM knows of, by pin.
    known: Mutex<Vec<(usize, Interrupt)>>,
}

impl Messages {
    /// Has KVM make local APICs alone. Comes before the virtual processors.
    pub(super) fn new(fd: Arc<VmFd>, routes: Arc<Routes>) -> Result<Arc<Self>, VmError> {
        let mut split = kvm_enable_cap { cap: KVM_CAP_SPLIT_IRQCHIP, ..Default::default() };
        if let Some(reserved) = split.args.first_mut() {
            *reserved = PINS.into();
        }
        fd.enable_cap(&split).map_err(call("KVM_ENABLE_CAP of KVM_CAP_SPLIT_IRQCHIP"))?;
        Ok(Arc::new(Self { fd, routes, known: Mutex::default() }))
    }
}

impl Sink for Messages {
    fn send(&self, interrupt: Interrupt) -> bool {
        let (address, data) = interrupt.message();
        let msi = kvm_msi { address_lo: address as u32, data, ..Default::default() };
        // A destination that is not there is the guest's own affair.
        self.fd.signal_msi(msi).is_ok_and(|taken| taken > 0)
    }

    fn programmed(&self, ioapic: &Ioapic) {
        let mut known = lock(&self.known);
        let levels: Vec<(usize, Interrupt)> = ioapic.interrupts().filter(|(_, sent)| sent.level).collect();
        if *known == levels {
            return;
        }
        let entry = |&(pin, interrupt): &(usize, Interrupt)| {
            let (address, data) = interrupt.message();
            message_entry(pin as u32, address, data)
        };
        // Where KVM takes none, the end of a level is not told, and the guest misses its own interrupts only.
        if self.routes.set_pins(levels.iter().map(entry).collect()).is_ok() {
            *known = levels;
        }
    }
}
