//! Files that the frame file names: which ones to look at, and what to say of what was found.
//!
//! Nothing here opens a file. The caller looks, and hands over facts.

use super::MOST_DIAGNOSTICS;
use super::spans::Spans;
use crate::declare::{Boot, Console, Disk, Frame, Partition};
use crate::diagnostic::{Diagnostic, shown};
use crate::image::ImageError;
use crate::plan::Subject;
use crate::root::{LONGEST_SOCKET_PATH, Root};
use crate::rule;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// A kernel: it must be an image that a partition can start.
    Kernel,
    /// An initial RAM disk: any bytes.
    Initrd,
    /// A multiboot module: any bytes.
    Module,
    /// A disk that is only read.
    Disk,
    /// A disk that is read and written.
    WritableDisk,
}

impl Purpose {
    /// Whether it is a disk.
    #[must_use]
    pub const fn is_disk(self) -> bool {
        matches!(self, Self::Disk | Self::WritableDisk)
    }
}

/// What the caller found where a path leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileFact {
    /// A file of this many bytes that can be read, and an image if it must be one.
    Good {
        /// Its length, bytes.
        length: u64,
    },
    /// A kernel that a partition can start.
    Kernel {
        /// Its length, bytes.
        length: u64,
        /// Whether it can be given modules ([`crate::image::Image::takes_modules`]).
        takes_modules: bool,
    },
    /// A raw image or a block device.
    Disk {
        /// Its length, bytes.
        length: u64,
        /// Which it is, whatever path leads there: device and inode.
        identity: (u64, u64),
        /// The PCI function behind it, if it is a block device of one: its address.
        function: Option<String>,
    },
    /// It is there, but cannot be written; the operating system's reason.
    Unwritable(String),
    /// An image of another format than raw; its name.
    Format(&'static str),
    /// Nothing is there.
    Missing,
    /// It is there, but cannot be read; the operating system's reason.
    Unreadable(String),
    /// It is a directory, or another thing that is no file; what it is, such as `a directory`.
    NoFile(String),
    /// It is a kernel that cannot be started.
    BadImage(ImageError),
}

/// Facts by path as the frame file has it, and by purpose. What is not listed is not judged.
pub type FileFacts = BTreeMap<(PathBuf, Purpose), FileFact>;

/// Every file that the frame names, as the frame file has it.
#[must_use]
pub fn files(frame: &Frame) -> Vec<(PathBuf, Purpose)> {
    let mut files = vec![];
    for partition in &frame.partitions {
        if let Boot::Kernel { kernel, initrd, modules, .. } = &partition.boot {
            files.push((kernel.clone(), Purpose::Kernel));
            files.extend(modules.iter().map(|module| (module.path.clone(), Purpose::Module)));
            files.extend(initrd.clone().map(|path| (path, Purpose::Initrd)));
        }
        files.extend(partition.disks.iter().map(|disk| (disk.path.clone(), purpose(disk))));
    }
    files.sort();
    files.dedup();
    files
}

const fn purpose(disk: &Disk) -> Purpose {
    if disk.read_only { Purpose::Disk } else { Purpose::WritableDisk }
}

/// What is wrong with the files that the frame names.
#[must_use]
pub fn against(frame: &Frame, spans: &Spans, facts: &FileFacts) -> Vec<Diagnostic> {
    let mut found = disks(frame, spans, facts);
    found.extend(dedicated(frame, spans, facts));
    for partition in &frame.partitions {
        let Boot::Kernel { kernel, initrd, modules, .. } = &partition.boot else { continue };
        let one = [(Some(kernel), Purpose::Kernel, "boot.kernel"), (initrd.as_ref(), Purpose::Initrd, "boot.initrd")];
        let given = modules.iter().map(|module| (Some(&module.path), Purpose::Module, "boot.modules"));
        let named = one.into_iter().chain(given);
        let minimum = partition.memory.size.minimum;
        for (path, purpose, key) in named {
            let Some(path) = path else { continue };
            let Some(fact) = facts.get(&(path.clone(), purpose)) else { continue };
            let what = match purpose {
                Purpose::Kernel => "kernel",
                Purpose::Initrd => "initrd",
                Purpose::Module => "module",
                Purpose::Disk | Purpose::WritableDisk => "disk",
            };
            let path = shown(&path.to_string_lossy());
            let lead = format!("the {what} of partition {}, {path},", partition.name);
            let (rule, message) = match fact {
                FileFact::Good { length } | FileFact::Kernel { length, .. } if *length >= minimum => (
                    rule::IMAGE_TOO_LARGE,
                    format!("{lead} has {length} bytes, which do not fit into its minimum memory of {minimum} bytes"),
                ),
                FileFact::Kernel { takes_modules: false, .. } if !modules.is_empty() => (
                    rule::BAD_IMAGE,
                    format!("{lead} cannot be started: it has no multiboot header, so it cannot be given modules"),
                ),
                FileFact::Good { .. } | FileFact::Kernel { .. } | FileFact::Disk { .. } => continue,
                FileFact::Unwritable(_) | FileFact::Format(_) => continue,
                FileFact::Missing => (rule::FILE_MISSING, format!("{lead} is not there")),
                FileFact::Unreadable(why) => (rule::FILE_UNREADABLE, format!("{lead} cannot be read: {}", shown(why))),
                FileFact::NoFile(kind) => (rule::FILE_KIND, format!("{lead} is {}, not a file", shown(kind))),
                FileFact::BadImage(error) => (rule::BAD_IMAGE, format!("{lead} cannot be started: {error}")),
            };
            let mut diagnostic = Diagnostic::of(rule, message);
            if let Some(span) = spans.find(&Subject::Partition(partition.name.clone()), key) {
                diagnostic = diagnostic.at(span, "named here");
            }
            found.push(diagnostic);
        }
    }
    found
}

/// What is wrong with disks: each by itself, and two of one image that one of them writes.
fn disks(frame: &Frame, spans: &Spans, facts: &FileFacts) -> Vec<Diagnostic> {
    type User<'f> = (&'f Partition, &'f Disk);
    let mut users: BTreeMap<(u64, u64), Vec<User<'_>>> = BTreeMap::new();
    let mut found = vec![];
    let place = |(partition, disk): User<'_>| {
        spans.find(&Subject::Partition(partition.name.clone()), &format!("disk.{}", disk.name))
    };
    let all = frame.partitions.iter().flat_map(|partition| partition.disks.iter().map(move |disk| (partition, disk)));
    for user in all {
        let (partition, disk) = user;
        let Some(fact) = facts.get(&(disk.path.clone(), purpose(disk))) else { continue };
        let lead =
            format!("the disk {} of partition {}, {},", disk.name, partition.name, shown(&disk.path.to_string_lossy()));
        let (rule, message) = match fact {
            FileFact::Disk { length, .. } if *length < 512 => {
                (rule::DISK_TOO_SHORT, format!("{lead} has {length} bytes, less than a sector of 512"))
            }
            FileFact::Disk { identity, .. } => {
                let others = users.entry(*identity).or_default();
                let writes = |other: &&User<'_>| !(disk.read_only && other.1.read_only);
                let other = others.iter().find(writes).copied();
                others.push(user);
                let Some(other) = other else { continue };
                let who = |(partition, disk): User<'_>| format!("disk {} of partition {}", disk.name, partition.name);
                let message = format!(
                    "{} and {} are one image, {}, and not both only read it",
                    who(other),
                    who(user),
                    shown(&disk.path.to_string_lossy())
                );
                let mut diagnostic = Diagnostic::of(rule::DISK_SHARED, message);
                if let Some(span) = place(user) {
                    diagnostic = diagnostic.at(span, "again here");
                }
                if let Some(span) = place(other) {
                    diagnostic = diagnostic.see(span, "first here");
                }
                found.push(diagnostic);
                continue;
            }
            FileFact::Unwritable(why) => (rule::DISK_UNWRITABLE, format!("{lead} cannot be written: {}", shown(why))),
            FileFact::Format(format) => (rule::DISK_FORMAT, format!("{lead} is a {format} image")),
            FileFact::Missing => (rule::FILE_MISSING, format!("{lead} is not there")),
            FileFact::Unreadable(why) => (rule::FILE_UNREADABLE, format!("{lead} cannot be read: {}", shown(why))),
            FileFact::NoFile(kind) => {
                (rule::FILE_KIND, format!("{lead} is {}, not a file or a block device", shown(kind)))
            }
            FileFact::Good { .. } | FileFact::Kernel { .. } | FileFact::BadImage(_) => continue,
        };
        let mut diagnostic = Diagnostic::of(rule, message);
        if let Some(span) = place(user) {
            diagnostic = diagnostic.at(span, "named here");
        }
        found.push(diagnostic);
    }
    found
}

/// What is wrong with disks that are to have the host's device behind them for themselves: there is none, or another
/// partition uses it.
fn dedicated(frame: &Frame, spans: &Spans, facts: &FileFacts) -> Vec<Diagnostic> {
    let mut found = vec![];
    let mut users: BTreeMap<&str, Vec<(&Partition, &Disk)>> = BTreeMap::new();
    let all = frame.partitions.iter().flat_map(|partition| partition.disks.iter().map(move |disk| (partition, disk)));
    for (partition, disk) in all {
        let Some(FileFact::Disk { function, .. }) = facts.get(&(disk.path.clone(), purpose(disk))) else { continue };
        let place = |(partition, disk): (&Partition, &Disk)| {
            spans.find(&Subject::Partition(partition.name.clone()), &format!("disk.{}", disk.name)).unwrap_or(0..0)
        };
        let here = place((partition, disk));
        let Some(function) = function else {
            if disk.dedicated {
                let path = shown(&disk.path.to_string_lossy());
                let message = format!(
                    "the disk {} of partition {} is dedicated, and {path} has no PCI function of its own",
                    disk.name, partition.name
                );
                found.push(Diagnostic::of(rule::DEDICATED_FILE, message).at(here, "named here"));
            }
            continue;
        };
        let others = users.entry(function).or_default();
        let clashes =
            |other: &&(&Partition, &Disk)| other.0.name != partition.name && (disk.dedicated || other.1.dedicated);
        if let Some(other) = others.iter().find(clashes) {
            let message = format!(
                "disk {} of partition {} and disk {} of partition {} are on one PCI function, {function}, which is dedicated to one of them",
                other.1.name, other.0.name, disk.name, partition.name
            );
            let diagnostic = Diagnostic::of(rule::DEDICATED_SHARED, message).at(here, "again here");
            found.push(diagnostic.see(place(*other), "first here"));
        }
        others.push((partition, disk));
    }
    found
}

/// What is wrong with the names of a frame that is to live at `root`: sockets whose paths are too long.
#[must_use]
pub fn sockets(frame: &Frame, spans: &Spans, root: &Root) -> Vec<Diagnostic> {
    let length = |path: &Path| path.as_os_str().len();
    let say = |what: String, length: usize| {
        let message = format!(
            "the socket of {what} would have a path of {length} bytes: a Unix socket takes at most {LONGEST_SOCKET_PATH}"
        );
        Diagnostic::of(rule::SOCKET_PATH, message)
    };
    let own = root.sockets().iter().map(|path| length(path)).max().unwrap_or(0);
    if own > LONGEST_SOCKET_PATH {
        let place = spans.find(&Subject::Frame, "name").unwrap_or(0..0);
        return vec![say(format!("frame {}", frame.name), own).at(place, "the frame's directory is too deep")];
    }
    let mut found = vec![];
    for partition in &frame.partitions {
        let vsock = partition.vsock.map(|_| root.vsock(&partition.name));
        let ports = partition.console.iter().flat_map(Console::names);
        let ports = ports.map(|port| root.console_port(&partition.name, &port));
        let all = ports.chain(vsock).chain([root.partition_socket(&partition.name)]);
        let length = all.map(|path| length(&path)).max().unwrap_or(0);
        if length > LONGEST_SOCKET_PATH {
            let place = spans.find(&Subject::Partition(partition.name.clone()), "name").unwrap_or(0..0);
            found.push(say(format!("partition {}", partition.name), length).at(place, "too long here"));
        }
        if found.len() >= MOST_DIAGNOSTICS {
            break;
        }
    }
    found
}
