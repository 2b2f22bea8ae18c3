//! Changing one value of a partition, within its bounds, as `lpar set` does.

use crate::declare::{Partition, ProcessorMode, Range, Sharing};
use crate::units::{Units, parse_size, show_size};
use std::collections::BTreeMap;
use std::fmt::Display;

/// What can be set, and what a value looks like. In the order in which values are taken.
pub const KEYS: [(&str, &str); 6] = [
    ("availability_priority", "0 to 255"),
    ("memory.desired", "a size, such as 512MiB"),
    ("processors.desired", "a whole number"),
    ("processors.sharing", "capped or uncapped"),
    ("processors.units.desired", "processing units, such as 0.5"),
    ("processors.weight", "0 to 255"),
];

/// The weight of a partition that becomes uncapped and names none.
const WEIGHT: u8 = 128;

/// Why a value is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    /// There is no such key, or it cannot be set.
    #[error("{key:?} cannot be set; {} can, everything else by a changed frame file and `lpar apply`", names())]
    Key {
        /// The key.
        key: String,
    },
    /// The value has another form.
    #[error("{key} cannot be {value:?}; it is {form}")]
    Value {
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// What it should be.
        form: String,
    },
    /// The value is out of the partition's bounds.
    #[error(
        "{key} cannot be {value}: the partition has {minimum} at least and {maximum} at most; change that in the frame file, then `lpar apply`"
    )]
    Bounds {
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// The least.
        minimum: String,
        /// The most.
        maximum: String,
    },
    /// The key is of shared partitions.
    #[error("{key} is of partitions that share a pool, and this one has dedicated processors")]
    Dedicated {
        /// The key.
        key: String,
    },
    /// The key is of uncapped partitions.
    #[error("processors.weight is of uncapped partitions, and this one is capped; set processors.sharing=uncapped too")]
    Capped,
}

fn names() -> String {
    KEYS.map(|(key, _)| key).join(", ")
}

/// Sets values of `partition` by key. Either all are taken, or none.
///
/// # Errors
/// The first that cannot be.
pub fn set(partition: &mut Partition, values: &BTreeMap<String, String>) -> Result<(), SetError> {
    let mut changed = partition.clone();
    if let Some(key) = values.keys().find(|key| KEYS.iter().all(|(known, _)| known != key)) {
        return Err(SetError::Key { key: key.clone() });
    }
    for (key, form) in KEYS {
        if let Some(value) = values.get(key) {
            one(&mut changed, key, form, value.trim())?;
        }
    }
    *partition = changed;
    Ok(())
}

fn one(partition: &mut Partition, key: &str, form: &str, value: &str) -> Result<(), SetError> {
    let wrong = || SetError::Value { key: key.into(), value: value.into(), form: form.into() };
    let dedicated = || SetError::Dedicated { key: key.into() };
    match key {
        "availability_priority" => partition.availability_priority = value.parse().map_err(|_| wrong())?,
        "memory.desired" => {
            let bytes = parse_size(value).map_err(|_| wrong())?;
            within(key, &mut partition.memory.size, bytes, show_size)?;
        }
        "processors.desired" => {
            let count = value.parse().map_err(|_| wrong())?;
            within(key, &mut partition.processors.count, count, |count| count.to_string())?;
        }
        _ => {
            let ProcessorMode::Shared { units, sharing, .. } = &mut partition.processors.mode else {
                return Err(dedicated());
            };
            match (key, value) {
                ("processors.sharing", "capped") => *sharing = Sharing::Capped,
                ("processors.sharing", "uncapped") => {
                    if *sharing == Sharing::Capped {
                        *sharing = Sharing::Uncapped { weight: WEIGHT };
                    }
                }
                ("processors.sharing", _) => return Err(wrong()),
                ("processors.weight", _) => match sharing {
                    Sharing::Uncapped { weight } => *weight = value.parse().map_err(|_| wrong())?,
                    Sharing::Capped => return Err(SetError::Capped),
                },
                _ => {
                    let number: f64 = value.parse().map_err(|_| wrong())?;
                    let thousandths = number * 1000.0;
                    // Thousandths, as in the file.
                    if !(1.0..1e9).contains(&thousandths) || (thousandths - thousandths.round()).abs() > 1e-6 {
                        return Err(wrong());
                    }
                    within(key, units, Units::from(number), |units| units.to_string())?;
                }
            }
        }
    }
    Ok(())
}

/// Sets what is desired, if it is between the least and the most.
fn within<T: PartialOrd + Copy, D: Display>(
    key: &str,
    range: &mut Range<T>,
    value: T,
    show: impl Fn(T) -> D,
) -> Result<(), SetError> {
    if range.minimum <= value && value <= range.maximum {
        range.desired = value;
        return Ok(());
    }
    Err(SetError::Bounds {
        key: key.into(),
        value: show(value).to_string(),
        minimum: show(range.minimum).to_string(),
        maximum: show(range.maximum).to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::declare::{IoProcessors, Memory, Processors};
    use crate::name::Name;
    use crate::units::MIB;
    use proptest::prelude::*;

    fn partition(mode: ProcessorMode) -> Partition {
        let size = Range { minimum: 32 * MIB, desired: 64 * MIB, maximum: 128 * MIB };
        let count = Range { minimum: 1, desired: 1, maximum: 4 };
        let text = r#"{ "name": "a", "id": 1, "availability_priority": 127, "boot": { "diagnostics": { "cmdline": "" } },
            "auto_start": true, "when_inactive": "hold", "shutdown": { "ask_ms": 1, "button_ms": 1, "nmi_ms": 1 },
            "pit": null, "exit_device": false, "panic_device": false, "watchdog": null, "interrupts": "kernel",
            "interrupt_limit": { "rate": 1000, "burst": 10 }, "entropy": null, "disks": [] }"#;
        let mut value: serde_json::Value = serde_json::from_str(text).unwrap();
        value["processors"] = serde_json::to_value(Processors { count, mode }).unwrap();
        value["memory"] = serde_json::to_value(Memory { size, base: 64 * MIB, pages: None }).unwrap();
        serde_json::from_value(value).unwrap()
    }

    fn shared(sharing: Sharing) -> Partition {
        let units = |thousandths| Units::from_thousandths(thousandths);
        let units = Range { minimum: units(100), desired: units(200), maximum: units(800) };
        partition(ProcessorMode::Shared { pool: Name::new("default").unwrap(), units, sharing })
    }

    fn values(text: &str) -> BTreeMap<String, String> {
        let pairs = text.split_whitespace().filter_map(|pair| pair.split_once('='));
        pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn values_are_taken_together_in_any_order() {
        let mut one = shared(Sharing::Capped);
        let text = "processors.weight=9 processors.sharing=uncapped processors.units.desired=0.5 memory.desired=96MiB \
                    processors.desired=2 availability_priority=255";
        set(&mut one, &values(text)).unwrap();
        let ProcessorMode::Shared { units, sharing, .. } = &one.processors.mode else { panic!() };
        assert_eq!((units.desired.thousandths(), *sharing), (500, Sharing::Uncapped { weight: 9 }));
        assert_eq!((one.memory.size.desired, one.processors.count.desired), (96 * MIB, 2));
        assert_eq!(one.availability_priority, 255);
        // Uncapped already, it keeps its weight.
        set(&mut one, &values("processors.sharing=uncapped")).unwrap();
        let ProcessorMode::Shared { sharing, .. } = &one.processors.mode else { panic!() };
        assert_eq!(*sharing, Sharing::Uncapped { weight: 9 });
    }

    #[test]
    fn what_cannot_be_is_said_and_nothing_changes() {
        let dedicated = partition(ProcessorMode::Dedicated { io: IoProcessors::Own });
        let capped = shared(Sharing::Capped);
        for (before, text, part) in [
            (&capped, "processors.unit.desired=1", "\"processors.unit.desired\" cannot be set; availability_priority,"),
            (&capped, "memory.desired=64MiB processors.units.desired=0.9", "0.10 at least and 0.80 at most"),
            (&capped, "processors.units.desired=half", "it is processing units, such as 0.5"),
            (&capped, "processors.units.desired=0.0005", "cannot be \"0.0005\""),
            (&capped, "processors.units.desired=NaN", "cannot be \"NaN\""),
            (&capped, "memory.desired=1TiB", "memory.desired cannot be 1TiB: the partition has 32MiB at least"),
            (&capped, "processors.desired=0", "processors.desired cannot be 0"),
            (&capped, "processors.weight=3", "set processors.sharing=uncapped too"),
            (&capped, "processors.sharing=some", "it is capped or uncapped"),
            (&capped, "availability_priority=256", "it is 0 to 255"),
            (&dedicated, "processors.weight=3", "has dedicated processors"),
        ] {
            let mut after = before.clone();
            let error = set(&mut after, &values(text)).unwrap_err().to_string();
            assert!(error.contains(part), "{part:?} is missing in {error:?}");
            assert_eq!(after, *before, "{text}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_written_stays_within_the_bounds(key in 0..KEYS.len(), value in "\\PC{0,12}|[0-9.]{1,6}(MiB)?") {
            let mut one = shared(Sharing::Uncapped { weight: 1 });
            let _ = set(&mut one, &BTreeMap::from([(KEYS[key].0.to_owned(), value)]));
            let ProcessorMode::Shared { units, .. } = &one.processors.mode else { panic!() };
            prop_assert!(units.minimum <= units.desired && units.desired <= units.maximum);
            let (size, count) = (one.memory.size, one.processors.count);
            prop_assert!(size.minimum <= size.desired && size.desired <= size.maximum);
            prop_assert!(count.minimum <= count.desired && count.desired <= count.maximum);
        }
    }
}
