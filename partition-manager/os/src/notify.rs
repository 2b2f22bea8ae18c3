//! Service notifications (`sd_notify(3)`): how a parent knows that the daemon it keeps alive is ready and
//! answers. A daemon under systemd tells systemd the same.

use rustix::net::{AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// What a daemon says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notification {
    /// `READY=1`: it serves.
    pub ready: bool,
    /// `WATCHDOG=1`: it answers.
    pub alive: bool,
    /// `STOPPING=1`: it ends because it was asked to.
    pub stopping: bool,
}

impl Notification {
    /// What both say, together.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            ready: self.ready | other.ready,
            alive: self.alive | other.alive,
            stopping: self.stopping | other.stopping,
        }
    }
}

/// Names the socket of the parent (`sd_notify(3)`).
pub const VARIABLE: &str = "NOTIFY_SOCKET";

/// Tells the parent, if it wants to know, and never waits for it.
///
/// A parent that was stopped leaves its socket full after a few messages (`net.unix.max_dgram_qlen`, `unix(7)`),
/// and a sender that blocked there would hang with it. A message dropped then is no loss: those that are
/// queued say the same.
///
/// # Errors
/// The error of `sendto(2)`: the parent's socket is gone or may not be written to.
pub fn tell(what: &str) -> io::Result<()> {
    let Some(path) = std::env::var_os(VARIABLE) else { return Ok(()) };
    let address = match path.as_encoded_bytes() {
        [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name)?,
        _ => SocketAddrUnix::new(Path::new(&path))?,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
    match rustix::net::sendto(&socket, what.as_bytes(), rustix::net::SendFlags::NOSIGNAL, &address) {
        Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// `READY=1`: the daemon serves.
pub const READY: &str = "READY=1\n";
/// `WATCHDOG=1`: the daemon answers.
pub const WATCHDOG: &str = "WATCHDOG=1\n";
/// `STOPPING=1`: the daemon ends because it was asked to.
pub const STOPPING: &str = "STOPPING=1\n";

/// A socket on which one daemon's notifications arrive.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
}

impl Listener {
    /// Binds the socket at `path` in place of one that an earlier process left.
    ///
    /// # Errors
    /// The error of the system call that failed.
    pub fn bind(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(Self { socket })
    }

    /// Takes everything that has arrived, together.
    ///
    /// # Errors
    /// The error of `recv(2)`.
    pub fn drain(&self) -> io::Result<Notification> {
        let mut all = Notification::default();
        let mut bytes = [0; 512];
        // Bounded, so that a sender in a loop cannot keep the reader here.
        for _ in 0..64 {
            match rustix::net::recv(&self.socket, &mut bytes, RecvFlags::empty()) {
                Ok((length, _)) => {
                    let one = parse(bytes.get(..length).unwrap_or_default());
                    all = all.and(one);
                }
                Err(rustix::io::Errno::AGAIN) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(all)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn parse(bytes: &[u8]) -> Notification {
    let says = |what: &[u8]| bytes.split(|&b| b == b'\n').any(|line| line == what);
    Notification { ready: says(b"READY=1"), alive: says(b"WATCHDOG=1"), stopping: says(b"STOPPING=1") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_a_daemon_says() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("n");
        drop(Listener::bind(&path).unwrap());
        let listener = Listener::bind(&path).unwrap();
        assert_eq!(listener.drain().unwrap(), Notification::default());
        let sender = std::os::unix::net::UnixDatagram::unbound().unwrap();
        sender.send_to(b"READY=1\nSTATUS=up", &path).unwrap();
        sender.send_to(b"WATCHDOG=1", &path).unwrap();
        sender.send_to(b"nonsense READY=0", &path).unwrap();
        assert_eq!(listener.drain().unwrap(), Notification { ready: true, alive: true, stopping: false });
    }
}
