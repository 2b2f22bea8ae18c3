//! The watchdog's registers, with time between the accesses.

use crate::Bytes;
use partition::devices::alarm::{Alarm, Timed};
use partition::devices::pci::root::Function;
use partition::devices::watchdog::Watchdog;
use partition::interrupts::Pulse;
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

thread_local! {
    static NOW: Cell<u64> = const { Cell::new(0) };
}

/// The driver, who hears of an expiry.
#[derive(Debug, Default)]
struct Heard(Arc<AtomicU64>);

impl Pulse for Heard {
    fn raise(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A watchdog, in its configuration space and its registers.
pub fn watchdog(bytes: &[u8]) {
    let heard = Arc::new(AtomicU64::new(0));
    let Ok(alarm) = Alarm::new(Box::new(Heard(Arc::clone(&heard)))) else { return };
    let Ok(device) = Watchdog::new(alarm, || NOW.get()) else { return };
    NOW.set(0);
    let mut bytes = Bytes::new(bytes);
    let mut passed = 0u64;
    while !bytes.is_empty() {
        let (act, place) = (bytes.byte(), bytes.byte());
        let length = [1, 2, 4, 8][usize::from(act >> 3 & 3)];
        let mut data = [0; 8];
        data.iter_mut().zip(bytes.some(length)).for_each(|(to, from)| *to = *from);
        let data = &mut data[..length];
        match act & 7 {
            0 => device.read_config(place.into(), data),
            1 | 2 => device.write_config(place.into(), data),
            3 => device.read(place.into(), data),
            // Mostly where its registers are.
            4 | 5 => device.write(u64::from(place & 0xf), data),
            _ => {
                // Up to some seconds: more than a step, which a guest whose process was stopped is not charged.
                let step = u64::from(bytes.half()) << (place & 0x1f).min(18);
                passed = passed.saturating_add(step);
                NOW.set(passed);
                device.expire();
            }
        }
    }
    // The shortest countdown is some thirty nanoseconds a stage; nothing expires before any time is over.
    assert!(passed > 0 || heard.load(Ordering::Relaxed) == 0, "it expired in no time");
}
