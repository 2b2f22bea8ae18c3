//! The leaves that say where a processor is and with whom it shares its caches.

use super::{Facts, Vendor, entry, with};
use frame::inventory::CacheKind;
use frame::launch::{CacheSpec, Place};
use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};
use std::collections::BTreeMap;

const MULTITHREADED: u32 = 1 << 28;
const LEGACY_MULTICORE: u32 = 1 << 1;
const TOPOLOGY_EXTENSIONS: u32 = 1 << 22;
/// AMD's leaf of extended identifiers, the second one of its topology extensions.
const EXTENDED_IDENTIFIERS: u32 = 0x8000_001e;
/// Cache leaves: the cache needs no initialization by software.
const SELF_INITIALIZING: u32 = 1 << 8;

/// Puts the topology of virtual processor `index` into `table`.
pub(super) fn put(
    table: &mut Vec<kvm_cpuid_entry2>,
    offered: &[kvm_cpuid_entry2],
    vendor: Vendor,
    facts: &Facts,
    index: usize,
    highest: u32,
) {
    let has = |function: u32| offered.iter().any(|entry| entry.function == function);
    // A guest on AMD finds caches by the topology extensions. They are leaves and nothing else, so they are told
    // also where the host's processor has none, if there is something to tell.
    let extended = vendor == Vendor::Amd && (has(EXTENDED_IDENTIFIERS) || !facts.caches.is_empty());
    if extended && !has(EXTENDED_IDENTIFIERS) {
        table.push(entry(EXTENDED_IDENTIFIERS, [0; 4]));
    }
    let seat = Seat::new(facts, index);
    for entry in table.iter_mut() {
        seat.adjust(entry, vendor);
        match entry.function {
            0x8000_0000 if extended => entry.eax = entry.eax.max(EXTENDED_IDENTIFIERS),
            0x8000_0001 if vendor == Vendor::Amd => entry.ecx = with(entry.ecx, TOPOLOGY_EXTENSIONS, extended),
            _ => {}
        }
    }
    // Intel's leaf says nothing on AMD.
    for (function, there) in [(4, has(4)), (0x8000_001d, extended)] {
        if there {
            table.extend(caches(function, offered, facts));
        }
    }
    for function in [0xb, 0x1f] {
        if highest >= function {
            table.extend(seat.levels(function));
        }
    }
}

/// Where one processor is, and how many there are around it.
#[derive(Clone, Copy, Debug)]
struct Seat {
    id: u32,
    place: Place,
    thread_bits: u32,
    package_shift: u32,
    /// Most threads of a core, and most processors of a package.
    threads: u32,
    processors: u32,
}

impl Seat {
    fn new(facts: &Facts, index: usize) -> Self {
        let most = |group: fn(&Place) -> (u32, u32)| {
            let mut sizes: BTreeMap<(u32, u32), u32> = BTreeMap::new();
            for place in &facts.places {
                *sizes.entry(group(place)).or_default() += 1;
            }
            sizes.into_values().max().unwrap_or(1)
        };
        Self {
            id: facts.id(index),
            place: facts.places.get(index).copied().unwrap_or_default(),
            thread_bits: facts.layout.thread_bits,
            package_shift: facts.layout.package_shift(),
            threads: most(|place| (place.package, place.core)),
            processors: most(|place| (place.package, 0)),
        }
    }

    fn adjust(&self, entry: &mut kvm_cpuid_entry2, vendor: Vendor) {
        let several = self.processors > 1;
        match entry.function {
            1 => {
                let addressable = (1u32 << self.package_shift).min(255);
                entry.ebx = entry.ebx & 0xffff | addressable << 16 | (self.id & 0xff) << 24;
                entry.edx = with(entry.edx, MULTITHREADED, several);
            }
            0x8000_0001 if vendor == Vendor::Amd => {
                entry.ecx = with(entry.ecx, LEGACY_MULTICORE, several);
            }
            0x8000_0008 if vendor == Vendor::Amd => {
                entry.ecx = entry.ecx & !0xf0ff | (self.processors - 1).min(255) | self.package_shift << 12;
            }
            EXTENDED_IDENTIFIERS if vendor == Vendor::Amd => {
                entry.eax = self.id;
                entry.ebx = self.place.core & 0xff | (self.threads - 1).min(255) << 8;
                // One node for each package, with its number.
                entry.ecx = self.place.package & 0xff;
                entry.edx = 0;
            }
            _ => {}
        }
    }

    /// The extended topology: threads, cores, and no level above but the package.
    fn levels(&self, function: u32) -> [kvm_cpuid_entry2; 3] {
        const THREADS: u32 = 1;
        const CORES: u32 = 2;
        let level = |index: u32, shift: u32, below: u32, kind: u32| kvm_cpuid_entry2 {
            function,
            index,
            flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
            eax: shift,
            ebx: below,
            ecx: index | kind << 8,
            edx: self.id,
            ..Default::default()
        };
        [
            level(0, self.thread_bits, self.threads, THREADS),
            level(1, self.package_shift, self.processors, CORES),
            level(2, 0, 0, 0),
        ]
    }
}

/// What a cache leaf calls a kind of cache.
const fn number(kind: CacheKind) -> u32 {
    match kind {
        CacheKind::Data => 1,
        CacheKind::Instruction => 2,
        CacheKind::Unified => 3,
    }
}

/// The cache leaves: Intel's 4, of which AMD's 0x8000_001d has the form.
fn caches(function: u32, offered: &[kvm_cpuid_entry2], facts: &Facts) -> Vec<kvm_cpuid_entry2> {
    let layout = facts.layout;
    let known = || offered.iter().filter(|entry| entry.function == function && entry.eax & 0x1f != 0);
    let mut all: Vec<kvm_cpuid_entry2> = if facts.caches.is_empty() {
        // The last level is the package's, the others each core's.
        let shares = |entry: &kvm_cpuid_entry2| {
            let bits = if entry.eax >> 5 & 7 >= 3 { layout.package_shift() } else { layout.thread_bits };
            shared(*entry, 1 << bits)
        };
        known().map(shares).collect()
    } else {
        let like = |cache: &CacheSpec| {
            known().find(|entry| entry.eax & 0xff == number(cache.kind) | u32::from(cache.level) << 5)
        };
        facts.caches.iter().filter_map(|cache| one(cache, like(cache))).collect()
    };
    let cores = if function == 4 { ((1u32 << layout.core_bits) - 1).min(63) << 26 } else { 0 };
    for entry in &mut all {
        entry.eax |= cores;
    }
    // A leaf of kind 0 ends the list.
    all.push(kvm_cpuid_entry2::default());
    for (index, entry) in (0u32..).zip(&mut all) {
        entry.function = function;
        entry.index = index;
        entry.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
    }
    all
}

fn shared(entry: kvm_cpuid_entry2, by: u32) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 { eax: entry.eax & 0x3fff | (by - 1).min(0xfff) << 14, ..entry }
}

/// One cache. Where its form is not known in full, that of `like`, which KVM offers, is told, if there is one.
fn one(cache: &CacheSpec, like: Option<&kvm_cpuid_entry2>) -> Option<kvm_cpuid_entry2> {
    let set = u64::from(cache.line) * u64::from(cache.ways);
    let fits = cache.line <= 4096 && cache.ways <= 1024 && set > 0 && cache.size.is_multiple_of(set);
    let sets = if fits { u32::try_from(cache.size / set).ok().filter(|sets| *sets > 0) } else { None };
    let Some(sets) = sets else { return like.map(|entry| shared(*entry, cache.shared_by)) };
    let made = kvm_cpuid_entry2 {
        eax: number(cache.kind) | u32::from(cache.level) << 5 | SELF_INITIALIZING,
        ebx: (cache.line - 1) | (cache.ways - 1) << 22,
        ecx: sets - 1,
        edx: like.map_or(0, |entry| entry.edx),
        ..Default::default()
    };
    Some(shared(made, cache.shared_by))
}
