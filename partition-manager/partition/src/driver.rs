//! The driver: one thread that owns the process's state, and one queue of what happens.
//!
//! It waits for packets, for virtual processors and for time, asks [`Lifecycle`] what to do, and does it. It
//! never waits for the manager: what cannot be sent at once closes the connection, and the manager may come
//! again.

use crate::launch::Partition;
use crate::lifecycle::{Asked, Connection, Effect, Input, Lifecycle, Say};
use crate::record::Record;
use crate::vcpu::{Mailbox, Message};
use crossbeam_channel::{Receiver, bounded};
use frame::launch::{LaunchSpec, MOST_PROCESSORS, WatchdogAction};
use frame::record::{Cause, Final};
use frame::wire::{
    DeviceStatus, LARGEST_EPOCH, LARGEST_FIRST_EPOCH, LARGEST_INPUT, LARGEST_STEP, Packet, Report, Request, Welcome,
};
use os::packet::{self, PacketError};
use rustix::event::epoll;
use rustix::net::Shutdown;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use vmm_sys_util::eventfd::EventFd;

/// Connections that have not said hello; the oldest makes room for a new one.
const MOST_STRANGERS: usize = 4;
/// How often a virtual processor that has a command and does not take it is kicked again.
const KICK_AGAIN: Duration = Duration::from_millis(10);
/// How long no connection is taken after one could not be.
const DEAF: Duration = Duration::from_millis(100);
/// Messages that can wait: a virtual processor says three in its life.
const MESSAGES: usize = 4 * MOST_PROCESSORS;
/// Packets that are taken from one connection, and connections that are taken, before others have their turn.
const TURN: usize = 16;
/// Most freezes that are kept for a manager to come.
const MOST_UNHEARD: usize = 64;

const LISTENER: u64 = 0;
const WAKE: u64 = 1;
/// The first of the devices that this thread wakes.
const TIMED: u64 = 2;
const FIRST_CONNECTION: u64 = 64;

/// The record of this process's partition, for [`fail`].
static RECORD: OnceLock<Arc<Record>> = OnceLock::new();

/// Leaves a final record that says that this process failed: for a panic, which ends it.
pub fn fail(reason: &str) {
    if let Some(record) = RECORD.get() {
        let cause = Cause::MonitorFailed { reason: reason.chars().take(4096).collect() };
        record.conclude(&Final { cause, processor: None, registers: Vec::new() });
    }
}

/// What of a packet the lifecycle does not need to know.
enum Payload {
    None,
    Launch(Box<LaunchSpec>, Vec<OwnedFd>),
    Input(Vec<u8>),
    Service(String),
}

/// The driver.
#[derive(Debug)]
pub struct Driver {
    lifecycle: Lifecycle,
    listener: OwnedFd,
    epoll: OwnedFd,
    connections: Vec<(Connection, OwnedFd)>,
    next: Connection,
    mailbox: Mailbox,
    messages: Receiver<(u32, Message)>,
    deadline: Option<Instant>,
    /// When the listening socket is watched again.
    deaf_until: Option<Instant>,
    partition: Option<Partition>,
    /// Freezes and storms of devices that no manager has heard of.
    unheard: VecDeque<Report>,
    ended: Option<Box<Final>>,
    status: Option<u8>,
}

impl Driver {
    /// A driver that takes connections from `listener`, a listening `SOCK_SEQPACKET` socket.
    ///
    /// # Errors
    /// When `listener` is no such socket, or the kernel refuses what the driver waits with.
    pub fn new(listener: OwnedFd) -> io::Result<Self> {
        if !rustix::net::sockopt::socket_acceptconn(&listener)? {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the socket does not listen"));
        }
        // The flag is the open file's, so it is everybody's; nobody else accepts here.
        rustix::io::ioctl_fionbio(&listener, true)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let wake = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        let (queue, messages) = bounded(MESSAGES);
        let mailbox = Mailbox { queue, wake: Arc::new(wake) };
        add(&epoll, &listener, LISTENER)?;
        // SAFETY: the eventfd stays open in the mailbox while the driver lives.
        let wake = unsafe { BorrowedFd::borrow_raw(std::os::fd::AsRawFd::as_raw_fd(&*mailbox.wake)) };
        add(&epoll, wake, WAKE)?;
        Ok(Self {
            lifecycle: Lifecycle::default(),
            listener,
            epoll,
            connections: Vec::new(),
            next: FIRST_CONNECTION,
            mailbox,
            messages,
            deadline: None,
            deaf_until: None,
            partition: None,
            unheard: VecDeque::new(),
            ended: None,
            status: None,
        })
    }

    /// Drives the process until it is to end; gives its exit status.
    ///
    /// # Errors
    /// When the kernel refuses to wait.
    pub fn run(mut self) -> io::Result<u8> {
        self.perform(vec![Lifecycle::first()], &mut Payload::None);
        let mut events = Vec::with_capacity(16);
        loop {
            if let Some(status) = self.status {
                self.connections.iter().for_each(|(_, socket)| leave(socket));
                self.keep_what_is_in_use();
                return Ok(status);
            }
            let timeout = self.timeout();
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            for event in &events {
                match event.data.u64() {
                    LISTENER => self.accept(),
                    WAKE => drop(self.mailbox.wake.read()),
                    device @ TIMED..FIRST_CONNECTION => self.expire(device - TIMED),
                    connection => self.receive(connection),
                }
            }
            self.hear();
            if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                self.deadline = None;
                self.step(Input::Elapsed, Payload::None);
            }
            if self.deaf_until.is_some_and(|until| Instant::now() >= until) {
                self.listen(true);
            }
            self.kick_again();
        }
    }

    /// Wakes a device whose time has come.
    fn expire(&self, device: u64) {
        if let Some(partition) = &self.partition
            && let Some(device) = usize::try_from(device).ok().and_then(|index| partition.devices.timed.get(index))
        {
            device.expire();
        }
    }

    /// A virtual processor that could not be stopped in time may still be in its guest: the memory that KVM
    /// gives the guest then stays mapped until the process is gone.
    fn keep_what_is_in_use(&mut self) {
        let count = self.partition.as_ref().map_or(0, |partition| partition.processors.len());
        if (0..count).any(|id| !self.lifecycle.has_finished(id)) {
            std::mem::forget(self.partition.take());
        }
    }

    /// Until the deadline, but no longer than until the next kick, where one may be needed.
    fn timeout(&self) -> Option<rustix::time::Timespec> {
        let first = self.deadline.into_iter().chain(self.deaf_until).min();
        let until = first.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let wait = match until {
            Some(until) if self.is_behind() => Some(until.min(KICK_AGAIN)),
            None if self.is_behind() => Some(KICK_AGAIN),
            until => until,
        };
        wait.and_then(|wait| rustix::time::Timespec::try_from(wait).ok())
    }

    fn is_behind(&self) -> bool {
        self.partition.as_ref().is_some_and(|partition| {
            partition.processors.iter().enumerate().any(|(id, one)| self.wants_kick(id, one.is_behind()))
        })
    }

    fn wants_kick(&self, id: usize, is_behind: bool) -> bool {
        !self.lifecycle.has_finished(id) && (is_behind || self.lifecycle.is_stopping())
    }

    fn kick_again(&self) {
        for (id, processor) in self.partition.iter().flat_map(|partition| partition.processors.iter().enumerate()) {
            if self.wants_kick(id, processor.is_behind()) {
                processor.kick();
            }
        }
    }

    fn accept(&mut self) {
        // Whoever is left over is still there at the next turn.
        for _ in 0..TURN {
            let socket = match packet::accept(&self.listener) {
                Ok(socket) => socket,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    // Without room for a descriptor, a silent connection makes some for the next try. Until then
                    // whoever waits must not keep this thread busy.
                    self.drop_stranger(0);
                    self.listen(false);
                    return;
                }
            };
            // Only the superuser and whoever made the socket listen are managers.
            if !os::peer::may_manage(&socket, &self.listener) || rustix::io::ioctl_fionbio(&socket, true).is_err() {
                continue;
            }
            self.drop_stranger(MOST_STRANGERS - 1);
            let id = self.next;
            self.next += 1;
            if add(&self.epoll, &socket, id).is_ok() {
                self.connections.push((id, socket));
            }
        }
    }

    /// Watches the listening socket, or does not for a while.
    fn listen(&mut self, now: bool) {
        let flags = if now { epoll::EventFlags::IN } else { epoll::EventFlags::empty() };
        let changed = epoll::modify(&self.epoll, &self.listener, epoll::EventData::new_u64(LISTENER), flags);
        // The system call needs no memory; were it to fail, the next try is as good.
        self.deaf_until = (!now || changed.is_err()).then(|| Instant::now() + DEAF);
    }

    /// Closes the oldest connection that is not the manager's, if there are more than `most`.
    fn drop_stranger(&mut self, most: usize) {
        let mut strangers =
            self.connections.iter().map(|(id, _)| *id).filter(|id| self.lifecycle.manager() != Some(*id));
        let oldest = strangers.next();
        if let Some(oldest) = oldest
            && strangers.count() + 1 > most
        {
            self.close(oldest);
        }
    }

    fn socket(&self, id: Connection) -> Option<&OwnedFd> {
        self.connections.iter().find(|(connection, _)| *connection == id).map(|(_, socket)| socket)
    }

    fn close(&mut self, id: Connection) {
        if let Some(at) = self.connections.iter().position(|(connection, _)| *connection == id) {
            let (_, socket) = self.connections.remove(at);
            leave(&socket);
        }
    }

    fn receive(&mut self, id: Connection) {
        for _ in 0..TURN {
            if self.status.is_some() {
                return;
            }
            let Some(socket) = self.socket(id) else { return };
            match packet::receive_now::<Request>(socket) {
                Ok((packet, descriptors)) => self.take(id, packet, descriptors),
                Err(PacketError::NotReady) => return,
                Err(PacketError::Version(version)) => {
                    let reason = PacketError::Version(version).to_string();
                    self.send(id, Report::Refused { reason }, &[]);
                    self.step(Input::Lost(id), Payload::None);
                    return;
                }
                // Closed, or nonsense: one that talks nonsense is not talked to.
                Err(_) => {
                    self.step(Input::Lost(id), Payload::None);
                    return;
                }
            }
        }
    }

    fn take(&mut self, from: Connection, packet: Packet<Request>, descriptors: Vec<OwnedFd>) {
        let highest = self.lifecycle.epoch();
        if !is_plausible(highest, packet.epoch) {
            // Believed, it would lock out every manager to come.
            let reason = format!("epoch {} is far beyond {highest}, the highest that was served", packet.epoch);
            self.send(from, Report::Refused { reason }, &[]);
            self.step(Input::Lost(from), Payload::None);
            return;
        }
        let (asked, payload) = sort(packet.message, descriptors);
        self.step(Input::Packet { from, epoch: packet.epoch, asked }, payload);
    }

    /// Takes what virtual processors and the communication channel have to say.
    fn hear(&mut self) {
        while let Ok((processor, message)) = self.messages.try_recv() {
            // What a guest answered before it ended comes before its end.
            self.hear_answer();
            let input = match message {
                Message::Prepared(_) => continue,
                Message::Entered => Input::Entered,
                Message::Froze(frozen) => {
                    self.keep(Report::Frozen(frozen));
                    continue;
                }
                Message::Stormed(stormed) => {
                    self.keep(Report::Stormed(stormed));
                    continue;
                }
                Message::Expired => {
                    let action = self.partition.as_ref().and_then(|partition| partition.spec.watchdog);
                    Input::Expired { restart: action == Some(WatchdogAction::Restart) }
                }
                Message::Finished(end) => {
                    Input::Finished { processor, cause: end.cause, registers: Box::new(end.registers) }
                }
            };
            self.step(input, Payload::None);
        }
        self.hear_answer();
    }

    /// Tells the manager, or keeps it for the next one. A device that stays frozen freezes no more, and what is
    /// quarantined storms no more, so there are few; if they were more, the oldest is dropped.
    fn keep(&mut self, report: Report) {
        if self.unheard.len() >= MOST_UNHEARD {
            self.unheard.pop_front();
        }
        self.unheard.push_back(report);
        self.tell();
    }

    fn tell(&mut self) {
        let Some(manager) = self.lifecycle.manager() else { return };
        while let Some(report) = self.unheard.front() {
            if !self.send(manager, report.clone(), &[]) {
                return;
            }
            self.unheard.pop_front();
        }
    }

    /// What the devices do and did.
    fn statuses(&self) -> Vec<DeviceStatus> {
        let functions = self.partition.iter().flat_map(|partition| &partition.devices.functions);
        functions.map(|(_, function)| function.status_report()).collect()
    }

    fn hear_answer(&mut self) {
        if let Some(answer) = self.partition.as_ref().and_then(|partition| partition.devices.channel.take()) {
            self.step(Input::Answered(answer), Payload::None);
        }
    }

    /// Lets the lifecycle decide, does what it says, and goes on with what came of it.
    fn step(&mut self, input: Input, mut payload: Payload) {
        let mut queue = VecDeque::from([input]);
        while let Some(input) = queue.pop_front() {
            let effects = self.lifecycle.step(input);
            queue.extend(self.perform(effects, &mut payload));
        }
    }

    fn perform(&mut self, effects: Vec<Effect>, payload: &mut Payload) -> Vec<Input> {
        let mut inputs = Vec::new();
        for effect in effects {
            match effect {
                Effect::Refuse(id, reason) => {
                    self.send(id, Report::Refused { reason }, &[]);
                    self.close(id);
                }
                Effect::Close(id) => self.close(id),
                Effect::Welcome(id) => {
                    inputs.extend(self.welcome(id));
                    self.tell();
                }
                Effect::Report(say) => inputs.extend(self.say(say)),
                Effect::Launch => inputs.push(self.launch(std::mem::replace(payload, Payload::None))),
                Effect::Service => {
                    if let (Payload::Service(name), Some(partition)) = (&*payload, &self.partition) {
                        partition.service(name);
                    }
                }
                Effect::Type => {
                    if let (Payload::Input(bytes), Some(partition)) = (&*payload, &self.partition) {
                        partition
                            .devices
                            .console
                            .input(bytes.get(..bytes.len().min(LARGEST_INPUT)).unwrap_or_default());
                    }
                }
                Effect::Ask => {
                    if let Some(partition) = &self.partition {
                        inputs.extend(self.say(Say::Channel(partition.devices.channel.ask())));
                    }
                }
                Effect::Press => {
                    if let Some(partition) = &self.partition {
                        partition.devices.power.press();
                    }
                }
                Effect::Run => self.each(crate::vcpu::Handle::run),
                Effect::Nmi => self.each(crate::vcpu::Handle::nmi),
                Effect::Halt => self.each(crate::vcpu::Handle::stop),
                Effect::Conclude(last) => {
                    if let Some(partition) = &self.partition {
                        partition.record.conclude(&last);
                    }
                    let last = Box::new(last);
                    self.ended = Some(last.clone());
                    inputs.extend(self.report(Report::Final(last), &[]));
                }
                Effect::Wait(time) => self.deadline = time.and_then(|time| Instant::now().checked_add(time)),
                Effect::Exit(status) => self.status = Some(status),
            }
        }
        inputs
    }

    fn each(&self, act: impl Fn(&crate::vcpu::Handle)) {
        self.partition.iter().flat_map(|partition| &partition.processors).for_each(act);
    }

    fn launch(&mut self, payload: Payload) -> Input {
        let Payload::Launch(spec, descriptors) = payload else {
            return Input::NotLaunched { reason: "the launch came without a specification".to_owned() };
        };
        match Partition::launch(spec, descriptors, &self.mailbox, &self.messages) {
            Ok(partition) => {
                for (device, token) in partition.devices.timed.iter().zip(TIMED..FIRST_CONNECTION) {
                    if let Err(error) = add(&self.epoll, device.descriptor(), token) {
                        return Input::NotLaunched {
                            reason: format!("a device's event cannot be waited for: {error}"),
                        };
                    }
                }
                let processors = partition.processors.len();
                let _ = RECORD.set(Arc::clone(&partition.record));
                self.partition = Some(partition);
                Input::Launched { processors }
            }
            Err(failure) => Input::NotLaunched { reason: chain(&failure) },
        }
    }

    fn welcome(&self, id: Connection) -> Option<Input> {
        let welcome = Welcome {
            phase: self.lifecycle.phase(),
            spec: self.partition.as_ref().map(|partition| partition.spec.clone()),
            ended: self.ended.clone(),
        };
        let descriptors = self.partition.as_ref().map(Partition::descriptors).unwrap_or_default();
        (!self.send(id, Report::Welcome(welcome), &descriptors)).then_some(Input::Lost(id))
    }

    fn say(&self, say: Say) -> Option<Input> {
        match say {
            Say::Ready => {
                let descriptors = self.partition.as_ref().map(Partition::processor_descriptors).unwrap_or_default();
                self.report(Report::Ready, &descriptors)
            }
            Say::Failed(reason) => self.report(Report::Failed { reason }, &[]),
            Say::Running => self.report(Report::Running, &[]),
            Say::Channel(answer) => self.report(Report::Channel(answer), &[]),
            Say::Final(last) => self.report(Report::Final(Box::new(last)), &[]),
            Say::Pong => self.report(Report::Pong, &[]),
            Say::Devices => self.report(
                Report::Devices {
                    devices: self.statuses(),
                    lines: self.partition.as_ref().map(Partition::lines).unwrap_or_default(),
                },
                &[],
            ),
        }
    }

    /// Reports to the manager, if there is one. One that does not take it is lost.
    fn report(&self, report: Report, descriptors: &[BorrowedFd<'_>]) -> Option<Input> {
        let manager = self.lifecycle.manager()?;
        (!self.send(manager, report, descriptors)).then_some(Input::Lost(manager))
    }

    fn send(&self, id: Connection, report: Report, descriptors: &[BorrowedFd<'_>]) -> bool {
        let packet = Packet::new(self.lifecycle.epoch(), report);
        self.socket(id).is_some_and(|socket| packet::send(socket, &packet, descriptors).is_ok())
    }
}

/// Whether a manager's epoch can be: epochs are about the milliseconds since 1970, and only grow.
fn is_plausible(highest: u64, epoch: u64) -> bool {
    let most = if highest == 0 { LARGEST_FIRST_EPOCH } else { highest.saturating_add(LARGEST_STEP) };
    epoch <= most.min(LARGEST_EPOCH)
}

/// What a request asks for, and what comes with it. Descriptors where none belong are closed.
fn sort(request: Request, descriptors: Vec<OwnedFd>) -> (Asked, Payload) {
    let asked = match request {
        Request::Launch(spec) => return (Asked::Launch, Payload::Launch(spec, descriptors)),
        Request::Input(bytes) => return (Asked::Input, Payload::Input(bytes)),
        Request::Hello => Asked::Hello,
        Request::Start => Asked::Start,
        Request::Ask => Asked::Ask,
        Request::PowerButton => Asked::PowerButton,
        Request::Nmi => Asked::Nmi,
        Request::Stop => Asked::Stop,
        Request::Acknowledge => Asked::Acknowledge,
        Request::Ping => Asked::Ping,
        Request::Devices => Asked::Devices,
        Request::Service { device } => return (Asked::Service, Payload::Service(device)),
    };
    (asked, Payload::None)
}

fn add(epoll: &OwnedFd, to: impl AsFd, data: u64) -> io::Result<()> {
    Ok(epoll::add(epoll, to, epoll::EventData::new_u64(data), epoll::EventFlags::IN)?)
}

/// Leaves a connection so that the other side can still read what was sent: a Unix socket that is closed
/// with unread packets resets the connection.
fn leave(socket: &OwnedFd) {
    let _ = rustix::net::shutdown(socket, Shutdown::Read);
    let mut bytes = [0; 1];
    while rustix::net::recv(socket, &mut bytes, rustix::net::RecvFlags::DONTWAIT).is_ok_and(|(length, _)| length > 0) {}
}

/// An error and what caused it, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wild_epochs_are_not_believed() {
        let today = 1_800_000_000_000;
        assert!(is_plausible(0, 0) && is_plausible(0, today) && !is_plausible(0, u64::MAX));
        assert!(is_plausible(today, today + 1) && is_plausible(today, today - 1));
        assert!(is_plausible(today, today + LARGEST_STEP) && !is_plausible(today, today + LARGEST_STEP + 1));
        assert!(!is_plausible(LARGEST_EPOCH, LARGEST_EPOCH + 1));
    }
}
