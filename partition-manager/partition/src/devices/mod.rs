//! The partition's devices, and the buses that lead to them.

pub mod alarm;
pub mod bus;
pub mod channel;
pub mod console;
pub mod exit;
pub mod keyboard;
pub mod panic;
pub mod pci;
pub mod pit;
pub mod pm;
pub mod reset;
pub mod rtc;
pub mod slots;
pub mod timer;
pub mod virtio;
pub mod watchdog;

use alarm::Timed;
use bus::{Bus, BusError, Claim};
use channel::Channel;
use console::Console;
use frame::device::WATCHDOG_SLOT;
use frame::platform::{
    CHANNEL_PORT, ECAM_BASE, EXIT_PORT, IOAPIC_BASE, KEYBOARD_COMMAND_PORT, PANIC_PORT, PCI_APERTURE,
    PCI_APERTURE_BYTES, PM_TIMER_PORT, PM1A_EVENT_PORT, SERIAL_PORT,
};
use pci::root::{self, AddressPorts, Aperture, DataPorts, Ecam, Root, SlotTaken};
use pit::{ControlB, Pit};
use pm::{Line, PowerManagement};
use rtc::Rtc;
use std::sync::Arc;
use timer::PmTimer;
use virtio::function::VirtioFunction;
use watchdog::Watchdog;

/// Every device of a partition.
#[derive(Debug)]
pub struct Devices {
    /// The console.
    pub console: Arc<Console>,
    /// ACPI fixed hardware.
    pub power: Arc<PowerManagement>,
    /// The communication channel.
    pub channel: Arc<Channel>,
    /// Devices that the event thread wakes.
    pub timed: Vec<Arc<dyn Timed>>,
    /// Ports.
    pub ports: Bus,
    /// Memory-mapped devices: the PCI bus.
    pub mmio: Bus,
    /// The functions on the PCI bus, by slot.
    pub functions: Vec<(u8, Arc<VirtioFunction>)>,
}

/// What the devices are made of.
#[derive(Debug)]
pub struct Parts {
    /// The console.
    pub console: Arc<Console>,
    /// The communication channel.
    pub channel: Arc<Channel>,
    /// The system control interrupt.
    pub sci: Box<dyn Line>,
    /// The real-time clock.
    pub rtc: Arc<Rtc>,
    /// The 8254, if there is one.
    pub pit: Option<Arc<Pit>>,
    /// The power management timer, if there is one.
    pub timer: Option<PmTimer>,
    /// Whether there is an exit device.
    pub exit_device: bool,
    /// Whether there is a panic device.
    pub panic_device: bool,
    /// The watchdog, if there is one.
    pub watchdog: Option<Arc<Watchdog>>,
    /// The functions on the PCI bus, by slot.
    pub functions: Vec<(u8, Arc<VirtioFunction>)>,
    /// The I/O APIC, where it is in user space.
    pub ioapic: Option<Arc<dyn bus::Device>>,
    /// Interrupt sources outside of the partition that the event thread reads.
    pub wired: Vec<Arc<dyn Timed>>,
}

/// Why the devices do not go together.
#[derive(Debug, thiserror::Error)]
pub enum DevicesError {
    /// Two claim an address.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// Two claim a slot.
    #[error(transparent)]
    Slot(#[from] SlotTaken),
}

impl Devices {
    /// Puts the devices on their buses. Port 0x80 (POST codes), further serial ports, VGA and DMA are left unclaimed: writes are dropped, and reads give all ones, which says that nothing is there.
    ///
    /// # Errors
    /// When two devices claim an address or a slot.
    pub fn new(parts: Parts) -> Result<Self, DevicesError> {
        let Parts { console, channel, sci, rtc, pit, timer, exit_device, panic_device, watchdog, .. } = parts;
        let Parts { functions, ioapic, wired, .. } = parts;
        let mut slots = slots::for_root(&functions);
        slots.extend(watchdog.as_ref().map(|watchdog| (WATCHDOG_SLOT, Arc::clone(watchdog) as _)));
        let root = Root::new(slots)?;
        let power = Arc::new(PowerManagement::new(sci));
        let (data, command) = keyboard::ports();
        let mut ports = vec![
            Claim::new("keyboard data", keyboard::DATA_PORT.into(), 1, Arc::new(data)),
            Claim::new("system control B", pit::CONTROL_B_PORT.into(), 1, Arc::new(ControlB::new(pit.clone()))),
            Claim::new("keyboard command", KEYBOARD_COMMAND_PORT.into(), 1, Arc::new(command)),
            Claim::new("rtc", rtc::INDEX_PORT.into(), 2, Arc::clone(&rtc) as _),
            Claim::new("system control A", keyboard::CONTROL_A_PORT.into(), 1, Arc::new(keyboard::ControlA)),
            Claim::new("console", SERIAL_PORT.into(), 8, Arc::clone(&console) as _),
            Claim::new("power management", PM1A_EVENT_PORT.into(), pm::PORTS, Arc::clone(&power) as _),
            Claim::new("communication channel", CHANNEL_PORT.into(), 8, Arc::clone(&channel) as _),
            Claim::new("PCI address", root::ADDRESS_PORT.into(), 4, Arc::new(AddressPorts::new(Arc::clone(&root)))),
            Claim::new("PCI data", root::DATA_PORT.into(), 4, Arc::new(DataPorts(Arc::clone(&root)))),
        ];
        let mut mmio = vec![
            Claim::new("PCI aperture", PCI_APERTURE, PCI_APERTURE_BYTES, Arc::new(Aperture(Arc::clone(&root)))),
            Claim::new("PCI configuration", ECAM_BASE, root::ECAM_BYTES, Arc::new(Ecam(root))),
        ];
        if let Some(timer) = timer {
            ports.push(Claim::new("power management timer", PM_TIMER_PORT.into(), timer::PORTS, Arc::new(timer)));
        }
        if exit_device {
            ports.push(Claim::new("exit", EXIT_PORT.into(), exit::PORTS, Arc::new(exit::Exit)));
        }
        if panic_device {
            ports.push(Claim::new("panic", PANIC_PORT.into(), 1, Arc::new(panic::Panic)));
        }
        if let Some(ioapic) = ioapic {
            mmio.push(Claim::new("I/O APIC", IOAPIC_BASE, crate::interrupts::ioapic::BYTES, ioapic));
        }
        let mut timed: Vec<Arc<dyn Timed>> = vec![rtc];
        timed.extend(wired);
        timed.extend(watchdog.map(|watchdog| watchdog as _));
        if let Some(pit) = pit {
            ports.push(Claim::new("8254", pit::PORT.into(), pit::PORTS, Arc::clone(&pit) as _));
            timed.push(pit);
        }
        Ok(Self { console, power, channel, timed, ports: Bus::new(ports)?, mmio: Bus::new(mmio)?, functions })
    }
}

/// Locks, also where a thread panicked: the process ends then anyway, and the state is plain data.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
