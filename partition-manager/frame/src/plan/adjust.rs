//! What partitions that run are entitled to, when that is declared anew: only what they have of their pools changes.

use super::finding::{Finding, claim};
use super::grant::largest;
use super::{Backing, PartitionPlan};
use crate::assignment::Assignment;
use crate::declare::{Frame, Partition, ProcessorMode, Range, Sharing, WhenInactive};
use crate::name::Name;
use crate::units::Units;
use std::collections::BTreeMap;

/// A partition whose entitlement can change.
struct Seat<'a> {
    plan: &'a PartitionPlan,
    declared: &'a Partition,
    range: Range<Units>,
    sharing: Sharing,
    units: Units,
}

/// The plans of partitions that run and get another entitlement, or another way to share, because `frame` declares
/// that now; `owned` is what they have.
///
/// Who has more than he desires gives it up. What is free then goes to those who have less than their minimum, then
/// to those who have less than they desire, by availability priority, then name. Nobody gets what an inactive
/// partition holds. A partition of another pool or mode than it is declared with is left as it is.
#[must_use]
pub fn adjust(frame: &Frame, owned: &Assignment) -> Vec<PartitionPlan> {
    let mut seats: Vec<Seat<'_>> = vec![];
    let mut free = free(frame, owned);
    for declared in &frame.partitions {
        let Some(plan) = owned.partitions.get(&declared.name) else { continue };
        let (ProcessorMode::Shared { pool, units, sharing }, Backing::Shared { pool: own, units: has, .. }) =
            (&declared.processors.mode, &plan.backing)
        else {
            continue;
        };
        if pool != own {
            continue;
        }
        let range = bounds(*units, frame.minimum_units, plan.processors.len());
        let units = (*has).min(range.desired);
        if let Some(free) = free.get_mut(pool) {
            *free = free.plus(has.minus(units));
        }
        seats.push(Seat { plan, declared, range, sharing: *sharing, units });
    }
    seats.sort_by(|a, b| {
        let priority = b.declared.availability_priority.cmp(&a.declared.availability_priority);
        priority.then_with(|| a.declared.name.cmp(&b.declared.name))
    });
    for goal in [|range: &Range<Units>| range.minimum, |range: &Range<Units>| range.desired] {
        for seat in &mut seats {
            let Backing::Shared { pool, .. } = &seat.plan.backing else { continue };
            let Some(free) = free.get_mut(pool) else { continue };
            let more = goal(&seat.range).minus(seat.units).min(*free);
            *free = free.minus(more);
            seat.units = seat.units.plus(more);
        }
    }
    let anew = seats.into_iter().filter_map(|seat| {
        let Backing::Shared { pool, .. } = &seat.plan.backing else { return None };
        let backing = Backing::Shared { pool: pool.clone(), units: seat.units, sharing: seat.sharing };
        (backing != seat.plan.backing).then(|| PartitionPlan { backing, ..seat.plan.clone() })
    });
    anew.collect()
}

/// The declared range, as far as it suits the virtual processors that a partition has now.
fn bounds(declared: Range<Units>, least: Units, processors: usize) -> Range<Units> {
    let processors = u32::try_from(processors).unwrap_or(u32::MAX);
    let floor = Units::from_thousandths(least.thousandths().saturating_mul(processors));
    let ceiling = Units::whole(processors);
    let fit = |units: Units| units.max(floor).min(ceiling);
    Range { minimum: fit(declared.minimum), desired: fit(declared.desired), maximum: fit(declared.maximum) }
}

/// What each pool has that nobody has and nobody holds.
fn free(frame: &Frame, owned: &Assignment) -> BTreeMap<Name, Units> {
    let whole = |name: &Name, declared: u32| {
        let cpus = owned.pools.get(name).map(|cpus| u32::try_from(cpus.len()).unwrap_or(u32::MAX));
        Units::whole(cpus.unwrap_or(declared))
    };
    let pools = frame.pools.iter().map(|pool| (pool.name.clone(), whole(&pool.name, pool.cpus)));
    let mut free: BTreeMap<Name, Units> = pools.collect();
    let mut take = |pool: &Name, units: Units| {
        if let Some(free) = free.get_mut(pool) {
            *free = free.minus(units);
        }
    };
    for plan in owned.partitions.values() {
        if let Backing::Shared { pool, units, .. } = &plan.backing {
            take(pool, *units);
        }
    }
    for partition in &frame.partitions {
        if let ProcessorMode::Shared { pool, units, .. } = &partition.processors.mode
            && partition.when_inactive == WhenInactive::Hold
            && !owned.partitions.contains_key(&partition.name)
        {
            take(pool, units.minimum);
        }
    }
    free
}

/// Why a partition that runs does not have all that it desires of its pool, and who has it; none when it has.
#[must_use]
pub fn short(frame: &Frame, owned: &Assignment, name: &Name) -> Option<Finding> {
    let declared = frame.partitions.iter().find(|partition| partition.name == *name)?;
    let plan = owned.partitions.get(name)?;
    let (ProcessorMode::Shared { units, .. }, Backing::Shared { pool, units: has, .. }) =
        (&declared.processors.mode, &plan.backing)
    else {
        return None;
    };
    let wanted = bounds(*units, frame.minimum_units, plan.processors.len()).desired;
    if wanted <= *has {
        return None;
    }
    let others = owned.partitions.values().filter(|other| other.name != *name);
    let active = others.filter_map(|other| match &other.backing {
        Backing::Shared { pool: own, units, .. } if own == pool => Some((other.name.clone(), *units, "has")),
        _ => None,
    });
    let holders = frame.partitions.iter().filter_map(|one| match &one.processors.mode {
        ProcessorMode::Shared { pool: own, units, .. }
            if own == pool && one.when_inactive == WhenInactive::Hold && !owned.partitions.contains_key(&one.name) =>
        {
            Some((one.name.clone(), units.minimum, "holds"))
        }
        _ => None,
    });
    let claims = active
        .chain(holders)
        .map(|(name, units, verb)| (units, claim(&name, "processors.units", format!("{verb} {units} of it"))));
    let (claims, words) = largest(claims.collect());
    Some(Finding {
        rule: "held".into(),
        text: format!("partition {name} cannot have {wanted} processing units of pool {pool} now, only {has}{words}"),
        claims,
        help: Some("lower what others have with `lpar set`, or shut one of them down".into()),
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{frame, name, partition, range};
    use super::*;
    use crate::cpuset::CpuSet;
    use crate::units::MIB;
    use proptest::prelude::*;

    fn units(thousandths: u32) -> Units {
        Units::from_thousandths(thousandths)
    }

    /// What a partition has (none when it is inactive), what it is declared with, and its priority.
    type Case = (Option<u32>, (u32, u32, u32), u8);

    /// A pool of one CPU and partitions on it.
    fn matter(all: &[Case]) -> (Frame, Assignment) {
        let mut partitions = vec![];
        let mut owned = Assignment::new();
        let cpus: CpuSet = [0].into_iter().collect();
        owned.pools.insert(name("default"), cpus.clone());
        for (at, (has, (low, wanted, most), priority)) in all.iter().enumerate() {
            let letter = name(&format!("p{at}"));
            let units_of = Range { minimum: units(*low), desired: units(*wanted), maximum: units(*most) };
            let mode = ProcessorMode::Shared { pool: name("default"), units: units_of, sharing: Sharing::Capped };
            let mut partition = partition(letter.as_str(), at as u32 + 1, mode, range(1, 1, 1), range(MIB, MIB, MIB));
            partition.availability_priority = *priority;
            partitions.push(partition);
            let Some(has) = has else { continue };
            let backing = Backing::Shared { pool: name("default"), units: units(*has), sharing: Sharing::Capped };
            let plan = PartitionPlan {
                name: letter.clone(),
                id: at as u32 + 1,
                cpus: cpus.clone(),
                processors: vec![cpus.clone()],
                io: cpus.clone(),
                backing,
                memory: vec![],
                base: 0,
                score: 100,
            };
            owned.partitions.insert(letter, plan);
        }
        (frame(0, &[("default", 1)], partitions), owned)
    }

    fn adjusted(frame: &Frame, owned: &Assignment) -> Assignment {
        let mut owned = owned.clone();
        owned.partitions.extend(adjust(frame, &owned).into_iter().map(|plan| (plan.name.clone(), plan)));
        owned
    }

    fn entitlement(owned: &Assignment, who: &str) -> u32 {
        owned.partitions[&name(who)].units().thousandths()
    }

    #[test]
    fn who_shrinks_makes_room_for_who_grows() {
        let (frame, owned) = matter(&[(Some(700), (100, 300, 900), 127), (Some(200), (100, 600, 900), 127)]);
        let after = adjusted(&frame, &owned);
        assert_eq!((entitlement(&after, "p0"), entitlement(&after, "p1")), (300, 600));
        assert_eq!(short(&frame, &after, &name("p1")), None);
    }

    #[test]
    fn what_is_not_free_is_not_given_and_whoever_has_it_is_named() {
        let all = [(Some(500), (100, 500, 900), 127), (Some(200), (100, 900, 900), 9), (None, (150, 150, 150), 1)];
        let (frame, owned) = matter(&all);
        let after = adjusted(&frame, &owned);
        assert_eq!((entitlement(&after, "p0"), entitlement(&after, "p1")), (500, 350));
        let text = short(&frame, &after, &name("p1")).unwrap().to_string();
        for part in ["cannot have 0.90", "only 0.35", "p0 has 0.50", "p2 holds 0.15", "lpar set"] {
            assert!(text.contains(part), "{part:?} is missing in {text:?}");
        }
    }

    #[test]
    fn priority_says_who_grows() {
        let (frame, owned) = matter(&[(Some(200), (100, 900, 900), 1), (Some(200), (100, 700, 900), 2)]);
        let after = adjusted(&frame, &owned);
        assert_eq!((entitlement(&after, "p0"), entitlement(&after, "p1")), (300, 700));
    }

    proptest! {
        #[test]
        fn a_pool_is_never_given_away_twice_and_once_is_enough(
            all in proptest::collection::vec(
                (proptest::option::of(1u32..400), (1u32..300, 0u32..400, 0u32..400), any::<u8>()), 1..6
            )
        ) {
            let all: Vec<_> = all
                .into_iter()
                .map(|(has, (low, more, most), priority)| {
                    let low = low.max(50);
                    (has, (low, (low + more).min(1000), (low + more + most).min(1000)), priority)
                })
                .collect();
            let (frame, owned) = matter(&all);
            let sum = |owned: &Assignment| owned.partitions.values().map(|plan| plan.units().thousandths()).sum::<u32>();
            let holds: u32 = all.iter().filter(|(has, ..)| has.is_none()).map(|(_, (low, ..), _)| *low).sum();
            let after = adjusted(&frame, &owned);
            // Nothing is made worse, whatever was there before.
            prop_assert!(sum(&after) + holds <= 1000.max(sum(&owned) + holds));
            for (at, (has, (low, wanted, _), _)) in all.iter().enumerate() {
                let Some(has) = has else { continue };
                let now = entitlement(&after, &format!("p{at}"));
                prop_assert!(now <= *wanted && now >= (*has).min(*low) && (now >= *has || now == *wanted));
            }
            prop_assert_eq!(&adjusted(&frame, &after), &after);
            for name in after.partitions.keys() {
                let wanted = entitlement(&after, name.as_str()) < all[name.as_str()[1..].parse::<usize>().unwrap()].1.1;
                prop_assert_eq!(short(&frame, &after, name).is_some(), wanted);
            }
        }
    }
}
