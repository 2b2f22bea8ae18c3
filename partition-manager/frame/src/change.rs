//! What is different between two declarations of one frame, and when each difference takes effect.
//!
//! What a partition is entitled to can change while it runs; everything else waits for its next activation. Keys are
//! those of the frame file.

use crate::declare::{Frame, IoProcessors, Partition, Pool, ProcessorMode, Sharing, Switch};
use crate::name::Name;
use crate::plan::{Backing, Claim, Finding, PartitionPlan, Subject};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

/// When a change takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// At once.
    Now,
    /// When the partition is activated next.
    Activation,
}

/// One difference, flat.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Change {
    /// The partition; absent for what belongs to the frame.
    pub partition: Option<Name>,
    /// The key, such as `processors.units.desired`, `disk.root` or `pool.default`; empty for a partition as a whole.
    pub key: String,
    /// What is declared before; null when there is no such thing. Sizes are bytes.
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub before: Value,
    /// What is declared after, likewise.
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub after: Value,
    /// When it takes effect.
    pub when: When,
}

/// A partition that runs, or is about to.
#[derive(Clone, Copy, Debug)]
pub struct Active<'a> {
    /// What it was activated as, with what changed since and took effect.
    pub declared: &'a Partition,
    /// What it owns; none while that is being decided.
    pub plan: Option<&'a PartitionPlan>,
}

/// What a partition that runs as `running` is declared as once it is declared as `declared`: what can change at once
/// has changed, everything else waits.
#[must_use]
pub fn taken(running: &Partition, declared: &Partition) -> Partition {
    let mut taken = running.clone();
    taken.availability_priority = declared.availability_priority;
    taken.auto_start = declared.auto_start;
    taken.when_inactive = declared.when_inactive;
    taken.shutdown = declared.shutdown;
    if let (ProcessorMode::Shared { pool: old, .. }, ProcessorMode::Shared { pool: new, .. }) =
        (&running.processors.mode, &declared.processors.mode)
        && old == new
    {
        taken.processors.mode = declared.processors.mode.clone();
    }
    taken
}

/// What the declaration of a partition says, by key.
fn aspects(partition: &Partition) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    let Ok(Value::Object(fields)) = serde_json::to_value(partition) else { return all };
    // These have keys of their own below.
    let apart = ["name", "processors", "memory", "disks", "networks"];
    all.extend(fields.into_iter().filter(|(key, _)| !apart.contains(&key.as_str())));
    let mut put = |key: &str, value: Value| all.insert(key.to_owned(), value);
    let count = &partition.processors.count;
    put("processors.minimum", json!(count.minimum));
    put("processors.desired", json!(count.desired));
    put("processors.maximum", json!(count.maximum));
    match &partition.processors.mode {
        ProcessorMode::Dedicated { io } => {
            put("processors.mode", json!("dedicated"));
            put("processors.io", io.pool().map_or_else(|| json!("own"), |pool| json!(format!("pool:{pool}"))));
        }
        ProcessorMode::Shared { pool, units, sharing } => {
            put("processors.mode", json!("shared"));
            put("processors.pool", json!(pool));
            put("processors.units.minimum", json!(units.minimum));
            put("processors.units.desired", json!(units.desired));
            put("processors.units.maximum", json!(units.maximum));
            match sharing {
                Sharing::Capped => put("processors.sharing", json!("capped")),
                Sharing::Uncapped { weight } => {
                    put("processors.weight", json!(weight));
                    put("processors.sharing", json!("uncapped"))
                }
            };
        }
    }
    let memory = &partition.memory;
    put("memory.minimum", json!(memory.size.minimum));
    put("memory.desired", json!(memory.size.desired));
    put("memory.maximum", json!(memory.size.maximum));
    put("memory.base", json!(memory.base));
    put("memory.pages", json!(memory.pages));
    for disk in &partition.disks {
        put(&format!("disk.{}", disk.name), json!(disk));
    }
    for network in &partition.networks {
        put(&format!("network.{}", network.name), json!(network));
    }
    all
}

/// Each key of either that does not say the same in both.
fn differences<'m>(
    before: &'m BTreeMap<String, Value>,
    after: &'m BTreeMap<String, Value>,
) -> impl Iterator<Item = (&'m String, Value, Value)> {
    let removed = before.keys().filter(|key| !after.contains_key(*key));
    removed.chain(after.keys()).filter_map(|key| {
        let (old, new) = (before.get(key), after.get(key));
        (old != new).then(|| (key, old.cloned().unwrap_or(Value::Null), new.cloned().unwrap_or(Value::Null)))
    })
}

/// What is different of one partition, by key.
#[must_use]
pub fn of_partition(before: &Partition, after: &Partition, active: bool) -> Vec<Change> {
    if before == after {
        return vec![];
    }
    let (old, new) = (aspects(before), aspects(after));
    let live = aspects(&taken(before, after));
    let mut changes: Vec<Change> = differences(&old, &new)
        .map(|(key, before, value)| {
            let now = !active || live.get(key) == new.get(key);
            let when = if now { When::Now } else { When::Activation };
            Change { partition: Some(after.name.clone()), key: key.clone(), before, after: value, when }
        })
        .collect();
    changes.sort_by(|a, b| a.key.cmp(&b.key));
    changes
}

/// What is declared of a partition that runs as `running`, and waits for its next activation.
#[must_use]
pub fn pending(running: &Partition, declared: &Partition) -> Vec<Change> {
    of_partition(running, declared, true).into_iter().filter(|change| change.when == When::Activation).collect()
}

/// What belongs to the frame as a whole, by key.
fn frame_aspects(frame: &Frame) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    let bare = Frame { pools: vec![], switches: vec![], partitions: vec![], ..frame.clone() };
    if let Ok(Value::Object(fields)) = serde_json::to_value(bare) {
        let apart = ["pools", "switches", "partitions"];
        let fields = fields.into_iter().filter(|(key, _)| !apart.contains(&key.as_str()));
        // The file has a table of these.
        all.extend(fields.map(|(key, value)| (key.replace("reserved_", "reserved."), value)));
    }
    all.extend(frame.pools.iter().map(|pool| (format!("pool.{}", pool.name), json!({ "cpus": pool.cpus }))));
    all.extend(frame.switches.iter().map(|one| (format!("switch.{}", one.name), json!({ "uplink": one.uplink }))));
    all
}

fn by_name(frame: &Frame) -> BTreeMap<&Name, &Partition> {
    frame.partitions.iter().map(|partition| (&partition.name, partition)).collect()
}

/// What is different of a frame and its partitions: the frame first, then the partitions by name. `active` are those
/// that run.
#[must_use]
pub fn of_frame(before: &Frame, after: &Frame, active: &BTreeMap<Name, Active<'_>>) -> Vec<Change> {
    let (old, new) = (frame_aspects(before), frame_aspects(after));
    let of_all = differences(&old, &new).map(|(key, before, after)| Change {
        partition: None,
        key: key.clone(),
        before,
        after,
        when: When::Now,
    });
    let mut changes: Vec<Change> = of_all.collect();
    let (old, new) = (by_name(before), by_name(after));
    let whole = |name: &Name, before: Value, after: Value| Change {
        partition: Some(name.clone()),
        key: String::new(),
        before,
        after,
        when: When::Now,
    };
    let names: BTreeSet<&Name> = old.keys().chain(new.keys()).copied().collect();
    for name in names {
        match (old.get(name), new.get(name)) {
            (Some(before), Some(after)) => changes.extend(of_partition(before, after, active.contains_key(name))),
            (None, Some(_)) => changes.push(whole(name, Value::Null, json!("declared"))),
            (Some(_), None) => changes.push(whole(name, json!("declared"), Value::Null)),
            (None, None) => {}
        }
    }
    changes
}

/// Gives the partitions of `after` whose number is `automatic` the numbers that they have in `before`, and the others of
/// them the least that are free, in the order of names: who comes moves nobody.
pub fn keep_numbers(before: &Frame, after: &mut Frame, automatic: &dyn Fn(&Name) -> bool) {
    let had: BTreeMap<&Name, u32> = before.partitions.iter().map(|one| (&one.name, one.id)).collect();
    let mut taken: BTreeSet<u32> =
        after.partitions.iter().filter(|one| !automatic(&one.name)).map(|one| one.id).collect();
    let mut order: Vec<&mut Partition> = after.partitions.iter_mut().filter(|one| automatic(&one.name)).collect();
    order.sort_by(|a, b| a.name.cmp(&b.name));
    let mut new = vec![];
    for one in order {
        match had.get(&one.name).filter(|id| taken.insert(**id)) {
            Some(id) => one.id = *id,
            None => new.push(one),
        }
    }
    let mut next = 1;
    for one in new {
        while !taken.insert(next) {
            next += 1;
        }
        one.id = next;
    }
}

/// Why a frame that is up as `before` cannot be declared as `after` while `active` run.
#[must_use]
pub fn refusals(before: &Frame, after: &Frame, active: &BTreeMap<Name, Active<'_>>) -> Vec<Finding> {
    let mut found = vec![];
    let mut refuse = |text: String, claims: Vec<Claim>, help: &str| {
        found.push(Finding { rule: "held".into(), text, claims, help: Some(help.into()) });
    };
    const ANEW: &str = "bring the frame down with `lpar down`, and up with the new file";
    if before.name != after.name {
        refuse(format!("the frame that is up is {}, not {}", before.name, after.name), vec![], "give its own file");
        return found;
    }
    for (key, same) in [
        ("cpus", before.cpus == after.cpus),
        ("memory_block", before.memory_block == after.memory_block),
        ("shared_host", before.shared_host == after.shared_host),
    ] {
        if !same {
            refuse(format!("{key} of frame {} cannot change while it is up", after.name), vec![], ANEW);
        }
    }
    let shut = "shut down whoever uses it first, with `lpar shutdown`";
    let users = |uses: &dyn Fn(&Active<'_>) -> bool, key: &'static str| -> Vec<Claim> {
        active.iter().filter(|(_, one)| uses(one)).map(|(name, _)| claim(name, key, "uses it".into())).collect()
    };
    let cpus = |frame: &Frame, name: &Name| frame.pools.iter().find(|pool| pool.name == *name).map(|pool| pool.cpus);
    for Pool { name, .. } in before.pools.iter().filter(|pool| cpus(after, &pool.name) != Some(pool.cpus)) {
        let users = users(&|one| lives_on(one, name), "processors");
        if !users.is_empty() {
            refuse(format!("pool {name} cannot change or go while partitions live on it"), users, shut);
        }
    }
    let there = |switch: &Switch| after.switches.contains(switch);
    for Switch { name, .. } in before.switches.iter().filter(|switch| !there(switch)) {
        let users = users(&|one| one.declared.networks.iter().any(|network| network.switch == *name), "network");
        if !users.is_empty() {
            refuse(format!("switch {name} cannot change or go while adapters are on it"), users, shut);
        }
    }
    for (name, one) in active {
        let declares = |frame: &Frame| frame.partitions.iter().any(|partition| partition.name == *name);
        if declares(before) && !declares(after) {
            let text = format!("partition {name} runs, and would no longer be declared");
            refuse(text, vec![], "shut it down first, with `lpar shutdown`");
        }
        let Some(id) = one.plan.map(|plan| plan.id) else { continue };
        for other in after.partitions.iter().filter(|other| other.id == id && other.name != *name) {
            refuse(
                format!(
                    "partition {} would have the number {id}, which partition {name} has while it runs",
                    other.name
                ),
                vec![],
                "give it another `id`",
            );
        }
    }
    found
}

fn claim(name: &Name, key: &'static str, what: String) -> Claim {
    Claim { subject: Subject::Partition(name.clone()), key: Cow::Borrowed(key), what }
}

/// Whether a partition's processors or device threads are on a pool.
fn lives_on(active: &Active<'_>, pool: &Name) -> bool {
    if let Some(plan) = active.plan
        && let Backing::Shared { pool: own, .. } = &plan.backing
    {
        return own == pool;
    }
    match &active.declared.processors.mode {
        ProcessorMode::Shared { pool: own, .. } | ProcessorMode::Dedicated { io: IoProcessors::Pool(own) } => {
            own == pool
        }
        ProcessorMode::Dedicated { io: IoProcessors::Own } => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpuset::CpuSet;
    use crate::declare::{Boot, Memory, Processors, Range, Shutdown, WhenInactive};
    use crate::units::{MIB, Units};
    use proptest::prelude::*;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn partition(text: &str, id: u32) -> Partition {
        let units = |thousandths| Units::from_thousandths(thousandths);
        let mode = ProcessorMode::Shared {
            pool: name("default"),
            units: Range { minimum: units(100), desired: units(200), maximum: units(500) },
            sharing: Sharing::Uncapped { weight: 64 },
        };
        let size = Range { minimum: 32 * MIB, desired: 64 * MIB, maximum: 64 * MIB };
        Partition {
            name: name(text),
            id,
            availability_priority: 127,
            processors: Processors { count: Range { minimum: 1, desired: 1, maximum: 2 }, mode },
            memory: Memory { size, base: 64 * MIB, pages: None },
            boot: Boot::Diagnostics { cmdline: String::new() },
            auto_start: true,
            when_inactive: WhenInactive::Hold,
            shutdown: Shutdown::default(),
            pit: None,
            exit_device: false,
            panic_device: false,
            watchdog: None,
            interrupts: crate::launch::InterruptMode::Kernel,
            interrupt_limit: crate::storm::Limit::default(),
            entropy: None,
            disks: vec![],
            networks: vec![],
            vsock: None,
            console: None,
        }
    }

    fn frame(partitions: Vec<Partition>) -> Frame {
        Frame {
            name: name("f"),
            cpus: None,
            memory_block: 2 * MIB,
            reserved_cpus: 0,
            reserved_memory: 0,
            minimum_units: Units::from_thousandths(50),
            shared_host: false,
            pools: vec![Pool { name: name("default"), cpus: 1 }],
            switches: vec![],
            partitions,
        }
    }

    fn keys(changes: &[Change]) -> Vec<(&str, When)> {
        changes.iter().map(|change| (change.key.as_str(), change.when)).collect()
    }

    #[test]
    fn what_a_partition_is_entitled_to_changes_at_once_and_the_rest_waits() {
        let before = partition("a", 1);
        let mut after = before.clone();
        after.memory.size.desired = 32 * MIB;
        after.vsock = Some(crate::declare::Vsock { cid: None });
        if let ProcessorMode::Shared { units, sharing, .. } = &mut after.processors.mode {
            units.desired = Units::from_thousandths(300);
            *sharing = Sharing::Uncapped { weight: 9 };
        }
        let changes = of_partition(&before, &after, true);
        let expected = [
            ("memory.desired", When::Activation),
            ("processors.units.desired", When::Now),
            ("processors.weight", When::Now),
            ("vsock", When::Activation),
        ];
        assert_eq!(keys(&changes), expected);
        assert_eq!((&changes[1].before, &changes[1].after), (&json!(0.2), &json!(0.3)));
        assert!(of_partition(&before, &after, false).iter().all(|change| change.when == When::Now));
        let taken = taken(&before, &after);
        assert_eq!(keys(&pending(&taken, &after)), [("memory.desired", When::Activation), ("vsock", When::Activation)]);
        // To another pool, nothing goes at once.
        if let ProcessorMode::Shared { pool, .. } = &mut after.processors.mode {
            *pool = name("other");
        }
        assert!(of_partition(&before, &after, true).iter().all(|change| change.when == When::Activation));
    }

    #[test]
    fn what_comes_and_goes_is_named() {
        let before = frame(vec![partition("a", 1), partition("b", 2)]);
        let mut after = frame(vec![partition("b", 2), partition("c", 3)]);
        after.pools.push(Pool { name: name("more"), cpus: 2 });
        let changes = of_frame(&before, &after, &BTreeMap::new());
        let rows: Vec<(Option<&str>, &str, bool)> = changes
            .iter()
            .map(|change| (change.partition.as_ref().map(Name::as_str), change.key.as_str(), change.before.is_null()))
            .collect();
        assert_eq!(rows, [(None, "pool.more", true), (Some("a"), "", false), (Some("c"), "", true)]);
        assert_eq!(of_frame(&before, &before, &BTreeMap::new()), []);
    }

    fn planned(partition: &Partition) -> PartitionPlan {
        let ProcessorMode::Shared { pool, units, sharing } = &partition.processors.mode else { panic!() };
        PartitionPlan {
            name: partition.name.clone(),
            id: partition.id,
            cpus: CpuSet::new(),
            processors: vec![CpuSet::new()],
            io: CpuSet::new(),
            backing: Backing::Shared { pool: pool.clone(), units: units.desired, sharing: *sharing },
            memory: vec![],
            base: 0,
            score: 100,
        }
    }

    #[test]
    fn what_runs_keeps_what_it_stands_on() {
        let (a, b) = (partition("a", 1), partition("b", 2));
        let plan = planned(&a);
        let active = BTreeMap::from([(name("a"), Active { declared: &a, plan: Some(&plan) })]);
        let before = frame(vec![a.clone(), b.clone()]);
        let refused = |after: &Frame| -> Vec<String> {
            refusals(&before, after, &active).iter().map(ToString::to_string).collect()
        };
        assert_eq!(refused(&before), [""; 0]);
        // Who does not run may go, and others may come.
        assert_eq!(refused(&frame(vec![a.clone(), partition("c", 2)])), [""; 0]);
        let cases: [(Frame, &str); 6] = [
            (frame(vec![b.clone()]), "partition a runs, and would no longer be declared"),
            (frame(vec![partition("a", 3), partition("b", 1)]), "partition b would have the number 1"),
            (Frame { pools: vec![Pool { name: name("default"), cpus: 2 }], ..before.clone() }, "partition a uses it"),
            (Frame { memory_block: 4 * MIB, ..before.clone() }, "memory_block"),
            (Frame { shared_host: true, ..before.clone() }, "lpar down"),
            (Frame { name: name("g"), ..before.clone() }, "is f, not g"),
        ];
        for (after, part) in cases {
            let texts = refused(&after);
            assert!(texts.len() == 1 && texts[0].contains(part), "{part:?} is missing in {texts:?}");
        }
    }

    #[test]
    fn who_comes_moves_nobody() {
        let before = frame(vec![partition("b", 1), partition("d", 2), partition("e", 5)]);
        // As the file numbers them; "c" says so itself.
        let mut after = frame(vec![partition("a", 1), partition("b", 3), partition("c", 2), partition("d", 4)]);
        after.partitions.push(partition("e", 5));
        keep_numbers(&before, &mut after, &|name| name.as_str() != "c");
        let ids: Vec<u32> = after.partitions.iter().map(|one| one.id).collect();
        assert_eq!(ids, [3, 1, 2, 4, 5]);
        let mut again = after.clone();
        keep_numbers(&after, &mut again, &|name| name.as_str() != "c");
        assert_eq!(again, after);
    }

    #[test]
    fn a_switch_with_adapters_on_it_stays() {
        let lan = Switch { name: name("lan"), uplink: None };
        let mut a = partition("a", 1);
        a.networks.push(crate::declare::Network {
            name: name("n"),
            switch: name("lan"),
            vlan: 1,
            tagged: vec![],
            mac: None,
            queues: 1,
            slot: None,
            operations: None,
            bandwidth: None,
        });
        let before = Frame { switches: vec![lan.clone()], ..frame(vec![a.clone()]) };
        let after = Frame { switches: vec![Switch { uplink: Some("eth0".into()), ..lan }], ..before.clone() };
        let active = BTreeMap::from([(name("a"), Active { declared: &a, plan: None })]);
        assert_eq!(refusals(&before, &after, &active).len(), 1);
        assert_eq!(refusals(&before, &after, &BTreeMap::new()), []);
    }

    fn partitions() -> impl Strategy<Value = Partition> {
        let shared = (any::<bool>(), 1..500u32, any::<Option<u8>>()).prop_map(|(other, desired, weight)| {
            let units = |thousandths| Units::from_thousandths(thousandths);
            ProcessorMode::Shared {
                pool: name(if other { "other" } else { "default" }),
                units: Range { minimum: units(1), desired: units(desired), maximum: units(500) },
                sharing: weight.map_or(Sharing::Capped, |weight| Sharing::Uncapped { weight }),
            }
        });
        let mode = prop_oneof![3 => shared, 1 => Just(ProcessorMode::Dedicated { io: IoProcessors::Own })];
        (mode, 1..4u32, 1..4u64, any::<u8>(), any::<bool>(), any::<bool>()).prop_map(
            |(mode, count, mib, availability_priority, auto_start, exit_device)| {
                let mut partition = partition("a", 1);
                partition.processors.mode = mode;
                partition.processors.count.desired = count;
                partition.memory.size.desired = mib * MIB;
                Partition { availability_priority, auto_start, exit_device, ..partition }
            },
        )
    }

    proptest! {
        #[test]
        fn nothing_is_different_exactly_when_nothing_was_said(before in partitions(), after in partitions()) {
            for active in [false, true] {
                let changes = of_partition(&before, &after, active);
                prop_assert_eq!(changes.is_empty(), before == after);
            }
            // What was taken is not taken again, and what waits is what is still different.
            let taken_once = taken(&before, &after);
            prop_assert_eq!(&taken(&taken_once, &after), &taken_once);
            prop_assert_eq!(pending(&taken_once, &after), of_partition(&taken_once, &after, true));
            prop_assert_eq!(pending(&before, &after).len(), pending(&taken_once, &after).len());
        }
    }
}
