//! The watchdog: that of Intel's 6300ESB I/O controller hub, which most systems have a driver of (Linux: `i6300esb`),
//! as a PCI function. It counts the guest's time, so that a guest whose processors are held up by the host is not
//! called hung.
//!
//! Its first stage sets its status bit and raises no interrupt; its second asks for the end of the partition.

pub mod clock;
pub mod countdown;
pub mod tasks;

use super::alarm::{Alarm, Timed};
use super::lock;
use super::pci::config::{Config, Identity, NoRoom};
use super::pci::root::{Function, Window};
use clock::GuestClock;
use countdown::{CONFIG, Countdown, LOCK};
use frame::device::WATCHDOG_SLOT;
use frame::platform::PCI_APERTURE;
use std::os::fd::BorrowedFd;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;
use tasks::Tasks;

/// Bytes of its base address.
const BYTES: u32 = 16;
/// Into how many steps its time is cut: what happens between two is not seen.
const STEPS: u64 = 8;
/// Shortest and longest step, nanoseconds.
const SHORTEST: u64 = 10_000_000;
const LONGEST: u64 = 250_000_000;

#[derive(Debug)]
struct State {
    config: Config,
    countdown: Countdown,
    clock: GuestClock,
}

/// The device.
#[derive(Debug)]
pub struct Watchdog {
    state: Mutex<State>,
    tasks: OnceLock<Tasks>,
    /// Raised when it has expired, again and again.
    alarm: Alarm,
    /// Nanoseconds of a clock that does not go back.
    now: fn() -> u64,
}

impl Watchdog {
    /// A watchdog that does not count, which raises `alarm` when it has expired.
    ///
    /// # Errors
    /// [`NoRoom`] is a fault of this program.
    pub fn new(alarm: Alarm, now: fn() -> u64) -> Result<Self, NoRoom> {
        let mut config = Config::new(Identity {
            vendor: 0x8086,
            device: 0x25ab,
            revision: 0,
            class: 0x08_80_00,
            subsystem_vendor: 0,
            subsystem: 0,
        });
        let address = PCI_APERTURE as u32 + u32::from(WATCHDOG_SLOT) * super::virtio::function::BAR_BYTES;
        config.add_memory(0, BYTES, address)?;
        let state = State { config, countdown: Countdown::default(), clock: GuestClock::default() };
        Ok(Self { state: Mutex::new(state), tasks: OnceLock::new(), alarm, now })
    }

    /// Takes note of the virtual processors' threads, before the guest runs.
    pub fn watch(&self, tasks: Tasks) {
        let _ = self.tasks.set(tasks);
    }

    /// Lets the countdown see the guest's time, does something to it, and sees to the next step.
    fn with(&self, act: impl FnOnce(&mut Countdown)) {
        let state = &mut *lock(&self.state);
        let look = || self.tasks.get().map(Tasks::look).unwrap_or_default();
        let now = (self.now)();
        let counted = state.countdown.counts();
        if counted {
            let most = period(&state.countdown).saturating_mul(2);
            let time = state.clock.step(now, &look(), most);
            state.countdown.advance(time);
        }
        act(&mut state.countdown);
        if !counted && state.countdown.counts() {
            state.clock = GuestClock::begin(now, &look());
        }
        if state.countdown.has_expired() {
            self.alarm.raise();
        }
        let wait = match state.countdown.left() {
            Some(left) => Some(left.min(period(&state.countdown))),
            // Whoever is to hear of it may have been busy.
            None => state.countdown.has_expired().then_some(LONGEST),
        };
        self.alarm.set(wait.map(Duration::from_nanos));
    }
}

/// Time between two steps, nanoseconds.
fn period(countdown: &Countdown) -> u64 {
    (countdown.total() / STEPS).clamp(SHORTEST, LONGEST)
}

impl Timed for Watchdog {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.alarm.descriptor()
    }

    fn expire(&self) {
        self.alarm.clear();
        self.with(|_| ());
    }
}

/// The byte of a register at `place` that an access at `offset` has as its byte `index`.
fn within(offset: u16, index: usize, place: u16) -> Option<usize> {
    (usize::from(offset) + index).checked_sub(place.into())
}

/// Puts the bytes of a register at `place` into what an access at `offset` reads.
fn overlay(data: &mut [u8], offset: u16, place: u16, register: &[u8]) {
    for (index, byte) in data.iter_mut().enumerate() {
        if let Some(own) = within(offset, index, place).and_then(|at| register.get(at)) {
            *byte = *own;
        }
    }
}

/// Puts what an access at `offset` writes into a register at `place`; whether it writes any of it.
fn take(data: &[u8], offset: u16, place: u16, register: &mut [u8]) -> bool {
    let mut any = false;
    for (index, byte) in data.iter().enumerate() {
        if let Some(own) = within(offset, index, place).and_then(|at| register.get_mut(at)) {
            *own = *byte;
            any = true;
        }
    }
    any
}

impl Function for Watchdog {
    fn read_config(&self, offset: u16, data: &mut [u8]) {
        let state = lock(&self.state);
        state.config.read(offset, data);
        overlay(data, offset, CONFIG, &state.countdown.config().to_le_bytes());
        overlay(data, offset, LOCK, &[state.countdown.lock()]);
    }

    fn write_config(&self, offset: u16, data: &[u8]) {
        let (mut config, mut lock_register) = {
            let state = lock(&self.state);
            (state.countdown.config().to_le_bytes(), [state.countdown.lock()])
        };
        if take(data, offset, CONFIG, &mut config) {
            self.with(|countdown| countdown.write_config(u16::from_le_bytes(config)));
        }
        if take(data, offset, LOCK, &mut lock_register) {
            let [value] = lock_register;
            self.with(|countdown| countdown.write_lock(value));
        }
        lock(&self.state).config.write(offset, data);
    }

    fn window(&self) -> Option<Window> {
        let start = lock(&self.state).config.memory(0)?;
        Some(Window { start, bytes: BYTES.into() })
    }

    fn read(&self, offset: u64, data: &mut [u8]) {
        let value = lock(&self.state).countdown.read(offset & !3).to_le_bytes();
        let from = (offset & 3) as usize;
        let mut bytes = value.iter().skip(from);
        data.iter_mut().for_each(|byte| *byte = bytes.next().copied().unwrap_or(0));
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut value = [0; 4];
        value.iter_mut().zip(data).for_each(|(to, from)| *to = *from);
        self.with(|countdown| countdown.write(offset, u32::from_le_bytes(value)));
    }
}

#[cfg(test)]
mod tests;
