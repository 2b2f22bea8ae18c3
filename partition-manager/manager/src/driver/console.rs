//! Sessions on consoles: one for each partition. The output is read from the record by the session itself.

use super::Driver;
use super::entry::OpenSession;
use super::make::prepare_record;
use crate::message::{Refusal, Session};
use frame::name::Name;
use frame::wire::{LARGEST_INPUT, Request};
use os::packet::PacketError;
use std::sync::Arc;
use tokio::sync::oneshot;

impl Driver {
    /// Opens a session.
    pub(super) fn open_console(&mut self, name: &Name, force: bool) -> Result<Session, Refusal> {
        let entry = self.entries.get_mut(name).ok_or_else(|| Refusal::unknown(name))?;
        if entry.session.as_ref().is_some_and(|open| open.end.is_closed()) {
            entry.session = None;
        }
        if entry.session.is_some() && !force {
            return Err(Refusal::conflict(format!(
                "the console of partition {name} has a session already; `lpar console {name} --force` takes it over"
            )));
        }
        if entry.record.is_none() {
            // A process that has not said what it holds has the record; any other partition gets a new one.
            if entry.process.is_some() {
                return Err(Refusal::unavailable(format!(
                    "partition {name} was not taken over from an earlier manager yet; try again"
                )));
            }
            prepare_record(entry).map_err(|error| Refusal::failed(format!("{error:#}")))?;
        }
        let (Some(record), Some(doorbell)) = (&entry.record, &entry.doorbell) else {
            return Err(Refusal::unavailable(format!("the console of partition {name} is not there")));
        };
        let (record, doorbell) = (Arc::clone(record), Arc::clone(doorbell));
        if let Some(open) = entry.session.take() {
            // It may have ended meanwhile, which is as good.
            let _ = open.end.send("another session took the console over".into());
        }
        self.sessions += 1;
        let (sender, end) = oneshot::channel();
        entry.session = Some(OpenSession { number: self.sessions, end: sender });
        Ok(Session { number: self.sessions, record, doorbell, end })
    }

    /// Passes on what was typed. What a partition does not take is lost, as on a serial line.
    pub(super) fn typed(&mut self, name: &Name, session: u64, bytes: Vec<u8>) -> Result<(), Refusal> {
        let entry = self.entries.get(name).ok_or_else(|| Refusal::unknown(name))?;
        if entry.session.as_ref().is_none_or(|open| open.number != session) {
            return Err(Refusal::conflict("the session was closed"));
        }
        if bytes.len() > LARGEST_INPUT {
            return Err(Refusal::conflict("too much input at once"));
        }
        if let Some(process) = &entry.process {
            match process.send(self.epoch, Request::Input(bytes), &[]) {
                Ok(()) | Err(PacketError::NotReady | PacketError::Closed) => {}
                outcome => self.sent(name, outcome),
            }
        }
        Ok(())
    }

    /// A session has ended.
    pub(super) fn close_console(&mut self, name: &Name, session: u64) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.session.take_if(|open| open.number == session);
        }
    }
}
