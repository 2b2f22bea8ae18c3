//! What watches over the interrupts of a partition's devices: each vector has a [`Guard`], and what a guard holds back is
//! sent by the event thread when its time has come.

use crate::devices::alarm::Timed;
use crate::devices::lock;
use crate::devices::virtio::freezer::Witness;
use crate::devices::virtio::function::VirtioFunction;
use frame::storm::{Guard, Limit, PERIOD, Verdict};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Shortest time until what waits is looked at: whatever devices do, the event thread has time for others.
const SHORTEST: Duration = Duration::from_micros(200);

/// The timer that all guards of a partition share.
#[derive(Debug)]
pub struct Keeper {
    timer: OwnedFd,
    /// When the timer expires, if it is set, since the beginning.
    due: Mutex<Option<Duration>>,
    limit: Limit,
    witness: Arc<dyn Witness>,
    begin: Instant,
}

impl Keeper {
    /// Guards with this limit, whose storms `witness` hears of.
    ///
    /// # Errors
    /// When there are too many descriptors.
    pub fn new(limit: Limit, witness: Arc<dyn Witness>) -> io::Result<Arc<Self>> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
        Ok(Arc::new(Self { timer, due: Mutex::new(None), limit, witness, begin: Instant::now() }))
    }

    /// Has the event thread look after `wait`, unless it is about to look sooner.
    fn arm(&self, wait: Duration) {
        // No guard asks for more than a period.
        let wait = wait.clamp(SHORTEST, PERIOD);
        let at = self.begin.elapsed() + wait;
        let mut due = lock(&self.due);
        if due.is_some_and(|due| due <= at) {
            return;
        }
        *due = Some(at);
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let it_value = Timespec::try_from(wait).unwrap_or(zero);
        // It fails only for times that are none.
        let spec = Itimerspec { it_interval: zero, it_value };
        let _ = rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &spec);
    }
}

/// The guard of one vector.
#[derive(Debug)]
pub struct Guarded {
    state: Mutex<Guard>,
    keeper: Arc<Keeper>,
    device: String,
    vector: u16,
}

impl Guarded {
    /// Of vector `vector` of `device`.
    #[must_use]
    pub fn new(keeper: &Arc<Keeper>, device: &str, vector: u16) -> Self {
        let (state, keeper) = (Mutex::new(Guard::new(keeper.limit)), Arc::clone(keeper));
        Self { state, keeper, device: device.to_owned(), vector }
    }

    /// The vector is raised. Whether it is to be sent now.
    #[must_use]
    pub fn raise(&self) -> bool {
        let verdict = lock(&self.state).raise(self.keeper.begin.elapsed());
        match verdict {
            Verdict::Send => return true,
            Verdict::Wait(wait) => self.keeper.arm(wait),
            Verdict::Storm { lasting } => {
                self.keeper.witness.stormed(&self.device, self.vector, self.keeper.limit, lasting);
                self.keeper.arm(PERIOD);
            }
            Verdict::Quarantined => {}
        }
        false
    }

    /// Whether what waited is to be sent now.
    #[must_use]
    pub fn poll(&self) -> bool {
        let verdict = lock(&self.state).poll(self.keeper.begin.elapsed());
        if let Some(Verdict::Wait(wait)) = verdict {
            self.keeper.arm(wait);
        }
        verdict == Some(Verdict::Send)
    }

    /// Ends a quarantine, and has what waited be sent.
    pub fn clear(&self) {
        lock(&self.state).clear(self.keeper.begin.elapsed());
        self.keeper.arm(SHORTEST);
    }

    /// What waits is not wanted any more.
    pub fn forget(&self) {
        lock(&self.state).forget();
    }

    /// Does something with the state.
    pub fn with<T>(&self, ask: impl FnOnce(&Guard) -> T) -> T {
        ask(&lock(&self.state))
    }
}

/// Sends what guards held back, on the event thread.
#[derive(Debug)]
pub struct Release {
    /// The timer.
    pub keeper: Arc<Keeper>,
    /// Whose vectors are guarded.
    pub functions: Vec<Arc<VirtioFunction>>,
}

impl Timed for Release {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.keeper.timer.as_fd()
    }

    fn expire(&self) {
        let _ = rustix::io::read(&self.keeper.timer, &mut [0; 8]);
        // Before the guards are asked: one that holds something back later arms the timer anew.
        *lock(&self.keeper.due) = None;
        for function in &self.functions {
            function.interrupter().msix().release();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::virtio::testing::Seen;

    #[test]
    fn a_quarantine_does_not_make_others_wait_for_its_end() {
        let keeper = Keeper::new(Limit::default(), Arc::new(Seen::default())).unwrap();
        let left = || Duration::try_from(rustix::time::timerfd_gettime(&keeper.timer).unwrap().it_value).unwrap();
        keeper.arm(PERIOD);
        assert!(left() > PERIOD / 2);
        keeper.arm(SHORTEST);
        assert!(left() <= SHORTEST);
        // What is due later does not put it off.
        keeper.arm(PERIOD);
        assert!(left() <= SHORTEST);
    }
}
