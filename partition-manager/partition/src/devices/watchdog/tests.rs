use super::*;
use crate::interrupts::Pulse;
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

thread_local! {
    static NOW: Cell<u64> = const { Cell::new(1) };
}

const MILLISECOND: u64 = 1_000_000;

fn pass(milliseconds: u64) {
    NOW.set(NOW.get() + milliseconds * MILLISECOND);
}

#[derive(Clone, Debug, Default)]
struct Heard(Arc<AtomicU32>);

impl Pulse for Heard {
    fn raise(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn watchdog() -> (Watchdog, Heard) {
    let heard = Heard::default();
    let alarm = Alarm::new(Box::new(heard.clone())).unwrap();
    (Watchdog::new(alarm, || NOW.get()).unwrap(), heard)
}

fn word(watchdog: &Watchdog, offset: u16) -> u32 {
    let mut data = [0; 4];
    watchdog.read_config(offset, &mut data);
    u32::from_le_bytes(data)
}

/// As a driver does: two stages of so many units, which are about milliseconds.
fn arm(watchdog: &Watchdog, units: u32) {
    watchdog.write_config(4, &[2, 0]);
    watchdog.write_config(CONFIG, &[3, 0]);
    for offset in [0, 4] {
        unlock(watchdog);
        watchdog.write(offset, &units.to_le_bytes());
    }
    watchdog.write_config(LOCK, &[2]);
}

fn unlock(watchdog: &Watchdog) {
    watchdog.write(0xc, &[0x80, 0]);
    watchdog.write(0xc, &[0x86, 0]);
}

fn reload(watchdog: &Watchdog) {
    unlock(watchdog);
    watchdog.write(0xc, &[0, 1]);
}

#[test]
fn a_driver_finds_it_and_reads_back_what_it_wrote() {
    let (watchdog, _) = watchdog();
    assert_eq!(word(&watchdog, 0), 0x25ab_8086);
    assert_eq!(word(&watchdog, 8) >> 8, 0x08_8000);
    assert_eq!(watchdog.window(), None);
    arm(&watchdog, 0x12345);
    assert_eq!((word(&watchdog, CONFIG), word(&watchdog, LOCK)), (3, 2));
    assert_eq!(watchdog.window().unwrap().bytes, 16);
    let mut data = [0; 4];
    watchdog.read(4, &mut data);
    assert_eq!(u32::from_le_bytes(data), 0x12345);
    // The size of its base address, as a driver asks for it.
    watchdog.write_config(0x10, &[0xff; 4]);
    assert_eq!(word(&watchdog, 0x10), !0xf);
}

#[test]
fn it_expires_when_nobody_reloads_it_and_says_so_until_it_is_heard() {
    let (watchdog, heard) = watchdog();
    arm(&watchdog, 500);
    for _ in 0..40 {
        pass(100);
        watchdog.expire();
        reload(&watchdog);
    }
    assert_eq!(heard.0.load(Ordering::Relaxed), 0);
    for _ in 0..12 {
        pass(100);
        watchdog.expire();
    }
    let first = heard.0.load(Ordering::Relaxed);
    assert!(first > 0);
    watchdog.expire();
    assert_eq!(heard.0.load(Ordering::Relaxed), first + 1);
}

#[test]
fn a_process_that_was_stopped_did_not_hang() {
    let (watchdog, heard) = watchdog();
    arm(&watchdog, 500);
    for _ in 0..3 {
        pass(3_600_000);
        watchdog.expire();
    }
    assert_eq!(heard.0.load(Ordering::Relaxed), 0);
    // Whoever hangs nevertheless is found.
    for _ in 0..12 {
        pass(100);
        watchdog.expire();
    }
    assert_ne!(heard.0.load(Ordering::Relaxed), 0);
}

#[test]
fn one_that_is_not_armed_or_disarmed_never_expires() {
    let (watchdog, heard) = watchdog();
    pass(10_000);
    watchdog.expire();
    arm(&watchdog, 10);
    watchdog.write_config(LOCK, &[0]);
    pass(10_000);
    watchdog.expire();
    assert_eq!(heard.0.load(Ordering::Relaxed), 0);
    // What went by before it was armed does not count.
    arm(&watchdog, 500);
    assert_eq!(lock(&watchdog.state).countdown.left(), Some((500 * 30) << 15));
}

proptest::proptest! {
    #[test]
    fn no_access_is_too_odd(steps in proptest::collection::vec((0u8..5, proptest::prelude::any::<u16>(), proptest::collection::vec(proptest::prelude::any::<u8>(), 0..9)), 0..64)) {
        let (watchdog, _) = watchdog();
        for (kind, offset, data) in steps {
            let mut back = data.clone();
            match kind {
                0 => watchdog.write(offset.into(), &data),
                1 => watchdog.write_config(offset, &data),
                2 => watchdog.write(u64::from(offset % 20), &data),
                3 => watchdog.write_config(0x60 + offset % 12, &data),
                _ => watchdog.expire(),
            }
            watchdog.read(offset.into(), &mut back);
            watchdog.read_config(offset, &mut back);
            pass(7);
        }
    }
}
