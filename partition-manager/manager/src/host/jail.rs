//! The jail of partitions' processes, as far as this host has one, and as it really is.

use frame::jail::{Inmate, JailReport};
use std::fs::{read_link, read_to_string};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// The kinds of namespaces that a partition's process has for itself (namespaces(7)).
const KINDS: [&str; 6] = ["cgroup", "ipc", "mnt", "net", "pid", "uts"];
/// Capabilities that it takes to build the jail (capabilities(7)): `CAP_SETGID`, `CAP_SETUID`, `CAP_SETPCAP`,
/// `CAP_SYS_CHROOT`, `CAP_SYS_ADMIN`.
const NEEDED: u64 = 1 << 6 | 1 << 7 | 1 << 8 | 1 << 18 | 1 << 21;

/// What becomes of a process: nothing but its filters of system calls where this process may not build more, which
/// is said.
///
/// # Errors
/// Why there is no jail beyond the filters.
pub fn available() -> Result<(), String> {
    let status = read_to_string("/proc/self/status").map_err(|error| format!("/proc/self/status: {error}"))?;
    let effective = hexadecimal(&status, "CapEff:").unwrap_or_default();
    if effective & NEEDED != NEEDED {
        return Err("the manager may not build it: it is not the superuser, or lacks capabilities".to_owned());
    }
    let absent: Vec<&str> =
        KINDS.into_iter().filter(|kind| *kind != "cgroup" && namespace("self", kind).is_none()).collect();
    if absent.is_empty() { Ok(()) } else { Err(format!("this kernel has no namespaces of kind {}", absent.join(", "))) }
}

/// What this host lacks of a jail, a line each.
#[must_use]
pub fn lacks() -> Vec<String> {
    let mut lacks = Vec::new();
    if let Err(reason) = available() {
        lacks.push(format!(
            "partitions' processes have no users, namespaces and empty root of their own, only filters of system calls: {reason}; run the manager as root, with CAP_SYS_ADMIN"
        ));
    }
    let modules = read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
    if !modules.is_empty() && !modules.trim().split(',').any(|module| module == "landlock") {
        lacks.push(
            "no Landlock: one wall of the jail less; boot with `lsm=landlock,...`, Linux 5.13 or later".to_owned(),
        );
    }
    lacks
}

/// The jail of process `pid` now; none when the process is gone or may not be looked at.
#[must_use]
pub fn report(pid: u32) -> Option<JailReport> {
    let status = read_to_string(format!("/proc/{pid}/status")).ok()?;
    let first = |name| field(&status, name)?.split_ascii_whitespace().next()?.parse().ok();
    let mut report = JailReport { uid: first("Uid:")?, gid: first("Gid:")?, ..JailReport::default() };
    report.no_new_privileges = true;
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
        // The first thread's is that of the process. One that ended meanwhile needs no jail.
        let first = task.file_name().to_str() == Some(&pid.to_string());
        let own = if first { None } else { Some(read_to_string(task.path().join("status"))) };
        let status = match &own {
            None => &status,
            Some(Ok(own)) => own,
            Some(Err(_)) => continue,
        };
        let is = |name: &str, value: &str| field(status, name).is_some_and(|found| found.trim() == value);
        report.threads += 1;
        report.filtered += u32::from(is("Seccomp:", "2"));
        report.no_new_privileges &= is("NoNewPrivs:", "1");
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
            report.capabilities |= hexadecimal(status, set).unwrap_or(u64::MAX);
        }
    }
    // This process stays in its own.
    static OWN: LazyLock<Vec<(&str, PathBuf)>> =
        LazyLock::new(|| KINDS.into_iter().filter_map(|kind| Some((kind, namespace("self", kind)?))).collect());
    for (kind, own) in OWN.iter() {
        let other = namespace(&pid.to_string(), kind);
        report.namespaces.insert((*kind).to_owned(), other.is_some_and(|other| other != *own));
    }
    Some(report)
}

/// What is open of the jail of process `pid`, which should be `inmate`, a line each.
#[must_use]
pub fn gaps(pid: u32, inmate: Option<Inmate>) -> Vec<String> {
    report(pid).map_or_else(|| vec!["it cannot be looked at".to_owned()], |report| report.gaps(inmate))
}

fn field<'s>(status: &'s str, name: &str) -> Option<&'s str> {
    status.lines().find_map(|line| line.strip_prefix(name))
}

fn hexadecimal(status: &str, name: &str) -> Option<u64> {
    u64::from_str_radix(field(status, name)?.trim(), 16).ok()
}

fn namespace(process: &str, kind: &str) -> Option<PathBuf> {
    read_link(Path::new("/proc").join(process).join("ns").join(kind)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_without_a_jail_is_told_as_such() {
        let own = report(std::process::id()).unwrap();
        assert_eq!(own.uid, rustix::process::getuid().as_raw());
        assert!(own.namespaces.len() > 3 && own.namespaces.values().all(|own| !own));
        let gaps = own.gaps(Some(Inmate::new("t", 1)));
        assert!(
            gaps.iter().any(|gap| gap.contains("filter")) && gaps.iter().any(|gap| gap.contains("net")),
            "{gaps:?}"
        );
        assert_eq!(super::gaps(u32::MAX, None), ["it cannot be looked at"]);
    }
}
