//! What the kernel says of the virtual processors' threads (proc(5), `/proc/pid/task/tid/schedstat` and `stat`).

use super::clock::Sight;
use rustix::fs::{Dir, Mode, OFlags, openat};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

/// Most of a file that is read, bytes: the state in `stat` is behind a name of at most 15.
const LONGEST: usize = 256;
/// The same of `status`, whose line of numbers is among the first.
const LONGEST_STATUS: usize = 1024;

/// The files of one thread.
#[derive(Debug)]
struct Task {
    schedstat: File,
    stat: File,
}

/// The files of all.
#[derive(Debug)]
pub struct Tasks(Vec<Option<Task>>);

impl Tasks {
    /// The threads with these identifiers, below the process's own directory `task`, which may be that of another
    /// namespace of processes. Where a kernel does not count how long threads wait, nothing is known of them.
    #[must_use]
    pub fn open(directory: &OwnedFd, threads: &[i32]) -> Self {
        let open = |thread: i32, file: &str| {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            openat(directory, format!("{thread}/{file}"), flags, Mode::empty()).map(File::from).ok()
        };
        let there = || Dir::read_from(directory).ok().into_iter().flatten().filter_map(Result::ok);
        let named = || there().filter_map(|entry| entry.file_name().to_str().ok()?.parse().ok());
        let names: BTreeMap<i32, i32> = named()
            .filter_map(|name: i32| {
                let mut buffer = [0; LONGEST_STATUS];
                Some((inner(start(&open(name, "status")?, &mut buffer)?)?, name))
            })
            .collect();
        let task = |thread: &i32| {
            let name = *names.get(thread)?;
            Some(Task { schedstat: open(name, "schedstat")?, stat: open(name, "stat")? })
        };
        Self(threads.iter().map(task).collect())
    }

    /// What is said of each now.
    #[must_use]
    pub fn look(&self) -> Vec<Option<Sight>> {
        self.0.iter().map(|task| task.as_ref().and_then(Task::look)).collect()
    }
}

impl Task {
    fn look(&self) -> Option<Sight> {
        let mut buffer = [0; LONGEST];
        let (ran, waited) = times(start(&self.schedstat, &mut buffer)?)?;
        let runnable = is_runnable(start(&self.stat, &mut buffer)?)?;
        Some(Sight { ran, waited, runnable })
    }
}

fn start<'b>(file: &File, buffer: &'b mut [u8]) -> Option<&'b str> {
    let length = file.read_at(buffer, 0).ok()?;
    let bytes = buffer.get(..length)?;
    // Names are ASCII here; the rest always is.
    std::str::from_utf8(bytes).ok()
}

/// The number of a thread in the innermost namespace, where it runs itself (proc(5), `NSpid` of `status`).
fn inner(status: &str) -> Option<i32> {
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    numbers.split_ascii_whitespace().next_back()?.parse().ok()
}

/// Nanoseconds on a CPU and waiting for one.
fn times(schedstat: &str) -> Option<(u64, u64)> {
    let mut numbers = schedstat.split_ascii_whitespace().map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

fn is_runnable(stat: &str) -> Option<bool> {
    let (_, behind) = stat.rsplit_once(") ")?;
    Some(behind.starts_with('R'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_writes() {
        assert_eq!(times("12 345 6\n"), Some((12, 345)));
        assert_eq!(times("12\n"), None);
        assert_eq!(times("a 1 2"), None);
        assert_eq!(is_runnable("7 (vcpu) R) S 1 2"), Some(false));
        assert_eq!(is_runnable("7 (vcpu0) R 1 2"), Some(true));
        assert_eq!(is_runnable("7 vcpu0 R"), None);
    }

    #[test]
    fn the_innermost_number_counts() {
        assert_eq!(inner("Name:\ta\nNSpid:\t812\t40\t3\nNSpgid:\t1\n"), Some(3));
        assert_eq!(inner("Name:\ta\nNSpid:\t812\n"), Some(812));
        assert_eq!(inner("Name:\ta\n"), None);
    }

    #[test]
    fn a_thread_that_is_gone_is_not_known() {
        let directory = OwnedFd::from(File::open("/proc/self/task").unwrap());
        let own = rustix::thread::gettid().as_raw_nonzero().get();
        let gone = std::thread::spawn(|| rustix::thread::gettid().as_raw_nonzero().get()).join().unwrap();
        let sights = Tasks::open(&directory, &[own, gone]).look();
        // This thread runs while it looks; not every kernel counts.
        assert!(sights[0].is_none_or(|sight| sight.runnable && sight.ran > 0));
        assert_eq!(sights[1], None);
    }
}
