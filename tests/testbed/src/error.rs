//! Why a testbed could not do what was asked.

use std::path::PathBuf;
use std::time::Duration;

/// What happened, to what, why, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A piece that `tests/testbed/provision` makes ready is not there.
    #[error("the testbed is not provisioned: {what}; run tests/testbed/provision")]
    NotProvisioned {
        /// What is missing, and where it was looked for.
        what: String,
    },
    /// Not all four binaries are where they are looked for.
    #[error("not all of {binaries} are in {places}: build them with `cargo build --release`")]
    NotBuilt {
        /// Their names.
        binaries: String,
        /// The directories that were looked into.
        places: String,
    },
    /// A file or directory could not be used.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A program of the host could not be used.
    #[error("`{program}` failed: {why}")]
    Program {
        /// The program's name.
        program: String,
        /// Its own words, or the operating system's.
        why: String,
    },
    /// The module is neither built into the kernel nor among its modules.
    #[error("kernel {release} has no module `{module}`; the testbed needs a kernel package that has it")]
    Module {
        /// Name of the module, with `_` for `-`.
        module: String,
        /// The kernel's release, as `uname -r` prints it.
        release: String,
    },
    /// An entry could not be put into an initial ramdisk.
    #[error(transparent)]
    Archive(#[from] crate::cpio::Error),
    /// Another testbed runs on this machine and did not end in time.
    #[error("another testbed has held {} for {} s; wait for it or end it", path.display(), waited.as_secs())]
    Busy {
        /// The lock file.
        path: PathBuf,
        /// How long this one waited.
        waited: Duration,
    },
    /// QEMU ended, or the kernel in it did, before it was told to.
    #[error("the emulated machine ended {when} (QEMU: {status}); its console said last:\n{console}")]
    Ended {
        /// What was being done then.
        when: String,
        /// How QEMU ended: in order when the kernel in it died.
        status: String,
        /// Last lines of the console and of QEMU's own messages.
        console: String,
    },
    /// The emulated machine did not answer in time.
    #[error("no answer {when} within {} s; the console said last:\n{console}", deadline.as_secs())]
    Deadline {
        /// What was being done then.
        when: String,
        /// The time that was given.
        deadline: Duration,
        /// Last lines of the console and of QEMU's own messages.
        console: String,
    },
    /// Nothing in the emulated machine ran any more.
    #[error("the emulated machine was dead {when}: its agent was silent past {} s; the console said last:\n{console}", deadline.as_secs())]
    Dead {
        /// What was being done then.
        when: String,
        /// The time that was given.
        deadline: Duration,
        /// Last lines of the console and of QEMU's own messages.
        console: String,
    },
    /// What came over the agent's port is not an answer.
    #[error("the testbed's agent answered {what}")]
    Protocol {
        /// What was wrong with it.
        what: String,
    },
}

impl Error {
    /// Whether the emulated machine ended or stopped by itself: its kernel or the emulator died, which no process in it
    /// can bring about.
    #[must_use]
    pub const fn is_machines_end(&self) -> bool {
        matches!(self, Self::Ended { .. } | Self::Dead { .. })
    }

    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }
}
