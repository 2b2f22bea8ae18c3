//! Who connects for the guest: a jailed partition opens no path.

use frame::vsock::{Answer, Call, RECORD};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags};
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What the broker said.
#[derive(Debug)]
pub enum Said {
    /// This became of a call: the connected socket, if there is one.
    Answer(u32, Option<OwnedFd>),
    /// Nothing for now.
    Nothing,
    /// It is gone, or says what nobody understands.
    Gone,
}

/// The socket of the program that takes the guest's calls.
#[derive(Debug)]
pub struct Broker(pub OwnedFd);

impl Broker {
    /// Asks for a connection. Whether it was asked: one that does not take what is due to it is not waited for.
    pub fn ask(&self, call: Call) -> bool {
        rustix::net::send(&self.0, &call.bytes(), SendFlags::NOSIGNAL | SendFlags::DONTWAIT) == Ok(RECORD)
    }

    /// What it says next.
    pub fn hear(&self) -> Said {
        let mut bytes = [0; RECORD];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut beside = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        match rustix::net::recvmsg(&self.0, &mut [IoSliceMut::new(&mut bytes)], &mut beside, flags) {
            // Each is sent whole.
            Ok(received) if received.bytes == RECORD => {}
            Err(Errno::AGAIN | Errno::INTR) => return Said::Nothing,
            Ok(_) | Err(_) => return Said::Gone,
        }
        let sockets = beside.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(sockets) => Some(sockets),
            _ => None,
        });
        let socket = sockets.flatten().last();
        let answer = Answer::parse(bytes);
        Said::Answer(answer.id, socket.filter(|_| answer.error == 0))
    }
}

impl AsFd for Broker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
