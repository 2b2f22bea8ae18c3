//! What inventories are taken and which are refused.

use super::*;
use crate::units::GIB;
use proptest::prelude::*;

fn small() -> Inventory {
    Inventory {
        cpus: vec![Cpu { id: 0, package: 0, core: 0, node: 0 }, Cpu { id: 1, package: 0, core: 0, node: 0 }],
        nodes: vec![Node { id: 0, memory: GIB, available: GIB, huge_pages: vec![], distances: vec![10] }],
        ..Inventory::default()
    }
}

#[test]
fn a_small_host_is_valid_and_survives_json() {
    let host = small();
    let text = serde_json::to_string(&host).unwrap();
    assert_eq!(Inventory::from_json(&text), Ok(host));
}

#[test]
fn refuses_what_no_host_can_be() {
    let broken = |change: fn(&mut Inventory)| {
        let mut host = small();
        change(&mut host);
        host.validate().unwrap_err()
    };
    assert_eq!(broken(|h| h.cpus.clear()), InventoryError::NoCpu);
    assert_eq!(broken(|h| h.nodes.clear()), InventoryError::NoNode);
    assert_eq!(broken(|h| h.cpus[1].id = 0), InventoryError::CpuTwice(0));
    assert_eq!(broken(|h| h.cpus[1].id = 70_000), InventoryError::CpuTooHigh(70_000));
    assert_eq!(broken(|h| h.cpus[1].node = 3), InventoryError::NodeMissing { cpu: 1, node: 3 });
    assert!(matches!(broken(|h| h.nodes[0].available = 2 * GIB), InventoryError::Available { .. }));
    assert!(matches!(broken(|h| h.nodes[0].distances = vec![10, 20]), InventoryError::Distances { .. }));
    let pages =
        |size, total, free| move |h: &mut Inventory| h.nodes[0].huge_pages = vec![HugePages { size, total, free }];
    for change in [pages(3, 1, 1), pages(1 << 21, 1, 2), pages(1 << 21, u64::MAX, 0), pages(1 << 21, 513, 0)] {
        let mut host = small();
        change(&mut host);
        assert!(matches!(host.validate(), Err(InventoryError::HugePages { .. })));
    }
    let mut two = small();
    two.nodes.push(Node { id: 1, memory: GIB, available: 0, huge_pages: vec![], distances: vec![] });
    two.nodes[0].distances.clear();
    two.cpus[1].node = 1;
    assert!(matches!(two.validate(), Err(InventoryError::CoreSplit { .. })));
    assert!(matches!(Inventory::from_json("{}"), Err(InventoryError::Form(_))));
}

fn two_cores() -> Inventory {
    let cache = |level, kind, cpus: &str| Cache { level, kind, size: 1 << 15, line: 64, ways: 8, cpus: set(cpus) };
    let device = |address: &str| Device {
        address: address.into(),
        class: 0x02_0000,
        vendor: 0x8086,
        device: 0x1572,
        node: Some(0),
        group: Some(7),
    };
    Inventory {
        cpus: (0..4).map(|id| Cpu { id, package: 0, core: id / 2, node: 0 }).collect(),
        caches: vec![
            cache(1, CacheKind::Data, "0-1"),
            cache(1, CacheKind::Data, "2-3"),
            cache(1, CacheKind::Instruction, "0-1"),
            cache(3, CacheKind::Unified, "0-3"),
        ],
        devices: vec![device("0000:3b:00.1"), device("10000:3b:1f.0")],
        ..small()
    }
}

fn set(text: &str) -> CpuSet {
    CpuSet::parse(text).unwrap()
}

#[test]
fn caches_and_devices_survive_json() {
    let host = two_cores();
    host.validate().unwrap();
    let text = serde_json::to_string(&host).unwrap();
    assert_eq!(Inventory::from_json(&text), Ok(host));
}

#[test]
fn refuses_caches_that_cannot_be() {
    let refused = |change: fn(&mut Inventory)| {
        let mut host = two_cores();
        change(&mut host);
        let text = serde_json::to_string(&host).unwrap();
        let error = Inventory::from_json(&text).unwrap_err();
        assert!(matches!(error, InventoryError::Cache { .. }), "{error}");
        error.to_string()
    };
    assert!(refused(|h| h.caches[1].cpus = set("1-3")).contains("cache 1 (level 1, data): CPU 1 has another"));
    assert!(refused(|h| h.caches[3].cpus = set("0-4")).contains("CPU 4 is not listed"));
    assert!(refused(|h| h.caches[3].cpus = set("")).contains("no CPU"));
    assert!(refused(|h| h.caches[0].level = 0).contains("from 1 to 8"));
    assert!(refused(|h| h.caches[0].size = 0).contains("size is 0"));
    assert!(refused(|h| h.caches[0].line = 48).contains("power of two"));
}

#[test]
fn refuses_devices_that_cannot_be() {
    let refused = |change: fn(&mut Device)| {
        let mut host = two_cores();
        change(&mut host.devices[1]);
        let error = host.validate().unwrap_err();
        assert!(matches!(error, InventoryError::Device { .. }), "{error}");
        error.to_string()
    };
    assert!(refused(|d| d.address = "0000:3b:00.1".into()).contains("listed twice"));
    assert!(refused(|d| d.class = 0x0100_0000).contains("24 bits"));
    assert!(refused(|d| d.node = Some(9)).contains("node 9"));
    for address in ["", "0000:3b:00", "0000:3b:20.0", "0000:3b:00.8", "0000:3B:00.0", "3b:00.0", "0000:3b:00.0:1"] {
        let mut host = two_cores();
        host.devices[0].address = address.into();
        assert!(host.validate().unwrap_err().to_string().contains("no PCI address"), "{address}");
    }
}

#[test]
fn refuses_guard_records_that_cannot_be() {
    use crate::guard::{Guard, Kind, Unit};
    let record = |unit, reason: String| {
        let guards = vec![Guard { unit, kind: Kind::Manual, reason, time: 0 }];
        Inventory { guards, ..small() }.validate()
    };
    assert_eq!(record(Unit::Cpu(9), "spare part not there".into()), Ok(()));
    for (unit, reason) in [
        (Unit::Cpu(70_000), String::new()),
        (Unit::Memory { node: 0, bytes: 0 }, String::new()),
        (Unit::Cpu(0), "x".repeat(300)),
    ] {
        assert!(matches!(record(unit, reason), Err(InventoryError::Guard { .. })));
    }
}

#[test]
fn a_short_text_cannot_ask_for_much_memory() {
    let cache = r#"{"level":1,"kind":"data","size":1,"cpus":"0-65535"},"#.repeat(20_000);
    let text = format!(r#"{{"cpus":[],"nodes":[],"caches":[{}]}}"#, cache.trim_end_matches(','));
    let error = Inventory::from_json(&text).unwrap_err().to_string();
    assert!(error.contains("more CPUs than a host has"), "{error}");
}

#[test]
fn too_much_of_anything_is_refused() {
    let mut host = small();
    host.nodes = (0..1025).map(|id| Node { id, ..host.nodes[0].clone() }).collect();
    assert!(matches!(host.validate(), Err(InventoryError::TooMany { what: "NUMA nodes", .. })));
    let mut host = two_cores();
    host.devices = vec![host.devices[0].clone(); MOST_DEVICES + 1];
    assert!(matches!(host.validate(), Err(InventoryError::TooMany { what: "devices", .. })));
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "[\\[\\]{}:,\"0-9a-z-]{0,200}") {
        let _ = Inventory::from_json(&text);
    }

    #[test]
    fn no_number_makes_it_panic(
        a in any::<u64>(), b in any::<u64>(), c in any::<u32>(), d in any::<u64>(), level in any::<u8>(),
    ) {
        let text = format!(
            r#"{{"cpus":[{{"id":{c},"package":{c},"core":{c},"node":{c}}}],
            "nodes":[{{"id":{c},"memory":{a},"available":{b},"huge_pages":[{{"size":{d},"total":{a},"free":{b}}}],
            "distances":[{c}]}}],"caches":[{{"level":{level},"kind":"data","size":{a},"line":{c},"cpus":"{c}"}}],
            "guards":[{{"unit":{{"memory":{{"node":{c},"bytes":{a}}}}},"kind":"fatal","reason":"","time":{d}}}]}}"#
        );
        if let Ok(inventory) = Inventory::from_json(&text) {
            prop_assert_eq!(inventory.validate(), Ok(()));
        }
    }
}
