//! The jail of a partition's process: who it is to be, and how it really is.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The first of the user and group numbers that partitions have: a range that no distribution and no container manager
/// gives away (systemd, "Users, Groups, UIDs and GIDs on systemd systems").
pub const FIRST: u32 = 0x7000_0000;
/// Numbers of one frame: one for each number of a partition.
const OF_FRAME: u32 = 1 << 16;
/// Blocks of numbers, of which each frame has one.
const BLOCKS: u32 = 1 << 12;
/// The argument by which a partition's program is told who it is to be.
pub const ARGUMENT: &str = "--jail";
/// The descriptor by which it is given an empty root that was made ahead; it is told so by a second word.
pub const ROOT: i32 = 5;

/// The user and the group of one partition's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inmate {
    /// The number of its user, and of its group.
    pub id: u32,
}

impl Inmate {
    /// For partition number `partition` (1..=65535) of the frame that `tag` tells from all others of the host: the
    /// same every time. Two frames of one host share a block of numbers by chance once in 4096.
    #[must_use]
    pub fn new(tag: &str, partition: u32) -> Self {
        // FNV-1a, 32 bits: spread well, and the same in every build.
        let hash = tag.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        Self { id: FIRST + (hash % BLOCKS) * OF_FRAME + partition % OF_FRAME }
    }

    /// Reads what [`std::fmt::Display`] writes; only numbers of partitions.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let id = text.parse().ok()?;
        (FIRST..FIRST + BLOCKS * OF_FRAME).contains(&id).then_some(Self { id })
    }
}

impl std::fmt::Display for Inmate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.id.fmt(f)
    }
}

/// The jail of a process as the kernel shows it (proc(5)).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct JailReport {
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Capabilities that it or a program that it ran could have, as bits.
    pub capabilities: u64,
    /// Whether all its threads can gain no privileges any more.
    pub no_new_privileges: bool,
    /// Threads, and how many of them have a filter of system calls.
    pub threads: u32,
    /// Threads with a filter of system calls.
    pub filtered: u32,
    /// Whether each kind of namespace is another than the manager's.
    pub namespaces: BTreeMap<String, bool>,
}

impl JailReport {
    /// What is open that should be shut for `inmate`, one plain line each; without one, for a process that has only
    /// its filters.
    #[must_use]
    pub fn gaps(&self, inmate: Option<Inmate>) -> Vec<String> {
        let mut gaps = Vec::new();
        if self.filtered < self.threads {
            gaps.push(format!("{} of its {} threads have a filter of system calls", self.filtered, self.threads));
        }
        if !self.no_new_privileges {
            gaps.push("it can gain privileges".to_owned());
        }
        let Some(inmate) = inmate else { return gaps };
        if (self.uid, self.gid) != (inmate.id, inmate.id) {
            gaps.push(format!("it is user {} and group {}, not {inmate}", self.uid, self.gid));
        }
        if self.capabilities != 0 {
            gaps.push(format!("it has capabilities, {:#x}", self.capabilities));
        }
        let shared: Vec<&str> =
            self.namespaces.iter().filter(|(_, own)| !**own).map(|(kind, _)| kind.as_str()).collect();
        if !shared.is_empty() {
            gaps.push(format!("it shares namespaces with its manager: {}", shared.join(", ")));
        }
        gaps
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_partition_of_a_frame_has_a_number_of_its_own() {
        let numbers: BTreeSet<u32> = (1..=65_535).map(|partition| Inmate::new("t.0123", partition).id).collect();
        assert_eq!(numbers.len(), 65_535);
        assert!(numbers.iter().all(|id| (FIRST..0x8000_0000).contains(id)));
        assert_ne!(Inmate::new("t.0123", 1), Inmate::new("u.0123", 1));
        let one = Inmate::new("t.0123", 7);
        assert_eq!(Inmate::parse(&one.to_string()), Some(one));
        for wrong in ["", "0", "1000", "-1", "4294967295", "2147483648", "1879048192:0"] {
            assert_eq!(Inmate::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn each_gap_is_found() {
        let inmate = Inmate::new("t", 1);
        let namespaces: BTreeMap<String, bool> = ["mnt", "net"].map(|kind| (kind.to_owned(), true)).into();
        let shut = JailReport {
            uid: inmate.id,
            gid: inmate.id,
            no_new_privileges: true,
            threads: 3,
            filtered: 3,
            namespaces,
            ..JailReport::default()
        };
        assert_eq!(shut.gaps(Some(inmate)), [""; 0]);
        let shared = [("net".to_owned(), false)].into();
        let open = [
            JailReport { uid: 0, ..shut.clone() },
            JailReport { gid: 0, ..shut.clone() },
            JailReport { capabilities: 1, ..shut.clone() },
            JailReport { filtered: 2, ..shut.clone() },
            JailReport { no_new_privileges: false, ..shut.clone() },
            JailReport { namespaces: shared, ..shut },
        ];
        open.iter().for_each(|open| assert_eq!(open.gaps(Some(inmate)).len(), 1, "{open:?}"));
        assert_eq!(open.iter().filter(|open| !open.gaps(None).is_empty()).count(), 2);
    }
}
