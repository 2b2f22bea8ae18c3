//! The life of a partition, told and at random.

use super::*;
use crate::record::Cause;
use proptest::prelude::*;

fn life() -> Lifecycle {
    Lifecycle::new(Name::new("a").unwrap(), Shutdown { ask_ms: 100, button_ms: 200, nmi_ms: 50 })
}

fn running() -> Lifecycle {
    let mut life = life();
    assert_eq!(life.step(0, Input::Activate), [Effect::Make]);
    assert_eq!(life.state(), State::Starting);
    assert_eq!(life.step(1, Input::Made), []);
    assert_eq!(life.step(2, Input::Welcomed { phase: Phase::Empty, ended: None }), [Effect::Launch]);
    assert_eq!(life.step(3, Input::Ready), [Effect::Start]);
    let effects = life.step(4, Input::Running);
    assert_eq!(codes(&effects), [Code::PartitionRunning]);
    assert!(effects.contains(&Effect::Answer(Answer::Active)));
    assert_eq!(life.deadline(), None);
    life
}

fn codes(effects: &[Effect]) -> Vec<Code> {
    let raised = effects.iter().filter_map(|effect| match effect {
        Effect::Raise { code, .. } => Some(*code),
        _ => None,
    });
    raised.collect()
}

fn last(cause: Cause) -> Box<Final> {
    Box::new(Final { cause, processor: Some(0), registers: vec![Registers { rip: 7, ..Registers::default() }] })
}

fn gone() -> Input {
    Input::Gone(Box::new(End { how: "killed by signal 9 (SIGKILL)".into(), ..End::default() }))
}

fn shutdown(immediate: bool, restart: bool) -> Input {
    Input::Shutdown { request: ShutdownRequest { immediate, restart }, down: false }
}

#[test]
fn ends_have_one_event_each() {
    let ends = [
        (Cause::PowerOff, Code::PartitionPoweredOff, State::NotActivated),
        (Cause::Stopped, Code::PartitionStopped, State::NotActivated),
        (Cause::Exit { status: 7 }, Code::PartitionExited, State::NotActivated),
        (Cause::Reset, Code::PartitionRestarted, State::Starting),
        (Cause::TripleFault, Code::TripleFault, State::Error),
        (Cause::Panicked, Code::GuestPanicked, State::Error),
        (Cause::Watchdog { restart: false }, Code::GuestHung, State::Error),
        (Cause::Watchdog { restart: true }, Code::GuestHung, State::Starting),
        (Cause::InternalError { suberror: 1 }, Code::InternalError, State::Error),
        (Cause::MonitorFailed { reason: "x".into() }, Code::MonitorFailed, State::Error),
    ];
    for (cause, code, state) in ends {
        for through_record in [false, true] {
            let mut life = running();
            let end = if through_record {
                End { last: Some(*last(cause.clone())), ..End::default() }
            } else {
                assert_eq!(life.step(10, Input::Ended(last(cause.clone()))), [Effect::Acknowledge]);
                End::default()
            };
            let effects = life.step(11, Input::Gone(Box::new(end)));
            assert_eq!(codes(&effects), [code]);
            let Effect::Raise { data, .. } = &effects[0] else { panic!("{effects:?}") };
            assert_eq!(data["registers"][0]["rip"], 7);
            assert_eq!(life.state(), state);
        }
    }
}

#[test]
fn an_exit_status_stays_until_the_next_start() {
    let mut life = running();
    assert_eq!(life.exit_status(), None);
    life.step(10, Input::Ended(last(Cause::Exit { status: 0xdead_beef })));
    let effects = life.step(11, gone());
    assert!(effects.contains(&Effect::Answer(Answer::Inactive)));
    let Effect::Raise { data, text, .. } = &effects[0] else { panic!("{effects:?}") };
    assert_eq!(data["cause"]["exit"]["status"], 0xdead_beef_u32);
    assert_eq!(text, "partition a ended with exit status 3735928559");
    assert_eq!((life.exit_status(), life.reason()), (Some(0xdead_beef), "exit status 3735928559"));
    // A manager that is replaced finds it in the journal.
    let kept = serde_json::to_string(&life).unwrap();
    let mut life: Lifecycle = serde_json::from_str(&kept).unwrap();
    assert_eq!(life.step(0, Input::Restored { alive: false }), []);
    assert_eq!(life.exit_status(), Some(0xdead_beef));
    life.step(12, Input::Activate);
    assert_eq!((life.exit_status(), life.reason()), (None, ""));
}

#[test]
fn an_exit_status_is_kept_also_where_an_operator_asked_for_the_end() {
    let mut life = running();
    life.step(10, shutdown(false, false));
    life.step(11, Input::Ended(last(Cause::Exit { status: 0 })));
    assert_eq!(codes(&life.step(12, gone())), [Code::PartitionStopped]);
    assert_eq!((life.exit_status(), life.reason()), (Some(0), "exit status 0"));
}

#[test]
fn a_killed_process_is_lost_with_its_registers() {
    let mut life = running();
    let registers = vec![Registers { rip: 9, ..Registers::default() }];
    let end = End { how: "killed by signal 9 (SIGKILL)".into(), registers, last: None };
    let effects = life.step(9, Input::Gone(Box::new(end)));
    assert_eq!(codes(&effects), [Code::ProcessLost]);
    let Effect::Raise { data, .. } = &effects[0] else { panic!("{effects:?}") };
    assert_eq!(data["registers"][0]["rip"], 9);
    assert_eq!(life.state(), State::Error);
    assert!(life.reason().contains("SIGKILL"));
    assert_eq!(life.step(10, Input::Activate), [Effect::Make]);
}

#[test]
fn what_the_filter_of_calls_ended_has_a_code_of_its_own() {
    for life in [running(), {
        let mut begun = life();
        begun.step(0, Input::Activate);
        begun.step(0, Input::Made);
        begun
    }] {
        let mut life = life;
        let how = format!("{FILTERED}, at system call 41");
        let effects = life.step(9, Input::Gone(Box::new(End { how, ..End::default() })));
        assert_eq!(codes(&effects), [Code::CallForbidden]);
        assert_eq!(life.state(), State::Error);
        assert!(life.reason().contains("system call 41"), "{}", life.reason());
    }
}

#[test]
fn a_failed_launch_says_why() {
    let mut life = life();
    life.step(0, Input::Activate);
    life.step(0, Input::Made);
    life.step(0, Input::Failed { reason: "the kernel ends after 3 bytes".into() });
    let effects = life.step(1, gone());
    assert_eq!(codes(&effects), [Code::ActivationFailed]);
    assert!(effects.contains(&Effect::Answer(Answer::Failed("the kernel ends after 3 bytes".into()))));
    assert!(effects.contains(&Effect::Release));
}

#[test]
fn a_hung_start_is_killed() {
    let mut life = life();
    life.step(0, Input::Activate);
    life.step(5, Input::Made);
    assert_eq!(life.deadline(), Some(5 + START_MS));
    assert_eq!(life.step(5 + START_MS, Input::Time), [Effect::Take(Rung::Kill)]);
    assert_eq!(codes(&life.step(6 + START_MS, gone())), [Code::ActivationFailed]);
}

#[test]
fn a_guest_may_object_but_not_to_the_end_of_the_frame() {
    let mut life = running();
    assert_eq!(life.step(10, shutdown(false, false)), [Effect::Take(Rung::Ask)]);
    assert_eq!(life.state(), State::ShuttingDown);
    assert!(matches!(life.step(10, Input::Activate)[..], [Effect::Refuse(_)]));
    let effects = life.step(11, Input::Channel(ChannelAnswer::Denied));
    assert_eq!(codes(&effects), [Code::ShutdownDenied]);
    assert_eq!(life.state(), State::Running);
    let down = Input::Shutdown { request: ShutdownRequest::default(), down: true };
    assert_eq!(life.step(12, down), [Effect::Take(Rung::Ask)]);
    let effects = life.step(13, Input::Channel(ChannelAnswer::Denied));
    assert!(effects.contains(&Effect::Take(Rung::PowerButton)));
}

#[test]
fn an_operators_restart_starts_again() {
    let mut life = running();
    assert_eq!(life.step(10, shutdown(true, true)), [Effect::Take(Rung::Stop)]);
    life.step(11, Input::Ended(last(Cause::Stopped)));
    let effects = life.step(12, gone());
    assert_eq!(codes(&effects), [Code::PartitionRestarted]);
    assert!(effects.contains(&Effect::Make) && !effects.contains(&Effect::Release));
}

#[test]
fn restart_loops_are_slowed() {
    let mut life = running();
    let mut waited = false;
    let mut now = 100;
    for _ in 0..=RESTARTS {
        let effects = life.step(now, Input::Gone(Box::new(End { last: Some(*last(Cause::Reset)), ..End::default() })));
        assert_eq!(codes(&effects), [Code::PartitionRestarted]);
        if effects.contains(&Effect::Make) {
            life.step(now, Input::Made);
            life.step(now, Input::Welcomed { phase: Phase::Running, ended: None });
        } else {
            waited = true;
        }
        now += 10;
    }
    assert!(waited && life.state() == State::Starting && life.is_active());
    let due = life.deadline().unwrap();
    assert_eq!(life.step(due, Input::Time), [Effect::Make]);
}

#[test]
fn a_new_manager_goes_on() {
    // In the middle of a shutdown.
    let mut life = running();
    life.step(10, shutdown(false, false));
    let text = serde_json::to_string(&life).unwrap();
    let mut life: Lifecycle = serde_json::from_str(&text).unwrap();
    assert_eq!(life.step(20, Input::Restored { alive: true }), []);
    assert_eq!(life.step(21, Input::Welcomed { phase: Phase::Running, ended: None }), [Effect::Take(Rung::Ask)]);
    assert_eq!(life.deadline(), Some(110));
    // Its process did not live to see it.
    let mut dead: Lifecycle = serde_json::from_str(&text).unwrap();
    assert_eq!(codes(&dead.step(20, Input::Restored { alive: false })), [Code::ProcessLost]);
    // In the middle of an activation, until there is reason to think that it is the cause.
    let mut life = self::life();
    life.step(0, Input::Activate);
    for _ in 1..ATTEMPTS {
        assert!(life.step(1, Input::Restored { alive: false }).contains(&Effect::Make));
    }
    assert_eq!(codes(&life.step(1, Input::Restored { alive: false })), [Code::ActivationFailed]);
    assert_eq!(life.state(), State::Error);
}

/// A host as far as a life needs one: it makes processes, kills them, and they end.
#[derive(Default)]
struct Host {
    process: bool,
    owns: bool,
    raised_since_gone: usize,
}

impl Host {
    fn carry_out(&mut self, life: &mut Lifecycle, now: u64, effects: Vec<Effect>, fail: bool) {
        let mut queue = std::collections::VecDeque::from(effects);
        while let Some(effect) = queue.pop_front() {
            match effect {
                Effect::Make => {
                    assert!(!self.process, "two processes of one partition");
                    self.owns = true;
                    let input = if fail { Input::MakeFailed { reason: "x".into() } } else { Input::Made };
                    self.process = !fail;
                    queue.extend(life.step(now, input));
                }
                Effect::Launch | Effect::Start => assert!(self.process && life.has_process()),
                Effect::Take(Rung::Kill) => self.end(life, now, &mut queue, None),
                Effect::Take(_) | Effect::Acknowledge => assert!(self.process),
                Effect::Reap => assert!(!self.process, "a living process was given up"),
                Effect::Release => self.owns = false,
                Effect::Raise { code: Code::PartitionRunning, .. } => {}
                Effect::Raise { .. } => self.raised_since_gone += 1,
                Effect::Answer(_) | Effect::Refuse(_) => {}
            }
        }
    }

    fn end(
        &mut self,
        life: &mut Lifecycle,
        now: u64,
        queue: &mut std::collections::VecDeque<Effect>,
        last: Option<Final>,
    ) {
        if !self.process {
            return;
        }
        self.process = false;
        let effects = life.step(now, Input::Gone(Box::new(End { last, ..End::default() })));
        let ends = codes(&effects);
        assert_eq!(ends.len(), 1, "one end is one event, not {ends:?}");
        queue.extend(effects);
    }
}

fn cause() -> impl Strategy<Value = Cause> {
    prop_oneof![
        Just(Cause::PowerOff),
        Just(Cause::Reset),
        Just(Cause::Stopped),
        Just(Cause::TripleFault),
        Just(Cause::RunFailed { errno: 14 }),
    ]
}

fn input() -> impl Strategy<Value = Input> {
    let answers = prop_oneof![
        Just(ChannelAnswer::Absent),
        Just(ChannelAnswer::Pending),
        Just(ChannelAnswer::Approved),
        Just(ChannelAnswer::Denied)
    ];
    let phases = prop_oneof![Just(Phase::Empty), Just(Phase::Ready), Just(Phase::Running), Just(Phase::Ended)];
    prop_oneof![
        4 => Just(Input::Activate),
        2 => (any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(immediate, restart, down)| {
            Input::Shutdown { request: ShutdownRequest { immediate, restart }, down }
        }),
        4 => phases.prop_map(|phase| Input::Welcomed { phase, ended: None }),
        1 => cause().prop_map(|cause| Input::Welcomed { phase: Phase::Ended, ended: Some(last(cause)) }),
        3 => Just(Input::Ready),
        3 => Just(Input::Running),
        1 => Just(Input::Failed { reason: "x".into() }),
        1 => answers.prop_map(Input::Channel),
        2 => cause().prop_map(|cause| Input::Ended(last(cause))),
        2 => Just(gone()),
        1 => Just(Input::Restored { alive: true }),
        3 => Just(Input::Time),
    ]
}

proptest! {
    // Whatever a process, a guest, an operator and the clock do, in whatever order.
    #[test]
    fn a_life_holds_together(steps in proptest::collection::vec((input(), 0u64..5000, any::<bool>()), 1..60)) {
        let mut life = life();
        let mut host = Host::default();
        let mut now = 0;
        for (input, passed, fail) in steps {
            now += passed;
            let effects = match input {
                Input::Gone(_) => {
                    let mut queue = std::collections::VecDeque::new();
                    host.end(&mut life, now, &mut queue, None);
                    queue.into()
                }
                // What only a living process can say.
                Input::Welcomed { .. } | Input::Ready | Input::Running | Input::Failed { .. } | Input::Ended(_)
                    if !host.process => continue,
                Input::Restored { .. } if !host.process => life.step(now, Input::Restored { alive: false }),
                input => life.step(now, input),
            };
            host.carry_out(&mut life, now, effects, fail);
            prop_assert_eq!(life.has_process(), host.process);
            prop_assert_eq!(life.is_active(), host.owns);
            prop_assert!(host.owns || matches!(life.state(), State::NotActivated | State::Error));
            prop_assert!(life.state() != State::Error || !life.reason().is_empty());
            let again: Lifecycle = serde_json::from_str(&serde_json::to_string(&life).unwrap()).unwrap();
            prop_assert_eq!(&again, &life);
        }
        // An immediate end of the frame is always reached.
        let request = ShutdownRequest { immediate: true, restart: false };
        let effects = life.step(now, Input::Shutdown { request, down: true });
        host.carry_out(&mut life, now, effects, false);
        for _ in 0..10 {
            let Some(due) = life.deadline() else { break };
            now = now.max(due);
            let effects = life.step(now, Input::Time);
            host.carry_out(&mut life, now, effects, false);
        }
        prop_assert!(!life.is_active() && !host.process && !host.owns, "{:?}", life);
    }
}
