//! Pins that several functions share: high while one of them holds it.

use crate::devices::pm::Line;
use std::sync::{Arc, Mutex, PoisonError};

/// A pin, and who holds it.
#[derive(Debug)]
pub struct SharedPin {
    line: Box<dyn Line>,
    holders: Mutex<u32>,
}

impl SharedPin {
    /// A pin that nobody holds.
    #[must_use]
    pub fn new(line: Box<dyn Line>) -> Arc<Self> {
        Arc::new(Self { line, holders: Mutex::new(0) })
    }

    /// The share of member `member`, 0..=31.
    #[must_use]
    pub fn share(self: &Arc<Self>, member: u8) -> Box<dyn Line> {
        Box::new(Share { pin: Arc::clone(self), bit: 1 << (member & 31) })
    }
}

#[derive(Debug)]
struct Share {
    pin: Arc<SharedPin>,
    bit: u32,
}

impl Line for Share {
    fn set(&self, high: bool) {
        // The line is set under the lock, so that its level is that of the last change.
        let mut holders = self.pin.holders.lock().unwrap_or_else(PoisonError::into_inner);
        let before = *holders != 0;
        *holders = if high { *holders | self.bit } else { *holders & !self.bit };
        if before != (*holders != 0) {
            self.pin.line.set(!before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::virtio::testing::Level;

    #[test]
    fn a_pin_is_high_while_anybody_holds_it() {
        let level = Level::default();
        let pin = SharedPin::new(Box::new(level.clone()));
        let (one, other) = (pin.share(1), pin.share(9));
        let high = || *level.0.lock().unwrap();
        one.set(true);
        other.set(true);
        one.set(false);
        assert!(high());
        other.set(false);
        other.set(false);
        assert!(!high());
    }
}
