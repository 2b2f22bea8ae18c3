//! What partitions say, and the ends of their processes. All of it is untrusted.

use super::Driver;
use super::entry::Process;
use crate::record::{Record, bounded, bounded_text, check_sealed};
use crate::registers::Processor;
use crate::spawn;
use anyhow::{Context, bail};
use frame::code::Code;
use frame::lifecycle::{End, FILTERED, Input};
use frame::name::Name;
use frame::wire::{Frozen, LARGEST_EPOCH, Phase, Report, Stormed, Welcome};
use os::packet::{self, PacketError};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Packets of one partition that are taken before others have their turn.
const TURN: usize = 16;

impl Driver {
    /// Takes what a partition sent.
    ///
    /// # Errors
    /// When a newer manager is in control.
    pub(super) fn hear(&mut self, name: &Name, token: u64) -> anyhow::Result<()> {
        for _ in 0..TURN {
            // The connection may have been given up because of what was just heard.
            let link = self.entries.get(name).and_then(|entry| entry.process.as_ref()?.link.as_ref());
            let Some(link) = link.filter(|link| link.token == token) else { return Ok(()) };
            match packet::receive_now::<Report>(&link.socket) {
                Ok((packet, descriptors)) => self.heard(name, packet.epoch, packet.message, descriptors)?,
                Err(PacketError::NotReady) => break,
                Err(error) => {
                    tracing::debug!("partition {name}: the connection is lost: {error}");
                    self.disconnect(name);
                    return Ok(());
                }
            }
        }
        let link = self.entries.get(name).and_then(|entry| entry.process.as_ref()?.link.as_ref());
        if let Some(link) = link.filter(|link| link.token == token)
            && let Err(error) = self.poller.again(&link.socket, token)
        {
            tracing::warn!("partition {name}: its connection cannot be watched: {error}");
            self.disconnect(name);
        }
        Ok(())
    }

    fn heard(&mut self, name: &Name, epoch: u64, report: Report, descriptors: Vec<OwnedFd>) -> anyhow::Result<()> {
        match report {
            Report::Welcome(welcome) => self.welcomed(name, welcome, descriptors),
            Report::Refused { reason } => {
                if self.journal.epoch()?.is_some_and(|epoch| epoch > self.epoch) {
                    bail!("a newer manager is in control; this one ends and leaves everything to it");
                }
                tracing::error!("partition {name} refuses this manager: {}", bounded_text(reason));
                self.disconnect(name);
                self.pass(epoch);
            }
            Report::Ready => match self.hold_processors(name, descriptors).and_then(|()| self.check_jail(name)) {
                Ok(()) => self.apply(name, Input::Ready),
                Err(error) => self.apply(name, Input::Failed { reason: format!("{error:#}") }),
            },
            Report::Failed { reason } => self.apply(name, Input::Failed { reason: bounded_text(reason) }),
            Report::Running => self.apply(name, Input::Running),
            Report::Channel(answer) => self.apply(name, Input::Channel(answer)),
            Report::Final(last) => self.apply(name, Input::Ended(Box::new(bounded(*last)))),
            Report::Pong => {}
            Report::Frozen(frozen) => self.froze(name, frozen),
            Report::Stormed(stormed) => self.stormed(name, stormed),
            Report::Devices { devices, lines } => self.told_devices(name, &devices, &lines),
        }
        Ok(())
    }

    /// A device of a partition froze. Its process tells each once, and few of them: see `frame::wire`.
    fn froze(&mut self, name: &Name, frozen: Frozen) {
        let (device, reason) = (bounded_text(frozen.device), bounded_text(frozen.reason));
        let code = if frozen.permanent { Code::DeviceFailed } else { Code::DeviceFrozen };
        let text = format!("device {device} of partition {name} is frozen: {reason}");
        let data = serde_json::json!({ "device": device, "reason": reason, "permanent": frozen.permanent });
        self.raise(code, vec![name.clone()], text, data);
    }

    /// An interrupt source of a partition was quarantined. Six in an hour are the most of one source.
    fn stormed(&mut self, name: &Name, stormed: Stormed) {
        let Stormed { device, vector, rate, lasting } = stormed;
        let device = bounded_text(device);
        let code = if lasting { Code::SourceFailed } else { Code::SourceQuarantined };
        let text = format!(
            "interrupt source {vector} of device {device} of partition {name} was raised more than {} times in a second; it may {rate} times",
            u64::from(rate) * frame::storm::STORM
        );
        let data = serde_json::json!({ "device": device, "vector": vector, "rate": rate, "lasting": lasting });
        self.raise(code, vec![name.clone()], text, data);
    }

    fn hold_processors(&mut self, name: &Name, descriptors: Vec<OwnedFd>) -> anyhow::Result<()> {
        let Some(process) = self.entries.get_mut(name).and_then(|entry| entry.process.as_mut()) else {
            return Ok(());
        };
        let expected = process.spec.as_ref().map_or(0, |spec| spec.processors.len());
        if descriptors.len() != expected {
            bail!("its process sent {} virtual processors in place of {expected}", descriptors.len());
        }
        process.processors = map(descriptors)?;
        process.files.clear();
        Ok(())
    }

    fn welcomed(&mut self, name: &Name, welcome: Welcome, descriptors: Vec<OwnedFd>) {
        let Some(process) = self.entries.get_mut(name).and_then(|entry| entry.process.as_mut()) else { return };
        process.losses = 0;
        let adopted = std::mem::take(&mut process.adopted);
        let taken = if process.spec.is_none() { self.take_over(name, &welcome, descriptors) } else { Ok(()) };
        if let Err(error) = taken {
            tracing::error!("partition {name} could not be taken over: {error:#}");
            self.apply(name, Input::Failed { reason: format!("it could not be taken over: {error:#}") });
            self.kill(name);
            return;
        }
        if adopted {
            let text = format!("partition {name} was taken over from an earlier manager");
            self.raise(Code::PartitionAdopted, vec![name.clone()], text, serde_json::json!({}));
        }
        let ended = welcome.ended.map(|last| Box::new(bounded(*last)));
        self.apply(name, Input::Welcomed { phase: welcome.phase, ended });
        if let Some(starting) = &mut self.starting {
            starting.welcomed(name);
        }
    }

    /// Takes the descriptors back that an earlier manager held.
    fn take_over(&mut self, name: &Name, welcome: &Welcome, descriptors: Vec<OwnedFd>) -> anyhow::Result<()> {
        let Some(spec) = &welcome.spec else { return Ok(()) };
        spec.validate()?;
        let Some(entry) = self.entries.get_mut(name) else { return Ok(()) };
        let Some(process) = &mut entry.process else { return Ok(()) };
        let processors = if welcome.phase >= Phase::Ready { spec.processors.len() } else { 0 };
        let expected = 2 + spec.memory.len() + processors;
        if spec.name != *name || descriptors.len() < expected - processors || descriptors.len() > expected {
            bail!("it says that it is {} and hands over {} descriptors", spec.name, descriptors.len());
        }
        let mut descriptors = descriptors.into_iter();
        let (Some(record), Some(doorbell)) = (descriptors.next(), descriptors.next()) else { return Ok(()) };
        let record = Record::adopt(record).context("its record")?;
        check_doorbell(&doorbell)?;
        let mut memory = Vec::new();
        for range in &spec.memory {
            let Some(descriptor) = descriptors.next() else { break };
            check_sealed(&descriptor, range.bytes).context("its memory")?;
            memory.push(descriptor);
        }
        process.memory = memory;
        entry.slots = spec.devices.iter().map(|device| (device.name.clone(), device.slot)).collect();
        process.processors = map(descriptors)?;
        process.spec = Some(spec.clone());
        entry.processors = spec.processors.len();
        entry.record = Some(Arc::new(record));
        entry.doorbell = Some(Arc::new(doorbell));
        if entry.kept.plan.is_none() {
            self.rebuild(name, spec)?;
        }
        Ok(())
    }

    /// Begins an epoch beyond that of a partition which served a higher one. No other manager has begun it: it
    /// would be in the journal. So the journal was lost, and the host's clock went back.
    fn pass(&mut self, epoch: u64) {
        if epoch < self.epoch || epoch >= LARGEST_EPOCH {
            return;
        }
        match self.journal.begin_epoch(epoch.saturating_add(1)) {
            Ok(next) => {
                tracing::warn!("the epoch {} was served before; this manager goes on in epoch {next}", self.epoch);
                self.epoch = next;
                self.sequence = 0;
            }
            Err(error) => tracing::error!("no epoch can be begun: {error}"),
        }
    }

    /// The process of a partition has ended.
    pub(super) fn ended(&mut self, name: &Name) {
        // What it still said comes first. Its connection is not made again.
        let token = self.entries.get(name).and_then(|entry| Some(entry.process.as_ref()?.link.as_ref()?.token));
        if let Some(token) = token
            && let Err(error) = self.hear(name, token)
        {
            tracing::error!("partition {name}: {error:#}");
        }
        let Some(entry) = self.entries.get_mut(name) else { return };
        let Some(process) = &mut entry.process else { return };
        process.retry = None;
        let how = fate(process);
        let last = entry.record.as_ref().and_then(|record| {
            record.last().unwrap_or_else(|error| {
                tracing::warn!("partition {name}: {error}");
                None
            })
        });
        let registers = process.processors.iter().map(|one| one.registers().unwrap_or_default()).collect();
        self.apply(name, Input::Gone(Box::new(End { last, how, registers })));
    }
}

fn map(descriptors: impl IntoIterator<Item = OwnedFd>) -> anyhow::Result<Vec<Processor>> {
    descriptors.into_iter().map(|one| Processor::map(one).context("its virtual processors")).collect()
}

/// A doorbell is an eventfd that does not block.
fn check_doorbell(descriptor: &OwnedFd) -> anyhow::Result<()> {
    use std::os::fd::AsRawFd;
    let link = std::fs::read_link(format!("/proc/self/fd/{}", descriptor.as_raw_fd()))?;
    if link.to_string_lossy() != "anon_inode:[eventfd]" {
        bail!("its doorbell is {}", link.display());
    }
    rustix::io::ioctl_fionbio(descriptor, true)?;
    Ok(())
}

/// How a process ended.
fn fate(process: &mut Process) -> String {
    use std::os::unix::process::ExitStatusExt;
    let pid = process.identity.pid;
    let how = match process.child.as_mut().map(spawn::Child::try_wait) {
        Some(Ok(Some(status))) => spawn::describe(status.into_raw()),
        _ => spawn::fate(process.handle.descriptor(), pid),
    };
    if how == FILTERED { how + &spawn::at_call(pid) } else { how }
}
