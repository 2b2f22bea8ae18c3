//! A network namespace made ahead.
//!
//! Making one (namespaces(7)) is the longest single step of starting a jailed process, and the only one that does not
//! depend on whose it will be. So one is kept ready; where several partitions start at once, the others get theirs as
//! they begin.

use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::fs::{Mode, OFlags, open};
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// What follows the taking of a spare one is a start, which needs the processors more.
const PAUSE: Duration = Duration::from_millis(50);

/// One network namespace, empty and never used, ready to be entered.
#[derive(Debug)]
pub struct Spare {
    ready: Receiver<OwnedFd>,
}

impl Spare {
    /// Begins to make them, on a thread of its own, which ends with this or when it may not.
    ///
    /// # Errors
    /// When the host gives no thread.
    pub fn begin() -> io::Result<Self> {
        let (sender, ready) = bounded(1);
        std::thread::Builder::new().name("spare".to_owned()).spawn(move || provide(&sender))?;
        Ok(Self { ready })
    }

    /// The one that is ready, if one is. No other process was ever in it.
    #[must_use]
    pub fn take(&self) -> Option<OwnedFd> {
        self.ready.try_recv().ok()
    }
}

fn provide(sender: &Sender<OwnedFd>) {
    loop {
        let made = make().inspect_err(|error| tracing::debug!("no network namespace is made ahead: {error}"));
        let Ok(namespace) = made else { return };
        if sender.send(namespace).is_err() {
            return;
        }
        std::thread::sleep(PAUSE);
    }
}

/// Moves this thread, which owns no socket, into a new network namespace, and opens that.
fn make() -> io::Result<OwnedFd> {
    // SAFETY: changes the network namespace of this thread only.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(open("/proc/thread-self/ns/net", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_is_another_namespace_each_time() {
        let spare = Spare::begin().unwrap();
        let Ok(first) = spare.ready.recv_timeout(Duration::from_secs(30)) else {
            // Not the superuser: the thread has ended, and nothing is ever ready.
            assert!(make().is_err() && spare.take().is_none());
            return;
        };
        let second = spare.ready.recv_timeout(Duration::from_secs(30)).unwrap();
        let own = open("/proc/self/ns/net", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let number = |descriptor: &OwnedFd| rustix::fs::fstat(descriptor).unwrap().st_ino;
        let numbers = [number(&own), number(&first), number(&second)];
        assert!(numbers[0] != numbers[1] && numbers[0] != numbers[2] && numbers[1] != numbers[2], "{numbers:?}");
    }
}
