//! The hierarchies of this host, and where in them a frame may make its groups.

use frame::api::CgroupReport;
use std::path::{Path, PathBuf};

/// A controller that confines partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Controller {
    /// Processor time.
    Cpu,
    /// Which CPUs and memory nodes.
    Cpuset,
    /// Memory.
    Memory,
    /// Count of threads.
    Pids,
}

impl Controller {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Cpu, Self::Cpuset, Self::Memory, Self::Pids];

    /// The kernel's name of it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cpuset => "cpuset",
            Self::Memory => "memory",
            Self::Pids => "pids",
        }
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|controller| controller.as_str() == name)
    }

    /// What is missing without it.
    const fn loss(self) -> &'static str {
        match self {
            Self::Cpu => "entitlements are not enforced",
            Self::Cpuset => "partitions are kept on their CPUs by affinity only",
            Self::Memory => "the memory of monitors is not bounded",
            Self::Pids => "the count of threads is not bounded",
        }
    }
}

/// One hierarchy, and the directory in it under which groups may be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// The directory under which `bulkhead` is made.
    pub base: PathBuf,
    /// Whether it is version 2.
    pub unified: bool,
    /// The controllers it is used for.
    pub controllers: Vec<Controller>,
}

/// A mounted hierarchy, before it is known what may be done in it.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    point: PathBuf,
    unified: bool,
    /// Version 1: the controllers bound to it. Version 2 says so in a file.
    controllers: Vec<Controller>,
    /// This process's own group, relative to the mount point.
    own: PathBuf,
}

/// Reads `/proc/self/mountinfo` (`proc_pid_mountinfo(5)`) and `/proc/self/cgroup` (`cgroups(7)`).
fn mounts(mountinfo: &str, own: &str) -> Vec<Mount> {
    let own_path = |named: &dyn Fn(&str) -> bool| {
        own.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            named(controllers).then(|| path.to_owned())
        })
    };
    let mut found = Vec::new();
    for line in mountinfo.lines() {
        let Some((front, back)) = line.split_once(" - ") else { continue };
        let mut front = front.split(' ').skip(3);
        let (Some(root), Some(point)) = (front.next(), front.next()) else { continue };
        let mut back = back.split(' ');
        let (Some(kind), Some(options)) = (back.next(), back.nth(1)) else { continue };
        let unified = match kind {
            "cgroup2" => true,
            "cgroup" => false,
            _ => continue,
        };
        let controllers: Vec<Controller> =
            if unified { vec![] } else { options.split(',').filter_map(Controller::named).collect() };
        if !unified && controllers.is_empty() {
            continue;
        }
        let path = if unified {
            own_path(&|listed| listed.is_empty())
        } else {
            own_path(&|listed| listed.split(',').filter_map(Controller::named).any(|one| controllers.contains(&one)))
        };
        // A mount may show only a part of the hierarchy; what is outside it is of no use here.
        let own = path.and_then(|path| Path::new(&path).strip_prefix(unescape(root)).ok().map(Path::to_owned));
        let own = own.filter(|own| own.components().all(|part| matches!(part, std::path::Component::Normal(_))));
        found.push(Mount { point: unescape(point).into(), unified, controllers, own: own.unwrap_or_default() });
    }
    found
}

/// Blanks and their like are written as `\040` in mountinfo.
fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::new();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let digits = if byte == b'\\' { bytes.get(at + 1..at + 4) } else { None };
        let code = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        let code = code.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        out.push(code.unwrap_or(byte));
        at += if code.is_some() { 4 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The directories from the mount point down to this process's own group.
fn candidates(mount: &Mount) -> Vec<PathBuf> {
    let mut all = vec![mount.point.clone()];
    let mut at = mount.point.clone();
    for part in mount.own.components() {
        at.push(part);
        all.push(at.clone());
    }
    all
}

fn writable(directory: &Path) -> bool {
    let wanted = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    rustix::fs::accessat(rustix::fs::CWD, directory, wanted, rustix::fs::AtFlags::EACCESS).is_ok()
}

fn listed(file: &Path) -> Vec<Controller> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.split_ascii_whitespace().filter_map(Controller::named).collect()
}

/// The controllers of version 2 that can be passed on to groups below `directory`.
fn delegable(directory: &Path) -> Vec<Controller> {
    let passed = listed(&directory.join("cgroup.subtree_control"));
    // The root has no type; another group with processes of its own passes nothing on (the "no internal
    // process constraint").
    let free = !directory.join("cgroup.type").exists()
        || std::fs::read_to_string(directory.join("cgroup.procs")).is_ok_and(|text| text.trim().is_empty());
    if free && writable(&directory.join("cgroup.subtree_control")) {
        listed(&directory.join("cgroup.controllers"))
    } else {
        passed
    }
}

/// The hierarchies in which groups can be made. Changes nothing.
#[must_use]
pub fn find() -> Vec<Hierarchy> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let mut found: Vec<Hierarchy> = Vec::new();
    let mut mounts = mounts(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"));
    // A controller that is bound to version 1 does not show in version 2, so the order decides nothing; but
    // one hierarchy may be mounted twice.
    mounts.sort_by_key(|mount| mount.unified);
    for mount in &mounts {
        let taken: Vec<Controller> = found.iter().flat_map(|one| one.controllers.iter().copied()).collect();
        for base in candidates(mount).into_iter().filter(|base| writable(base)) {
            let mut controllers = if mount.unified { delegable(&base) } else { mount.controllers.clone() };
            controllers.retain(|one| !taken.contains(one));
            controllers.sort();
            if !controllers.is_empty() {
                found.push(Hierarchy { base, unified: mount.unified, controllers });
                break;
            }
        }
    }
    found
}

/// What can be confined here, and the lines about what cannot.
#[must_use]
pub fn probe() -> (CgroupReport, Vec<String>) {
    let found = find();
    let used: Vec<Controller> = found.iter().flat_map(|one| one.controllers.iter().copied()).collect();
    let version = match (found.iter().any(|one| one.unified), found.iter().any(|one| !one.unified)) {
        (true, true) => "mixed",
        (true, false) => "v2",
        (false, true) => "v1",
        (false, false) => "none",
    };
    let mut lacks = Vec::new();
    let missing: Vec<Controller> = Controller::ALL.into_iter().filter(|one| !used.contains(one)).collect();
    if found.is_empty() {
        lacks.push(
            "no cgroup can be made: partitions run unconfined; run as the superuser, or under systemd with Delegate=yes"
                .to_owned(),
        );
    } else {
        lacks.extend(
            missing.iter().map(|one| {
                format!("the cgroup controller {} cannot be used: {}; delegate it", one.as_str(), one.loss())
            }),
        );
        if version == "v1" {
            lacks.push(
                "cgroups are version 1: CPUs cannot be taken out of the host's scheduling domains; boot with cgroup v2"
                    .into(),
            );
        }
    }
    let report = CgroupReport {
        version: version.to_owned(),
        controllers: Controller::ALL.into_iter().filter(|one| used.contains(one)).map(|c| c.as_str().into()).collect(),
        directories: found.iter().map(|one| one.base.display().to_string()).collect(),
    };
    (report, lacks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_mounts_of_both_versions() {
        let mountinfo = "31 24 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
            32 24 0:28 /pod /mnt/with\\040blank rw,nosuid shared:1 - cgroup none rw,memory\n\
            33 24 0:29 / /sys/fs/cgroup/systemd rw - cgroup none rw,name=systemd\n\
            34 24 0:30 / /sys/fs/cgroup/unified rw - cgroup2 none rw\n\
            35 24 0:31 / /proc rw - proc proc rw\nnonsense\n";
        let own = "4:memory:/pod/a\n1:cpu,cpuacct:/b\n0::/c/d\nnonsense\n";
        let found = mounts(mountinfo, own);
        assert_eq!(found.len(), 3);
        assert_eq!(found[0].controllers, [Controller::Cpu]);
        assert_eq!(candidates(&found[0]), [Path::new("/sys/fs/cgroup/cpu"), Path::new("/sys/fs/cgroup/cpu/b")]);
        assert_eq!(found[1].point, Path::new("/mnt/with blank"));
        assert_eq!(found[1].own, Path::new("a"));
        assert!(found[2].unified);
        assert_eq!(candidates(&found[2]).len(), 3);
    }

    #[test]
    fn an_own_group_outside_the_mount_is_of_no_use() {
        let found = mounts("1 1 0:1 /pod /m rw - cgroup none rw,pids\n", "1:pids:/other\n");
        assert_eq!(found[0].own, Path::new(""));
        let found = mounts("1 1 0:1 / /m rw - cgroup2 none rw\n", "0::/../..\n");
        assert_eq!(found[0].own, Path::new(""));
    }

    #[test]
    fn escapes_that_are_none_stay() {
        assert_eq!(unescape(r"a\040b\"), r"a b\");
        assert_eq!(unescape(r"a\9zz"), r"a\9zz");
    }
}
