//! The devices of a partition of the file: what all have, and `[[partition.disk]]`.

use super::boot::{Numbers, Written, path};
use super::fields::{At, Fields};
use super::sink::Sink;
use super::spans::Keys;
use super::spans::Spans;
use crate::declare::{Console, Disk, Frame, Vsock};
use crate::device::{
    CIDS, CONSOLE, DiskEngine, ENTROPY, FIRST_FREE_SLOT, LONGEST_SERIAL, MOST_DEVICES, MOST_PORTS, TERMINAL, VSOCK,
};
use crate::diagnostic::{Diagnostic, shown};
use crate::name::Name;
use crate::plan::Subject;
use crate::platform::PCI_SLOTS;
use crate::rule;
use std::collections::BTreeMap;
use std::ops::Range;

/// Most disks of one partition: all slots that are free for them.
pub(crate) const MOST_DISKS: usize = MOST_DEVICES - FIRST_FREE_SLOT as usize + 1;

/// A disk, before numbers are put into its path.
#[derive(Clone, Debug)]
pub(super) struct DiskTemplate {
    disk: Disk,
    path: Written,
}

impl DiskTemplate {
    /// Bytes of its texts.
    pub(super) fn size(&self) -> usize {
        self.path.size() + self.disk.serial.len() + self.disk.name.as_str().len()
    }

    /// The disk of partition `number` of the pattern, or of the only one.
    pub(super) fn make(&self, number: Option<u32>) -> Disk {
        Disk { path: self.path.make(number), ..self.disk.clone() }
    }
}

/// What the devices of one partition have between them.
#[derive(Default)]
pub(super) struct Taken {
    names: Vec<At<Name>>,
    slots: Vec<At<u32>>,
}

impl Taken {
    /// Reads the name of a device of this kind.
    pub(super) fn name(&mut self, fields: &mut Fields<'_, '_>, kind: &str, sink: &mut Sink) -> Option<At<Name>> {
        let name = fields.name(sink, "name");
        if let Some(name) = &name {
            fields.rename(format!("{kind} {}", name.value));
            let twice = || format!("the device name {} is declared twice in one partition", name.value);
            let own = [
                (ENTROPY, "the source of random numbers"),
                (VSOCK, "the socket device"),
                (CONSOLE, "the console device"),
            ];
            if let Some((own, whose)) = own.into_iter().find(|(own, _)| *own == name.value.as_str()) {
                let message = format!("the device name {own} is that of {whose}");
                sink.push(Diagnostic::of(rule::DUPLICATE_DEVICE, message).at(name.span.clone(), "name it otherwise"));
            }
            once(rule::DUPLICATE_DEVICE, &mut self.names, name, twice, sink);
        } else if !fields.has("name") {
            fields.missing(sink, "name", &format!("give the {kind} a name: name = \"a\""));
        }
        name
    }

    /// Reads the slot of a device.
    pub(super) fn slot(&mut self, fields: &mut Fields<'_, '_>, sink: &mut Sink) -> Option<u8> {
        let slot = fields.number(sink, "slot", FIRST_FREE_SLOT.into()..=u32::from(PCI_SLOTS) - 1)?;
        let twice = || format!("slot {} is declared twice in one partition", slot.value);
        once(rule::DUPLICATE_SLOT, &mut self.slots, &slot, twice, sink);
        u8::try_from(slot.value).ok()
    }
}

/// Reads what a device may do in a second: operations and bytes.
pub(super) fn limit(fields: &mut Fields<'_, '_>, sink: &mut Sink) -> (Option<u64>, Option<u64>) {
    let Some(mut limit) = fields.table(sink, "limit", "limit", |_, _| true) else { return (None, None) };
    let operations = limit.number(sink, "operations", 1..=u32::MAX).map(|at| u64::from(at.value));
    let bandwidth = limit.size(sink, "bandwidth").and_then(|size| {
        if size.value > 0 {
            return Some(size.value);
        }
        let message = "bandwidth of limit cannot be 0B";
        sink.push(Diagnostic::of(rule::ZERO_LIMIT, message).at(size.span, "nothing would ever pass"));
        None
    });
    limit.finish(sink, &[]);
    (operations, bandwidth)
}

/// Reads the socket device of a partition.
pub(super) fn vsock(fields: &mut Fields<'_, '_>, sink: &mut Sink, keys: &mut Keys) -> Option<Vsock> {
    let span = fields.span_of("vsock");
    let mut table = fields.table(sink, "vsock", "vsock", |_, _| true)?;
    let cid = table.number(sink, "cid", CIDS);
    table.finish(sink, &[]);
    if let Some(span) = cid.as_ref().map(|at| at.span.clone()).or(span) {
        keys.note("vsock.cid", span);
    }
    Some(Vsock { cid: cid.map(|at| at.value) })
}

/// Reads the console device of a partition.
pub(super) fn console(fields: &mut Fields<'_, '_>, sink: &mut Sink) -> Option<Console> {
    let mut table = fields.table(sink, "console", "console", |_, _| true)?;
    let declared = table.texts(sink, "ports", "names in quotes, such as [\"agent\"]");
    table.finish(sink, &[]);
    if let Some(over) = declared.get(MOST_PORTS) {
        let message = format!("the console device has {} ports besides its terminal", declared.len());
        let label = format!("at most {MOST_PORTS} are supported");
        sink.push(Diagnostic::of(rule::TOO_MANY_PORTS, message).at(over.span.clone(), label));
    }
    let mut ports: Vec<At<Name>> = vec![];
    for text in declared.into_iter().take(MOST_PORTS) {
        let Some(name) = super::fields::name(text, "ports", sink) else { continue };
        if name.value.as_str() == TERMINAL {
            let message = format!("the port name {TERMINAL} is that of the terminal, which every console device has");
            sink.push(Diagnostic::of(rule::DUPLICATE_PORT, message).at(name.span, "name it otherwise"));
            continue;
        }
        let twice = || format!("the port name {} is declared twice in one partition", name.value);
        once(rule::DUPLICATE_PORT, &mut ports, &name, twice, sink);
    }
    Some(Console { ports: ports.into_iter().map(|at| at.value).collect() })
}

/// Socket devices of one context identifier.
pub(super) fn check(frame: &Frame, spans: &Spans, sink: &mut Sink) {
    let mut taken: BTreeMap<u32, (Range<usize>, &Name)> = BTreeMap::new();
    for (partition, cid) in frame.partitions.iter().filter_map(|partition| Some((partition, partition.cid()?))) {
        if sink.is_full() {
            sink.drop_more(1);
            continue;
        }
        let place = spans.find(&Subject::Partition(partition.name.clone()), "vsock.cid").unwrap_or(0..0);
        match taken.get(&cid) {
            Some((first, other)) => {
                let message = format!(
                    "partitions {other} and {} both have the context identifier {cid} of socket devices",
                    partition.name
                );
                let diagnostic = Diagnostic::of(rule::DUPLICATE_CID, message).at(place.clone(), "again here");
                sink.push(if *first == place { diagnostic } else { diagnostic.see(first.clone(), "first here") });
            }
            None => {
                taken.insert(cid, (place, &partition.name));
            }
        }
    }
}

/// Reads the disks of a partition.
pub(super) fn disks(
    fields: &mut Fields<'_, '_>,
    numbers: Numbers,
    sink: &mut Sink,
    keys: &mut Keys,
    taken: &mut Taken,
) -> Vec<DiskTemplate> {
    let tables = fields.tables(sink, "disk", MOST_DISKS);
    let mut disks = vec![];
    for table in tables {
        disks.extend(disk(table, numbers, sink, keys, taken));
    }
    disks
}

fn disk(
    mut fields: Fields<'_, '_>,
    numbers: Numbers,
    sink: &mut Sink,
    keys: &mut Keys,
    taken: &mut Taken,
) -> Option<DiskTemplate> {
    fields.rename("[[partition.disk]]".into());
    let name = taken.name(&mut fields, "disk", sink);
    let path = path(&mut fields, numbers, sink, "path");
    if !fields.has("path") {
        fields.missing(sink, "path", "name a raw image or a block device: path = \"root.img\"");
    }
    let read_only = fields.truth(sink, "read_only").is_some_and(|at| at.value);
    let serial = serial(&mut fields, sink);
    let slot = taken.slot(&mut fields, sink);
    let (operations, bandwidth) = limit(&mut fields, sink);
    let engines = [("auto", DiskEngine::Auto), ("sync", DiskEngine::Sync)];
    let engine = fields.choice(sink, "engine", &engines).map(|at| at.value).unwrap_or_default();
    let dedicated = fields.truth(sink, "dedicated").is_some_and(|at| at.value);
    if let Some(name) = &name
        && let Some(span) = fields.span_of("path")
    {
        keys.note(&format!("disk.{}", name.value), span);
    }
    fields.finish(sink, &[]);
    let path = path?;
    let (name, file) = (name?.value, path.make(None));
    let disk = Disk { name, path: file, read_only, serial, slot, operations, bandwidth, engine, dedicated };
    Some(DiskTemplate { disk, path })
}

fn serial(fields: &mut Fields<'_, '_>, sink: &mut Sink) -> String {
    let Some(text) = fields.text(sink, "serial", "a text in quotes") else { return String::new() };
    let suits = text.value.len() <= LONGEST_SERIAL && text.value.bytes().all(|byte| byte.is_ascii_graphic());
    if !suits {
        let message = format!("a disk cannot have the serial number {}", shown(text.value));
        sink.push(
            Diagnostic::of(rule::BAD_SERIAL, message)
                .at(text.span.clone(), format!("at most {LONGEST_SERIAL} characters of ASCII, without spaces")),
        );
    }
    text.value.to_owned()
}

/// Notes a value that only one may have, and says when another has it.
pub(super) fn once<T: Clone + PartialEq>(
    rule: &'static rule::Rule,
    taken: &mut Vec<At<T>>,
    new: &At<T>,
    message: impl FnOnce() -> String,
    sink: &mut Sink,
) {
    let first: Option<Range<usize>> = taken.iter().find(|at| at.value == new.value).map(|at| at.span.clone());
    match first {
        Some(first) => {
            sink.push(Diagnostic::of(rule, message()).at(new.span.clone(), "again here").see(first, "first here"));
        }
        None => taken.push(new.clone()),
    }
}
