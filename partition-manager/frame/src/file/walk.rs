//! From the TOML trees to a frame.
//!
//! What is not understood is reported and stands as a harmless placeholder, so that the rest is still
//! checked; a frame with an error is never given out.

use super::fields::{At, Fields, Layer};
use super::include::Opened;
use super::network::{self, DeclaredSwitch, MOST_SWITCHES};
use super::sink::Sink;
use super::spans::{Keys, Spans};
use super::{MOST_PARTITIONS, MOST_POOLS, MOST_TEXT, device, parse, partition, rules};
use crate::cpuset::{CpuSet, HIGHEST};
use crate::declare::{Frame, Pool};
use crate::diagnostic::Diagnostic;
use crate::inventory::PAGE;
use crate::name::Name;
use crate::plan::Subject;
use crate::rule;
use crate::units::{GIB, MIB, Units, show_size};
use std::ops::Range;
use std::sync::Arc;

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

/// Something with a name, and where the name stands; nowhere when it has none that is understood.
pub(super) struct Named<T> {
    pub(super) item: T,
    pub(super) place: Option<Range<usize>>,
}

/// What was read of all files so far.
pub(super) struct Gathered {
    frame: Frame,
    pools: Vec<Named<Pool>>,
    switches: Vec<DeclaredSwitch>,
    pub(super) partitions: Vec<Named<partition::Declared>>,
    pub(super) spans: Spans,
    /// Bytes that paths and command lines may still have.
    pub(super) text_left: usize,
    /// Whether a part of some file was not read: what is missed may stand there.
    incomplete: bool,
}

impl Gathered {
    pub(super) fn new() -> Self {
        Self {
            frame: empty(),
            pools: vec![],
            switches: vec![],
            partitions: vec![],
            spans: Spans::default(),
            text_left: MOST_TEXT,
            incomplete: false,
        }
    }

    /// Notes that something of the files was not read.
    pub(super) fn lacks_something(&mut self) {
        self.incomplete = true;
    }

    /// Checks what spans several declarations, and gives the frame.
    pub(super) fn finish(self, sink: &mut Sink) -> (Frame, Spans) {
        rules::duplicates(&self.pools, &self.partitions, sink);
        network::duplicates(&self.switches, sink);
        // A pool whose name is not understood may be the one that is missed.
        let all_pools_known = !self.incomplete && self.pools.iter().all(|pool| pool.place.is_some());
        let all_switches_known = !self.incomplete && self.switches.iter().all(|one| one.switch.place.is_some());
        let mut frame = self.frame;
        frame.pools = self.pools.into_iter().map(|pool| pool.item).collect();
        frame.partitions = partition::number(self.partitions.into_iter().map(|one| one.item).collect());
        frame.switches = self.switches.into_iter().map(|one| one.switch.item).collect();
        rules::check(&frame, &self.spans, all_pools_known, sink);
        network::check(&frame, &self.spans, all_switches_known, sink);
        device::check(&frame, &self.spans, sink);
        (frame, self.spans)
    }
}

/// Reads the file at a path, below the defaults that the including file has for it.
pub(super) type Include<'f> = &'f mut dyn FnMut(At<&str>, &[Layer<'_, '_>], &mut Gathered, &mut Sink);

/// Reads a file into `gathered`; `defaults` are those of the files that include it, nearest first. `include` is
/// called for each file that this one includes, with the defaults for it.
pub(super) fn file(
    opened: &Opened,
    defaults: &[Layer<'_, '_>],
    gathered: &mut Gathered,
    sink: &mut Sink,
    include: Include<'_>,
) {
    let base = opened.base;
    if let Err((readable, more)) = parse::bearable(&opened.text) {
        parse::tree(readable, base, sink);
        sink.drop_more(more);
        gathered.lacks_something();
        return;
    }
    let mended = parse::mend(&opened.text, base, sink);
    let tree = parse::tree(&mended, base, sink);
    let layer = Layer::new(tree.get_ref(), base, &opened.directory);
    let mut top = Fields::new(layer, base..base, "the file");
    let included = top.texts(sink, "include", "files in quotes, such as [\"tenants.toml\"]");
    head(&mut top, opened.is_root, sink, gathered);
    let bounds = Bounds { block: gathered.frame.memory_block, least: gathered.frame.minimum_units };

    let mut layers = vec![];
    if let Some(own) = top.table(sink, "defaults", "[defaults]", |_, _| true) {
        layers.extend(own.top().map(Layer::as_default));
        partition::defaults(own, bounds, sink);
    }
    layers.extend_from_slice(defaults);

    let room = MOST_POOLS.saturating_sub(gathered.pools.len());
    for fields in top.tables(sink, "pool", room) {
        pool(fields, sink, gathered);
    }
    let room = MOST_SWITCHES.saturating_sub(gathered.switches.len());
    for fields in top.tables(sink, "switch", room) {
        let number = gathered.switches.len();
        gathered.switches.push(network::switch(fields, number, sink));
    }
    let room = MOST_PARTITIONS.saturating_sub(gathered.partitions.len());
    for fields in top.tables(sink, "partition", room) {
        if gathered.text_left == 0 {
            break;
        }
        partition::read(fields.with_defaults(&layers), bounds, gathered, sink);
    }
    top.finish(sink, &[("default", rule::UNKNOWN_KEY, "it is called [defaults]")]);
    for path in included {
        include(path, &layers, gathered, sink);
    }
}

/// Reads `[frame]`, which stands in the frame file and nowhere else.
fn head(top: &mut Fields<'_, '_>, is_root: bool, sink: &mut Sink, gathered: &mut Gathered) {
    if !is_root {
        if let Some(found) = top.value("frame") {
            let message = "an included file has a [frame]";
            let mut diagnostic = Diagnostic::of(rule::INCLUDE_FRAME, message).at(found.span, "remove this");
            if let Some(place) = gathered.spans.exactly(&Subject::Frame, "") {
                diagnostic = diagnostic.see(place, "the frame's own");
            }
            sink.push(diagnostic);
        }
        return;
    }
    match top.table(sink, "frame", "[frame]", |_, _| true) {
        Some(fields) => frame(fields, sink, gathered),
        None if !top.has("frame") => {
            top.missing(sink, "[frame] table", "begin the file with [frame] and name = \"...\"");
        }
        None => {}
    }
}

fn empty() -> Frame {
    // A placeholder only: a file without a frame's name has an error.
    Frame {
        name: Name::placeholder(0),
        cpus: None,
        memory_block: MEMORY_BLOCK,
        reserved_cpus: RESERVED_CPUS,
        reserved_memory: RESERVED_MEMORY,
        minimum_units: MINIMUM_UNITS,
        shared_host: false,
        pools: vec![],
        switches: vec![],
        partitions: vec![],
    }
}

fn frame(mut fields: Fields<'_, '_>, sink: &mut Sink, gathered: &mut Gathered) {
    let mut keys = Keys::default();
    let frame = &mut gathered.frame;
    match fields.name(sink, "name") {
        Some(name) => frame.name = name.value,
        None if !fields.has("name") => fields.missing(sink, "name", "give the frame a name: name = \"rack7\""),
        None => {}
    }
    let cpus = fields.read(sink, "cpus", rule::BAD_CPUS, "CPUs in quotes, such as \"0-15\"", CpuSet::parse);
    if let Some(cpus) = cpus.as_ref().filter(|cpus| cpus.value.is_empty()) {
        sink.push(Diagnostic::of(rule::NO_CPUS, "the frame has no CPU").at(cpus.span.clone(), "this is empty"));
    }
    frame.cpus = cpus.map(|cpus| cpus.value).filter(|cpus| !cpus.is_empty());
    if let Some(block) = fields.size(sink, "memory_block") {
        if block.value.is_power_of_two() && (PAGE..=GIB).contains(&block.value) {
            frame.memory_block = block.value;
        } else {
            let message = format!("memory_block cannot be {}", show_size(block.value));
            sink.push(Diagnostic::of(rule::MEMORY_BLOCK, message).at(block.span, "a power of two from 4KiB to 1GiB"));
        }
    }
    if let Some(mut reserved) = fields.table(sink, "reserved", "reserved", |_, _| true) {
        if let Some(cpus) = reserved.number(sink, "cpus", 0..=HIGHEST) {
            frame.reserved_cpus = cpus.value;
        }
        if let Some(memory) = reserved.size(sink, "memory") {
            frame.reserved_memory = memory.value;
        }
        reserved.note(&mut keys, "reserved.");
        reserved.finish(sink, &[]);
    }
    if let Some(least) = fields.units(sink, "minimum_units") {
        if least.value <= Units::ONE {
            frame.minimum_units = least.value;
        } else {
            sink.push(
                Diagnostic::of(rule::UNITS_RANGE, "minimum_units is more than a processor has")
                    .at(least.span, "from 0.001 to 1")
                    .help("1 is the most, 0.001 the least"),
            );
        }
    }
    if let Some(shared) = fields.truth(sink, "shared_host") {
        frame.shared_host = shared.value;
    }
    keys.note("", fields.span.clone());
    fields.note(&mut keys, "");
    gathered.spans.note(Subject::Frame, Arc::new(keys));
    fields.finish(sink, &[("include", rule::INCLUDE_POSITION, "it stands above the first [header]")]);
}

fn pool(mut fields: Fields<'_, '_>, sink: &mut Sink, gathered: &mut Gathered) {
    let mut keys = Keys::default();
    let name = fields.name(sink, "name");
    if name.is_none() && !fields.has("name") {
        fields.missing(sink, "name", "give the pool a name: name = \"default\"");
    }
    let cpus = fields.number(sink, "cpus", 1..=HIGHEST);
    if cpus.is_none() && !fields.has("cpus") {
        fields.missing(sink, "cpus", "say how many physical CPUs the pool has: cpus = 1");
    }
    let (name, place) = match name {
        Some(name) => (name.value, Some(name.span)),
        None => (Name::placeholder(gathered.pools.len()), None),
    };
    keys.note("", fields.span.clone());
    fields.note(&mut keys, "");
    gathered.spans.note(Subject::Pool(name.clone()), Arc::new(keys));
    fields.finish(sink, &[]);
    // A pool whose size is not understood takes nothing, and gives enough.
    let cpus = cpus.map_or(0, |cpus| cpus.value);
    gathered.pools.push(Named { item: Pool { name, cpus }, place });
}
