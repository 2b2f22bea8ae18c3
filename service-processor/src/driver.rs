//! The state driver: one thread that owns what the service processor knows, and acts on it.
//!
//! Everything reaches it through one bounded queue; it waits for nothing but that queue, and never for what
//! it watches.

use crate::down::{self, Answer};
use crate::errors::Error;
use crate::log::Log;
use crate::record::Record;
use crossbeam_channel::{Receiver, Sender, bounded};
use frame::api::{DownRequest, SurveillanceStatus, down_patience};
use frame::code::Code;
use frame::declare::Frame;
use frame::event::Event;
use frame::root::Root;
use os::keep::{BEAT, Change, End, Keeper};
use os::notify;
use os::process::Identity;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Most requests that wait for the driver.
const QUEUE: usize = 64;
/// Most clients that wait for the frame to come down.
const MOST_WAITERS: usize = 64;
/// How often a manager that was never ready may end before the frame is given up.
const MOST_FIRST_FAILURES: u32 = 5;
/// Time to put the last events into the log.
const FLUSH: Duration = Duration::from_secs(2);
/// Pause after the host failed to say what happened.
const PAUSE: Duration = Duration::from_millis(100);

/// Why the frame is not down, or not in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotDown {
    /// It stays up; the reason.
    Refused(String),
    /// It cannot be brought down in order, and the service processor ends; the reason.
    Failed(String),
}

/// What a client of the API is told when the frame is down, or is not.
pub type DownReply = oneshot::Sender<Result<(), NotDown>>;

/// What reaches the driver.
#[derive(Debug)]
pub enum Message {
    /// Give the status.
    Status(oneshot::Sender<SurveillanceStatus>),
    /// Bring the frame down.
    Down(DownRequest, DownReply),
    /// The manager answered the request to go down.
    Answered(Answer),
    /// The manager's process ended.
    Wake,
}

/// What the driver is made of.
#[derive(Debug)]
pub struct Setup {
    /// Where the frame's things are.
    pub root: Root,
    /// The frame in force.
    pub frame: Frame,
    /// The manager's executable.
    pub manager: PathBuf,
    /// The event log.
    pub log: Log,
    /// Whether the frame is being brought up now, rather than watched on by a replacement.
    pub first: bool,
}

/// How the driver ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The frame is down.
    Down,
    /// The frame could not be brought up; the reason.
    NotUp(String),
    /// The frame could not be brought down in order; the reason.
    NotDown(String),
}

/// The driver's queue: requests go in at the left.
#[must_use]
pub fn queue() -> (Sender<Message>, Receiver<Message>) {
    bounded(QUEUE)
}

struct Going {
    deadline: Instant,
    immediate: bool,
    accepted: bool,
}

struct Driver {
    setup: Setup,
    keeper: Keeper,
    queue: Sender<Message>,
    replaced: u64,
    ever_ready: bool,
    failures: u32,
    going: Option<Going>,
    waiters: Vec<DownReply>,
}

/// Runs the driver until the frame is down. A manager that an earlier service processor left is adopted.
///
/// # Errors
/// When it cannot begin: the notification socket cannot be bound.
pub fn run(setup: Setup, queue: Sender<Message>, messages: &Receiver<Message>) -> Result<Outcome, Error> {
    let socket = setup.root.manager_notify_socket();
    let keeper = Keeper::new(&socket, Instant::now()).map_err(Error::file("bind", socket))?;
    let mut driver =
        Driver { setup, keeper, queue, replaced: 0, ever_ready: false, failures: 0, going: None, waiters: Vec::new() };
    driver.adopt();
    let outcome = driver.watch(messages);
    driver.finish(&outcome);
    Ok(outcome)
}

impl Driver {
    fn adopt(&mut self) {
        self.adopt_recorded();
        if self.keeper.pid().is_none() {
            self.adopt_listening();
        }
    }

    /// Takes over a manager that serves and that nobody wrote down: its service processor was lost just then, or
    /// had no room to write. It holds the frame, and another manager could not begin.
    fn adopt_listening(&mut self) {
        let Some(identity) = listening(&self.setup.root.manager_socket()) else { return };
        match self.keeper.adopt(&identity, Instant::now()) {
            Ok(true) => {
                self.ever_ready = true;
                tell(notify::READY);
                tracing::info!(pid = identity.pid, "took over a partition manager that nobody had written down");
                self.keep_record(identity);
                self.await_end();
            }
            Ok(false) => {}
            Err(error) => tracing::error!(%error, "cannot say whether the partition manager runs"),
        }
    }

    fn adopt_recorded(&mut self) {
        let Some(record) = Record::read(&self.setup.root.surveillance_record()) else { return };
        // What an earlier run of the frame left is no replacement of it.
        let goes_on = |driver: &mut Self| {
            driver.replaced = record.replaced;
            driver.ever_ready = record.ready;
        };
        match self.keeper.adopt(&record.manager, Instant::now()) {
            Ok(true) => {
                goes_on(self);
                tell(notify::READY);
                tracing::info!(pid = record.manager.pid, "took over the running partition manager");
                self.await_end();
            }
            Ok(false) if self.setup.first => {}
            Ok(false) => {
                goes_on(self);
                self.replaced += 1;
                self.lost(record.manager.pid, "it ended while no service processor watched");
            }
            Err(error) => tracing::error!(%error, "cannot say whether the partition manager runs"),
        }
    }

    fn watch(&mut self, messages: &Receiver<Message>) -> Outcome {
        let mut beaten: Option<Instant> = None;
        loop {
            let now = Instant::now();
            if beaten.is_none_or(|then| now.saturating_duration_since(then) >= BEAT) {
                beaten = Some(now);
                tell(notify::WATCHDOG);
            }
            let patience = self.keeper.patience(now).min(BEAT / 2);
            if let Ok(message) = messages.recv_timeout(patience) {
                self.take(message);
            }
            let (root, manager) = (&self.setup.root, &self.setup.manager);
            match self.keeper.look(Instant::now(), true, || Ok(command(root, manager))) {
                Ok(changes) => {
                    for change in changes {
                        if let Some(outcome) = self.changed(change) {
                            return outcome;
                        }
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "cannot watch the partition manager");
                    // Whatever it is, it must not become a busy loop.
                    std::thread::sleep(PAUSE);
                }
            }
            if self.going.as_ref().is_some_and(|going| Instant::now() > going.deadline) {
                return Outcome::NotDown("the partition manager did not bring the frame down in time".into());
            }
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Status(reply) => {
                // A client that left does not want to know.
                let _ = reply.send(self.status());
            }
            Message::Down(request, reply) => self.down(request, reply),
            Message::Answered(answer) => self.answered(answer),
            Message::Wake => {}
        }
    }

    fn status(&self) -> SurveillanceStatus {
        SurveillanceStatus {
            pid: std::process::id(),
            manager: self.keeper.pid(),
            manager_ready: self.keeper.is_ready(),
            replaced: self.replaced,
            events: self.setup.log.extent().borrow().count,
            going_down: self.going.is_some(),
        }
    }

    fn down(&mut self, request: DownRequest, reply: DownReply) {
        if self.waiters.len() >= MOST_WAITERS {
            let reason = "too many clients wait for the frame to come down already".into();
            let _ = reply.send(Err(NotDown::Refused(reason)));
            return;
        }
        self.waiters.push(reply);
        // The second request only matters when it asks for more than the first.
        if self.going.as_ref().is_some_and(|going| going.immediate || !request.immediate) {
            return;
        }
        // The manager may have been told of changes since.
        let frame = crate::applied::handed_over(&self.setup.root);
        let patience = down_patience(frame.as_ref().unwrap_or(&self.setup.frame), request.immediate);
        let (queue, socket) = (self.queue.clone(), self.setup.root.manager_socket());
        let asker = std::thread::Builder::new().name("down".into()).spawn(move || {
            let answer = down::ask(&socket, request, patience);
            // The driver is gone once the frame is down.
            let _ = queue.send(Message::Answered(answer));
        });
        match asker {
            Ok(_) => {
                let deadline = Instant::now() + patience;
                self.going = Some(Going { deadline, immediate: request.immediate, accepted: false });
                tracing::info!(immediate = request.immediate, "the frame is being brought down");
            }
            Err(error) => {
                let reason = format!("cannot start a thread to ask the partition manager: {error}");
                self.reply(&Err(NotDown::Refused(reason)));
            }
        }
    }

    fn answered(&mut self, answer: Answer) {
        match answer {
            Answer::Accepted => {
                if let Some(going) = &mut self.going {
                    going.accepted = true;
                }
            }
            Answer::Refused(reason) => {
                tracing::warn!(reason, "the partition manager refuses to bring the frame down");
                self.going = None;
                self.reply(&Err(NotDown::Refused(reason)));
            }
            // A manager that went away in the middle is replaced and asked no more; its deadline stands.
            Answer::Silent(reason) => tracing::warn!(reason, "the partition manager did not answer"),
        }
    }

    fn reply(&mut self, answer: &Result<(), NotDown>) {
        for waiter in self.waiters.drain(..) {
            // A client that left does not want to know.
            let _ = waiter.send(answer.clone());
        }
    }

    /// What follows from a change; an outcome when the driver is done.
    fn changed(&mut self, change: Change) -> Option<Outcome> {
        match change {
            Change::Started(identity) => {
                tracing::info!(pid = identity.pid, "started the partition manager");
                self.keep_record(identity);
                self.await_end();
            }
            Change::StartFailed(error) => {
                tracing::error!(%error, manager = %self.setup.manager.display(), "cannot start the partition manager");
                return self.failed(&format!("{} cannot be started: {error}", self.setup.manager.display()));
            }
            Change::Ready => {
                // The frame is under control once its manager is; whoever supervises waits for that.
                tell(notify::READY);
                self.ever_ready = true;
                self.failures = 0;
                if let Some(mut record) = Record::read(&self.setup.root.surveillance_record()) {
                    record.ready = true;
                    self.note(&record);
                }
            }
            Change::Stopping => {}
            Change::Hung(silent) => {
                let pid = self.keeper.pid().unwrap_or_default();
                let text = format!(
                    "The partition manager (process {pid}) did not answer for {} ms; it is killed and replaced.",
                    silent.as_millis()
                );
                let data = serde_json::json!({ "pid": pid, "silent_ms": silent.as_millis() as u64 });
                self.setup.log.raise(Event::new(Code::ManagerHung, Vec::new(), text).with_data(data));
            }
            Change::Ended { pid, end, stopping, hung, ready } => return self.ended(pid, end, stopping, hung, ready),
        }
        None
    }

    fn ended(&mut self, pid: u32, end: End, stopping: bool, hung: bool, ready: bool) -> Option<Outcome> {
        let accepted = self.going.as_ref().is_some_and(|going| going.accepted);
        let orderly = match end {
            End::Exited(0) => true,
            // One that said that it ends has nothing left to bring down: a frame is not begun again because its
            // manager hung over its own end.
            End::Unknown => stopping || (accepted && !hung),
            End::Signalled(_) => stopping && hung,
            End::Exited(_) => false,
        };
        if orderly {
            return Some(Outcome::Down);
        }
        // One that could not begin may have found another one in control.
        if let End::Exited(_) = end
            && !ready
        {
            self.adopt_listening();
            if self.keeper.pid().is_some() {
                return None;
            }
        }
        if !self.ever_ready && !ready {
            return self.failed(&format!("the partition manager did not come up: {end}"));
        }
        if !hung {
            self.lost(pid, &end.to_string());
        }
        self.replaced += 1;
        if let Some(going) = self.going.take() {
            // The next manager has to be asked again.
            let request = DownRequest { immediate: going.immediate };
            let waiters = std::mem::take(&mut self.waiters);
            let (reply, _) = oneshot::channel();
            self.down(request, reply);
            if let Some(again) = &mut self.going {
                again.deadline = going.deadline;
            }
            self.waiters = waiters;
        }
        None
    }

    /// Counts a manager that never came up.
    fn failed(&mut self, reason: &str) -> Option<Outcome> {
        if self.ever_ready {
            return None;
        }
        self.failures += 1;
        (self.failures >= MOST_FIRST_FAILURES).then(|| Outcome::NotUp(reason.to_owned()))
    }

    fn lost(&self, pid: u32, how: &str) {
        let text = format!("The service processor lost the partition manager (process {pid}): {how}; it is replaced.");
        let data = serde_json::json!({ "pid": pid, "end": how });
        self.setup.log.raise(Event::new(Code::ManagerLost, Vec::new(), text).with_data(data));
    }

    fn keep_record(&self, manager: Identity) {
        self.note(&Record { manager, replaced: self.replaced, ready: self.ever_ready });
    }

    fn note(&self, record: &Record) {
        if let Err(error) = record.write(&self.setup.root.surveillance_record()) {
            tracing::error!(%error, "a service processor that replaces this one will not know the manager");
        }
    }

    /// Makes the end of the manager's process wake the driver at once.
    fn await_end(&self) {
        let Some(end) = self.keeper.descriptors().get(1).map(|end| end.as_fd().try_clone_to_owned()) else { return };
        let queue = self.queue.clone();
        let waiter = end.and_then(|end| {
            std::thread::Builder::new().name("end".into()).spawn(move || {
                if os::process::readable(&end, None).is_ok() {
                    // A full queue wakes the driver as well.
                    let _ = queue.try_send(Message::Wake);
                }
            })
        });
        if let Err(error) = waiter {
            tracing::warn!(%error, "the manager's end will be seen a little later");
        }
    }

    fn finish(&mut self, outcome: &Outcome) {
        tell(notify::STOPPING);
        let answer = match outcome {
            Outcome::Down => {
                let how = if self.going.as_ref().is_some_and(|going| going.immediate) { "at once" } else { "in order" };
                let text = format!("The frame {} was brought down {how}.", self.setup.frame.name);
                self.setup.log.raise(Event::new(Code::FrameDown, Vec::new(), text));
                Ok(())
            }
            Outcome::NotUp(reason) | Outcome::NotDown(reason) => {
                self.keeper.hold();
                if let Err(error) = self.keeper.kill() {
                    tracing::error!(%error, "cannot end the partition manager");
                }
                Err(NotDown::Failed(reason.clone()))
            }
        };
        if !self.setup.log.close(FLUSH) {
            tracing::error!("the last events could not be put into the log");
        }
        self.reply(&answer);
        let root = &self.setup.root;
        for path in [root.surveillance_record(), root.manager_notify_socket()] {
            // Whoever cleans up the run directory finds it otherwise.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The process that listens at `socket`; none when nobody does. Whoever made the socket listen is meant
/// (`SO_PEERCRED`, `unix(7)`).
fn listening(socket: &std::path::Path) -> Option<Identity> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let connection = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).ok()?;
    connect(&connection, &SocketAddrUnix::new(socket).ok()?).ok()?;
    let peer = rustix::net::sockopt::socket_peercred(&connection).ok()?;
    // Only one of this user's own, or the superuser's, can be the frame's.
    let own = rustix::process::geteuid();
    if peer.uid != own && !peer.uid.is_root() {
        return None;
    }
    Identity::of(u32::try_from(peer.pid.as_raw_pid()).ok()?).ok()
}

fn command(root: &Root, manager: &PathBuf) -> Command {
    let mut command = Command::new(manager);
    command.arg("run").arg("--run").arg(&root.run).arg("--state").arg(&root.state).stdin(Stdio::null());
    command
}

/// Tells the parent; one that is gone has nothing to be told.
pub fn tell(what: &str) {
    if let Err(error) = notify::tell(what) {
        tracing::debug!(%error, "the parent cannot be told");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_listens_is_known() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        assert_eq!(listening(&path), None);
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert_eq!(listening(&path), Some(Identity::of(std::process::id()).unwrap()));
        drop(listener);
        assert_eq!(listening(&path), None);
    }
}
