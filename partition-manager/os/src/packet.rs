//! Packets with descriptors over `SOCK_SEQPACKET` Unix sockets (`unix(7)`, `SCM_RIGHTS`).

use frame::wire::{LARGEST_PACKET, MOST_DESCRIPTORS, Packet, VERSION};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Why a packet could not be sent or taken.
#[derive(Debug, thiserror::Error)]
pub enum PacketError {
    /// The other side closed the connection.
    #[error("the other side closed the connection")]
    Closed,
    /// Nothing to take now, or no room to send now, on a socket that does not block.
    #[error("the connection is not ready")]
    NotReady,
    /// The socket failed.
    #[error("the socket failed")]
    Socket(#[source] std::io::Error),
    /// The packet, or the descriptors beside it, were cut: it was larger than the protocol allows.
    #[error("a packet was larger than {LARGEST_PACKET} bytes or {MOST_DESCRIPTORS} descriptors")]
    TooLarge,
    /// The packet is not what the protocol says.
    #[error("a packet cannot be read")]
    Form(#[source] serde_json::Error),
    /// The other side speaks another version.
    #[error("the other side speaks version {0} of the protocol, this side version {VERSION}")]
    Version(u16),
}

impl From<Errno> for PacketError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::AGAIN => Self::NotReady,
            Errno::PIPE | Errno::CONNRESET => Self::Closed,
            other => Self::Socket(other.into()),
        }
    }
}

/// A socket that listens at `path`; what stands there before is an error.
///
/// # Errors
/// The error of the system call that failed.
pub fn listen(path: &Path) -> std::io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, 4)?;
    Ok(socket)
}

/// Connects to the socket at `path`.
///
/// # Errors
/// The error of the system call that failed; `ECONNREFUSED` when nobody listens any more.
pub fn connect(path: &Path) -> std::io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// As [`connect`], for a peer that may hang: the socket does not block, and neither does connecting.
///
/// # Errors
/// As [`connect`]; `EAGAIN` when the peer leaves too many connections waiting.
pub fn connect_now(path: &Path) -> std::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// Takes one waiting connection, close-on-exec.
///
/// # Errors
/// The error of `accept4(2)`.
pub fn accept(listener: impl AsFd) -> std::io::Result<OwnedFd> {
    Ok(rustix::net::accept_with(listener, SocketFlags::CLOEXEC)?)
}

/// Sends one packet with descriptors beside it. Never raises `SIGPIPE`.
///
/// # Errors
/// [`PacketError`]; with [`PacketError::NotReady`] nothing was sent.
pub fn send<M: Serialize>(
    socket: impl AsFd,
    packet: &Packet<M>,
    descriptors: &[BorrowedFd<'_>],
) -> Result<(), PacketError> {
    let bytes = serde_json::to_vec(packet).map_err(PacketError::Form)?;
    if bytes.len() > LARGEST_PACKET || descriptors.len() > MOST_DESCRIPTORS {
        return Err(PacketError::TooLarge);
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(PacketError::TooLarge);
    }
    loop {
        match rustix::net::sendmsg(&socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Takes one packet and the descriptors beside it, close-on-exec.
///
/// Descriptors of a packet that is refused are closed.
///
/// # Errors
/// [`PacketError`].
pub fn receive<M: DeserializeOwned>(socket: impl AsFd) -> Result<(Packet<M>, Vec<OwnedFd>), PacketError> {
    receive_with(socket, RecvFlags::empty())
}

/// As [`receive`], but gives [`PacketError::NotReady`] at once when no packet waits.
///
/// # Errors
/// [`PacketError`].
pub fn receive_now<M: DeserializeOwned>(socket: impl AsFd) -> Result<(Packet<M>, Vec<OwnedFd>), PacketError> {
    receive_with(socket, RecvFlags::DONTWAIT)
}

fn receive_with<M: DeserializeOwned>(
    socket: impl AsFd,
    flags: RecvFlags,
) -> Result<(Packet<M>, Vec<OwnedFd>), PacketError> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    // The kernel says how long the packet is, so that the usual small one needs no large buffer.
    let flags = flags | RecvFlags::CMSG_CLOEXEC;
    let length = loop {
        let mut nothing = RecvAncillaryBuffer::default();
        let peek = flags | RecvFlags::PEEK | RecvFlags::TRUNC;
        match rustix::net::recvmsg(&socket, &mut [IoSliceMut::new(&mut [0; 1])], &mut nothing, peek) {
            Ok(message) => break message.bytes,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    };
    if length == 0 {
        return Err(PacketError::Closed);
    }
    let mut bytes = vec![0; length.min(LARGEST_PACKET)];
    let message = loop {
        match rustix::net::recvmsg(&socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags) {
            Ok(message) => break message,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    };
    let mut descriptors = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            descriptors.extend(rights);
        }
    }
    let cut = rustix::net::ReturnFlags::TRUNC | rustix::net::ReturnFlags::CTRUNC;
    if length > LARGEST_PACKET || message.flags.intersects(cut) {
        return Err(PacketError::TooLarge);
    }
    // The version is read by itself, so that another version's messages give that reason.
    #[derive(serde::Deserialize)]
    struct Versioned {
        version: u16,
    }
    let bytes = bytes.get(..message.bytes).unwrap_or_default();
    let versioned: Versioned = serde_json::from_slice(bytes).map_err(PacketError::Form)?;
    if versioned.version != VERSION {
        return Err(PacketError::Version(versioned.version));
    }
    Ok((serde_json::from_slice(bytes).map_err(PacketError::Form)?, descriptors))
}

#[cfg(test)]
mod tests {
    use super::*;
    use frame::wire::{Report, Request};
    use rustix::net::socketpair;
    use std::os::fd::AsRawFd;

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
    }

    #[test]
    fn packets_carry_descriptors() {
        let (left, right) = pair();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        send(&left, &Packet::new(3, Request::Hello), &[writer.as_fd()]).unwrap();
        drop(writer);
        let (packet, mut descriptors) = receive::<Request>(&right).unwrap();
        assert_eq!(packet, Packet::new(3, Request::Hello));
        let writer = descriptors.pop().unwrap();
        assert!(descriptors.is_empty());
        rustix::io::write(&writer, b"x").unwrap();
        assert_eq!(rustix::io::read(&reader, &mut [0; 4]).unwrap(), 1);
        let flags = rustix::io::fcntl_getfd(&writer).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC), "{} leaks", writer.as_raw_fd());
    }

    #[test]
    fn bad_packets_are_refused_and_the_connection_lives() {
        let (left, right) = pair();
        rustix::net::send(&left, b"{\"version\":99}", SendFlags::empty()).unwrap();
        assert!(matches!(receive::<Request>(&right), Err(PacketError::Version(99))));
        rustix::net::send(&left, b"nonsense", SendFlags::empty()).unwrap();
        assert!(matches!(receive::<Request>(&right), Err(PacketError::Form(_))));
        assert!(matches!(receive_now::<Request>(&right), Err(PacketError::NotReady)));
        send(&left, &Packet::new(1, Report::Pong), &[]).unwrap();
        assert_eq!(receive::<Report>(&right).unwrap().0.message, Report::Pong);
        drop(left);
        assert!(matches!(receive::<Request>(&right), Err(PacketError::Closed)));
    }

    #[test]
    fn a_peer_that_accepts_nothing_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let _listener = listen(&path).unwrap();
        let outcomes: Vec<_> = (0..50).map(|_| connect_now(&path)).collect();
        assert!(outcomes[0].is_ok());
        let last = outcomes.last().unwrap().as_ref().unwrap_err();
        assert_eq!(last.kind(), std::io::ErrorKind::WouldBlock);
    }

    #[test]
    fn large_packets_pass_without_waiting() {
        let (left, right) = pair();
        rustix::io::ioctl_fionbio(&left, true).unwrap();
        // Four characters each.
        let packet = Packet::new(1, Request::Input(vec![255; LARGEST_PACKET / 4 - 100]));
        send(&left, &packet, &[]).unwrap();
        assert_eq!(receive::<Request>(&right).unwrap().0, packet);
    }

    #[test]
    fn too_large_packets_are_not_sent() {
        let (left, _right) = pair();
        let packet = Packet::new(1, Request::Input(vec![255; LARGEST_PACKET / 3]));
        assert!(matches!(send(&left, &packet, &[]), Err(PacketError::TooLarge)));
    }
}
