//! The root complex: bus 0 with its slots, reached by ports 0xcf8 and 0xcfc (PCI Local Bus Specification 3.0,
//! section 3.2.2.3.2), by the enhanced configuration area (PCI Express Base Specification, section 7.2.2), and
//! the aperture where base addresses lie.

use super::config::{Config, Identity};
use crate::devices::bus::Device;
use crate::devices::lock;
use crate::devices::reset::Reset;
use frame::platform::{ECAM_BASE, PCI_APERTURE, PCI_APERTURE_BYTES, PCI_SLOTS, RESET_PORT};
use frame::record::Cause;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// First configuration port.
pub const ADDRESS_PORT: u16 = 0xcf8;
/// First data port.
pub const DATA_PORT: u16 = 0xcfc;

const ENABLE: u32 = 1 << 31;

/// A run of memory addresses that a function answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// First guest-physical address.
    pub start: u64,
    /// Bytes.
    pub bytes: u64,
}

/// One function in a slot. There is one to a slot.
pub trait Function: Send + Sync + std::fmt::Debug {
    /// Reads configuration space, inside one double word.
    fn read_config(&self, offset: u16, data: &mut [u8]);

    /// Writes configuration space, inside one double word.
    fn write_config(&self, offset: u16, data: &[u8]);

    /// Where its base address is at present, if it answers there.
    fn window(&self) -> Option<Window>;

    /// Reads at `offset` from its base address.
    fn read(&self, offset: u64, data: &mut [u8]);

    /// Writes at `offset` from its base address.
    fn write(&self, offset: u64, data: &[u8]);
}

/// The host bridge, which a guest expects in slot 0 and which does nothing.
#[derive(Debug)]
struct HostBridge(Mutex<Config>);

impl HostBridge {
    fn new() -> Self {
        // The generic PCI Express host bridge of the vendor that virtio's subsystems come from.
        let identity = Identity {
            vendor: 0x1b36,
            device: 0x0008,
            revision: 0,
            class: 0x06_00_00,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
        };
        Self(Mutex::new(Config::new(identity)))
    }
}

impl Function for HostBridge {
    fn read_config(&self, offset: u16, data: &mut [u8]) {
        lock(&self.0).read(offset, data);
    }

    fn write_config(&self, offset: u16, data: &[u8]) {
        lock(&self.0).write(offset, data);
    }

    fn window(&self) -> Option<Window> {
        None
    }

    fn read(&self, _: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn write(&self, _: u64, _: &[u8]) {}
}

/// The slots, and where their functions answer.
#[derive(Debug)]
pub struct Root {
    slots: Vec<Option<Arc<dyn Function>>>,
    windows: RwLock<Vec<(Window, usize)>>,
    address: Mutex<u32>,
}

/// Two functions in one slot, or one in a slot that is not there: a fault of the launch specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("PCI slot {0} does not exist, is the host bridge's, or is taken")]
pub struct SlotTaken(pub u8);

impl Root {
    /// The host bridge, and functions by slot, 1..=31.
    ///
    /// # Errors
    /// [`SlotTaken`].
    pub fn new(functions: Vec<(u8, Arc<dyn Function>)>) -> Result<Arc<Self>, SlotTaken> {
        let mut slots: Vec<Option<Arc<dyn Function>>> = vec![None; PCI_SLOTS.into()];
        if let Some(first) = slots.first_mut() {
            *first = Some(Arc::new(HostBridge::new()));
        }
        for (slot, function) in functions {
            match slots.get_mut(usize::from(slot)) {
                Some(free @ None) => *free = Some(function),
                _ => return Err(SlotTaken(slot)),
            }
        }
        let root = Self { slots, windows: RwLock::default(), address: Mutex::new(0) };
        root.look();
        Ok(Arc::new(root))
    }

    /// Looks where functions answer. Of two that answer at one address it is the one in the lower slot.
    fn look(&self) {
        let all = self.slots.iter().enumerate();
        let found = all.filter_map(|(slot, function)| Some((function.as_ref()?.window()?, slot))).collect();
        *self.windows.write().unwrap_or_else(PoisonError::into_inner) = found;
    }

    fn function(&self, bus: u8, slot: usize, function: u8) -> Option<&Arc<dyn Function>> {
        (bus == 0 && function == 0).then(|| self.slots.get(slot)?.as_ref()).flatten()
    }

    /// Reads a register by its place in the enhanced configuration area.
    fn read_config(&self, place: u64, data: &mut [u8]) {
        let (bus, slot, function, offset) = decode(place);
        match self.function(bus, slot, function) {
            Some(function) => split(offset, data.len(), |at, range| {
                if let Some(part) = data.get_mut(range) {
                    function.read_config(at, part);
                }
            }),
            None => data.fill(0xff),
        }
    }

    fn write_config(&self, place: u64, data: &[u8]) {
        let (bus, slot, function, offset) = decode(place);
        let Some(function) = self.function(bus, slot, function) else { return };
        let before = function.window();
        split(offset, data.len(), |at, range| {
            if let Some(part) = data.get(range) {
                function.write_config(at, part);
            }
        });
        if function.window() != before {
            self.look();
        }
    }

    fn find(&self, address: u64, bytes: usize) -> Option<(Arc<dyn Function>, u64)> {
        let windows = self.windows.read().unwrap_or_else(PoisonError::into_inner);
        let last = address.checked_add(bytes as u64)?;
        let inside = |window: &Window| address >= window.start && last <= window.start.saturating_add(window.bytes);
        let (window, slot) = windows.iter().find(|(window, _)| inside(window))?;
        Some((Arc::clone(self.slots.get(*slot)?.as_ref()?), address - window.start))
    }
}

/// Bus, slot, function and register of a place in the enhanced configuration area.
const fn decode(place: u64) -> (u8, usize, u8, u16) {
    ((place >> 20) as u8, (place >> 15 & 0x1f) as usize, (place >> 12 & 7) as u8, (place & 0xfff) as u16)
}

/// Calls `part` for each piece of an access that lies inside one double word.
fn split(offset: u16, bytes: usize, mut part: impl FnMut(u16, std::ops::Range<usize>)) {
    let mut done = 0;
    while done < bytes {
        let at = usize::from(offset) + done;
        let step = (4 - at % 4).min(bytes - done);
        part(at as u16, done..done + step);
        done += step;
    }
}

/// Ports 0xcf8..=0xcfb: the address register for whole double words; byte 1 of it is the reset register.
#[derive(Debug)]
pub struct AddressPorts {
    root: Arc<Root>,
    reset: Reset,
}

impl AddressPorts {
    /// The ports that lead to `root`.
    #[must_use]
    pub fn new(root: Arc<Root>) -> Self {
        Self { root, reset: Reset }
    }
}

const RESET_OFFSET: u64 = (RESET_PORT - ADDRESS_PORT) as u64;

impl Device for AddressPorts {
    fn read(&self, offset: u64) -> u8 {
        match offset {
            RESET_OFFSET => self.reset.read(0),
            _ => 0xff,
        }
    }

    fn read_access(&self, offset: u64, data: &mut [u8]) {
        match <&mut [u8; 4]>::try_from(&mut *data) {
            Ok(data) if offset == 0 => *data = lock(&self.root.address).to_le_bytes(),
            _ => data.iter_mut().zip(offset..).for_each(|(byte, offset)| *byte = self.read(offset)),
        }
    }

    fn write(&self, offset: u64, value: u8) -> Option<Cause> {
        if offset == RESET_OFFSET { self.reset.write(0, value) } else { None }
    }

    fn write_access(&self, offset: u64, bytes: &[u8]) -> Option<Cause> {
        match <[u8; 4]>::try_from(bytes) {
            Ok(bytes) if offset == 0 => {
                *lock(&self.root.address) = u32::from_le_bytes(bytes);
                None
            }
            _ => bytes.iter().zip(offset..).find_map(|(byte, offset)| self.write(offset, *byte)),
        }
    }
}

/// Ports 0xcfc..=0xcff: the register that the address register names.
#[derive(Debug)]
pub struct DataPorts(pub Arc<Root>);

impl DataPorts {
    /// The place in the enhanced configuration area, if configuration accesses are on.
    fn place(&self, offset: u64) -> Option<u64> {
        let address = *lock(&self.0.address);
        let (bus_slot_function, register) = (u64::from(address >> 8 & 0xffff), u64::from(address & 0xfc));
        (address & ENABLE != 0).then_some(bus_slot_function << 12 | register | offset & 3)
    }
}

impl Device for DataPorts {
    fn read(&self, offset: u64) -> u8 {
        let mut byte = [0xff];
        self.read_access(offset, &mut byte);
        let [byte] = byte;
        byte
    }

    fn read_access(&self, offset: u64, data: &mut [u8]) {
        match self.place(offset) {
            Some(place) => self.0.read_config(place, data),
            None => data.fill(0xff),
        }
    }

    fn write(&self, offset: u64, value: u8) -> Option<Cause> {
        self.write_access(offset, &[value])
    }

    fn write_access(&self, offset: u64, bytes: &[u8]) -> Option<Cause> {
        if let Some(place) = self.place(offset) {
            self.0.write_config(place, bytes);
        }
        None
    }
}

/// The enhanced configuration area of bus 0.
#[derive(Debug)]
pub struct Ecam(pub Arc<Root>);

/// Bytes of the enhanced configuration area of one bus.
pub const ECAM_BYTES: u64 = 1 << 20;

impl Device for Ecam {
    fn read(&self, offset: u64) -> u8 {
        let mut byte = [0xff];
        self.0.read_config(offset, &mut byte);
        let [byte] = byte;
        byte
    }

    fn read_access(&self, offset: u64, data: &mut [u8]) {
        self.0.read_config(offset, data);
    }

    fn write(&self, offset: u64, value: u8) -> Option<Cause> {
        self.write_access(offset, &[value])
    }

    fn write_access(&self, offset: u64, bytes: &[u8]) -> Option<Cause> {
        self.0.write_config(offset, bytes);
        None
    }
}

/// The addresses where functions may answer.
#[derive(Debug)]
pub struct Aperture(pub Arc<Root>);

impl Device for Aperture {
    fn read(&self, offset: u64) -> u8 {
        let mut byte = [0xff];
        self.read_access(offset, &mut byte);
        let [byte] = byte;
        byte
    }

    fn read_access(&self, offset: u64, data: &mut [u8]) {
        match self.0.find(PCI_APERTURE.saturating_add(offset), data.len()) {
            Some((function, offset)) => function.read(offset, data),
            None => data.fill(0xff),
        }
    }

    fn write(&self, offset: u64, value: u8) -> Option<Cause> {
        self.write_access(offset, &[value])
    }

    fn write_access(&self, offset: u64, bytes: &[u8]) -> Option<Cause> {
        if let Some((function, offset)) = self.0.find(PCI_APERTURE.saturating_add(offset), bytes.len()) {
            function.write(offset, bytes);
        }
        None
    }
}

const _: () = assert!(PCI_APERTURE + PCI_APERTURE_BYTES <= ECAM_BASE);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::pci::config::{BAR, COMMAND};
    use proptest::prelude::*;

    /// A function with one page of memory that answers with the low byte of the offset.
    #[derive(Debug)]
    struct Page(Mutex<Config>, Mutex<Vec<(u64, Vec<u8>)>>);

    fn page(device: u16, address: u32) -> Arc<Page> {
        let mut config =
            Config::new(Identity { vendor: 0x1234, device, revision: 0, class: 0, subsystem_vendor: 0, subsystem: 0 });
        config.add_memory(0, 4096, address).unwrap();
        Arc::new(Page(Mutex::new(config), Mutex::default()))
    }

    impl Function for Page {
        fn read_config(&self, offset: u16, data: &mut [u8]) {
            assert!(usize::from(offset % 4) + data.len() <= 4);
            lock(&self.0).read(offset, data);
        }

        fn write_config(&self, offset: u16, data: &[u8]) {
            assert!(usize::from(offset % 4) + data.len() <= 4);
            lock(&self.0).write(offset, data);
        }

        fn window(&self) -> Option<Window> {
            lock(&self.0).memory(0).map(|start| Window { start, bytes: 4096 })
        }

        fn read(&self, offset: u64, data: &mut [u8]) {
            data.iter_mut().zip(offset..).for_each(|(byte, at)| *byte = at as u8);
        }

        fn write(&self, offset: u64, data: &[u8]) {
            lock(&self.1).push((offset, data.to_vec()));
        }
    }

    fn base() -> u32 {
        PCI_APERTURE as u32
    }

    fn port_read(root: &Arc<Root>, slot: u32, register: u32) -> u32 {
        let (address, data) = (AddressPorts::new(Arc::clone(root)), DataPorts(Arc::clone(root)));
        assert_eq!(address.write_access(0, &(ENABLE | slot << 11 | register).to_le_bytes()), None);
        let mut bytes = [0; 4];
        data.read_access(0, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    #[test]
    fn both_ways_show_the_same_functions() {
        let root = Root::new(vec![(3, page(0x3333, base()))]).unwrap();
        assert_eq!(port_read(&root, 3, 0), 0x3333_1234);
        assert_eq!(port_read(&root, 0, 8) >> 8, 0x06_0000);
        assert_eq!(port_read(&root, 4, 0), u32::MAX);
        let mut bytes = [0; 4];
        Ecam(Arc::clone(&root)).read_access(3 << 15, &mut bytes);
        assert_eq!(u32::from_le_bytes(bytes), 0x3333_1234);
        Ecam(Arc::clone(&root)).read_access(3 << 15 | 1 << 12, &mut bytes);
        assert_eq!(bytes, [0xff; 4], "one function to a slot");
        assert!(matches!(Root::new(vec![(0, page(1, 0))]), Err(SlotTaken(0))));
        assert!(matches!(Root::new(vec![(32, page(1, 0))]), Err(SlotTaken(32))));
        assert!(matches!(Root::new(vec![(2, page(1, 0)), (2, page(1, 0))]), Err(SlotTaken(2))));
    }

    #[test]
    fn a_function_answers_where_the_guest_puts_it() {
        let one = page(1, base());
        let root = Root::new(vec![(1, Arc::clone(&one) as _)]).unwrap();
        let (aperture, ecam) = (Aperture(Arc::clone(&root)), Ecam(Arc::clone(&root)));
        let mut data = [0; 2];
        aperture.read_access(0x10, &mut data);
        assert_eq!(data, [0xff; 2], "off after reset");
        ecam.write_access(1 << 15 | u64::from(COMMAND), &[2]);
        aperture.read_access(0x10, &mut data);
        assert_eq!(data, [0x10, 0x11]);
        ecam.write_access(1 << 15 | u64::from(BAR), &(base() + 0x5000).to_le_bytes());
        aperture.read_access(0x10, &mut data);
        assert_eq!(data, [0xff; 2]);
        aperture.write_access(0x5ffe, &[1, 2]);
        aperture.write_access(0x5fff, &[1, 2]);
        assert_eq!(*lock(&one.1), [(0xffe, vec![1, 2])]);
    }

    #[test]
    fn a_reset_is_still_where_it_was() {
        let ports = AddressPorts::new(Root::new(vec![]).unwrap());
        assert_eq!(ports.write_access(1, &[frame::platform::RESET_VALUE]), Some(Cause::Reset));
        assert_eq!(ports.write_access(0, &[0, frame::platform::RESET_VALUE, 0, 0]), None, "an address, not a reset");
    }

    proptest! {
        #[test]
        fn no_access_is_too_odd(
            steps in proptest::collection::vec((any::<u64>(), proptest::collection::vec(any::<u8>(), 0..9), 0..5u8), 0..64),
        ) {
            let root = Root::new(vec![(1, page(1, base())), (31, page(2, base() + 0x1000))]).unwrap();
            let address = AddressPorts::new(Arc::clone(&root));
            let (data, ecam, aperture) = (DataPorts(Arc::clone(&root)), Ecam(Arc::clone(&root)), Aperture(root));
            let devices: [&dyn Device; 4] = [&address, &data, &ecam, &aperture];
            for (offset, mut bytes, to) in steps {
                let device = devices[usize::from(to % 4)];
                let _ = device.write_access(offset, &bytes);
                device.read_access(offset, &mut bytes);
            }
        }
    }
}
