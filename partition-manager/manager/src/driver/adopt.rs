//! Taking over: what an earlier manager of this frame left running, and what it left behind.

use super::entry::{Entry, Process};
use super::{Driver, Watch};
use crate::cgroup::group;
use crate::clock;
use anyhow::Context;
use frame::code::Code;
use frame::lifecycle::Input;
use frame::name::Name;
use frame::root::Root;
use frame::step::{Holdings, holdings};
use os::process::{Handle, Identity};
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::path::Path;

/// How long partitions that are taken over have to say where they are before the API opens, milliseconds.
const PATIENCE_MS: u64 = 2_000;

/// A manager that has not opened its API yet.
#[derive(Debug)]
pub struct Starting {
    /// Partitions that live and have not answered.
    silent: BTreeSet<Name>,
    until: u64,
}

impl Starting {
    /// When it opens at the latest, milliseconds of the monotonic clock.
    pub fn deadline(&self) -> Option<u64> {
        Some(self.until)
    }

    /// Whether it may open.
    pub fn is_over(&self, now: u64) -> bool {
        self.silent.is_empty() || now >= self.until
    }

    /// A partition said where it is.
    pub fn welcomed(&mut self, name: &Name) {
        self.silent.remove(name);
    }
}

impl Driver {
    /// Takes over what lives, gives up what does not. `found` are sentences about what was put aside; `lost`
    /// says whether the journal was.
    pub(super) fn adopt(&mut self, mut found: Vec<String>, lost: bool) -> anyhow::Result<()> {
        for declared in &self.settings.frame.partitions {
            self.entries.insert(declared.name.clone(), Entry::new(declared.clone()));
        }
        let now = clock::now();
        let mut lives: Vec<(Name, bool, Holdings)> = Vec::new();
        for kept in self.journal.partitions().context("the journal cannot be read")? {
            let name = kept.declared.name.clone();
            let held = holdings(&self.journal.steps(&name).context("the journal cannot be read")?);
            let declared = self.settings.frame.partitions.iter().find(|one| one.name == name).cloned();
            if declared.is_none() && !kept.lifecycle.is_active() {
                if let Err(error) = self.journal.forget(&name) {
                    tracing::error!("partition {name}: {error}");
                }
                continue;
            }
            let mut entry = Entry { declared, ..Entry::kept(kept) };
            entry.process = self.living(&name, &held)?;
            let alive = entry.process.is_some();
            self.entries.insert(name.clone(), entry);
            lives.push((name, alive, held));
        }
        // Without a journal of this boot, what runs is known by what it says of itself.
        let unwritten = if lost { self.find_unwritten() } else { vec![] };
        if !unwritten.is_empty() {
            // The frame was up: what does not run was not to, or has ended.
            if let Err(error) = self.journal.set_fact("started", &true) {
                tracing::error!("{error}");
            }
            let names: Vec<&str> = unwritten.iter().map(Name::as_str).collect();
            found.push(format!("the processes of {} were found and are taken over", names.join(", ")));
        }
        // Other processes that nobody wrote down end before their partitions are started again.
        found.extend(self.end_strangers());
        let mut silent = BTreeSet::new();
        for name in unwritten {
            self.connect(&name);
            silent.insert(name);
        }
        for (name, alive, held) in lives {
            self.apply(&name, Input::Restored { alive });
            if alive {
                silent.insert(name.clone());
                self.connect(&name);
            } else if !self.entries.get(&name).is_some_and(|entry| entry.kept.lifecycle.is_active()) {
                for directory in held.groups {
                    self.doom(Some(name.clone()), directory.into(), now);
                }
            }
        }
        found.extend(self.remove_strange_groups(now));
        found.extend(self.remove_strange_sockets());
        self.starting = Some(Starting { silent, until: now + PATIENCE_MS });
        if !found.is_empty() {
            let text = format!("an earlier run left something behind: {}", found.join("; "));
            self.raise(Code::LeftoverRemoved, vec![], text, serde_json::json!({ "found": found }));
        }
        if self.journal.fact::<bool>("down")?.unwrap_or(false) {
            self.begin_down(frame::api::DownRequest::default(), None);
        } else if !self.journal.fact::<bool>("started")?.unwrap_or(false) {
            self.start_by_themselves();
        }
        self.remove_doomed(now);
        Ok(())
    }

    /// The process of a partition, if it is that very one and lives.
    fn living(&mut self, name: &Name, held: &Holdings) -> anyhow::Result<Option<Process>> {
        let Some(process) = &held.process else { return Ok(None) };
        let identity = Identity { boot: process.boot.clone(), pid: process.pid, start: process.start };
        if identity.boot != self.boot {
            return Ok(None);
        }
        let Some(handle) = identity.open()? else { return Ok(None) };
        // One that has ended and was not waited for by its new parent yet is heard of at once.
        let end = self.poller.watch(handle.descriptor())?;
        self.watches.insert(end, Watch::End(name.clone()));
        Ok(Some(Process { adopted: true, ..Process::new(identity, handle, end) }))
    }

    /// Partitions that start with the frame are activated: all together, so that each counts the others.
    fn start_by_themselves(&mut self) {
        let names: Vec<Name> =
            self.settings.frame.partitions.iter().filter(|one| one.auto_start).map(|one| one.name.clone()).collect();
        for name in names {
            self.apply(&name, Input::Activate);
        }
        if let Err(error) = self.journal.set_fact("started", &true) {
            tracing::error!("{error}");
        }
    }

    /// The API is open.
    pub(super) fn started(&mut self) {
        let running = self.entries.values().filter(|entry| entry.process.is_some()).count();
        let text = format!("the partition manager is in control, with {running} partition(s) running");
        let data = serde_json::json!({ "epoch": self.epoch, "pid": std::process::id(), "lacks": self.lacks });
        self.raise(Code::ManagerStarted, vec![], text, data);
    }

    /// Ends processes of this frame that the journal does not know: a manager was lost between starting
    /// them and writing that down, or the journal was put aside.
    fn end_strangers(&self) -> Vec<String> {
        let known: BTreeSet<u32> =
            self.entries.values().filter_map(|entry| Some(entry.process.as_ref()?.identity.pid)).collect();
        let mut strangers: BTreeSet<u32> = titled(&format!("partition {}/", self.tag)).into_iter().collect();
        for (_, directory) in self.groups.present() {
            strangers.extend(group::members(&directory));
        }
        let mut found = Vec::new();
        for pid in strangers.difference(&known) {
            // A number may have passed to another process since it was read; the handle holds one, and it is
            // looked at again.
            let Ok(Some(handle)) = Handle::open(*pid) else { continue };
            let ours = title(*pid).starts_with(&format!("partition {}/", self.tag))
                || self.groups.present().iter().any(|(_, directory)| group::members(directory).contains(pid));
            if ours {
                match handle.signal(Signal::KILL) {
                    Ok(()) => found.push(format!("process {pid} was ended")),
                    Err(error) => tracing::error!("process {pid} was left behind and cannot be ended: {error}"),
                }
            }
        }
        found
    }

    fn remove_strange_groups(&mut self, now: u64) -> Vec<String> {
        let mut found = Vec::new();
        for (name, directory) in self.groups.present() {
            let active = Name::new(name)
                .is_ok_and(|name| self.entries.get(&name).is_some_and(|entry| entry.kept.lifecycle.is_active()));
            let known = self.doomed.iter().any(|doomed| doomed.directory == directory);
            if !active && !known {
                found.push(format!("the cgroup {} was removed", directory.display()));
                self.doom(None, directory, now);
            }
        }
        found
    }

    fn remove_strange_sockets(&self) -> Vec<String> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(self.settings.root.partitions()).into_iter().flatten().flatten() {
            let file = entry.file_name().to_string_lossy().into_owned();
            // Others are of programs that guests call, and theirs to remove.
            let Some(name) = Root::partition_of(&file) else { continue };
            let used = self.entries.get(&name).is_some_and(|entry| entry.process.is_some());
            if !used && std::fs::remove_file(entry.path()).is_ok() {
                found.push(format!("the socket {} was removed", entry.path().display()));
            }
        }
        found
    }
}

/// The processes whose title, the first word of their command line, begins with `text`.
pub(super) fn titled(text: &str) -> Vec<u32> {
    let numbers = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    numbers.filter(|&pid| title(pid).starts_with(text)).collect()
}

pub(super) fn title(pid: u32) -> String {
    let bytes = std::fs::read(Path::new("/proc").join(pid.to_string()).join("cmdline")).unwrap_or_default();
    let first = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(first).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt;

    #[test]
    fn processes_are_found_by_their_title() {
        let text = format!("partition test.{}/", std::process::id());
        assert!(titled(&text).is_empty());
        let mut child = std::process::Command::new("sleep").arg0(format!("{text}a")).arg("1000").spawn().unwrap();
        // The kernel lets the parent go on a moment before the new title can be read.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        let mut found = titled(&text);
        while found.is_empty() && std::time::Instant::now() < deadline {
            std::thread::yield_now();
            found = titled(&text);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(found, [child.id()]);
    }

    #[test]
    fn the_api_opens_when_all_have_answered_or_too_late() {
        let name = Name::new("a").unwrap();
        let mut starting = Starting { silent: BTreeSet::from([name.clone()]), until: 100 };
        assert!(!starting.is_over(99) && starting.is_over(100));
        starting.welcomed(&name);
        assert!(starting.is_over(0));
    }
}
