//! Landlock (Linux, Documentation/userspace-api/landlock.rst): no file and no TCP port, whatever else gives way.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const CREATE_RULESET: libc::c_long = 444;
const RESTRICT_SELF: libc::c_long = 446;
/// `LANDLOCK_CREATE_RULESET_VERSION`.
const VERSION: u32 = 1;

/// `struct landlock_ruleset_attr`, as far as version 4 knows it.
#[repr(C)]
#[derive(Debug)]
struct Attributes {
    files: u64,
    network: u64,
}

/// What a version of Landlock can forbid: all of that.
fn attributes(version: i64) -> Attributes {
    let rights = match version {
        ..=1 => 13,
        2 => 14,
        3 | 4 => 15,
        _ => 16,
    };
    Attributes { files: (1 << rights) - 1, network: if version >= 4 { 0b11 } else { 0 } }
}

/// The version of the kernel's Landlock; none where it has none, or it is off.
#[must_use]
pub fn version() -> Option<i64> {
    // SAFETY: asks for a number; there is no structure.
    let version = unsafe { libc::syscall(CREATE_RULESET, std::ptr::null::<Attributes>(), 0usize, VERSION) };
    (version > 0).then_some(version)
}

/// Takes every file and TCP port from the calling thread, for good. False where the kernel has no Landlock.
///
/// The process must have given up new privileges.
///
/// # Errors
/// When the kernel has it and refuses.
pub fn shut() -> io::Result<bool> {
    let Some(version) = version() else { return Ok(false) };
    let attributes = attributes(version);
    // Before version 4 the structure is shorter.
    let size = if version >= 4 { size_of::<Attributes>() } else { size_of::<u64>() };
    // SAFETY: the structure is there, with at least as many bytes.
    let ruleset = unsafe { libc::syscall(CREATE_RULESET, &raw const attributes, size, 0u32) };
    if ruleset < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made it for this process, and nobody else knows it.
    let ruleset = unsafe { OwnedFd::from_raw_fd(ruleset as i32) };
    // SAFETY: a descriptor and a number.
    if unsafe { libc::syscall(RESTRICT_SELF, ruleset.as_raw_fd(), 0u32) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_opens_no_file_any_more() {
        let there = version().is_some();
        let directory = tempfile::tempdir().unwrap();
        let made = directory.path().join("made");
        let outcome = std::thread::spawn(move || {
            rustix::thread::set_no_new_privs(true).unwrap();
            assert_eq!(shut().unwrap(), there);
            let opened = std::fs::File::open("/etc/passwd").map_err(|error| error.raw_os_error());
            let made = std::fs::File::create(&made).map_err(|error| error.raw_os_error());
            (opened.err(), made.err())
        });
        // Without it, which `lpar doctor` says, nothing changes.
        let (refused, outcome) = (there.then_some(Some(libc::EACCES)), outcome.join().unwrap());
        assert_eq!(outcome, (refused, refused));
        assert!(std::fs::File::open("/etc/passwd").is_ok(), "only that thread is shut in");
    }

    #[test]
    fn all_that_a_version_knows_is_forbidden() {
        assert_eq!((attributes(1).files, attributes(1).network), (0x1fff, 0));
        assert_eq!((attributes(3).files, attributes(4).network), (0x7fff, 3));
        assert_eq!(attributes(7).files, 0xffff);
    }
}
