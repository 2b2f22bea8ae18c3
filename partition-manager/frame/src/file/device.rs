//! The devices of a partition of the file: `[[partition.disk]]`.

use super::boot::{Numbers, Written, path};
use super::fields::{At, Fields};
use super::sink::Sink;
use super::spans::Keys;
use crate::declare::Disk;
use crate::device::{ENTROPY, FIRST_FREE_SLOT, LONGEST_SERIAL, MOST_DEVICES};
use crate::diagnostic::{Diagnostic, shown};
use crate::name::Name;
use crate::platform::PCI_SLOTS;
use crate::rule;
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

/// Reads the disks of a partition.
pub(super) fn disks(
    fields: &mut Fields<'_, '_>,
    numbers: Numbers,
    sink: &mut Sink,
    keys: &mut Keys,
) -> Vec<DiskTemplate> {
    let tables = fields.tables(sink, "disk", MOST_DISKS);
    let mut names: Vec<At<Name>> = vec![];
    let mut slots: Vec<At<u32>> = vec![];
    let mut disks = vec![];
    for table in tables {
        disks.extend(disk(table, numbers, sink, keys, &mut names, &mut slots));
    }
    disks
}

fn disk(
    mut fields: Fields<'_, '_>,
    numbers: Numbers,
    sink: &mut Sink,
    keys: &mut Keys,
    names: &mut Vec<At<Name>>,
    slots: &mut Vec<At<u32>>,
) -> Option<DiskTemplate> {
    fields.rename("[[partition.disk]]".into());
    let name = fields.name(sink, "name");
    if let Some(name) = &name {
        fields.rename(format!("disk {}", name.value));
        let twice = || format!("the device name {} is declared twice in one partition", name.value);
        if name.value.as_str() == ENTROPY {
            let message = format!("the device name {ENTROPY} is that of the source of random numbers");
            sink.push(Diagnostic::of(rule::DUPLICATE_DEVICE, message).at(name.span.clone(), "name it otherwise"));
        }
        once(rule::DUPLICATE_DEVICE, names, name, twice, sink);
    } else if !fields.has("name") {
        fields.missing(sink, "name", "give the disk a name: name = \"root\"");
    }
    let path = path(&mut fields, numbers, sink, "path");
    if !fields.has("path") {
        fields.missing(sink, "path", "name a raw image or a block device: path = \"root.img\"");
    }
    let read_only = fields.truth(sink, "read_only").is_some_and(|at| at.value);
    let serial = serial(&mut fields, sink);
    let slot = fields.number(sink, "slot", FIRST_FREE_SLOT.into()..=u32::from(PCI_SLOTS) - 1);
    if let Some(slot) = &slot {
        let twice = || format!("slot {} is declared twice in one partition", slot.value);
        once(rule::DUPLICATE_SLOT, slots, slot, twice, sink);
    }
    let (mut operations, mut bandwidth) = (None, None);
    if let Some(mut limit) = fields.table(sink, "limit", "limit", |_, _| true) {
        operations = limit.number(sink, "operations", 1..=u32::MAX).map(|at| u64::from(at.value));
        bandwidth = limit.size(sink, "bandwidth").and_then(|size| {
            if size.value > 0 {
                return Some(size.value);
            }
            let message = "bandwidth of limit cannot be 0B";
            sink.push(Diagnostic::of(rule::ZERO_LIMIT, message).at(size.span, "nothing would ever be read"));
            None
        });
        limit.finish(sink, &[]);
    }
    if let Some(name) = &name
        && let Some(span) = fields.span_of("path")
    {
        keys.note(&format!("disk.{}", name.value), span);
    }
    fields.finish(sink, &[]);
    let slot = slot.and_then(|slot| u8::try_from(slot.value).ok());
    let path = path?;
    let disk = Disk { name: name?.value, path: path.make(None), read_only, serial, slot, operations, bandwidth };
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
fn once<T: Clone + PartialEq>(
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
