//! Who is at the other end of a Unix socket, as the kernel says.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Whether whoever connected is the superuser, this user, or in the group `group`, be it as the first of its
/// groups or as one of the others (`SO_PEERCRED`, `SO_PEERGROUPS`, `unix(7)`). Without an answer nobody may.
#[must_use]
pub fn may(socket: impl AsFd, group: u32) -> bool {
    let Ok(peer) = identity(&socket) else { return false };
    let groups = groups(&socket).unwrap_or_default();
    decide(peer, &groups, rustix::process::geteuid().as_raw(), group)
}

/// Whether whoever connected is the superuser, this user, or the user who made `listener` listen, whose
/// credentials the kernel keeps with it (`SO_PEERCRED`, `unix(7)`): a partition's own user may be another than
/// its manager's. Without an answer nobody is.
#[must_use]
pub fn may_manage(socket: impl AsFd, listener: impl AsFd) -> bool {
    let Ok((peer, _)) = identity(socket) else { return false };
    let maker = identity(listener).map(|(maker, _)| maker);
    peer == 0 || peer == rustix::process::geteuid().as_raw() || maker.is_ok_and(|maker| maker == peer)
}

/// User and group at the other end. Its process has no number here when it is outside of this one's namespace of
/// processes, which is nothing amiss.
///
/// # Errors
/// The error of `getsockopt(2)`.
fn identity(socket: impl AsFd) -> io::Result<(u32, u32)> {
    let mut peer = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    let number = socket.as_fd().as_raw_fd();
    // SAFETY: the kernel writes at most `length` bytes, which is how long `peer` is.
    let outcome = unsafe {
        libc::getsockopt(number, libc::SOL_SOCKET, libc::SO_PEERCRED, (&raw mut peer).cast(), &raw mut length)
    };
    if outcome == 0 { Ok((peer.uid, peer.gid)) } else { Err(io::Error::last_os_error()) }
}

fn decide((uid, gid): (u32, u32), groups: &[u32], own: u32, group: u32) -> bool {
    uid == 0 || uid == own || gid == group || groups.contains(&group)
}

/// The supplementary groups of the process at the other end, at the time when it connected.
///
/// # Errors
/// The error of `getsockopt(2)`.
pub fn groups(socket: impl AsFd) -> io::Result<Vec<u32>> {
    let mut groups = vec![0u32; 64];
    loop {
        let bytes = groups.len().saturating_mul(size_of::<u32>());
        let mut length = libc::socklen_t::try_from(bytes).map_err(io::Error::other)?;
        let number = socket.as_fd().as_raw_fd();
        // SAFETY: the kernel writes at most `length` bytes, which is how long `groups` is, and says how many.
        let outcome = unsafe {
            libc::getsockopt(number, libc::SOL_SOCKET, libc::SO_PEERGROUPS, groups.as_mut_ptr().cast(), &raw mut length)
        };
        let count = length as usize / size_of::<u32>();
        if outcome == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        // There are more: then the length says how many. A process has at most 65536 (`NGROUPS_MAX`).
        if error.raw_os_error() != Some(libc::ERANGE) || count <= groups.len() || count > 1 << 16 {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_are_turned_away() {
        assert!(decide((0, 0), &[], 1000, 1000));
        assert!(decide((1000, 5), &[], 1000, 1000));
        assert!(decide((7, 1000), &[], 0, 1000));
        assert!(decide((7, 7), &[8, 1000], 0, 1000));
        assert!(!decide((7, 7), &[8], 1000, 1000));
    }

    #[test]
    fn whoever_listens_may_manage() {
        let directory = tempfile::tempdir().unwrap();
        let listener = crate::packet::listen(&directory.path().join("s")).unwrap();
        let connected = crate::packet::connect(&directory.path().join("s")).unwrap();
        let accepted = crate::packet::accept(&listener).unwrap();
        assert!(may_manage(&accepted, &listener) && may_manage(&connected, &listener));
        let nothing = std::fs::File::open("/dev/null").unwrap();
        assert!(!may_manage(&nothing, &listener));
    }

    #[test]
    fn the_peer_is_known_with_all_its_groups() {
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let own = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap();
        let mut own: Vec<u32> = own.split_whitespace().map(|group| group.parse().unwrap()).collect();
        let mut found = groups(&one).unwrap();
        own.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, own);
        assert!(may(&one, u32::MAX), "this user may, whatever the group");
        assert!(!may(std::fs::File::open("/dev/null").unwrap(), 0), "what is no socket may not");
    }
}
