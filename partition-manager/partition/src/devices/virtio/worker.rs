//! The thread of a device: it waits for the driver and for what is behind the device, and does the work.
//!
//! It is there from launch, so that it stands where the partition's device threads belong, and not where the
//! virtual processor that starts the device is. A stop is asked for and seen later: no virtual processor waits
//! for a slow backend.

use super::freezer::Freezer;
use super::ring::Ring;
use crate::devices::pci::freeze::Fault;
use crate::jail::{self, Class};
use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::event::epoll;
use rustix::io::Errno;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use vmm_sys_util::eventfd::EventFd;

/// Stack of a device's thread, bytes.
const STACK: usize = 256 << 10;
/// Commands that can wait: a start and a stop.
const COMMANDS: usize = 4;
/// How often a queue is looked at before other events have their turn.
const PASSES: usize = 32;
/// Events that are taken at once.
const EVENTS: usize = 16;

const WAKE: u64 = u64::MAX;
const LOOK: u64 = WAKE - 1;
const SOURCE: u64 = 1 << 32;

/// What a device does with its queues, on its own thread.
pub trait Service: Send {
    /// The device's thread begins, with this; it is not jailed yet.
    fn prepare(&mut self) {}

    /// The driver is ready, with these features. The rings are those that it enabled; the others are absent.
    ///
    /// # Errors
    /// [`Fault`] freezes the device.
    fn start(&mut self, features: u64, rings: &mut [Option<Ring>]) -> Result<(), Fault> {
        let _ = (features, rings);
        Ok(())
    }

    /// Queue `queue`, which is among the rings, may have requests.
    ///
    /// # Errors
    /// [`Fault`] freezes the device.
    fn serve(&mut self, rings: &mut [Option<Ring>], queue: usize) -> Result<Served, Fault>;

    /// Descriptors that are waited for besides the queues, for reading, as long as the device is started. They are asked
    /// for after [`Service::prepare`], and may be fewer later.
    fn sources(&self) -> Vec<BorrowedFd<'_>> {
        vec![]
    }

    /// Source `source` of [`Service::sources`] can be read. The queues have their turn after it.
    ///
    /// # Errors
    /// [`Fault`] freezes the device.
    fn ready(&mut self, rings: &mut [Option<Ring>], source: usize) -> Result<(), Fault> {
        let _ = (rings, source);
        Ok(())
    }

    /// Leaves the queues: nothing is read from them or written to them when this returns.
    fn stop(&mut self) {}
}

/// How far a queue was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// It was empty at the end.
    All,
    /// What is left waits until one of the sources can be read.
    Waits,
}

/// A started device's queues and what was agreed on.
pub(super) struct Start {
    pub(super) features: u64,
    pub(super) rings: Vec<Option<Ring>>,
}

enum Command {
    Start(Start),
    Stop,
}

/// A device's thread, from outside. It ends when this is dropped.
#[derive(Debug)]
pub struct Worker {
    commands: Sender<Command>,
    wake: Arc<EventFd>,
    /// Set while the thread has the queues.
    busy: Arc<AtomicBool>,
    /// Set when it was asked for them already: a second stop would be one for the next start.
    stopping: AtomicBool,
}

impl Worker {
    /// Starts the thread. `kicks` has an eventfd for each queue, which the driver's notifications write.
    ///
    /// # Errors
    /// When there can be no more threads or descriptors, or when the thread cannot be jailed.
    pub fn spawn(
        name: &str,
        kicks: Vec<Arc<EventFd>>,
        service: Box<dyn Service>,
        freezer: Arc<Freezer>,
    ) -> io::Result<Self> {
        let (commands, inbox) = bounded(COMMANDS);
        let wake = Arc::new(EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?);
        let busy = Arc::new(AtomicBool::new(false));
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        add(&poll, &*wake, WAKE)?;
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
        add(&poll, &timer.as_fd(), LOOK)?;
        for (kick, token) in kicks.iter().zip(0..) {
            add(&poll, &**kick, token)?;
        }
        let mut body = Body {
            poll,
            timer,
            due: None,
            kicks,
            wake: Arc::clone(&wake),
            busy: Arc::clone(&busy),
            inbox,
            service,
            freezer,
            rings: vec![],
        };
        let (say, hear) = bounded(1);
        let life = move || {
            let jailed = body.prepare().and_then(|()| jail::confine(Class::Device).map_err(io::Error::other));
            let stands = jailed.is_ok();
            let _ = say.send(jailed);
            if stands {
                body.run();
            }
        };
        std::thread::Builder::new().name(format!("dev-{name}")).stack_size(STACK).spawn(life)?;
        // Jailed before it is given a queue: no guest has a word with it before.
        hear.recv().map_err(io::Error::other)??;
        Ok(Self { commands, wake, busy, stopping: AtomicBool::new(false) })
    }

    /// Hands the queues over. False when the thread still has some.
    pub(super) fn start(&self, start: Start) -> bool {
        if self.busy.swap(true, Ordering::AcqRel) {
            return false;
        }
        self.stopping.store(false, Ordering::Release);
        self.say(Command::Start(start));
        true
    }

    /// Asks for the queues back; [`Worker::is_busy`] tells when they are, and the device thaws then. False when
    /// the thread has none.
    pub(super) fn stop(&self) -> bool {
        let busy = self.is_busy();
        if busy && !self.stopping.swap(true, Ordering::AcqRel) {
            self.say(Command::Stop);
        }
        busy
    }

    /// Whether the thread has the queues.
    pub(super) fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Acquire)
    }

    fn say(&self, command: Command) {
        // There is room: a start is said to a thread without queues, and one stop for each.
        let _ = self.commands.try_send(command);
        let _ = self.wake.write(1);
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let (unconnected, _) = bounded(0);
        self.commands = unconnected;
        let _ = self.wake.write(1);
    }
}

fn add(poll: &OwnedFd, source: impl AsRawOrFd, token: u64) -> io::Result<()> {
    epoll::add(poll, source.descriptor(), epoll::EventData::new_u64(token), epoll::EventFlags::IN)?;
    Ok(())
}

/// What [`add`] takes: an eventfd of `vmm-sys-util` knows only the raw trait.
trait AsRawOrFd {
    fn descriptor(&self) -> BorrowedFd<'_>;
}

impl AsRawOrFd for &EventFd {
    fn descriptor(&self) -> BorrowedFd<'_> {
        // SAFETY: the eventfd keeps its descriptor open while it is borrowed.
        unsafe { BorrowedFd::borrow_raw(std::os::fd::AsRawFd::as_raw_fd(*self)) }
    }
}

impl AsRawOrFd for &BorrowedFd<'_> {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }
}

struct Body {
    poll: OwnedFd,
    /// Expires when the drivers' answers to interrupts are looked at.
    timer: OwnedFd,
    /// When the timer expires, if it is set.
    due: Option<Instant>,
    kicks: Vec<Arc<EventFd>>,
    wake: Arc<EventFd>,
    busy: Arc<AtomicBool>,
    inbox: Receiver<Command>,
    service: Box<dyn Service>,
    freezer: Arc<Freezer>,
    /// Empty while the device is not started.
    rings: Vec<Option<Ring>>,
}

impl Body {
    /// What its thread may do only before it is jailed.
    fn prepare(&mut self) -> io::Result<()> {
        self.service.prepare();
        self.service.sources().iter().zip(SOURCE..).try_for_each(|(source, token)| add(&self.poll, source, token))
    }

    fn run(mut self) {
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            events.clear();
            // A source that has gone wrong stays readable: a frozen device looks at commands only.
            match epoll::wait(&self.poll, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return,
            }
            for event in &events {
                let token = event.data.u64();
                if token == WAKE {
                    let _ = self.wake.read();
                    if !self.obey() {
                        return;
                    }
                } else if token == LOOK {
                    let _ = rustix::io::read(&self.timer, &mut [0; 8]);
                    self.due = None;
                } else if let Err(fault) = self.handle(token) {
                    self.fail(fault);
                }
            }
            if let Err(fault) = self.look() {
                self.fail(fault);
            }
        }
    }

    /// Looks at the answers to interrupts that are timed, and has itself woken for those that are still to come.
    fn look(&mut self) -> Result<(), Fault> {
        let mut next: Option<Duration> = None;
        for ring in self.rings.iter_mut().flatten() {
            if let Some(wait) = ring.look()? {
                next = Some(next.map_or(wait, |next| next.min(wait)));
            }
        }
        let at = next.map(|wait| (wait, Instant::now() + wait));
        if let Some((wait, at)) = at.filter(|(_, at)| self.due.is_none_or(|due| *at < due)) {
            let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
            let spec = Itimerspec { it_interval: zero, it_value: Timespec::try_from(wait).unwrap_or(zero) };
            // Without the timer, it is looked at when the thread is awake for something else.
            let set = rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &spec);
            self.due = set.is_ok().then_some(at);
        }
        Ok(())
    }

    fn fail(&mut self, fault: Fault) {
        // Said before what is under way is waited for: that may take as long as a backend likes.
        self.freezer.freeze(fault);
        self.leave();
    }

    /// Leaves the queues, until the driver resets the device and starts it anew.
    fn leave(&mut self) {
        self.service.stop();
        self.rings.clear();
        self.watch(false);
    }

    /// Waits for the sources or does not: one that nobody reads would wake the thread for ever.
    fn watch(&self, on: bool) {
        let flags = if on { epoll::EventFlags::IN } else { epoll::EventFlags::empty() };
        for (source, token) in self.service.sources().iter().zip(SOURCE..) {
            let _ = epoll::modify(&self.poll, source, epoll::EventData::new_u64(token), flags);
        }
    }

    /// Does what is asked; false when the device is gone.
    fn obey(&mut self) -> bool {
        loop {
            match self.inbox.try_recv() {
                Ok(Command::Start(Start { features, rings })) => {
                    self.rings = rings;
                    self.watch(true);
                    let started = self.service.start(features, &mut self.rings);
                    let count = self.rings.len() as u64;
                    // What was added before the start was not heard of.
                    if let Err(fault) = started.and_then(|()| (0..count).try_for_each(|token| self.handle(token))) {
                        self.fail(fault);
                    }
                }
                Ok(Command::Stop) => {
                    if !self.rings.is_empty() {
                        self.service.stop();
                        self.rings.clear();
                    }
                    self.watch(false);
                    self.freezer.reset();
                    self.busy.store(false, Ordering::Release);
                }
                Err(crossbeam_channel::TryRecvError::Empty) => return true,
                Err(crossbeam_channel::TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn handle(&mut self, token: u64) -> Result<(), Fault> {
        // A fault of the driver's in the registers freezes the device too.
        if self.rings.is_empty() || self.freezer.is_frozen() {
            self.leave();
        }
        if let Some(source) = token.checked_sub(SOURCE) {
            if self.rings.is_empty() {
                return Ok(());
            }
            self.service.ready(&mut self.rings, source as usize)?;
            return (0..self.rings.len()).try_for_each(|queue| self.serve(queue));
        }
        if let Some(kick) = self.kicks.get(token as usize) {
            let _ = kick.read();
        }
        self.serve(token as usize)
    }

    fn serve(&mut self, queue: usize) -> Result<(), Fault> {
        if self.freezer.is_frozen() {
            return Ok(());
        }
        for _ in 0..PASSES {
            let Some(Some(ring)) = self.rings.get_mut(queue) else { return Ok(()) };
            ring.disable_notification()?;
            if self.service.serve(&mut self.rings, queue)? == Served::Waits {
                return Ok(());
            }
            let Some(Some(ring)) = self.rings.get_mut(queue) else { return Ok(()) };
            if !ring.enable_notification()? {
                return Ok(());
            }
        }
        // There is more, but others have their turn first.
        if let Some(kick) = self.kicks.get(queue) {
            let _ = kick.write(1);
        }
        Ok(())
    }
}
