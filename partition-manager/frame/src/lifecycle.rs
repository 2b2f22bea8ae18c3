//! The life of one partition as its manager sees it: state and input give a new state and effects.
//!
//! Pure and plain data: the manager stores it before it carries the effects out, so that its successor goes
//! on where it ended. Times are milliseconds of the host's monotonic clock. Whatever a partition does, the
//! end of its process comes in once, as [`Input::Gone`], and raises exactly one event.

mod ending;
mod restored;
mod stopping;

use crate::api::ShutdownRequest;
use crate::code::Code;
use crate::declare::Shutdown;
use crate::ladder::{Ladder, Rung};
use crate::name::Name;
use crate::record::{Final, Registers};
use crate::state::State;
use crate::wire::{ChannelAnswer, Phase};
use serde::{Deserialize, Serialize};

/// Time from the making of a process to the first entry into its guest, milliseconds.
pub const START_MS: u64 = 30_000;
/// Time that a process has to be gone after its guest ended, milliseconds.
pub const LEAVE_MS: u64 = 2_000;
/// Restarts by the guest within [`RESTARTS_MS`] that are carried out at once.
pub const RESTARTS: usize = 5;
/// See [`RESTARTS`], milliseconds.
pub const RESTARTS_MS: u64 = 10_000;
/// Delay of a restart beyond them, milliseconds.
pub const RESTART_DELAY_MS: u64 = 5_000;
/// Managers that may be lost over one activation before it is given up.
pub const ATTEMPTS: u32 = 3;

/// What happened to a partition, or what is wanted of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// It is to run.
    Activate,
    /// It is to end.
    Shutdown {
        /// How.
        request: ShutdownRequest,
        /// Whether the whole frame goes down, so that the guest may not refuse.
        down: bool,
    },
    /// The process was made; it is connected to.
    Made,
    /// The process could not be made.
    MakeFailed {
        /// What happened, to what, why.
        reason: String,
    },
    /// The process said where it is.
    Welcomed {
        /// Where.
        phase: Phase,
        /// How it ended, when it has.
        ended: Option<Box<Final>>,
    },
    /// The virtual machine stands.
    Ready,
    /// The process could not do what it was launched with.
    Failed {
        /// What happened, to what, why.
        reason: String,
    },
    /// The guest was entered for the first time.
    Running,
    /// What the guest said on the communication channel.
    Channel(ChannelAnswer),
    /// The guest ended.
    Ended(Box<Final>),
    /// The process is gone.
    Gone(Box<End>),
    /// A new manager found this life in the journal.
    Restored {
        /// Whether its process lives.
        alive: bool,
    },
    /// Time has passed.
    Time,
}

/// How a process ended that a filter of its system calls ended (seccomp(2), `SECCOMP_RET_KILL_PROCESS`).
pub const FILTERED: &str = "killed by signal 31 (SIGSYS)";

/// What is known of a process that is gone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct End {
    /// What it left in its record.
    pub last: Option<Final>,
    /// How the process ended, such as `killed by signal 9 (SIGKILL)`; it begins with [`FILTERED`] where the filter of
    /// its system calls ended it.
    pub how: String,
    /// The last registers that KVM left, when there is no final record.
    pub registers: Vec<Registers>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Make a process; answered by [`Input::Made`] or [`Input::MakeFailed`].
    Make,
    /// Send the launch specification.
    Launch,
    /// Send the order to enter the guest.
    Start,
    /// Take this rung of the shutdown ladder.
    Take(Rung),
    /// Tell the process that its final record was taken over.
    Acknowledge,
    /// Give up what belonged to the process: its handle, socket, memory, virtual processors.
    Reap,
    /// Give up what belonged to the partition: CPUs, confinement.
    Release,
    /// Raise an event.
    Raise {
        /// What happened.
        code: Code,
        /// What happened, in a sentence.
        text: String,
        /// First-failure data, an object.
        data: serde_json::Value,
    },
    /// Answer those who wait.
    Answer(Answer),
    /// Refuse the request that came in.
    Refuse(String),
}

/// What those who wait are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It runs.
    Active,
    /// It is off.
    Inactive,
    /// It failed.
    Failed(String),
    /// Its guest objects to the shutdown.
    Denied,
}

/// Where the process of a partition is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Stage {
    /// There is none.
    Off,
    /// It is being made.
    Making,
    /// It was made and has not said where it is.
    Connecting,
    /// It has its launch specification.
    Launching,
    /// It was told to enter the guest.
    Entering,
    /// Its guest was entered.
    Running,
    /// There is none, and the next one is made later: the guest restarts too often.
    Waiting,
}

impl Stage {
    const fn has_process(self) -> bool {
        !matches!(self, Self::Off | Self::Making | Self::Waiting)
    }
}

/// A shutdown on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stopping {
    ladder: Ladder,
    restart: bool,
}

/// Why a process is about to be gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Ending {
    /// Its guest ended.
    Final(Box<Final>),
    /// It could not do what it was launched with.
    Failed(String),
}

/// The life of one partition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lifecycle {
    name: Name,
    deadlines: Shutdown,
    state: State,
    reason: String,
    stage: Stage,
    /// When the stage, or the ending, has taken too long.
    until: Option<u64>,
    stopping: Option<Stopping>,
    ending: Option<Ending>,
    /// Whether the process was killed by its manager.
    killed: bool,
    /// When the guest restarted lately.
    restarts: Vec<u64>,
    /// Managers that were lost over the activation on its way.
    attempts: u32,
    /// What the guest wrote to its exit device at its last end.
    #[serde(default)]
    exit_status: Option<u32>,
}

impl Lifecycle {
    /// A partition that was never activated; `deadlines` are those of its shutdown ladder.
    #[must_use]
    pub fn new(name: Name, deadlines: Shutdown) -> Self {
        Self {
            name,
            deadlines,
            state: State::NotActivated,
            reason: String::new(),
            stage: Stage::Off,
            until: None,
            stopping: None,
            ending: None,
            killed: false,
            restarts: Vec::new(),
            attempts: 0,
            exit_status: None,
        }
    }

    /// The partition's state.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// Why it is in that state, where that needs saying.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// What the guest wrote to its exit device when it last ended; absent when it did not, and from the next
    /// start on.
    #[must_use]
    pub const fn exit_status(&self) -> Option<u32> {
        self.exit_status
    }

    /// Whether it owns what it was activated with.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.stage != Stage::Off
    }

    /// Whether a process of it exists or is about to be connected to.
    #[must_use]
    pub fn has_process(&self) -> bool {
        self.stage.has_process()
    }

    /// Whether [`Effect::Make`] was given and is not answered.
    #[must_use]
    pub fn is_being_made(&self) -> bool {
        self.stage == Stage::Making
    }

    /// Other deadlines for the shutdowns that begin from now on.
    pub fn set_deadlines(&mut self, deadlines: Shutdown) {
        self.deadlines = deadlines;
    }

    /// When [`Input::Time`] has something to do; never when absent.
    #[must_use]
    pub fn deadline(&self) -> Option<u64> {
        let ladder = if self.ending.is_some() { None } else { self.stopping.and_then(|s| s.ladder.deadline()) };
        match (self.until, ladder) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }

    /// Takes one input at `now` and gives what is to be done, in order.
    pub fn step(&mut self, now: u64, input: Input) -> Vec<Effect> {
        match input {
            Input::Activate => self.activate(),
            Input::Shutdown { request, down } => self.shutdown(now, request, down),
            Input::Made => self.made(now),
            Input::MakeFailed { reason } => self.make_failed(&reason),
            Input::Welcomed { phase, ended } => self.welcomed(now, phase, ended),
            Input::Ready => self.ready(),
            Input::Failed { reason } => self.ends(now, Ending::Failed(reason)),
            Input::Running => self.running(),
            Input::Channel(answer) => match &mut self.stopping {
                Some(stopping) if self.ending.is_none() => {
                    let decision = stopping.ladder.answer(answer, now);
                    self.decided(decision)
                }
                _ => vec![],
            },
            Input::Ended(last) => self.ends(now, Ending::Final(last)),
            Input::Gone(end) => self.gone(now, *end),
            Input::Restored { alive } => self.restored(now, alive),
            Input::Time => self.time(now),
        }
    }

    fn activate(&mut self) -> Vec<Effect> {
        if self.stopping.is_some() {
            return vec![Effect::Refuse(format!(
                "partition {} is shutting down; wait until it is Not Activated, then activate it",
                self.name
            ))];
        }
        match self.stage {
            Stage::Off => {
                self.restarts.clear();
                self.attempts = 0;
                self.make()
            }
            Stage::Running if self.ending.is_none() => vec![Effect::Answer(Answer::Active)],
            // On its way already: whoever asks waits for the outcome.
            _ => vec![],
        }
    }

    fn make(&mut self) -> Vec<Effect> {
        self.become_state(State::Starting, String::new());
        self.stage = Stage::Making;
        self.until = None;
        self.stopping = None;
        self.ending = None;
        self.killed = false;
        self.exit_status = None;
        vec![Effect::Make]
    }

    fn made(&mut self, now: u64) -> Vec<Effect> {
        if self.stage == Stage::Making {
            self.stage = Stage::Connecting;
            self.until = Some(now.saturating_add(START_MS));
        }
        vec![]
    }

    fn make_failed(&mut self, reason: &str) -> Vec<Effect> {
        if self.stage != Stage::Making {
            return vec![];
        }
        let text = format!("partition {} could not be activated: {reason}", self.name);
        let data = serde_json::json!({ "reason": reason });
        let mut effects = vec![Effect::Raise { code: Code::ActivationFailed, text, data }];
        effects.extend(self.off(State::Error, reason.to_owned()));
        effects
    }

    /// What a process says about itself on a new connection: at its first one, and after its manager or
    /// the connection was lost.
    fn welcomed(&mut self, now: u64, phase: Phase, ended: Option<Box<Final>>) -> Vec<Effect> {
        if !self.stage.has_process() {
            return vec![];
        }
        if let Some(last) = ended {
            // Known already or not: the process waits to be told that it may go.
            self.ends(now, Ending::Final(last));
            return vec![Effect::Acknowledge];
        }
        if self.ending.is_some() {
            return vec![];
        }
        if let Some(stopping) = self.stopping {
            if phase == Phase::Running {
                self.stage = Stage::Running;
            }
            // Whether the last rung was taken before the connection was lost is not known.
            return vec![Effect::Take(stopping.ladder.rung())];
        }
        match phase {
            Phase::Empty if self.stage != Stage::Running => {
                self.stage = Stage::Launching;
                vec![Effect::Launch]
            }
            Phase::Ready if self.stage != Stage::Running => {
                self.stage = Stage::Entering;
                vec![Effect::Start]
            }
            Phase::Running => self.running(),
            Phase::Empty | Phase::Ready | Phase::Ended => {
                self.fails(now, format!("its process says that it is {phase:?}, which cannot be"))
            }
        }
    }

    fn ready(&mut self) -> Vec<Effect> {
        if self.stage != Stage::Launching || self.stopping.is_some() || self.ending.is_some() {
            return vec![];
        }
        self.stage = Stage::Entering;
        vec![Effect::Start]
    }

    fn running(&mut self) -> Vec<Effect> {
        if !self.stage.has_process() || self.stage == Stage::Running || self.ending.is_some() {
            return vec![];
        }
        self.stage = Stage::Running;
        self.until = None;
        self.attempts = 0;
        if self.stopping.is_some() {
            return vec![];
        }
        self.become_state(State::Running, String::new());
        let text = format!("partition {} runs", self.name);
        vec![raise(Code::PartitionRunning, text), Effect::Answer(Answer::Active)]
    }

    fn time(&mut self, now: u64) -> Vec<Effect> {
        if self.until.is_some_and(|until| until <= now) {
            self.until = None;
            if self.stage == Stage::Waiting {
                return self.make();
            }
            if self.ending.is_some() {
                return self.take(Rung::Kill);
            }
            let reason = format!("it did not run within {} s", START_MS / 1000);
            return self.fails(now, reason);
        }
        match &mut self.stopping {
            Some(stopping) if self.ending.is_none() => {
                let decision = stopping.ladder.time(now);
                self.decided(decision)
            }
            _ => vec![],
        }
    }

    fn become_state(&mut self, state: State, reason: String) {
        debug_assert!(self.state == state || self.state.may_become(state), "{} to {state}", self.state);
        self.state = state;
        self.reason = reason;
    }
}

fn raise(code: Code, text: String) -> Effect {
    Effect::Raise { code, text, data: serde_json::json!({}) }
}

#[cfg(test)]
mod tests;
