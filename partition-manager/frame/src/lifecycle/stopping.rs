//! The way down: what a shutdown request leads to, rung by rung.

use super::{Answer, Effect, Lifecycle, Stage, Stopping, raise};
use crate::api::ShutdownRequest;
use crate::code::Code;
use crate::ladder::{Decision, Ladder, Rung};
use crate::state::State;

impl Lifecycle {
    pub(super) fn shutdown(&mut self, now: u64, request: ShutdownRequest, down: bool) -> Vec<Effect> {
        match self.stage {
            Stage::Off if request.restart && !down => {
                vec![Effect::Refuse(format!("partition {} is not active; use `lpar activate {0}`", self.name))]
            }
            Stage::Off => {
                if self.state == State::Error {
                    self.become_state(State::NotActivated, String::new());
                }
                vec![Effect::Answer(Answer::Inactive)]
            }
            Stage::Waiting if request.restart && !down => {
                self.restarts.clear();
                self.make()
            }
            Stage::Waiting | Stage::Making => {
                let mut effects = vec![raise(Code::PartitionStopped, self.stopped_text())];
                effects.extend(self.off(State::NotActivated, String::new()));
                effects
            }
            _ => self.descend(now, request, down),
        }
    }

    fn descend(&mut self, now: u64, request: ShutdownRequest, down: bool) -> Vec<Effect> {
        if let Some(stopping) = &mut self.stopping {
            stopping.restart = request.restart && !down;
            if down {
                stopping.ladder.forbid_denial();
            }
            if !request.immediate || self.ending.is_some() {
                return vec![];
            }
            let decision = stopping.ladder.hurry(now);
            return self.decided(decision);
        }
        // Before its guest runs there is nobody to ask.
        let immediate = request.immediate || self.stage != Stage::Running;
        let (ladder, rung) = Ladder::begin(self.deadlines, immediate, !down, now);
        self.stopping = Some(Stopping { ladder, restart: request.restart && !down });
        self.become_state(State::ShuttingDown, String::new());
        if self.ending.is_some() {
            return vec![];
        }
        self.until = None;
        self.take(rung)
    }

    pub(super) fn take(&mut self, rung: Rung) -> Vec<Effect> {
        self.killed |= rung == Rung::Kill;
        vec![Effect::Take(rung)]
    }

    pub(super) fn decided(&mut self, decision: Decision) -> Vec<Effect> {
        match decision {
            Decision::Keep => vec![],
            Decision::Take { rung, escalated } => {
                let mut effects = vec![];
                if escalated {
                    let text = format!("partition {} is still there; next is {}", self.name, rung.as_str());
                    effects.push(raise(Code::ShutdownEscalated, text));
                }
                effects.extend(self.take(rung));
                effects
            }
            Decision::Refused => {
                self.stopping = None;
                self.become_state(State::Running, String::new());
                let text = format!("the guest of partition {} objects to its shutdown; it keeps running", self.name);
                vec![raise(Code::ShutdownDenied, text), Effect::Answer(Answer::Denied)]
            }
        }
    }

    pub(super) fn stopped_text(&self) -> String {
        let how = match &self.stopping {
            Some(_) if self.killed => "its process was killed".to_owned(),
            Some(stopping) => format!("it ended after {}", stopping.ladder.rung().as_str()),
            None => "an operator asked for it".to_owned(),
        };
        format!("partition {} was shut down: {how}", self.name)
    }
}
