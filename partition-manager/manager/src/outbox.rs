//! The thread that hands events to the service processor, and notices when that is away.
//!
//! The events themselves wait in the journal; the driver hands over one batch at a time and takes it out of
//! the journal when it was acknowledged. Nothing here blocks the driver.

use crate::message::Message;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError};
use frame::api::{Acknowledgement, Delivery, EVENTS, STATUS};
use frame::event::Event;
use os::http::{Client, HttpError};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// How often the service processor is asked whether it is there, while there is nothing to deliver.
const PING: Duration = Duration::from_millis(700);
/// How long one exchange may take.
const PATIENCE: Duration = Duration::from_millis(1000);
/// First delay before a delivery is tried again.
const FIRST_DELAY: Duration = Duration::from_millis(50);
/// Longest delay before a delivery is tried again.
const LONGEST_DELAY: Duration = Duration::from_secs(1);
/// Silence after which the service processor is lost.
pub const SILENCE: Duration = Duration::from_secs(2);

/// Whether the service processor is there, judged by the caller's clock.
#[derive(Clone, Debug, Default)]
pub struct Presence {
    answered: Option<Instant>,
    failing_since: Option<Instant>,
    lost: bool,
}

impl Presence {
    /// It answered; true when it had been lost.
    pub fn answered(&mut self, now: Instant) -> bool {
        self.answered = Some(now);
        self.failing_since = None;
        std::mem::take(&mut self.lost)
    }

    /// It did not answer an exchange that began at `began`; true when it is now lost. One that was never
    /// there is not lost, and a manager that slept itself first asks again for a while.
    pub fn failed(&mut self, began: Instant, now: Instant) -> bool {
        let since = *self.failing_since.get_or_insert(began);
        let silent = self.answered.is_some_and(|answered| now.saturating_duration_since(answered) >= SILENCE);
        let sure = now.saturating_duration_since(since) >= SILENCE / 2;
        let newly = silent && sure && !self.lost;
        self.lost |= newly;
        newly
    }
}

/// The driver's side.
#[derive(Debug)]
pub struct Outbox {
    batches: Sender<Vec<Event>>,
    /// What names the events that are being delivered, in order.
    in_flight: Vec<(u64, u64)>,
}

impl Outbox {
    /// Starts the thread for the service processor that listens at `socket`.
    ///
    /// # Errors
    /// When the host gives no thread.
    pub fn start(socket: &Path, queue: Sender<Message>) -> io::Result<Self> {
        let (batches, received) = crossbeam_channel::bounded(1);
        let client = Client::new(socket, PATIENCE);
        std::thread::Builder::new().name("outbox".into()).spawn(move || {
            let mut courier = Courier { client, queue, presence: Presence::default() };
            // Ends when the driver does.
            let _ = courier.run(&received);
        })?;
        Ok(Self { batches, in_flight: Vec::new() })
    }

    /// Whether nothing is being delivered, so that [`Outbox::deliver`] may be called.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Hands over the next events; [`Message::Delivered`] follows.
    pub fn deliver(&mut self, events: Vec<Event>) {
        let names = events.iter().map(|event| (event.incarnation, event.sequence)).collect();
        match self.batches.try_send(events) {
            Ok(()) => self.in_flight = names,
            // The thread is gone only when the process ends.
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
    }

    /// The first `taken` events that were handed over are in the log: gives their names.
    pub fn delivered(&mut self, taken: usize) -> Vec<(u64, u64)> {
        let mut names = std::mem::take(&mut self.in_flight);
        names.truncate(taken);
        names
    }
}

/// Whether the same request would be refused again: it is at fault, and not the moment (RFC 9110, section 15.5).
const fn is_final(status: u16) -> bool {
    matches!(status, 400..500) && !matches!(status, 408 | 409 | 425 | 429)
}

struct Courier {
    client: Client,
    queue: Sender<Message>,
    presence: Presence,
}

/// The driver is gone.
struct Over;

impl Courier {
    fn run(&mut self, batches: &Receiver<Vec<Event>>) -> Result<(), Over> {
        loop {
            match batches.recv_timeout(PING) {
                Ok(events) => self.deliver(Delivery { events }, batches)?,
                Err(RecvTimeoutError::Timeout) => {
                    let began = Instant::now();
                    let outcome = self.client.get::<serde_json::Value>(STATUS);
                    self.judge(began, &outcome)?;
                }
                Err(RecvTimeoutError::Disconnected) => return Err(Over),
            }
        }
    }

    fn deliver(&mut self, mut delivery: Delivery, batches: &Receiver<Vec<Event>>) -> Result<(), Over> {
        let mut delay = FIRST_DELAY;
        loop {
            let began = Instant::now();
            let outcome = self.client.post::<_, Acknowledgement>(EVENTS, &delivery);
            self.judge(began, &outcome)?;
            match outcome {
                Ok(acknowledged) if acknowledged.taken > 0 => {
                    let taken = acknowledged.taken.min(delivery.events.len());
                    return self.queue.send(Message::Delivered(taken)).map_err(|_| Over);
                }
                Ok(_) => {}
                Err(HttpError::Refused { status, message }) if is_final(status) => {
                    // Something in it will never be taken: what is before that goes by itself, and it alone.
                    if delivery.events.len() > 1 {
                        delivery.events.truncate(delivery.events.len() / 2);
                        continue;
                    }
                    let lost = serde_json::to_string(&delivery.events).unwrap_or_default();
                    tracing::error!("the service processor refuses an event for good ({status}: {message}): {lost}");
                    return self.queue.send(Message::Delivered(1)).map_err(|_| Over);
                }
                Err(HttpError::Refused { status, message }) => {
                    tracing::warn!("the service processor takes no events at present ({status}): {message}");
                }
                Err(_) => {}
            }
            // The wait ends at once when the driver does.
            if let Err(RecvTimeoutError::Disconnected) = batches.recv_timeout(delay) {
                return Err(Over);
            }
            delay = (delay * 2).min(LONGEST_DELAY);
        }
    }

    fn judge<T>(&mut self, began: Instant, outcome: &Result<T, HttpError>) -> Result<(), Over> {
        let now = Instant::now();
        // One that refuses is there.
        let present = matches!(outcome, Ok(_) | Err(HttpError::Refused { .. }));
        let changed = if present { self.presence.answered(now) } else { self.presence.failed(began, now) };
        if changed { self.queue.send(Message::ServiceProcessor { present }).map_err(|_| Over) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_a_loss_once() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut presence = Presence::default();
        assert!(!presence.failed(at(0), at(5000)), "one that was never there is not lost");
        assert!(!presence.answered(at(6000)));
        assert!(!presence.failed(at(6500), at(6500)));
        assert!(!presence.failed(at(7400), at(7900)));
        assert!(presence.failed(at(8000), at(8100)));
        assert!(!presence.failed(at(8500), at(9000)), "a loss is one event");
        assert!(presence.answered(at(9500)));
        assert!(!presence.answered(at(9600)));
    }

    #[test]
    fn a_manager_that_slept_asks_again_first() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut presence = Presence::default();
        presence.answered(at(0));
        assert!(!presence.failed(at(60_000), at(60_010)));
        assert!(presence.failed(at(60_500), at(61_500)));
    }

    /// A service processor that takes no delivery with event 3 in it.
    fn picky(listener: std::os::unix::net::UnixListener, requests: usize) -> Vec<usize> {
        use std::io::{BufRead, BufReader, Read, Write};
        let mut sizes = Vec::new();
        for _ in 0..requests {
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut length = 0;
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                if line.trim().is_empty() {
                    break;
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let events = serde_json::from_slice::<Delivery>(&body).unwrap().events;
            sizes.push(events.len());
            let (status, body) = if events.iter().any(|event| event.sequence == 3) {
                ("400 Bad Request", "{\"error\":\"no\"}".to_owned())
            } else {
                ("200 OK", format!("{{\"taken\":{}}}", events.len()))
            };
            let head = format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\n");
            write!(stream, "{head}content-length: {}\r\n\r\n{body}", body.len()).unwrap();
        }
        sizes
    }

    #[test]
    fn an_event_that_is_refused_for_good_holds_nothing_up() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || picky(listener, 5));
        let (queue, messages) = crossbeam_channel::bounded(4);
        let mut outbox = Outbox::start(&path, queue).unwrap();
        let mut waiting: Vec<Event> = (1..=4)
            .map(|sequence| {
                let event = Event::new(frame::code::Code::ManagerStarted, vec![], "t".into());
                Event { incarnation: 1, sequence, ..event }
            })
            .collect();
        let mut gone = Vec::new();
        while !waiting.is_empty() {
            outbox.deliver(waiting.clone());
            let Message::Delivered(taken) = messages.recv_timeout(Duration::from_secs(30)).unwrap() else { panic!() };
            let names = outbox.delivered(taken);
            waiting.retain(|event| !names.contains(&(event.incarnation, event.sequence)));
            gone.push(names.len());
        }
        // All four, the first two; the last two, the third alone, which goes; the fourth.
        assert_eq!(gone, [2, 1, 1]);
        drop(outbox);
        assert_eq!(server.join().unwrap(), [4, 2, 2, 1, 1]);
    }

    #[test]
    fn without_a_service_processor_events_wait() {
        let directory = tempfile::tempdir().unwrap();
        let (queue, messages) = crossbeam_channel::bounded(4);
        let mut outbox = Outbox::start(&directory.path().join("none"), queue).unwrap();
        let event = Event::new(frame::code::Code::ManagerStarted, vec![], "t".into());
        outbox.deliver(vec![Event { incarnation: 1, sequence: 1, ..event }]);
        assert!(!outbox.is_idle());
        assert!(messages.try_recv().is_err());
        assert_eq!(outbox.delivered(5), [(1, 1)]);
        assert!(outbox.is_idle());
    }
}
