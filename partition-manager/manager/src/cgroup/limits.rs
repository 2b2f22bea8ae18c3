//! What is written into the files of a group.

use super::hierarchy::{Controller, Hierarchy};
use frame::cpuset::CpuSet;
use frame::units::Units;

/// The limits of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// CPUs that its threads may run on.
    pub cpus: CpuSet,
    /// Memory nodes that its memory may come from.
    pub nodes: CpuSet,
    /// Most processor time; none when uncapped or dedicated.
    pub cap: Option<Units>,
    /// Its part against others on the same CPUs, in processing units.
    pub share: Units,
    /// Most memory, bytes.
    pub memory: u64,
    /// Most threads.
    pub threads: u64,
}

/// Memory that a partition's processes may have beyond what is planned for, bytes: page cache of its kernel
/// image, and what the kernel charges in batches.
pub const SLACK: u64 = 16 << 20;
/// Threads that a partition's process may have besides its virtual processors.
pub const THREADS: u64 = 16;

/// The files of a group in `hierarchy`, in the order they must be written, and their contents.
#[must_use]
pub fn files(limits: &Limits, hierarchy: &Hierarchy) -> Vec<(&'static str, String)> {
    let mut files = Vec::new();
    for controller in &hierarchy.controllers {
        match (controller, hierarchy.unified) {
            (Controller::Cpuset, _) => {
                files.push(("cpuset.mems", limits.nodes.to_string()));
                files.push(("cpuset.cpus", limits.cpus.to_string()));
            }
            (Controller::Cpu, true) => {
                let cap = limits.cap.map_or_else(
                    || format!("max {}", Units::ONE.dispatch_window_us()),
                    |units| format!("{} {}", units.quota_us(), units.dispatch_window_us()),
                );
                files.push(("cpu.max", cap));
                files.extend(share_file(limits, hierarchy));
            }
            (Controller::Cpu, false) => {
                // A quota is refused while it is more than the whole of the CPUs in the old period.
                files.push(("cpu.cfs_quota_us", "-1".to_owned()));
                if let Some(units) = limits.cap {
                    files.push(("cpu.cfs_period_us", units.dispatch_window_us().to_string()));
                    files.push(("cpu.cfs_quota_us", units.quota_us().to_string()));
                }
                files.extend(share_file(limits, hierarchy));
            }
            (Controller::Memory, true) => files.push(("memory.max", limits.memory.to_string())),
            (Controller::Memory, false) => files.push(("memory.limit_in_bytes", limits.memory.to_string())),
            (Controller::Pids, _) => files.push(("pids.max", limits.threads.to_string())),
        }
    }
    files
}

/// The file of a group in `hierarchy` that says its part against others, and its content; none where the
/// hierarchy does not share out processor time.
#[must_use]
pub fn share_file(limits: &Limits, hierarchy: &Hierarchy) -> Option<(&'static str, String)> {
    hierarchy.controllers.contains(&Controller::Cpu).then(|| {
        if hierarchy.unified {
            ("cpu.weight", weight(limits.share).to_string())
        } else {
            ("cpu.shares", shares(limits.share).to_string())
        }
    })
}

/// `cpu.weight` of version 2: 1 to 10000, 100 for each processing unit.
fn weight(share: Units) -> u64 {
    (u64::from(share.thousandths()) / 10).clamp(1, 10_000)
}

/// `cpu.shares` of version 1: 2 to 262144, 1024 for each processing unit.
fn shares(share: Units) -> u64 {
    (u64::from(share.thousandths()) * 1024 / 1000).clamp(2, 262_144)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn limits() -> Limits {
        Limits {
            cpus: CpuSet::parse("1,3-4").unwrap(),
            nodes: CpuSet::parse("0").unwrap(),
            cap: Some(Units::from(0.4)),
            share: Units::from(0.4),
            memory: 1 << 30,
            threads: 18,
        }
    }

    fn all(unified: bool) -> Hierarchy {
        Hierarchy { base: "/x".into(), unified, controllers: Controller::ALL.to_vec() }
    }

    #[test]
    fn version_2() {
        let expected = [
            ("cpu.max", "4000 10000"),
            ("cpu.weight", "40"),
            ("cpuset.mems", "0"),
            ("cpuset.cpus", "1,3-4"),
            ("memory.max", "1073741824"),
            ("pids.max", "18"),
        ];
        let files = files(&limits(), &all(true));
        assert_eq!(files.iter().map(|(name, text)| (*name, text.as_str())).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn version_1() {
        let expected = [
            ("cpu.cfs_quota_us", "-1"),
            ("cpu.cfs_period_us", "10000"),
            ("cpu.cfs_quota_us", "4000"),
            ("cpu.shares", "409"),
            ("cpuset.mems", "0"),
            ("cpuset.cpus", "1,3-4"),
            ("memory.limit_in_bytes", "1073741824"),
            ("pids.max", "18"),
        ];
        let files = files(&limits(), &all(false));
        assert_eq!(files.iter().map(|(name, text)| (*name, text.as_str())).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn only_processor_time_has_a_share() {
        let memory = Hierarchy { controllers: vec![Controller::Memory], ..all(true) };
        assert_eq!(share_file(&limits(), &memory), None);
        assert_eq!(share_file(&limits(), &all(true)), Some(("cpu.weight", "40".to_owned())));
        assert_eq!(share_file(&limits(), &all(false)), Some(("cpu.shares", "409".to_owned())));
    }

    #[test]
    fn uncapped_has_no_quota() {
        let limits = Limits { cap: None, ..limits() };
        assert!(files(&limits, &all(true)).contains(&("cpu.max", "max 10000".to_owned())));
        let quotas = files(&limits, &all(false));
        assert_eq!(quotas.iter().filter(|(name, _)| *name == "cpu.cfs_quota_us").count(), 1);
    }

    proptest! {
        // The kernel's ranges: cgroup-v2.rst for the weight, `MIN_SHARES` and `MAX_SHARES` of the scheduler.
        #[test]
        fn shares_stay_in_the_kernels_ranges(thousandths in any::<u32>()) {
            let units = Units::from_thousandths(thousandths);
            prop_assert!((1..=10_000).contains(&weight(units)));
            prop_assert!((2..=262_144).contains(&shares(units)));
        }
    }
}
