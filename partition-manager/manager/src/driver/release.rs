//! Giving up what belonged to a process, and what belonged to a partition.

use super::Driver;
use super::make::remove_socket;
use crate::cgroup::group;
use crate::clock;
use frame::declare::Console;
use frame::name::Name;
use frame::step::Step;
use std::path::PathBuf;

/// First delay before a busy group is removed again, milliseconds.
const RETRY_MS: u64 = 10;
/// Attempts to remove a busy group.
const MOST_TRIES: u32 = 40;

/// A group that is to be removed.
#[derive(Debug)]
pub struct Doomed {
    /// Whose it was.
    pub partition: Option<Name>,
    /// Its directory.
    pub directory: PathBuf,
    /// When to try, milliseconds of the monotonic clock.
    pub at: u64,
    /// Attempts so far.
    pub tries: u32,
}

impl Driver {
    /// Gives up the process of a partition, which has ended, and all that was only its own.
    pub(super) fn reap(&mut self, name: &Name) {
        self.end_calls(name);
        if let Err(error) = self.journal.reaped(name) {
            tracing::error!("partition {name}: {error}");
        }
        let Some(entry) = self.entries.get_mut(name) else { return };
        let ports = entry.kept.declared.console.iter().flat_map(Console::names);
        let mut sockets: Vec<PathBuf> = ports.map(|port| self.settings.root.console_port(name, &port)).collect();
        sockets.extend([self.settings.root.partition_socket(name), self.settings.root.vsock(name)]);
        if let Some(mut process) = entry.process.take() {
            self.watches.remove(&process.end);
            if let Some(link) = &process.link {
                self.watches.remove(&link.token);
            }
            if let Some(child) = &mut process.child {
                // It has ended; this frees its number.
                let _ = child.try_wait();
            }
        }
        for socket in sockets {
            if let Err(error) = remove_socket(&socket) {
                tracing::warn!("partition {name}: {error:#}");
            }
        }
    }

    /// Gives up what a partition owned.
    pub(super) fn release(&mut self, name: &Name) {
        if let Err(error) = self.journal.step(name, &Step::Release) {
            tracing::error!("partition {name}: {error}");
        }
        if let Some(entry) = self.entries.get_mut(name) {
            entry.kept.plan = None;
            entry.kept.started = None;
        }
        self.store(name);
        self.to_make.retain(|one| one != name);
        let now = clock::now();
        self.groups.forget(name);
        for directory in self.groups.of(name) {
            self.doom(Some(name.clone()), directory, now);
        }
        if !self.settings.frame.switches.is_empty() {
            self.sweep();
        }
        self.remove_doomed(now);
        self.clear_steps(name);
        self.share_again();
        self.steer_soon();
    }

    /// Removes the bridges that no partition uses any more, or that a killed manager left.
    pub(super) fn sweep(&self) {
        if let Err(error) = self.switches.sweep() {
            tracing::error!("a bridge of a switch stays: {error}");
        }
    }

    pub(super) fn doom(&mut self, partition: Option<Name>, directory: PathBuf, now: u64) {
        if !self.doomed.iter().any(|doomed| doomed.directory == directory) {
            self.doomed.push(Doomed { partition, directory, at: now, tries: 0 });
        }
    }

    /// Removes the groups whose time has come.
    pub(super) fn remove_doomed(&mut self, now: u64) {
        let mut gone = Vec::new();
        self.doomed.retain_mut(|doomed| {
            if doomed.at > now {
                return true;
            }
            match group::remove(&doomed.directory) {
                Ok(false) if doomed.tries < MOST_TRIES => {
                    doomed.at = now + (RETRY_MS << doomed.tries.min(6));
                    doomed.tries += 1;
                    return true;
                }
                Ok(true) => {}
                Ok(false) => tracing::error!("the cgroup {} stays: it is busy", doomed.directory.display()),
                Err(error) => tracing::error!("{error}: {}", error.source),
            }
            gone.extend(doomed.partition.clone());
            false
        });
        for name in gone {
            self.clear_steps(&name);
        }
    }

    /// Once nothing of an inactive partition is left on the host, its steps are of no more use.
    fn clear_steps(&mut self, name: &Name) {
        let inactive = self.entries.get(name).is_none_or(|entry| !entry.kept.lifecycle.is_active());
        let left = self.doomed.iter().any(|doomed| doomed.partition.as_ref() == Some(name));
        if inactive && !left {
            if let Err(error) = self.journal.clear_steps(name) {
                tracing::error!("partition {name}: {error}");
            }
            // One that is no longer declared is forgotten with it.
            if self.entries.get(name).is_some_and(|entry| entry.declared.is_none()) {
                self.entries.remove(name);
                if let Err(error) = self.journal.forget(name) {
                    tracing::error!("partition {name}: {error}");
                }
            }
        }
    }
}
