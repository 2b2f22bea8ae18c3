//! Namespaces made ahead.
//!
//! Making a network namespace (namespaces(7)) and an empty root are the longest steps of starting a jailed process, and
//! the only ones that do not depend on whose they will be. So one of each is kept ready; where several partitions start
//! at once, the others get theirs as they begin.

use crossbeam_channel::{Receiver, Sender, bounded};
use os::empty;
use rustix::fs::{Mode, OFlags, open};
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// What follows the taking of a spare one is a start, which needs the processors more.
const PAUSE: Duration = Duration::from_millis(50);

/// Namespaces that nobody was ever in.
#[derive(Debug)]
pub struct Places {
    /// A network namespace.
    pub network: OwnedFd,
    /// A namespace of mounts whose root is empty.
    pub root: OwnedFd,
}

/// Namespaces ready to be entered.
#[derive(Debug)]
pub struct Spare {
    ready: Receiver<Places>,
}

impl Spare {
    /// Begins to make them, on a thread of its own, which ends with this or when it may not.
    ///
    /// # Errors
    /// When the host gives no thread.
    pub fn begin() -> io::Result<Self> {
        let (sender, ready) = bounded(1);
        thread("spare".to_owned(), move || provide(&sender))?;
        Ok(Self { ready })
    }

    /// Those that are ready, if some are. No other process was ever in them.
    #[must_use]
    pub fn take(&self) -> Option<Places> {
        self.ready.try_recv().ok()
    }
}

fn thread<T: Send + 'static>(
    name: String,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<std::thread::JoinHandle<T>> {
    std::thread::Builder::new().name(name).spawn(work)
}

fn provide(sender: &Sender<Places>) {
    loop {
        let made = make().inspect_err(|error| tracing::debug!("no namespaces are made ahead: {error}"));
        let Ok(places) = made else { return };
        if sender.send(places).is_err() {
            return;
        }
        std::thread::sleep(PAUSE);
    }
}

/// Makes namespaces by a thread that moves into them, and ends.
fn make() -> io::Result<Places> {
    let maker = thread("spare".to_owned(), || {
        // SAFETY: changes the network namespace of this thread only, which owns no socket.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let network = open("/proc/thread-self/ns/net", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let root = empty::ahead().map_err(io::Error::other)?;
        Ok(Places { network, root })
    })?;
    maker.join().unwrap_or_else(|_| Err(io::Error::other("the thread that makes namespaces failed")))
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
        // Nor are they this process's own.
        let own =
            |kind| open(format!("/proc/self/ns/{kind}"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let number = |descriptor: &OwnedFd| rustix::fs::fstat(descriptor).unwrap().st_ino;
        let (network, mounts) = (own("net"), own("mnt"));
        for three in [[&network, &first.network, &second.network], [&mounts, &first.root, &second.root]] {
            let numbers = three.map(number);
            assert!(numbers[0] != numbers[1] && numbers[0] != numbers[2] && numbers[1] != numbers[2], "{numbers:?}");
        }
    }
}
