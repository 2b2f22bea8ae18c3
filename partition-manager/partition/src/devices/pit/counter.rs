//! One counter of the 8254 (Intel 82C54 data sheet), by arithmetic. Pure: time is given, in ticks of its clock.
//!
//! What differs from the chip: a count is there at the tick of its last byte's write, not one later; in mode 3 a new
//! count takes effect at the end of the period, not of the half-cycle; a count of 1 is 2 in modes 2 and 3, where it
//! is not allowed.

/// One counter.
#[derive(Clone, Debug)]
pub struct Counter {
    mode: u8,
    decimal: bool,
    /// 1: low byte only; 2: high byte only; 3: low, then high.
    access: u8,
    gate: bool,
    /// What it counts from, once it counts.
    count: Option<u32>,
    /// A count that was written, and the tick at which it takes effect (modes 2 and 3), or for the next trigger.
    next: Option<(u32, u64)>,
    start: u64,
    /// Ticks that had passed when the gate stopped it.
    stopped: Option<u64>,
    written: Option<u8>,
    latched: Option<u16>,
    status: Option<u8>,
    high_next: bool,
}

impl Default for Counter {
    fn default() -> Self {
        Self {
            mode: 3,
            decimal: false,
            access: 3,
            gate: true,
            count: None,
            next: None,
            start: 0,
            stopped: None,
            written: None,
            latched: None,
            status: None,
            high_next: false,
        }
    }
}

impl Counter {
    /// Takes a control word for this counter that is no latch command.
    pub fn control(&mut self, word: u8) {
        // Modes 6 and 7 are 2 and 3.
        let mode = word >> 1 & 7;
        let mode = if mode > 5 { mode - 4 } else { mode };
        *self = Self { mode, decimal: word & 1 != 0, access: word >> 4 & 3, gate: self.gate, ..Self::default() };
    }

    const fn modulus(&self) -> u32 {
        if self.decimal { 10_000 } else { 0x1_0000 }
    }

    const fn is_periodic(&self) -> bool {
        matches!(self.mode, 2 | 3)
    }

    const fn waits_for_trigger(&self) -> bool {
        matches!(self.mode, 1 | 5)
    }

    fn elapsed(&self, now: u64) -> u64 {
        self.stopped.unwrap_or_else(|| now.saturating_sub(self.start))
    }

    /// Lets a new count of a periodic mode take effect.
    fn settle(&mut self, now: u64) {
        if let Some((count, at)) = self.next
            && self.is_periodic()
            && self.stopped.is_none()
            && now >= at
        {
            self.count = Some(count);
            self.start = at;
            self.next = None;
        }
    }

    /// Writes a byte of the count.
    pub fn write(&mut self, byte: u8, now: u64) {
        let word = match (self.access, self.written) {
            (1, _) => u16::from(byte),
            (2, _) => u16::from(byte) << 8,
            (_, None) => {
                self.written = Some(byte);
                return;
            }
            (_, Some(low)) => u16::from_le_bytes([low, byte]),
        };
        self.written = None;
        self.load(word, now);
    }

    fn load(&mut self, word: u16, now: u64) {
        self.settle(now);
        let count = match self.decimal {
            true => [12, 8, 4, 0].iter().fold(0, |sum, shift| sum * 10 + u32::from(word >> shift & 15)),
            false => u32::from(word),
        };
        let count = if count == 0 { self.modulus() } else { count };
        match (self.mode, self.count) {
            (1 | 5, _) => self.next = Some((count, u64::MAX)),
            (2 | 3, Some(_)) if self.stopped.is_some() => self.next = Some((count.max(2), u64::MAX)),
            (2 | 3, Some(before)) => {
                let before = u64::from(before);
                let at = self.start.saturating_add((self.elapsed(now) / before + 1) * before);
                self.next = Some((count.max(2), at));
            }
            (mode, _) => {
                self.count = Some(if mode == 2 || mode == 3 { count.max(2) } else { count });
                self.start = now;
                self.stopped = (!self.gate).then_some(0);
            }
        }
    }

    /// Sets the gate.
    pub fn set_gate(&mut self, high: bool, now: u64) {
        if self.gate == high {
            return;
        }
        self.settle(now);
        self.gate = high;
        if self.waits_for_trigger() || self.is_periodic() {
            if high {
                self.count = self.next.take().map(|(count, _)| count).or(self.count);
                self.start = now;
                self.stopped = None;
            } else if self.is_periodic() {
                self.stopped = Some(0);
            }
        } else if high {
            self.start = now.saturating_sub(self.elapsed(now));
            self.stopped = None;
        } else {
            self.stopped = Some(self.elapsed(now));
        }
    }

    /// The level of OUT.
    pub fn out(&mut self, now: u64) -> bool {
        self.settle(now);
        let Some(count) = self.count.map(u64::from) else { return self.mode != 0 };
        let elapsed = self.elapsed(now);
        match self.mode {
            0 | 1 => elapsed >= count,
            2 | 3 if self.stopped.is_some() => true,
            2 => elapsed % count != count - 1,
            3 => elapsed % count < count.div_ceil(2),
            _ => elapsed != count,
        }
    }

    /// The counting element, as a number that is not yet written in its digits.
    fn value(&mut self, now: u64) -> u32 {
        self.settle(now);
        let Some(count) = self.count else { return 0 };
        let elapsed = self.elapsed(now);
        // Each remainder is smaller than its divisor, which has 32 bits.
        let within = |length: u32| (elapsed % u64::from(length.max(1))) as u32;
        match self.mode {
            2 => count - within(count),
            3 => {
                let half = count.div_ceil(2);
                let at = within(count);
                let at = if at < half { at } else { at - half };
                (count & !1).saturating_sub(2 * at).max(2)
            }
            _ => (count + self.modulus() - within(self.modulus())) % self.modulus(),
        }
    }

    fn word(&mut self, now: u64) -> u16 {
        let value = self.value(now) % self.modulus();
        match self.decimal {
            true => [1000, 100, 10, 1].iter().fold(0, |word, unit| word << 4 | (value / unit % 10) as u16),
            false => value as u16,
        }
    }

    /// Latches the count, unless one is latched already.
    pub fn latch(&mut self, now: u64) {
        if self.latched.is_none() {
            self.latched = Some(self.word(now));
        }
    }

    /// Latches the status, unless one is latched already: OUT, null count, access, mode, digits.
    pub fn latch_status(&mut self, now: u64) {
        if self.status.is_none() {
            let out = self.out(now);
            let null = self.count.is_none() || self.next.is_some();
            self.status = Some(
                u8::from(out) << 7 | u8::from(null) << 6 | self.access << 4 | self.mode << 1 | u8::from(self.decimal),
            );
        }
    }

    /// Reads a byte: the latched status, the latched count, or the count as it is.
    pub fn read(&mut self, now: u64) -> u8 {
        if let Some(status) = self.status.take() {
            return status;
        }
        let [low, high] = self.latched.unwrap_or_else(|| self.word(now)).to_le_bytes();
        let is_high = self.access == 2 || self.access == 3 && self.high_next;
        if self.access == 3 {
            self.high_next = !self.high_next;
        }
        if self.access != 3 || is_high {
            self.latched = None;
        }
        if is_high { high } else { low }
    }

    /// The first tick after `after` at which OUT rises by counting; never when absent.
    #[must_use]
    pub fn next_rise(&self, after: u64) -> Option<u64> {
        let count = u64::from(self.count?);
        if self.stopped.is_some() {
            return None;
        }
        let once = |at: u64| (at > after).then_some(at);
        let periodic = |start: u64, count: u64| {
            start.saturating_add((after.saturating_sub(start) / count + 1).saturating_mul(count))
        };
        match self.mode {
            0 | 1 => once(self.start.saturating_add(count)),
            2 | 3 => {
                let rise = periodic(self.start, count);
                match self.next {
                    Some((next, at)) if rise > at => Some(periodic(at, u64::from(next))),
                    _ => Some(rise),
                }
            }
            _ => once(self.start.saturating_add(count + 1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The same counter, tick by tick.
    #[derive(Debug)]
    struct Model {
        mode: u8,
        gate: bool,
        count: Option<i64>,
        next: Option<i64>,
        left: i64,
    }

    impl Model {
        fn tick(&mut self) {
            let Some(count) = self.count else { return };
            if self.gate || matches!(self.mode, 1 | 5) {
                self.left -= 1;
            }
            if matches!(self.mode, 2 | 3) && self.left == 0 {
                self.left = self.next.take().unwrap_or(count);
                self.count = Some(self.left);
            }
        }

        fn write(&mut self, count: i64) {
            let count = if matches!(self.mode, 2 | 3) { count.max(2) } else { count };
            match self.mode {
                1 | 5 => self.next = Some(count),
                2 | 3 if self.count.is_some() => self.next = Some(count),
                _ => (self.count, self.left) = (Some(count), count),
            }
        }

        fn set_gate(&mut self, high: bool) {
            if high && !self.gate && matches!(self.mode, 1 | 2 | 3 | 5) {
                self.count = self.next.take().or(self.count);
                self.left = self.count.unwrap_or_default();
            }
            self.gate = high;
        }

        fn out(&self) -> bool {
            let Some(count) = self.count else { return self.mode != 0 };
            match self.mode {
                0 | 1 => self.left <= 0,
                2 => !self.gate || self.left != 1,
                3 => !self.gate || count - self.left < (count + 1) / 2,
                _ => self.left != 0,
            }
        }
    }

    proptest! {
        #[test]
        fn it_counts_as_one_that_is_stepped_through(
            mode in 0u8..6, gate: bool,
            steps in proptest::collection::vec((1u64..40, prop_oneof![
                (1i64..30).prop_map(Some), Just(None)
            ]), 1..12),
        ) {
            let mut counter = Counter::default();
            counter.set_gate(gate, 0);
            counter.control(mode << 1 | 0x10);
            let mut model = Model { mode, gate, count: None, next: None, left: 0 };
            let mut now = 0;
            for (wait, step) in steps {
                match step {
                    Some(count) => {
                        counter.write(count as u8, now);
                        model.write(count);
                    }
                    None => {
                        counter.set_gate(!model.gate, now);
                        model.set_gate(!model.gate);
                    }
                }
                prop_assert_eq!(counter.out(now), model.out());
                for _ in 0..wait {
                    let (rise, before) = (counter.next_rise(now), model.out());
                    model.tick();
                    now += 1;
                    prop_assert_eq!(counter.out(now), model.out(), "at {}", now);
                    let rises = !before && model.out();
                    prop_assert_eq!(rise == Some(now), rises, "at {}: {:?}", now, rise);
                    if mode != 3 && model.count.is_some() && (model.gate || !matches!(mode, 2)) {
                        prop_assert_eq!(i64::from(counter.value(now)), model.left.rem_euclid(0x1_0000));
                    }
                }
            }
        }

        #[test]
        fn no_order_of_accesses_hurts(
            steps in proptest::collection::vec((any::<u8>(), 0u8..7, any::<u32>()), 0..100), start: u64,
        ) {
            let mut counter = Counter::default();
            let mut now = start >> 8;
            for (byte, kind, wait) in steps {
                now += u64::from(wait);
                match kind {
                    0 => counter.control(byte | 0x10),
                    1 => counter.write(byte, now),
                    2 => drop(counter.read(now)),
                    3 => counter.latch(now),
                    4 => counter.latch_status(now),
                    5 => counter.set_gate(byte & 1 != 0, now),
                    _ => drop(counter.out(now)),
                }
                if let Some(rise) = counter.next_rise(now) {
                    prop_assert!(rise > now);
                }
            }
        }
    }

    #[test]
    fn digits_latches_and_both_bytes() {
        let mut counter = Counter::default();
        // Mode 2, low then high, decimal: 1234.
        counter.control(0x35);
        counter.write(0x34, 0);
        counter.write(0x12, 0);
        counter.latch(34);
        counter.latch(500);
        counter.latch_status(500);
        assert_eq!(counter.read(600), 0xb5, "OUT high, not null, both bytes, mode 2, decimal");
        assert_eq!([counter.read(600), counter.read(700)], [0x00, 0x12], "1200, as it was latched first");
        assert_eq!([counter.read(1230), counter.read(1230)], [0x04, 0x00], "no latch any more");
        // A count of zero is the most.
        counter.control(0x30);
        counter.write(0, 0);
        counter.write(0, 0);
        assert_eq!(counter.next_rise(0), Some(0x1_0000));
        assert_eq!([counter.read(1), counter.read(1)], [0xff, 0xff]);
    }
}
