//! One partition of the file: everything but its processors.

use super::fields::{At, Fields, Sink};
use super::processors;
use super::spans::Spans;
use super::walk::{Bounds, Named};
use crate::declare::{Boot, Memory, Module, Partition, ProcessorMode, Processors, Range, Shutdown, WhenInactive};
use crate::diagnostic::Diagnostic;
use crate::inventory::PAGE;
use crate::launch::MOST_MODULES;
use crate::plan::Subject;
use crate::units::{GIB, MIB, show_size};
use std::collections::BTreeSet;
use std::path::PathBuf;
use toml::de::DeValue;

/// Most memory of one partition, bytes: what 46 bits of guest-physical address reach.
pub const MOST_MEMORY: u64 = 1 << 46;
/// Longest kernel command line, bytes, without its final zero (Linux, arch/x86/include/asm/setup.h).
pub const LONGEST_CMDLINE: usize = 2047;
/// Longest path, bytes (Linux, PATH_MAX less its final zero).
pub const LONGEST_PATH: usize = 4095;

/// A partition as declared, and its number if the file gives one.
pub(super) struct Declared {
    pub(super) partition: Partition,
    pub(super) id: Option<At<u32>>,
}

/// Keys that a partition does not have, though one might look for them.
const ELSEWHERE: [(&str, &str); 5] = [
    ("disk", "this version has no virtual disks"),
    ("network", "this version has no virtual networks"),
    ("device", "this version has no dedicated devices"),
    ("interrupt", "this version wires no interrupts by declaration"),
    ("count", "this version has no patterns; write each partition"),
];

/// Reads one `[[partition]]`; none when it has no name to speak of it by.
pub(super) fn read(
    mut fields: Fields<'_, '_>,
    bounds: Bounds,
    sink: &mut Sink,
    spans: &mut Spans,
) -> Option<Named<Declared>> {
    let name = fields.name(sink, "name");
    match &name {
        Some(name) => fields.rename(format!("partition {}", name.value)),
        None if !fields.has("name") => fields.missing(sink, "name", "give the partition a name: name = \"db\""),
        None => {}
    }
    // Keys under a name that cannot be are checked all the same; their places are nobody's.
    let subject = name.as_ref().map_or(Subject::Frame, |name| Subject::Partition(name.value.clone()));
    let mut nowhere = Spans::default();
    let spans = if name.is_some() { spans } else { &mut nowhere };

    let id = fields.number(sink, "id", 1..=65_535);
    let priority = fields.number(sink, "availability_priority", 0..=255);
    let pit = fields.truth(sink, "pit").map(|at| at.value);
    let exit_device = fields.truth(sink, "exit_device").is_some_and(|at| at.value);
    let auto_start = fields.truth(sink, "auto_start");
    let choices = [("hold", WhenInactive::Hold), ("release", WhenInactive::Release)];
    let when_inactive = fields.choice(sink, "when_inactive", &choices);
    let processors = match fields.table(sink, "processors", "processors") {
        Some(table) => processors::read(table, bounds, sink, spans, &subject),
        None => {
            if !fields.has("processors") {
                let help = "such as processors = { mode = \"shared\", desired = 1, units = { desired = 0.5 } }";
                fields.missing(sink, "processors", help);
            }
            None
        }
    };
    let memory = match fields.table(sink, "memory", "memory") {
        Some(table) => memory(table, bounds, sink, spans, &subject),
        None => {
            if !fields.has("memory") {
                fields.missing(sink, "memory", "such as memory = { desired = \"512MiB\" }");
            }
            None
        }
    };
    let boot = boot(&mut fields, sink, spans, &subject);
    let shutdown = fields.table(sink, "shutdown", "shutdown").map(|table| shutdown(table, sink, spans, &subject));

    spans.note(&subject, "", fields.span.clone());
    fields.note(spans, &subject, "");
    fields.finish(sink, &ELSEWHERE);
    let name = name?;
    let none = Range { minimum: 0, desired: 0, maximum: 0 };
    let partition = Partition {
        name: name.value.clone(),
        id: 0,
        availability_priority: priority.and_then(|n| u8::try_from(n.value).ok()).unwrap_or(127),
        processors: processors.unwrap_or(Processors {
            count: Range { minimum: 0, desired: 0, maximum: 0 },
            mode: ProcessorMode::Dedicated { io: crate::declare::IoProcessors::Own },
        }),
        memory: memory.unwrap_or(Memory { size: none, base: 0, pages: None }),
        boot: boot.unwrap_or(Boot::Diagnostics { cmdline: String::new() }),
        auto_start: auto_start.is_none_or(|at| at.value),
        when_inactive: when_inactive.map(|at| at.value).unwrap_or_default(),
        shutdown: shutdown.unwrap_or_default(),
        pit,
        exit_device,
    };
    Some(Named { item: Declared { partition, id }, name })
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

fn memory(
    mut fields: Fields<'_, '_>,
    bounds: Bounds,
    sink: &mut Sink,
    spans: &mut Spans,
    subject: &Subject,
) -> Option<Memory> {
    let choices = [("any", None), ("4KiB", Some(PAGE)), ("2MiB", Some(2 * MIB)), ("1GiB", Some(GIB))];
    let pages = fields.choice(sink, "pages", &choices).and_then(|at| at.value);
    let granule = bounds.block.max(pages.unwrap_or(PAGE));
    let sized = |fields: &mut Fields<'_, '_>, sink: &mut Sink, key: &'static str| {
        let size = fields.size(sink, key)?;
        let wrong = if size.value == 0 {
            Some(("zero-size", "a partition has at least one memory block".to_owned()))
        } else if size.value > MOST_MEMORY {
            Some(("out-of-range", format!("a partition has at most {}", show_size(MOST_MEMORY))))
        } else if !size.value.is_multiple_of(granule) {
            let below = size.value / granule * granule;
            let above = show_size(below.saturating_add(granule));
            let near = if below == 0 { above } else { format!("{} or {above}", show_size(below)) };
            Some(("not-a-multiple", format!("not a multiple of {}; {near} is", show_size(granule))))
        } else {
            None
        };
        let Some((rule, label)) = wrong else { return Some(size) };
        let message = format!("{key} of memory cannot be {}", show_size(size.value));
        let help = if bounds.block >= granule {
            "sizes are multiples of frame.memory_block"
        } else {
            "sizes are multiples of the page size"
        };
        sink.push(Diagnostic::error(rule, message).at(size.span, label).help(help));
        None
    };
    let size = processors::range(&mut fields, sink, "memory", sized, |bytes| show_size(*bytes));
    let base = sized(&mut fields, sink, "base");
    fields.note(spans, subject, "memory.");
    fields.finish(sink, &[]);
    let size = size?;
    if let Some(base) = &base
        && base.value > size.desired
    {
        let message =
            format!("base memory of {} is more than the desired {}", show_size(base.value), show_size(size.desired));
        let mut diagnostic = Diagnostic::error("base-above-desired", message).at(base.span.clone(), "lower this");
        if let Some(span) = spans.find(subject, "memory.desired") {
            diagnostic = diagnostic.see(span, "it boots with no more than this");
        }
        sink.push(diagnostic);
    }
    let base = base.map_or(size.desired, |base| base.value);
    Some(Memory { size, base, pages })
}

fn boot(fields: &mut Fields<'_, '_>, sink: &mut Sink, spans: &mut Spans, subject: &Subject) -> Option<Boot> {
    const FORMS: &str = "boot = \"diagnostics\", or boot = { kernel = \"vmlinuz\", initrd = \"initrd.img\", cmdline = \"console=ttyS0\" }";
    let Some(found) = fields.value("boot") else {
        fields.missing(sink, "boot", FORMS);
        return None;
    };
    if let DeValue::String(_) = found.value {
        fields.choice(sink, "boot", &[("diagnostics", ())])?;
        return Some(Boot::Diagnostics { cmdline: String::new() });
    }
    if found.value.as_table().is_none() {
        let kind = found.value.type_str();
        let message = format!("boot is \"diagnostics\" or a table with a kernel, not of type {kind}");
        sink.push(Diagnostic::error("wrong-type", message).at(found.span, "not this").help(FORMS));
        return None;
    }
    let mut table = fields.table(sink, "boot", "boot")?;
    let kernel = path(&mut table, sink, "kernel");
    let initrd = path(&mut table, sink, "initrd");
    let modules = table.tables(sink, "modules", MOST_MODULES);
    let modules: Vec<Module> = modules.into_iter().filter_map(|fields| module(fields, sink)).collect();
    let payload = table.choice(sink, "payload", &[("diagnostics", ())]);
    let cmdline = table.text(sink, "cmdline", "a text in quotes");
    check_cmdline(cmdline.as_ref(), sink);
    let (has_kernel, has_payload) = (table.has("kernel"), table.has("payload"));
    if has_kernel == has_payload {
        let what = if has_kernel { "both a kernel and a payload" } else { "neither a kernel nor a payload" };
        sink.push(
            Diagnostic::error("boot-form", format!("boot has {what}"))
                .at(table.span.clone(), "exactly one is needed")
                .help(FORMS),
        );
    } else if has_payload && let Some(span) = table.span_of("initrd") {
        sink.push(Diagnostic::error("boot-form", "the built-in payload takes no initrd").at(span, "remove this"));
    }
    table.note(spans, subject, "boot.");
    table.finish(sink, &[]);
    let cmdline = cmdline.map(|text| text.value.to_owned()).unwrap_or_default();
    match (kernel, payload) {
        (Some(kernel), _) => Some(Boot::Kernel { kernel, initrd, modules, cmdline }),
        (None, Some(_)) => Some(Boot::Diagnostics { cmdline }),
        (None, None) => None,
    }
}

fn module(mut fields: Fields<'_, '_>, sink: &mut Sink) -> Option<Module> {
    let path = path(&mut fields, sink, "path");
    if !fields.has("path") {
        fields.missing(sink, "path", "name the module's file: path = \"module.bin\"");
    }
    let cmdline = fields.text(sink, "cmdline", "a text in quotes");
    check_cmdline(cmdline.as_ref(), sink);
    fields.finish(sink, &[]);
    Some(Module { path: path?, cmdline: cmdline.map(|text| text.value.to_owned()).unwrap_or_default() })
}

fn check_cmdline(cmdline: Option<&At<&str>>, sink: &mut Sink) {
    let Some(text) = cmdline else { return };
    let wrong = if text.value.len() > LONGEST_CMDLINE {
        format!("{} bytes; a kernel takes at most {LONGEST_CMDLINE}", text.value.len())
    } else if text.value.contains(|c: char| c.is_control()) {
        "a control character is in it".to_owned()
    } else {
        return;
    };
    sink.push(Diagnostic::error("bad-cmdline", "this cannot be a command line").at(text.span.clone(), wrong));
}

fn path(fields: &mut Fields<'_, '_>, sink: &mut Sink, key: &'static str) -> Option<PathBuf> {
    let text = fields.text(sink, key, "a path in quotes")?;
    let wrong = match text.value {
        "" => "this is empty",
        long if long.len() > LONGEST_PATH => "a path has at most 4095 bytes",
        odd if odd.contains('\0') => "a path has no zero byte",
        path => return Some(PathBuf::from(path)),
    };
    sink.push(Diagnostic::error("bad-path", format!("{key} is no path")).at(text.span, wrong));
    None
}

fn shutdown(mut fields: Fields<'_, '_>, sink: &mut Sink, spans: &mut Spans, subject: &Subject) -> Shutdown {
    let default = Shutdown::default();
    let mut rung = |key, default: u32| fields.duration(sink, key).map_or(default, |at| at.value);
    let ladder = Shutdown {
        ask_ms: rung("ask", default.ask_ms),
        button_ms: rung("button", default.button_ms),
        nmi_ms: rung("nmi", default.nmi_ms),
    };
    fields.note(spans, subject, "shutdown.");
    fields.finish(sink, &[]);
    ladder
}
