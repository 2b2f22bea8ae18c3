//! Keeping one daemon alive: a parent starts it, hears of its death at once and of its silence in time, and
//! starts the next one only when the last is surely gone.
//!
//! The judgement ([`Pulse`], [`Backoff`]) is plain arithmetic on the caller's clock. [`Keeper`] acts on it and
//! never waits: its owner calls [`Keeper::look`] whenever [`Keeper::descriptors`] are readable or
//! [`Keeper::patience`] is over.

use crate::notify::Listener;
use crate::process::{Handle, Identity};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, wait, waitpid};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// How often a daemon says that it answers (`WATCHDOG=1`).
pub const BEAT: Duration = Duration::from_millis(500);
/// Silence after which a daemon that was ready is called hung.
pub const SILENCE: Duration = Duration::from_secs(2);
/// Silence after which a daemon that said that it ends is called hung.
pub const STOPPING_SILENCE: Duration = Duration::from_secs(10);
/// Silence after which a daemon that is not ready yet is called hung.
pub const START_SILENCE: Duration = Duration::from_secs(20);
/// A daemon that ends before this age died young: the next one waits longer.
pub const YOUNG: Duration = Duration::from_secs(10);
/// First delay before a new start.
pub const FIRST_DELAY: Duration = Duration::from_millis(5);
/// Longest delay before a new start.
pub const LONGEST_DELAY: Duration = Duration::from_secs(2);
/// Longest delay before a new start after a daemon that had been ready: it may have been killed for no fault of
/// its own, and what it is for waits.
pub const READY_DELAY: Duration = Duration::from_millis(320);

/// The judgement whether a daemon answers.
#[derive(Clone, Debug)]
pub struct Pulse {
    ready: bool,
    stopping: bool,
    heard: Instant,
    looked: Instant,
}

impl Pulse {
    /// A daemon that is given its full time from `now` on.
    #[must_use]
    pub const fn new(now: Instant, ready: bool) -> Self {
        Self { ready, stopping: false, heard: now, looked: now }
    }

    /// Judges at `now`, after everything that arrived was taken: true when the daemon is hung.
    ///
    /// A parent that did not look for a while was stopped or starved itself, and the daemon perhaps with it;
    /// it then begins to count anew instead of blaming the daemon for its own absence.
    pub fn is_hung(&mut self, now: Instant, heard: bool, ready: bool) -> bool {
        let absent = now.saturating_duration_since(self.looked) > SILENCE / 2;
        self.looked = now;
        self.ready |= ready;
        if heard || absent {
            self.heard = now;
        }
        now.saturating_duration_since(self.heard) > self.allowance()
    }

    /// Whether the daemon said that it serves.
    #[must_use]
    pub const fn is_ready(&self) -> bool {
        self.ready
    }

    /// The daemon said that it ends: it may say nothing more, and has some time for what is left to do.
    pub const fn stops(&mut self) {
        self.stopping = true;
    }

    const fn allowance(&self) -> Duration {
        match (self.stopping, self.ready) {
            (true, _) => STOPPING_SILENCE,
            (false, true) => SILENCE,
            (false, false) => START_SILENCE,
        }
    }
}

/// The delay before the next start: 5 ms, doubled up to 2 s while daemons die young, less after one that was ready.
#[derive(Clone, Debug)]
pub struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: FIRST_DELAY }
    }
}

impl Backoff {
    /// The delay after a daemon that lived for `age`, and was `ready` or never was.
    pub fn after(&mut self, age: Duration, ready: bool) -> Duration {
        if age >= YOUNG {
            self.next = FIRST_DELAY;
        }
        let delay = if ready { self.next.min(READY_DELAY) } else { self.next };
        self.next = (delay * 2).min(LONGEST_DELAY);
        delay
    }
}

/// How a daemon ended, as far as its parent can know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It ended with this exit status.
    Exited(i32),
    /// This signal ended it.
    Signalled(i32),
    /// It was another process's child.
    Unknown,
}

impl End {
    fn of(status: WaitStatus) -> Self {
        match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Self::Exited(code),
            (None, Some(signal)) => Self::Signalled(signal),
            (None, None) => Self::Unknown,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "it ended with exit status {code}"),
            Self::Signalled(signal) => write!(f, "signal {signal} ended it"),
            Self::Unknown => f.write_str("how it ended is not known"),
        }
    }
}

/// What a look found.
#[derive(Debug)]
pub enum Change {
    /// A new process was started.
    Started(Identity),
    /// No process could be started; it will be tried again.
    StartFailed(io::Error),
    /// It said that it serves.
    Ready,
    /// It said that it ends because it was asked to.
    Stopping,
    /// It did not answer for this long and was killed; [`Change::Ended`] follows.
    Hung(Duration),
    /// It is gone.
    Ended {
        /// Its process number.
        pid: u32,
        /// How it ended.
        end: End,
        /// Whether it had said that it ends because it was asked to.
        stopping: bool,
        /// Whether it had been called hung.
        hung: bool,
        /// Whether it ever said that it serves.
        ready: bool,
    },
}

#[derive(Debug)]
struct Kept {
    identity: Identity,
    handle: Handle,
    /// Whether it is a child of this process and must be waited for.
    child: bool,
    started: Instant,
    pulse: Pulse,
    stopping: bool,
    killed: bool,
    /// How it ended, when it was waited for already.
    end: Option<End>,
}

/// One daemon and its notification socket.
#[derive(Debug)]
pub struct Keeper {
    listener: Listener,
    kept: Option<Kept>,
    due: Option<Instant>,
    backoff: Backoff,
}

impl Keeper {
    /// Binds the notification socket at `path`. Nothing runs until [`Keeper::adopt`] or the first
    /// [`Keeper::look`].
    ///
    /// # Errors
    /// The error of the system call that failed.
    pub fn new(path: &Path, now: Instant) -> io::Result<Self> {
        Ok(Self { listener: Listener::bind(path)?, kept: None, due: Some(now), backoff: Backoff::default() })
    }

    /// Takes over a daemon that an earlier parent started; false when that very process is gone.
    ///
    /// # Errors
    /// When the host cannot say.
    pub fn adopt(&mut self, identity: &Identity, now: Instant) -> io::Result<bool> {
        let Some(handle) = identity.open()? else { return Ok(false) };
        if handle.wait(Duration::ZERO)? {
            return Ok(false);
        }
        // It was started by somebody who had time to wait for it; from here on it has to answer.
        let pulse = Pulse::new(now, true);
        let identity = identity.clone();
        self.kept = Some(Kept {
            identity,
            handle,
            child: false,
            started: now,
            pulse,
            stopping: false,
            killed: false,
            end: None,
        });
        self.due = None;
        Ok(true)
    }

    /// Process number of the daemon; none while there is none.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.kept.as_ref().map(|kept| kept.identity.pid)
    }

    /// Whether the daemon said that it serves.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.kept.as_ref().is_some_and(|kept| kept.pulse.is_ready() && !kept.killed)
    }

    /// Starts no process any more. The one that runs is watched on.
    pub fn hold(&mut self) {
        self.due = None;
    }

    /// Starts processes again after [`Keeper::hold`].
    pub fn release(&mut self, now: Instant) {
        if self.kept.is_none() && self.due.is_none() {
            self.due = Some(now);
        }
    }

    /// Kills the daemon; [`Change::Ended`] follows.
    ///
    /// # Errors
    /// When the caller may not.
    pub fn kill(&mut self) -> io::Result<()> {
        match &mut self.kept {
            Some(kept) => {
                kept.killed = true;
                kept.handle.signal(Signal::KILL)
            }
            None => Ok(()),
        }
    }

    /// Looks at what happened and does what is due. `command` makes the command to start; the keeper adds the
    /// environment of a watched daemon to it.
    ///
    /// `restart` says whether a daemon that ends is to be started again.
    ///
    /// # Errors
    /// When the host cannot say what happened.
    pub fn look(
        &mut self,
        now: Instant,
        restart: bool,
        mut command: impl FnMut() -> io::Result<Command>,
    ) -> io::Result<Vec<Change>> {
        let mut changes = Vec::new();
        // Everything that arrived is taken before anything is judged. Of a daemon that is gone it says
        // nothing about the next one.
        let mut said = self.listener.drain()?;
        if let Some(kept) = &mut self.kept {
            let gone = kept.handle.wait(Duration::ZERO)?;
            if gone {
                // Its last words may have come between the two looks; they are not the next one's.
                said = said.and(self.listener.drain()?);
            }
            if said.stopping && !kept.stopping {
                kept.stopping = true;
                kept.pulse.stops();
                changes.push(Change::Stopping);
            }
            if said.ready && !kept.pulse.is_ready() {
                changes.push(Change::Ready);
            }
            let silent = now.saturating_duration_since(kept.pulse.heard);
            let hung = kept.pulse.is_hung(now, said.alive || said.ready || said.stopping, said.ready);
            if gone {
                let end = match kept.end {
                    Some(end) => end,
                    None if kept.child => reap(kept.identity.pid)?,
                    None => End::Unknown,
                };
                changes.push(Change::Ended {
                    pid: kept.identity.pid,
                    end,
                    stopping: kept.stopping,
                    hung: kept.killed,
                    ready: kept.pulse.is_ready(),
                });
                let ready = kept.pulse.is_ready();
                let delay = self.backoff.after(now.saturating_duration_since(kept.started), ready);
                self.kept = None;
                self.due = restart.then(|| now + delay);
            } else if hung && !kept.killed {
                kept.killed = true;
                kept.handle.signal(Signal::KILL)?;
                changes.push(Change::Hung(silent));
            }
        }
        if self.kept.is_none() && self.due.is_some_and(|due| due <= now) {
            changes.push(match command().and_then(|command| self.start(command, now)) {
                Ok(identity) => Change::Started(identity),
                Err(error) => {
                    self.due = Some(now + self.backoff.after(Duration::ZERO, false));
                    Change::StartFailed(error)
                }
            });
        }
        Ok(changes)
    }

    fn start(&mut self, mut command: Command, now: Instant) -> io::Result<Identity> {
        let microseconds = SILENCE.as_micros().to_string();
        command.env(crate::notify::VARIABLE, self.path()?).env("WATCHDOG_USEC", microseconds);
        let child = command.spawn()?;
        let pid = child.id();
        // The process is this one's child and not waited for yet: its number cannot be another's.
        let held = Handle::open(pid).and_then(|handle| Ok((handle, Identity::of(pid)?)));
        let (handle, identity) = match held {
            Ok((Some(handle), identity)) => (handle, identity),
            other => {
                let mut child = child;
                let _ = child.kill();
                let _ = child.wait();
                return Err(other.err().unwrap_or_else(|| io::Error::other("the new process cannot be held")));
            }
        };
        let pulse = Pulse::new(now, false);
        self.kept = Some(Kept {
            identity: identity.clone(),
            handle,
            child: true,
            started: now,
            pulse,
            stopping: false,
            killed: false,
            end: None,
        });
        self.due = None;
        Ok(identity)
    }

    fn path(&self) -> io::Result<std::ffi::OsString> {
        use std::os::unix::ffi::OsStringExt;
        let address = rustix::net::SocketAddrUnix::try_from(rustix::net::getsockname(self.listener.as_fd())?)?;
        let bytes = address.path().ok_or_else(|| io::Error::other("the notification socket has no path"))?;
        Ok(std::ffi::OsString::from_vec(bytes.to_bytes().to_vec()))
    }

    /// Waits for every child of this process that has ended: for an owner that adopts orphans. How the daemon
    /// ended is kept for the next look.
    pub fn reap_all(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if let Some(kept) =
                self.kept.as_mut().filter(|kept| u32::try_from(pid.as_raw_pid()) == Ok(kept.identity.pid))
            {
                kept.end = Some(End::of(status));
            }
        }
    }

    /// What wakes the owner: the notification socket, and the daemon's end.
    #[must_use]
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let end = self.kept.as_ref().map(|kept| kept.handle.descriptor().as_fd());
        std::iter::once(self.listener.as_fd()).chain(end).collect()
    }

    /// For how long the owner may sleep.
    #[must_use]
    pub fn patience(&self, now: Instant) -> Duration {
        let due = self.due.map_or(BEAT, |due| due.saturating_duration_since(now));
        // An owner that cannot wait on the descriptors hears soon enough that the daemon is ready.
        let starts = self.kept.as_ref().is_some_and(|kept| !kept.pulse.is_ready());
        due.min(if starts { BEAT / 20 } else { BEAT })
    }
}

/// Waits for a child that has ended. Somebody who waits for all children may have been faster.
fn reap(pid: u32) -> io::Result<End> {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(End::Unknown) };
    loop {
        match waitpid(Some(pid), WaitOptions::NOHANG) {
            Ok(Some((_, status))) => return Ok(End::of(status)),
            Ok(None) | Err(rustix::io::Errno::CHILD) => return Ok(End::Unknown),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    const TICK: Duration = Duration::from_millis(250);

    #[test]
    fn silence_is_judged_by_the_allowance() {
        let start = Instant::now();
        let mut pulse = Pulse::new(start, false);
        let mut now = start;
        while now <= start + START_SILENCE {
            assert!(!pulse.is_hung(now, false, false));
            now += TICK;
        }
        assert!(pulse.is_hung(now, false, false));

        let mut pulse = Pulse::new(start, false);
        let mut now = start + TICK;
        assert!(!pulse.is_hung(now, true, true));
        for _ in 0..SILENCE.as_millis() / TICK.as_millis() {
            now += TICK;
            assert!(!pulse.is_hung(now, false, false));
        }
        assert!(pulse.is_hung(now + TICK, false, false));
    }

    #[test]
    fn a_daemon_that_hangs_over_its_end_is_hung() {
        let start = Instant::now();
        let mut pulse = Pulse::new(start, true);
        pulse.stops();
        let mut now = start;
        while now <= start + STOPPING_SILENCE {
            assert!(!pulse.is_hung(now, false, false), "it has time to end");
            now += TICK;
        }
        assert!(pulse.is_hung(now, false, false));
    }

    #[test]
    fn a_parent_that_was_away_does_not_blame_the_daemon() {
        let start = Instant::now();
        let mut pulse = Pulse::new(start, true);
        assert!(!pulse.is_hung(start + TICK, true, false));
        let back = start + Duration::from_secs(3600);
        assert!(!pulse.is_hung(back, false, false));
        assert!(!pulse.is_hung(back + SILENCE / 2, false, false));
        // But one that stays silent under its parent's eyes is hung.
        let mut now = back + SILENCE / 2;
        let mut hung = false;
        for _ in 0..20 {
            now += TICK;
            hung |= pulse.is_hung(now, false, false);
        }
        assert!(hung);
    }

    #[test]
    fn delays_double_while_daemons_die_young() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.after(Duration::ZERO, false), FIRST_DELAY);
        assert_eq!(backoff.after(Duration::ZERO, true), FIRST_DELAY * 2);
        for _ in 0..20 {
            backoff.after(Duration::from_secs(1), false);
        }
        assert_eq!(backoff.after(Duration::from_secs(1), false), LONGEST_DELAY);
        assert_eq!(backoff.after(Duration::from_secs(1), true), READY_DELAY);
        assert_eq!(backoff.after(YOUNG, true), FIRST_DELAY);
    }

    /// Looks until `wanted` is among the changes, waiting on what the keeper waits on.
    fn until(keeper: &mut Keeper, script: &str, restart: bool, wanted: fn(&Change) -> bool) -> Vec<Change> {
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut all = Vec::new();
        while Instant::now() < deadline {
            let command = || {
                let mut command = Command::new("/bin/sh");
                command.arg("-c").arg(script);
                Ok(command)
            };
            let changes = keeper.look(Instant::now(), restart, command).unwrap();
            let found = changes.iter().any(wanted);
            all.extend(changes);
            if found {
                return all;
            }
            let patience = keeper.patience(Instant::now());
            let descriptors = keeper.descriptors();
            let mut polled: Vec<PollFd<'_>> = descriptors.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
            poll(&mut polled, Some(&Timespec::try_from(patience).unwrap())).unwrap();
        }
        panic!("it did not happen; instead {all:?}");
    }

    #[test]
    fn the_dead_are_replaced_and_the_living_adopted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("n");
        let mut keeper = Keeper::new(&path, Instant::now()).unwrap();
        let changes = until(&mut keeper, "exit 7", true, |change| matches!(change, Change::Ended { .. }));
        assert!(matches!(changes.last(), Some(Change::Ended { end: End::Exited(7), hung: false, .. })), "{changes:?}");
        let changes = until(&mut keeper, "exec sleep 1000", true, |change| matches!(change, Change::Started(_)));
        let Some(Change::Started(identity)) = changes.last() else { panic!("{changes:?}") };

        let mut other = Keeper::new(&path, Instant::now()).unwrap();
        assert!(other.adopt(identity, Instant::now()).unwrap());
        assert_eq!(other.pid(), Some(identity.pid));
        other.kill().unwrap();
        let changes = until(&mut other, "exit 0", false, |change| matches!(change, Change::Ended { .. }));
        assert!(matches!(changes.last(), Some(Change::Ended { end: End::Unknown, .. })), "{changes:?}");
        assert_eq!(other.pid(), None);
        // Its parent must wait for it before its number is free.
        until(&mut keeper, "exit 0", false, |change| matches!(change, Change::Ended { end: End::Signalled(9), .. }));
        assert!(!other.adopt(identity, Instant::now()).unwrap());
    }

    #[test]
    fn a_daemon_that_falls_silent_is_killed() {
        let directory = tempfile::tempdir().unwrap();
        let mut keeper = Keeper::new(&directory.path().join("n"), Instant::now()).unwrap();
        until(&mut keeper, "exec sleep 1000", true, |change| matches!(change, Change::Started(_)));
        // Told on its behalf that it is ready; then it says nothing.
        let sender = std::os::unix::net::UnixDatagram::unbound().unwrap();
        sender.send_to(b"READY=1", directory.path().join("n")).unwrap();
        until(&mut keeper, "", false, |change| matches!(change, Change::Ready));
        let changes = until(&mut keeper, "", false, |change| matches!(change, Change::Ended { .. }));
        assert!(matches!(&changes[..], [Change::Hung(silent), Change::Ended { hung: true, .. }] if *silent > SILENCE));
    }

    #[test]
    fn what_cannot_be_started_is_tried_again() {
        let directory = tempfile::tempdir().unwrap();
        let mut keeper = Keeper::new(&directory.path().join("n"), Instant::now()).unwrap();
        let mut now = Instant::now();
        for _ in 0..3 {
            let changes = keeper.look(now, true, || Ok(Command::new("/nowhere/at-all"))).unwrap();
            assert!(matches!(&changes[..], [Change::StartFailed(_)]));
            assert!(keeper.look(now, true, || Ok(Command::new("/nowhere/at-all"))).unwrap().is_empty());
            now += LONGEST_DELAY;
        }
    }
}
