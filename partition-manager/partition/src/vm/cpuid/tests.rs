//! Every leaf says the same about where a processor is.

use super::*;
use frame::inventory::CacheKind;
use proptest::prelude::*;

fn offered(vendor: &[u8; 4]) -> Vec<kvm_cpuid_entry2> {
    let leaf = |function, index, [eax, ebx, ecx, edx]: [u32; 4]| kvm_cpuid_entry2 {
        index,
        ..entry(function, [eax, ebx, ecx, edx])
    };
    vec![
        leaf(0, 0, [0x1f, u32::from_le_bytes(*vendor), 0, 0]),
        leaf(1, 0, [0x123, 0, u32::MAX, u32::MAX]),
        leaf(4, 0, [1 | 1 << 5 | 0xfff << 14, 63, 63, 0]),
        leaf(4, 1, [2 | 1 << 5, 63, 63, 0]),
        leaf(4, 2, [3 | 3 << 5, 63, 63, 4]),
        leaf(4, 3, [0; 4]),
        leaf(7, 0, [0, u32::MAX, u32::MAX, 0]),
        leaf(0xa, 0, [0; 4]),
        leaf(0xb, 0, [99; 4]),
        leaf(0xb, 1, [99; 4]),
        leaf(0xd, 0, [0xff, 0, 0, 0]),
        leaf(0xd, 3, [1; 4]),
        leaf(0x12, 0, [1; 4]),
        leaf(0x15, 0, [7; 4]),
        leaf(HYPERVISOR_BASE, 0, [HYPERVISOR_BASE + 1, 1, 2, 3]),
        leaf(HYPERVISOR_FEATURES, 0, [u32::MAX, 0, 0, 0]),
        leaf(0x8000_0001, 0, [0, 0, u32::MAX, 0]),
        leaf(0x8000_0008, 0, [0x3030, 0, u32::MAX, 0]),
        leaf(0x8000_000a, 0, [1; 4]),
        leaf(0x8000_001d, 0, [1 | 1 << 5, 63, 63, 0]),
        leaf(0x8000_001e, 0, [7; 4]),
    ]
}

fn facts(places: Vec<Place>) -> Facts {
    let layout = ApicLayout::of(&places).unwrap();
    Facts { places, layout, caches: vec![], deadline: true, kernel_apic: true, tsc_khz: Some(2_600_000) }
}

fn regular(packages: u32, cores: u32, threads: u32) -> Vec<Place> {
    let cores = move |package| (0..cores).map(move |core| (package, core));
    let place = move |(package, core)| (0..threads).map(move |thread| Place { package, core, thread, node: package });
    (0..packages).flat_map(cores).flat_map(place).collect()
}

fn leaf(table: &[kvm_cpuid_entry2], function: u32, index: u32) -> kvm_cpuid_entry2 {
    let found: Vec<_> = table.iter().filter(|e| e.function == function && e.index == index).collect();
    assert_eq!(found.len(), 1, "leaf {function:#x}.{index}");
    *found[0]
}

proptest! {
    #[test]
    fn every_leaf_tells_the_same_place(
        (packages, cores, threads) in (1u32..4, 1u32..9, 1u32..3), amd: bool, deadline: bool,
    ) {
        let facts = Facts { deadline, ..facts(regular(packages, cores, threads)) };
        let offered = offered(if amd { b"Auth" } else { b"Genu" });
        for (index, place) in facts.places.iter().enumerate() {
            let table = table(&offered, &facts, index);
            let leaf = |function, index| leaf(&table, function, index);
            let id = facts.id(index);
            prop_assert_eq!(leaf(1, 0).ebx >> 24, id);
            prop_assert!(leaf(1, 0).ebx >> 16 & 0xff >= cores * threads);
            prop_assert_eq!(leaf(1, 0).ecx & TSC_DEADLINE != 0, deadline);
            prop_assert_eq!(leaf(1, 0).edx & 1 << 28 != 0, cores * threads > 1);
            for function in [0xb, 0x1f] {
                let (thread, core, end) = (leaf(function, 0), leaf(function, 1), leaf(function, 2));
                prop_assert_eq!((thread.edx, core.edx), (id, id));
                prop_assert_eq!((thread.ebx, core.ebx, end.ebx), (threads, cores * threads, 0));
                // What a guest computes from it is the place.
                prop_assert_eq!(id & ((1 << thread.eax) - 1), place.thread);
                prop_assert_eq!(id >> thread.eax & ((1 << (core.eax - thread.eax)) - 1), place.core);
                prop_assert_eq!(id >> core.eax, place.package);
            }
            // The caches of a core are its threads', the last level is the package's.
            let sharing = |index| (leaf(4, index).eax >> 14 & 0xfff) + 1;
            prop_assert_eq!(sharing(0), threads.next_power_of_two());
            prop_assert_eq!(sharing(2), 1 << facts.layout.package_shift());
            prop_assert_eq!((leaf(4, 0).eax >> 26) + 1, cores.next_power_of_two());
            prop_assert_eq!(leaf(4, 3).eax, 0);
            if amd {
                prop_assert_eq!((leaf(0x8000_0008, 0).ecx & 0xff) + 1, cores * threads);
                prop_assert_eq!(leaf(0x8000_0008, 0).ecx >> 12 & 0xf, facts.layout.package_shift());
                let [eax, ebx, ecx] = [leaf(0x8000_001e, 0)].map(|e| [e.eax, e.ebx, e.ecx])[0];
                prop_assert_eq!((eax, ebx, ecx), (id, place.core | (threads - 1) << 8, place.package));
                prop_assert_eq!(leaf(0x8000_001d, 0).eax >> 26, 0);
            }
        }
    }
}

#[test]
fn caches_are_told_as_planned() {
    let cache = |level, kind, size, ways, shared_by| CacheSpec { level, kind, size, line: 64, ways, shared_by };
    let mut facts = facts(regular(1, 8, 2));
    facts.caches = vec![
        cache(1, CacheKind::Data, 48 << 10, 12, 2),
        // Its form is not known: KVM's is told.
        cache(1, CacheKind::Instruction, 32 << 10, 0, 2),
        // Neither.
        cache(2, CacheKind::Unified, 1 << 20, 0, 2),
        cache(3, CacheKind::Unified, 480 << 20, 20, 8),
    ];
    let table = table(&offered(b"Genu"), &facts, 3);
    let size = |index| {
        let entry = leaf(&table, 4, index);
        let size = u64::from((entry.ebx >> 22) + 1) * u64::from((entry.ebx & 0xfff) + 1) * (u64::from(entry.ecx) + 1);
        (entry.eax & 0x1f, entry.eax >> 5 & 7, size, (entry.eax >> 14 & 0xfff) + 1)
    };
    assert_eq!(size(0), (1, 1, 48 << 10, 2));
    assert_eq!(size(1), (2, 1, 64 * 64, 2));
    assert_eq!(size(2), (3, 3, 480 << 20, 8));
    assert_eq!(leaf(&table, 4, 2).edx, 4, "what else KVM says of it stays");
    assert_eq!(leaf(&table, 4, 3).eax, 0);
}

#[test]
fn caches_are_told_on_amd_without_topology_extensions() {
    let offered: Vec<_> = offered(b"Auth")
        .into_iter()
        .filter(|e| !matches!(e.function, 0x8000_001d | 0x8000_001e))
        .chain([entry(0x8000_0000, [0x8000_0008, 0, 0, 0])])
        .map(|e| if e.function == 0x8000_0001 { kvm_cpuid_entry2 { ecx: 0, ..e } } else { e })
        .collect();
    let mut facts = facts(regular(2, 2, 2));
    let extensions = |table: &[kvm_cpuid_entry2]| leaf(table, 0x8000_0001, 0).ecx >> 22 & 1;
    // Nothing is known: what the guest finds elsewhere must do.
    let without = table(&offered, &facts, 3);
    assert_eq!((extensions(&without), leaf(&without, 0x8000_0000, 0).eax), (0, 0x8000_0008));
    assert!(!without.iter().any(|e| matches!(e.function, 0x8000_001d | 0x8000_001e)));
    facts.caches =
        vec![CacheSpec { level: 2, kind: CacheKind::Unified, size: 1 << 20, line: 64, ways: 16, shared_by: 2 }];
    let table = table(&offered, &facts, 3);
    assert_eq!((extensions(&table), leaf(&table, 0x8000_0000, 0).eax), (1, 0x8000_001e));
    let cache = leaf(&table, 0x8000_001d, 0);
    assert_eq!((cache.eax & 0x1f, cache.eax >> 5 & 7, (cache.eax >> 14 & 0xfff) + 1, cache.ecx), (3, 2, 2, 1023));
    assert_eq!(leaf(&table, 0x8000_001d, 1).eax, 0);
    let seat = leaf(&table, 0x8000_001e, 0);
    assert_eq!((seat.eax, seat.ebx, seat.ecx), (facts.id(3), 1 | 1 << 8, 0));
}

#[test]
fn what_has_nothing_behind_it_is_hidden() {
    let intel = table(&offered(b"Genu"), &facts(regular(1, 1, 1)), 0);
    let first = leaf(&intel, 1, 0);
    assert_eq!(first.ecx & (VMX | PERFORMANCE_CAPABILITIES | DEBUG_STORE_64), 0);
    assert_eq!(first.edx & DEBUG_STORE, 0);
    assert_ne!(first.ecx & HYPERVISOR, 0);
    assert_eq!(leaf(&intel, 7, 0).ebx & (ENCLAVES | BOUNDS_CHECKS), 0);
    assert_eq!(leaf(&intel, 0xd, 0).eax, 0xff & !BOUNDS_STATE);
    assert!(!intel.iter().any(|e| matches!(e.function, 0x12 | 0x8000_000a) || (e.function, e.index) == (0xd, 3)));
    let amd = table(&offered(b"Auth"), &facts(regular(1, 1, 1)), 0);
    assert_eq!(leaf(&amd, 0x8000_0001, 0).ecx & SVM, 0);
    // Where there are counters, what goes with them stays.
    let mut counting = offered(b"Genu");
    counting.iter_mut().filter(|e| e.function == 0xa).for_each(|e| e.eax = 2);
    let table = table(&counting, &facts(regular(1, 1, 1)), 0);
    assert_ne!(leaf(&table, 1, 0).ecx & PERFORMANCE_CAPABILITIES, 0);
}

#[test]
fn the_frequency_is_told_where_it_is_known() {
    let known = facts(regular(1, 1, 1));
    let intel = table(&offered(b"Genu"), &known, 0);
    assert_eq!(leaf(&intel, HYPERVISOR_BASE, 0).eax, HYPERVISOR_TIMING);
    assert_eq!(leaf(&intel, HYPERVISOR_TIMING, 0).eax, 2_600_000);
    // As Linux reckons, in 32 bits.
    let told = leaf(&intel, TIME_STAMP_COUNTER, 0);
    assert_eq!((told.ecx / 1000).wrapping_mul(told.ebx) / told.eax, 2_600_000);
    for khz in (100_000..4_200_000).step_by(9973) {
        let (numerator, denominator) = ratio(khz);
        let reckoned = BUS_KHZ.wrapping_mul(numerator) / denominator;
        // Within 100 parts in a million.
        assert!(reckoned.abs_diff(khz) <= khz / 10_000 + 1, "{khz} {numerator}/{denominator} {reckoned}");
    }
    assert_eq!(leaf(&intel, FREQUENCIES, 0).eax, 2600);
    let amd = table(&offered(b"Auth"), &known, 0);
    assert!(!amd.iter().any(|e| matches!(e.function, TIME_STAMP_COUNTER | FREQUENCIES)));
    let unknown = table(&offered(b"Genu"), &Facts { tsc_khz: None, ..known }, 0);
    assert!(!unknown.iter().any(|e| matches!(e.function, TIME_STAMP_COUNTER | FREQUENCIES | HYPERVISOR_TIMING)));
}

#[test]
fn what_needs_the_kernels_apic_is_told_only_with_it() {
    for kernel_apic in [true, false] {
        let facts = Facts { kernel_apic, deadline: kernel_apic, ..facts(regular(1, 2, 1)) };
        let table = table(&offered(b"Genu"), &facts, 0);
        let (one, features) = (leaf(&table, 1, 0).ecx, leaf(&table, HYPERVISOR_FEATURES, 0).eax);
        assert_eq!((one & X2APIC != 0, one & TSC_DEADLINE != 0), (kernel_apic, kernel_apic));
        assert_eq!(features, if kernel_apic { u32::MAX } else { !NEED_KERNEL_APIC });
    }
}
