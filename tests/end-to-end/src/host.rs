//! What the host shows of a frame: its processes, and what it left behind.

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal};
use std::path::{Path, PathBuf};

/// Why this machine cannot run a native test; none when it can.
#[must_use]
pub fn lacks_kvm() -> Option<String> {
    match std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        Ok(_) => None,
        Err(error) => Some(format!("/dev/kvm: {error}")),
    }
}

/// Why this machine cannot run a test that needs the superuser; none when it can.
#[must_use]
pub fn lacks_root() -> Option<String> {
    if rustix::process::geteuid().is_root() { None } else { Some("needs the superuser".to_owned()) }
}

/// Sends a signal to a process.
///
/// # Errors
/// When there is no such process.
pub fn signal(pid: u32, signal: Signal) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("no process number")?;
    Ok(rustix::process::kill_process(pid, signal)?)
}

/// The parent of a process.
///
/// # Errors
/// When there is no such process.
pub fn parent_of(pid: u32) -> Result<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = stat.rsplit_once(')').context("an unknown form of /proc/pid/stat")?;
    Ok(rest.split_whitespace().nth(1).context("no parent")?.parse()?)
}

/// Whether a process runs: one of its threads exists and is no zombie. The first of them may be one while others
/// still hold what the process had open.
#[must_use]
pub fn runs(pid: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads.into_iter().any(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
    })
}

/// The processes that have one of `texts` in their command line or environment, or run in a cgroup that
/// names it; without this one.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn processes_of(texts: &[&str]) -> Result<Vec<(u32, String)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let path = entry?.path();
        let Some(pid) = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        let holds = |file: &str| {
            let bytes = std::fs::read(path.join(file)).unwrap_or_default();
            let all = String::from_utf8_lossy(&bytes);
            texts.iter().any(|text| all.contains(text))
        };
        if pid != std::process::id() && runs(pid) && (holds("cmdline") || holds("environ") || holds("cgroup")) {
            let command = std::fs::read(path.join("cmdline")).unwrap_or_default();
            found.push((pid, String::from_utf8_lossy(&command).replace('\0', " ")));
        }
    }
    Ok(found)
}

/// Cgroups below a `bulkhead` group whose path has `text` in it.
#[must_use]
pub fn cgroups_of(text: &str) -> Vec<PathBuf> {
    fn walk(directory: &Path, text: &str, inside: bool, found: &mut Vec<PathBuf>) {
        let Ok(entries) = std::fs::read_dir(directory) else { return };
        for entry in entries.flatten() {
            let path = entry.path();
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let inside = inside || path.file_name().is_some_and(|name| name == "bulkhead");
            if inside && path.to_string_lossy().contains(text) {
                found.push(path.clone());
            }
            // Groups that do not lead to ours are not searched deeper than the hierarchies' own depth.
            if inside || path.components().count() < 7 {
                walk(&path, text, inside, found);
            }
        }
    }
    let mut found = Vec::new();
    walk(Path::new("/sys/fs/cgroup"), text, false, &mut found);
    found
}
