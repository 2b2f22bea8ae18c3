//! The life of a partition process, decided. Pure: what happens goes in, what is to be done comes out.
//!
//! ```text
//!           Launch             Start              a cause, or Stop        all stopped
//!   Empty ----------> Ready ----------> Running -----------------> Stopping ------> Ended --> exit
//!     |                 |  Stop                                       ^                ^
//!     | failed, Stop,   +---------------------------------------------+                |
//!     | nobody came                                       Acknowledge, or nobody came -+
//!     v
//!    exit
//! ```
//!
//! The manager's epoch decides whom the process obeys. The first packet of a connection is `Hello`; one with
//! an epoch as high as any before makes its connection the manager's, in place of the one before.

use frame::record::{Cause, Final, Registers};
use frame::wire::{ChannelAnswer, Phase};
use std::time::Duration;

/// How long a process waits for its launch, and, when its guest has ended, for a manager that takes the
/// final record over.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// How long virtual processors may take to stop. They take far less; after that the final record is written
/// without the registers of those that have not.
pub const STOP_LIMIT: Duration = Duration::from_secs(5);
/// The same where the manager ordered the stop: it kills what has not ended after [`frame::ladder::STOP_MS`],
/// and the final record must be there before.
pub const ORDERED_STOP_LIMIT: Duration = Duration::from_millis(frame::ladder::STOP_MS * 3 / 4);

/// Exit status: the guest ended as it or its operator wanted.
pub const EXIT_ORDERLY: u8 = 0;
/// Exit status: there was no guest to run.
pub const EXIT_NOT_LAUNCHED: u8 = 1;
/// Exit status: the guest or the partition failed.
pub const EXIT_FAILED: u8 = 2;

/// A connection, by a number that is used once.
pub type Connection = u64;

/// What a packet asks for; the payload stays with the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// [`frame::wire::Request::Hello`], and so on.
    Hello,
    /// Make the virtual machine.
    Launch,
    /// Enter the guest.
    Start,
    /// Ask over the communication channel.
    Ask,
    /// Press the power button.
    PowerButton,
    /// Raise a non-maskable interrupt.
    Nmi,
    /// Stop.
    Stop,
    /// Type on the console.
    Input,
    /// The final record was taken over.
    Acknowledge,
    /// Say that you live.
    Ping,
    /// [`frame::wire::Request::Devices`].
    Devices,
    /// A device was serviced.
    Service,
}

/// What happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A packet came.
    Packet {
        /// On which connection.
        from: Connection,
        /// Its epoch.
        epoch: u64,
        /// What it asks for.
        asked: Asked,
    },
    /// A connection is closed, or what came on it cannot be understood.
    Lost(Connection),
    /// The launch was done.
    Launched {
        /// How many virtual processors there are.
        processors: usize,
    },
    /// The launch could not be done.
    NotLaunched {
        /// Why.
        reason: String,
    },
    /// A virtual processor enters the guest for the first time.
    Entered,
    /// A virtual processor will not run any more.
    Finished {
        /// Which.
        processor: u32,
        /// Why; absent when it was told to stop.
        cause: Option<Cause>,
        /// Its registers.
        registers: Box<Registers>,
    },
    /// The guest answered on the communication channel.
    Answered(ChannelAnswer),
    /// The guest's watchdog has expired.
    Expired {
        /// Whether the partition is to be started again.
        restart: bool,
    },
    /// The time that [`Effect::Wait`] gave has passed.
    Elapsed,
}

/// What is to be done, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Tell a connection that it is of no use, then close it.
    Refuse(Connection, String),
    /// Close a connection.
    Close(Connection),
    /// Answer a `Hello`.
    Welcome(Connection),
    /// Report to the manager, if there is one.
    Report(Say),
    /// Make the virtual machine of the packet that just came.
    Launch,
    /// Let all virtual processors run.
    Run,
    /// Ask the guest, and report what [`crate::devices::channel::Channel::ask`] says.
    Ask,
    /// Press the power button.
    Press,
    /// Raise a non-maskable interrupt on every virtual processor.
    Nmi,
    /// Type the bytes of the packet that just came.
    Type,
    /// Tell the device that it was serviced.
    Service,
    /// Stop all virtual processors.
    Halt,
    /// Write the final record, then report it.
    Conclude(Final),
    /// Wait at most this long from now, instead of what was said before; for ever when absent.
    Wait(Option<Duration>),
    /// End the process with this exit status.
    Exit(u8),
}

/// Reports without descriptors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Say {
    /// [`frame::wire::Report::Ready`], with the virtual processors' descriptors.
    Ready,
    /// [`frame::wire::Report::Failed`].
    Failed(String),
    /// [`frame::wire::Report::Running`].
    Running,
    /// [`frame::wire::Report::Channel`].
    Channel(ChannelAnswer),
    /// [`frame::wire::Report::Final`] of a partition that never was.
    Final(Final),
    /// [`frame::wire::Report::Pong`].
    Pong,
    /// [`frame::wire::Report::Devices`].
    Devices,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    Empty,
    Ready,
    Running { entered: bool },
    Stopping { cause: Cause, processor: Option<u32> },
    Ended { orderly: bool },
    Gone,
}

/// The state of a partition process.
#[derive(Clone, Debug)]
pub struct Lifecycle {
    stage: Stage,
    epoch: Option<u64>,
    manager: Option<Connection>,
    registers: Vec<Option<Registers>>,
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self { stage: Stage::Empty, epoch: None, manager: None, registers: Vec::new() }
    }
}

impl Lifecycle {
    /// What to wait for first.
    #[must_use]
    pub const fn first() -> Effect {
        Effect::Wait(Some(PATIENCE))
    }

    /// The phase as the manager knows it.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        match self.stage {
            Stage::Empty => Phase::Empty,
            Stage::Ready => Phase::Ready,
            Stage::Running { .. } | Stage::Stopping { .. } => Phase::Running,
            Stage::Ended { .. } | Stage::Gone => Phase::Ended,
        }
    }

    /// The highest epoch that was served.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch.unwrap_or_default()
    }

    /// The manager's connection.
    #[must_use]
    pub const fn manager(&self) -> Option<Connection> {
        self.manager
    }

    /// Whether virtual processors were told to stop and have not all done so.
    #[must_use]
    pub const fn is_stopping(&self) -> bool {
        matches!(self.stage, Stage::Stopping { .. })
    }

    /// Whether a virtual processor has said its last word.
    #[must_use]
    pub fn has_finished(&self, processor: usize) -> bool {
        self.registers.get(processor).is_some_and(Option::is_some)
    }

    /// Decides.
    pub fn step(&mut self, input: Input) -> Vec<Effect> {
        if self.stage == Stage::Gone {
            return Vec::new();
        }
        match input {
            Input::Packet { from, epoch, asked } => self.packet(from, epoch, asked),
            Input::Lost(connection) => {
                if self.manager == Some(connection) {
                    self.manager = None;
                }
                vec![Effect::Close(connection)]
            }
            Input::Launched { processors } if self.stage == Stage::Empty => {
                self.stage = Stage::Ready;
                self.registers = vec![None; processors];
                vec![Effect::Wait(None), Effect::Report(Say::Ready)]
            }
            Input::NotLaunched { reason } if self.stage == Stage::Empty => {
                self.exit(vec![Effect::Report(Say::Failed(reason))], EXIT_NOT_LAUNCHED)
            }
            Input::Entered if self.stage == Stage::Running { entered: false } => {
                self.stage = Stage::Running { entered: true };
                vec![Effect::Report(Say::Running)]
            }
            Input::Finished { processor, cause, registers } => self.finished(processor, cause, registers),
            Input::Answered(answer) if matches!(self.stage, Stage::Running { .. }) => {
                vec![Effect::Report(Say::Channel(answer))]
            }
            Input::Expired { restart } if matches!(self.stage, Stage::Running { .. }) => {
                self.halt(Cause::Watchdog { restart }, None)
            }
            Input::Elapsed => self.elapsed(),
            Input::Launched { .. }
            | Input::NotLaunched { .. }
            | Input::Entered
            | Input::Answered(_)
            | Input::Expired { .. } => Vec::new(),
        }
    }

    fn packet(&mut self, from: Connection, epoch: u64, asked: Asked) -> Vec<Effect> {
        if self.epoch.is_some_and(|highest| epoch < highest) {
            let reason = format!("epoch {epoch} is over: this partition has served epoch {}", self.epoch());
            return self.refuse(from, reason);
        }
        if asked == Asked::Hello {
            return self.hello(from, epoch);
        }
        if self.manager != Some(from) {
            return self.refuse(from, "the first packet of a connection must be a hello".to_owned());
        }
        self.epoch = Some(epoch);
        match (asked, &self.stage) {
            (Asked::Ping, _) => vec![Effect::Report(Say::Pong)],
            (Asked::Devices, _) => vec![Effect::Report(Say::Devices)],
            (Asked::Launch, Stage::Empty) => vec![Effect::Launch],
            (Asked::Launch, _) => self.refuse(from, "a partition process is launched only once".to_owned()),
            (Asked::Start, Stage::Empty) => self.refuse(from, "there is nothing to start before a launch".to_owned()),
            (Asked::Start, Stage::Ready) => {
                self.stage = Stage::Running { entered: false };
                vec![Effect::Run]
            }
            // A second start has happened already.
            (Asked::Start, Stage::Running { entered: true }) => vec![Effect::Report(Say::Running)],
            (Asked::Ask, Stage::Running { .. }) => vec![Effect::Ask],
            // A guest that does not run listens to nothing.
            (Asked::Ask, Stage::Empty | Stage::Ready) => vec![Effect::Report(Say::Channel(ChannelAnswer::Absent))],
            (Asked::PowerButton, Stage::Running { .. }) => vec![Effect::Press],
            (Asked::Nmi, Stage::Running { .. }) => vec![Effect::Nmi],
            (Asked::Input, Stage::Ready | Stage::Running { .. }) => vec![Effect::Type],
            (Asked::Service, Stage::Ready | Stage::Running { .. }) => vec![Effect::Service],
            (Asked::Stop, Stage::Empty) => {
                let last = Final { cause: Cause::Stopped, processor: None, registers: Vec::new() };
                self.exit(vec![Effect::Report(Say::Final(last))], EXIT_ORDERLY)
            }
            (Asked::Stop, Stage::Ready | Stage::Running { .. }) => self.halt(Cause::Stopped, None),
            (Asked::Acknowledge, Stage::Ended { orderly }) => {
                let status = if *orderly { EXIT_ORDERLY } else { EXIT_FAILED };
                self.exit(Vec::new(), status)
            }
            // What comes too late, or too early to mean anything, has no effect.
            _ => Vec::new(),
        }
    }

    fn refuse(&mut self, connection: Connection, reason: String) -> Vec<Effect> {
        if self.manager == Some(connection) {
            self.manager = None;
        }
        vec![Effect::Refuse(connection, reason)]
    }

    fn hello(&mut self, from: Connection, epoch: u64) -> Vec<Effect> {
        self.epoch = Some(epoch);
        let before = self.manager.replace(from).filter(|before| *before != from);
        let mut effects: Vec<Effect> = before.map(Effect::Close).into_iter().collect();
        if matches!(self.stage, Stage::Ended { .. }) {
            effects.push(Effect::Wait(Some(PATIENCE)));
        }
        effects.push(Effect::Welcome(from));
        effects
    }

    fn halt(&mut self, cause: Cause, processor: Option<u32>) -> Vec<Effect> {
        let limit = if cause == Cause::Stopped { ORDERED_STOP_LIMIT } else { STOP_LIMIT };
        self.stage = Stage::Stopping { cause, processor };
        vec![Effect::Halt, Effect::Wait(Some(limit))]
    }

    /// The first cause is the partition's; what others come to while they stop is not.
    fn finished(&mut self, processor: u32, cause: Option<Cause>, registers: Box<Registers>) -> Vec<Effect> {
        let Some(slot) = self.registers.get_mut(processor as usize) else { return Vec::new() };
        if slot.is_some() {
            return Vec::new();
        }
        *slot = Some(*registers);
        let mut effects = Vec::new();
        if matches!(self.stage, Stage::Ready | Stage::Running { .. }) {
            let cause = cause.unwrap_or_else(|| Cause::MonitorFailed {
                reason: format!("virtual processor {processor} ended without a cause"),
            });
            effects = self.halt(cause, Some(processor));
        }
        if self.registers.iter().all(Option::is_some) {
            effects.extend(self.conclude());
        }
        effects
    }

    fn conclude(&mut self) -> Vec<Effect> {
        let Stage::Stopping { cause, processor } = self.stage.clone() else { return Vec::new() };
        let registers = self.registers.iter().map(|one| one.clone().unwrap_or_default()).collect();
        self.stage = Stage::Ended { orderly: cause.is_orderly() };
        vec![Effect::Conclude(Final { cause, processor, registers }), Effect::Wait(Some(PATIENCE))]
    }

    fn elapsed(&mut self) -> Vec<Effect> {
        match self.stage {
            Stage::Empty => self.exit(Vec::new(), EXIT_NOT_LAUNCHED),
            Stage::Stopping { .. } => self.conclude(),
            Stage::Ended { orderly } => self.exit(Vec::new(), if orderly { EXIT_ORDERLY } else { EXIT_FAILED }),
            Stage::Ready | Stage::Running { .. } | Stage::Gone => Vec::new(),
        }
    }

    fn exit(&mut self, mut before: Vec<Effect>, status: u8) -> Vec<Effect> {
        self.stage = Stage::Gone;
        before.push(Effect::Exit(status));
        before
    }
}

#[cfg(test)]
mod tests;
