//! The service processor's own events, until they are in the log.

use crate::clock;
use frame::event::{Event, Source};
use std::collections::VecDeque;

/// Most own events that wait for the log.
pub const MOST_WAITING: usize = 256;

/// Own events in the order in which they were raised.
#[derive(Debug, Default)]
pub struct Waiting {
    events: VecDeque<Event>,
    numbered: u64,
    dropped: u64,
}

/// `event` as raised by the service processor now; it is numbered when the log takes it.
#[must_use]
pub fn raised_now(mut event: Event) -> Event {
    event.source = Source::ServiceProcessor;
    event.time = clock::wall();
    event.monotonic = clock::monotonic();
    event
}

impl Waiting {
    /// Adds one. When there are too many the oldest is dropped and counted.
    pub fn push(&mut self, event: Event) {
        if self.events.len() >= MOST_WAITING {
            self.events.pop_front();
            self.dropped += 1;
        }
        self.events.push_back(event);
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// All that wait, numbered for `incarnation`. They go on waiting until [`Waiting::taken`].
    pub fn numbered(&mut self, incarnation: u64) -> Vec<Event> {
        for (event, sequence) in self.events.iter_mut().zip(self.numbered + 1..) {
            event.incarnation = incarnation;
            event.sequence = sequence;
        }
        let mut all: Vec<Event> = self.events.iter().cloned().collect();
        if let Some(first) = all.first_mut().filter(|_| self.dropped > 0) {
            first.text.push_str(&format!(" ({} earlier events could not be kept)", self.dropped));
        }
        all
    }

    /// The log took all that waited.
    pub fn taken(&mut self) {
        self.numbered += self.events.len() as u64;
        self.events.clear();
        self.dropped = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use frame::code::Code;

    fn event(text: &str) -> Event {
        raised_now(Event::new(Code::ManagerLost, Vec::new(), text.to_owned()))
    }

    #[test]
    fn numbers_follow_what_the_log_took() {
        let mut waiting = Waiting::default();
        waiting.push(event("a"));
        waiting.push(event("b"));
        assert_eq!(waiting.numbered(7).iter().map(|event| event.sequence).collect::<Vec<_>>(), [1, 2]);
        // The log was full: nothing was taken, the same numbers come again.
        waiting.push(event("c"));
        assert_eq!(waiting.numbered(7).iter().map(|event| event.sequence).collect::<Vec<_>>(), [1, 2, 3]);
        waiting.taken();
        assert!(waiting.is_empty());
        waiting.push(event("d"));
        assert_eq!((waiting.numbered(7)[0].incarnation, waiting.numbered(7)[0].sequence), (7, 4));
    }

    #[test]
    fn memory_is_bounded_and_the_loss_is_said() {
        let mut waiting = Waiting::default();
        for number in 0..MOST_WAITING + 3 {
            waiting.push(event(&number.to_string()));
        }
        let all = waiting.numbered(1);
        assert_eq!(all.len(), MOST_WAITING);
        assert_eq!(all[0].text, "3 (3 earlier events could not be kept)");
        assert_eq!(all[0].sequence, 1);
    }
}
