//! The jail's outer wall: what the whole process is left of the host.
//!
//! The manager starts the program in namespaces of its own; the program itself enters an empty root and gives up
//! everything that it was before it looks at anything that it is given. The manager looks afterwards whether it did.

use frame::jail::Inmate;
use rustix::fs::Gid;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::process::{DumpableBehavior, Resource, Rlimit, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};
use std::io;

/// Most descriptors: more than any partition has.
const DESCRIPTORS: u64 = 4096;
/// The directory at which the empty root is put together; every host that has processes has it.
const PLACE: &str = "/proc";
/// The empty root: nothing can be made there, whoever might.
const EMPTY: &std::ffi::CStr = c"mode=0555,nr_blocks=1,nr_inodes=2";

/// The wall cannot be built.
#[derive(Debug, thiserror::Error)]
#[error("the jail cannot be entered: {what} failed")]
pub struct WallError {
    what: &'static str,
    #[source]
    source: io::Error,
}

fn failed<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> WallError {
    move |source| WallError { what, source: source.into() }
}

/// Makes the process, of one thread so far, `inmate` in an empty root, without any privilege, for good.
///
/// # Errors
/// [`WallError`]; the process is half-way then, and must end.
pub fn enter(inmate: Inmate) -> Result<(), WallError> {
    limit(Resource::Core, 0).map_err(failed("setting the limit of core dumps"))?;
    limit(Resource::Nofile, DESCRIPTORS).map_err(failed("setting the limit of descriptors"))?;
    empty_root()?;
    give_up(inmate)
}

/// Lowers a limit; one that is lower stays.
fn limit(resource: Resource, most: u64) -> rustix::io::Result<()> {
    let before = rustix::process::getrlimit(resource);
    let least = |limit: Option<u64>| Some(limit.map_or(most, |limit| limit.min(most)));
    rustix::process::setrlimit(resource, Rlimit { current: least(before.current), maximum: least(before.maximum) })
}

/// Leaves the host's files: an empty file system that nobody writes to is all that there is.
fn empty_root() -> Result<(), WallError> {
    // SAFETY: the process has one thread, and no path or directory is in use. In the worst case nothing is changed.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
        return Err(failed("a namespace of mounts")(io::Error::last_os_error()));
    }
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

/// Gives up user, groups and every capability, also those of programs that it might run (capabilities(7)).
fn give_up(inmate: Inmate) -> Result<(), WallError> {
    for bit in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // The kernel has no more of them.
            Err(rustix::io::Errno::INVAL) => break,
            Err(errno) => return Err(failed("giving up capabilities for good")(errno)),
        }
    }
    let (user, group) = (Uid::from_raw(inmate.id), Gid::from_raw(inmate.id));
    rustix::thread::set_thread_groups(&[]).map_err(failed("leaving all groups"))?;
    rustix::thread::set_thread_res_gid(group, group, group).map_err(failed("changing the group"))?;
    rustix::thread::set_thread_res_uid(user, user, user).map_err(failed("changing the user"))?;
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    rustix::thread::set_capabilities(None, sets).map_err(failed("giving up capabilities"))?;
    rustix::thread::set_no_new_privs(true).map_err(failed("refusing new privileges"))?;
    let behavior = DumpableBehavior::NotDumpable;
    rustix::process::set_dumpable_behavior(behavior).map_err(failed("refusing to be looked into"))
}
