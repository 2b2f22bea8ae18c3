//! The processors of a partition, in either mode, and ranges of anything.

use super::fields::{self, At, Fields, Merges};
use super::sink::Sink;
use super::spans::Keys;
use super::walk::Bounds;
use crate::declare::{IoProcessors, ProcessorMode, Processors, Range, Sharing};
use crate::diagnostic::{Diagnostic, shown};
use crate::launch::MOST_PROCESSORS;
use crate::rule::{self, Rule};
use crate::units::Units;
use toml::de::DeTable;

/// Weight of an uncapped partition that declares none, as on the HMC.
pub const WEIGHT: u8 = 128;

/// Reads `minimum`, `desired` and `maximum`; those that are absent are as desired.
pub(super) fn range<T: Copy + PartialOrd>(
    fields: &mut Fields<'_, '_>,
    sink: &mut Sink,
    what: &str,
    read: impl Fn(&mut Fields<'_, '_>, &mut Sink, &'static str) -> Option<At<T>>,
    show: impl Fn(&T) -> String,
) -> Option<Range<T>> {
    let minimum = read(fields, sink, "minimum");
    let desired = read(fields, sink, "desired");
    let maximum = read(fields, sink, "maximum");
    if !fields.has("desired") {
        fields.missing(sink, "desired", "minimum and maximum default to desired");
    }
    let pairs = [("minimum", &minimum, "desired", &desired), ("desired", &desired, "maximum", &maximum)];
    let order = |sink: &mut Sink, low_key: &str, low: &At<T>, high_key: &str, high: &At<T>| {
        if low.value > high.value {
            let message =
                format!("{what}: {low_key} {} is more than {high_key} {}", show(&low.value), show(&high.value));
            sink.push_unsuited(
                Diagnostic::of(rule::RANGE_ORDER, message)
                    .at(low.span.clone(), format!("{low_key} is more"))
                    .see(high.span.clone(), format!("than {high_key}")),
            );
        }
    };
    for (low_key, low, high_key, high) in pairs {
        if let (Some(low), Some(high)) = (low, high) {
            order(sink, low_key, low, high_key, high);
        }
    }
    let desired = desired?;
    let or_desired = |at: Option<At<T>>| at.map_or(desired.value, |at| at.value);
    let (minimum, maximum) = (or_desired(minimum), or_desired(maximum));
    // What is out of order is reported; the rest is checked on with what is surely meant.
    let minimum = if minimum > desired.value { desired.value } else { minimum };
    let maximum = if maximum < desired.value { desired.value } else { maximum };
    Some(Range { minimum, desired: desired.value, maximum })
}

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Dedicated,
    Shared,
}

/// Defaults for one mode do not add to processors of the other.
pub(super) const MERGES: Merges = |above: &DeTable<'_>, below: &DeTable<'_>| {
    let mode = |table: &DeTable<'_>| table.get("mode").and_then(|mode| mode.get_ref().as_str().map(str::to_owned));
    match (mode(above), mode(below)) {
        (Some(above), Some(below)) => above == below,
        _ => true,
    }
};

/// Reads `processors = { ... }`.
pub(super) fn read(mut fields: Fields<'_, '_>, bounds: Bounds, sink: &mut Sink, keys: &mut Keys) -> Option<Processors> {
    let mode = fields.choice(sink, "mode", &[("dedicated", Mode::Dedicated), ("shared", Mode::Shared)]);
    if !fields.has("mode") {
        fields.missing(sink, "mode", "mode = \"dedicated\" gives whole CPUs, mode = \"shared\" a part of a pool");
    }
    let most = u32::try_from(MOST_PROCESSORS).unwrap_or(u32::MAX);
    let number = |fields: &mut Fields<'_, '_>, sink: &mut Sink, key| fields.number(sink, key, 1..=most);
    let count = range(&mut fields, sink, "processors", number, ToString::to_string);
    let Some(mode) = mode else {
        // Without the mode, any key of either may be meant.
        for key in ["io", "pool", "units", "sharing", "weight"] {
            fields.value(key);
        }
        fields.note(keys, "processors.");
        fields.finish(sink, &[]);
        return None;
    };
    const OTHER: &Rule = rule::KEY_OF_OTHER_MODE;
    let (mode, elsewhere): (_, &[(&str, &'static Rule, &str)]) = match mode.value {
        Mode::Dedicated => {
            let io = io(&mut fields, sink);
            const WHY: &str = "it is for mode = \"shared\"";
            (
                io.map(|io| ProcessorMode::Dedicated { io }),
                &[("pool", OTHER, WHY), ("units", OTHER, WHY), ("sharing", OTHER, WHY), ("weight", OTHER, WHY)],
            )
        }
        Mode::Shared => {
            let shared = shared(&mut fields, bounds, count, sink, keys);
            (
                shared,
                &[("io", OTHER, "it is for mode = \"dedicated\"; a shared partition's device threads run in its pool")],
            )
        }
    };
    fields.note(keys, "processors.");
    fields.finish(sink, elsewhere);
    Some(Processors { count: count?, mode: mode? })
}

fn io(fields: &mut Fields<'_, '_>, sink: &mut Sink) -> Option<IoProcessors> {
    if !fields.has("io") {
        fields.value("io");
        return Some(IoProcessors::Own);
    }
    let text = fields.text(sink, "io", "\"own\" or \"pool:NAME\"")?;
    if text.value == "own" {
        return Some(IoProcessors::Own);
    }
    let Some(pool) = text.value.strip_prefix("pool:") else {
        let message = format!("io cannot be {}", shown(text.value));
        let label = "\"own\", or \"pool:\" and the name of a pool";
        sink.push(Diagnostic::of(rule::BAD_IO, message).at(text.span, label));
        return None;
    };
    let named = At { value: pool, span: text.span };
    fields::name(named, "what follows \"pool:\"", sink).map(|name| IoProcessors::Pool(name.value))
}

fn shared(
    fields: &mut Fields<'_, '_>,
    bounds: Bounds,
    count: Option<Range<u32>>,
    sink: &mut Sink,
    keys: &mut Keys,
) -> Option<ProcessorMode> {
    let pool = match fields.name(sink, "pool") {
        Some(pool) => Some(pool.value),
        None if fields.has("pool") => None,
        None => crate::name::Name::new("default").ok(),
    };
    let units = match fields.table(sink, "units", "units", |_, _| true) {
        Some(mut table) => {
            let read = |fields: &mut Fields<'_, '_>, sink: &mut Sink, key| fields.units(sink, key);
            let units = range(&mut table, sink, "units", read, ToString::to_string);
            table.note(keys, "processors.units.");
            table.finish(sink, &[]);
            units
        }
        None => {
            if !fields.has("units") {
                fields.missing(sink, "units", "the entitlement in processors: units = { desired = 0.5 }");
            }
            None
        }
    };
    if let (Some(units), Some(count)) = (&units, &count) {
        suits(units, count, bounds, sink, keys);
    }
    let sharing = fields.choice(sink, "sharing", &[("capped", false), ("uncapped", true)]);
    let weight = fields.number(sink, "weight", 0..=255);
    if let (Some(At { value: false, span }), Some(weight)) = (&sharing, &weight) {
        sink.push_unsuited(
            Diagnostic::of(rule::WEIGHT_WITH_CAPPED, "a capped partition has no weight")
                .at(weight.span.clone(), "remove this")
                .see(span.clone(), "or make this \"uncapped\""),
        );
    } else if let Some(At { value: 0, span }) = &weight {
        let message = "an uncapped partition of weight 0 gets nothing above its entitlement";
        sink.push_unsuited(Diagnostic::of(rule::WEIGHT_ZERO, message).at(span.clone(), "as if it were capped"));
    }
    let weight = weight.and_then(|weight| u8::try_from(weight.value).ok()).unwrap_or(WEIGHT);
    let sharing =
        if sharing.is_none_or(|sharing| sharing.value) { Sharing::Uncapped { weight } } else { Sharing::Capped };
    Some(ProcessorMode::Shared { pool: pool?, units: units?, sharing })
}

/// Checks that units and virtual processors suit each other: enough for those that are desired and for the
/// least there may be, and no more than they can use.
fn suits(units: &Range<Units>, count: &Range<u32>, bounds: Bounds, sink: &mut Sink, keys: &Keys) {
    let least = |count: u32| Units::from_thousandths(bounds.least.thousandths().saturating_mul(count));
    let checks = [
        ("desired", units.desired, count.desired, true, true),
        ("minimum", units.minimum, count.minimum, true, false),
        ("maximum", units.maximum, count.maximum, false, true),
    ];
    for (key, units, count, at_least, at_most) in checks {
        // A default is as desired and needs no word of its own.
        let Some(span) = keys.exactly(&format!("processors.units.{key}")) else { continue };
        if at_least && units < least(count) {
            let message = format!("{key} units {units} are too few for {count} virtual processor(s)");
            let label = format!("at least {}", least(count));
            sink.push_unsuited(Diagnostic::of(rule::UNITS_TOO_FEW, message).at(span, label));
        } else if at_most && units > Units::whole(count) {
            let message = format!("{key} units {units} are more than {count} virtual processor(s) can use");
            let label = format!("at most {}", Units::whole(count));
            sink.push_unsuited(Diagnostic::of(rule::UNITS_TOO_MANY, message).at(span, label));
        }
    }
}
