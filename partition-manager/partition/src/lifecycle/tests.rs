//! The rules of a partition's life, on random lives.

use super::*;
use proptest::prelude::*;

const PROCESSORS: usize = 3;

fn packet(from: Connection, epoch: u64, asked: Asked) -> Input {
    Input::Packet { from, epoch, asked }
}

fn finished(processor: u32, cause: Option<Cause>) -> Input {
    Input::Finished {
        processor,
        cause,
        registers: Box::new(Registers { rip: processor.into(), ..Registers::default() }),
    }
}

/// A partition that runs, with connection 1 and epoch 5 as its manager.
fn running() -> Lifecycle {
    let mut life = Lifecycle::default();
    assert_eq!(life.step(packet(1, 5, Asked::Hello)), [Effect::Welcome(1)]);
    assert_eq!(life.step(packet(1, 5, Asked::Launch)), [Effect::Launch]);
    let ready = life.step(Input::Launched { processors: PROCESSORS });
    assert_eq!(ready, [Effect::Wait(None), Effect::Report(Say::Ready)]);
    assert_eq!(life.step(packet(1, 5, Asked::Start)), [Effect::Run]);
    assert_eq!(life.step(Input::Entered), [Effect::Report(Say::Running)]);
    life
}

#[test]
fn the_first_cause_wins_and_is_concluded_when_all_have_stopped() {
    let mut life = running();
    let halted = life.step(finished(1, Some(Cause::TripleFault)));
    assert_eq!(halted, [Effect::Halt, Effect::Wait(Some(STOP_LIMIT))]);
    assert_eq!(life.step(finished(0, Some(Cause::PowerOff))), []);
    assert_eq!(life.step(packet(1, 5, Asked::Stop)), []);
    let concluded = life.step(finished(2, None));
    let [Effect::Conclude(last), Effect::Wait(Some(PATIENCE))] = concluded.as_slice() else { panic!("{concluded:?}") };
    assert_eq!((&last.cause, last.processor), (&Cause::TripleFault, Some(1)));
    assert_eq!(last.registers.iter().map(|one| one.rip).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(life.step(packet(1, 5, Asked::Acknowledge)), [Effect::Exit(EXIT_FAILED)]);
}

#[test]
fn a_processor_that_does_not_stop_holds_nobody_up() {
    let mut life = running();
    life.step(packet(1, 5, Asked::Stop));
    life.step(finished(0, None));
    let concluded = life.step(Input::Elapsed);
    assert!(matches!(&concluded[0], Effect::Conclude(last) if last.registers.len() == PROCESSORS));
    assert_eq!(life.step(finished(1, None)), []);
    assert_eq!(life.step(packet(1, 5, Asked::Acknowledge)), [Effect::Exit(EXIT_ORDERLY)]);
}

#[test]
fn an_ordered_stop_is_recorded_before_the_manager_kills() {
    let mut life = running();
    assert_eq!(life.step(packet(1, 5, Asked::Stop)), [Effect::Halt, Effect::Wait(Some(ORDERED_STOP_LIMIT))]);
    assert!(ORDERED_STOP_LIMIT < Duration::from_millis(frame::ladder::STOP_MS));
    let concluded = life.step(Input::Elapsed);
    let Some(Effect::Conclude(last)) = concluded.first() else { panic!("{concluded:?}") };
    assert_eq!((&last.cause, last.registers.len()), (&Cause::Stopped, PROCESSORS));
}

#[test]
fn an_equal_or_higher_epoch_takes_over_and_a_lower_one_is_refused() {
    let mut life = running();
    assert!(matches!(&life.step(packet(2, 4, Asked::Hello))[..], [Effect::Refuse(2, _)]));
    assert_eq!(life.step(packet(3, 5, Asked::Hello)), [Effect::Close(1), Effect::Welcome(3)]);
    assert_eq!(life.step(packet(4, 9, Asked::Hello)), [Effect::Close(3), Effect::Welcome(4)]);
    assert!(matches!(&life.step(packet(3, 5, Asked::Stop))[..], [Effect::Refuse(3, _)]));
    assert_eq!(life.phase(), Phase::Running);
    // The manager itself falls back: it is not the one it was.
    assert!(matches!(&life.step(packet(4, 8, Asked::Stop))[..], [Effect::Refuse(4, _)]));
    assert_eq!(life.manager(), None);
}

#[test]
fn an_expired_watchdog_ends_it_with_the_registers_of_all() {
    let mut life = running();
    assert_eq!(life.step(Input::Expired { restart: true }), [Effect::Halt, Effect::Wait(Some(STOP_LIMIT))]);
    // It is said again until it is heard, and what the others come to meanwhile is not why.
    assert_eq!(life.step(Input::Expired { restart: true }), []);
    let ends =
        (0..PROCESSORS as u32).flat_map(|id| life.step(finished(id, Some(Cause::TripleFault)))).collect::<Vec<_>>();
    let Some(Effect::Conclude(last)) = ends.first() else { panic!("{ends:?}") };
    assert_eq!((&last.cause, last.processor), (&Cause::Watchdog { restart: true }, None));
    assert_eq!(last.registers.len(), PROCESSORS);
    assert_eq!(Lifecycle::default().step(Input::Expired { restart: true }), []);
}

#[test]
fn nothing_happens_before_a_hello() {
    let mut life = Lifecycle::default();
    assert!(matches!(&life.step(packet(1, 5, Asked::Launch))[..], [Effect::Refuse(1, _)]));
    assert_eq!(life.phase(), Phase::Empty);
}

#[test]
fn who_is_never_launched_leaves_and_who_ended_waits_for_a_manager() {
    assert_eq!(Lifecycle::first(), Effect::Wait(Some(PATIENCE)));
    assert_eq!(Lifecycle::default().step(Input::Elapsed), [Effect::Exit(EXIT_NOT_LAUNCHED)]);
    let mut life = running();
    life.step(Input::Lost(1));
    for processor in 0..3 {
        life.step(finished(processor, Some(Cause::PowerOff)));
    }
    assert_eq!(life.phase(), Phase::Ended);
    assert_eq!(life.step(packet(7, 5, Asked::Hello)), [Effect::Wait(Some(PATIENCE)), Effect::Welcome(7)]);
    assert_eq!(life.step(Input::Elapsed), [Effect::Exit(EXIT_ORDERLY)]);
    assert_eq!(life.step(packet(7, 5, Asked::Ping)), []);
}

#[test]
fn a_launch_happens_once_and_its_failure_is_the_end() {
    let mut life = running();
    assert!(matches!(&life.step(packet(1, 5, Asked::Launch))[..], [Effect::Refuse(1, _)]));
    let mut life = Lifecycle::default();
    life.step(packet(1, 5, Asked::Hello));
    life.step(packet(1, 5, Asked::Launch));
    let end = life.step(Input::NotLaunched { reason: "x".to_owned() });
    assert_eq!(end, [Effect::Report(Say::Failed("x".to_owned())), Effect::Exit(EXIT_NOT_LAUNCHED)]);
}

fn asked() -> impl Strategy<Value = Asked> {
    prop::sample::select(vec![
        Asked::Hello,
        Asked::Launch,
        Asked::Start,
        Asked::Ask,
        Asked::PowerButton,
        Asked::Nmi,
        Asked::Stop,
        Asked::Input,
        Asked::Acknowledge,
        Asked::Ping,
    ])
}

fn input() -> impl Strategy<Value = Input> {
    let cause = prop_oneof![Just(None), Just(Some(Cause::PowerOff)), Just(Some(Cause::TripleFault))];
    prop_oneof![
        8 => (0u64..4, 0u64..4, asked()).prop_map(|(from, epoch, asked)| packet(from, epoch, asked)),
        1 => (0u64..4).prop_map(Input::Lost),
        1 => Just(Input::Entered),
        2 => (0u32..4, cause).prop_map(|(processor, cause)| finished(processor, cause)),
        1 => Just(Input::Answered(ChannelAnswer::Denied)),
        1 => Just(Input::Elapsed),
    ]
}

proptest! {
    #[test]
    fn every_life_keeps_the_rules(inputs in proptest::collection::vec(input(), 0..80), fails: bool) {
        let mut life = Lifecycle::default();
        let (mut launches, mut runs, mut halts, mut conclusions, mut exits) = (0, 0, 0, 0, 0);
        let mut highest = None;
        let mut phase = life.phase();
        for input in inputs {
            let mut queue = std::collections::VecDeque::from([input]);
            while let Some(input) = queue.pop_front() {
                let before = exits;
                let effects = life.step(input.clone());
                if before > 0 {
                    prop_assert!(effects.is_empty(), "nothing happens after the end");
                }
                if let Input::Packet { epoch, from, .. } = input {
                    if highest.is_some_and(|highest| epoch < highest) && before == 0 {
                        prop_assert!(matches!(&effects[..], [Effect::Refuse(refused, _)] if *refused == from));
                        prop_assert!(life.manager() != Some(from));
                    }
                    if effects.iter().any(|effect| matches!(effect, Effect::Welcome(_))) {
                        prop_assert_eq!(life.manager(), Some(from));
                    }
                }
                if life.epoch.is_some() {
                    prop_assert!(life.epoch >= highest);
                    highest = life.epoch;
                }
                prop_assert!(life.phase() >= phase, "life goes one way");
                phase = life.phase();
                for effect in effects {
                    prop_assert_eq!(exits, 0, "the exit is the last effect");
                    match effect {
                        Effect::Launch => {
                            launches += 1;
                            queue.push_back(if fails {
                                Input::NotLaunched { reason: String::new() }
                            } else {
                                Input::Launched { processors: PROCESSORS }
                            });
                        }
                        Effect::Run => runs += 1,
                        Effect::Halt => halts += 1,
                        Effect::Conclude(last) => {
                            conclusions += 1;
                            prop_assert_eq!(last.registers.len(), PROCESSORS);
                        }
                        Effect::Exit(_) => exits += 1,
                        _ => {}
                    }
                }
                prop_assert!(launches <= 1 && runs <= 1 && halts <= 1 && conclusions <= halts && exits <= 1);
                prop_assert!(runs <= launches);
                prop_assert_eq!(conclusions == 1 || life.phase() != Phase::Ended || halts == 0, true);
            }
        }
    }

    #[test]
    fn who_runs_can_always_be_stopped_and_left(inputs in proptest::collection::vec(input(), 0..40)) {
        let mut life = running();
        let mut ended = false;
        let follow = |life: &mut Lifecycle, input| {
            life.step(input).iter().any(|effect| matches!(effect, Effect::Exit(_)))
        };
        for input in inputs {
            ended |= follow(&mut life, input);
        }
        ended |= follow(&mut life, packet(9, 100, Asked::Hello));
        ended |= follow(&mut life, packet(9, 100, Asked::Stop));
        for processor in 0..PROCESSORS as u32 {
            ended |= follow(&mut life, finished(processor, None));
        }
        ended |= follow(&mut life, packet(9, 100, Asked::Acknowledge));
        prop_assert!(ended);
    }
}
