//! The state driver: one thread that owns everything the manager knows, and acts on it.
//!
//! Everything that happens comes in through one queue. The driver never waits for a partition, the service
//! processor or a client; what takes its time is a deadline, or another thread.

mod adopt;
mod answer;
mod apply;
mod calls;
mod console;
mod down;
mod entry;
mod found;
mod hear;
mod make;
mod raise;
mod release;
mod sources;
mod steering;

use crate::cgroup::group::{Groups, tag};
use crate::journal::{self, Journal};
use crate::message::{LONGEST_QUEUE, Message, Refusal, Request};
use crate::outbox::Outbox;
use crate::poller::{Poller, Token};
use crate::spawn::Spare;
use crate::{clock, descriptors, host};
use anyhow::Context as _;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use entry::Entry;
use frame::api::FrameAssignment;
use frame::cpuset::CpuSet;
use frame::declare::Frame;
use frame::event::Event;
use frame::ladder::Rung;
use frame::lifecycle::{Effect, Input};
use frame::name::Name;
use frame::root::Root;
use frame::wire;
use os::claim::Claim;
use os::notify;
use os::packet::PacketError;
use rustix::process::Signal;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::PathBuf;
use std::time::Duration;

/// How often the parent is told that the driver answers, milliseconds.
const BEAT_MS: u64 = 500;
/// Messages that are handled before the deadlines are looked at again.
const BATCH: usize = 64;

/// What a watch is on.
#[derive(Clone, Debug)]
enum Watch {
    /// The connection to a partition.
    Link(Name),
    /// The end of a partition's process.
    End(Name),
    /// The calls of a partition's guest.
    Calls(Name),
}

/// What the driver works with.
#[derive(Debug)]
pub struct Settings {
    /// The frame's places.
    pub root: Root,
    /// The frame in force.
    pub frame: Frame,
    /// The program that runs a partition.
    pub binary: PathBuf,
    /// The claim on the frame's CPUs; each partition gets a hold on it. None where the host has no place for it.
    pub claim: Option<Claim>,
}

/// The driver.
#[derive(Debug)]
pub struct Driver {
    settings: Settings,
    boot: String,
    epoch: u64,
    journal: Journal,
    groups: Groups,
    switches: host::network::Switches,
    /// Tells the processes of this frame under this root from all others.
    tag: String,
    /// Whether this host lets this process build the whole jail of a partition.
    jail: bool,
    /// Part of the next jail, made ahead.
    spare: Option<Spare>,
    /// What this host has.
    host: host::inventory::Known,
    /// What this host lacks.
    lacks: Vec<String>,
    sender: Sender<Message>,
    queue: Receiver<Message>,
    poller: Poller,
    watches: HashMap<Token, Watch>,
    entries: BTreeMap<Name, Entry>,
    pools: BTreeMap<Name, CpuSet>,
    /// Partitions whose process is to be made; one at a time, so that beats and answers go on between.
    to_make: VecDeque<Name>,
    waiters: Vec<answer::Waiter>,
    questions: Vec<sources::Question>,
    doomed: Vec<release::Doomed>,
    steering: steering::Steering,
    outbox: Outbox,
    /// Events that the journal had no room for, in order.
    unkept: VecDeque<Event>,
    /// Number of the last event.
    sequence: u64,
    sessions: u64,
    beat: u64,
    starting: Option<adopt::Starting>,
    down: Option<down::Down>,
    /// Whether this process was told to end.
    over: bool,
}

/// Why the driver ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The frame is down.
    Down,
    /// The manager was asked to end; the partitions run on.
    Left,
}

impl Driver {
    /// Opens the journal and begins an epoch. Nothing is done to any partition yet.
    ///
    /// # Errors
    /// When the run directory cannot be used.
    pub fn new(settings: Settings) -> anyhow::Result<Self> {
        let boot = os::process::boot_id().context("the boot of the host cannot be told apart: is /proc mounted?")?;
        let path = settings.root.manager_database();
        let opened = open_journal(&settings, &boot)?;
        let journal = opened.journal;
        let wall = clock::wall() / 1_000_000;
        let epoch = journal.begin_epoch(wall).or_else(|error| {
            // Two managers never are at once, so that no harm comes of an epoch that the next one begins too.
            tracing::error!("{} cannot be written, and the manager goes on without: {error}", path.display());
            journal.next_epoch(wall).context("no epoch can be begun")
        })?;
        let (groups, refused) = Groups::prepare(&settings.frame.name, &settings.root.run);
        let report = host::report().ok();
        let nodes = report.as_ref().map_or(1, |report| report.inventory.nodes.len());
        let mut lacks = report.map(|report| report.lacks).unwrap_or_default();
        lacks.extend(refused);
        lacks.extend(descriptors::raise(descriptors::needed(&settings.frame, nodes)));
        let (sender, queue) = crossbeam_channel::bounded(LONGEST_QUEUE);
        let poller = Poller::start(sender.clone()).context("descriptors cannot be watched")?;
        let outbox = Outbox::start(&settings.root.service_processor_socket(), sender.clone())
            .context("the outbox cannot be started")?;
        let pools = journal.fact("pools").unwrap_or_default().unwrap_or_default();
        let tag = tag(&settings.frame.name, &settings.root.run);
        // The directory of the sockets is this user's alone.
        std::fs::create_dir_all(settings.root.partitions())
            .with_context(|| format!("{} cannot be made", settings.root.partitions().display()))?;
        let jail = host::jail::available().is_ok();
        let spare = if jail { Some(Spare::begin().context("a thread cannot be started")?) } else { None };
        let mut driver = Self {
            settings,
            boot,
            epoch,
            journal,
            groups,
            switches: host::network::Switches::new(&tag),
            tag,
            jail,
            spare,
            host: host::inventory::Known::default(),
            lacks,
            sender,
            queue,
            poller,
            watches: HashMap::new(),
            entries: BTreeMap::new(),
            pools,
            to_make: VecDeque::new(),
            waiters: vec![],
            questions: vec![],
            doomed: vec![],
            steering: steering::Steering::default(),
            outbox,
            unkept: VecDeque::new(),
            sequence: 0,
            sessions: 0,
            beat: 0,
            starting: None,
            down: None,
            over: false,
        };
        driver.adopt(opened.aside, opened.lost)?;
        driver.sweep();
        Ok(driver)
    }

    /// Where messages go.
    #[must_use]
    pub fn sender(&self) -> Sender<Message> {
        self.sender.clone()
    }

    /// Runs until the frame is down or this process is told to end. `serve` is called once, when everything
    /// that ran was taken over: from then on there is an API.
    ///
    /// # Errors
    /// When a newer manager is in control, or `serve` fails.
    pub fn run(&mut self, mut serve: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<Outcome> {
        loop {
            let now = clock::now();
            if now >= self.beat {
                self.beat = now + BEAT_MS;
                self.keep_again();
                tell(notify::WATCHDOG);
            }
            self.due(now);
            if self.starting.as_ref().is_some_and(|starting| starting.is_over(now)) {
                self.starting = None;
                serve()?;
                self.started();
                self.converge();
                self.steer_soon();
                tell(notify::READY);
            }
            self.bring_down(now);
            if let Some(down) = &self.down
                && down.is_over()
            {
                tell(notify::STOPPING);
                return Ok(Outcome::Down);
            }
            if self.over {
                // Not told as stopping, which is how a parent that cannot see the exit status hears of a frame
                // that went down.
                return Ok(Outcome::Left);
            }
            if let Some(name) = self.to_make.pop_front() {
                self.make_now(&name);
            }
            let wait = if self.to_make.is_empty() { self.patience(now) } else { Duration::ZERO };
            match self.queue.recv_timeout(wait) {
                Ok(message) => self.handle(message)?,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return Ok(Outcome::Left),
            }
            for _ in 1..BATCH {
                let Ok(message) = self.queue.try_recv() else { break };
                self.handle(message)?;
            }
        }
    }

    fn handle(&mut self, message: Message) -> anyhow::Result<()> {
        match message {
            Message::Readable(token) => match self.watches.get(&token).cloned() {
                Some(Watch::Link(name)) => self.hear(&name, token)?,
                Some(Watch::End(name)) => self.ended(&name),
                Some(Watch::Calls(name)) => self.answer_calls(&name),
                // Of something that is gone since.
                None => {}
            },
            Message::Request(request) => self.request(request),
            Message::Delivered(taken) => self.delivered(taken),
            Message::ServiceProcessor { present } => self.service_processor(present),
            Message::Terminate => self.over = true,
        }
        Ok(())
    }

    /// How long the driver may sleep.
    fn patience(&self, now: u64) -> Duration {
        let lives = self.entries.values().flat_map(|entry| {
            let process = entry.process.as_ref();
            let retry = process.and_then(|process| process.retry);
            let calls = process.and_then(|process| process.calls.as_ref()?.again);
            [entry.kept.lifecycle.deadline(), retry, calls]
        });
        let waiters = self.waiters.iter().map(answer::Waiter::deadline);
        let doomed = self.doomed.iter().map(|doomed| Some(doomed.at));
        let starting = self.starting.as_ref().map(adopt::Starting::deadline);
        let down = self.down.as_ref().map(down::Down::deadline);
        let questions = self.questions.iter().map(|question| Some(question.deadline()));
        let steering = self.steering.deadline();
        let all =
            lives.chain(waiters).chain(questions).chain([steering]).chain(doomed).chain(starting).chain(down).flatten();
        let next = all.chain([self.beat]).min().unwrap_or(self.beat);
        Duration::from_millis(next.saturating_sub(now))
    }

    /// Does what is due.
    fn due(&mut self, now: u64) {
        let is_due = |entry: &Entry| {
            let process = entry.process.as_ref();
            let retry = process.and_then(|process| process.retry);
            let calls = process.and_then(|process| process.calls.as_ref()?.again);
            [retry, calls, entry.kept.lifecycle.deadline()].into_iter().flatten().any(|at| at <= now)
        };
        let names = self.entries.iter().filter(|(_, entry)| is_due(entry));
        let names: Vec<Name> = names.map(|(name, _)| name.clone()).collect();
        for name in names {
            let Some(entry) = self.entries.get_mut(&name) else { continue };
            let retry = entry.process.as_mut().and_then(|process| process.retry.take_if(|at| *at <= now));
            let calls = entry.process.as_ref().and_then(|process| process.calls.as_ref()?.again);
            let due = entry.kept.lifecycle.deadline().is_some_and(|at| at <= now);
            if retry.is_some() {
                self.connect(&name);
            }
            if calls.is_some_and(|at| at <= now) {
                self.answer_calls(&name);
            }
            if due {
                self.apply(&name, Input::Time);
            }
        }
        self.expire_waiters(now);
        self.settle_questions(now);
        self.remove_doomed(now);
        self.steer_when_due(now);
    }

    /// Takes one input into a partition's life, writes down where that leads, and does it.
    fn apply(&mut self, name: &Name, input: Input) {
        let now = clock::now();
        let Some(entry) = self.entries.get_mut(name) else { return };
        let was = entry.kept.lifecycle.state();
        let effects = entry.kept.lifecycle.step(now, input);
        let (raises, others): (Vec<Effect>, Vec<Effect>) =
            effects.into_iter().partition(|effect| matches!(effect, Effect::Raise { .. }));
        // Where its life is and what is said of that are written down together: a manager that is lost here has
        // done both or neither.
        let events = raises.into_iter().filter_map(|effect| match effect {
            Effect::Raise { code, text, data } => Some((code, text, data)),
            _ => None,
        });
        self.store_with(name, events.collect());
        for effect in others {
            self.act(name, effect);
        }
        if let Some(entry) = self.entries.get(name)
            && entry.kept.lifecycle.state() != was
        {
            tracing::info!("partition {name}: {was} -> {}", entry.kept.lifecycle.state());
        }
        self.look_at_waiters(name);
    }

    fn store(&mut self, name: &Name) {
        self.store_with(name, vec![]);
    }

    fn act(&mut self, name: &Name, effect: Effect) {
        match effect {
            Effect::Make => self.to_make.push_back(name.clone()),
            Effect::Launch => self.launch_once(name),
            Effect::Start => self.send(name, wire::Request::Start),
            Effect::Take(rung) => match rung {
                Rung::Ask => self.send(name, wire::Request::Ask),
                Rung::PowerButton => self.send(name, wire::Request::PowerButton),
                Rung::Nmi => self.send(name, wire::Request::Nmi),
                Rung::Stop => self.send(name, wire::Request::Stop),
                Rung::Kill => self.kill(name),
            },
            Effect::Acknowledge => self.send(name, wire::Request::Acknowledge),
            Effect::Reap => self.reap(name),
            Effect::Release => self.release(name),
            Effect::Raise { code, text, data } => self.raise(code, vec![name.clone()], text, data),
            Effect::Answer(answer) => self.answer(name, &answer),
            Effect::Refuse(reason) => self.refuse(name, &reason),
        }
    }

    /// Makes the process of a partition that waits for that.
    fn make_now(&mut self, name: &Name) {
        let waits = self.entries.get(name).is_some_and(|entry| entry.kept.lifecycle.is_being_made());
        if !waits {
            return;
        }
        let input = match self.make(name) {
            Ok(()) => Input::Made,
            Err(error) => Input::MakeFailed { reason: format!("{error:#}") },
        };
        self.apply(name, input);
    }

    fn send(&mut self, name: &Name, request: wire::Request) {
        let epoch = self.epoch;
        let Some(process) = self.entries.get_mut(name).and_then(|entry| entry.process.as_mut()) else { return };
        let outcome = process.send(epoch, request, &[]);
        self.sent(name, outcome);
    }

    /// A request that could not be sent means a connection that is of no use: the next one begins with the
    /// state of the partition, and what has to be said again follows from that.
    fn sent(&mut self, name: &Name, outcome: Result<(), PacketError>) {
        match outcome {
            Ok(()) => {}
            Err(error) => {
                tracing::warn!("partition {name}: a request could not be sent: {error}");
                self.disconnect(name);
            }
        }
    }

    fn kill(&mut self, name: &Name) {
        let Some(process) = self.entries.get(name).and_then(|entry| entry.process.as_ref()) else { return };
        if let Err(error) = process.handle.signal(Signal::KILL) {
            tracing::error!("partition {name}: its process {} cannot be killed: {error}", process.identity.pid);
        }
    }

    fn request(&mut self, request: Request) {
        match request {
            Request::List(reply) => {
                let rows = self.entries.values().map(answer::row).collect();
                // Whoever asked may be gone, here and below.
                let _ = reply.send(Ok(rows));
            }
            Request::Show(name, reply) => {
                let found = self.entries.get(&name).ok_or_else(|| Refusal::unknown(&name));
                let _ = reply.send(found.map(|entry| Box::new(self.detail(entry))));
            }
            Request::Stat(name, reply) => {
                let found = self.entries.get(&name).ok_or_else(|| Refusal::unknown(&name));
                let _ = reply.send(found.map(answer::stat));
            }
            Request::HostInterrupts(reply) => {
                let _ = reply.send(Ok(self.steering.rows()));
            }
            Request::Interrupts(name, reply) => self.ask(name, sources::Asker::Interrupts(vec![], reply)),
            Request::Devices(name, reply) => self.ask(name, sources::Asker::Devices(vec![], reply)),
            Request::Service(name, request, reply) => {
                let _ = reply.send(self.service(&name, &request.device));
            }
            Request::Frame(reply) => {
                let _ = reply.send(Ok(self.status()));
            }
            Request::Assignment(reply) => {
                let frame = self.settings.frame.name.clone();
                let _ = reply.send(Ok(Box::new(FrameAssignment { frame, assignment: self.assignment() })));
            }
            Request::Declaration(reply) => {
                let _ = reply.send(Ok(Box::new(self.declaration())));
            }
            Request::Apply(request, reply) => {
                let _ = reply.send(self.declare(request.frame, None, request.dry_run));
            }
            Request::Set(name, request, reply) => {
                let _ = reply.send(self.set(&name, &request));
            }
            Request::Activate(name, reply) => self.activate(name, reply),
            Request::Shutdown(name, request, reply) => self.shutdown(name, request, reply),
            Request::Wait { name, state, timeout_ms, reply } => self.wait(name, state, timeout_ms, reply),
            Request::Down(request, reply) => self.begin_down(request, Some(reply)),
            Request::OpenConsole { name, force, reply } => {
                let _ = reply.send(self.open_console(&name, force));
            }
            Request::Type { name, session, bytes, reply } => {
                let _ = reply.send(self.typed(&name, session, bytes));
            }
            Request::CloseConsole { name, session } => self.close_console(&name, session),
        }
    }
}

/// Opens the journal. Where there is no room for one just now and partitions run, there will be: they are not
/// given up for it.
fn open_journal(settings: &Settings, boot: &str) -> anyhow::Result<journal::Opened> {
    let path = settings.root.manager_database();
    let mut attempts = 0u32;
    loop {
        match journal::open(&path, boot, &settings.frame.name) {
            Ok(opened) => return Ok(opened),
            Err(error) if error.passes() && has_sockets(&settings.root) => {
                if attempts.is_multiple_of(20) {
                    tracing::error!(
                        "the journal {} cannot be used ({error:?}); the partitions run on without a manager until it can: make room",
                        path.display()
                    );
                }
                attempts = attempts.wrapping_add(1);
                tell(notify::WATCHDOG);
                std::thread::sleep(Duration::from_millis(BEAT_MS));
            }
            Err(error) => {
                return Err(error).with_context(|| format!("the journal {} cannot be opened", path.display()));
            }
        }
    }
}

/// Whether there are partitions that a manager could take over.
fn has_sockets(root: &Root) -> bool {
    let is_one = |entry: std::fs::DirEntry| entry.file_name().to_str().is_some_and(|name| Name::new(name).is_ok());
    std::fs::read_dir(root.partitions()).is_ok_and(|sockets| sockets.flatten().any(is_one))
}

fn tell(what: &str) {
    if let Err(error) = notify::tell(what) {
        tracing::warn!("the parent cannot be told {}: {error}", what.trim());
    }
}
