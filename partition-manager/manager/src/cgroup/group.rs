//! The groups of one frame: made, written, joined, emptied and removed.

use super::hierarchy::{Controller, Hierarchy, find};
use super::limits::{Limits, files, share_file};
use frame::name::Name;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Name of the directory above all frames.
const ALL_FRAMES: &str = "bulkhead";
/// What a frame weighs against each other task or group of the host, in version 1 and 2: ten of them. Without
/// it a handful of busy tasks would outweigh all partitions together; with much more, a partition that takes
/// what is spare would starve its own manager.
const FRAME_WEIGHT: [(&str, &str); 2] = [("cpu.shares", "10240"), ("cpu.weight", "1000")];
/// Most process numbers that are read from one group.
const MOST_MEMBERS: usize = 4096;

/// What happened to a group, and to which.
#[derive(Debug, thiserror::Error)]
#[error("the cgroup {} could not be {what}", .path.display())]
pub struct GroupError {
    /// The file or directory.
    pub path: PathBuf,
    /// What was tried.
    pub what: &'static str,
    /// The system's error.
    #[source]
    pub source: io::Error,
}

fn failed(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> GroupError {
    let path = path.to_owned();
    move |source| GroupError { path, what, source }
}

/// The groups of one frame under one root.
#[derive(Debug)]
pub struct Groups {
    used: Vec<Hierarchy>,
    /// `FRAME.ROOT`.
    frame: String,
    /// What was written for each partition: what has not changed is not written again, so that an activation
    /// costs no more when many partitions run.
    written: BTreeMap<Name, Limits>,
}

impl Groups {
    /// Makes the frame's own group in every hierarchy that can be used. `root` is the frame's run
    /// directory. Gives a line for each hierarchy that refuses.
    #[must_use]
    pub fn prepare(frame: &Name, root: &Path) -> (Self, Vec<String>) {
        Self::prepare_in(frame, root, find())
    }

    fn prepare_in(frame: &Name, root: &Path, hierarchies: Vec<Hierarchy>) -> (Self, Vec<String>) {
        let frame = format!("{frame}.{:08x}", digest(root));
        let mut groups = Self { used: vec![], frame, written: BTreeMap::new() };
        let mut lacks = Vec::new();
        for hierarchy in hierarchies {
            match groups.prepare_one(&hierarchy) {
                Ok(()) => groups.used.push(hierarchy),
                Err(error) => {
                    // What was made before it failed serves nobody; what another frame uses is not empty.
                    let own = groups.own(&hierarchy);
                    let _ = fs::remove_dir(&own);
                    let _ = own.parent().map(fs::remove_dir);
                    lacks.push(format!("{error}: {}; partitions are not confined by it", error.source));
                }
            }
        }
        (groups, lacks)
    }

    fn prepare_one(&self, hierarchy: &Hierarchy) -> Result<(), GroupError> {
        let above = hierarchy.base.join(ALL_FRAMES);
        let own = above.join(&self.frame);
        if hierarchy.unified {
            enable(&hierarchy.base, hierarchy)?;
        }
        for directory in [&above, &own] {
            make(directory)?;
            if hierarchy.unified {
                enable(directory, hierarchy)?;
            } else {
                inherit(directory)?;
            }
            if hierarchy.controllers.contains(&Controller::Cpu) {
                let (file, weight) = FRAME_WEIGHT[usize::from(hierarchy.unified)];
                put(&directory.join(file), weight)?;
            }
        }
        Ok(())
    }

    fn own(&self, hierarchy: &Hierarchy) -> PathBuf {
        hierarchy.base.join(ALL_FRAMES).join(&self.frame)
    }

    /// The directories of a partition's groups.
    #[must_use]
    pub fn of(&self, partition: &Name) -> Vec<PathBuf> {
        self.used.iter().map(|hierarchy| self.own(hierarchy).join(partition.as_str())).collect()
    }

    /// Makes the groups of a partition, or finds them, and writes its limits.
    ///
    /// # Errors
    /// [`GroupError`].
    pub fn confine(&mut self, partition: &Name, limits: &Limits) -> Result<(), GroupError> {
        self.written.remove(partition);
        for (hierarchy, directory) in self.used.iter().zip(self.of(partition)) {
            make(&directory)?;
            for (file, text) in files(limits, hierarchy) {
                put(&directory.join(file), &text)?;
            }
        }
        self.written.insert(partition.clone(), limits.clone());
        Ok(())
    }

    /// Writes what has changed of a partition's limits since they were written last; all of them when this
    /// manager has not written them yet.
    ///
    /// # Errors
    /// [`GroupError`].
    pub fn adjust(&mut self, partition: &Name, limits: &Limits) -> Result<(), GroupError> {
        let Some(written) = self.written.get(partition) else { return self.confine(partition, limits) };
        if written == limits {
            return Ok(());
        }
        if (Limits { share: limits.share, ..written.clone() }) != *limits {
            return self.confine(partition, limits);
        }
        // The usual case: another partition came or went, and this one's part of the spare is another.
        for (hierarchy, directory) in self.used.iter().zip(self.of(partition)) {
            if let Some((file, text)) = share_file(limits, hierarchy) {
                put(&directory.join(file), &text)?;
            }
        }
        self.written.insert(partition.clone(), limits.clone());
        Ok(())
    }

    /// Forgets what was written for a partition whose groups are about to go.
    pub fn forget(&mut self, partition: &Name) {
        self.written.remove(partition);
    }

    /// Opens what a process writes to, to join the groups of a partition.
    ///
    /// # Errors
    /// [`GroupError`].
    pub fn doors(&self, partition: &Name) -> Result<Vec<OwnedFd>, GroupError> {
        let open = |(hierarchy, directory): (&Hierarchy, PathBuf)| {
            let path = directory.join(door(hierarchy));
            let file = fs::OpenOptions::new().write(true).open(&path).map_err(failed(&path, "opened"))?;
            Ok(file.into())
        };
        self.used.iter().zip(self.of(partition)).map(open).collect()
    }

    /// The groups of partitions that are there now: name and directory.
    #[must_use]
    pub fn present(&self) -> Vec<(String, PathBuf)> {
        let mut found = Vec::new();
        for hierarchy in &self.used {
            for entry in fs::read_dir(self.own(hierarchy)).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    found.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
                }
            }
        }
        found
    }

    /// Removes the frame's own groups; those that are not empty stay.
    pub fn remove_frame(&self) {
        for hierarchy in &self.used {
            let own = self.own(hierarchy);
            // Another frame, or a later attempt, may still need it.
            let _ = fs::remove_dir(&own);
            let _ = fs::remove_dir(hierarchy.base.join(ALL_FRAMES));
        }
    }
}

/// The file by which a process that has one thread joins a group. To move a whole process, the kernel waits
/// until no process of the host can be forking, ending or starting a program, which takes milliseconds; a thread
/// that moves only itself spares that (kernel/cgroup/cgroup.c, `cgroup_procs_write_start`). Version 2 lets only
/// threaded groups be joined so.
const fn door(hierarchy: &Hierarchy) -> &'static str {
    if hierarchy.unified { "cgroup.procs" } else { "tasks" }
}

/// The processes of a group.
#[must_use]
pub fn members(directory: &Path) -> Vec<u32> {
    let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.trim().parse().ok()).take(MOST_MEMBERS).collect()
}

/// Removes a group; false when it is still busy, which is so for a moment after its last process ended.
///
/// # Errors
/// [`GroupError`] when it will not become better by itself.
pub fn remove(directory: &Path) -> Result<bool, GroupError> {
    match fs::remove_dir(directory) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
        Err(error) if error.kind() == ErrorKind::ResourceBusy => Ok(false),
        Err(error) => Err(failed(directory, "removed")(error)),
    }
}

fn make(directory: &Path) -> Result<(), GroupError> {
    match fs::create_dir(directory) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(failed(directory, "made")(error)),
        _ => Ok(()),
    }
}

fn put(file: &Path, text: &str) -> Result<(), GroupError> {
    // One write: the kernel takes the value of each write by itself.
    let mut open = fs::OpenOptions::new().write(true).open(file).map_err(failed(file, "opened"))?;
    open.write_all(text.as_bytes()).map_err(failed(file, "written"))
}

/// Version 2: passes the controllers on to the groups below.
fn enable(directory: &Path, hierarchy: &Hierarchy) -> Result<(), GroupError> {
    let file = directory.join("cgroup.subtree_control");
    let passed = fs::read_to_string(&file).unwrap_or_default();
    for controller in &hierarchy.controllers {
        if !passed.split_ascii_whitespace().any(|one| one == controller.as_str()) {
            put(&file, &format!("+{}", controller.as_str()))?;
        }
    }
    Ok(())
}

/// Version 1: a new group of the cpuset hierarchy has nothing until it is given something.
fn inherit(directory: &Path) -> Result<(), GroupError> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let own = directory.join(file);
        let Ok(text) = fs::read_to_string(&own) else { continue };
        if text.trim().is_empty() {
            let above = directory.parent().unwrap_or(directory).join(file);
            let text = fs::read_to_string(&above).map_err(failed(&above, "read"))?;
            put(&own, text.trim())?;
        }
    }
    Ok(())
}

/// FNV-1a of a path: short, and the same in every manager of one root.
fn digest(path: &Path) -> u32 {
    let bytes = path.as_os_str().as_encoded_bytes();
    bytes.iter().fold(0x811c_9dc5u32, |hash, &byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// What tells the processes of one frame under one root from all others.
#[must_use]
pub fn tag(frame: &Name, root: &Path) -> String {
    format!("{frame}.{:08x}", digest(root))
}

#[cfg(test)]
mod tests {
    use super::*;
    use frame::cpuset::CpuSet;
    use frame::units::Units;

    #[test]
    fn two_roots_do_not_share_groups() {
        let frame = Name::new("rack7").unwrap();
        let one = tag(&frame, Path::new("/run/a"));
        assert_ne!(one, tag(&frame, Path::new("/run/b")));
        assert!(one.starts_with("rack7.") && one.len() == "rack7.".len() + 8);
    }

    #[test]
    fn a_hierarchy_that_refuses_is_left_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        // Directories of no cgroup file system have none of its files.
        let hierarchy =
            Hierarchy { base: directory.path().to_owned(), unified: false, controllers: vec![Controller::Cpu] };
        let (groups, lacks) = Groups::prepare_in(&Name::new("t").unwrap(), Path::new("/r"), vec![hierarchy]);
        assert!(groups.of(&Name::new("a").unwrap()).is_empty() && lacks.len() == 1, "{lacks:?}");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_not_there_is_removed_already() {
        let directory = tempfile::tempdir().unwrap();
        assert!(remove(&directory.path().join("none")).unwrap());
        fs::create_dir_all(directory.path().join("full/inside")).unwrap();
        assert!(remove(&directory.path().join("full")).is_err());
        fs::write(directory.path().join("cgroup.procs"), "12\n13\nx\n").unwrap();
        assert_eq!(members(directory.path()), [12, 13]);
    }

    #[test]
    fn only_what_has_changed_is_written_again() {
        let directory = tempfile::tempdir().unwrap();
        let hierarchy =
            Hierarchy { base: directory.path().into(), unified: true, controllers: Controller::ALL.to_vec() };
        let mut groups = Groups { used: vec![hierarchy], frame: "f.0".into(), written: BTreeMap::new() };
        let name = Name::new("a").unwrap();
        let own = groups.of(&name).remove(0);
        fs::create_dir_all(&own).unwrap();
        let all = ["cpu.max", "cpu.weight", "cpuset.mems", "cpuset.cpus", "memory.max", "pids.max"];
        // Empties the group's files, and afterwards tells which were written.
        let clear = || all.iter().for_each(|file| fs::write(own.join(file), "").unwrap());
        let filled =
            || all.into_iter().filter(|file| fs::metadata(own.join(file)).unwrap().len() > 0).collect::<Vec<_>>();
        let limits = Limits {
            cpus: CpuSet::parse("0").unwrap(),
            nodes: CpuSet::parse("0").unwrap(),
            cap: None,
            share: Units::from(0.5),
            memory: 1 << 20,
            threads: 8,
        };
        clear();
        // One that this manager has taken over is written whole.
        groups.adjust(&name, &limits).unwrap();
        assert_eq!(filled(), all);
        clear();
        groups.adjust(&name, &limits).unwrap();
        assert!(filled().is_empty());
        let less = Limits { share: Units::from(0.4), ..limits.clone() };
        groups.adjust(&name, &less).unwrap();
        assert_eq!(filled(), ["cpu.weight"]);
        assert_eq!(fs::read_to_string(own.join("cpu.weight")).unwrap(), "40");
        clear();
        groups.adjust(&name, &Limits { memory: 2 << 20, ..less.clone() }).unwrap();
        assert_eq!(filled(), all);
        clear();
        groups.forget(&name);
        groups.adjust(&name, &less).unwrap();
        assert_eq!(filled(), all);
    }

    #[test]
    fn a_new_cpuset_group_inherits() {
        let directory = tempfile::tempdir().unwrap();
        let inner = directory.path().join("inner");
        fs::create_dir(&inner).unwrap();
        for (file, text) in [("cpuset.cpus", "0-1\n"), ("cpuset.mems", "0\n")] {
            fs::write(directory.path().join(file), text).unwrap();
            fs::write(inner.join(file), "\n").unwrap();
        }
        inherit(&inner).unwrap();
        assert!(fs::read_to_string(inner.join("cpuset.cpus")).unwrap().starts_with("0-1"));
    }
}
