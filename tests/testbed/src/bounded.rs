//! A command with a deadline, after which nothing of what it started is left.

use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, Signal, WaitOptions};

/// How a bounded command ended, and what it had left behind.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status; `None` if the deadline passed or a signal asked for the end.
    pub status: Option<ExitStatus>,
    /// Processes that it left running, which were killed: process id and name.
    pub left: Vec<(i32, String)>,
}

/// Runs `command` for at most `deadline`. Then, or when it has ended, or when this process gets SIGINT, SIGTERM
/// or SIGHUP, kills whatever is left of it, also what has left its session: this process becomes the parent of
/// all orphans (`prctl(2)`, `PR_SET_CHILD_SUBREAPER`).
///
/// # Errors
/// The operating system's reason why the command could not be started or watched.
pub fn run(command: &mut Command, deadline: Duration) -> std::io::Result<Ended> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let signals = Signals::register()?;
    let mut child = command.spawn()?;
    let status = wait(child.id(), &signals, Instant::now() + deadline);
    // Whatever happened, nothing stays.
    let mut left = Vec::new();
    if !matches!(status, Ok(Some(_))) {
        child.kill()?;
        child.wait()?;
    }
    // Each round kills one generation; the next becomes ours when it has died.
    loop {
        let children = children()?;
        if children.is_empty() {
            break;
        }
        for (pid, name) in children {
            if let Some(pid) = Pid::from_raw(pid) {
                // It may just have ended by itself.
                let _ = rustix::process::kill_process(pid, Signal::KILL);
                let ended = rustix::process::waitpid(Some(pid), WaitOptions::empty());
                if let Ok(Some((_, status))) = ended
                    && status.terminating_signal() == Some(libc::SIGKILL)
                {
                    left.push((pid.as_raw_nonzero().get(), name));
                }
            }
        }
    }
    Ok(Ended { status: status?, left })
}

/// The command's status; `None` at the deadline or when asked to end. Orphans that end meanwhile are reaped, so
/// that nobody who looks for them in `/proc` finds them still.
fn wait(child: u32, signals: &Signals, until: Instant) -> std::io::Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = reap(child)? {
            return Ok(Some(status));
        }
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(|_| std::io::ErrorKind::InvalidInput)?;
        let mut ready = [PollFd::new(&signals.end, PollFlags::IN), PollFd::new(&signals.child, PollFlags::IN)];
        match rustix::event::poll(&mut ready, Some(&timeout)) {
            Ok(0) => return Ok(None),
            Ok(_) if !ready[0].revents().is_empty() => return Ok(None),
            Ok(_) => {
                // Before looking for the ended, so that one that ends after the look wakes the next poll.
                let mut drained = [0; 64];
                rustix::io::read(&signals.child, &mut drained)?;
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Reaps all children that have ended, and gives the status of `main` if it is among them.
fn reap(main: u32) -> std::io::Result<Option<ExitStatus>> {
    while let Some((pid, status)) = rustix::process::wait(WaitOptions::NOHANG)? {
        if u32::try_from(pid.as_raw_nonzero().get()) == Ok(main) {
            return Ok(Some(ExitStatus::from_raw(status.as_raw())));
        }
    }
    Ok(None)
}

/// The signals that matter here, each as something to poll.
struct Signals {
    /// SIGINT, SIGTERM, SIGHUP: readable for good once one has come.
    end: UnixStream,
    /// SIGCHLD.
    child: UnixStream,
}

impl Signals {
    fn register() -> std::io::Result<Self> {
        let (end, ask) = UnixStream::pair()?;
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            signal_hook::low_level::pipe::register(signal, ask.try_clone()?)?;
        }
        let (child, ended) = UnixStream::pair()?;
        signal_hook::low_level::pipe::register(libc::SIGCHLD, ended)?;
        Ok(Self { end, child })
    }
}

/// The children of this process, from `/proc/PID/stat` (`proc_pid_stat(5)`).
fn children() -> std::io::Result<Vec<(i32, String)>> {
    let own = rustix::process::getpid().as_raw_nonzero().get().to_string();
    let mut children = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        // A process may end while this looks at it.
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        if let Some((command, parent)) = parse_stat(&stat)
            && parent == own
        {
            children.push((pid, command.to_owned()));
        }
    }
    Ok(children)
}

/// Name and parent. The name is in parentheses and may hold any character, these too.
fn parse_stat(stat: &str) -> Option<(&str, &str)> {
    let (before, after) = stat.rsplit_once(") ")?;
    let (_, name) = before.split_once(" (")?;
    Some((name, after.split(' ').nth(1)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_hides_no_parent() {
        assert_eq!(parse_stat("12 (a) S 99 (b) R 7 12 12 0"), Some(("a) S 99 (b", "7")));
        assert_eq!(parse_stat("12"), None);
    }
}
