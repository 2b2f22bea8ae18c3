//! A virtio device as a PCI function (virtio 1.2, section 4.1).
//!
//! Everything is in base address 0: the common configuration, the interrupt status, the device's configuration,
//! the notifications, the MSI-X table and its pending bits, a page each.

use super::Model;
use super::freezer::Freezer;
use super::interrupter::Interrupter;
use super::ring::Ring;
use super::worker::{Start, Worker};
use crate::devices::lock;
use crate::devices::pci::config::{Config, Identity, NoRoom};
use crate::devices::pci::freeze::{Fault, State};
use crate::devices::pci::msix;
use crate::devices::pci::root::{Function, Window};
use frame::wire::{DeviceState, DeviceStatus, VectorStatus};
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex};
use virtio_queue::{Queue, QueueState};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

/// Bytes of base address 0.
pub const BAR_BYTES: u32 = 0x8000;
const COMMON: u64 = 0;
const STATUS: u64 = 0x1000;
const DEVICE: u64 = 0x2000;
/// Where the notification of queue 0 is; that of queue n is n times [`NOTIFY_STEP`] further.
pub const NOTIFY: u64 = 0x3000;
/// Bytes between the notifications of two queues.
pub const NOTIFY_STEP: u64 = 4;
const TABLE: u64 = 0x4000;
const PENDING: u64 = 0x5000;
const PAGE: u64 = 0x1000;

/// Vendor of all virtio functions, and first identifier of those that are not transitional (section 4.1.2).
const VENDOR: u16 = 0x1af4;
const FIRST_DEVICE: u16 = 0x1040;
/// PCI's vendor-specific capability, and the kinds of it that virtio has (section 4.1.4).
const VENDOR_SPECIFIC: u8 = 9;
const CAP_COMMON: u8 = 1;
const CAP_NOTIFY: u8 = 2;
const CAP_STATUS: u8 = 3;
const CAP_DEVICE: u8 = 4;
const CAP_PCI: u8 = 5;

/// Bits of the device status (section 2.1).
const FEATURES_OK: u8 = 8;
const DRIVER_OK: u8 = 4;
const NEEDS_RESET: u8 = 0x40;

/// Features of the transport (section 6).
const INDIRECT: u64 = 1 << 28;
const EVENT_INDEX: u64 = 1 << 29;
const VERSION_1: u64 = 1 << 32;

/// Bytes of the common configuration, without the registers of features that are not offered.
const COMMON_BYTES: usize = 56;
const STATUS_OFFSET: u64 = 20;

/// Makes notifications of the driver write the kicks without an exit to this program.
pub trait Doorbells: Send + Sync + std::fmt::Debug {
    /// Notifications are written from `address` on; or nowhere.
    fn place(&self, address: Option<u64>);
}

/// What a guest has set up of one queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueRegisters {
    /// Size, entries.
    pub size: u16,
    /// Whether it is in use.
    pub enabled: bool,
    /// Descriptor table.
    pub descriptors: u64,
    /// Available ring.
    pub driver: u64,
    /// Used ring.
    pub device: u64,
}

/// The common configuration: plain data.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registers {
    device_feature_select: u32,
    driver_feature_select: u32,
    driver_features: u64,
    status: u8,
    queue_select: u16,
    queues: Vec<QueueRegisters>,
}

impl Registers {
    fn new(sizes: &[u16]) -> Self {
        let queues = sizes.iter().map(|&size| QueueRegisters { size, ..QueueRegisters::default() }).collect();
        Self { queues, ..Self::default() }
    }
}

/// What a function is made of.
#[derive(Debug)]
pub struct Parts {
    /// The device's name in the partition.
    pub name: String,
    /// The device.
    pub model: Arc<dyn Model>,
    /// Its thread.
    pub worker: Worker,
    /// An eventfd for each queue.
    pub kicks: Vec<Arc<EventFd>>,
    /// Its interrupts.
    pub interrupter: Arc<Interrupter>,
    /// Its freeze.
    pub freezer: Arc<Freezer>,
    /// Its notifications.
    pub doorbells: Box<dyn Doorbells>,
    /// Guest memory.
    pub memory: GuestMemoryMmap,
    /// Where base address 0 is to begin with.
    pub address: u32,
    /// Global system interrupt of its INTx pin.
    pub gsi: u8,
}

/// A virtio device in a PCI slot.
#[derive(Debug)]
pub struct VirtioFunction {
    parts: Parts,
    sizes: Vec<u16>,
    config: Mutex<Config>,
    registers: Mutex<Registers>,
    /// Offset of the MSI-X capability.
    msix: u16,
    /// Offset of the capability that gives access by configuration space (section 4.1.4.9).
    access: u16,
}

impl VirtioFunction {
    /// The function, as it is after a reset.
    ///
    /// # Errors
    /// [`NoRoom`] when there are more queues or vectors than pages hold.
    pub fn new(parts: Parts) -> Result<Self, NoRoom> {
        let sizes = parts.model.queues();
        let kind = parts.model.kind();
        let mut config = Config::new(Identity {
            vendor: VENDOR,
            device: FIRST_DEVICE + kind,
            revision: 1,
            class: parts.model.class(),
            subsystem_vendor: VENDOR,
            subsystem: FIRST_DEVICE + kind,
        });
        config.add_memory(0, BAR_BYTES, parts.address)?;
        config.set_interrupt(1, parts.gsi);
        let queues = sizes.len() as u64;
        if queues * NOTIFY_STEP > PAGE {
            return Err(NoRoom("the notifications of so many queues"));
        }
        let mut add = |kind: u8, offset: u64, bytes: u64, more: &[u8], mask: &[u8]| {
            // cap_len, cfg_type, bar, id, two bytes of padding, offset, length (section 4.1.4).
            let mut body = vec![16 + more.len() as u8, kind, 0, 0, 0, 0];
            body.extend((offset as u32).to_le_bytes());
            body.extend((bytes as u32).to_le_bytes());
            body.extend(more);
            config.add_capability(VENDOR_SPECIFIC, &body, mask)
        };
        add(CAP_COMMON, COMMON, COMMON_BYTES as u64, &[], &[])?;
        add(CAP_NOTIFY, NOTIFY, queues * NOTIFY_STEP, &(NOTIFY_STEP as u32).to_le_bytes(), &[])?;
        add(CAP_STATUS, STATUS, 1, &[], &[])?;
        add(CAP_DEVICE, DEVICE, PAGE, &[], &[])?;
        // Base address, offset, length and the data itself can be written.
        let mask = [0, 0, 0xff, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        let access = add(CAP_PCI, 0, 0, &[0; 4], &mask)?;
        let (body, mask) = parts.interrupter.msix().capability(TABLE as u32, PENDING as u32);
        let msix = config.add_capability(msix::CAPABILITY, &body, &mask)?;
        let registers = Mutex::new(Registers::new(&sizes));
        Ok(Self { parts, sizes, config: Mutex::new(config), registers, msix, access })
    }

    /// The device's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.parts.name
    }

    /// Its interrupts.
    #[must_use]
    pub fn interrupter(&self) -> &Arc<Interrupter> {
        &self.parts.interrupter
    }

    /// Its freeze.
    #[must_use]
    pub fn freezer(&self) -> &Arc<Freezer> {
        &self.parts.freezer
    }

    /// Somebody serviced the device: one that stays frozen waits for its driver's reset, and no vector is quarantined.
    pub fn service(&self) {
        self.parts.freezer.service();
        self.parts.interrupter.msix().clear();
    }

    /// What it does and did, for the manager.
    #[must_use]
    pub fn status_report(&self) -> DeviceStatus {
        let freezes = self.parts.freezer.freezes();
        let vector = |figures: msix::Figures| VectorStatus {
            address: figures.message.map(|message| message.address),
            data: figures.message.map_or(0, |message| message.data),
            pending: figures.pending,
            delivered: figures.delivered,
            masked: figures.masked,
            coalesced: figures.coalesced,
            storms: figures.storms,
            quarantine: figures.quarantine,
            latency: figures.latency,
        };
        DeviceStatus {
            state: match freezes.state() {
                State::Working => DeviceState::Working,
                State::Frozen => DeviceState::Frozen,
                State::Permanent => DeviceState::Permanent,
            },
            freezes: freezes.total(),
            reason: freezes.last().map(ToString::to_string),
            vectors: self.parts.interrupter.msix().figures().into_iter().map(vector).collect(),
            frames: self.parts.model.frames(),
            io_uring: self.parts.model.io_uring(),
        }
    }

    fn offered(&self) -> u64 {
        self.parts.model.features() | INDIRECT | EVENT_INDEX | VERSION_1
    }

    /// The status as a driver reads it: a reset is done when the device's thread has left the queues
    /// (section 2.1.1).
    fn status(&self, registers: &Registers) -> u8 {
        match registers.status {
            // One that stays frozen lets its driver's reset pass, and takes nothing more.
            0 if !self.parts.worker.is_busy() => 0,
            status if status == 0 || self.parts.freezer.is_frozen() => status | NEEDS_RESET,
            status => status,
        }
    }

    /// The common configuration as bytes (section 4.1.4.3).
    fn image(&self, registers: &Registers) -> [u8; COMMON_BYTES] {
        let select = registers.queue_select;
        let queue = registers.queues.get(usize::from(select)).copied().unwrap_or_default();
        let features = match registers.device_feature_select {
            0 => self.offered() as u32,
            1 => (self.offered() >> 32) as u32,
            _ => 0,
        };
        let driver = match registers.driver_feature_select {
            0 => registers.driver_features as u32,
            1 => (registers.driver_features >> 32) as u32,
            _ => 0,
        };
        let known = usize::from(select) < registers.queues.len();
        let interrupter = &self.parts.interrupter;
        let mut image = [0; COMMON_BYTES];
        let mut rest = image.iter_mut();
        let mut put = |bytes: &[u8]| bytes.iter().zip(&mut rest).for_each(|(from, to)| *to = *from);
        put(&registers.device_feature_select.to_le_bytes());
        put(&features.to_le_bytes());
        put(&registers.driver_feature_select.to_le_bytes());
        put(&driver.to_le_bytes());
        put(&interrupter.config_vector().to_le_bytes());
        put(&(registers.queues.len() as u16).to_le_bytes());
        // The configuration changes only together with an interrupt here, so its generation stays.
        put(&[self.status(registers), 0]);
        put(&select.to_le_bytes());
        put(&queue.size.to_le_bytes());
        put(&interrupter.queue_vector(select).to_le_bytes());
        put(&u16::from(queue.enabled).to_le_bytes());
        put(&if known { select } else { 0 }.to_le_bytes());
        put(&queue.descriptors.to_le_bytes());
        put(&queue.driver.to_le_bytes());
        put(&queue.device.to_le_bytes());
        image
    }

    fn read_common(&self, offset: u64, data: &mut [u8]) {
        let image = self.image(&lock(&self.registers));
        super::read_bytes(&image, offset, data);
    }

    fn write_common(&self, offset: u64, data: &[u8]) {
        let mut guard = lock(&self.registers);
        let registers = &mut *guard;
        let select = registers.queue_select;
        let value = data.iter().rev().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
        let started = registers.status & DRIVER_OK != 0;
        match (offset, data.len()) {
            (0, 4) => registers.device_feature_select = value as u32,
            (8, 4) => registers.driver_feature_select = value as u32,
            (12, 4) if registers.status & FEATURES_OK == 0 => {
                let features = &mut registers.driver_features;
                match registers.driver_feature_select {
                    0 => *features = *features & !0xffff_ffff | value,
                    1 => *features = *features & 0xffff_ffff | value << 32,
                    _ => {}
                }
            }
            (16, 2) => self.parts.interrupter.set_config_vector(value as u16),
            (STATUS_OFFSET, 1) => self.write_status(registers, value as u8),
            (22, 2) => registers.queue_select = value as u16,
            (26, 2) => self.parts.interrupter.set_queue_vector(select, value as u16),
            _ => {
                let largest = self.sizes.get(usize::from(select)).copied().unwrap_or(0);
                let Some(queue) = registers.queues.get_mut(usize::from(select)) else { return };
                if queue.enabled || started {
                    return;
                }
                match (offset, data.len()) {
                    (24, 2) if value <= largest.into() && (value as u16).is_power_of_two() => queue.size = value as u16,
                    (28, 2) => queue.enabled = value == 1,
                    (32..56, 4 | 8) => {
                        let address = match offset / 8 {
                            4 => &mut queue.descriptors,
                            5 => &mut queue.driver,
                            _ => &mut queue.device,
                        };
                        match (offset % 8, data.len()) {
                            (0, 8) => *address = value,
                            (0, 4) => *address = *address & !0xffff_ffff | value,
                            (4, 4) => *address = *address & 0xffff_ffff | value << 32,
                            _ => {}
                        }
                    }
                    _ => {}
                }
            }
        }
    }

    fn write_status(&self, registers: &mut Registers, status: u8) {
        if status == 0 {
            self.reset(registers);
            return;
        }
        // Bits are taken back by a reset only (section 2.1.1).
        let mut new = status & !NEEDS_RESET | registers.status;
        let begins = |bit: u8| new & bit != 0 && registers.status & bit == 0;
        // The driver reads FEATURES_OK back to see whether its choice is one (section 3.1.1).
        let wrong = registers.driver_features & !self.offered() != 0 || registers.driver_features & VERSION_1 == 0;
        if begins(FEATURES_OK) && wrong {
            new &= !FEATURES_OK;
        }
        let start = new & DRIVER_OK != 0 && registers.status & DRIVER_OK == 0;
        registers.status = new;
        if start && let Err(fault) = self.start(registers) {
            self.parts.freezer.freeze(fault);
        }
    }

    fn start(&self, registers: &Registers) -> Result<(), Fault> {
        if registers.status & FEATURES_OK == 0 {
            return Err(Fault::Protocol("it was started without an agreement on features".into()));
        }
        let features = registers.driver_features;
        let ring = |(index, queue): (u16, &QueueRegisters)| {
            let state = QueueState {
                max_size: *self.sizes.get(usize::from(index))?,
                next_avail: 0,
                next_used: 0,
                event_idx_enabled: features & EVENT_INDEX != 0,
                size: queue.size,
                ready: true,
                desc_table: queue.descriptors,
                avail_ring: queue.driver,
                used_ring: queue.device,
            };
            let wrong = |error: virtio_queue::Error| Fault::Queue { queue: index, why: error.to_string() };
            let ready = |queue| Ring::new(index, queue, self.parts.memory.clone(), Arc::clone(&self.parts.interrupter));
            queue.enabled.then(|| Queue::try_from(state).map_err(wrong).and_then(ready))
        };
        let rings = (0..).zip(&registers.queues).map(|queue| ring(queue).transpose()).collect::<Result<_, _>>()?;
        if !self.parts.worker.start(Start { features, rings }) {
            return Err(Fault::Protocol("it was started before its reset was done".into()));
        }
        Ok(())
    }

    fn reset(&self, registers: &mut Registers) {
        *registers = Registers::new(&self.sizes);
        self.parts.interrupter.reset();
        self.parts.model.reset();
        // The thread thaws the device when it has left the queues: until then they may freeze it again.
        if !self.parts.worker.stop() {
            self.parts.freezer.reset();
        }
    }

    /// A notification, where the doorbells did not take it.
    fn notify(&self, offset: u64) {
        if let Some(kick) = self.parts.kicks.get((offset / NOTIFY_STEP) as usize) {
            let _ = kick.write(1);
        }
    }

    /// The access that the configuration-space window describes: offset in base address 0, and bytes.
    fn window_access(config: &Config, at: u16) -> Option<(u64, usize)> {
        let bar = config.double_word(at + 4) as u8;
        let (offset, bytes) = (config.double_word(at + 8), config.double_word(at + 12) as usize);
        let fits = bar == 0 && matches!(bytes, 1 | 2 | 4) && (offset as usize).is_multiple_of(bytes);
        (fits && offset < BAR_BYTES).then_some((offset.into(), bytes))
    }
}

impl Function for VirtioFunction {
    fn read_config(&self, offset: u16, data: &mut [u8]) {
        let data_at = self.access + 16;
        if offset == data_at {
            let access = Self::window_access(&lock(&self.config), self.access);
            if let Some((at, bytes)) = access
                && let Some(data) = data.get_mut(..bytes)
            {
                self.read(at, data);
                return;
            }
        }
        let mut config = lock(&self.config);
        config.show_interrupt(self.parts.interrupter.is_pending());
        config.read(offset, data);
    }

    fn write_config(&self, offset: u16, data: &[u8]) {
        let (window, access) = {
            let mut config = lock(&self.config);
            let before = config.memory(0);
            config.write(offset, data);
            let control = (config.double_word(self.msix) >> 16) as u16;
            self.parts.interrupter.control(config.is_intx_disabled(), control);
            let window = config.memory(0);
            let access = (offset == self.access + 16).then(|| Self::window_access(&config, self.access)).flatten();
            ((window != before).then_some(window), access)
        };
        if let Some(window) = window {
            self.parts.doorbells.place(window.map(|start| start + NOTIFY));
        }
        if let Some((at, bytes)) = access
            && let Some(data) = data.get(..bytes)
        {
            self.write(at, data);
        }
    }

    fn window(&self) -> Option<Window> {
        lock(&self.config).memory(0).map(|start| Window { start, bytes: BAR_BYTES.into() })
    }

    fn read(&self, offset: u64, data: &mut [u8]) {
        let page = offset & !(PAGE - 1);
        // A frozen device answers with all ones, but for the status, which says what the driver can do.
        let is_status = offset == COMMON + STATUS_OFFSET && data.len() == 1;
        if self.parts.freezer.is_frozen() && !is_status {
            data.fill(0xff);
            return;
        }
        let offset = offset - page;
        match page {
            COMMON => self.read_common(offset, data),
            STATUS => {
                data.fill(0);
                if let (0, Some(byte)) = (offset, data.first_mut()) {
                    *byte = self.parts.interrupter.take_status();
                }
            }
            DEVICE => self.parts.model.read_config(offset, data),
            TABLE => self.parts.interrupter.msix().read_table(offset, data),
            PENDING => self.parts.interrupter.msix().read_pending(offset, data),
            _ => data.fill(0),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let is_reset = offset == COMMON + STATUS_OFFSET && *data == [0];
        if self.parts.freezer.is_frozen() && !is_reset {
            return;
        }
        let (page, offset) = (offset & !(PAGE - 1), offset & (PAGE - 1));
        match page {
            COMMON => self.write_common(offset, data),
            DEVICE => self.parts.model.write_config(offset, data),
            NOTIFY => self.notify(offset),
            TABLE => self.parts.interrupter.msix().write_table(offset, data),
            _ => {}
        }
    }
}
