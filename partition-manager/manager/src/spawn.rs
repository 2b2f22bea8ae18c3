//! Starting the process of a partition, and how it ended.

mod child;
mod filtered;
mod spare;

pub use child::Child;
pub use filtered::at_call;
use frame::jail::{ARGUMENT, Inmate, ROOT};
use frame::lifecycle::FILTERED;
use rustix::fs::{Mode, OFlags};
pub use spare::{Places, Spare};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Number of the descriptor on which a partition finds its listening socket.
pub const LISTENER: i32 = 3;
/// Number of the descriptor by which a partition holds the frame's claim on its CPUs.
const CLAIM: i32 = 4;

/// The namespaces that an inmate begins in; it goes to that of mounts itself, since its program is in the host's
/// (namespaces(7)).
const NAMESPACES: i32 = libc::CLONE_NEWPID | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;

/// Keeps descriptors 3 to 5 of this process taken, so that no pipe or file that another thread just opens has
/// a number which a child puts its own on.
#[derive(Debug)]
pub struct Seat {
    _descriptors: Vec<OwnedFd>,
}

impl Seat {
    /// Takes the seat. To be called before anything else is opened.
    ///
    /// # Errors
    /// When the host gives no descriptor.
    pub fn take() -> io::Result<Self> {
        let mut descriptors = Vec::new();
        loop {
            // The kernel gives the lowest number that is free; what came from the parent stays open as it is.
            let idle = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)?;
            if idle.as_raw_fd() > ROOT {
                return Ok(Self { _descriptors: descriptors });
            }
            descriptors.push(idle);
        }
    }
}

/// What makes a process an inmate.
#[derive(Debug)]
pub struct Jail {
    /// Who it is to be.
    pub inmate: Inmate,
    /// Namespaces that nobody else was ever in; without them, some are made as the process begins.
    pub places: Option<Places>,
}

/// Starts `binary` as the process that ps shows as `title`: a session of its own, nothing but `listener` and
/// `claim` inherited, in the groups behind `doors` from its first instruction on. In a `jail` it is in namespaces of
/// its own and is told to shut itself in; see [`crate::host::jail::gaps`].
///
/// # Errors
/// The error of the system call that failed; no process is left.
pub fn spawn(
    binary: &Path,
    title: &str,
    listener: &OwnedFd,
    claim: Option<&OwnedFd>,
    doors: &[OwnedFd],
    jail: Option<&Jail>,
) -> io::Result<Child> {
    let program = CString::new(binary.as_os_str().as_bytes())?;
    let mut arguments = vec![CString::new(title)?];
    let places = jail.and_then(|jail| jail.places.as_ref());
    let namespaces = match jail {
        Some(jail) => {
            arguments.extend([CString::new(ARGUMENT)?, CString::new(jail.inmate.to_string())?]);
            arguments.extend(places.map(|_| CString::new(ROOT.to_string())).transpose()?);
            if places.is_some() { NAMESPACES & !libc::CLONE_NEWNET } else { NAMESPACES }
        }
        None => 0,
    };
    // What it has to say it says over its socket and in its record, both of which are bounded: the log of the
    // daemons is not its to fill.
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let prepare = || {
        let check = |outcome: i64| if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
        // SAFETY: system calls on numbers and on memory that is there; nothing is allocated.
        check(unsafe { libc::setsid() }.into())?;
        for door in doors {
            // SAFETY: as above. A process that writes 0 names itself.
            check(unsafe { libc::write(door.as_raw_fd(), b"0".as_ptr().cast(), 1) } as i64)?;
        }
        if let Some(places) = places {
            // SAFETY: as above.
            check(unsafe { libc::setns(places.network.as_raw_fd(), libc::CLONE_NEWNET) }.into())?;
        }
        // Behind the doors, so that its own groups are the root of what it could see. Kernels may lack the kind.
        // SAFETY: as above.
        if jail.is_some() && unsafe { libc::unshare(libc::CLONE_NEWCGROUP) } != 0 {
            let error = io::Error::last_os_error();
            if error.raw_os_error() != Some(libc::EINVAL) {
                return Err(error);
            }
        }
        let put = |descriptor: &OwnedFd, place: i32| {
            let descriptor = descriptor.as_raw_fd();
            if descriptor == place {
                // SAFETY: as above.
                return check(unsafe { libc::fcntl(descriptor, libc::F_SETFD, 0) }.into());
            }
            // SAFETY: as above. The seat is taken, so nothing that is needed is closed by it.
            check(unsafe { libc::dup2(descriptor, place) }.into())
        };
        put(listener, LISTENER)?;
        let mut kept = LISTENER;
        for (descriptor, place) in [(claim, CLAIM), (places.map(|places| &places.root), ROOT)] {
            if let Some(descriptor) = descriptor {
                put(descriptor, place)?;
                kept = place;
            }
        }
        // Whatever was opened without that flag is closed too. Kernels before 5.11 do not have the call;
        // all of this process's own descriptors have the flag anyway.
        // SAFETY: as above.
        unsafe { libc::syscall(libc::SYS_close_range, kept + 1, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
        Ok(())
    };
    child::start(&program, &arguments, namespaces, null.as_fd(), &prepare)
}

/// How a process ended, from the status that `waitpid(2)` gives.
#[must_use]
pub fn describe(status: i32) -> String {
    if libc::WIFSIGNALED(status) {
        let signal = libc::WTERMSIG(status);
        if signal == libc::SIGSYS {
            return FILTERED.to_owned();
        }
        let name = match signal {
            libc::SIGKILL => " (SIGKILL)",
            libc::SIGSEGV => " (SIGSEGV)",
            libc::SIGABRT => " (SIGABRT)",
            libc::SIGBUS => " (SIGBUS)",
            libc::SIGILL => " (SIGILL)",
            libc::SIGTERM => " (SIGTERM)",
            libc::SIGINT => " (SIGINT)",
            _ => "",
        };
        format!("killed by signal {signal}{name}")
    } else {
        format!("exited with status {}", libc::WEXITSTATUS(status))
    }
}

/// How a process ended that is not this one's child, as far as the host says.
#[must_use]
pub fn fate(pidfd: &OwnedFd, pid: u32) -> String {
    let status = from_pidfd(pidfd).or_else(|| from_zombie(pid)).or_else(|| from_pidfd(pidfd));
    status.map_or_else(|| "it vanished, cause unknown".to_owned(), describe)
}

/// `struct pidfd_info` (Linux, include/uapi/linux/pidfd.h), as far as the first version of it goes.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    identities: [u32; 11],
    exit_code: i32,
}

/// `PIDFD_INFO_EXIT`: the exit code, once the process has been waited for (Linux 6.15).
const PIDFD_INFO_EXIT: u64 = 1 << 3;
/// `PIDFD_GET_INFO`: `_IOWR(0xFF, 11, struct pidfd_info)`.
const PIDFD_GET_INFO: u64 = (3 << 30) | ((size_of::<PidfdInfo>() as u64) << 16) | (0xff << 8) | 11;

fn from_pidfd(pidfd: &OwnedFd) -> Option<i32> {
    let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..PidfdInfo::default() };
    // SAFETY: the request says how large the structure is that the kernel writes to.
    let outcome = unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO, &raw mut info) };
    (outcome == 0 && info.mask & PIDFD_INFO_EXIT != 0).then_some(info.exit_code)
}

/// The exit code of a process that nobody has waited for yet (`proc_pid_stat(5)`, field 52).
fn from_zombie(pid: u32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    if fields.next()? != "Z" {
        return None;
    }
    // The first field after the name is number 3.
    fields.nth(48)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use os::process::Handle;
    use std::process::Command;
    use std::time::Duration;

    #[test]
    fn ends_are_told() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let handle = Handle::open(child.id()).unwrap().unwrap();
        assert!(handle.kill(Duration::from_secs(10)).unwrap());
        // Not waited for yet: the zombie says it.
        assert_eq!(fate(handle.descriptor(), child.id()), "killed by signal 9 (SIGKILL)");
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(describe(child.wait().unwrap().into_raw()), "killed by signal 9 (SIGKILL)");
        let status = Command::new("sh").args(["-c", "exit 3"]).status().unwrap();
        assert_eq!(describe(status.into_raw()), "exited with status 3");
    }

    #[test]
    fn a_child_inherits_its_socket_and_nothing_else() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let listener = os::packet::listen(&directory.path().join("s")).unwrap();
        let door = directory.path().join("door");
        let doors = [OwnedFd::from(std::fs::File::create(&door).unwrap())];
        let script = directory.path().join("script");
        let text = "#!/bin/sh\ncd ${0%/*}\nfor f in /proc/$$/fd/*; do [ -e $f ] && echo ${f##*/}; done >fds\nexport -p >environment\n";
        std::fs::write(&script, text).unwrap();
        std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
        let mut child = spawn(&script, "partition: t", &listener, None, &doors, None).unwrap();
        assert!(child.wait().unwrap().unwrap().success());
        assert_eq!(std::fs::read(&door).unwrap(), b"0");
        let fds = std::fs::read_to_string(directory.path().join("fds")).unwrap();
        let fds: Vec<u32> = fds.lines().map(|line| line.parse().unwrap()).collect();
        // The shell keeps descriptors of its own from 10 on, and the one it listed the directory by is closed.
        assert_eq!(fds.into_iter().filter(|&fd| fd < 10).collect::<Vec<_>>(), [0, 1, 2, 3]);
        let environment = std::fs::read_to_string(directory.path().join("environment")).unwrap();
        assert!(!environment.contains("HOME="), "{environment}");
    }

    #[test]
    fn a_child_that_cannot_be_started_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let listener = os::packet::listen(&directory.path().join("s")).unwrap();
        assert!(spawn(Path::new("/nowhere/partition"), "t", &listener, None, &[], None).is_err());
        let closed = [OwnedFd::from(std::fs::File::open("/dev/null").unwrap())];
        assert!(spawn(Path::new("/bin/sh"), "t", &listener, None, &closed, None).is_err());
    }
}
