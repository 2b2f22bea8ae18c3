//! What comes into the driver's queue.

use crate::poller::Token;
use crate::record::Record;
use frame::api::{
    ApplyRequest, ChangeAnswer, Declaration, DownRequest, FrameAssignment, FrameStatus, PartitionDetail, PartitionRow,
    PartitionStat, ServiceRequest, SetRequest, ShutdownRequest, WaitAnswer,
};
use frame::device_row::DeviceRow;
use frame::interrupt::InterruptRow;
use frame::name::Name;
use frame::state::State;
use frame::steer::HostInterruptRow;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Most messages that wait in the queue.
pub const LONGEST_QUEUE: usize = 1024;

/// One message to the driver.
#[derive(Debug)]
pub enum Message {
    /// A descriptor is readable.
    Readable(Token),
    /// Somebody wants something.
    Request(Request),
    /// The service processor took so many of the events that were handed to the outbox.
    Delivered(usize),
    /// The service processor answers again, or does not any more.
    ServiceProcessor {
        /// Whether it answers.
        present: bool,
    },
    /// This process is to end and leave the partitions running.
    Terminate,
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// What happened, to what, why, what to do.
    pub message: String,
}

impl Refusal {
    /// There is no such thing.
    #[must_use]
    pub fn unknown(name: &Name) -> Self {
        Self { status: 404, message: format!("there is no partition {name}; `lpar ls` lists them") }
    }

    /// It is not possible at present.
    #[must_use]
    pub fn conflict(message: impl Into<String>) -> Self {
        Self { status: 409, message: message.into() }
    }

    /// It was tried and failed.
    #[must_use]
    pub fn failed(message: impl Into<String>) -> Self {
        Self { status: 500, message: message.into() }
    }

    /// The manager cannot at present.
    #[must_use]
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self { status: 503, message: message.into() }
    }
}

/// Where an answer goes.
pub type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

/// A request of an API client.
#[derive(Debug)]
pub enum Request {
    /// All partitions.
    List(Reply<Vec<PartitionRow>>),
    /// One partition.
    Show(Name, Reply<Box<PartitionDetail>>),
    /// Figures of one partition.
    Stat(Name, Reply<PartitionStat>),
    /// Interrupt sources of one partition, or of all.
    Interrupts(Option<Name>, Reply<Vec<InterruptRow>>),
    /// Interrupts of the host that the frame steers.
    HostInterrupts(Reply<Vec<HostInterruptRow>>),
    /// Devices of one partition, or of all.
    Devices(Option<Name>, Reply<Vec<DeviceRow>>),
    /// The frame.
    Frame(Reply<FrameStatus>),
    /// What is owned now.
    Assignment(Reply<Box<FrameAssignment>>),
    /// What is declared.
    Declaration(Reply<Box<Declaration>>),
    /// Declare the frame anew; answered when that is in force.
    Apply(Box<ApplyRequest>, Reply<ChangeAnswer>),
    /// Set values of one partition; answered when they are in force.
    Set(Name, SetRequest, Reply<ChangeAnswer>),
    /// Start a partition; answered when it runs or failed.
    Activate(Name, Reply<PartitionRow>),
    /// End a partition; answered when it has ended, or runs again where that was asked for.
    Shutdown(Name, ShutdownRequest, Reply<PartitionRow>),
    /// A device was serviced; answered when its partition was told.
    Service(Name, ServiceRequest, Reply<PartitionRow>),
    /// Wait for a state.
    Wait {
        /// Of which partition.
        name: Name,
        /// Which state.
        state: State,
        /// For how long, milliseconds.
        timeout_ms: u64,
        /// Where the answer goes.
        reply: Reply<WaitAnswer>,
    },
    /// End all partitions and the manager; answered when the partitions have ended.
    Down(DownRequest, Reply<()>),
    /// A session on a partition's console.
    OpenConsole {
        /// Of which partition.
        name: Name,
        /// Whether a session that is there is closed.
        force: bool,
        /// Where the session goes.
        reply: Reply<Session>,
    },
    /// Bytes typed in a session; answered when they were passed on.
    Type {
        /// On which partition's console.
        name: Name,
        /// In which session.
        session: u64,
        /// The bytes, at most [`LARGEST_INPUT`](frame::wire::LARGEST_INPUT).
        bytes: Vec<u8>,
        /// Told when the next bytes may come.
        reply: Reply<()>,
    },
    /// A session has ended.
    CloseConsole {
        /// On which partition's console.
        name: Name,
        /// Which session.
        session: u64,
    },
}

/// A session on the console of a partition.
#[derive(Debug)]
pub struct Session {
    /// Its number.
    pub number: u64,
    /// Where the output stands.
    pub record: Arc<Record>,
    /// Readable when there is new output.
    pub doorbell: Arc<OwnedFd>,
    /// Ends, with a reason, when the session is to end.
    pub end: oneshot::Receiver<String>,
}
