//! The processors of a partition, in either mode, and ranges of anything.

use super::fields::{At, Fields, Sink};
use super::spans::Spans;
use super::walk::Bounds;
use crate::declare::{IoProcessors, ProcessorMode, Processors, Range, Sharing};
use crate::diagnostic::{Diagnostic, shown};
use crate::launch::MOST_PROCESSORS;
use crate::name::Name;
use crate::plan::Subject;
use crate::units::Units;

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
    let mut ordered = true;
    let mut order = |low_key: &str, low: &At<T>, high_key: &str, high: &At<T>| {
        if low.value > high.value {
            ordered = false;
            let message =
                format!("{what}: {low_key} {} is more than {high_key} {}", show(&low.value), show(&high.value));
            sink.push(
                Diagnostic::error("range-order", message)
                    .at(low.span.clone(), format!("{low_key} is more"))
                    .see(high.span.clone(), format!("than {high_key}"))
                    .help("minimum <= desired <= maximum"),
            );
        }
    };
    for (low_key, low, high_key, high) in pairs {
        if let (Some(low), Some(high)) = (low, high) {
            order(low_key, low, high_key, high);
        }
    }
    let desired = desired?;
    let or_desired = |at: Option<At<T>>| at.map_or(desired.value, |at| at.value);
    ordered.then(|| Range { minimum: or_desired(minimum), desired: desired.value, maximum: or_desired(maximum) })
}

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Dedicated,
    Shared,
}

/// Reads `processors = { ... }`.
pub(super) fn read(
    mut fields: Fields<'_, '_>,
    bounds: Bounds,
    sink: &mut Sink,
    spans: &mut Spans,
    subject: &Subject,
) -> Option<Processors> {
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
        fields.note(spans, subject, "processors.");
        fields.finish(sink, &[]);
        return None;
    };
    let (mode, elsewhere): (_, &[(&str, &str)]) = match mode.value {
        Mode::Dedicated => {
            let io = io(&mut fields, sink);
            let why = "it is for mode = \"shared\"";
            (
                io.map(|io| ProcessorMode::Dedicated { io }),
                &[("pool", why), ("units", why), ("sharing", why), ("weight", why)],
            )
        }
        Mode::Shared => {
            let shared = shared(&mut fields, bounds, count, sink, spans, subject);
            (shared, &[("io", "it is for mode = \"dedicated\"; a shared partition's device threads run in its pool")])
        }
    };
    fields.note(spans, subject, "processors.");
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
        sink.push(Diagnostic::error("bad-choice", message).at(text.span, label));
        return None;
    };
    match Name::new(pool) {
        Ok(name) => Some(IoProcessors::Pool(name)),
        Err(error) => {
            sink.push(Diagnostic::error("bad-name", error.to_string()).at(text.span, "in the name after \"pool:\""));
            None
        }
    }
}

fn shared(
    fields: &mut Fields<'_, '_>,
    bounds: Bounds,
    count: Option<Range<u32>>,
    sink: &mut Sink,
    spans: &mut Spans,
    subject: &Subject,
) -> Option<ProcessorMode> {
    let pool = match fields.name(sink, "pool") {
        Some(pool) => Some(pool.value),
        None if fields.has("pool") => None,
        None => Name::new("default").ok(),
    };
    let units = match fields.table(sink, "units", "units") {
        Some(mut table) => {
            let read = |fields: &mut Fields<'_, '_>, sink: &mut Sink, key| fields.units(sink, key);
            let units = range(&mut table, sink, "units", read, ToString::to_string);
            table.note(spans, subject, "processors.units.");
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
        suits(units, count, bounds, sink, spans, subject);
    }
    let sharing = fields.choice(sink, "sharing", &[("capped", false), ("uncapped", true)]);
    let weight = fields.number(sink, "weight", 0..=255);
    if let (Some(At { value: false, span }), Some(weight)) = (&sharing, &weight) {
        sink.push(
            Diagnostic::error("weight-with-capped", "a capped partition has no weight")
                .at(weight.span.clone(), "remove this")
                .see(span.clone(), "or make this \"uncapped\""),
        );
    }
    let weight = weight.and_then(|weight| u8::try_from(weight.value).ok()).unwrap_or(WEIGHT);
    let sharing =
        if sharing.is_none_or(|sharing| sharing.value) { Sharing::Uncapped { weight } } else { Sharing::Capped };
    Some(ProcessorMode::Shared { pool: pool?, units: units?, sharing })
}

/// Checks that units and virtual processors suit each other: enough for those that are desired and for the
/// least there may be, and no more than they can use.
fn suits(units: &Range<Units>, count: &Range<u32>, bounds: Bounds, sink: &mut Sink, spans: &Spans, subject: &Subject) {
    let least = |count: u32| Units::from_thousandths(bounds.least.thousandths().saturating_mul(count));
    let checks = [
        ("desired", units.desired, count.desired, true, true),
        ("minimum", units.minimum, count.minimum, true, false),
        ("maximum", units.maximum, count.maximum, false, true),
    ];
    for (key, units, count, at_least, at_most) in checks {
        // A default is as desired and needs no word of its own.
        let Some(span) = spans.exactly(subject, &format!("processors.units.{key}")) else { continue };
        if at_least && units < least(count) {
            let message = format!("{key} units {units} are too few for {count} virtual processor(s)");
            sink.push(
                Diagnostic::error("units-too-few", message)
                    .at(span, format!("at least {}", least(count)))
                    .help("each virtual processor needs frame.minimum_units"),
            );
        } else if at_most && units > Units::whole(count) {
            let message = format!("{key} units {units} are more than {count} virtual processor(s) can use");
            sink.push(
                Diagnostic::error("units-too-many", message)
                    .at(span, format!("at most {}", Units::whole(count)))
                    .help("a virtual processor uses at most 1 unit: raise the count, or lower the units"),
            );
        }
    }
}
