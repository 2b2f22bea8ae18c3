//! The queues of devices: rings, descriptors and buffers are the fuzzer's, and so is the order of kicks.

use crate::Bytes;
use crate::pci::{Nowhere, interrupter};
use frame::device::DiskSpec;
use partition::devices::virtio::disk::image::Image;
use partition::devices::virtio::disk::requests::Requests;
use partition::devices::virtio::entropy::Source;
use partition::devices::virtio::ring::Ring;
use partition::devices::virtio::worker::Service;
use std::cell::RefCell;
use std::fs::File;
use virtio_queue::{Queue, QueueState};
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};

/// Bytes of guest memory: small, so that random addresses often hit it.
const MEMORY: usize = 0x1_0000;
/// Entries of the queue, and where its parts are.
const SIZE: u16 = 16;
const DESCRIPTORS: u64 = 0;
const AVAILABLE: u64 = 0x100;
const USED: u64 = 0x200;
/// Where indirect tables, headers and buffers are most likely looked for.
const BUFFERS: u64 = 0x400;
/// Bytes of the disk's image.
const IMAGE: u64 = 0x4000;
/// Most kicks of one run.
const KICKS: usize = 8;

thread_local! {
    static MEMORY_OF_ALL: RefCell<Option<GuestMemoryMmap>> = const { RefCell::new(None) };
    static DISK: RefCell<Option<Requests>> = const { RefCell::new(None) };
}

/// The queue of a disk.
pub fn disk_queue(bytes: &[u8]) {
    DISK.with_borrow_mut(|disk| {
        let disk = disk.get_or_insert_with(|| {
            let file = rustix::fs::memfd_create("image", rustix::fs::MemfdFlags::CLOEXEC).map(File::from);
            let file = file.and_then(|file| rustix::fs::ftruncate(&file, IMAGE).map(|()| file));
            let image = Image::new(file.unwrap_or_else(|errno| panic!("no image: {errno}")), false);
            let image = image.unwrap_or_else(|error| panic!("the image is refused: {error}"));
            let spec = DiskSpec { read_only: false, serial: "fuzz".into(), operations: None, bandwidth: None };
            Requests::new(image, &spec).unwrap_or_else(|error| panic!("no disk: {error}"))
        });
        serve(disk, bytes);
    });
}

/// The queue of the entropy device.
pub fn entropy_queue(bytes: &[u8]) {
    serve(&mut Source, bytes);
}

/// Runs a device over a memory and a queue that `bytes` make.
fn serve(service: &mut dyn Service, bytes: &[u8]) {
    MEMORY_OF_ALL.with_borrow_mut(|memory| {
        let memory = memory.get_or_insert_with(|| {
            GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)])
                .unwrap_or_else(|error| panic!("no memory: {error}"))
        });
        run(service, memory, Bytes::new(bytes));
    });
}

fn run(service: &mut dyn Service, memory: &GuestMemoryMmap, mut bytes: Bytes<'_>) {
    let features = bytes.long();
    let (next_available, next_used) = (bytes.half(), bytes.half());
    let shape = bytes.byte();
    // Mostly the rings are where the bytes go; now and then they are anywhere.
    let elsewhere = |bytes: &mut Bytes<'_>, usual: u64, bit: u8| if shape & bit == 0 { usual } else { bytes.long() };
    let state = QueueState {
        max_size: SIZE,
        next_avail: next_available,
        next_used,
        event_idx_enabled: features & 1 << 29 != 0,
        size: if shape & 8 == 0 { SIZE } else { SIZE >> (shape >> 4 & 3) },
        ready: true,
        desc_table: elsewhere(&mut bytes, DESCRIPTORS, 1),
        avail_ring: elsewhere(&mut bytes, AVAILABLE, 2),
        used_ring: elsewhere(&mut bytes, USED, 4),
    };
    let put = |at: u64, data: &[u8]| {
        let _ = memory.write(data, GuestAddress(at));
    };
    put(0, &[0; BUFFERS as usize + 0x400]);
    let count = u16::from(bytes.byte()) % (SIZE + 2);
    // Descriptors in a short form, so that chains are likely: where, how long, flags, next.
    for index in 0..SIZE.min(count) {
        let (page, flags) = (bytes.byte(), bytes.byte());
        let address = match flags >> 6 {
            0 | 1 => BUFFERS + u64::from(page) * 16,
            2 => (MEMORY as u64 - 0x100) | u64::from(page),
            _ => bytes.long(),
        };
        let length = if flags & 0x20 == 0 { u32::from(bytes.byte()) * 16 } else { bytes.word() };
        let next = if flags & 0x10 == 0 { index + 1 } else { u16::from(bytes.byte()) };
        let descriptor =
            u128::from(address) | u128::from(length) << 64 | u128::from(flags & 7) << 96 | u128::from(next) << 112;
        put(DESCRIPTORS + u64::from(index) * 16, &descriptor.to_le_bytes());
    }
    let mut available = next_available;
    for _ in 0..bytes.byte() % 4 {
        put(AVAILABLE + 4 + u64::from(available % SIZE) * 2, &u16::from(bytes.byte() & 0x1f).to_le_bytes());
        available = available.wrapping_add(1);
    }
    let ahead = bytes.byte();
    let index = if ahead < 0xf0 { available } else { available.wrapping_add(u16::from(ahead)) };
    put(AVAILABLE + 2, &index.to_le_bytes());
    let buffers = usize::from(bytes.byte()) * 4;
    put(BUFFERS, bytes.some(buffers));
    let Ok(queue) = Queue::try_from(state) else { return };
    let Ok(ring) = Ring::new(0, queue, memory.clone(), interrupter(1, Nowhere)) else { return };
    let mut rings = [Some(ring)];
    if service.start(features, &mut rings).is_err() {
        return;
    }
    for _ in 0..KICKS {
        // A fault freezes the device: it is not asked again.
        if service.serve(&mut rings, 0).is_err() || bytes.is_empty() {
            return;
        }
        let (at, data) = (u64::from(bytes.half()) % MEMORY as u64, bytes.some(16));
        put(at, data);
        let _ = memory.write_obj(bytes.half(), GuestAddress(AVAILABLE + 2));
    }
}
