//! Machines that nobody here has: an inventory for any number of CPUs.

use anyhow::{Context, Result};
use frame::cpuset::CpuSet;
use frame::inventory::{Cache, CacheKind, Cpu, Device, HugePages, Inventory, LOCAL, Node};
use serde::Serialize;
use std::fmt::Write;

/// CPUs of a node; a machine with fewer is one node.
const PER_NODE: u32 = 120;
/// Nodes of a drawer.
const DRAWER: u32 = 4;
/// Distance inside a drawer and between drawers.
const NEAR: u32 = 20;
const FAR: u32 = 40;
/// Memory of a node, bytes.
const MEMORY: u64 = 2 << 40;
/// What of it the kernel has for itself, bytes.
const KERNEL: u64 = 8 << 30;

/// A machine of `cpus` CPUs, two threads to a core: nodes of 120 CPUs and 2 TiB, four to a drawer, each with caches
/// and a few devices. The second threads are numbered after all the first ones, as Linux does.
pub fn machine(cpus: u32) -> Inventory {
    let cores = cpus.div_ceil(2);
    let nodes = cpus.div_ceil(PER_NODE).max(1);
    let per_node = cores.div_ceil(nodes).max(1);
    let node_of = |core: u32| (core / per_node).min(nodes - 1);
    let siblings = |core: u32| [core, core + cores].into_iter().filter(|&id| id < cpus);
    let mut machine = Inventory::default();
    for id in 0..cpus {
        let core = id % cores;
        // A package is a node here, and Linux names a core by its lowest thread.
        machine.cpus.push(Cpu { id, package: node_of(core), core, node: node_of(core) });
    }
    for id in 0..nodes {
        let distance = |to: u32| match to {
            to if to == id => LOCAL,
            to if to / DRAWER == id / DRAWER => NEAR,
            _ => FAR,
        };
        let huge = HugePages { size: 1 << 30, total: 64, free: 64 };
        let available = MEMORY - huge.total * huge.size - KERNEL;
        let distances = if nodes > 1 { (0..nodes).map(distance).collect() } else { vec![] };
        machine.nodes.push(Node { id, memory: MEMORY, available, huge_pages: vec![huge], distances });
        machine.devices.extend(devices(id));
    }
    for core in 0..cores {
        let cpus: CpuSet = siblings(core).collect();
        let cache = |level, kind, size, ways| Cache { level, kind, size, line: 64, ways, cpus: cpus.clone() };
        machine.caches.push(cache(1, CacheKind::Data, 48 << 10, 12));
        machine.caches.push(cache(1, CacheKind::Instruction, 64 << 10, 16));
        machine.caches.push(cache(2, CacheKind::Unified, 2 << 20, 16));
    }
    for node in 0..nodes {
        let cpus = (0..cores).filter(|&core| node_of(core) == node).flat_map(siblings).collect();
        machine.caches.push(Cache { level: 3, kind: CacheKind::Unified, size: 480 << 20, line: 64, ways: 16, cpus });
    }
    machine
}

/// Two network functions of one adapter and two disks on each node.
fn devices(node: u32) -> impl Iterator<Item = Device> {
    let of = [(0, 0, 0x02_0000, 0x8086, 0x1572), (0, 1, 0x02_0000, 0x8086, 0x1572), (1, 0, 0x01_0802, 0x144d, 0xa80a)];
    let one = move |(slot, function, class, vendor, device): (u32, u32, u32, u16, u16)| Device {
        address: format!("{node:04x}:01:{slot:02x}.{function}"),
        class,
        vendor,
        device,
        node: Some(node),
        group: Some(node * 4 + slot),
    };
    of.into_iter().map(one)
}

/// The inventory as JSON, an entry a line: short enough to check in, and a change shows where it is.
///
/// # Errors
/// When it cannot be written as JSON.
pub fn json(inventory: &Inventory) -> Result<String> {
    fn list<T: Serialize>(out: &mut String, name: &str, items: &[T], last: bool) -> Result<()> {
        writeln!(out, "\"{name}\":[")?;
        for (at, item) in items.iter().enumerate() {
            let comma = if at + 1 == items.len() { "" } else { "," };
            writeln!(out, "{}{comma}", serde_json::to_string(item).context("writing an inventory")?)?;
        }
        out.push_str(if last { "]\n" } else { "],\n" });
        Ok(())
    }
    let mut out = String::from("{\n");
    list(&mut out, "cpus", &inventory.cpus, false)?;
    list(&mut out, "nodes", &inventory.nodes, false)?;
    list(&mut out, "caches", &inventory.caches, false)?;
    list(&mut out, "devices", &inventory.devices, true)?;
    out.push_str("}\n");
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inventory_that_is_checked_in_is_the_generated_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/inventories/sixteen-nodes.json");
        let text = std::fs::read_to_string(path).unwrap();
        let machine = machine(1920);
        assert!(text == json(&machine).unwrap(), "run `cargo run -p bench --bin planning -- --write {path}`");
        assert!(text.len() < 400_000, "it has {} bytes", text.len());
        let read = Inventory::from_json(&text).unwrap();
        assert_eq!(read, machine);
        assert_eq!((read.cpus.len(), read.nodes.len()), (1920, 16));
        assert_eq!(read.nodes.iter().map(|node| node.memory).sum::<u64>(), 32 << 40);
        assert_eq!((read.distance(0, 0), read.distance(0, 3), read.distance(0, 4)), (10, 20, 40));
    }

    #[test]
    fn machines_of_every_size_can_be() {
        for cpus in [1, 2, 3, 119, 121, 240, 999, 7680] {
            let machine = machine(cpus);
            machine.validate().unwrap();
            assert_eq!(machine.cpus.len(), cpus as usize);
        }
    }
}
