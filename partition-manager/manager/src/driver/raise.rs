//! Events: numbered, put into the outbox, handed to the service processor.

use super::Driver;
use crate::clock;
use frame::code::Code;
use frame::event::{Event, LARGEST_DELIVERY};
use frame::name::Name;

impl Driver {
    /// Raises an event.
    pub(super) fn raise(&mut self, code: Code, partitions: Vec<Name>, text: String, data: serde_json::Value) {
        self.sequence += 1;
        let event = Event {
            incarnation: self.epoch,
            sequence: self.sequence,
            time: clock::wall(),
            monotonic: clock::monotonic(),
            ..Event::new(code, partitions, text).with_data(data)
        };
        tracing::info!("{code} {}", event.text);
        match self.journal.put(&event) {
            Ok(0) => {}
            Ok(dropped) => tracing::error!("the outbox is full: {dropped} event(s) that waited longest were dropped"),
            Err(error) => tracing::error!("an event could not be kept: {error}"),
        }
        self.deliver();
    }

    /// Hands the next events to the outbox, if it is idle.
    pub(super) fn deliver(&mut self) {
        if !self.outbox.is_idle() {
            return;
        }
        match self.journal.oldest(LARGEST_DELIVERY) {
            Ok(events) if events.is_empty() => {}
            Ok(events) => self.outbox.deliver(events),
            Err(error) => tracing::error!("the outbox cannot be read: {error}"),
        }
    }

    /// The service processor took events over.
    pub(super) fn delivered(&mut self, taken: usize) {
        for (incarnation, sequence) in self.outbox.delivered(taken) {
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
