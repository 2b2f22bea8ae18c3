//! The partition's devices, and the buses that lead to them.

pub mod bus;
pub mod channel;
pub mod console;
pub mod exit;
pub mod pm;
pub mod reset;
pub mod rtc;

use bus::{Bus, BusError};
use channel::Channel;
use console::Console;
use frame::platform::{
    CHANNEL_PORT, EXIT_PORT, KEYBOARD_COMMAND_PORT, KEYBOARD_RESET, PM1A_EVENT_PORT, RESET_PORT, SERIAL_PORT,
};
use pm::{Line, PowerManagement};
use reset::{Reset, Rule};
use std::sync::Arc;

/// Every device of a partition.
#[derive(Debug)]
pub struct Devices {
    /// The console.
    pub console: Arc<Console>,
    /// ACPI fixed hardware.
    pub power: Arc<PowerManagement>,
    /// The communication channel.
    pub channel: Arc<Channel>,
    /// Ports.
    pub ports: Bus,
    /// Memory-mapped devices; this platform has none outside KVM.
    pub mmio: Bus,
}

impl Devices {
    /// Puts the devices on their buses. Port 0x80 (POST codes) and the PCI configuration ports are left
    /// unclaimed: writes are dropped, and reads give all ones, which says that there is no PCI.
    ///
    /// # Errors
    /// When two devices claim an address.
    pub fn new(
        console: Arc<Console>,
        channel: Arc<Channel>,
        sci: Box<dyn Line>,
        exit_device: bool,
    ) -> Result<Self, BusError> {
        let power = Arc::new(PowerManagement::new(sci));
        let mut ports = vec![
            bus::Claim::new("rtc", rtc::INDEX_PORT.into(), 2, Arc::new(rtc::Rtc::default())),
            bus::Claim::new("keyboard reset", KEYBOARD_COMMAND_PORT.into(), 1, {
                Arc::new(Reset::new(Rule::Equals(KEYBOARD_RESET)))
            }),
            bus::Claim::new("console", SERIAL_PORT.into(), 8, Arc::clone(&console) as _),
            bus::Claim::new("power management", PM1A_EVENT_PORT.into(), pm::PORTS, Arc::clone(&power) as _),
            bus::Claim::new("communication channel", CHANNEL_PORT.into(), 8, Arc::clone(&channel) as _),
            bus::Claim::new("reset", RESET_PORT.into(), 1, Arc::new(Reset::new(Rule::HasBits(reset::PULSE)))),
        ];
        if exit_device {
            ports.push(bus::Claim::new("exit", EXIT_PORT.into(), exit::PORTS, Arc::new(exit::Exit)));
        }
        Ok(Self { console, power, channel, ports: Bus::new(ports)?, mmio: Bus::new(Vec::new())? })
    }
}

/// Locks, also where a thread panicked: the process ends then anyway, and the state is plain data.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
