//! The empty root: a namespace of mounts in which there is nothing, and nothing can be made (mount_namespaces(7),
//! pivot_root(2)).

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

/// The directory at which the empty root is put together; every host that has processes has it.
const PLACE: &str = "/proc";
/// The empty root: nothing can be made there, whoever might.
const EMPTY: &std::ffi::CStr = c"mode=0555,nr_blocks=1,nr_inodes=2";

/// The empty root cannot be made or entered.
#[derive(Debug, thiserror::Error)]
#[error("{what} failed")]
pub struct EmptyError {
    what: &'static str,
    #[source]
    source: io::Error,
}

fn failed<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> EmptyError {
    move |source| EmptyError { what, source: source.into() }
}

/// Leaves the host's files for an empty root that nobody else is in. The calling thread should be alone, or have a root
/// of its own from then on.
///
/// # Errors
/// [`EmptyError`]; the thread is half-way then.
pub fn enter() -> Result<(), EmptyError> {
    unshare()?;
    hollow()
}

/// Makes an empty root for somebody else, who [joins](join) it. To leave the old root behind takes long, since the
/// kernel waits until nobody looks at it. The calling thread has moved there, and is of no more use.
///
/// # Errors
/// [`EmptyError`].
pub fn ahead() -> Result<OwnedFd, EmptyError> {
    unshare()?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let own = "/proc/thread-self/ns/mnt";
    let namespace = rustix::fs::open(own, flags, Mode::empty()).map_err(failed("opening a namespace of mounts"))?;
    hollow()?;
    Ok(namespace)
}

/// Moves the calling thread, which is the only one of its process, to the empty root that was made ahead.
///
/// # Errors
/// [`EmptyError`]; nothing has changed then.
pub fn join(namespace: BorrowedFd<'_>) -> Result<(), EmptyError> {
    move_into_link_name_space(namespace, Some(LinkNameSpaceType::Mount)).map_err(failed("joining the empty root"))
}

fn unshare() -> Result<(), EmptyError> {
    // SAFETY: in the worst case nothing is changed: whoever calls this has no path or directory in use.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
        return Err(failed("a namespace of mounts")(io::Error::last_os_error()));
    }
    Ok(())
}

fn hollow() -> Result<(), EmptyError> {
    // Nothing that is mounted from here on is seen outside.
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).map_err(failed("keeping mounts private"))?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("none", PLACE, "tmpfs", flags, EMPTY).map_err(failed("mounting the empty root"))?;
    rustix::process::chdir(PLACE).map_err(failed("going to the empty root"))?;
    // The old root comes to lie on the new one (pivot_root(2)), and is taken off.
    match rustix::process::pivot_root(".", ".") {
        Ok(()) => rustix::mount::unmount(".", UnmountFlags::DETACH).map_err(failed("leaving the old root"))?,
        // The first root file system of a host that runs from its initial RAM disk cannot be left (pivot_root(2),
        // notes): the empty one is put on top of it.
        Err(rustix::io::Errno::INVAL) => {
            rustix::mount::mount_move(".", "/").map_err(failed("moving the empty root"))?;
            rustix::process::chroot(".").map_err(failed("entering the empty root"))?;
        }
        Err(errno) => return Err(failed("entering the empty root")(errno)),
    }
    rustix::process::chdir("/").map_err(failed("entering the empty root"))
}
