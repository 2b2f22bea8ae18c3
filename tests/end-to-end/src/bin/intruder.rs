//! A partition's program that was taken over completely: it stands where `partition` should, shuts itself in as that
//! does, and then tries to get out. What worked it says to its manager, as the reason why it cannot be launched.
//!
//! Each attempt is made twice, in a process of its own: behind the outer wall alone, and behind the filter of a
//! thread's system calls too. `intruder --free` makes the attempts without a jail and prints what worked: so that it
//! is known that they can.

use anyhow::{Result, bail};
use frame::jail::ARGUMENT;
use frame::wire::{Packet, Report, Request};
use os::packet;
use partition::jail::{self, Class, landlock, wall};
use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{FromRawFd, OwnedFd};

/// Something that a jailed process must not achieve: true when it did.
type Attempt = (&'static str, fn() -> bool);

/// Names of processes that are tried.
const PROCESSES: std::ops::Range<i32> = 2..40_000;

const ATTEMPTS: &[Attempt] = &[
    ("read /etc/passwd", || File::open("/etc/passwd").is_ok()),
    ("open /dev/null", || File::open("/dev/null").is_ok()),
    ("see /proc", || std::fs::read_dir("/proc/self/task").is_ok()),
    ("make a directory", || std::fs::create_dir("/tmp/bulkhead-intruder").is_ok()),
    ("make a file", || File::create("/tmp/bulkhead-intruder").is_ok()),
    ("signal a process", || signalled()),
    ("trace a process", || traced()),
    ("mount", || mounted()),
    ("change its root", || system(libc::SYS_chroot, [c"/".as_ptr() as u64, 0, 0, 0])),
    ("be root", || system(libc::SYS_setresuid, [0, 0, 0, 0])),
    ("a namespace of mounts", || system(libc::SYS_unshare, [libc::CLONE_NEWNS as u64, 0, 0, 0])),
    ("a namespace of users", || system(libc::SYS_unshare, [libc::CLONE_NEWUSER as u64, 0, 0, 0])),
    ("reach a network", || reached()),
    ("a raw socket", || system(libc::SYS_socket, [libc::AF_PACKET as u64, libc::SOCK_RAW as u64, 0, 0])),
    ("name the host", || system(libc::SYS_sethostname, [c"".as_ptr() as u64, 0, 0, 0])),
    ("a key ring", || system(libc::SYS_keyctl, [0, (-3_i64).cast_unsigned(), 1, 0])),
    ("watch page faults", || system(libc::SYS_userfaultfd, [0, 0, 0, 0])),
    ("count events of the processor", || counted()),
];

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["--free"] => {
            println!("{}", tried(false).join(", "));
            Ok(())
        }
        [argument, sentence @ ..] if *argument == ARGUMENT => {
            wall::enter(sentence)?;
            let (wall, filter) = (tried(false), tried(true));
            say(&format!(
                "{} attempts; behind the wall: [{}]; behind the filter: [{}]",
                ATTEMPTS.len(),
                wall.join(", "),
                filter.join(", ")
            ))
        }
        other => bail!("started with {other:?}"),
    }
}

/// What of the attempts works.
fn tried(filtered: bool) -> Vec<&'static str> {
    let works = |attempt: &&Attempt| {
        // An attempt that cannot be kept from the host is not made, and counts as one that worked.
        // SAFETY: this process has one thread; the child tries, and ends.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let jailed = if filtered { jail::confine(Class::Device).is_ok() } else { shut() };
            let status = i32::from(jailed && !(attempt.1)());
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(status) };
        }
        let mut status = 0;
        // SAFETY: the status is this function's. A child that could not be made or waited for counts as one that
        // achieved what it wanted: its status stays 0.
        unsafe { libc::waitpid(child, &raw mut status, 0) };
        status == 0
    };
    ATTEMPTS.iter().filter(works).map(|attempt| attempt.0).collect()
}

/// What every thread of a partition does besides its filter; outside of a jail, only keeps what the attempts do from
/// the host.
fn shut() -> bool {
    if rustix::process::getuid().is_root() {
        // SAFETY: a child with one thread.
        let own = unsafe { libc::unshare(libc::CLONE_NEWNS | libc::CLONE_NEWUTS) } == 0;
        let private = own && mount(c"/", libc::MS_REC | libc::MS_PRIVATE, None);
        return private && mount(c"/tmp", 0, Some(c"tmpfs"));
    }
    landlock::shut().is_ok()
}

fn system(number: libc::c_long, arguments: [u64; 4]) -> bool {
    let [a, b, c, d] = arguments;
    // SAFETY: numbers, and addresses of constants.
    unsafe { libc::syscall(number, a, b, c, d) >= 0 }
}

fn mount(target: &CStr, flags: libc::c_ulong, kind: Option<&CStr>) -> bool {
    let kind = kind.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: strings that end in nothing.
    unsafe { libc::mount(c"none".as_ptr(), target.as_ptr(), kind, flags, std::ptr::null()) == 0 }
}

fn mounted() -> bool {
    mount(c"/", 0, Some(c"tmpfs"))
}

fn signalled() -> bool {
    // SAFETY: signal 0 only asks. Its own processes are not meant.
    let own = unsafe { libc::getpid() };
    // SAFETY: as above.
    PROCESSES.chain([1]).filter(|pid| *pid != own).any(|pid| pid != 1 && unsafe { libc::kill(pid, 0) } == 0)
}

fn traced() -> bool {
    // SAFETY: asks for a number.
    let parent = unsafe { libc::getppid() };
    // SAFETY: nothing of this process is touched; who is seized runs on.
    unsafe { libc::ptrace(libc::PTRACE_SEIZE, parent, 0, 0) == 0 }
}

fn reached() -> bool {
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
    match std::net::TcpStream::connect(address) {
        Ok(_) => true,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionRefused,
    }
}

fn counted() -> bool {
    // `struct perf_event_attr`, first version: a software clock, of this process.
    let mut attributes = [0u32; 16];
    attributes[0] = 1;
    attributes[1] = 64;
    let own = [attributes.as_ptr() as u64, 0, u64::MAX, u64::MAX];
    system(libc::SYS_perf_event_open, own)
}

/// Answers the launch.
fn say(reason: &str) -> Result<()> {
    // SAFETY: the manager gave the socket as this number, to nobody else.
    let listener = unsafe { OwnedFd::from_raw_fd(3) };
    let socket = packet::accept(&listener)?;
    loop {
        let (packet, _) = packet::receive::<Request>(&socket)?;
        if matches!(packet.message, Request::Launch(_)) {
            let failed = Report::Failed { reason: reason.to_owned() };
            packet::send(&socket, &Packet::new(packet.epoch, failed), &[])?;
            // Until the manager has read it.
            let _ = packet::receive::<Request>(&socket);
            return Ok(());
        }
    }
}
