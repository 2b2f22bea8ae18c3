//! How often each pin of the I/O APIC was raised, whatever raises it.

use super::Pulse;
use crate::devices::pm::Line;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What one pin did.
#[derive(Debug, Default)]
struct Pin {
    /// Whether something can raise it.
    used: AtomicBool,
    raised: AtomicU64,
}

/// The pins.
#[derive(Clone, Debug)]
pub(super) struct Counts(Arc<[Pin]>);

impl Counts {
    /// Of `pins` pins.
    pub(super) fn new(pins: u32) -> Self {
        Self((0..pins).map(|_| Pin::default()).collect())
    }

    fn use_of(&self, gsi: u32) {
        self.0.get(gsi as usize).inspect(|pin| pin.used.store(true, Ordering::Relaxed));
    }

    fn count(&self, gsi: u32) {
        self.0.get(gsi as usize).inspect(|pin| _ = pin.raised.fetch_add(1, Ordering::Relaxed));
    }

    /// A line that counts how often it goes high.
    pub(super) fn line(&self, gsi: u32, line: Box<dyn Line>) -> Box<dyn Line> {
        self.use_of(gsi);
        Box::new(CountedLine { line, gsi, high: AtomicBool::new(false), counts: self.clone() })
    }

    /// A pulse that counts how often it is given.
    pub(super) fn pulse(&self, gsi: u32, pulse: Box<dyn Pulse>) -> Box<dyn Pulse> {
        self.use_of(gsi);
        Box::new(CountedPulse { pulse, gsi, counts: self.clone() })
    }

    /// The pins that something can raise, and how often it did.
    pub(super) fn figures(&self) -> impl Iterator<Item = (u32, u64)> {
        let used = (0..).zip(self.0.iter()).filter(|(_, pin)| pin.used.load(Ordering::Relaxed));
        used.map(|(gsi, pin)| (gsi, pin.raised.load(Ordering::Relaxed)))
    }
}

#[derive(Debug)]
struct CountedLine {
    line: Box<dyn Line>,
    gsi: u32,
    high: AtomicBool,
    counts: Counts,
}

impl Line for CountedLine {
    fn set(&self, high: bool) {
        if high && !self.high.load(Ordering::Relaxed) {
            self.counts.count(self.gsi);
        }
        self.high.store(high, Ordering::Relaxed);
        self.line.set(high);
    }
}

#[derive(Debug)]
struct CountedPulse {
    pulse: Box<dyn Pulse>,
    gsi: u32,
    counts: Counts,
}

impl Pulse for CountedPulse {
    fn raise(&self) {
        self.counts.count(self.gsi);
        self.pulse.raise();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::virtio::testing::Level;

    #[derive(Debug)]
    struct Silent;

    impl Pulse for Silent {
        fn raise(&self) {}
    }

    #[test]
    fn what_goes_high_is_counted_once_until_it_was_low() {
        let counts = Counts::new(24);
        let level = Level::default();
        let (line, pulse) = (counts.line(9, Box::new(level.clone())), counts.pulse(4, Box::new(Silent)));
        for high in [true, true, false, false, true] {
            line.set(high);
            assert_eq!(*level.0.lock().unwrap(), high);
        }
        pulse.raise();
        pulse.raise();
        pulse.raise();
        assert_eq!(counts.figures().collect::<Vec<_>>(), [(4, 3), (9, 2)]);
        // A pin that does not exist is nobody's.
        counts.pulse(24, Box::new(Silent)).raise();
        assert_eq!(counts.figures().count(), 2);
    }
}
