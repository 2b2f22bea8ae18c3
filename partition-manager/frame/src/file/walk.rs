//! From the TOML tree to a frame.
//!
//! What is not understood is reported and stands as a harmless placeholder, so that the rest is still
//! checked; a frame with an error is never given out.

use super::fields::{At, Fields, Sink};
use super::spans::Spans;
use super::{MOST_PARTITIONS, MOST_POOLS, partition, rules};
use crate::cpuset::{CpuSet, HIGHEST};
use crate::declare::{Frame, Pool};
use crate::diagnostic::Diagnostic;
use crate::inventory::PAGE;
use crate::name::Name;
use crate::plan::Subject;
use crate::units::{GIB, MIB, Units, show_size};
use toml::de::DeTable;

/// The memory block when none is declared, bytes.
pub const MEMORY_BLOCK: u64 = 2 * MIB;
/// The host's own CPUs when none are declared.
pub const RESERVED_CPUS: u32 = 1;
/// The host's own memory when none is declared, bytes.
pub const RESERVED_MEMORY: u64 = 512 * MIB;
/// The least entitlement of a virtual processor when none is declared.
pub const MINIMUM_UNITS: Units = Units::from_thousandths(50);

/// What partitions need to know of the frame that they are in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Allocation granule, bytes.
    pub(super) block: u64,
    /// Least entitlement of a virtual processor.
    pub(super) least: Units,
}

/// Something with a name, and where the name stands.
pub(super) struct Named<T> {
    pub(super) item: T,
    pub(super) name: At<Name>,
}

/// Reads the whole tree.
pub(super) fn frame(table: &DeTable<'_>, sink: &mut Sink) -> (Frame, Spans) {
    let mut spans = Spans::default();
    let mut top = Fields::new(table, 0..0, "the file");
    let mut frame = match top.table(sink, "frame", "[frame]") {
        Some(fields) => head(fields, sink, &mut spans),
        None => {
            if !top.has("frame") {
                top.missing(sink, "[frame] table", "begin the file with [frame] and name = \"...\"");
            }
            empty()
        }
    };
    let bounds = Bounds { block: frame.memory_block, least: frame.minimum_units };
    let pools = top.tables(sink, "pool", MOST_POOLS);
    let declared = pools.len();
    let pools: Vec<Named<Pool>> = pools.into_iter().filter_map(|fields| pool(fields, sink, &mut spans)).collect();
    // A pool whose name is not understood may be the one that is missed.
    let all_pools_known = pools.len() == declared;
    let partitions: Vec<Named<partition::Declared>> = top
        .tables(sink, "partition", MOST_PARTITIONS)
        .into_iter()
        .filter_map(|fields| partition::read(fields, bounds, sink, &mut spans))
        .collect();
    top.finish(
        sink,
        &[("switch", "this version has no virtual switches"), ("defaults", "this version has no defaults")],
    );
    rules::duplicates(&pools, &partitions, sink);
    frame.pools = pools.into_iter().map(|pool| pool.item).collect();
    frame.partitions = partition::number(partitions.into_iter().map(|partition| partition.item).collect());
    rules::check(&frame, &spans, all_pools_known, sink);
    (frame, spans)
}

fn empty() -> Frame {
    // A placeholder only: a file without a frame's name has an error.
    Frame {
        name: Name::placeholder(),
        cpus: None,
        memory_block: MEMORY_BLOCK,
        reserved_cpus: RESERVED_CPUS,
        reserved_memory: RESERVED_MEMORY,
        minimum_units: MINIMUM_UNITS,
        shared_host: false,
        pools: vec![],
        partitions: vec![],
    }
}

fn head(mut fields: Fields<'_, '_>, sink: &mut Sink, spans: &mut Spans) -> Frame {
    let mut frame = empty();
    match fields.name(sink, "name") {
        Some(name) => frame.name = name.value,
        None if !fields.has("name") => fields.missing(sink, "name", "give the frame a name: name = \"rack7\""),
        None => {}
    }
    let cpus = fields.read(sink, "cpus", "bad-cpus", "CPUs in quotes, such as \"0-15\"", CpuSet::parse);
    if let Some(cpus) = &cpus
        && cpus.value.is_empty()
    {
        sink.push(
            Diagnostic::error("bad-cpus", "the frame has no CPU")
                .at(cpus.span.clone(), "this is empty")
                .help("name CPUs such as \"0-15\", or leave cpus out to take the whole host"),
        );
    }
    frame.cpus = cpus.map(|cpus| cpus.value).filter(|cpus| !cpus.is_empty());
    if let Some(block) = fields.size(sink, "memory_block") {
        if block.value.is_power_of_two() && (PAGE..=GIB).contains(&block.value) {
            frame.memory_block = block.value;
        } else {
            let message = format!("memory_block cannot be {}", show_size(block.value));
            sink.push(
                Diagnostic::error("memory-block", message)
                    .at(block.span, "a power of two from 4KiB to 1GiB")
                    .help("2MiB suits most hosts"),
            );
        }
    }
    if let Some(mut reserved) = fields.table(sink, "reserved", "reserved") {
        if let Some(cpus) = reserved.number(sink, "cpus", 0..=HIGHEST) {
            frame.reserved_cpus = cpus.value;
        }
        if let Some(memory) = reserved.size(sink, "memory") {
            frame.reserved_memory = memory.value;
        }
        reserved.note(spans, &Subject::Frame, "reserved.");
        reserved.finish(sink, &[]);
    }
    if let Some(least) = fields.units(sink, "minimum_units") {
        if least.value <= Units::ONE {
            frame.minimum_units = least.value;
        } else {
            sink.push(
                Diagnostic::error("out-of-range", "minimum_units is more than a processor has")
                    .at(least.span, "from 0.001 to 1"),
            );
        }
    }
    if let Some(shared) = fields.truth(sink, "shared_host") {
        frame.shared_host = shared.value;
    }
    spans.note(&Subject::Frame, "", fields.span.clone());
    fields.note(spans, &Subject::Frame, "");
    fields.finish(sink, &[]);
    frame
}

fn pool(mut fields: Fields<'_, '_>, sink: &mut Sink, spans: &mut Spans) -> Option<Named<Pool>> {
    let name = fields.name(sink, "name");
    if name.is_none() && !fields.has("name") {
        fields.missing(sink, "name", "give the pool a name: name = \"default\"");
    }
    let cpus = fields.number(sink, "cpus", 1..=HIGHEST);
    if cpus.is_none() && !fields.has("cpus") {
        fields.missing(sink, "cpus", "say how many physical CPUs the pool has: cpus = 1");
    }
    if let Some(name) = &name {
        let subject = Subject::Pool(name.value.clone());
        spans.note(&subject, "", fields.span.clone());
        fields.note(spans, &subject, "");
    }
    fields.finish(sink, &[]);
    let name = name?;
    // A pool whose size is not understood takes nothing, and gives enough.
    let cpus = cpus.map_or(0, |cpus| cpus.value);
    Some(Named { item: Pool { name: name.value.clone(), cpus }, name })
}
