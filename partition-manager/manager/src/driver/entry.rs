//! What the driver holds of one partition.

use super::calls::Calls;
use crate::journal::Kept;
use crate::poller::Token;
use crate::record::Record;
use crate::registers::Processor;
use crate::spawn::Child;
use frame::declare::Partition;
use frame::launch::LaunchSpec;
use frame::lifecycle::Lifecycle;
use frame::name::Name;
use frame::wire::Request;
use os::packet::{self, PacketError};
use os::process::{Handle, Identity};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use tokio::sync::oneshot;

/// One partition.
#[derive(Debug)]
pub struct Entry {
    /// What the journal holds of it.
    pub kept: Kept,
    /// What the frame in force declares; none when it no longer does.
    pub declared: Option<Partition>,
    /// Its process.
    pub process: Option<Process>,
    /// Its record, which outlives its processes.
    pub record: Option<Arc<Record>>,
    /// What its process signals when there is console output; outlives its processes likewise.
    pub doorbell: Option<Arc<OwnedFd>>,
    /// The session on its console.
    pub session: Option<OpenSession>,
    /// Virtual processors that it had when it last ran.
    pub processors: usize,
    /// Slots that its devices had when it last ran: they keep them.
    pub slots: Vec<(Name, u8)>,
}

/// The session that is open on a console.
#[derive(Debug)]
pub struct OpenSession {
    /// Its number.
    pub number: u64,
    /// Ends it, with a reason.
    pub end: oneshot::Sender<String>,
}

impl Entry {
    /// A declared partition that was never activated.
    #[must_use]
    pub fn new(declared: Partition) -> Self {
        let lifecycle = Lifecycle::new(declared.name.clone(), declared.shutdown);
        let kept = Kept { declared: declared.clone(), lifecycle, incarnation: 0, plan: None, started: None };
        Self { declared: Some(declared), ..Self::kept(kept) }
    }

    /// A partition that the journal knows.
    #[must_use]
    pub fn kept(kept: Kept) -> Self {
        Self {
            kept,
            declared: None,
            process: None,
            record: None,
            doorbell: None,
            session: None,
            processors: 0,
            slots: vec![],
        }
    }

    /// What it is declared as now, or was when it was activated.
    #[must_use]
    pub fn declaration(&self) -> &Partition {
        self.declared.as_ref().unwrap_or(&self.kept.declared)
    }
}

/// The process of a partition.
#[derive(Debug)]
pub struct Process {
    /// Which.
    pub identity: Identity,
    /// Holds it.
    pub handle: Handle,
    /// Watches its end.
    pub end: Token,
    /// Absent when an earlier manager started it.
    pub child: Option<Child>,
    /// What it runs; known of an adopted one once it has said so.
    pub spec: Option<Box<LaunchSpec>>,
    /// Its memory, by extent.
    pub memory: Vec<OwnedFd>,
    /// What its launch needs besides: `/dev/kvm`, kernel, initial RAM disk. Given up once it stands.
    pub files: Vec<OwnedFd>,
    /// Its virtual processors, once it stands.
    pub processors: Vec<Processor>,
    /// The connection to it.
    pub link: Option<Link>,
    /// When to connect again, milliseconds of the monotonic clock.
    pub retry: Option<u64>,
    /// Over which it asks for what its guest calls.
    pub calls: Option<Calls>,
    /// Whether its launch went out on this connection without waiting for its welcome.
    pub launch_sent: bool,
    /// Connections that were lost in a row.
    pub losses: u32,
    /// Whether it has yet to say what an earlier manager knew of it.
    pub adopted: bool,
}

/// A connection to a partition's process.
#[derive(Debug)]
pub struct Link {
    /// The socket; it does not block.
    pub socket: OwnedFd,
    /// Watches it.
    pub token: Token,
}

impl Process {
    /// A process of which nothing is known but that it runs.
    #[must_use]
    pub fn new(identity: Identity, handle: Handle, end: Token) -> Self {
        Self {
            identity,
            handle,
            end,
            child: None,
            spec: None,
            memory: vec![],
            files: vec![],
            processors: vec![],
            link: None,
            retry: None,
            calls: None,
            launch_sent: false,
            losses: 0,
            adopted: false,
        }
    }

    /// Sends a request, without waiting.
    ///
    /// # Errors
    /// [`PacketError`]; `Closed` also when there is no connection.
    pub fn send(&self, epoch: u64, request: Request, beside: &[BorrowedFd<'_>]) -> Result<(), PacketError> {
        let Some(link) = &self.link else { return Err(PacketError::Closed) };
        packet::send(link.socket.as_fd(), &frame::wire::Packet::new(epoch, request), beside)
    }
}
