//! Whether a frame contradicts itself.
//!
//! The file reader says all this better, with places. A frame may also come as data, and a plan must not
//! rest on nonsense.

use super::finding::{Claim, Finding, Subject, claim};
use crate::declare::{Frame, IoProcessors, Partition, ProcessorMode, Range};
use crate::inventory::PAGE;
use crate::launch::MOST_PROCESSORS;
use crate::units::{Units, show_size};
use std::collections::BTreeMap;

/// Every contradiction in `frame`.
pub(super) fn check(frame: &Frame) -> Vec<Finding> {
    let mut found = Vec::new();
    let block = frame.memory_block;
    if !block.is_power_of_two() || block < PAGE {
        found.push(Finding {
            rule: "memory-block".into(),
            text: format!("memory_block is {block} bytes, which is no power of two of at least 4 KiB"),
            claims: vec![],
            help: Some("write a size such as \"2MiB\"".into()),
        });
    }
    let mut pools = BTreeMap::new();
    for pool in &frame.pools {
        if pools.insert(&pool.name, pool.cpus).is_some() {
            found.push(twice(
                format!("the pool name {} is declared twice", pool.name),
                Subject::Pool(pool.name.clone()),
            ));
        }
        if pool.cpus == 0 {
            found.push(Finding {
                rule: "pool-empty".into(),
                text: format!("pool {} has no CPU", pool.name),
                claims: vec![Claim {
                    subject: Subject::Pool(pool.name.clone()),
                    key: "cpus".into(),
                    what: "has 0 CPUs".into(),
                }],
                help: Some("give the pool at least 1 CPU".into()),
            });
        }
    }
    let mut names = BTreeMap::new();
    let mut ids = BTreeMap::new();
    for partition in &frame.partitions {
        let subject = Subject::Partition(partition.name.clone());
        if names.insert(&partition.name, ()).is_some() {
            found.push(twice(format!("the partition name {} is declared twice", partition.name), subject.clone()));
        }
        if let Some(other) = ids.insert(partition.id, &partition.name) {
            let mut finding =
                twice(format!("partitions {other} and {} both have id {}", partition.name, partition.id), subject);
            finding.claims.push(claim(other, "id", format!("has id {}", partition.id)));
            found.push(finding);
        }
        let pool = match &partition.processors.mode {
            ProcessorMode::Shared { pool, .. } | ProcessorMode::Dedicated { io: IoProcessors::Pool(pool) } => {
                Some(pool)
            }
            ProcessorMode::Dedicated { io: IoProcessors::Own } => None,
        };
        if let Some(pool) = pool.filter(|pool| !pools.contains_key(pool)) {
            found.push(Finding {
                rule: "pool-missing".into(),
                text: format!("partition {} names pool {pool}, which is not declared", partition.name),
                claims: vec![claim(&partition.name, "processors", format!("names pool {pool}"))],
                help: Some(format!("declare it: [[pool]] name = \"{pool}\", or name another")),
            });
        }
        amounts(frame, partition, &mut found);
    }
    found
}

fn twice(text: String, subject: Subject) -> Finding {
    let claims = vec![Claim { subject, key: "name".into(), what: "is declared again".into() }];
    Finding { rule: "duplicate".into(), text, claims, help: Some("rename or renumber one of them".into()) }
}

fn ordered<T: PartialOrd>(range: &Range<T>) -> bool {
    range.minimum <= range.desired && range.desired <= range.maximum
}

fn amounts(frame: &Frame, partition: &Partition, found: &mut Vec<Finding>) {
    let name = &partition.name;
    let mut refuse = |key: &'static str, text: String, help: &str| {
        found.push(Finding {
            rule: "amount".into(),
            text: format!("partition {name}: {text}"),
            claims: vec![claim(name, key, "says so".into())],
            help: Some(help.into()),
        });
    };
    let count = &partition.processors.count;
    if !ordered(count) || count.minimum == 0 || count.maximum as usize > MOST_PROCESSORS {
        refuse(
            "processors",
            format!("processors {}..{}..{} are no range", count.minimum, count.desired, count.maximum),
            "1 <= minimum <= desired <= maximum <= 64",
        );
    }
    if let ProcessorMode::Shared { units, .. } = &partition.processors.mode {
        let least = |count: u32| u64::from(frame.minimum_units.thousandths()) * u64::from(count);
        let enough = |units: Units, count: u32| u64::from(units.thousandths()) >= least(count);
        let suits = enough(units.desired, count.desired)
            && enough(units.minimum, count.minimum)
            && units.minimum > Units::ZERO
            && units.desired <= Units::whole(count.desired)
            && units.maximum <= Units::whole(count.maximum);
        if !ordered(units) || !suits {
            refuse(
                "processors.units",
                format!("units {}..{}..{} do not suit its processors", units.minimum, units.desired, units.maximum),
                "minimum <= desired <= maximum; at least minimum_units and at most 1.00 for each virtual processor",
            );
        }
    }
    let memory = &partition.memory;
    let pages = memory.pages.unwrap_or(PAGE);
    if !pages.is_power_of_two() || pages < PAGE {
        refuse("memory.pages", format!("pages of {pages} bytes do not exist"), "use \"any\", \"2MiB\" or \"1GiB\"");
        return;
    }
    let granule = frame.memory_block.max(pages).max(1);
    let sizes = [memory.size.minimum, memory.size.desired, memory.size.maximum, memory.base];
    if !ordered(&memory.size) || memory.size.minimum == 0 || sizes.iter().any(|size| !size.is_multiple_of(granule)) {
        refuse(
            "memory",
            format!(
                "memory {}..{}..{} is no range of multiples of {}",
                show_size(memory.size.minimum),
                show_size(memory.size.desired),
                show_size(memory.size.maximum),
                show_size(granule)
            ),
            "minimum <= desired <= maximum, each a multiple of memory_block and of the page size, none zero",
        );
    }
}
