//! The calls of guests: who listens on a host's port for a partition is connected to it.
//!
//! A guest's port N of the host is the Unix socket `NAME.vsock_N` beside the partition's own sockets, which a program of
//! the host makes. The partition's process opens no path; it asks over a connection on which this manager wrote that it
//! serves ([`frame::vsock`]), and is given the connected socket. All of that is kept by the process alone: a manager
//! that takes it over connects anew.

use super::{Driver, Watch};
use crate::clock;
use crate::poller::Token;
use frame::name::Name;
use frame::vsock::{Answer, Call, MOST_CALLS, RECORD, SERVE};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType,
};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Most calls of one guest that are answered in a [`SPAN_MS`]; others wait.
const MOST_IN_SPAN: u32 = 100;
const SPAN_MS: u64 = 1_000;

/// The connection over which a partition's process asks.
#[derive(Debug)]
pub struct Calls {
    socket: OwnedFd,
    /// Watches it.
    pub token: Token,
    /// When the span began, milliseconds of the monotonic clock, and the calls since.
    since: u64,
    count: u32,
    /// When it is listened to again, likewise.
    pub again: Option<u64>,
}

impl Driver {
    /// Says to the socket device of a partition, if it has one, that its guest's calls are answered here.
    pub(super) fn serve_calls(&mut self, name: &Name) {
        let Some(entry) = self.entries.get_mut(name) else { return };
        let (declared, Some(process)) = (&entry.kept.declared, entry.process.as_mut()) else { return };
        if declared.vsock.is_none() || process.calls.is_some() {
            return;
        }
        let path = self.settings.root.vsock(name);
        let served = connect(&path).and_then(|socket| {
            rustix::net::send(&socket, SERVE, SendFlags::NOSIGNAL)?;
            Ok((self.poller.watch(&socket)?, socket))
        });
        match served {
            Ok((token, socket)) => {
                process.calls = Some(Calls { socket, token, since: clock::now(), count: 0, again: None });
                self.watches.insert(token, Watch::Calls(name.clone()));
            }
            Err(error) => {
                tracing::warn!("partition {name}: its guest can call nobody: {}: {error}", path.display());
            }
        }
    }

    /// Answers what a partition's process asks.
    pub(super) fn answer_calls(&mut self, name: &Name) {
        let now = clock::now();
        let root = &self.settings.root;
        let process = self.entries.get_mut(name).and_then(|entry| entry.process.as_mut());
        let Some(calls) = process.and_then(|process| process.calls.as_mut()) else { return };
        if now.saturating_sub(calls.since) >= SPAN_MS {
            (calls.since, calls.count) = (now, 0);
        }
        calls.again = None;
        for _ in 0..MOST_CALLS {
            if calls.count >= MOST_IN_SPAN {
                calls.again = Some(calls.since.saturating_add(SPAN_MS));
                return;
            }
            let outcome = next(&calls.socket).and_then(|call| {
                calls.count += 1;
                let path = root.vsock_port(name, call.port);
                let connected = connect(&path);
                match &connected {
                    Ok(_) => tracing::debug!("partition {name}: its guest was connected to {}", path.display()),
                    Err(error) => tracing::debug!("partition {name}: its guest called {}: {error}", path.display()),
                }
                answer(&calls.socket, call, &connected)
            });
            match outcome {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    tracing::debug!("partition {name}: its guest's calls are not answered any more: {error}");
                    return self.end_calls(name);
                }
            }
        }
        if self.poller.again(&calls.socket, calls.token).is_err() {
            self.end_calls(name);
        }
    }

    /// No longer answers the calls of a partition's guest.
    pub(super) fn end_calls(&mut self, name: &Name) {
        let process = self.entries.get_mut(name).and_then(|entry| entry.process.as_mut());
        if let Some(calls) = process.and_then(|process| process.calls.take()) {
            self.watches.remove(&calls.token);
        }
    }
}

/// Connects to the socket at `path` without waiting.
fn connect(path: &Path) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// The next call.
fn next(socket: &OwnedFd) -> io::Result<Call> {
    let mut bytes = [0; RECORD];
    match rustix::net::recv(socket, &mut bytes, RecvFlags::DONTWAIT)? {
        (RECORD, _) => Ok(Call::parse(bytes)),
        (0, _) => Err(io::ErrorKind::UnexpectedEof.into()),
        // The device writes each whole.
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Sends the answer to a call. One who does not take answers gets none any more.
fn answer(socket: &OwnedFd, call: Call, connected: &io::Result<OwnedFd>) -> io::Result<()> {
    let error = connected.as_ref().err().map_or(0, |error| error.raw_os_error().unwrap_or(libc::EIO).unsigned_abs());
    let bytes = Answer { id: call.id, error }.bytes();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    let sockets = connected.as_ref().map(|socket| [socket.as_fd()]);
    if let Ok(sockets) = &sockets {
        beside.push(SendAncillaryMessage::ScmRights(sockets));
    }
    match rustix::net::sendmsg(socket, &[IoSlice::new(&bytes)], &mut beside, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
    {
        Ok(RECORD) => Ok(()),
        Ok(_) | Err(Errno::AGAIN) => Err(io::Error::other("it does not take its answers")),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixListener, UnixStream};

    #[test]
    fn a_call_is_answered_with_a_socket_or_the_reason() {
        let directory = tempfile::tempdir().unwrap();
        let (device, manager) = UnixStream::pair().unwrap();
        let (device, manager) = (OwnedFd::from(device), OwnedFd::from(manager));
        assert_eq!(next(&manager).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let call = Call { id: 3, port: 77 };
        rustix::io::write(&device, &call.bytes()).unwrap();
        assert_eq!(next(&manager).unwrap(), call);
        let refused = connect(&directory.path().join("nobody"));
        answer(&manager, call, &refused).unwrap();
        let mut bytes = [0; RECORD];
        rustix::io::read(&device, &mut bytes).unwrap();
        assert_eq!(Answer::parse(bytes), Answer { id: 3, error: libc::ENOENT.unsigned_abs() });
        let listener = UnixListener::bind(directory.path().join("s")).unwrap();
        answer(&manager, call, &connect(&directory.path().join("s"))).unwrap();
        rustix::io::read(&device, &mut bytes).unwrap();
        assert_eq!(Answer::parse(bytes).error, 0);
        listener.accept().unwrap();
        rustix::io::write(&device, b"odd").unwrap();
        assert_eq!(next(&manager).unwrap_err().kind(), io::ErrorKind::InvalidData);
        drop(device);
        assert_eq!(next(&manager).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
