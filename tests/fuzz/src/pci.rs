//! Configuration space, base addresses, the virtio registers behind them, and MSI-X tables.

use crate::Bytes;
use partition::devices::bus::Device;
use partition::devices::pci::freeze::Fault;
use partition::devices::pci::msix::{Message, Msix, Vector};
use partition::devices::pci::root::{AddressPorts, DataPorts, Function, Root};
use partition::devices::pm::Line;
use partition::devices::virtio::Model;
use partition::devices::virtio::entropy::{Entropy, Source};
use partition::devices::virtio::freezer::{Freezer, Witness};
use partition::devices::virtio::function::{Doorbells, Parts, VirtioFunction};
use partition::devices::virtio::interrupter::Interrupter;
use partition::devices::virtio::worker::Worker;
use std::cell::RefCell;
use std::sync::Arc;
use vm_memory::{GuestAddress, GuestMemoryMmap};

/// Leads nowhere: messages, levels, notifications, and what is said about freezes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Nowhere;

impl Vector for Nowhere {
    fn route(&self, _: Option<Message>) {}

    fn trigger(&self) {}
}

impl Line for Nowhere {
    fn set(&self, _: bool) {}
}

impl Doorbells for Nowhere {
    fn place(&self, _: Option<u64>) {}
}

impl Witness for Nowhere {
    fn froze(&self, _: &str, _: &Fault, _: bool) {}

    fn stormed(&self, _: &str, _: u16, _: frame::storm::Limit, _: bool) {}
}

fn msix(vectors: usize, to: Nowhere) -> Msix {
    Msix::new((0..vectors).map(|_| Box::new(to) as Box<dyn Vector>).collect())
}

/// Interrupts that lead nowhere.
pub(crate) fn interrupter(queues: usize, to: Nowhere) -> Arc<Interrupter> {
    Arc::new(Interrupter::new(queues, msix(queues + 1, to), Box::new(to)))
}

/// An MSI-X table: any accesses, in any order, with messages in between.
pub fn msix_table(bytes: &[u8]) {
    let mut bytes = Bytes::new(bytes);
    let table = msix(usize::from(bytes.byte() & 7), Nowhere);
    while !bytes.is_empty() {
        let choice = bytes.byte();
        let mut data = [0; 8];
        let length = 1 << (choice >> 6 & 3);
        let data = data.get_mut(..length).unwrap_or_default();
        // The table and its pending bits are reached by their places in a window, which has 32 bits.
        let offset = u64::from(if choice & 0x20 == 0 { bytes.byte().into() } else { bytes.word() });
        match choice & 7 {
            0 => table.control(bytes.half()),
            1 => drop(table.trigger(bytes.half())),
            2 => table.read_table(offset, data),
            3 | 4 => {
                data.iter_mut().for_each(|byte| *byte = bytes.byte());
                table.write_table(offset, data);
            }
            5 => table.read_pending(offset, data),
            6 => table.reset(),
            _ => {
                let vectors = usize::from(table.count());
                assert_eq!(table.figures().len(), vectors, "the table changed its size");
            }
        }
    }
}

/// Memory of the device that [`configuration`] configures.
const MEMORY: usize = 0x1_0000;

struct Bus {
    address: AddressPorts,
    data: DataPorts,
    function: Arc<VirtioFunction>,
}

thread_local! {
    static BUS: RefCell<Option<Bus>> = const { RefCell::new(None) };
}

/// PCI configuration by its ports, and the registers of a virtio function: any accesses in any order.
///
/// The device is reset first, as a guest would; its own thread works on whatever it is given meanwhile.
pub fn configuration(bytes: &[u8]) {
    BUS.with_borrow_mut(|bus| {
        let bus = bus.get_or_insert_with(bus_with_device);
        bus.function.write(20, &[0]);
        access(bus, Bytes::new(bytes));
    });
}

fn bus_with_device() -> Bus {
    let memory =
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap_or_else(|error| panic!("no memory: {error}"));
    let interrupter = interrupter(Entropy.queues().len(), Nowhere);
    let freezer = Arc::new(Freezer::new("device", Arc::clone(&interrupter), Arc::new(Nowhere)));
    let kick = vmm_sys_util::eventfd::EventFd::new(0x800).unwrap_or_else(|error| panic!("no eventfd: {error}"));
    let kicks = vec![Arc::new(kick)];
    let worker = Worker::spawn("device", kicks.clone(), Box::new(Source), Arc::clone(&freezer))
        .unwrap_or_else(|error| panic!("no thread: {error}"));
    let parts = Parts {
        name: "device".into(),
        model: Arc::new(Entropy),
        worker,
        kicks,
        interrupter,
        freezer,
        doorbells: Box::new(Nowhere),
        memory,
        address: 0xd000_0000,
        gsi: 16,
    };
    let function = Arc::new(VirtioFunction::new(parts).unwrap_or_else(|error| panic!("no function: {error}")));
    let root = Root::new(vec![(3, Arc::clone(&function) as Arc<dyn Function>)])
        .unwrap_or_else(|error| panic!("no bus: {error}"));
    Bus { address: AddressPorts::new(Arc::clone(&root)), data: DataPorts(root), function }
}

fn access(bus: &Bus, mut bytes: Bytes<'_>) {
    let Bus { address, data, function } = bus;
    while !bytes.is_empty() {
        let choice = bytes.byte();
        let mut room = [0; 8];
        let length = 1 << (choice >> 6 & 3);
        let part = room.get_mut(..length).unwrap_or_default();
        let offset = u64::from(bytes.half());
        if choice & 1 != 0 {
            part.iter_mut().for_each(|byte| *byte = bytes.byte());
        }
        match choice & 7 {
            0 => address.read_access(offset & 3, part),
            // Mostly the device's own configuration.
            1 if choice & 0x20 == 0 => {
                let register = 1 << 31 | 3 << 11 | (offset as u32 & 0xfc);
                let _ = address.write_access(0, &register.to_le_bytes());
            }
            1 => {
                let _ = address.write_access(offset & 3, part);
            }
            2 => data.read_access(offset & 3, part),
            3 => {
                let _ = data.write_access(offset & 3, part);
            }
            4 => function.read(offset & 0x7fff, part),
            5 => function.write(offset & 0x7fff, part),
            6 => function.read(offset & 0x3f, part),
            _ => function.write(offset & 0x3f, part),
        }
    }
    let _ = function.status_report();
}
