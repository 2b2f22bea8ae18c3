//! The end of a process, and what follows from it: exactly one event, and off, in error, or once more.

use super::{
    Answer, Effect, End, Ending, FILTERED, LEAVE_MS, Lifecycle, RESTART_DELAY_MS, RESTARTS, RESTARTS_MS, Stage,
};
use crate::code::Code;
use crate::ladder::Rung;
use crate::record::Cause;
use crate::state::State;

/// What the end of a process means.
struct Verdict {
    code: Code,
    text: String,
    state: State,
    reason: String,
    restart: bool,
    /// Whether an operator asked for the restart.
    asked: bool,
}

impl Lifecycle {
    /// The guest ended, or the launch failed; the process is about to go.
    pub(super) fn ends(&mut self, now: u64, ending: Ending) -> Vec<Effect> {
        if !self.stage.has_process() || self.ending.is_some() {
            return vec![];
        }
        let acknowledge = matches!(ending, Ending::Final(_));
        self.ending = Some(ending);
        self.until = Some(now.saturating_add(LEAVE_MS));
        if acknowledge { vec![Effect::Acknowledge] } else { vec![] }
    }

    /// Gives up on the process.
    pub(super) fn fails(&mut self, now: u64, reason: String) -> Vec<Effect> {
        self.ends(now, Ending::Failed(reason));
        self.until = None;
        self.take(Rung::Kill)
    }

    /// The process is gone: the one place where a life ends.
    pub(super) fn gone(&mut self, now: u64, end: End) -> Vec<Effect> {
        if !self.stage.has_process() {
            return vec![];
        }
        let ending = self.ending.take().or_else(|| end.last.clone().map(|last| Ending::Final(Box::new(last))));
        let mut verdict = self.judge(ending.as_ref(), &end);
        if let Some(Ending::Final(last)) = &ending
            && let Cause::Exit { status } = last.cause
        {
            self.exit_status = Some(status);
            if verdict.state == State::NotActivated {
                verdict.reason = format!("exit status {status}");
            }
        }
        let mut data = match &ending {
            Some(Ending::Final(last)) => serde_json::json!({
                "cause": last.cause, "processor": last.processor, "registers": last.registers,
            }),
            Some(Ending::Failed(reason)) => serde_json::json!({ "reason": reason }),
            None => serde_json::json!({ "registers": end.registers }),
        };
        if let Some(object) = data.as_object_mut() {
            object.insert("process".into(), end.how.into());
        }
        let mut effects = vec![Effect::Raise { code: verdict.code, text: verdict.text, data }];
        if verdict.restart {
            effects.push(Effect::Reap);
            effects.extend(self.restart(now, verdict.asked));
        } else {
            effects.extend(self.off(verdict.state, verdict.reason));
        }
        effects
    }

    fn judge(&self, ending: Option<&Ending>, end: &End) -> Verdict {
        let name = &self.name;
        let by_operator = self.stopping.is_some();
        let restart = self.stopping.is_some_and(|stopping| stopping.restart);
        let stopped = Verdict {
            code: if restart { Code::PartitionRestarted } else { Code::PartitionStopped },
            text: if restart {
                format!("partition {name} restarts: an operator asked for it")
            } else {
                self.stopped_text()
            },
            state: State::NotActivated,
            reason: String::new(),
            restart,
            asked: true,
        };
        let failed = |code, reason: String| Verdict {
            code,
            text: format!("partition {name}: {reason}"),
            state: State::Error,
            reason,
            restart: false,
            asked: false,
        };
        match ending {
            Some(Ending::Final(last)) if last.cause.is_orderly() => match last.cause {
                _ if by_operator => stopped,
                Cause::Reset => Verdict {
                    code: Code::PartitionRestarted,
                    text: format!("partition {name} restarts: its guest asked for it"),
                    restart: true,
                    asked: false,
                    ..stopped
                },
                Cause::PowerOff => Verdict {
                    code: Code::PartitionPoweredOff,
                    text: format!("partition {name} powered itself off"),
                    ..stopped
                },
                Cause::Exit { status } => Verdict {
                    code: Code::PartitionExited,
                    text: format!("partition {name} ended with exit status {status}"),
                    ..stopped
                },
                _ => stopped,
            },
            Some(Ending::Final(last)) => Verdict {
                // Somebody who shuts it down does not want it back.
                restart: last.cause == Cause::Watchdog { restart: true } && (!by_operator || restart),
                ..failed(code_of(&last.cause), last.cause.to_string())
            },
            None if end.how.starts_with(FILTERED) => {
                failed(Code::CallForbidden, format!("the jail's filter ended its process: {}", end.how))
            }
            // Killed on the ladder, or before its guest ran.
            _ if by_operator && (self.killed || self.stage != Stage::Running) => stopped,
            Some(Ending::Failed(reason)) => Verdict {
                text: format!("partition {name} could not be activated: {reason}"),
                ..failed(Code::ActivationFailed, reason.clone())
            },
            None if self.stage != Stage::Running => {
                let reason = format!("its process ended before its guest ran: {}", end.how);
                Verdict {
                    text: format!("partition {name} could not be activated: {reason}"),
                    ..failed(Code::ActivationFailed, reason)
                }
            }
            None => failed(Code::ProcessLost, format!("its process ended without a final record: {}", end.how)),
        }
    }

    fn restart(&mut self, now: u64, asked: bool) -> Vec<Effect> {
        if asked {
            return self.make();
        }
        self.restarts.retain(|&at| at.saturating_add(RESTARTS_MS) > now);
        if self.restarts.len() < RESTARTS {
            self.restarts.push(now);
            return self.make();
        }
        self.stage = Stage::Waiting;
        self.until = Some(now.saturating_add(RESTART_DELAY_MS));
        self.killed = false;
        let reason = format!(
            "its guest restarted {RESTARTS} times within {} s; the next start waits {} s",
            RESTARTS_MS / 1000,
            RESTART_DELAY_MS / 1000
        );
        self.become_state(State::Starting, reason);
        vec![]
    }

    pub(super) fn off(&mut self, state: State, reason: String) -> Vec<Effect> {
        let answer = if state == State::Error { Answer::Failed(reason.clone()) } else { Answer::Inactive };
        self.become_state(state, reason);
        self.stage = Stage::Off;
        self.until = None;
        self.stopping = None;
        self.ending = None;
        self.killed = false;
        vec![Effect::Reap, Effect::Release, Effect::Answer(answer)]
    }
}

/// The reference code of an end that nobody wanted.
fn code_of(cause: &Cause) -> Code {
    match cause {
        Cause::TripleFault => Code::TripleFault,
        Cause::Panicked => Code::GuestPanicked,
        Cause::Watchdog { .. } => Code::GuestHung,
        Cause::InternalError { .. } | Cause::UnhandledExit { .. } => Code::InternalError,
        Cause::FailEntry { .. } | Cause::RunFailed { .. } => Code::RunFailed,
        Cause::MonitorFailed { .. } => Code::MonitorFailed,
        Cause::PowerOff => Code::PartitionPoweredOff,
        Cause::Reset => Code::PartitionRestarted,
        Cause::Exit { .. } => Code::PartitionExited,
        Cause::Stopped => Code::PartitionStopped,
    }
}
