//! A disk, driven through its queue as a guest drives it.

use super::image::{Image, ImageError};
use super::requests::Requests;
use super::*;
use crate::devices::pci::freeze::Fault;
use crate::devices::pci::root::Function;
use crate::devices::virtio::testing::Driver;
use frame::device::{DiskEngine, DiskSpec};
use proptest::prelude::*;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use vm_memory::{Bytes, GuestAddress};

fn image(bytes: u64) -> File {
    let file = tempfile::tempfile().unwrap();
    file.set_len(bytes).unwrap();
    file
}

fn disk(file: &File, spec: &DiskSpec) -> Driver {
    let image = Image::new(file.try_clone().unwrap(), spec.read_only).unwrap();
    let service = Requests::new(image.clone(), spec).unwrap();
    let mut driver = Driver::new(Arc::new(Disk::new(&image, service.io_uring())), Box::new(service));
    driver.start(driver.offered() & !(1 << 29));
    driver
}

fn header(kind: u32, sector: u64) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat()
}

#[test]
fn logical_blocks_are_sectors_and_physical_ones_pages() {
    for (bytes, exponent) in [(1 << 20, 3), ((1 << 20) + 512, 0)] {
        let disk = Disk::new(&Image::new(image(bytes), false).unwrap(), Arc::default());
        let mut config = [0; 5];
        disk.read_config(20, &mut config);
        assert_eq!(config, [0, 2, 0, 0, exponent]);
    }
}

/// One request: status, and what was read.
fn request(driver: &mut Driver, kind: u32, sector: u64, data: &[u8], room: usize) -> (u8, Vec<u8>) {
    let header = header(kind, sector);
    let mut readable: Vec<&[u8]> = vec![&header];
    if !data.is_empty() {
        readable.push(data);
    }
    let writable: Vec<usize> = [room, 1].into_iter().filter(|bytes| *bytes > 0).collect();
    let addresses = driver.submit(0, 0, &readable, &writable);
    driver.wait(0);
    let status = driver.bytes(*addresses.last().unwrap(), 1)[0];
    (status, if room > 0 { driver.bytes(addresses[0], room) } else { vec![] })
}

fn range(sector: u64, count: u32, flags: u32) -> Vec<u8> {
    [&sector.to_le_bytes()[..], &count.to_le_bytes(), &flags.to_le_bytes()].concat()
}

const ENGINES: [DiskEngine; 2] = [DiskEngine::Auto, DiskEngine::Sync];

#[test]
fn what_is_written_is_read() {
    ENGINES.into_iter().for_each(what_is_written_is_read_by);
}

fn what_is_written_is_read_by(engine: DiskEngine) {
    let file = image(1 << 20);
    let mut driver = disk(&file, &DiskSpec { engine, ..DiskSpec::default() });
    let mut capacity = [0; 8];
    driver.function.read(0x2000, &mut capacity);
    assert_eq!(u64::from_le_bytes(capacity), 2048);
    let data: Vec<u8> = (0..8192).map(|at| at as u8).collect();
    assert_eq!(request(&mut driver, 1, 100, &data, 0).0, 0);
    assert_eq!(request(&mut driver, 0, 100, &[], 8192), (0, data.clone()));
    let mut there = vec![0; 8192];
    file.read_exact_at(&mut there, 51_200).unwrap();
    assert_eq!(there, data);
    assert_eq!(request(&mut driver, 4, 0, &[], 0).0, 0);
}

#[test]
fn what_is_not_on_the_disk_fails_and_freezes_nothing() {
    let file = image(1 << 20);
    let mut driver = disk(&file, &DiskSpec::default());
    for (kind, sector, room) in
        [(0, 2048, 512), (0, 2047, 1024), (0, u64::MAX, 512), (0, u64::MAX / 512, 512), (0, 0, 100)]
    {
        assert_eq!(request(&mut driver, kind, sector, &[], room).0, 1, "{kind} {sector} {room}");
    }
    assert_eq!(request(&mut driver, 1, 2048, &[1; 512], 0).0, 1);
    assert_eq!(request(&mut driver, 1, 0, &[1; 511], 0).0, 1);
    assert_eq!(request(&mut driver, 77, 0, &[], 0).0, 2);
    assert_eq!(request(&mut driver, 11, 0, &range(2047, 2, 0), 0).0, 1);
    assert_eq!(request(&mut driver, 11, 0, &range(0, 1, 1), 0).0, 2, "a flag that discard does not know");
    assert_eq!(request(&mut driver, 13, 0, &[0; 15], 0).0, 1);
    assert!(!driver.function.freezer().is_frozen());
}

#[test]
fn ranges_become_zeros_and_their_space_is_given_back() {
    let file = image(1 << 20);
    file.write_all_at(&[7; 1 << 20], 0).unwrap();
    let mut driver = disk(&file, &DiskSpec::default());
    let ranges = [range(8, 16, 0), range(64, 8, 1)].concat();
    assert_eq!(request(&mut driver, 13, 0, &ranges, 0).0, 0);
    assert_eq!(request(&mut driver, 0, 8, &[], 8192), (0, vec![0; 8192]));
    assert_eq!(request(&mut driver, 0, 64, &[], 4096), (0, vec![0; 4096]));
    assert_eq!(request(&mut driver, 0, 72, &[], 512), (0, vec![7; 512]));
    let (status, _) = request(&mut driver, 11, 0, &range(1024, 1024, 0), 0);
    assert!(matches!(status, 0 | 2), "{status}");
}

#[test]
fn a_disk_that_is_read_only_is_not_written() {
    let file = image(1 << 20);
    let spec = DiskSpec { read_only: true, serial: "blkh-0001".into(), ..DiskSpec::default() };
    let mut driver = disk(&file, &spec);
    assert_eq!(driver.offered() & (1 << 5 | 1 << 13 | 1 << 14), 1 << 5);
    for (kind, data) in [(1, vec![1; 512]), (11, range(0, 8, 0)), (13, range(0, 8, 0))] {
        assert_eq!(request(&mut driver, kind, 0, &data, 0).0, 1);
    }
    let (status, id) = request(&mut driver, 8, 0, &[], 20);
    assert_eq!((status, &id[..10]), (0, &b"blkh-0001\0"[..]));
    let mut bytes = [1; 512];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(bytes, [0; 512]);
}

#[test]
fn an_image_that_becomes_shorter_freezes_the_disk() {
    ENGINES.into_iter().for_each(an_image_that_becomes_shorter_freezes_the_disk_by);
}

fn an_image_that_becomes_shorter_freezes_the_disk_by(engine: DiskEngine) {
    let file = image(1 << 20);
    let mut driver = disk(&file, &DiskSpec { engine, ..DiskSpec::default() });
    file.set_len(4096).unwrap();
    driver.submit(0, 0, &[&header(0, 100)], &[512, 1]);
    assert!(matches!(driver.wait_frozen(), Fault::Gone(_)));
    file.set_len(1 << 20).unwrap();
    driver.start(0);
    assert_eq!(request(&mut driver, 0, 100, &[], 512).0, 0);
}

#[test]
fn a_request_without_header_or_status_freezes() {
    let file = image(1 << 20);
    for (readable, writable) in [(vec![0; 15], vec![1]), (header(0, 0), vec![])] {
        let mut driver = disk(&file, &DiskSpec::default());
        driver.submit(0, 0, &[&readable], &writable);
        assert!(matches!(driver.wait_frozen(), Fault::Chain { .. }));
    }
}

#[test]
fn a_limit_lets_requests_wait_and_loses_none() {
    let file = image(1 << 20);
    let spec = DiskSpec { operations: Some(50), bandwidth: Some(1 << 20), ..DiskSpec::default() };
    let mut driver = disk(&file, &spec);
    let begin = std::time::Instant::now();
    for _ in 0..15 {
        assert_eq!(request(&mut driver, 0, 0, &[], 512).0, 0);
    }
    // 5 are saved up, the rest comes at 50 in a second: no sooner than this, however slow the machine.
    assert!(begin.elapsed() >= std::time::Duration::from_millis(150), "{:?}", begin.elapsed());
}

#[test]
fn what_cannot_be_a_disk_is_said() {
    let text = |file: File, read_only| Image::new(file, read_only).unwrap_err().to_string();
    assert!(text(image(511), false).contains("511 bytes"));
    assert!(matches!(Image::new(File::open("/").unwrap(), true), Err(ImageError::Kind)));
    let mut named = tempfile::NamedTempFile::new().unwrap();
    named.write_all(&[0; 1024]).unwrap();
    assert!(text(File::open(named.path()).unwrap(), false).contains("not open for writing"));
    assert_eq!(Image::new(File::open(named.path()).unwrap(), true).unwrap().bytes(), 1024);
}

/// Reads of a block at each of these sectors, offered at once; gives where the data come and the descriptors' heads.
fn read_at_once(driver: &mut Driver, sectors: &[u64]) -> Vec<u64> {
    let read = |(at, sector): (u16, &u64)| driver.submit(0, at * 3, &[&header(0, *sector)], &[4096, 1])[0];
    (0..).zip(sectors).map(read).collect()
}

#[test]
fn requests_that_are_under_way_at_once_are_all_right() {
    let mut file = tempfile::NamedTempFile::new().unwrap().into_file();
    let block = |at: u64| [at.to_le_bytes(); 512].concat();
    (0..2048).for_each(|at| file.write_all(&block(at)).unwrap());
    file.sync_all().unwrap();
    let mut driver = disk(&file, &DiskSpec::default());
    let mut sector = 1u64;
    for _ in 0..20 {
        // What the host does not have in memory does not come at once.
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        let sectors: Vec<u64> = (0..20)
            .map(|_| {
                sector = (sector * 0x5851_f42d % 2048 + 1) % 2048;
                sector * 8
            })
            .collect();
        let places = read_at_once(&mut driver, &sectors);
        let mut heads: Vec<u16> = (0..20).map(|_| driver.wait(0)).map(|used| used.head).collect();
        heads.sort_unstable();
        assert_eq!(heads, (0..20).map(|at| at * 3).collect::<Vec<u16>>());
        for (place, sector) in places.iter().zip(&sectors) {
            assert_eq!(driver.bytes(*place, 4097), [block(sector / 8), vec![0]].concat());
        }
    }
    let used = driver.function.status_report().io_uring;
    assert_eq!((driver.function.freezer().is_frozen(), used), (false, Some(engine::Engine::new(&file).is_ok())));
}

#[test]
fn after_a_reset_no_request_comes_back() {
    let file = tempfile::NamedTempFile::new().unwrap().into_file();
    file.write_all_at(&[7; 8 << 20], 0).unwrap();
    file.sync_all().unwrap();
    let mut driver = disk(&file, &DiskSpec::default());
    for _ in 0..20 {
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        let places = read_at_once(&mut driver, &[0, 1000, 2000, 4000, 8000, 16000]);
        driver.reset();
        places.iter().for_each(|place| driver.memory.write_slice(&[9; 4096], GuestAddress(*place)).unwrap());
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        driver.start(0);
        assert_eq!(request(&mut driver, 0, 100, &[], 512), (0, vec![7; 512]));
        for place in places {
            let there = driver.bytes(place, 4096);
            // The first of them may be where the new request is.
            assert!(place < 0x10_0000 + 0x4000 || there.iter().all(|byte| *byte == 9), "{place:x}");
        }
    }
}

#[test]
fn a_ring_of_the_host_can_do_nothing_but_a_disks_requests() {
    let file = image(1 << 20);
    let engine = match engine::Engine::new(&file) {
        Ok(engine) => engine,
        Err(error) => {
            // A host may have none, or give nobody one; disks do without.
            assert!(matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)), "{error}");
            return;
        }
    };
    assert_eq!(engine.attempt_others(), [Some(libc::EACCES); 3]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn no_request_is_too_odd(
        sync: bool,
        requests in proptest::collection::vec(
            (0..16u32, prop_oneof![0..2050u64, any::<u64>()], proptest::collection::vec(any::<u8>(), 0..600), 0..2000usize), 1..20,
        ),
    ) {
        let file = image(1 << 20);
        let spec = DiskSpec { engine: ENGINES[usize::from(sync)], ..DiskSpec::default() };
        let mut driver = disk(&file, &spec);
        for (kind, sector, data, room) in requests {
            let (status, _) = request(&mut driver, kind, sector, &data, room);
            prop_assert!(status <= 2);
        }
        prop_assert!(!driver.function.freezer().is_frozen());
        prop_assert_eq!(file.metadata().unwrap().len(), 1 << 20);
    }
}
