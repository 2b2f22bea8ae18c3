//! Declaring a running frame anew: all of it is in force, or nothing has changed.
//!
//! What is in force stands in the run directory; that file is replaced in one step, and from then on every manager
//! brings what runs to it. So one that is lost in between is finished by its successor.

use super::Driver;
use super::entry::Entry;
use crate::descriptors;
use crate::journal::Kept;
use crate::message::Refusal;
use frame::api::{ChangeAnswer, Declaration, SetRequest};
use frame::change::{self, Active, Change};
use frame::code::Code;
use frame::declare::{Frame, Partition};
use frame::lifecycle::Input;
use frame::name::Name;
use frame::plan::{Finding, adjust, plan_for, short};
use std::collections::{BTreeMap, BTreeSet};

/// Most reasons and notes that are given; the first say what is wrong.
const MOST_SAID: usize = 16;
/// Most changes that an event tells of.
const MOST_TOLD: usize = 64;

impl Driver {
    /// What is declared, and what of it waits for the next activation of what runs.
    pub(super) fn declaration(&self) -> Declaration {
        let pending = self.entries.values().filter(|entry| entry.kept.plan.is_some()).flat_map(|entry| {
            entry.declared.as_ref().map(|declared| change::pending(&entry.kept.declared, declared)).unwrap_or_default()
        });
        Declaration { frame: self.settings.frame.clone(), pending: pending.collect() }
    }

    /// Sets values of one partition.
    ///
    /// # Errors
    /// Why they cannot be set, or cannot be had now. Then nothing has changed.
    pub(super) fn set(&mut self, name: &Name, request: &SetRequest) -> Result<ChangeAnswer, Refusal> {
        if !self.entries.contains_key(name) {
            return Err(Refusal::unknown(name));
        }
        let mut frame = self.settings.frame.clone();
        let Some(partition) = frame.partitions.iter_mut().find(|partition| partition.name == *name) else {
            return Err(Refusal::conflict(format!("partition {name} is no longer declared")));
        };
        frame::set::set(partition, &request.values).map_err(|error| Refusal::conflict(error.to_string()))?;
        self.declare(frame, Some(name), false)
    }

    /// Puts `frame` in force, or with `dry_run` says only what that would do. With `exact`, that partition has to
    /// have at once what it desires of its pool.
    ///
    /// # Errors
    /// Why it cannot be. Then nothing has changed.
    pub(super) fn declare(
        &mut self,
        frame: Frame,
        exact: Option<&Name>,
        dry_run: bool,
    ) -> Result<ChangeAnswer, Refusal> {
        if self.down.is_some() {
            return Err(Refusal::conflict("the frame is being brought down"));
        }
        let answer = self.consider(&frame, exact)?;
        if dry_run || answer.changes.is_empty() {
            return Ok(answer);
        }
        self.settings
            .root
            .check(frame.partitions.iter().map(|partition| &partition.name))
            .map_err(|error| Refusal::conflict(error.to_string()))?;
        let path = self.settings.root.applied_frame();
        let text = serde_json::to_vec_pretty(&frame).map_err(|error| Refusal::failed(error.to_string()))?;
        os::private::replace(&path, &text).map_err(|error| {
            Refusal::failed(format!("nothing has changed, since {} cannot be written: {error}", path.display()))
        })?;
        self.take_on(frame, &answer.changes);
        Ok(answer)
    }

    /// What putting `frame` in force would do.
    fn consider(&mut self, frame: &Frame, exact: Option<&Name>) -> Result<ChangeAnswer, Refusal> {
        let inventory = self.host.here().map_err(|error| Refusal::failed(error.to_string()))?;
        let active = self.active();
        refuse(&change::refusals(&self.settings.frame, frame, &active))?;
        let changes = change::of_frame(&self.settings.frame, frame, &active);
        let mut owned = self.assignment();
        let adjusted = adjust(frame, &owned);
        owned.partitions.extend(adjusted.into_iter().map(|plan| (plan.name.clone(), plan)));
        let wanted = |partition: &Partition| active.contains_key(&partition.name);
        if let Err(refusals) = plan_for(frame, &inventory, &owned, &wanted) {
            refuse(&refusals)?;
        }
        if let Some(finding) = exact.and_then(|name| short(frame, &owned, name)) {
            refuse(&[finding])?;
        }
        let touched: BTreeSet<&Name> = changes.iter().filter_map(|change| change.partition.as_ref()).collect();
        let notes = touched.into_iter().filter_map(|name| short(frame, &owned, name));
        let notes = notes.take(MOST_SAID).map(|finding| finding.to_string()).collect();
        Ok(ChangeAnswer { changes, notes })
    }

    /// What runs, as the rules of a change see it.
    fn active(&self) -> BTreeMap<Name, Active<'_>> {
        let active = self.entries.iter().filter(|(_, entry)| entry.kept.lifecycle.is_active());
        let seen = active.map(|(name, entry)| {
            let plan = entry.kept.plan.as_ref();
            // Until something is assigned to it, it is still to be what is declared now.
            let declared = if plan.is_some() { &entry.kept.declared } else { entry.declaration() };
            (name.clone(), Active { declared, plan })
        });
        seen.collect()
    }

    /// Works with `frame` from now on.
    fn take_on(&mut self, frame: Frame, changes: &[Change]) {
        let mut declared: BTreeMap<Name, Partition> =
            frame.partitions.iter().map(|partition| (partition.name.clone(), partition.clone())).collect();
        let gone: Vec<Name> = self.entries.keys().filter(|name| !declared.contains_key(*name)).cloned().collect();
        for name in gone {
            self.forget(&name);
        }
        for (name, entry) in &mut self.entries {
            entry.declared = declared.remove(name);
        }
        // Those that are left are new.
        let new: Vec<Name> = declared.values().filter(|one| one.auto_start).map(|one| one.name.clone()).collect();
        self.entries.extend(declared.into_iter().map(|(name, partition)| (name, Entry::new(partition))));
        self.settings.frame = frame;
        let nodes = self.host.here().map_or(1, |inventory| inventory.nodes.len());
        if let Some(lack) = descriptors::raise(descriptors::needed(&self.settings.frame, nodes)) {
            tracing::warn!("{lack}");
        }
        self.tell_changes(changes);
        self.converge();
        for name in new {
            self.apply(&name, Input::Activate);
        }
    }

    fn tell_changes(&mut self, changes: &[Change]) {
        let partitions: BTreeSet<Name> = changes.iter().filter_map(|change| change.partition.clone()).collect();
        let now = changes.iter().filter(|change| change.when == change::When::Now).count();
        let text = format!(
            "what is declared of frame {} changed: {now} of {} change(s) at once, the others when their partitions are activated next",
            self.settings.frame.name,
            changes.len()
        );
        let told = changes.get(..changes.len().min(MOST_TOLD)).unwrap_or_default();
        let data = serde_json::json!({ "changes": told });
        self.raise(Code::FrameChanged, partitions.into_iter().collect(), text, data);
    }

    /// Forgets a partition that is not active and no longer declared. One that is active stays until it ends.
    fn forget(&mut self, name: &Name) {
        if self.entries.get(name).is_none_or(|entry| entry.kept.lifecycle.is_active()) {
            return;
        }
        if let Err(error) = self.journal.forget(name) {
            // The next manager forgets it then.
            tracing::error!("partition {name}: {error}");
        }
        if let Some(session) = self.entries.remove(name).and_then(|entry| entry.session) {
            // Whoever had it may be gone.
            let _ = session.end.send(format!("partition {name} is no longer declared"));
        }
        self.dismiss_waiters(name);
    }

    /// Brings what runs to what is declared, as far as that can change while it runs.
    pub(super) fn converge(&mut self) {
        let owned = self.assignment();
        let mut adjusted: BTreeMap<Name, _> =
            adjust(&self.settings.frame, &owned).into_iter().map(|plan| (plan.name.clone(), plan)).collect();
        let mut changed: Vec<Name> = vec![];
        for (name, entry) in &mut self.entries {
            let Some(declared) = entry.declared.as_ref().filter(|_| entry.kept.plan.is_some()) else { continue };
            let taken = change::taken(&entry.kept.declared, declared);
            let plan = adjusted.remove(name);
            if plan.is_none() && taken == entry.kept.declared {
                continue;
            }
            entry.kept.lifecycle.set_deadlines(taken.shutdown);
            entry.kept.declared = taken;
            entry.kept.plan = plan.or_else(|| entry.kept.plan.take());
            changed.push(name.clone());
        }
        let kept: Vec<&Kept> = changed.iter().filter_map(|name| Some(&self.entries.get(name)?.kept)).collect();
        if let Err(error) = self.journal.keep(kept) {
            tracing::error!("what partitions are entitled to now could not be written down: {error}");
        }
        // A manager that was lost may have written this down, and not done it.
        self.share_again();
    }
}

/// Refuses when something was found.
fn refuse(found: &[Finding]) -> Result<(), Refusal> {
    if found.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = found.iter().take(MOST_SAID).map(ToString::to_string).collect();
    let more = found.len().saturating_sub(MOST_SAID);
    let more = if more > 0 { format!("\nand {more} more") } else { String::new() };
    Err(Refusal::conflict(format!("{}{more}", lines.join("\n"))))
}
