//! The jail's outer wall: what the whole process is left of the host.
//!
//! The manager starts the program in namespaces of its own; the program itself enters an empty root and gives up
//! everything that it was before it looks at anything that it is given. The manager looks afterwards whether it did.

use frame::jail::{Inmate, ROOT};
use os::empty;
use rustix::fs::Gid;
use rustix::process::{DumpableBehavior, Resource, Rlimit, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};

/// Most descriptors: more than any partition has.
const DESCRIPTORS: u64 = 4096;

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

/// Makes the process, of one thread so far, an inmate in an empty root, without any privilege, for good. `sentence` is
/// what follows [`frame::jail::ARGUMENT`]: who it is to be, and, where an empty root was made ahead, its descriptor.
///
/// # Errors
/// [`WallError`]; the process is half-way then, and must end.
pub fn enter(sentence: &[&str]) -> Result<(), WallError> {
    let unknown = || failed("understanding who to be")(io::Error::from(io::ErrorKind::InvalidInput));
    let (inmate, ready) = match sentence {
        [inmate] => (*inmate, None),
        [inmate, root] if *root == ROOT.to_string() => (*inmate, Some(ROOT)),
        _ => return Err(unknown()),
    };
    let inmate = Inmate::parse(inmate).ok_or_else(unknown)?;
    limit(Resource::Core, 0).map_err(failed("setting the limit of core dumps"))?;
    limit(Resource::Nofile, DESCRIPTORS).map_err(failed("setting the limit of descriptors"))?;
    match ready {
        Some(root) => {
            // SAFETY: by the contract with whoever starts this program it is open, and this process's to own.
            let root = unsafe { OwnedFd::from_raw_fd(root) };
            empty::join(root.as_fd()).map_err(|error| failed("joining an empty root")(io::Error::other(error)))?;
        }
        None => empty::enter().map_err(|error| failed("making an empty root")(io::Error::other(error)))?,
    }
    give_up(inmate)
}

/// Lowers a limit; one that is lower stays.
fn limit(resource: Resource, most: u64) -> rustix::io::Result<()> {
    let before = rustix::process::getrlimit(resource);
    let least = |limit: Option<u64>| Some(limit.map_or(most, |limit| limit.min(most)));
    rustix::process::setrlimit(resource, Rlimit { current: least(before.current), maximum: least(before.maximum) })
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
