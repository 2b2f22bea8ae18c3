//! Who gets how much of a pool that has something to spare.
//!
//! One weight has to say two things: what a partition is entitled to, and its part of the rest. So it is
//! the entitlement, and for an uncapped partition its part of the spare on top.

use frame::declare::Sharing;
use frame::name::Name;
use frame::plan::{Backing, PartitionPlan};
use frame::units::Units;
use std::collections::BTreeMap;

/// Most processor time of a partition; none when it may have more.
#[must_use]
pub fn cap(plan: &PartitionPlan) -> Option<Units> {
    match &plan.backing {
        Backing::Shared { units, sharing: Sharing::Capped | Sharing::Uncapped { weight: 0 }, .. } => Some(*units),
        Backing::Shared { .. } | Backing::Dedicated => None,
    }
}

/// The share of each partition in processing units. `pools` gives the physical CPUs of each pool.
#[must_use]
pub fn shares<'a>(
    partitions: impl Iterator<Item = &'a PartitionPlan> + Clone,
    pools: &BTreeMap<Name, u32>,
) -> BTreeMap<Name, Units> {
    let mut entitled: BTreeMap<&Name, Units> = BTreeMap::new();
    let mut weights: BTreeMap<&Name, u64> = BTreeMap::new();
    for plan in partitions.clone() {
        if let Backing::Shared { pool, units, sharing } = &plan.backing {
            let sum = entitled.entry(pool).or_default();
            *sum = sum.plus(*units);
            *weights.entry(pool).or_default() += u64::from(weight(*sharing));
        }
    }
    let share = |plan: &PartitionPlan| match &plan.backing {
        Backing::Dedicated => plan.units(),
        Backing::Shared { pool, units, sharing } => {
            let whole = Units::whole(pools.get(pool).copied().unwrap_or(0));
            let spare = whole.minus(entitled.get(pool).copied().unwrap_or_default());
            let all = weights.get(pool).copied().unwrap_or(0);
            let part = u64::from(spare.thousandths()) * u64::from(weight(*sharing));
            let part = part.checked_div(all).unwrap_or(0);
            units.plus(Units::from_thousandths(u32::try_from(part).unwrap_or(u32::MAX)))
        }
    };
    partitions.map(|plan| (plan.name.clone(), share(plan))).collect()
}

const fn weight(sharing: Sharing) -> u8 {
    match sharing {
        Sharing::Capped => 0,
        Sharing::Uncapped { weight } => weight,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use frame::cpuset::CpuSet;
    use proptest::prelude::*;

    fn plan(name: &str, units: u32, sharing: Sharing) -> PartitionPlan {
        let pool = Name::new("p").unwrap();
        PartitionPlan {
            name: Name::new(name).unwrap(),
            id: 1,
            cpus: CpuSet::new(),
            processors: vec![CpuSet::new()],
            io: CpuSet::new(),
            backing: Backing::Shared { pool, units: Units::from_thousandths(units), sharing },
            memory: vec![],
            base: 0,
            score: 100,
        }
    }

    fn pool(cpus: u32) -> BTreeMap<Name, u32> {
        BTreeMap::from([(Name::new("p").unwrap(), cpus)])
    }

    #[test]
    fn the_spare_goes_by_weight() {
        let plans = [
            plan("a", 400, Sharing::Capped),
            plan("b", 200, Sharing::Uncapped { weight: 64 }),
            plan("c", 200, Sharing::Uncapped { weight: 192 }),
        ];
        let shares = shares(plans.iter(), &pool(1));
        let of = |name| shares[&Name::new(name).unwrap()].thousandths();
        assert_eq!((of("a"), of("b"), of("c")), (400, 250, 350));
        assert_eq!(cap(&plans[0]), Some(Units::from(0.4)));
        assert_eq!(cap(&plans[1]), None);
    }

    proptest! {
        #[test]
        fn shares_cover_entitlements_and_never_exceed_the_pool(
            all in proptest::collection::vec((1u32..2000, any::<Option<u8>>()), 1..20),
        ) {
            let plans: Vec<PartitionPlan> = all
                .iter()
                .enumerate()
                .map(|(at, (units, weight))| {
                    let sharing = weight.map_or(Sharing::Capped, |weight| Sharing::Uncapped { weight });
                    plan(&format!("p{at}"), *units, sharing)
                })
                .collect();
            let entitled: u32 = all.iter().map(|(units, _)| units).sum();
            let cpus = entitled.div_ceil(1000) + 1;
            let shares = shares(plans.iter(), &pool(cpus));
            let given: u32 = shares.values().map(|share| share.thousandths()).sum();
            prop_assert!(given <= cpus * 1000);
            for plan in &plans {
                prop_assert!(shares[&plan.name] >= plan.units());
            }
        }
    }
}
