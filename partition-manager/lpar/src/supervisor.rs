//! The supervisor: keeps the service processor alive while the frame is up, and leaves nothing behind.
//!
//! It is the ancestor of everything that runs for the frame: whatever loses its parent becomes its child
//! (`PR_SET_CHILD_SUBREAPER`, `prctl(2)`), so that it can wait for all of it, and end it as a last resort.

mod clean;
mod leftovers;
mod log;

pub use clean::clean;
pub use log::{Log, open as open_log, tail, tail_of};

use crate::failure::{Outcome, refuse};
use crate::host;
use crate::lock::{Holder, Lock};
use crate::remarks::Remarks;
use crate::sockets;
use anyhow::Context;
use frame::api::{DOWN, DownRequest, NOT_DOWN, down_patience};
use frame::declare::Frame;
use frame::name::Name;
use frame::root::Root;
use os::claim::{self, Claim, Claimant};
use os::http::{Client, HttpError};
use os::keep::{Change, End, Keeper};
use os::process::Identity;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};
use std::collections::BTreeSet;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// Time beyond the service processor's own that bringing the frame down may take.
const GRACE: Duration = Duration::from_secs(15);
/// Time for bringing the frame down when it is not known how long its partitions may take.
const UNKNOWN: Duration = Duration::from_secs(60);
/// How long processes may take to end by themselves once the frame is down.
const ORDERLY_END: Duration = Duration::from_secs(2);
/// How long until a service processor that was away is asked again.
const AGAIN: Duration = Duration::from_millis(50);

/// What is to be supervised.
#[derive(Debug)]
pub struct Job {
    /// Where the frame's things are.
    pub root: Root,
    /// The frame's name.
    pub frame: Name,
    /// The frame file; without it, a frame that was left is brought down.
    pub file: Option<PathBuf>,
    /// Where the daemons' messages go.
    pub log: Log,
    /// Where the supervisor's own remarks go.
    pub remarks: Remarks,
    /// The CPUs that the frame claims; none when a frame that was left is only brought down.
    pub claim: Option<Claimant>,
    /// Whether a frame that was left is brought down, and how.
    pub down: Option<DownRequest>,
}

/// A supervisor that holds the lock and can begin.
#[derive(Debug)]
pub struct Supervisor {
    job: Job,
    lock: Lock,
    /// Daemons that it starts inherit it; partitions have their own.
    claim: Option<Claim>,
    signals: Signals,
    binary: PathBuf,
    /// Children that this process had before it supervised anything.
    spared: BTreeSet<u32>,
}

/// Signals, one byte each, in the order of their coming.
#[derive(Debug)]
struct Signals {
    end: UnixStream,
    child: UnixStream,
}

impl Signals {
    fn take() -> std::io::Result<Self> {
        let (end, end_sender) = UnixStream::pair()?;
        let (child, child_sender) = UnixStream::pair()?;
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            // `nohup` asks for nothing to happen when the terminal goes.
            if signal == SIGHUP && ignored(signal) {
                continue;
            }
            signal_hook::low_level::pipe::register(signal, end_sender.try_clone()?)?;
        }
        signal_hook::low_level::pipe::register(SIGCHLD, child_sender)?;
        end.set_nonblocking(true)?;
        child.set_nonblocking(true)?;
        Ok(Self { end, child })
    }

    /// How many requests to end came since the last call.
    fn ends(&mut self) -> usize {
        let mut bytes = [0; 64];
        while self.child.read(&mut bytes).is_ok_and(|length| length > 0) {}
        self.end.read(&mut bytes).unwrap_or_default()
    }
}

/// Claims CPUs, in such a way that the daemons hold the claim too.
fn claim_cpus(claimant: &Claimant) -> Outcome<Claim> {
    let claim = Claim::take(&claim::directory()?, claimant)?;
    claim.inherit().context("the daemons cannot hold the claim on the CPUs")?;
    Ok(claim)
}

/// Whether this process was started with a signal ignored (`proc(5)`, `/proc/pid/status`, `SigIgn`).
fn ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
    u32::try_from(signal - 1).is_ok_and(|bit| mask.checked_shr(bit).unwrap_or_default() & 1 == 1)
}

/// Where the frame is in its life.
#[derive(Debug)]
struct Course {
    /// Whether it is still coming up.
    first: bool,
    /// How it is being brought down.
    going: Option<Going>,
}

/// How the frame is being brought down.
#[derive(Clone, Copy, Debug)]
struct Going {
    immediate: bool,
    deadline: Instant,
}

impl Supervisor {
    /// Takes the lock and everything else that can fail; none when somebody else holds the lock. Nothing
    /// runs yet.
    ///
    /// # Errors
    /// When the run directory cannot be used, or another frame has the CPUs.
    pub fn new(job: Job) -> Outcome<Option<Self>> {
        let run = &job.root.run;
        os::private::make(run)?;
        let path = job.root.lock();
        let lock = Lock::take(&path).with_context(|| format!("cannot lock {}", path.display()))?;
        let Some(lock) = lock else { return Ok(None) };
        let claim = match job.claim.as_ref().map(claim_cpus).transpose() {
            Ok(claim) => claim,
            Err(error) => {
                // What an earlier run left is not this one's to remove.
                if sockets::held_below(&job.root.run).is_empty() && !job.root.manager_database().exists() {
                    clean(&job.root, lock);
                }
                return Err(error);
            }
        };
        let binary = host::binary("service-processor")?;
        let signals = Signals::take().context("cannot take signals")?;
        Ok(Some(Self { job, lock, claim, signals, binary, spared: leftovers::children() }))
    }

    /// Keeps the frame up until it is brought down, then removes what is left of it.
    ///
    /// # Errors
    /// When the frame did not come up, or did not come down in order.
    pub fn run(mut self) -> Outcome {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .context("cannot become the parent of orphans")?;
        let result = self.supervise();
        // Whatever happened, nothing stays: what is left of an orderly end is nothing.
        let grace = if result.is_ok() { ORDERLY_END } else { Duration::ZERO };
        let left = leftovers::end_all(&self.job.root, &self.spared, grace);
        if let Ok(()) = &result
            && left > 0
        {
            self.say(format!("note: {left} processes of the frame were left and were ended"));
        }
        clean(&self.job.root, self.lock);
        if let Some(claim) = self.claim.take() {
            claim.remove();
        }
        // Claims of daemons and partitions that were killed. Where there is no place for claims there are none.
        let _ = claim::directory().and_then(|directory| claim::sweep(&directory));
        result
    }

    fn supervise(&mut self) -> Outcome {
        let before = Holder::read(&self.job.root.lock()).and_then(|holder| holder.service_processor);
        match self.note(before.clone()) {
            // What runs already is not ended for that.
            Err(error) if before.is_some() => self.say(format!("error: {error}")),
            noted => noted?,
        }
        if self.job.file.is_some() && sockets::held_below(&self.job.root.run).is_empty() {
            clean::retire_journal(&self.job.root);
        }
        let socket = self.job.root.service_processor_notify_socket();
        let mut keeper =
            Keeper::new(&socket, Instant::now()).with_context(|| format!("cannot listen at {}", socket.display()))?;
        let mut course = Course { first: true, going: None };
        if let Some(before) = before
            && keeper.adopt(&before, Instant::now()).context("cannot say whether the service processor runs")?
        {
            course.first = false;
            self.say(format!("note: the frame {} ran without a supervisor; it is supervised again", self.job.frame));
        }
        let (answers, answered) = sync_channel(8);
        if let Some(request) = self.job.down {
            course.going = Some(self.go(request.immediate, &answers));
        }
        loop {
            self.wait(&keeper)?;
            for _ in 0..self.signals.ends() {
                course.going = self.ended_by(course.going, &answers);
            }
            if let Ok(reason) = answered.try_recv() {
                self.say(format!("error: the frame {} stays up: {reason}", self.job.frame));
                course.going = None;
            }
            let file = self.job.file.as_ref().filter(|_| course.first);
            let changes = keeper
                .look(Instant::now(), true, || Ok(self.command(file)))
                .context("cannot watch the service processor")?;
            for change in changes {
                if self.changed(change, &mut course)? {
                    return Ok(());
                }
            }
            if course.going.is_some_and(|going| Instant::now() > going.deadline) {
                refuse!("the frame {} did not come down in time and was stopped", self.job.frame);
            }
            keeper.reap_all();
            self.job.log.bound();
        }
    }

    /// What a signal to end leads to: first the orderly way, then the other.
    fn ended_by(&self, going: Option<Going>, answers: &SyncSender<String>) -> Option<Going> {
        match going {
            None => {
                self.say(format!(
                    "the frame {} is being brought down; Ctrl-C once more stops it at once",
                    self.job.frame
                ));
                Some(self.go(false, answers))
            }
            Some(Going { immediate: false, .. }) => {
                self.say("the partitions are stopped at once".into());
                Some(self.go(true, answers))
            }
            immediate => immediate,
        }
    }

    /// What follows from a change; true when the frame is down.
    fn changed(&mut self, change: Change, course: &mut Course) -> Outcome<bool> {
        match change {
            Change::Started(identity) => {
                // A full disk is no reason to end a frame.
                if let Err(error) = self.note(Some(identity)) {
                    self.say(format!(
                        "error: {error}; a supervisor that replaces this one will not know the service processor"
                    ));
                }
            }
            Change::Ready => course.first = false,
            Change::StartFailed(error) if course.first => {
                refuse!("{} cannot be started: {error}", self.binary.display())
            }
            Change::StartFailed(error) => {
                self.say(format!("error: the service processor cannot be started: {error}"));
            }
            Change::Hung(silent) => self.say(format!(
                "note: the service processor did not answer for {} ms and is replaced; the partitions run on",
                silent.as_millis()
            )),
            Change::Stopping => {}
            Change::Ended { stopping: true, hung: true, .. } => refuse!(
                "the service processor of frame {} did not end and was killed; what was left was ended",
                self.job.frame
            ),
            Change::Ended { end: End::Exited(0), .. } => return Ok(true),
            Change::Ended { end: End::Unknown, stopping: true, .. } => return Ok(true),
            Change::Ended { end, hung, .. } => {
                let gave_up = matches!(end, End::Exited(_));
                let reason = || self.job.log.reason();
                if gave_up && course.first {
                    refuse!("the frame {} did not come up{}", self.job.frame, reason());
                }
                if end == End::Exited(NOT_DOWN.into()) || (gave_up && course.going.is_some()) {
                    refuse!("the frame {} did not come down in order and was stopped{}", self.job.frame, reason());
                }
                if !hung {
                    self.say(format!(
                        "note: the service processor was lost ({end}) and is replaced; the partitions run on"
                    ));
                }
            }
        }
        Ok(false)
    }

    fn say(&self, remark: String) {
        self.job.remarks.say(remark);
    }

    /// Writes into the lock who supervises what.
    fn note(&mut self, service_processor: Option<Identity>) -> Outcome {
        let holder = Holder {
            supervisor: Identity::of(std::process::id()).context("cannot tell who this process is")?,
            frame: self.job.frame.clone(),
            file: self.job.file.clone(),
            service_processor,
        };
        Ok(self.lock.note(&holder).context("cannot write into the lock")?)
    }

    fn command(&self, file: Option<&PathBuf>) -> Command {
        let root = &self.job.root;
        let mut command = Command::new(&self.binary);
        command.arg("run").arg("--run").arg(&root.run).arg("--state").arg(&root.state);
        if let Some(file) = file {
            command.arg("--file").arg(file);
        }
        // In a group of its own it does not get the Ctrl-C that is meant for the supervisor.
        command.stdin(Stdio::null()).process_group(0);
        self.job.log.redirect(&mut command);
        command
    }

    fn wait(&self, keeper: &Keeper) -> Outcome {
        let mut polled =
            vec![PollFd::new(&self.signals.end, PollFlags::IN), PollFd::new(&self.signals.child, PollFlags::IN)];
        let descriptors = keeper.descriptors();
        polled.extend(descriptors.iter().map(|descriptor| PollFd::new(descriptor, PollFlags::IN)));
        let patience = Timespec::try_from(keeper.patience(Instant::now())).context("cannot wait")?;
        match poll(&mut polled, Some(&patience)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(errno).context("cannot wait")?,
        }
    }

    /// Asks the service processor to bring the frame down, from a thread that may wait for it.
    fn go(&self, immediate: bool, answers: &SyncSender<String>) -> Going {
        let patience = patience(&self.job.root, immediate);
        let deadline = Instant::now() + patience;
        let (socket, answers) = (self.job.root.service_processor_socket(), answers.clone());
        let asker = std::thread::Builder::new().name("down".into()).spawn(move || {
            loop {
                let left = deadline.saturating_duration_since(Instant::now());
                let request = DownRequest { immediate };
                match Client::new(&socket, left).post::<_, serde_json::Value>(DOWN, &request) {
                    Err(HttpError::Refused { status: 409, message }) => {
                        // The supervisor is gone once the frame is down.
                        let _ = answers.send(message);
                        return;
                    }
                    Err(error) if error.is_away() || matches!(error, HttpError::Refused { status: 503, .. }) => {
                        if left.is_zero() {
                            return;
                        }
                        std::thread::sleep(AGAIN);
                    }
                    // The end of the service processor says that it is done; the deadline, that it is not.
                    _ => return,
                }
            }
        });
        if let Err(error) = asker {
            self.say(format!("error: the service processor cannot be asked ({error}); the partitions are stopped"));
            return Going { immediate, deadline: Instant::now() };
        }
        Going { immediate, deadline: deadline + GRACE }
    }
}

/// How long the service processor may take to bring the frame down: as it reckons, from the frame in force.
#[must_use]
pub fn patience(root: &Root, immediate: bool) -> Duration {
    let frame = std::fs::read(root.applied_frame()).ok().and_then(|text| serde_json::from_slice::<Frame>(&text).ok());
    frame.map_or(UNKNOWN, |frame| down_patience(&frame, immediate))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_known() {
        // The runtime of Rust ignores SIGPIPE before anything else runs.
        assert!(ignored(signal_hook::consts::SIGPIPE));
        assert!(!ignored(SIGTERM));
    }
}
