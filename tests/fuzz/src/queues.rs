//! The queues of devices: rings, descriptors and buffers are the fuzzer's, and so is the order of kicks.

use crate::Bytes;
use crate::pci::{Nowhere, interrupter};
use frame::device::{Attachment, DiskEngine, DiskSpec, NetworkSpec};
use frame::mac::Mac;
use partition::devices::virtio::disk::image::Image;
use partition::devices::virtio::disk::requests::Requests;
use partition::devices::virtio::entropy::Source;
use partition::devices::virtio::network::Network;
use partition::devices::virtio::network::adapter::Adapter;
use partition::devices::virtio::network::tap::Tap;
use partition::devices::virtio::ring::Ring;
use partition::devices::virtio::worker::Service;
use std::cell::RefCell;
use std::fs::File;
use std::os::unix::net::UnixDatagram;
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
/// Queue pairs of the adapter; its control queue comes after them.
const PAIRS: u8 = 2;
/// The adapter's address, and its VLANs.
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const VLANS: [u16; 2] = [10, 20];

thread_local! {
    static MEMORY_OF_ALL: RefCell<Option<GuestMemoryMmap>> = const { RefCell::new(None) };
    static DISKS: RefCell<Option<[Requests; 2]>> = const { RefCell::new(None) };
    static ADAPTER: RefCell<Option<Wired>> = const { RefCell::new(None) };
}

/// The queue of a disk, with requests one after the other or several at once.
pub fn disk_queue(bytes: &[u8]) {
    DISKS.with_borrow_mut(|disks| {
        let disks = disks.get_or_insert_with(|| {
            let made = [DiskEngine::Sync, DiskEngine::Auto].map(disk);
            made.map(|disk| disk.unwrap_or_else(|error| panic!("no disk: {error}")))
        });
        let [sync, auto] = disks;
        serve(if bytes.len().is_multiple_of(2) { sync } else { auto }, &[0], bytes, &mut |_| {});
    });
}

fn disk(engine: DiskEngine) -> std::io::Result<Requests> {
    let file = rustix::fs::memfd_create("image", rustix::fs::MemfdFlags::CLOEXEC).map(File::from)?;
    rustix::fs::ftruncate(&file, IMAGE)?;
    let image = Image::new(file, false).map_err(std::io::Error::other)?;
    let mut disk = Requests::new(image, &DiskSpec { serial: "fuzz".into(), engine, ..DiskSpec::default() })?;
    disk.prepare();
    Ok(disk)
}

/// An adapter, and the other ends of its taps.
struct Wired {
    adapter: Adapter,
    far: Vec<UnixDatagram>,
}

/// A queue of an adapter, for frames either way or for control; frames come from outside between the kicks.
pub fn network_queue(bytes: &[u8]) {
    ADAPTER.with_borrow_mut(|adapter| {
        let wired = adapter.get_or_insert_with(|| wired().unwrap_or_else(|error| panic!("no adapter: {error}")));
        let Wired { adapter, far } = wired;
        let (queue, bytes) = bytes.split_first().unwrap_or((&0, &[]));
        let mut outside = |bytes: &mut Bytes<'_>| {
            look(far);
            arrive(far, bytes);
        };
        serve(adapter, &[usize::from(queue % (PAIRS * 2 + 1))], bytes, &mut outside);
    });
}

fn wired() -> std::io::Result<Wired> {
    let [vlan, tagged] = VLANS;
    let spec = NetworkSpec {
        mac: Mac(MAC),
        vlan,
        tagged: vec![tagged],
        attachment: Attachment::Trunk,
        mtu: 1500,
        queues: PAIRS,
        operations: None,
        bandwidth: None,
    };
    let (mut taps, mut far) = (vec![], vec![]);
    for _ in 0..spec.taps() * usize::from(spec.queues) {
        let (near, other) = UnixDatagram::pair()?;
        other.set_nonblocking(true)?;
        taps.push(Tap::socket(near.into())?);
        far.push(other);
    }
    Ok(Wired { adapter: Adapter::new(&spec, taps, Network::new(&spec).counters())?, far })
}

/// What the adapter sent is of its own address and VLANs, whatever the guest asked for.
fn look(far: &[UnixDatagram]) {
    let mut frame = [0; 128];
    for far in far {
        while let Ok(count) = far.recv(&mut frame) {
            let frame = frame.get(12..count).unwrap_or_default();
            let vlan = frame.get(14..16).and_then(|tag| tag.try_into().ok()).map_or(0, u16::from_be_bytes) & 0xfff;
            assert!(frame.get(6..12) == Some(&MAC[..]) && VLANS.contains(&vlan), "sent {frame:x?}");
        }
    }
}

/// A frame comes from outside, mostly to the adapter and in one of its VLANs.
fn arrive(far: &[UnixDatagram], bytes: &mut Bytes<'_>) {
    let shape = bytes.byte();
    let mut frame = vec![0; 12];
    if shape & 1 != 0 {
        frame.iter_mut().for_each(|byte| *byte = bytes.byte());
    }
    if shape & 2 != 0 {
        frame.extend(MAC);
        frame.extend([2, 0, 0, 0, 0, 2, 0x81, 0, 0, if shape & 4 == 0 { 10 } else { 20 }]);
    }
    frame.extend(bytes.some(usize::from(shape >> 3)));
    // Segments that the host left together come in frames that fill several buffers.
    if shape & 0xc0 == 0xc0 {
        frame.resize(frame.len() + usize::from(bytes.half()), shape);
    }
    for far in far {
        let _ = far.send(&frame);
    }
}

/// The queue of the entropy device.
pub fn entropy_queue(bytes: &[u8]) {
    serve(&mut Source, &[0], bytes, &mut |_| {});
}

/// What happens between two kicks of a queue.
pub(crate) type Outside<'a> = &'a mut dyn FnMut(&mut Bytes<'_>);

/// Runs a device over a memory and `queues` that `bytes` make; several have the same rings.
pub(crate) fn serve(service: &mut dyn Service, queues: &[usize], bytes: &[u8], outside: Outside<'_>) {
    MEMORY_OF_ALL.with_borrow_mut(|memory| {
        let memory = memory.get_or_insert_with(|| {
            GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)])
                .unwrap_or_else(|error| panic!("no memory: {error}"))
        });
        run(service, queues, memory, Bytes::new(bytes), outside);
    });
}

fn run(
    service: &mut dyn Service,
    places: &[usize],
    memory: &GuestMemoryMmap,
    mut bytes: Bytes<'_>,
    outside: Outside<'_>,
) {
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
    let mut rings: Vec<Option<Ring>> = (0..=places.iter().copied().max().unwrap_or(0)).map(|_| None).collect();
    for &place in places {
        let Ok(queue) = Queue::try_from(state) else { return };
        let Ok(ring) = Ring::new(place as u16, queue, memory.clone(), interrupter(place + 1, Nowhere)) else { return };
        if let Some(one) = rings.get_mut(place) {
            *one = Some(ring);
        }
    }
    if service.start(features, &mut rings).is_ok() {
        kicks(service, places, &mut rings, memory, &mut bytes, outside);
    }
    service.stop();
}

fn kicks(
    service: &mut dyn Service,
    places: &[usize],
    rings: &mut [Option<Ring>],
    memory: &GuestMemoryMmap,
    bytes: &mut Bytes<'_>,
    outside: Outside<'_>,
) {
    for _ in 0..KICKS {
        // A fault freezes the device: it is not asked again.
        if places.iter().any(|place| service.serve(rings, *place).is_err()) || bytes.is_empty() {
            return;
        }
        outside(bytes);
        if !service.sources().is_empty() && service.ready(rings, 0).is_err() {
            return;
        }
        let (at, data) = (u64::from(bytes.half()) % MEMORY as u64, bytes.some(16));
        let _ = memory.write(data, GuestAddress(at));
        let _ = memory.write_obj(bytes.half(), GuestAddress(AVAILABLE + 2));
    }
}
