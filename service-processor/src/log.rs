//! The thread that owns the event log, so that a slow or full disk stops nobody else.

use crate::clock;
use crate::errors::Error;
use crate::own::Waiting;
use crate::store::Store;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use frame::code::Code;
use frame::event::{Event, LoggedEvent};
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// Most requests that wait for the log.
const QUEUE: usize = 128;
/// How long until a log that could not be written is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Which events a reader wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection {
    /// Those after this number.
    After(u64),
    /// The newest.
    Newest,
}

/// How far the log goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// How many events there are.
    pub count: u64,
    /// Number of the last one; zero when there is none.
    pub last: u64,
}

enum Request {
    Deliver(Vec<Event>, oneshot::Sender<Result<(), String>>),
    Read(Selection, usize, oneshot::Sender<Result<Vec<LoggedEvent>, String>>),
    Own(Box<Event>),
    Flush(Sender<bool>),
    Close(Sender<bool>),
}

/// Why the log does not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// Too many requests wait, or the thread is gone.
    #[error("the event log is busy; try again")]
    Busy,
    /// The database refused.
    #[error("the event log cannot be used: {0}; make room on its disk, or look at its permissions")]
    Refused(String),
}

/// A handle of the log.
#[derive(Clone, Debug)]
pub struct Log {
    queue: Sender<Request>,
    extent: watch::Receiver<Extent>,
}

impl Log {
    /// Starts the thread. `store` is the open database; when it could not be opened it is tried again from
    /// time to time.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(path: PathBuf, store: Option<Store>) -> Result<Self, Error> {
        let (queue, requests) = bounded(QUEUE);
        let (publish, extent) = watch::channel(Extent::default());
        let keeper = Keeper { path, store: None, incarnation: None, own: Waiting::default(), publish, closed: false };
        std::thread::Builder::new()
            .name("log".into())
            .spawn(move || keeper.run(store, &requests))
            .map_err(Error::host("start the event log's thread"))?;
        Ok(Self { queue, extent })
    }

    /// Raises an event of the service processor itself. Never waits; an event that finds the queue full is
    /// lost, and said on standard error.
    pub fn raise(&self, event: Event) {
        let event = crate::own::raised_now(event);
        if let Err(TrySendError::Full(Request::Own(event)) | TrySendError::Disconnected(Request::Own(event))) =
            self.queue.try_send(Request::Own(Box::new(event)))
        {
            tracing::error!(code = %event.code, text = event.text, "the event log is busy; an event is lost");
        }
    }

    /// Puts a delivery into the log: all of it, or none.
    ///
    /// # Errors
    /// [`LogError`]; the sender keeps its events then.
    pub async fn deliver(&self, events: Vec<Event>) -> Result<(), LogError> {
        let (reply, answer) = oneshot::channel();
        self.queue.try_send(Request::Deliver(events, reply)).map_err(|_| LogError::Busy)?;
        answer.await.map_err(|_| LogError::Busy)?.map_err(LogError::Refused)
    }

    /// Reads events, oldest first, at most `limit`.
    ///
    /// # Errors
    /// [`LogError`].
    pub async fn read(&self, selection: Selection, limit: usize) -> Result<Vec<LoggedEvent>, LogError> {
        let (reply, answer) = oneshot::channel();
        self.queue.try_send(Request::Read(selection, limit, reply)).map_err(|_| LogError::Busy)?;
        answer.await.map_err(|_| LogError::Busy)?.map_err(LogError::Refused)
    }

    /// How far the log goes, now and whenever that changes.
    #[must_use]
    pub fn extent(&self) -> watch::Receiver<Extent> {
        self.extent.clone()
    }

    /// Waits until everything raised so far is in the log; false when it is not within `timeout`.
    #[must_use]
    pub fn flush(&self, timeout: Duration) -> bool {
        self.settled(Request::Flush, timeout)
    }

    /// The same, and closes the database, which leaves one file behind instead of three.
    #[must_use]
    pub fn close(&self, timeout: Duration) -> bool {
        self.settled(Request::Close, timeout)
    }

    fn settled(&self, request: impl FnOnce(Sender<bool>) -> Request, timeout: Duration) -> bool {
        let (reply, answer) = bounded(1);
        self.queue.send_timeout(request(reply), timeout).is_ok() && answer.recv_timeout(timeout) == Ok(true)
    }
}

struct Keeper {
    path: PathBuf,
    store: Option<Store>,
    incarnation: Option<u64>,
    own: Waiting,
    publish: watch::Sender<Extent>,
    closed: bool,
}

impl Keeper {
    fn run(mut self, store: Option<Store>, requests: &Receiver<Request>) {
        if let Some(store) = store {
            self.took(store);
        }
        self.settle();
        loop {
            match requests.recv_timeout(RETRY) {
                Ok(Request::Deliver(events, reply)) => {
                    let done = self.store().and_then(|store| store.insert(&events).map_err(|error| error.to_string()));
                    self.published();
                    // A client that left does not want to know.
                    let _ = reply.send(done);
                }
                Ok(Request::Read(selection, limit, reply)) => {
                    let read = self.store().and_then(|store| {
                        let read = match selection {
                            Selection::After(id) => store.after(id, limit),
                            Selection::Newest => store.newest(limit),
                        };
                        read.map_err(|error| error.to_string())
                    });
                    let _ = reply.send(read);
                }
                Ok(Request::Own(event)) => {
                    self.own.push(*event);
                    self.settle();
                }
                Ok(Request::Flush(reply)) => {
                    self.settle();
                    let _ = reply.try_send(self.own.is_empty());
                }
                Ok(Request::Close(reply)) => {
                    self.settle();
                    self.store = None;
                    // Whoever asks for more is too late, and is told so: a queue that nobody reads any more
                    // keeps its requests, and they would wait.
                    self.closed = true;
                    let _ = reply.try_send(self.own.is_empty());
                }
                Err(crossbeam_channel::RecvTimeoutError::Timeout) => self.settle(),
                Err(crossbeam_channel::RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// The open database, opened again if need be.
    fn store(&mut self) -> Result<&mut Store, String> {
        if self.closed {
            return Err("the service processor is ending".into());
        }
        if self.store.is_none() {
            let store = Store::open(&self.path).map_err(|error| error.to_string())?;
            self.took(store);
        }
        self.store.as_mut().ok_or_else(|| "it is not open".to_owned())
    }

    fn took(&mut self, store: Store) {
        if let Some(aside) = &store.set_aside {
            let text = format!(
                "The event log {} could not be read; it is now {} and a new log was begun.",
                self.path.display(),
                aside.display()
            );
            let event = Event::new(Code::EventLogDamaged, Vec::new(), text);
            self.own.push(crate::own::raised_now(event));
        }
        self.store = Some(store);
    }

    /// Puts the own events that wait into the log, if it can be written.
    fn settle(&mut self) {
        if self.closed {
            return;
        }
        if let Err(error) = self.attempt() {
            tracing::warn!(%error, "the event log cannot be written; it will be tried again");
        }
        self.published();
    }

    fn attempt(&mut self) -> Result<(), String> {
        let known = self.incarnation;
        let store = self.store()?;
        let incarnation = match known {
            Some(incarnation) => incarnation,
            None => store.incarnate(clock::wall()).map_err(|error| error.to_string())?,
        };
        self.incarnation = Some(incarnation);
        if self.own.is_empty() {
            return Ok(());
        }
        let events = self.own.numbered(incarnation);
        self.store()?.insert(&events).map_err(|error| error.to_string())?;
        self.own.taken();
        Ok(())
    }

    fn published(&mut self) {
        if let Some(Ok((count, last))) = self.store.as_ref().map(Store::extent) {
            self.publish.send_if_modified(|extent| {
                let now = Extent { count, last };
                std::mem::replace(extent, now) != now
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    fn event(text: &str) -> Event {
        Event::new(Code::ManagerLost, Vec::new(), text.to_owned())
    }

    fn wait<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
    }

    #[test]
    fn own_events_are_numbered_for_each_incarnation() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.db");
        for incarnation in 1..=2 {
            let log = Log::start(path.clone(), Store::open(&path).ok()).unwrap();
            log.raise(event("one"));
            log.raise(event("two"));
            assert!(log.flush(LONG));
            let events = wait(log.read(Selection::Newest, 2)).unwrap();
            let numbers: Vec<_> = events.iter().map(|one| (one.event.incarnation, one.event.sequence)).collect();
            assert_eq!(numbers, [(incarnation, 1), (incarnation, 2)]);
            assert_eq!(log.extent().borrow().count, 2 * incarnation);
        }
    }

    #[test]
    fn a_log_that_cannot_be_opened_refuses_and_recovers() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("later/events.db");
        let log = Log::start(path.clone(), None).unwrap();
        log.raise(event("kept in memory"));
        assert!(!log.flush(LONG));
        assert!(matches!(wait(log.deliver(vec![event("refused")])), Err(LogError::Refused(_))));
        std::fs::create_dir(directory.path().join("later")).unwrap();
        assert!(log.flush(LONG));
        wait(log.deliver(vec![event("taken")])).unwrap();
        let texts: Vec<_> =
            wait(log.read(Selection::After(0), 10)).unwrap().into_iter().map(|one| one.event.text).collect();
        assert_eq!(texts, ["kept in memory", "taken"]);
    }

    #[test]
    fn a_log_that_is_closed_answers_that_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.db");
        let log = Log::start(path.clone(), Store::open(&path).ok()).unwrap();
        log.raise(event("last"));
        assert!(log.close(LONG));
        assert!(matches!(wait(log.read(Selection::Newest, 1)), Err(LogError::Refused(_))));
        // Closed, the database is one file.
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_log_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.db");
        std::fs::write(&path, "no database").unwrap();
        let log = Log::start(path.clone(), Store::open(&path).ok()).unwrap();
        assert!(log.flush(LONG));
        let events = wait(log.read(Selection::After(0), 10)).unwrap();
        assert_eq!(events.iter().map(|one| one.event.code).collect::<Vec<_>>(), [Code::EventLogDamaged]);
    }
}
