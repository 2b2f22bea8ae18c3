//! The local APIC against a simple model of what the manual says.

use super::timer::SHORTEST_PERIOD;
use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn enabled(id: u8) -> Lapic {
    let mut lapic = Lapic::new(id);
    assert_eq!(lapic.write(SPURIOUS, 0x1ff, 0), Effect::None);
    lapic
}

const fn fixed(vector: u8, level: bool) -> Interrupt {
    Interrupt { vector, delivery: Delivery::Fixed, level, destination: 0, logical: false }
}

#[test]
fn it_is_off_until_it_is_switched_on() {
    let mut lapic = Lapic::new(3);
    assert!(!lapic.accept(fixed(0x40, false)));
    assert_eq!((lapic.read(ID, 0), lapic.read(VERSION, 0) & 0xff), (3 << 24, 0x14));
    let _ = lapic.write(FIRST_LOCAL, 0xe0, 0);
    assert_eq!(lapic.read(FIRST_LOCAL, 0), MASKED | 0xe0, "masked while it is off");
    assert!(lapic.accept(Interrupt { delivery: Delivery::Nmi, ..fixed(0, false) }));
    assert!(lapic.take_nmi() && !lapic.take_nmi());
}

#[test]
fn only_a_level_is_told_to_the_io_apic() {
    let mut lapic = enabled(0);
    for (level, quiet, expected) in
        [(true, false, Effect::Ended(0x41)), (false, false, Effect::None), (true, true, Effect::None)]
    {
        let _ = lapic.write(SPURIOUS, 0x1ff | u32::from(quiet) << 12, 0);
        assert!(lapic.accept(fixed(0x41, level)));
        assert_eq!(lapic.acknowledge(), Some(0x41));
        assert_eq!(lapic.write(END, 0, 0), expected);
    }
    assert_eq!(lapic.write(END, 0, 0), Effect::None);
}

#[test]
fn a_task_priority_holds_its_class_back() {
    let mut lapic = enabled(0);
    assert!(lapic.accept(fixed(0x4f, false)));
    lapic.set_class(4);
    assert_eq!(lapic.deliverable(), None);
    lapic.set_class(3);
    assert_eq!(lapic.deliverable(), Some(0x4f));
    let _ = lapic.write(TASK_PRIORITY, 0x35, 0);
    lapic.set_class(3);
    assert_eq!(lapic.read(TASK_PRIORITY, 0), 0x35, "the same class keeps the rest");
}

#[test]
fn commands_are_read_by_their_fields() {
    let mut lapic = enabled(0);
    let _ = lapic.write(COMMAND_HIGH, 5 << 24, 0);
    let sent = |delivery, vector, logical| Interrupt { vector, delivery, level: false, destination: 5, logical };
    for (value, expected) in [
        (0x0000_0044, Effect::Send(sent(Delivery::Fixed, 0x44, false), Shorthand::None)),
        (0x0000_0944, Effect::Send(sent(Delivery::LowestPriority, 0x44, true), Shorthand::None)),
        (0x0004_0044, Effect::Send(sent(Delivery::Fixed, 0x44, false), Shorthand::Oneself)),
        (0x0008_0400, Effect::Send(sent(Delivery::Nmi, 0, false), Shorthand::All)),
        (0x000c_4500, Effect::Send(sent(Delivery::Init, 0, false), Shorthand::Others)),
        (0x0000_4609, Effect::Send(sent(Delivery::Startup, 9, false), Shorthand::None)),
        (0x0000_8500, Effect::None),
        (0x0000_0200, Effect::None),
        (0x0000_0003, Effect::None),
    ] {
        assert_eq!(lapic.write(COMMAND, value, 0), expected, "{value:#x}");
    }
    assert_eq!(lapic.read(ERROR_STATUS, 0), 0);
    let _ = lapic.write(ERROR_STATUS, 0, 0);
    assert_eq!(lapic.read(ERROR_STATUS, 0), SENT_ILLEGAL);
}

#[test]
fn errors_interrupt_once_until_they_are_read() {
    let mut lapic = enabled(0);
    let _ = lapic.write(LAST_LOCAL, 0x50, 0);
    assert_eq!(lapic.read(0x10, 0), 0);
    assert_eq!(lapic.acknowledge(), Some(0x50));
    let _ = lapic.write(0x3f0, 1, 0);
    assert_eq!(lapic.deliverable(), None);
    let _ = lapic.write(ERROR_STATUS, 0, 0);
    assert_eq!(lapic.read(ERROR_STATUS, 0), NO_REGISTER);
    let _ = lapic.write(END, 0, 0);
    assert!(!lapic.accept(fixed(3, false)));
    assert_eq!(lapic.acknowledge(), Some(0x50));
}

#[test]
fn logical_destinations_are_flat_or_clusters() {
    let mut lapic = enabled(7);
    assert!(lapic.is_meant(7, false) && !lapic.is_meant(6, false) && lapic.is_meant(0xff, false));
    let _ = lapic.write(LOGICAL, 0x24 << 24, 0);
    assert!(lapic.is_meant(0x04, true) && lapic.is_meant(0x20, true) && !lapic.is_meant(0x53, true));
    let _ = lapic.write(FORMAT, 0, 0);
    assert!(lapic.is_meant(0x2c, true) && !lapic.is_meant(0x14, true) && !lapic.is_meant(0x22, true));
    assert!(lapic.is_meant(0xff, true));
}

#[test]
fn init_resets_and_the_start_behind_it_stays() {
    let mut lapic = enabled(2);
    assert!(lapic.accept(fixed(0x40, false)));
    let of = |delivery, vector| Interrupt { delivery, ..fixed(vector, false) };
    assert!(lapic.accept(of(Delivery::Startup, 1)));
    assert!(lapic.accept(of(Delivery::Init, 0)));
    assert!(lapic.accept(of(Delivery::Startup, 9)));
    assert!(lapic.take_init() && !lapic.take_init());
    assert_eq!((lapic.take_startup(), lapic.take_startup()), (Some(9), None));
    assert_eq!(lapic, Lapic::new(2));
}

#[test]
fn the_timer_counts_down_once_or_again_and_again() {
    let mut lapic = enabled(0);
    let _ = lapic.write(DIVIDE, 0xb, 0);
    let _ = lapic.write(FIRST_LOCAL, 0xe0, 0);
    let _ = lapic.write(INITIAL_COUNT, 1_000_000, 100);
    assert_eq!(lapic.deadline(), Some(1_000_100));
    assert_eq!(lapic.read(CURRENT_COUNT, 600_100), 400_000);
    lapic.advance(1_000_099);
    assert_eq!(lapic.deliverable(), None);
    lapic.advance(1_000_100);
    assert_eq!((lapic.acknowledge(), lapic.deadline(), lapic.read(CURRENT_COUNT, 2_000_000)), (Some(0xe0), None, 0));
    let _ = lapic.write(END, 0, 0);
    // By sixteen, and periodic: what was missed does not add up, and the phase stays.
    let _ = lapic.write(DIVIDE, 3, 0);
    let _ = lapic.write(FIRST_LOCAL, 0xe0 | PERIODIC, 0);
    let _ = lapic.write(INITIAL_COUNT, 100_000, 0);
    lapic.advance(5 * 1_600_000 + 7);
    assert_eq!((lapic.acknowledge(), lapic.deliverable()), (Some(0xe0), None));
    assert_eq!(lapic.deadline(), Some(6 * 1_600_000));
    let _ = lapic.write(INITIAL_COUNT, 0, 0);
    assert_eq!(lapic.deadline(), None);
}

proptest! {
    #[test]
    fn the_highest_comes_first_and_none_is_lost_or_doubled(
        steps in proptest::collection::vec((0u8..6, 16u8..=255), 0..300),
    ) {
        let mut lapic = enabled(0);
        let (mut requested, mut served) = (BTreeSet::new(), Vec::new());
        let mut priority = 0;
        for (step, vector) in steps {
            match step {
                0..3 => prop_assert_eq!(lapic.accept(fixed(vector, vector % 2 == 0)), requested.insert(vector)),
                3 => {
                    let limit = served.last().copied().unwrap_or(0).max(priority) >> 4;
                    let next = requested.last().copied().filter(|next| next >> 4 > limit);
                    prop_assert_eq!(lapic.deliverable(), next);
                    prop_assert_eq!(lapic.acknowledge(), next);
                    if let Some(next) = next {
                        requested.remove(&next);
                        served.push(next);
                    }
                }
                4 => {
                    let effect = lapic.write(END, 0, 0);
                    if let Some(ended) = served.pop() {
                        let expected = if ended % 2 == 0 { Effect::Ended(ended) } else { Effect::None };
                        prop_assert_eq!(effect, expected);
                    }
                }
                _ => {
                    priority = vector;
                    prop_assert_eq!(lapic.write(TASK_PRIORITY, vector.into(), 0), Effect::None);
                }
            }
        }
        // All that was requested comes in the end.
        let _ = lapic.write(TASK_PRIORITY, 0, 0);
        for _ in 0..served.len() {
            let _ = lapic.write(END, 0, 0);
        }
        for expected in requested.into_iter().rev() {
            prop_assert_eq!(lapic.acknowledge(), Some(expected));
            let _ = lapic.write(END, 0, 0);
        }
        prop_assert_eq!(lapic.deliverable(), None);
    }

    #[test]
    fn no_access_is_too_odd(
        steps in proptest::collection::vec((0u8..6, 0u64..0x100, any::<u32>(), any::<u64>()), 0..200),
    ) {
        let mut lapic = Lapic::new(1);
        for (step, register, value, now) in steps {
            match step {
                0 | 1 => drop(lapic.write(register << 4, value, now)),
                2 => drop(lapic.read(register << 4, now)),
                3 => lapic.advance(now),
                4 => {
                    let address = 0xfee0_0000 | u64::from(value) >> 12;
                    if let Some(interrupt) = Interrupt::of_message(address, value) {
                        lapic.accept(interrupt);
                    }
                    lapic.raise(value as u8);
                }
                _ => {
                    let _ = (lapic.acknowledge(), lapic.take_nmi(), lapic.take_init(), lapic.take_startup());
                }
            }
            if let Some(vector) = lapic.deliverable() {
                prop_assert!(vector >= 16 && vector >> 4 > lapic.processor_priority() >> 4);
            }
            let text = serde_json::to_string(&lapic).unwrap();
            prop_assert_eq!(serde_json::from_str::<Lapic>(&text).unwrap(), lapic.clone());
        }
    }

    #[test]
    fn a_timer_is_never_due_again_before_its_period(
        initial in 1u32.., divide: u32, times in proptest::collection::vec(0u64..1 << 44, 1..50),
    ) {
        let mut lapic = enabled(0);
        let _ = lapic.write(FIRST_LOCAL, 0xe0 | PERIODIC, 0);
        let _ = lapic.write(DIVIDE, divide, 0);
        let _ = lapic.write(INITIAL_COUNT, initial, 0);
        let mut now = 0;
        for time in times {
            now += time;
            let before = lapic.deadline().unwrap();
            lapic.advance(now);
            prop_assert_eq!(lapic.acknowledge().is_some(), before <= now);
            let _ = lapic.write(END, 0, now);
            let after = lapic.deadline().unwrap();
            prop_assert!(after > now && (after == before || after - before >= SHORTEST_PERIOD));
        }
    }
}
