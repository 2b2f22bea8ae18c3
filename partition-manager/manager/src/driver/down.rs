//! Bringing the frame down: all partitions at once, then the manager itself.

use super::Driver;
use crate::message::Reply;
use crate::{clock, journal};
use frame::api::{DownRequest, ShutdownRequest};
use frame::lifecycle::Input;
use frame::name::Name;

/// Time that the last events have to reach the service processor, milliseconds.
const FLUSH_MS: u64 = 3_000;
/// How often it is looked whether they have, milliseconds.
const LOOK_MS: u64 = 50;

/// A frame on its way down.
#[derive(Debug)]
pub struct Down {
    /// Who asked; none when an earlier manager was asked and this one finishes it.
    replies: Vec<Reply<()>>,
    /// When to go, whether the last events were delivered or not; none while partitions are there.
    until: Option<u64>,
    over: bool,
}

impl Down {
    /// When there is something to look at, milliseconds of the monotonic clock.
    pub fn deadline(&self) -> Option<u64> {
        self.until.map(|_| clock::now() + LOOK_MS)
    }

    /// Whether the manager may go.
    pub fn is_over(&self) -> bool {
        self.over
    }
}

impl Driver {
    /// Begins to bring the frame down, or goes on more hurriedly.
    pub(super) fn begin_down(&mut self, request: DownRequest, reply: Option<Reply<()>>) {
        if self.down.is_none() {
            tracing::info!("the frame goes down");
            self.down = Some(Down { replies: vec![], until: None, over: false });
            if let Err(error) = self.journal.set_fact("down", &true) {
                tracing::error!("{error}");
            }
        }
        if let Some(down) = &mut self.down {
            down.replies.extend(reply);
        }
        let names: Vec<Name> = self.entries.keys().cloned().collect();
        let request = ShutdownRequest { immediate: request.immediate, restart: false };
        for name in names {
            if self.entries.get(&name).is_some_and(|entry| entry.kept.lifecycle.is_active()) {
                self.apply(&name, Input::Shutdown { request, down: true });
            }
        }
    }

    /// Goes when everything is gone.
    pub(super) fn bring_down(&mut self, now: u64) {
        if self.starting.is_some() || self.down.is_none() {
            return;
        }
        let active = self.entries.values().any(|entry| entry.kept.lifecycle.is_active());
        if active || !self.doomed.is_empty() {
            return;
        }
        let empty = self.all_delivered();
        let Some(down) = &mut self.down else { return };
        if down.replies.is_empty() {
            // An earlier manager was asked. Whoever asked it can ask again; until then the frame stays as
            // it is, with nothing running.
            self.down = None;
            if let Err(error) = self.journal.set_fact("down", &false) {
                tracing::error!("{error}");
            }
            return;
        }
        let until = *down.until.get_or_insert(now + FLUSH_MS);
        if !empty && now < until {
            return;
        }
        down.over = true;
        self.steer();
        let Some(down) = &mut self.down else { return };
        for reply in down.replies.drain(..) {
            // Whoever asked may be gone.
            let _ = reply.send(Ok(()));
        }
        self.sweep();
        self.groups.remove_frame();
        // The directory goes if nothing foreign is in it.
        let _ = std::fs::remove_dir(self.settings.root.partitions());
        let path = self.settings.root.manager_database();
        if empty {
            journal::remove(&path);
        } else {
            // The next manager of this frame delivers what is left, and begins as a first one.
            for fact in ["down", "started"] {
                if let Err(error) = self.journal.set_fact(fact, &false) {
                    tracing::error!("{error}");
                }
            }
        }
    }
}
