//! Where the interrupts of the host's own devices go, and other work of the host that belongs to no task.
//!
//! A CPU that is one partition's alone takes only the interrupts of devices that are dedicated to that partition: all
//! others are moved off it, as far as the kernel lets them, and come back when the CPU is free again (Linux,
//! Documentation/core-api/irq/irq-affinity.rst and Documentation/core-api/workqueue.rst, `cpumask`).

use crate::cpuset::CpuSet;
use crate::name::Name;
use serde::{Deserialize, Serialize};

/// What was changed about one kind of work. It is written down before the change, so that it can be taken back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// Where it might go before.
    pub before: CpuSet,
    /// Where it was sent.
    pub now: CpuSet,
}

impl Moved {
    /// Where the work might go if this frame had not moved it, now that it may go to `current`: where it might before,
    /// unless somebody else has sent it elsewhere since, another frame or a balancer of interrupts. Then only what
    /// this frame took comes back.
    #[must_use]
    pub fn undone(&self, current: &CpuSet) -> CpuSet {
        if *current == self.now { self.before.clone() } else { current.union(&self.before.difference(&self.now)) }
    }
}

/// Where work may go from now on, and what that changes about where it would go by itself.
///
/// `current` is where it may go now, `moved` what this frame has changed about that, `fenced` the CPUs that partitions
/// have for themselves, `owner` the CPUs of the partition that the work is for. Work that could go nowhere else than to
/// fenced CPUs goes to the others of `online`; if there is none, it stays where it was.
#[must_use]
pub fn steer(
    current: &CpuSet,
    moved: Option<&Moved>,
    fenced: &CpuSet,
    online: &CpuSet,
    owner: Option<&CpuSet>,
) -> (CpuSet, Option<Moved>) {
    let natural = moved.map_or_else(|| current.clone(), |moved| moved.undone(current));
    let away = || {
        let choices = [natural.difference(fenced), online.difference(fenced)];
        choices.into_iter().find(|cpus| !cpus.intersection(online).is_empty())
    };
    let own = owner.map(|cpus| cpus.intersection(online)).filter(|cpus| !cpus.is_empty());
    let now = own.or_else(away).unwrap_or_else(|| natural.clone());
    let moved = (now != natural).then(|| Moved { before: natural, now: now.clone() });
    (now, moved)
}

/// Whether an interrupt of the host goes where it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum HostRoute {
    /// To the CPUs of the partition that its device is dedicated to.
    Own,
    /// Away from the CPUs that are partitions' alone.
    Away,
    /// The kernel refused to move it.
    Refused,
}

/// One interrupt of the host that a frame has something to do with: a row of `lpar interrupts --host`, flat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HostInterruptRow {
    /// Its number, as in `/proc/interrupts`.
    pub interrupt: u32,
    /// Who handles it in the host's kernel; empty when nobody does.
    pub name: String,
    /// The partition that its device is dedicated to.
    pub partition: Option<Name>,
    /// The PCI function of that device, such as `0000:00:05.0`.
    pub function: Option<String>,
    /// Where it should go.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub wanted: CpuSet,
    /// Where the kernel sends it.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub cpus: CpuSet,
    /// Whether the one is as the other.
    pub state: HostRoute,
    /// Why the kernel refused.
    pub reason: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(text: &str) -> CpuSet {
        CpuSet::parse(text).unwrap()
    }

    #[test]
    fn an_interrupt_leaves_fenced_cpus_and_comes_back() {
        let online = set("0-3");
        let (now, moved) = steer(&online, None, &set("2-3"), &online, None);
        assert_eq!(now, set("0-1"));
        let (back, left) = steer(&now, moved.as_ref(), &CpuSet::new(), &online, None);
        assert_eq!((back, left), (online.clone(), None));
        // One that could go nowhere else goes to whatever is free, and comes back as well.
        let (now, moved) = steer(&set("3"), None, &set("2-3"), &online, None);
        assert_eq!(now, set("0-1"));
        assert_eq!(steer(&now, moved.as_ref(), &set("2"), &online, None), (set("3"), None));
        // Without a free CPU it stays.
        assert_eq!(steer(&set("1"), None, &online, &online, None), (set("1"), None));
        // CPUs that are offline are no place to go.
        assert_eq!(steer(&set("3,9"), None, &set("2-3"), &online, None).0, set("0-1"));
    }

    #[test]
    fn an_owner_has_it_as_long_as_it_is_there() {
        let online = set("0-3");
        let (now, moved) = steer(&online, None, &set("2-3"), &online, Some(&set("3")));
        assert_eq!(now, set("3"));
        assert_eq!(steer(&now, moved.as_ref(), &set("2-3"), &online, Some(&set("3"))).0, set("3"));
        assert_eq!(steer(&now, moved.as_ref(), &set("2"), &online, None).0, set("0-1,3"));
        // CPUs that went offline take none.
        assert_eq!(steer(&online, None, &set("9"), &online, Some(&set("9"))).0, online);
    }

    fn cpus() -> impl Strategy<Value = CpuSet> {
        proptest::collection::btree_set(0u32..8, 0..8).prop_map(|cpus| {
            let mut set = CpuSet::new();
            for cpu in cpus {
                set.insert(cpu);
            }
            set
        })
    }

    proptest! {
        /// Two frames on one host, whose CPUs are not the same, each fencing what it likes, in any order.
        #[test]
        fn whatever_was_taken_comes_back_in_any_order(
            begin in cpus(), acts in proptest::collection::vec((any::<bool>(), cpus()), 0..12), first in any::<bool>(),
        ) {
            let online = set("0-8");
            // The last CPU is nobody's.
            let begin = begin.union(&set("8"));
            let halves = [set("0-3"), set("4-7")];
            let mut current = begin.clone();
            let mut moved = [None, None];
            let ends = [(first, CpuSet::new()), (!first, CpuSet::new())];
            for (which, fence) in acts.into_iter().chain(ends) {
                let at = usize::from(which);
                let fence = fence.intersection(&halves[at]);
                let (now, change) = steer(&current, moved[at].as_ref(), &fence, &online, None);
                prop_assert!(now.intersection(&fence).is_empty() && !now.is_empty());
                (current, moved[at]) = (now, change);
            }
            prop_assert_eq!(current, begin);
        }

        #[test]
        fn steering_twice_changes_nothing(begin in cpus(), fence in cpus(), owner in proptest::option::of(cpus())) {
            let online = set("0-7");
            let begin = if begin.is_empty() { online.clone() } else { begin };
            let (now, moved) = steer(&begin, None, &fence, &online, owner.as_ref());
            prop_assert!(!now.is_empty());
            prop_assert_eq!(steer(&now, moved.as_ref(), &fence, &online, owner.as_ref()), (now, moved));
        }
    }
}
