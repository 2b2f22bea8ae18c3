//! Whether a host can be as an inventory says.

use super::*;
use crate::guard::{LONGEST_REASON, MOST_GUARDS, Unit};
use std::collections::{BTreeMap, BTreeSet};

impl Inventory {
    /// Checks that a host can be so.
    ///
    /// # Errors
    /// [`InventoryError`] names the first thing that cannot be.
    pub fn validate(&self) -> Result<(), InventoryError> {
        let counts = [
            ("CPUs", self.cpus.len(), MOST_CPUS),
            ("NUMA nodes", self.nodes.len(), MOST_NODES),
            ("devices", self.devices.len(), MOST_DEVICES),
            ("guard records", self.guards.len(), MOST_GUARDS),
        ];
        for (what, count, most) in counts {
            if count > most {
                return Err(InventoryError::TooMany { what, count, most });
            }
        }
        if self.cpus.is_empty() {
            return Err(InventoryError::NoCpu);
        }
        if self.nodes.is_empty() {
            return Err(InventoryError::NoNode);
        }
        let mut nodes = BTreeSet::new();
        for node in &self.nodes {
            if !nodes.insert(node.id) {
                return Err(InventoryError::NodeTwice(node.id));
            }
            node.validate(self.nodes.len())?;
        }
        let mut cpus = BTreeSet::new();
        let mut cores = BTreeMap::new();
        for &Cpu { id, package, core, node } in &self.cpus {
            if id > crate::cpuset::HIGHEST {
                return Err(InventoryError::CpuTooHigh(id));
            }
            if !cpus.insert(id) {
                return Err(InventoryError::CpuTwice(id));
            }
            if !nodes.contains(&node) {
                return Err(InventoryError::NodeMissing { cpu: id, node });
            }
            let first = *cores.entry((package, core)).or_insert(node);
            if first != node {
                return Err(InventoryError::CoreSplit { package, core, first, second: node });
            }
        }
        caches(&self.caches, &cpus)?;
        devices(&self.devices, &nodes)?;
        self.guards.iter().try_for_each(guard)
    }
}

impl Node {
    fn validate(&self, nodes: usize) -> Result<(), InventoryError> {
        if self.available > self.memory {
            return Err(InventoryError::Available { node: self.id, available: self.available, memory: self.memory });
        }
        if !self.distances.is_empty() && self.distances.len() != nodes {
            return Err(InventoryError::Distances { node: self.id, count: self.distances.len(), nodes });
        }
        let mut sizes = BTreeSet::new();
        let mut bytes = 0u64;
        for &HugePages { size, total, free } in &self.huge_pages {
            let all = total.checked_mul(size).and_then(|pool| bytes.checked_add(pool));
            let why = match all {
                _ if !size.is_power_of_two() || size <= PAGE => Some("the size is no power of two above 4096"),
                _ if !sizes.insert(size) => Some("the size is listed twice"),
                _ if free > total => Some("more pages are free than there are"),
                None => Some("the pages are more than the node's memory"),
                Some(all) if all > self.memory => Some("the pages are more than the node's memory"),
                Some(all) => {
                    bytes = all;
                    None
                }
            };
            if let Some(why) = why {
                return Err(InventoryError::HugePages { node: self.id, size, why });
            }
        }
        Ok(())
    }
}

/// Caches of the online CPUs: each CPU in at most one of a level and kind.
fn caches(caches: &[Cache], cpus: &BTreeSet<u32>) -> Result<(), InventoryError> {
    let mut seen: BTreeMap<(u8, CacheKind), BTreeSet<u32>> = BTreeMap::new();
    for (index, cache) in caches.iter().enumerate() {
        let refuse = |why: String| {
            let (level, kind) = (cache.level, cache.kind);
            Err(InventoryError::Cache { index, level, kind, why })
        };
        if cache.level == 0 || cache.level > MOST_LEVELS {
            return refuse(format!("a level is from 1 to {MOST_LEVELS}"));
        }
        if cache.size == 0 {
            return refuse("the size is 0".into());
        }
        if cache.line > 0 && !cache.line.is_power_of_two() {
            return refuse(format!("a line of {} bytes is no power of two", cache.line));
        }
        if cache.cpus.is_empty() {
            return refuse("it belongs to no CPU".into());
        }
        let group = seen.entry((cache.level, cache.kind)).or_default();
        for cpu in cache.cpus.iter() {
            if !cpus.contains(&cpu) {
                return refuse(format!("CPU {cpu} is not listed under \"cpus\""));
            }
            if !group.insert(cpu) {
                return refuse(format!("CPU {cpu} has another cache of this level and kind"));
            }
        }
    }
    Ok(())
}

/// Whether `address` is that of a PCI function: `DOMAIN:BUS:DEVICE.FUNCTION` in lower-case hexadecimal digits.
fn is_address(address: &str) -> bool {
    let digits = |text: &str, least: usize, most: usize| {
        (least..=most).contains(&text.len()) && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let mut parts = address.split(':');
    let (Some(domain), Some(bus), Some(rest), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    let Some((device, function)) = rest.split_once('.') else { return false };
    let function = matches!(function.as_bytes(), [b'0'..=b'7']);
    digits(domain, 4, 8) && digits(bus, 2, 2) && digits(device, 2, 2) && device < "20" && function
}

fn devices(devices: &[Device], nodes: &BTreeSet<u32>) -> Result<(), InventoryError> {
    let mut seen = BTreeSet::new();
    for device in devices {
        let refuse =
            |why: String| Err(InventoryError::Device { address: device.address.chars().take(32).collect(), why });
        if !is_address(&device.address) {
            return refuse("this is no PCI address such as 0000:3b:00.1".into());
        }
        if !seen.insert(&device.address) {
            return refuse("it is listed twice".into());
        }
        if device.class > 0xff_ffff {
            return refuse(format!("class {:#x} has more than 24 bits", device.class));
        }
        if let Some(node) = device.node.filter(|node| !nodes.contains(node)) {
            return refuse(format!("it is attached to node {node}, which is not listed under \"nodes\""));
        }
    }
    Ok(())
}

fn guard(guard: &Guard) -> Result<(), InventoryError> {
    let refuse = |why: String| Err(InventoryError::Guard { unit: guard.unit, why });
    if guard.reason.len() > LONGEST_REASON {
        return refuse(format!("a reason has at most {LONGEST_REASON} bytes, this one has {}", guard.reason.len()));
    }
    match guard.unit {
        Unit::Cpu(cpu) if cpu > crate::cpuset::HIGHEST => refuse("no CPU has such a number".into()),
        Unit::Memory { bytes: 0, .. } => refuse("it takes out nothing".into()),
        _ => Ok(()),
    }
}
