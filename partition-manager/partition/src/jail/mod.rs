//! The jail's inner wall: what each thread of this process may still ask of the kernel.
//!
//! A guest that takes a thread over has that thread's system calls; since threads share their memory, what it can come to
//! is the calls of all classes together, and no others. Each class of thread has a table of
//! its calls with the arguments that it needs and the reason ([`monitor`], [`processor`], [`device`], and [`every`]
//! for what all need); anything else ends the whole process with `SIGSYS` (seccomp(2), `SECCOMP_RET_KILL_PROCESS`).
//! A thread installs its filter last of all that it prepares: before its guest's first instruction, and before a
//! byte of a guest reaches it. No filter can be taken off or widened again.

pub mod device;
pub mod every;
pub mod landlock;
pub mod monitor;
pub mod processor;
pub mod rule;
pub mod wall;

#[cfg(test)]
mod tests;

use rule::Call;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

/// Most system calls that a class of thread may have.
pub const MOST_CALLS: usize = 40;

/// A class of thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The main thread: it hears the manager, and keeps time for devices.
    Monitor,
    /// The thread of a virtual processor.
    Processor,
    /// The thread of a device.
    Device,
}

/// A thread cannot be jailed.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    /// Landlock is there and refuses.
    #[error("its files cannot be taken from it (Landlock)")]
    Files(#[source] std::io::Error),
    /// The kernel has no filters of system calls, or refuses this one.
    #[error("the filter of system calls cannot be installed (seccomp(2))")]
    Filter(#[from] seccompiler::Error),
}

impl Class {
    /// Every class.
    pub const ALL: [Self; 3] = [Self::Monitor, Self::Processor, Self::Device];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Monitor => "main thread",
            Self::Processor => "virtual processor",
            Self::Device => "device",
        }
    }

    /// The calls that it may do, each once.
    pub fn calls(self) -> impl Iterator<Item = &'static Call> {
        let own = match self {
            Self::Monitor => monitor::CALLS,
            Self::Processor => processor::CALLS,
            Self::Device => device::CALLS,
        };
        every::CALLS.iter().chain(own)
    }

    /// The filter, for a process whose number, as it sees itself, is `process`.
    fn filter(self, process: u32) -> Result<BpfProgram, seccompiler::Error> {
        let rules = self.calls().map(|call| Ok((call.number, rule::compiled(&call.rule, process)?)));
        let rules = rules.collect::<Result<_, seccompiler::BackendError>>()?;
        let (kill, allow) = (SeccompAction::KillProcess, SeccompAction::Allow);
        Ok(SeccompFilter::new(rules, kill, allow, TargetArch::x86_64)?.try_into()?)
    }
}

/// Leaves the calling thread only the calls of its class and no file, for good; it can gain no privilege any more
/// either (`PR_SET_NO_NEW_PRIVS`). Threads that it starts would have the same calls.
///
/// # Errors
/// When the kernel has no such filters, or refuses this one.
pub fn confine(class: Class) -> Result<(), JailError> {
    rustix::thread::set_no_new_privs(true).map_err(|errno| JailError::Files(errno.into()))?;
    landlock::shut().map_err(JailError::Files)?;
    let program = class.filter(std::process::id())?;
    Ok(seccompiler::apply_filter(&program)?)
}
