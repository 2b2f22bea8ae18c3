//! The transport, the rings and the freeze, driven as a guest drives them.

use super::entropy::{Entropy, Source};
use super::testing::{Driver, EVENT_INDEX, INDIRECT, NEXT, VERSION_1, WRITE, wait};
use crate::devices::lock;
use crate::devices::pci::freeze::{Fault, State};
use crate::devices::pci::root::Function;
use proptest::prelude::*;
use std::sync::Arc;

fn driver() -> Driver {
    Driver::new(Arc::new(Entropy), Box::new(Source))
}

#[test]
fn a_request_is_served_and_interrupts() {
    for features in [0, EVENT_INDEX] {
        let mut driver = driver();
        driver.start(features);
        let at = driver.submit(0, 0, &[], &[16, 48]);
        let used = driver.wait(0);
        assert_eq!((used.head, used.written), (0, 64));
        assert_ne!(driver.bytes(at[0], 16), [0xee; 16]);
        assert_ne!(driver.bytes(at[1], 48), [0xee; 48]);
        wait("the interrupt", || (driver.sent(1).len() == 1).then_some(()));
        assert_eq!(driver.sent(1)[0].data, 0x41);
        assert_eq!(driver.sent(0), []);
    }
}

#[test]
fn an_interrupt_is_timed_until_the_driver_answers() {
    let mut driver = driver();
    driver.start(EVENT_INDEX);
    let timed = |driver: &Driver| driver.function.interrupter().msix().figures()[1].latency.total();
    driver.submit(0, 0, &[], &[16]);
    driver.wait(0);
    wait("the interrupt", || (driver.sent(1).len() == 1).then_some(()));
    assert_eq!(timed(&driver), 0, "it is not answered yet");
    driver.answer(0, 1);
    wait("the time", || (timed(&driver) == 1).then_some(()));
}

#[test]
fn features_that_were_not_offered_are_refused() {
    let mut driver = driver();
    assert_eq!(driver.offered(), VERSION_1 | EVENT_INDEX | 1 << 28);
    assert_eq!(driver.agree(VERSION_1 | 1 << 5), 3);
    assert_eq!(driver.agree(0), 3, "without VERSION_1 it would be a legacy driver");
    assert_eq!(driver.agree(VERSION_1), 0xb);
}

#[test]
fn an_indirect_chain_is_followed() {
    let mut driver = driver();
    driver.start(0);
    let (table, buffer) = (driver.buffer(32), driver.buffer(20));
    driver.raw(table, buffer, 12, NEXT | WRITE, 1);
    driver.raw(table + 16, buffer + 12, 8, WRITE, 0);
    driver.descriptor(0, 5, table, 32, INDIRECT, 0);
    driver.offer(0, 5);
    assert_eq!(driver.wait(0).written, 20);
}

/// What a driver does wrong, and a word of the fault.
type Mistake = (fn(&mut Driver), &'static str);

#[test]
fn a_malformed_chain_freezes_the_device_and_a_reset_thaws_it() {
    const MISTAKES: [Mistake; 9] = [
        (|driver| driver.descriptor(0, 0, 0x10_0000, 16, WRITE | NEXT, 0), "does not end"),
        (|driver| driver.descriptor(0, 0, 0x10_0000, 16, WRITE | NEXT, 9999), "does not end"),
        (|driver| driver.descriptor(0, 0, 0x10_0000, 15, INDIRECT, 0), "does not end"),
        (|driver| driver.descriptor(0, 0, u64::MAX - 7, 16, INDIRECT, 0), "does not end"),
        (|driver| driver.descriptor(0, 0, 0x10_0000, 0, WRITE, 0), "no bytes"),
        (|driver| driver.descriptor(0, 0, u64::MAX - 7, 16, WRITE, 0), "not the partition's memory"),
        (|driver| driver.descriptor(0, 0, 0xff_fff8, 16, WRITE, 0), "not the partition's memory"),
        (|driver| driver.descriptor(0, 0, 0xd000_0000, 16, WRITE, 0), "not the partition's memory"),
        (
            |driver| {
                driver.descriptor(0, 0, 0x10_0000, 16, WRITE | NEXT, 1);
                driver.descriptor(0, 1, 0x10_0000, 16, 0, 0);
            },
            "after what it writes",
        ),
    ];
    for (mistake, word) in MISTAKES {
        let mut driver = driver();
        driver.start(0);
        mistake(&mut driver);
        driver.offer(0, 0);
        let fault = driver.wait_frozen();
        assert!(fault.to_string().contains(word), "{fault}");
        wait("word of it", || (!driver.sent(0).is_empty()).then_some(()));
        assert_eq!(lock(&driver.seen.0).len(), 1);
        let mut bytes = [0; 4];
        driver.function.read(0, &mut bytes);
        assert_eq!(bytes, [0xff; 4], "frozen registers are all ones");
        assert_eq!(driver.status() & 0x40, 0x40, "the driver is told to reset it");
        driver.start(0);
        driver.submit(0, 0, &[], &[8]);
        assert_eq!(driver.wait(0).written, 8);
    }
}

#[test]
fn a_ring_outside_of_memory_or_an_index_out_of_range_freezes() {
    let mut driver = driver();
    driver.start(0);
    driver.set_available(0, 65);
    assert!(matches!(driver.wait_frozen(), Fault::Queue { queue: 0, .. }));
    driver.agree(VERSION_1);
    driver.function.write(32, &0xffff_ffff_0000u64.to_le_bytes());
    driver.function.write(28, &[1, 0]);
    driver.function.write(20, &[0xf]);
    assert!(matches!(driver.wait_frozen(), Fault::Queue { queue: 0, .. }));
    driver.reset();
    driver.function.write(20, &[4]);
    assert!(matches!(driver.wait_frozen(), Fault::Protocol(_)));
}

#[test]
fn the_sixth_freeze_stays() {
    let mut driver = driver();
    for _ in 0..6 {
        driver.start(0);
        driver.offer(0, 63);
        driver.wait_frozen();
    }
    assert_eq!(driver.function.freezer().freezes().state(), State::Permanent);
    driver.function.write(20, &[0]);
    assert!(driver.function.freezer().is_frozen());
    driver.function.freezer().service();
    driver.start(0);
    driver.submit(0, 0, &[], &[8]);
    assert_eq!(driver.wait(0).written, 8);
}

#[test]
fn without_messages_the_pin_is_used() {
    let mut driver = driver();
    driver.start(0);
    // MSI-X off again: its control is the last capability's.
    for at in (0x40..0x100).step_by(4) {
        let mut header = [0; 1];
        driver.function.read_config(at, &mut header);
        if header == [0x11] {
            driver.function.write_config(at + 2, &[0, 0]);
            break;
        }
    }
    driver.submit(0, 0, &[], &[8]);
    wait("the pin", || lock(&driver.pin.0).then_some(()));
    let mut status = [0];
    driver.function.read(0x1000, &mut status);
    assert_eq!((status, *lock(&driver.pin.0)), ([1], false));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_driver_is_too_odd(
        steps in proptest::collection::vec((any::<bool>(), 0..0x8000u64, proptest::collection::vec(any::<u8>(), 1..9)), 0..200),
        table in proptest::collection::vec((0..0x200_0000u64, 0..0x1000u32, 0..8u16, 0..70u16), 64),
    ) {
        let mut driver = driver();
        driver.start(0);
        for (at, (address, bytes, flags, next)) in (0..).zip(table) {
            driver.descriptor(0, at, address, bytes, flags, next);
            driver.offer(0, at);
        }
        for (write, offset, mut data) in steps {
            if write {
                driver.function.write(offset, &data);
                driver.function.write_config((offset % 256) as u16 & !3, &data[..data.len().min(4)]);
            } else {
                driver.function.read(offset, &mut data);
                let length = data.len().min(4);
                driver.function.read_config((offset % 256) as u16 & !3, &mut data[..length]);
            }
        }
        // Whatever it did, a reset helps it, as long as it is not over the limit.
        driver.function.freezer().service();
        driver.start(0);
        driver.submit(0, 0, &[], &[8]);
        prop_assert_eq!(driver.wait(0).written, 8);
    }
}
