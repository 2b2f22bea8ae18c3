//! A driver of virtio devices on PCI: queue 0 of a device, and of a network adapter, socket device or terminal queue 1
//! too; one request at a time on each (virtio 1.2, sections 2.7, 4.1).

use core::sync::atomic::{AtomicU16, Ordering::Acquire, Ordering::Release};

use crate::memory::{self, read_register, write_register};
use crate::{clock, pci, platform, probe, ring0};

/// Vendor of virtio functions, and the first of their device identifiers (section 4.1.2).
const VENDOR: u16 = 0x1af4;
const FIRST_DEVICE: u16 = 0x1040;
const VENDOR_SPECIFIC: u8 = 9;
const MSIX: u8 = 0x11;
/// Where the rings of the device in slot 0 are; a page each, between the processors' blocks and the memory that
/// the payload has to spare.
const RINGS: u64 = 0x1c_0000;
const PAGE: u64 = 0x1000;
/// The part of it that one queue has.
const PART: u64 = PAGE / 2;
/// What requests carry.
pub const DATA: u64 = 0x1e_0000;
/// Bytes at [`DATA`].
pub const DATA_BYTES: u32 = 0x1_0000;
/// Entries of the queue.
pub const ENTRIES: u16 = 16;
/// Offsets in a page: available ring, used ring, a request's header, its status, its segment.
const AVAILABLE: u64 = 0x100;
const USED: u64 = 0x200;
const HEADER: u64 = 0x400;
const STATUS: u64 = 0x410;
const SEGMENT: u64 = 0x420;
/// The vector that stands for none (section 4.1.5.1.2).
const NO_VECTOR: u16 = 0xffff;
/// Descriptor flags (section 2.7.5).
pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;

const ACKNOWLEDGE: u8 = 1;
const DRIVER: u8 = 2;
const DRIVER_OK: u8 = 4;
const FEATURES_OK: u8 = 8;
/// Device status: the device cannot go on.
const NEEDS_RESET: u8 = 0x40;
/// Feature: this standard, not the one before it (section 6).
const VERSION_1: u32 = 1;
/// Type of a network adapter (section 5), and the one feature of it that is wanted: it has an address.
pub const NETWORK: u16 = 1;
const MAC: u32 = 1 << 5;
/// Type of a socket device.
pub const SOCKET: u16 = 19;
/// Type of a console device: its terminal is what is used of it.
pub const TERMINAL: u16 = 3;
/// How long a device has for a request, milliseconds.
const PATIENCE: u64 = 10_000;

/// Why a device is of no use.
#[derive(Clone, Copy)]
pub enum Trouble {
    /// There is no virtio device in that slot.
    Absent,
    /// It does not come out of its reset.
    Stuck,
    /// It takes no features, or has no queue.
    Refused,
    /// It froze.
    Frozen,
    /// It did not answer in time.
    Silent,
}

impl Trouble {
    /// In words.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Absent => "no virtio device is in that slot",
            Self::Stuck => "the device stays in its reset",
            Self::Refused => "the device refuses features or queue",
            Self::Frozen => "the device is frozen",
            Self::Silent => "the device does not answer",
        }
    }
}

/// A virtio device that was found.
#[derive(Clone, Copy)]
pub struct Device {
    /// Its slot.
    pub slot: u8,
    /// Its type (section 5).
    pub kind: u16,
    /// The queue that requests go to.
    queue: u16,
    common: u64,
    notify: u64,
    step: u32,
    /// What only devices of its type have.
    own: u64,
    /// Its MSI-X table, and where its capability is.
    table: u64,
    msix: u8,
}

impl Device {
    /// The virtio device in a slot.
    pub fn find(slot: u8) -> Option<Self> {
        let (vendor, device) = pci::identity(slot)?;
        let kind = device.checked_sub(FIRST_DEVICE).filter(|_| vendor == VENDOR)?;
        let mut found = Self { slot, kind, queue: 0, common: 0, notify: 0, step: 0, own: 0, table: 0, msix: 0 };
        for (at, word) in pci::capabilities(slot) {
            let place = |bar: u32, offset: u32| pci::base(slot, bar as u8).map(|base| base + u64::from(offset));
            match (word as u8, word >> 24) {
                (VENDOR_SPECIFIC, kind @ (1 | 2 | 4)) => {
                    let address = place(pci::read(slot, at + 4) & 0xff, pci::read(slot, at + 8))?;
                    match kind {
                        1 => found.common = address,
                        2 => {
                            found.notify = address;
                            found.step = pci::read(slot, at + 16);
                        }
                        _ => found.own = address,
                    }
                }
                (MSIX, _) => {
                    let table = pci::read(slot, at + 4);
                    found.table = place(table & 7, table & !7)?;
                    found.msix = at;
                }
                _ => {}
            }
        }
        (found.common != 0 && found.notify != 0 && found.msix != 0).then_some(found)
    }

    /// The vector that its interrupts come at.
    pub const fn vector(&self) -> u8 {
        platform::PROBE_SLOT_VECTOR + self.slot
    }

    /// The same device, with requests going to queue 1, which [`Device::start`] sets up for those that have one.
    pub const fn second(self) -> Self {
        Self { queue: 1, ..self }
    }

    /// Byte `at` of what only devices of its type have.
    pub fn own(&self, at: u64) -> u8 {
        memory::byte(self.own + at)
    }

    /// Interrupts of it that were taken.
    pub fn interrupts(&self) -> u64 {
        probe::interrupts(self.vector())
    }

    /// The device status; reads of nothing are all ones.
    pub fn status(&self) -> u8 {
        memory::byte(self.common + 20)
    }

    fn set_status(&self, status: u8) {
        memory::write_byte(self.common + 20, status);
    }

    /// Whether it says that it cannot go on.
    pub fn is_frozen(&self) -> bool {
        self.status() & NEEDS_RESET != 0
    }

    /// Resets it and waits until that is done.
    pub fn reset(&self) -> Result<(), Trouble> {
        pci::enable(self.slot);
        self.set_status(0);
        if clock::within(PATIENCE, || self.status() == 0) { Ok(()) } else { Err(Trouble::Stuck) }
    }

    /// Whether it runs since [`Device::start`].
    pub fn runs(&self) -> bool {
        self.status() & (DRIVER_OK | NEEDS_RESET) == DRIVER_OK
    }

    /// Resets it, agrees on all that it offers but for the ring's own features, gives it its rings and its
    /// interrupt.
    pub fn start(&self) -> Result<(), Trouble> {
        self.start_at(RINGS + u64::from(self.slot) * PAGE)
    }

    /// As [`Device::start`], with the rings anywhere.
    pub fn start_at(&self, page: u64) -> Result<(), Trouble> {
        self.reset()?;
        self.set_status(ACKNOWLEDGE | DRIVER);
        write_register(self.common, 0);
        // Bits 24 and up are the transport's (section 6).
        let wanted = match self.kind {
            NETWORK => MAC,
            TERMINAL => 0,
            _ => 0x00ff_ffff,
        };
        let offered = read_register(self.common + 4) & wanted;
        for (select, features) in [(0, offered), (1, VERSION_1)] {
            write_register(self.common + 8, select);
            write_register(self.common + 12, features);
        }
        self.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
        if self.status() & FEATURES_OK == 0 {
            return Err(Trouble::Refused);
        }
        memory::fill(RINGS + u64::from(self.slot) * PAGE, PAGE, 0);
        self.route();
        for queue in 0..if matches!(self.kind, NETWORK | SOCKET | TERMINAL) { 2 } else { 1 } {
            self.set_up(queue, page + u64::from(queue) * PART)?;
        }
        self.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
        if self.is_frozen() { Err(Trouble::Frozen) } else { Ok(()) }
    }

    /// Gives queue `queue` its rings at `place`; queue 0 interrupts, others are looked at.
    fn set_up(&self, queue: u16, place: u64) -> Result<(), Trouble> {
        memory::write_half(self.common + 22, queue);
        let largest = (read_register(self.common + 24) & 0xffff) as u16;
        if largest < ENTRIES {
            return Err(Trouble::Refused);
        }
        memory::write_half(self.common + 24, ENTRIES);
        memory::write_half(self.common + 26, if queue == 0 { 0 } else { NO_VECTOR });
        for (register, offset) in [(32, 0), (40, AVAILABLE), (48, USED)] {
            write_register(self.common + register, (place + offset) as u32);
            write_register(self.common + register + 4, ((place + offset) >> 32) as u32);
        }
        memory::write_half(self.common + 28, 1);
        Ok(())
    }

    /// Without agreement on anything, which is a fault of the driver's.
    pub fn start_blindly(&self) -> Result<(), Trouble> {
        self.reset()?;
        self.set_status(ACKNOWLEDGE | DRIVER | DRIVER_OK);
        Ok(())
    }

    /// Routes entry 0 of its MSI-X table to its vector on the boot processor, and lets it through.
    fn route(&self) {
        write_register(self.table, 0xfee0_0000);
        write_register(self.table + 4, 0);
        write_register(self.table + 8, self.vector().into());
        write_register(self.table + 12, 0);
        pci::write(self.slot, self.msix, pci::read(self.slot, self.msix) & 0x3fff_ffff | 1 << 31);
    }

    const fn page(&self) -> u64 {
        RINGS + self.slot as u64 * PAGE + self.queue as u64 * PART
    }

    /// Where a request's header is.
    pub const fn header(&self) -> u64 {
        self.page() + HEADER
    }

    /// Where a device leaves a request's status.
    pub const fn answer(&self) -> u64 {
        self.page() + STATUS
    }

    /// Where a request names what it is about, when that is no data.
    pub const fn segment(&self) -> u64 {
        self.page() + SEGMENT
    }

    /// Writes descriptor `index` as it is given.
    pub fn describe(&self, index: u16, address: u64, length: u32, flags: u16, next: u16) {
        let at = self.page() + u64::from(index % ENTRIES) * 16;
        memory::write_register(at, address as u32);
        memory::write_register(at + 4, (address >> 32) as u32);
        memory::write_register(at + 8, length);
        memory::write_half(at + 12, flags);
        memory::write_half(at + 14, next);
    }

    fn index(&self, ring: u64) -> &'static AtomicU16 {
        // SAFETY: the index of a ring: aligned, mapped, and reached by single accesses only.
        unsafe { &*((self.page() + ring + 2) as *const AtomicU16) }
    }

    /// Makes the chain at `head` available, says that `count` more are, and notifies the device.
    pub fn offer(&self, head: u16, count: u16) {
        let index = self.index(AVAILABLE);
        let at = index.load(Acquire);
        memory::write_half(self.page() + AVAILABLE + 4 + u64::from(at % ENTRIES) * 2, head);
        index.store(at.wrapping_add(count), Release);
        self.notify(self.queue);
    }

    /// Sends a chain of buffers (address, bytes, whether the device writes it) and waits until it was used; the
    /// answer is the number of bytes that the device says it wrote.
    pub fn request(&self, buffers: &[(u64, u32, bool)]) -> Result<u32, Trouble> {
        for (index, &(address, length, writes)) in (0..).zip(buffers) {
            let last = usize::from(index) + 1 == buffers.len();
            let flags = if writes { WRITE } else { 0 } | if last { 0 } else { NEXT };
            self.describe(index, address, length, flags, index + 1);
        }
        let used = self.index(USED);
        let before = used.load(Acquire);
        self.offer(0, 1);
        if !clock::within(PATIENCE, || used.load(Acquire) != before) {
            return Err(if self.is_frozen() { Trouble::Frozen } else { Trouble::Silent });
        }
        let element = self.page() + USED + 4 + u64::from(before % ENTRIES) * 8;
        Ok(memory::word(element + 4))
    }

    /// Notifies a queue that the device may not have.
    pub fn notify(&self, queue: u16) {
        memory::write_half(self.notify + u64::from(queue) * u64::from(self.step), queue);
    }

    /// Waits until it freezes.
    pub fn wait_frozen(&self) -> bool {
        clock::within(PATIENCE, || self.is_frozen())
    }

    /// Waits until all interrupts that were raised should have come.
    pub fn wait_interrupt(&self, before: u64) -> bool {
        clock::within(PATIENCE, || self.interrupts() != before)
    }
}

/// The virtio devices, by slot.
pub fn devices() -> impl Iterator<Item = Device> {
    (1..pci::SLOTS).filter_map(Device::find)
}

const _: () = assert!(ring0::PROCESSORS + ring0::MAX_PROCESSORS as u64 * ring0::BLOCK <= RINGS);
