//! Devices and their interrupt sources: asked of the partitions' processes, since the guests drive and route them.

use super::{Driver, answer};
use crate::clock;
use crate::message::{Refusal, Reply};
use frame::api::PartitionRow;
use frame::code::Code;
use frame::device_row::{self, DeviceRow};
use frame::interrupt::{self, InterruptRow};
use frame::launch::LaunchSpec;
use frame::name::Name;
use frame::wire::{DeviceStatus, LineStatus, Request};
use std::collections::BTreeSet;

/// How long partitions may take to answer, milliseconds.
const PATIENCE_MS: u64 = 2_000;
/// Most questions that are open at once; more are refused.
const MOST_QUESTIONS: usize = 64;

/// Somebody who asks, and what was found for them so far.
#[derive(Debug)]
pub enum Asker {
    /// For interrupt sources.
    Interrupts(Vec<InterruptRow>, Reply<Vec<InterruptRow>>),
    /// For devices.
    Devices(Vec<DeviceRow>, Reply<Vec<DeviceRow>>),
}

impl Asker {
    fn refuse(self, refusal: Refusal) {
        // Whoever asked may be gone.
        match self {
            Self::Interrupts(_, reply) => drop(reply.send(Err(refusal))),
            Self::Devices(_, reply) => drop(reply.send(Err(refusal))),
        }
    }

    fn hear(&mut self, spec: &LaunchSpec, statuses: &[DeviceStatus], lines: &[LineStatus]) {
        match self {
            Self::Interrupts(rows, _) => rows.extend(interrupt::rows(spec, statuses, lines)),
            Self::Devices(rows, _) => rows.extend(device_row::rows(spec, statuses)),
        }
    }
}

/// A question that is open.
#[derive(Debug)]
pub struct Question {
    about: Option<Name>,
    missing: BTreeSet<Name>,
    until: u64,
    asker: Asker,
}

impl Question {
    /// When it is answered in any case.
    pub fn deadline(&self) -> u64 {
        self.until
    }

    fn answer(self) {
        let silent = self.about.filter(|name| self.missing.contains(name));
        match (silent, self.asker) {
            (Some(name), asker) => asker.refuse(Refusal::failed(format!(
                "the process of partition {name} did not say in {PATIENCE_MS} ms; it is stopped or starved"
            ))),
            (None, Asker::Interrupts(mut rows, reply)) => {
                rows.sort_by_key(|row| row.source);
                drop(reply.send(Ok(rows)));
            }
            (None, Asker::Devices(mut rows, reply)) => {
                rows.sort_by(|one, two| (&one.partition, one.slot).cmp(&(&two.partition, two.slot)));
                drop(reply.send(Ok(rows)));
            }
        }
    }
}

impl Driver {
    /// Asks the processes of one partition, or of all that run.
    pub(super) fn ask(&mut self, about: Option<Name>, asker: Asker) {
        if let Some(name) = about.as_ref().filter(|name| !self.entries.contains_key(*name)) {
            return asker.refuse(Refusal::unknown(name));
        }
        if self.questions.len() >= MOST_QUESTIONS {
            return asker.refuse(Refusal::conflict("too many ask for devices at once; try again"));
        }
        let wanted = |name: &Name| about.as_ref().is_none_or(|about| about == name);
        let mut missing = BTreeSet::new();
        for (name, entry) in self.entries.iter().filter(|(name, _)| wanted(name)) {
            // Those that are asked already answer all who ask.
            let asked = self.questions.iter().any(|question| question.missing.contains(name));
            let Some(process) = entry.process.as_ref().filter(|process| process.spec.is_some()) else {
                continue;
            };
            if asked || process.send(self.epoch, Request::Devices, &[]).is_ok() {
                missing.insert(name.clone());
            }
        }
        let until = clock::now().saturating_add(PATIENCE_MS);
        self.questions.push(Question { about, missing, until, asker });
        self.settle_questions(0);
    }

    /// Tells a partition's process that a device was serviced.
    pub(super) fn service(&mut self, name: &Name, device: &Name) -> Result<PartitionRow, Refusal> {
        let entry = self.entries.get(name).ok_or_else(|| Refusal::unknown(name))?;
        let Some((process, spec)) = entry.process.as_ref().and_then(|process| Some((process, process.spec.as_ref()?)))
        else {
            let message = format!("partition {name} does not run: its devices work again when it is activated");
            return Err(Refusal::conflict(message));
        };
        if !spec.devices.iter().any(|known| known.name == *device) {
            let devices: Vec<&str> = spec.devices.iter().map(|known| known.name.as_str()).collect();
            let message = format!("partition {name} has no device {device}; it has: {}", devices.join(", "));
            return Err(Refusal { status: 404, message });
        }
        process.send(self.epoch, Request::Service { device: device.to_string() }, &[]).map_err(|error| {
            Refusal::failed(format!("the process of partition {name} could not be told: {error}; try again"))
        })?;
        let row = answer::row(entry);
        let text = format!("device {device} of partition {name} was serviced");
        self.raise(Code::DeviceServiced, vec![name.clone()], text, serde_json::json!({ "device": device }));
        Ok(row)
    }

    /// A partition's process says what its devices do.
    pub(super) fn told_devices(&mut self, name: &Name, statuses: &[DeviceStatus], lines: &[LineStatus]) {
        let process = self.entries.get(name).and_then(|entry| entry.process.as_ref());
        let Some(spec) = process.and_then(|process| process.spec.as_ref()) else { return };
        for question in &mut self.questions {
            if question.missing.remove(name) {
                question.asker.hear(spec, statuses, lines);
            }
        }
        self.settle_questions(0);
    }

    /// Answers the questions that are complete, or whose time is over at `now`.
    pub(super) fn settle_questions(&mut self, now: u64) {
        let (done, open): (Vec<Question>, Vec<Question>) = std::mem::take(&mut self.questions)
            .into_iter()
            .partition(|question| question.missing.is_empty() || question.until <= now);
        self.questions = open;
        done.into_iter().for_each(Question::answer);
    }
}
