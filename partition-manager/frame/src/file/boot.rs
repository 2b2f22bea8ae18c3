//! What a partition of the file starts.

use super::LONGEST_CMDLINE;
use super::LONGEST_PATH;
use super::fields::{At, Fields, Merges};
use super::pattern::{fill, has_number, unknown};
use super::sink::Sink;
use super::spans::Keys;
use crate::declare::{Boot, Module};
use crate::diagnostic::{Diagnostic, shown};
use crate::launch::MOST_MODULES;
use crate::rule;
use std::path::{Path, PathBuf};
use toml::de::{DeTable, DeValue};

/// The number that goes into the texts of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Numbers {
    /// None: the partition is declared once.
    None,
    /// 1 up to this.
    UpTo(u32),
    /// Not known: these are defaults.
    Unknown,
}

/// A path as it is written, and the directory that it begins at.
#[derive(Clone, Debug)]
pub(super) struct Written {
    directory: PathBuf,
    text: String,
}

/// What to start, before numbers are put in.
#[derive(Clone, Debug)]
pub(super) enum Template {
    Diagnostics { cmdline: String },
    Kernel { kernel: Written, initrd: Option<Written>, modules: Vec<(Written, String)>, cmdline: String },
}

impl Template {
    /// Bytes of all its texts.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Diagnostics { cmdline } => cmdline.len(),
            Self::Kernel { kernel, initrd, modules, cmdline } => {
                let modules = modules.iter().map(|(path, cmdline)| path.size() + cmdline.len());
                kernel.size() + initrd.as_ref().map_or(0, Written::size) + modules.sum::<usize>() + cmdline.len()
            }
        }
    }

    /// What partition `number` of the pattern starts, or the only one.
    pub(super) fn make(&self, number: Option<u32>) -> Boot {
        let text = |text: &str| number.map_or_else(|| text.to_owned(), |number| fill(text, number));
        let path = |path: &Written| path.make(number);
        match self {
            Self::Diagnostics { cmdline } => Boot::Diagnostics { cmdline: text(cmdline) },
            Self::Kernel { kernel, initrd, modules, cmdline } => Boot::Kernel {
                kernel: path(kernel),
                initrd: initrd.as_ref().map(path),
                modules: modules
                    .iter()
                    .map(|(file, cmdline)| Module { path: path(file), cmdline: text(cmdline) })
                    .collect(),
                cmdline: text(cmdline),
            },
        }
    }

    /// Whether the built-in payload is told a command before anything else is said to it.
    pub(super) fn payload_is_told(&self, command: &str) -> bool {
        match self {
            Self::Diagnostics { cmdline } => cmdline.split([' ', '=', ',', ';']).any(|word| word == command),
            Self::Kernel { .. } => false,
        }
    }
}

impl Written {
    pub(super) fn size(&self) -> usize {
        self.text.len() + self.directory.as_os_str().len()
    }

    /// The path of partition `number` of the pattern, or of the only one.
    pub(super) fn make(&self, number: Option<u32>) -> PathBuf {
        self.directory.join(number.map_or_else(|| self.text.clone(), |number| fill(&self.text, number)))
    }
}

const FORMS: &str = rule::BOOT_FORM.remedy;

/// Defaults with a kernel do not add to a payload, nor the other way round.
const MERGES: Merges = |above: &DeTable<'_>, below: &DeTable<'_>| {
    let form = |table: &DeTable<'_>| (table.contains_key("kernel"), table.contains_key("payload"));
    let (above, below) = (form(above), form(below));
    above == (false, false) || below == (false, false) || above == below
};

/// Reads `boot`.
pub(super) fn read(
    fields: &mut Fields<'_, '_>,
    numbers: Numbers,
    sink: &mut Sink,
    keys: &mut Keys,
) -> Option<Template> {
    let Some(found) = fields.value("boot") else {
        fields.missing(sink, "boot", FORMS);
        return None;
    };
    if let DeValue::String(_) = found.value {
        fields.choice(sink, "boot", &[("diagnostics", ())])?;
        return Some(Template::Diagnostics { cmdline: String::new() });
    }
    if found.value.as_table().is_none() {
        let kind = found.value.type_str();
        let message = format!("boot is \"diagnostics\" or a table with a kernel, not of type {kind}");
        sink.push(Diagnostic::of(rule::WRONG_TYPE, message).at(found.span, "not this").help(FORMS));
        return None;
    }
    let mut table = fields.table(sink, "boot", "boot", MERGES)?;
    let kernel = path(&mut table, numbers, sink, "kernel");
    let initrd = path(&mut table, numbers, sink, "initrd");
    let modules = table.tables(sink, "modules", MOST_MODULES);
    let modules = modules.into_iter().filter_map(|fields| module(fields, numbers, sink)).collect();
    let payload = table.choice(sink, "payload", &[("diagnostics", ())]);
    let cmdline = cmdline(&mut table, numbers, sink);
    suits(&table, sink);
    if let (Some(kernel), Some(initrd)) = (&kernel, &initrd)
        && kernel.directory.join(&kernel.text) == initrd.directory.join(&initrd.text)
        && let (Some(first), Some(second)) = (table.span_of("kernel"), table.span_of("initrd"))
    {
        let message = format!("{} is both the kernel and the initrd", shown(&initrd.text));
        sink.push(
            Diagnostic::of(rule::INITRD_IS_KERNEL, message).at(second, "named again here").see(first, "the kernel"),
        );
    }
    table.note(keys, "boot.");
    table.finish(sink, &[]);
    match (kernel, payload) {
        (Some(kernel), _) => Some(Template::Kernel { kernel, initrd, modules, cmdline }),
        (None, Some(_)) => Some(Template::Diagnostics { cmdline }),
        (None, None) => None,
    }
}

/// Checks that the keys make one of the forms of `boot`.
fn suits(table: &Fields<'_, '_>, sink: &mut Sink) {
    let (kernel, payload) = (table.span_of("kernel"), table.span_of("payload"));
    let payload = match (kernel, payload) {
        (Some(kernel), Some(payload)) => {
            sink.push_unsuited(
                Diagnostic::of(rule::BOOT_FORM, "boot has both a kernel and a payload")
                    .at(payload, "exactly one is needed")
                    .see(kernel, "the other"),
            );
            return;
        }
        (None, None) => {
            sink.push_unsuited(
                Diagnostic::of(rule::BOOT_FORM, "boot has neither a kernel nor a payload")
                    .at(table.span.clone(), "exactly one is needed"),
            );
            return;
        }
        (Some(_), None) => return,
        (None, Some(payload)) => payload,
    };
    let others = [("initrd", rule::PAYLOAD_WITH_INITRD), ("modules", rule::PAYLOAD_WITH_MODULES)];
    for (key, rule) in others {
        if let Some(span) = table.span_of(key) {
            sink.push_unsuited(
                Diagnostic::of(rule, rule.message).at(span, "remove this").see(payload.clone(), "the payload"),
            );
        }
    }
}

fn module(mut fields: Fields<'_, '_>, numbers: Numbers, sink: &mut Sink) -> Option<(Written, String)> {
    let path = path(&mut fields, numbers, sink, "path");
    if !fields.has("path") {
        fields.missing(sink, "path", "name the module's file: path = \"module.bin\"");
    }
    let cmdline = cmdline(&mut fields, numbers, sink);
    fields.finish(sink, &[]);
    Some((path?, cmdline))
}

fn cmdline(fields: &mut Fields<'_, '_>, numbers: Numbers, sink: &mut Sink) -> String {
    let Some(text) = fields.text(sink, "cmdline", "a text in quotes") else { return String::new() };
    let longest = placed(&text, numbers, sink);
    if longest.len() > LONGEST_CMDLINE {
        let message =
            format!("this command line has {} bytes; a kernel takes at most {LONGEST_CMDLINE}", longest.len());
        sink.push(Diagnostic::of(rule::CMDLINE_TOO_LONG, message).at(text.span.clone(), "too long"));
    } else if text.value.contains(|c: char| c.is_control()) {
        sink.push(
            Diagnostic::of(rule::BAD_CMDLINE, "this cannot be a command line")
                .at(text.span.clone(), "a control character is in it"),
        );
    }
    text.value.to_owned()
}

/// A path under `key`, with numbers in it where there are some.
pub(super) fn path(
    fields: &mut Fields<'_, '_>,
    numbers: Numbers,
    sink: &mut Sink,
    key: &'static str,
) -> Option<Written> {
    let text = fields.text(sink, key, "a path in quotes")?;
    let longest = placed(&text, numbers, sink);
    let directory = fields.directory_of(key).unwrap_or_else(|| Path::new("")).to_owned();
    check_path(key, &At { value: &longest, span: text.span.clone() }, sink)
        .then(|| Written { directory, text: text.value.to_owned() })
}

/// Whether a text can be a path; says why not.
pub(super) fn check_path(key: &str, text: &At<&str>, sink: &mut Sink) -> bool {
    let wrong = match text.value {
        "" => "this is empty",
        long if long.len() > LONGEST_PATH => "a path has at most 4095 bytes",
        odd if odd.contains('\0') => "a path has no zero byte",
        _ => return true,
    };
    sink.push(Diagnostic::of(rule::BAD_PATH, format!("{key} is no path")).at(text.span.clone(), wrong));
    false
}

/// Checks the placeholders of a text, and gives it with the largest number in them.
fn placed(text: &At<&str>, numbers: Numbers, sink: &mut Sink) -> String {
    match numbers {
        Numbers::UpTo(largest) => {
            if let Some(placeholder) = unknown(text.value) {
                sink.push(stands_for_nothing(placeholder).at(text.span.clone(), "in this text"));
            }
            fill(text.value, largest)
        }
        Numbers::None => {
            if has_number(text.value) {
                let message = "{n} stands for a number, but the partition has no count";
                sink.push(Diagnostic::of(rule::PATTERN_WITHOUT_COUNT, message).at(text.span.clone(), "in this text"));
            }
            text.value.to_owned()
        }
        Numbers::Unknown => text.value.to_owned(),
    }
}

/// That a placeholder is unknown.
pub(super) fn stands_for_nothing(placeholder: &str) -> Diagnostic {
    Diagnostic::of(rule::PLACEHOLDER_UNKNOWN, format!("{} stands for nothing", shown(placeholder)))
}
