//! The last resort: ending every process of a frame that nobody brings down in order any more.

use crate::failure::say;
use frame::root::Root;
use os::process::{Handle, Identity};
use rustix::process::{Signal, WaitOptions, wait};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long processes may take to end after `SIGKILL`.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often new orphans are looked for.
const MOST_ROUNDS: usize = 16;

/// Ends every process that descends from this one or holds a socket of the frame, and removes the groups
/// that confined them. Those in `spared` are no business of the frame; those that end by themselves within
/// `grace` are let alone. Gives the number of those that it ended.
pub fn end_all(root: &Root, spared: &BTreeSet<u32>, grace: Duration) -> usize {
    let patient = Instant::now() + grace;
    let deadline = Instant::now() + PATIENCE;
    let mut ended = 0;
    let mut groups = BTreeSet::new();
    // Whoever loses its parent becomes a child of this process: each round may find new ones.
    for _ in 0..MOST_ROUNDS {
        // Zombies are waited for, so that they are not found again.
        reap();
        let mut found = children().into_iter().chain(holders(root)).collect::<BTreeSet<u32>>();
        found.retain(|pid| !spared.contains(pid));
        let handles: Vec<Handle> = found
            .into_iter()
            .filter_map(|pid| end(pid, &mut groups, patient.saturating_duration_since(Instant::now())))
            .collect();
        if handles.is_empty() {
            break;
        }
        for handle in &handles {
            let left = deadline.saturating_duration_since(Instant::now());
            if handle.wait(left).unwrap_or(false) {
                ended += 1;
            } else {
                say!("error: a process of the frame does not end; the host holds it");
            }
        }
        if Instant::now() > deadline {
            break;
        }
    }
    reap();
    for group in groups {
        remove_group(&group);
    }
    ended
}

/// Waits for every child that has ended.
fn reap() {
    while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
}

/// Ends one process; none when it is gone, or goes by itself within `grace`.
fn end(pid: u32, groups: &mut BTreeSet<PathBuf>, grace: Duration) -> Option<Handle> {
    let handle = Identity::of(pid).ok()?.open().ok()??;
    if handle.wait(grace).unwrap_or(false) {
        return None;
    }
    groups.extend(groups_of(pid));
    handle.signal(Signal::KILL).ok()?;
    Some(handle)
}

/// Every process and its parent.
fn processes() -> Vec<(u32, u32)> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| Some((pid, parent(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?))).collect()
}

/// The parent of a process by its `/proc/pid/stat` (`proc(5)`, field 4).
fn parent(stat: &str) -> Option<u32> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// The processes that this one is the nearest ancestor of.
pub fn children() -> BTreeSet<u32> {
    let own = std::process::id();
    processes().into_iter().filter(|(_, parent)| *parent == own).map(|(pid, _)| pid).collect()
}

/// The processes that hold a socket below the frame's run directory.
fn holders(root: &Root) -> Vec<u32> {
    let sockets = crate::sockets::held_below(&root.run);
    if sockets.is_empty() {
        return Vec::new();
    }
    let own = std::process::id();
    let holds = |pid: u32| {
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        descriptors
            .filter_map(|descriptor| std::fs::read_link(descriptor.path()).ok())
            .any(|target| target.to_str().is_some_and(|target| sockets.contains(target)))
    };
    processes().into_iter().map(|(pid, _)| pid).filter(|pid| *pid != own && holds(*pid)).collect()
}

/// The groups that confine a process and were made for it: those below a group named `bulkhead`.
fn groups_of(pid: u32) -> Vec<PathBuf> {
    let memberships = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    groups(&memberships, &mounts)
}

/// Joins `/proc/pid/cgroup` and `/proc/self/mounts` (`cgroups(7)`, "/proc files").
fn groups(memberships: &str, mounts: &str) -> Vec<PathBuf> {
    let mounted = |controllers: &str| {
        mounts.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            let [_, directory, kind, options, ..] = fields[..] else { return None };
            let fits = match (kind, controllers) {
                ("cgroup2", "") => true,
                ("cgroup", "") => false,
                ("cgroup", controllers) => controllers.split(',').all(|one| options.split(',').any(|has| has == one)),
                _ => false,
            };
            fits.then(|| PathBuf::from(directory))
        })
    };
    memberships
        .lines()
        .filter_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?);
            let path = Path::new(path.strip_prefix('/')?);
            path.iter().any(|part| part == "bulkhead").then(|| mounted(controllers)).flatten().map(|at| at.join(path))
        })
        .collect()
}

/// Removes a group and those around it that are empty, up to the one named `bulkhead`.
fn remove_group(group: &Path) {
    for around in group.ancestors() {
        let ours = around.iter().any(|part| part == "bulkhead");
        // One that is not empty has another user.
        if !ours || std::fs::remove_dir(around).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_are_found_behind_any_name() {
        assert_eq!(parent("12 (a) b) S 7 12 12 0"), Some(7));
        assert_eq!(parent("nonsense"), None);
        let own = (std::process::id(), std::os::unix::process::parent_id());
        assert!(processes().contains(&own));
    }

    #[test]
    fn holders_are_found_and_strangers_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::under(directory.path());
        std::fs::create_dir_all(&root.run).unwrap();
        let listener = std::os::unix::net::UnixListener::bind(root.manager_socket()).unwrap();
        // This process holds it, and does not count itself.
        assert!(holders(&root).is_empty());
        let child = std::process::Command::new("sleep").arg("1000").stdin(std::os::fd::OwnedFd::from(listener)).spawn();
        let mut child = child.unwrap();
        let found = holders(&root);
        let other = holders(&Root::under(Path::new("/nowhere")));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(found, [child.id()]);
        assert!(other.is_empty());
    }

    #[test]
    fn only_own_groups_are_named() {
        let mounts = "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n\
            cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\n";
        let memberships =
            "4:cpu,cpuacct:/bulkhead/t/a\n3:memory:/bulkhead/t/a\n2:cpu,cpuacct:/user\n0::/x/bulkhead/t/a\n";
        assert_eq!(
            groups(memberships, mounts),
            [
                PathBuf::from("/sys/fs/cgroup/cpu,cpuacct/bulkhead/t/a"),
                PathBuf::from("/sys/fs/cgroup/unified/x/bulkhead/t/a")
            ]
        );
    }
}
