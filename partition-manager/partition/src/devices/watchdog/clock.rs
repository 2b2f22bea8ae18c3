//! The guest's time: the host's, less what its virtual processors waited for a CPU. Pure.

/// What the scheduler says of a virtual processor's thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sight {
    /// How long it ran, nanoseconds.
    pub ran: u64,
    /// How long it could have run and did not, nanoseconds. What it waits now is not in it (Linux,
    /// Documentation/scheduler/sched-stats.rst).
    pub waited: u64,
    /// Whether it runs or waits to run now.
    pub runnable: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Thread {
    ran: u64,
    /// What of its waiting was taken out of the guest's time already.
    taken: u64,
}

/// Makes the guest's time from the host's, step by step.
#[derive(Clone, Debug, Default)]
pub struct GuestClock {
    last: u64,
    threads: Vec<Option<Thread>>,
}

impl GuestClock {
    /// Begins at `now`, nanoseconds of a clock that does not go back.
    #[must_use]
    pub fn begin(now: u64, sights: &[Option<Sight>]) -> Self {
        let thread = |sight: &Option<Sight>| sight.map(|sight| Thread { ran: sight.ran, taken: sight.waited });
        Self { last: now, threads: sights.iter().map(thread).collect() }
    }

    /// The guest's time since the step before, nanoseconds: at most `most`, so that a process that was stopped, or
    /// a host that was suspended, is not taken for a guest that hung. Where several processors waited, the one that
    /// waited longest counts. A thread that nothing is known of did not wait.
    pub fn step(&mut self, now: u64, sights: &[Option<Sight>], most: u64) -> u64 {
        let wall = now.saturating_sub(self.last);
        self.last = self.last.max(now);
        let mut lost = 0;
        for (thread, sight) in self.threads.iter_mut().zip(sights) {
            let (Some(thread), Some(sight)) = (thread, sight) else { continue };
            // The scheduler adds a wait when it is over; until then it shows by a thread that could run and does not.
            let waits = sight.runnable && sight.ran == thread.ran;
            let due = sight.waited.saturating_sub(thread.taken);
            let taken = if waits { wall } else { due.min(wall) };
            thread.ran = sight.ran;
            thread.taken = thread.taken.saturating_add(taken);
            lost = lost.max(taken);
        }
        (wall - lost).min(most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STEP: u64 = 250;

    fn sight(ran: u64, waited: u64, runnable: bool) -> Option<Sight> {
        Some(Sight { ran, waited, runnable })
    }

    #[test]
    fn a_stop_is_one_step_however_long_it_was() {
        let mut clock = GuestClock::begin(0, &[sight(0, 0, true)]);
        assert_eq!(clock.step(100, &[sight(100, 0, true)], STEP), 100);
        assert_eq!(clock.step(1_000_000, &[sight(101, 0, true)], STEP), STEP);
        // A clock that went back stands still.
        assert_eq!(clock.step(10, &[sight(101, 0, false)], STEP), 0);
    }

    #[test]
    fn the_guest_does_not_age_while_a_processor_waits() {
        let mut clock = GuestClock::begin(0, &[sight(5, 7, true), None]);
        for now in (100..=10_000).step_by(100) {
            assert_eq!(clock.step(now, &[sight(5, 7, true), None], STEP), 0);
        }
        // It ran at last, and the scheduler says how long it waited: that was taken already.
        assert_eq!(clock.step(10_100, &[sight(105, 10_007, true), None], STEP), 100);
        // One that sleeps, or that is gone, ages.
        assert_eq!(clock.step(10_200, &[sight(105, 10_007, false), None], STEP), 100);
        assert_eq!(clock.step(10_300, &[None, None], STEP), 100);
    }

    proptest! {
        /// One thread that runs, waits and sleeps in turn, looked at now and then.
        #[test]
        fn the_guests_time_is_what_it_ran_and_slept(
            acts in proptest::collection::vec((0u8..3, 1u64..400), 1..80), look in 1usize..4,
        ) {
            let (mut now, mut ran, mut waited, mut pending, mut slept) = (0, 0, 0, 0, 0);
            let mut clock = GuestClock::begin(0, &[sight(0, 0, false)]);
            let mut guest = 0;
            for (at, (kind, time)) in acts.iter().enumerate() {
                now += time;
                match kind {
                    0 => { ran += time; waited += pending; pending = 0; }
                    1 => pending += time,
                    // Whoever sleeps ran before.
                    _ => { ran += 1; now += 1; waited += pending; pending = 0; slept += time; }
                }
                if at % look == 0 {
                    guest += clock.step(now, &[sight(ran, waited, *kind != 2)], u64::MAX);
                }
            }
            // It never ages by more than it ran and slept, and what of a wait is not over.
            prop_assert!(guest <= ran + slept + pending + 800 * look as u64, "{guest} {ran} {slept} {pending}");
            prop_assert!(guest <= now);
        }

        #[test]
        fn a_guest_that_never_waits_ages_as_the_host(steps in proptest::collection::vec((1u64..1000, any::<bool>()), 1..50)) {
            let (mut now, mut ran, mut guest) = (0, 0, 0);
            let mut clock = GuestClock::begin(0, &[sight(0, 3, true)]);
            for (time, sleeps) in steps {
                now += time;
                ran += u64::from(!sleeps) * time;
                guest += clock.step(now, &[sight(ran, 3, !sleeps)], u64::MAX);
            }
            prop_assert_eq!(guest, now);
        }
    }
}
