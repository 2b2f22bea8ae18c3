//! One partition of the file, or one pattern of partitions: everything but its processors and its boot.

use super::boot::{self, Numbers, Template, stands_for_nothing};
use super::device::{self, DiskTemplate};
use super::fields::{self, At, Fields};
use super::network::networks;
use super::pattern::{fill, has_number, unknown};
use super::sink::Sink;
use super::spans::Keys;
use super::walk::{Bounds, Gathered, Named};
use super::{MOST_MEMORY, MOST_PARTITIONS, MOST_TEXT, processors};
use crate::declare::{Boot, IoProcessors, Memory, Partition, ProcessorMode, Processors, Range, Shutdown, WhenInactive};
use crate::diagnostic::{Diagnostic, shown};
use crate::inventory::PAGE;
use crate::launch::{InterruptMode, WatchdogAction};
use crate::name::Name;
use crate::plan::Subject;
use crate::rule::{self, Rule};
use crate::storm::{HIGHEST_RATE, LARGEST_BURST, Limit};
use crate::units::{GIB, MIB, show_size};
use std::collections::BTreeSet;
use std::sync::Arc;

/// A partition as declared, and its number if the file gives one.
pub(super) struct Declared {
    pub(super) partition: Partition,
    pub(super) id: Option<At<u32>>,
}

const LATER: &Rule = rule::NOT_IN_THIS_VERSION;
/// Keys that a partition does not have, though one might look for them.
const ELSEWHERE: &[(&str, &Rule, &str)] = &[
    ("device", LATER, "this version has no dedicated devices"),
    ("interrupt", LATER, "this version wires no interrupts by declaration"),
    ("include", rule::INCLUDE_POSITION, "it stands above the first [header]"),
];
/// Keys of a partition that defaults do not have.
const OWN: &[(&str, &Rule, &str)] = &[
    ("name", rule::DEFAULTS_KEY, "each partition has its own"),
    ("id", rule::DEFAULTS_KEY, "each partition has its own"),
    ("count", rule::DEFAULTS_KEY, "each pattern has its own"),
];

/// What a partition has that defaults may have too.
struct Settings {
    partition: Partition,
    boot: Option<Template>,
    disks: Vec<DiskTemplate>,
}

/// Reads `[defaults]` for their mistakes; partitions look into the table themselves.
pub(super) fn defaults(mut fields: Fields<'_, '_>, bounds: Bounds, sink: &mut Sink) {
    sink.partially(|sink| {
        settings(&mut fields, bounds, Numbers::Unknown, sink, &mut Keys::default());
        fields.finish(sink, &[ELSEWHERE, OWN].concat());
    });
}

/// Reads one `[[partition]]` and adds the partition, or all of its pattern, to `gathered`.
pub(super) fn read(mut fields: Fields<'_, '_>, bounds: Bounds, gathered: &mut Gathered, sink: &mut Sink) {
    let mut keys = Keys::default();
    let room = u32::try_from(MOST_PARTITIONS.saturating_sub(gathered.partitions.len())).unwrap_or(u32::MAX);
    let most = u32::try_from(MOST_PARTITIONS).unwrap_or(u32::MAX);
    let count = fields.number(sink, "count", 1..=most);
    let counted = fields.has("count");
    let name = name(&mut fields, count.as_ref(), sink);
    match (&name, fields.has("name")) {
        (Some(name), _) => fields.rename(format!("partition {}", name.value)),
        (None, false) => fields.missing(sink, "name", "give the partition a name: name = \"db\""),
        (None, true) => {}
    }
    let id = fields.number(sink, "id", 1..=65_535);
    if let (Some(id), Some(count)) = (&id, &count) {
        sink.push(
            Diagnostic::of(rule::ID_WITH_COUNT, "several partitions cannot have one id")
                .at(id.span.clone(), "remove this")
                .see(count.span.clone(), "several are made here"),
        );
    }
    let id = id.filter(|_| !counted);
    let numbers = match (&count, counted) {
        (Some(count), _) => Numbers::UpTo(count.value),
        (None, true) => Numbers::Unknown,
        (None, false) => Numbers::None,
    };
    let Settings { partition, boot, disks } = settings(&mut fields, bounds, numbers, sink, &mut keys);
    keys.note("", fields.span.clone());
    fields.note(&mut keys, "");
    let span = fields.span.clone();
    fields.finish(sink, ELSEWHERE);

    let times = count.as_ref().map_or(1, |count| count.value);
    if times > room {
        let message = format!("there are more than {MOST_PARTITIONS} partitions, the most that are supported");
        let (place, label) = match count {
            Some(count) => (count.span, format!("{times} more are made here")),
            None => (span, "this is one too many".to_owned()),
        };
        sink.push(Diagnostic::of(rule::TOO_MANY_ITEMS, message).at(place, label));
        return;
    }
    let text = boot.as_ref().map_or(0, Template::size) + disks.iter().map(DiskTemplate::size).sum::<usize>();
    let text = text.saturating_mul(times as usize);
    let Some(left) = gathered.text_left.checked_sub(text) else {
        gathered.text_left = 0;
        let message =
            format!("the paths and command lines of all partitions together have more than {MOST_TEXT} bytes");
        sink.push(Diagnostic::of(rule::TEXT_TOO_LARGE, message).at(span, "at this partition"));
        return;
    };
    gathered.text_left = left;
    let keys = Arc::new(keys);
    for number in 1..=times {
        let number = counted.then_some(number);
        let made = name.as_ref().map(|name| number.map_or_else(|| name.value.clone(), |n| fill(&name.value, n)));
        // Names were checked with the largest number in them.
        let made = made.and_then(|name| Name::new(name).ok());
        let place = made.is_some().then(|| name.as_ref().map(|name| name.span.clone())).flatten();
        let name = made.unwrap_or_else(|| Name::placeholder(gathered.partitions.len()));
        gathered.spans.note(Subject::Partition(name.clone()), Arc::clone(&keys));
        let boot = boot.as_ref().map(|boot| boot.make(number));
        let boot = boot.unwrap_or_else(|| partition.boot.clone());
        let disks = disks.iter().map(|disk| disk.make(number)).collect();
        let partition = Partition { name, boot, disks, ..partition.clone() };
        gathered.partitions.push(Named { item: Declared { partition, id: id.clone() }, place });
    }
}

/// The name as it is written, if it is one once a number is in its place.
fn name(fields: &mut Fields<'_, '_>, count: Option<&At<u32>>, sink: &mut Sink) -> Option<At<String>> {
    let text = fields.text(sink, "name", "a name in quotes, such as \"db-1\"")?;
    let numbered = has_number(text.value);
    let wrong = match (count, numbered) {
        (Some(count), false) if unknown(text.value).is_none() => Some(
            Diagnostic::of(
                rule::COUNT_WITHOUT_PATTERN,
                format!("count makes several partitions, but the name {} is one for all", shown(text.value)),
            )
            .at(text.span.clone(), "{n} is missing here")
            .see(count.span.clone(), "several are made here"),
        ),
        (None, true) if !fields.has("count") => {
            let message = "{n} stands for a number, but the partition has no count";
            Some(Diagnostic::of(rule::PATTERN_WITHOUT_COUNT, message).at(text.span.clone(), "in this name"))
        }
        _ => unknown(text.value)
            .filter(|_| count.is_some())
            .map(|placeholder| stands_for_nothing(placeholder).at(text.span.clone(), "in this name")),
    };
    if let Some(wrong) = wrong {
        sink.push(wrong);
        return None;
    }
    let longest = count.map_or_else(|| text.value.to_owned(), |count| fill(text.value, count.value));
    if numbered && count.is_none() {
        // The count is not understood, and has been reported.
        return None;
    }
    fields::name(At { value: &longest, span: text.span.clone() }, "name", sink)?;
    Some(At { value: text.value.to_owned(), span: text.span })
}

/// Reads everything but name, id and count.
fn settings(
    fields: &mut Fields<'_, '_>,
    bounds: Bounds,
    numbers: Numbers,
    sink: &mut Sink,
    keys: &mut Keys,
) -> Settings {
    let priority = fields.number(sink, "availability_priority", 0..=255);
    let pit = fields.truth(sink, "pit");
    let modes =
        [("kernel", InterruptMode::Kernel), ("split", InterruptMode::Split), ("emulated", InterruptMode::Emulated)];
    let interrupts = fields.choice(sink, "interrupts", &modes);
    if let (Some(pit), Some(mode)) = (pit.as_ref().filter(|pit| pit.value), &interrupts)
        && mode.value != InterruptMode::Kernel
    {
        let diagnostic = Diagnostic::of(rule::PIT_WITHOUT_8259, rule::PIT_WITHOUT_8259.message);
        let diagnostic = diagnostic.at(pit.span.clone(), "this one interrupts by an 8259");
        sink.push_unsuited(diagnostic.see(mode.span.clone(), "here there is none"));
    }
    let pit = pit.map(|at| at.value);
    let interrupt_limit = fields.table(sink, "interrupt_limit", "interrupt_limit", |_, _| true).map(|mut table| {
        let default = Limit::default();
        let rate = table.number(sink, "rate", 1..=HIGHEST_RATE).map_or(default.rate, |at| at.value);
        let burst = table.number(sink, "burst", 1..=LARGEST_BURST).map_or(default.burst, |at| at.value);
        table.finish(sink, &[]);
        Limit { rate, burst }
    });
    let exit_device = fields.truth(sink, "exit_device").is_some_and(|at| at.value);
    let panic_device = fields.truth(sink, "panic_device").is_none_or(|at| at.value);
    let actions = [("none", None), ("restart", Some(WatchdogAction::Restart)), ("error", Some(WatchdogAction::Error))];
    let watchdog = fields.choice(sink, "watchdog", &actions).and_then(|at| at.value);
    let auto_start = fields.truth(sink, "auto_start");
    let choices = [("hold", WhenInactive::Hold), ("release", WhenInactive::Release)];
    let when_inactive = fields.choice(sink, "when_inactive", &choices);
    let processors = match fields.table(sink, "processors", "processors", processors::MERGES) {
        Some(table) => processors::read(table, bounds, sink, keys),
        None => {
            if !fields.has("processors") {
                let help = "such as processors = { mode = \"shared\", desired = 1, units = { desired = 0.5 } }";
                fields.missing(sink, "processors", help);
            }
            None
        }
    };
    let memory = match fields.table(sink, "memory", "memory", |_, _| true) {
        Some(table) => memory(table, bounds, sink, keys),
        None => {
            if !fields.has("memory") {
                fields.missing(sink, "memory", "such as memory = { desired = \"512MiB\" }");
            }
            None
        }
    };
    let boot = boot::read(fields, numbers, sink, keys);
    let entropy = fields.truth(sink, "entropy").map(|at| at.value);
    let mut taken = device::Taken::default();
    let disks = device::disks(fields, numbers, sink, keys, &mut taken);
    let networks = networks(fields, sink, keys, &mut taken);
    let vsock = device::vsock(fields, sink, keys);
    let console = device::console(fields, sink);
    let shutdown =
        fields.table(sink, "shutdown", "shutdown", |_, _| true).map(|table| shutdown(table, boot.as_ref(), sink, keys));
    let none = Range { minimum: 0, desired: 0, maximum: 0 };
    let partition = Partition {
        name: Name::placeholder(0),
        id: 0,
        availability_priority: priority.and_then(|n| u8::try_from(n.value).ok()).unwrap_or(127),
        processors: processors.unwrap_or(Processors {
            count: Range { minimum: 0, desired: 0, maximum: 0 },
            mode: ProcessorMode::Dedicated { io: IoProcessors::Own },
        }),
        memory: memory.unwrap_or(Memory { size: none, base: 0, pages: None }),
        boot: Boot::Diagnostics { cmdline: String::new() },
        auto_start: auto_start.is_none_or(|at| at.value),
        when_inactive: when_inactive.map(|at| at.value).unwrap_or_default(),
        shutdown: shutdown.unwrap_or_default(),
        pit,
        exit_device,
        panic_device,
        watchdog,
        interrupts: interrupts.map(|at| at.value).unwrap_or_default(),
        interrupt_limit: interrupt_limit.unwrap_or_default(),
        entropy,
        disks: vec![],
        networks,
        vsock,
        console,
    };
    Settings { partition, boot, disks }
}

/// Gives a number to each partition that has none: the least that is free, in the order of names.
pub(super) fn number(mut declared: Vec<Declared>) -> Vec<Partition> {
    let mut taken: BTreeSet<u32> = declared.iter().filter_map(|one| one.id.as_ref().map(|id| id.value)).collect();
    let mut order: Vec<&mut Declared> = declared.iter_mut().collect();
    order.sort_by(|a, b| a.partition.name.cmp(&b.partition.name));
    let mut next = 1;
    for one in order {
        one.partition.id = match &one.id {
            Some(id) => id.value,
            None => {
                while !taken.insert(next) {
                    next += 1;
                }
                next
            }
        };
    }
    declared.into_iter().map(|one| one.partition).collect()
}

fn memory(mut fields: Fields<'_, '_>, bounds: Bounds, sink: &mut Sink, keys: &mut Keys) -> Option<Memory> {
    let choices = [("any", None), ("4KiB", Some(PAGE)), ("2MiB", Some(2 * MIB)), ("1GiB", Some(GIB))];
    let pages = fields.choice(sink, "pages", &choices).and_then(|at| at.value);
    let granule = bounds.block.max(pages.unwrap_or(PAGE));
    let sized = |fields: &mut Fields<'_, '_>, sink: &mut Sink, key: &'static str| {
        let size = fields.size(sink, key)?;
        let wrong = if size.value == 0 {
            Some((rule::ZERO_SIZE, "a partition has at least one memory block".to_owned()))
        } else if size.value > MOST_MEMORY {
            Some((rule::SIZE_TOO_LARGE, format!("a partition has at most {}", show_size(MOST_MEMORY))))
        } else if !size.value.is_multiple_of(granule) {
            let below = size.value / granule * granule;
            let above = show_size(below.saturating_add(granule));
            let near = if below == 0 { above } else { format!("{} or {above}", show_size(below)) };
            Some((rule::NOT_A_MULTIPLE, format!("not a multiple of {}; {near} is", show_size(granule))))
        } else {
            None
        };
        let Some((rule, label)) = wrong else { return Some(size) };
        let message = format!("{key} of memory cannot be {}", show_size(size.value));
        let diagnostic = Diagnostic::of(rule, message).at(size.span, label);
        // Whether a size suits depends on the pages, which may yet be another's.
        if rule == rule::NOT_A_MULTIPLE && !size.value.is_multiple_of(bounds.block) {
            sink.push(diagnostic.help("sizes are multiples of frame.memory_block"));
        } else if rule == rule::NOT_A_MULTIPLE {
            sink.push_unsuited(diagnostic.help("sizes are multiples of the page size"));
        } else {
            sink.push(diagnostic);
        }
        None
    };
    let size = processors::range(&mut fields, sink, "memory", sized, |bytes| show_size(*bytes));
    let base = sized(&mut fields, sink, "base");
    fields.note(keys, "memory.");
    fields.finish(sink, &[]);
    let size = size?;
    if let Some(base) = &base
        && base.value > size.desired
    {
        let message =
            format!("base memory of {} is more than the desired {}", show_size(base.value), show_size(size.desired));
        let mut diagnostic = Diagnostic::of(rule::BASE_ABOVE_DESIRED, message).at(base.span.clone(), "lower this");
        if let Some(span) = keys.exactly("memory.desired") {
            diagnostic = diagnostic.see(span, "it boots with no more than this");
        }
        sink.push_unsuited(diagnostic);
    }
    let base = base.map_or(size.desired, |base| base.value);
    Some(Memory { size, base, pages })
}

fn shutdown(mut fields: Fields<'_, '_>, boot: Option<&Template>, sink: &mut Sink, keys: &mut Keys) -> Shutdown {
    let default = Shutdown::default();
    let mut rung = |key| fields.duration(sink, key);
    let (ask, button, nmi) = (rung("ask"), rung("button"), rung("nmi"));
    fields.note(keys, "shutdown.");
    let command = |command: &str| boot.is_some_and(|boot| boot.payload_is_told(command));
    let ignored =
        [(rule::BUTTON_IGNORED, &button, command("ignore-button")), (rule::NMI_IGNORED, &nmi, command("ignore-nmi"))];
    for (rule, rung, told) in ignored {
        if let (true, Some(rung)) = (told, rung.as_ref().filter(|rung| rung.value > 0)) {
            let mut diagnostic =
                Diagnostic::of(rule, rule.message).at(rung.span.clone(), "this time is waited in vain");
            if let Some(span) = keys.exactly("boot.cmdline") {
                diagnostic = diagnostic.see(span, "told so here");
            }
            sink.push_unsuited(diagnostic);
        }
    }
    let value = |rung: &Option<At<u32>>, default: u32| rung.as_ref().map_or(default, |rung| rung.value);
    let ladder = Shutdown {
        ask_ms: value(&ask, default.ask_ms),
        button_ms: value(&button, default.button_ms),
        nmi_ms: value(&nmi, default.nmi_ms),
    };
    if (ladder.ask_ms, ladder.button_ms, ladder.nmi_ms) == (0, 0, 0) {
        let span = fields.span.clone();
        sink.push_unsuited(Diagnostic::of(rule::LADDER_EMPTY, rule::LADDER_EMPTY.message).at(span, "no rung is left"));
    }
    fields.finish(sink, &[]);
    ladder
}
