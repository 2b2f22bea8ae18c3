//! What a new manager makes of a life that it finds in the journal.

use super::{ATTEMPTS, Effect, End, LEAVE_MS, Lifecycle, START_MS, Stage};
use crate::declare::Shutdown;
use crate::ladder::Rung;
use crate::name::Name;
use crate::state::State;

impl Lifecycle {
    /// The life of a partition whose process a new manager found, and of which nothing is written down: it is
    /// active, and says where it is once it is connected to.
    #[must_use]
    pub fn found(name: Name, deadlines: Shutdown, now: u64) -> Self {
        let mut found = Self::new(name, deadlines);
        found.become_state(State::Starting, String::new());
        found.stage = Stage::Connecting;
        found.until = Some(now.saturating_add(START_MS));
        found
    }

    pub(super) fn restored(&mut self, now: u64, alive: bool) -> Vec<Effect> {
        match (self.stage, alive) {
            (Stage::Off | Stage::Waiting, _) => vec![],
            (Stage::Running, true) => {
                if self.ending.is_some() {
                    self.until = Some(now.saturating_add(LEAVE_MS));
                }
                if self.killed { vec![Effect::Take(Rung::Kill)] } else { vec![] }
            }
            (_, true) => {
                self.stage = if self.stage == Stage::Making { Stage::Connecting } else { self.stage };
                self.until = if self.stopping.is_some() && self.ending.is_none() {
                    None
                } else {
                    Some(now.saturating_add(if self.ending.is_some() { LEAVE_MS } else { START_MS }))
                };
                if self.killed { vec![Effect::Take(Rung::Kill)] } else { vec![] }
            }
            (Stage::Running, false) => self.vanished(now),
            (_, false) if self.stopping.is_some() || self.ending.is_some() => self.vanished(now),
            (_, false) => {
                // The activation was not finished: whatever of it there was is gone, so it begins anew.
                self.stage = Stage::Making;
                self.attempts += 1;
                if self.attempts >= ATTEMPTS {
                    let reason = format!("the manager was lost {ATTEMPTS} times while it started this partition");
                    return self.make_failed(&reason);
                }
                let mut effects = vec![Effect::Reap];
                effects.extend(self.make());
                effects
            }
        }
    }

    fn vanished(&mut self, now: u64) -> Vec<Effect> {
        self.stage = if self.stage.has_process() { self.stage } else { Stage::Connecting };
        let how = "it ended while no manager was there to see it, cause unknown".to_owned();
        self.gone(now, End { how, ..End::default() })
    }
}
