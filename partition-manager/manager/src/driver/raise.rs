//! Events: numbered, put into the outbox, handed to the service processor.

use super::Driver;
use crate::clock;
use frame::code::Code;
use frame::event::{Event, LARGEST_DELIVERY, Severity};
use frame::name::Name;
use std::collections::VecDeque;

/// Most events that are kept in memory while the journal has no room for them.
const MOST_UNKEPT: usize = 256;

impl Driver {
    /// Raises an event.
    pub(super) fn raise(&mut self, code: Code, partitions: Vec<Name>, text: String, data: serde_json::Value) {
        let event = self.event(code, partitions, text, data);
        match self.journal.put(&event) {
            Ok(dropped) => overflowed(dropped),
            Err(error) => self.keep_in_memory(vec![event], &error),
        }
        self.deliver();
    }

    /// Writes down where a partition's life is, and raises what is said of that: both or neither.
    pub(super) fn store_with(&mut self, name: &Name, raises: Vec<(Code, String, serde_json::Value)>) {
        let raises = raises.into_iter();
        let events: Vec<Event> =
            raises.map(|(code, text, data)| self.event(code, vec![name.clone()], text, data)).collect();
        let Some(entry) = self.entries.get(name) else { return };
        match self.journal.keep_with(&entry.kept, &events) {
            Ok(dropped) => overflowed(dropped),
            Err(error) => {
                // A full disk must not stop a shutdown. What is lost is what a next manager would know.
                tracing::error!("partition {name}: its state could not be written down: {error}");
                if !events.is_empty() {
                    self.keep_in_memory(events.clone(), &error);
                }
            }
        }
        if !events.is_empty() {
            self.deliver();
        }
    }

    fn event(&mut self, code: Code, partitions: Vec<Name>, text: String, data: serde_json::Value) -> Event {
        self.sequence += 1;
        let event = Event {
            incarnation: self.epoch,
            sequence: self.sequence,
            time: clock::wall(),
            monotonic: clock::monotonic(),
            ..Event::new(code, partitions, text).with_data(data)
        };
        tracing::info!("{code} {}", event.text);
        event
    }

    fn keep_in_memory(&mut self, events: Vec<Event>, error: &crate::journal::JournalError) {
        tracing::error!("the journal has no room for {} event(s), which are kept in memory: {error}", events.len());
        for event in events {
            if let Some(dropped) = push_bounded(&mut self.unkept, event) {
                tracing::error!("an event is lost, since too many wait in memory: {} {}", dropped.code, dropped.text);
            }
        }
    }

    /// Puts into the journal what it had no room for before.
    pub(super) fn keep_again(&mut self) {
        while let Some(event) = self.unkept.front() {
            match self.journal.put(event) {
                Ok(dropped) => {
                    overflowed(dropped);
                    self.unkept.pop_front();
                }
                Err(_) => break,
            }
        }
        self.deliver();
    }

    /// Whether every event was taken over by the service processor.
    pub(super) fn all_delivered(&self) -> bool {
        self.unkept.is_empty() && self.journal.waiting().is_ok_and(|waiting| waiting == 0)
    }

    /// Hands the next events to the outbox, if it is idle.
    pub(super) fn deliver(&mut self) {
        if !self.outbox.is_idle() {
            return;
        }
        let mut events = self.journal.oldest(LARGEST_DELIVERY).unwrap_or_else(|error| {
            tracing::error!("the outbox cannot be read: {error}");
            vec![]
        });
        // These came after all that the journal holds.
        let room = LARGEST_DELIVERY.saturating_sub(events.len());
        events.extend(self.unkept.iter().take(room).cloned());
        if !events.is_empty() {
            self.outbox.deliver(events);
        }
    }

    /// The service processor took events over.
    pub(super) fn delivered(&mut self, taken: usize) {
        for (incarnation, sequence) in self.outbox.delivered(taken) {
            self.unkept.retain(|event| (event.incarnation, event.sequence) != (incarnation, sequence));
            if let Err(error) = self.journal.delivered(incarnation, sequence) {
                // It is delivered again, and known there.
                tracing::error!("the outbox cannot be written: {error}");
            }
        }
        self.deliver();
    }

    /// The service processor was lost, or is back.
    pub(super) fn service_processor(&mut self, present: bool) {
        if present {
            tracing::info!("the service processor answers again");
        } else if self.down.is_none() {
            let text = "the service processor does not answer; the partitions run on".to_owned();
            self.raise(Code::ServiceProcessorLost, vec![], text, serde_json::json!({}));
        }
    }
}

fn overflowed(dropped: u64) {
    if dropped > 0 {
        tracing::error!("the outbox is full: {dropped} event(s) that waited longest were dropped");
    }
}

/// Adds an event; when there are too many, gives the oldest informational one that goes for it, or the oldest.
fn push_bounded(waiting: &mut VecDeque<Event>, event: Event) -> Option<Event> {
    waiting.push_back(event);
    if waiting.len() <= MOST_UNKEPT {
        return None;
    }
    let informational = waiting.iter().position(|event| event.severity == Severity::Informational);
    waiting.remove(informational.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded_and_keeps_what_matters() {
        let event = |code, sequence| Event { sequence, ..Event::new(code, vec![], String::new()) };
        let mut waiting = VecDeque::new();
        assert_eq!(push_bounded(&mut waiting, event(Code::TripleFault, 0)), None);
        for sequence in 1..MOST_UNKEPT as u64 {
            assert_eq!(push_bounded(&mut waiting, event(Code::PartitionRunning, sequence)), None);
        }
        let dropped = push_bounded(&mut waiting, event(Code::ProcessLost, 1000)).unwrap();
        assert_eq!((dropped.sequence, waiting.len()), (1, MOST_UNKEPT));
        assert_eq!(waiting.front().unwrap().code, Code::TripleFault);
    }
}
