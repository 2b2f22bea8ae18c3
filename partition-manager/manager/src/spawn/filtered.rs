//! The system call at which a filter ended a process, from the kernel's log.
//!
//! The kernel tells nobody but its log (audit record 1326, `AUDIT_SECCOMP`, Linux, kernel/auditsc.c), and only where
//! it was built with auditing, nobody else takes the records, and there are not too many of them. So it is an extra.

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, read};
use std::time::{Duration, Instant};

/// How long the record is waited for, which a thread of the kernel writes.
const WAIT: Duration = Duration::from_millis(20);
/// Most records of the log that are looked at.
const MOST: usize = 1 << 16;
/// Longest record that is looked at, bytes (Linux, kernel/printk/printk.c, `PRINTK_MESSAGE_MAX`).
const LONGEST: usize = 2048;

/// Of which call process `pid`, which a filter ended, died: `, at system call N of its thread T`, or nothing where the
/// host does not say.
#[must_use]
pub fn at_call(pid: u32) -> String {
    let Ok(log) = open("/dev/kmsg", OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()) else {
        return String::new();
    };
    let until = Instant::now() + WAIT;
    let (mut buffer, mut said) = ([0; LONGEST], String::new());
    for _ in 0..MOST {
        match read(&log, &mut buffer) {
            Ok(length) => {
                let record = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
                // The last one is meant: numbers of processes come again.
                said = parse(&record, pid).unwrap_or(said);
            }
            // Records that were overwritten meanwhile.
            Err(Errno::PIPE | Errno::INTR) => {}
            Err(Errno::AGAIN) if said.is_empty() => {
                let left = rustix::time::Timespec::try_from(until.saturating_duration_since(Instant::now()));
                let Ok(left) = left else { break };
                if !poll(&mut [PollFd::new(&log, PollFlags::IN)], Some(&left)).is_ok_and(|ready| ready > 0) {
                    break;
                }
            }
            Err(_) => break,
        }
    }
    said
}

fn parse(record: &str, pid: u32) -> Option<String> {
    let (_, fields) = record.split_once("type=1326 ")?;
    let field = |name: &str| fields.split_ascii_whitespace().find_map(|field| field.strip_prefix(name));
    if field("pid=")?.parse() != Ok(pid) || field("sig=") != Some("31") {
        return None;
    }
    let call: u64 = field("syscall=")?.parse().ok()?;
    // Names of threads are what their process says: only what its own are called like is repeated.
    let plain = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let thread = field("comm=").and_then(|name| name.strip_prefix('"')?.strip_suffix('"')).filter(|name| plain(name));
    Some(match thread {
        Some(thread) => format!(", at system call {call} of its thread {thread}"),
        None => format!(", at system call {call}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: &str = "5,91,733,-;audit: type=1326 audit(1795.217:18): auid=4 uid=0 gid=0 ses=4 pid=27394 comm=\"vcpu0\" exe=\"/usr/bin/partition\" sig=31 arch=c000003e syscall=41 compat=0 ip=0x7f code=0x80000000\n";

    #[test]
    fn a_record_is_read() {
        let said = ", at system call 41 of its thread vcpu0";
        assert_eq!(parse(RECORD, 27394).as_deref(), Some(said));
        assert_eq!(parse(RECORD, 27395), None);
        assert_eq!(parse(&RECORD.replace("sig=31", "sig=0"), 27394), None);
        assert_eq!(parse(&RECORD.replace("syscall=41", "syscall=x"), 27394), None);
        let odd = RECORD.replace("vcpu0", "a\u{1b}b");
        assert_eq!(parse(&odd, 27394).as_deref(), Some(", at system call 41"));
        assert_eq!(parse("5,91,733,-;type=1326 pid=27394", 27394), None);
    }
}
