//! The host's inventory, read from sysfs (Linux, Documentation/admin-guide/cputopology.rst and
//! Documentation/ABI/stable/sysfs-devices-node).

use frame::cpuset::CpuSet;
use frame::inventory::{Cpu, HugePages, Inventory, Node};
use std::io;
use std::path::{Path, PathBuf};

/// Why the inventory could not be read.
#[derive(Debug, thiserror::Error)]
pub enum InventoryError {
    /// A file that every Linux host has cannot be read.
    #[error("the host's inventory cannot be read from {}; is sysfs mounted?", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// What was read cannot be that of a host.
    #[error("the host describes itself in a way that cannot be")]
    Nonsense(#[from] frame::inventory::InventoryError),
}

/// Reads what the host has below `sysfs` (usually `/sys`), as far as `allowed` CPUs go (all when absent).
/// `meminfo` is the text of `/proc/meminfo`, for a host without NUMA.
///
/// # Errors
/// [`InventoryError`].
pub fn read(sysfs: &Path, meminfo: &str, allowed: Option<&CpuSet>) -> Result<Inventory, InventoryError> {
    let cpus = sysfs.join("devices/system/cpu");
    let mut online = set(&cpus.join("online"))?;
    if let Some(allowed) = allowed {
        online = online.intersection(allowed);
    }
    let nodes_directory = sysfs.join("devices/system/node");
    let numbers = set(&nodes_directory.join("online")).unwrap_or_default();
    let mut nodes = Vec::new();
    let mut node_of = std::collections::BTreeMap::new();
    for number in numbers.iter() {
        let directory = nodes_directory.join(format!("node{number}"));
        for cpu in set(&directory.join("cpulist")).unwrap_or_default().iter() {
            node_of.insert(cpu, number);
        }
        let text = std::fs::read_to_string(directory.join("meminfo")).unwrap_or_default();
        let mut node = memory(number, &text, &directory.join("hugepages"));
        node.distances = distances(&directory.join("distance"));
        nodes.push(node);
    }
    // Memory of a node that is not there belongs to nobody; a host without NUMA is one node.
    nodes.retain(|node| node.memory > 0 || node_of.values().any(|&of| of == node.id));
    if nodes.len() <= 1 {
        let id = nodes.first().map_or(0, |node| node.id);
        let mut node = memory(id, meminfo, &sysfs.join("kernel/mm/hugepages"));
        // The kernel's own estimate is better than the sum that a node's file allows.
        node.available = field(meminfo, "MemAvailable").unwrap_or(node.available).min(node.memory);
        nodes = vec![node];
    } else if nodes.len() != numbers.len() {
        // The columns of the distances no longer match.
        nodes.iter_mut().for_each(|node| node.distances.clear());
    }
    let home = nodes.first().map_or(0, |node| node.id);
    let known = |id: u32| nodes.iter().any(|node| node.id == id);
    let cpus = online
        .iter()
        .map(|id| {
            let topology = cpus.join(format!("cpu{id}/topology"));
            let package = number(&topology.join("physical_package_id"));
            // The lowest sibling names the core: `core_id` repeats between the dies of some packages.
            let siblings = set(&topology.join("thread_siblings_list")).unwrap_or_default();
            let node = node_of.get(&id).copied().filter(|&node| known(node)).unwrap_or(home);
            Cpu { id, package, core: siblings.iter().next().unwrap_or(id), node }
        })
        .collect();
    let inventory = Inventory { cpus, nodes, ..Inventory::default() };
    inventory.validate()?;
    Ok(inventory)
}

/// Reads the inventory of this host, as far as this process may use its CPUs.
///
/// # Errors
/// [`InventoryError`].
pub fn here() -> Result<Inventory, InventoryError> {
    let path = PathBuf::from("/proc/meminfo");
    let meminfo = std::fs::read_to_string(&path).map_err(|source| InventoryError::Read { path, source })?;
    read(Path::new("/sys"), &meminfo, allowed().as_ref())
}

/// The CPUs that this process may run on.
fn allowed() -> Option<CpuSet> {
    let mask = rustix::thread::sched_getaffinity(None).ok()?;
    let most = u32::try_from(rustix::thread::CpuSet::MAX_CPU).ok()?;
    Some((0..most).filter(|&cpu| mask.is_set(cpu as usize)).collect())
}

fn set(path: &Path) -> Result<CpuSet, InventoryError> {
    let failed = |source| InventoryError::Read { path: path.to_owned(), source };
    let text = std::fs::read_to_string(path).map_err(failed)?;
    CpuSet::parse(text.trim()).map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidData, error)))
}

/// A number that some virtual machines leave out or give as -1.
fn number(path: &Path) -> u32 {
    std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// One field of a `meminfo`, bytes. Lines are `Name: N kB` or `Node N Name: N kB`.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| {
        let (head, value) = line.split_once(':')?;
        (head.split_ascii_whitespace().last()? == name).then_some(value)
    })?;
    line.split_ascii_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

fn memory(id: u32, meminfo: &str, huge: &Path) -> Node {
    let of = |name| field(meminfo, name).unwrap_or(0);
    let memory = of("MemTotal");
    let available = ["MemFree", "Active(file)", "Inactive(file)", "SReclaimable"]
        .into_iter()
        .fold(0u64, |sum, name| sum.saturating_add(of(name)));
    let mut huge_pages: Vec<HugePages> = Vec::new();
    for entry in std::fs::read_dir(huge).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let size = name.to_str().and_then(|name| name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok());
        let Some(size) = size.and_then(|kib: u64| kib.checked_mul(1024)) else { continue };
        let count = |file: &str| u64::from(number(&entry.path().join(file)));
        let total = count("nr_hugepages");
        huge_pages.push(HugePages { size, total, free: count("free_hugepages").min(total) });
    }
    huge_pages.sort_by_key(|pages| pages.size);
    Node { id, memory, available: available.min(memory), huge_pages, distances: vec![] }
}

fn distances(path: &Path) -> Vec<u32> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(root: &Path, file: &str, text: &str) {
        let path = root.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn reads_two_nodes_of_two_threads_each() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        put(root, "devices/system/cpu/online", "0-3\n");
        for cpu in 0..4 {
            let base = format!("devices/system/cpu/cpu{cpu}/topology");
            put(root, &format!("{base}/physical_package_id"), &format!("{}\n", cpu / 2));
            put(root, &format!("{base}/thread_siblings_list"), if cpu < 2 { "0-1\n" } else { "2-3\n" });
        }
        put(root, "devices/system/node/online", "0-1\n");
        for node in 0..2 {
            let base = format!("devices/system/node/node{node}");
            put(root, &format!("{base}/cpulist"), if node == 0 { "0-1\n" } else { "2-3\n" });
            put(root, &format!("{base}/distance"), if node == 0 { "10 21\n" } else { "21 10\n" });
            let text = format!("Node {node} MemTotal: 4096 kB\nNode {node} MemFree: 1024 kB\n");
            put(root, &format!("{base}/meminfo"), &text);
            put(root, &format!("{base}/hugepages/hugepages-2048kB/nr_hugepages"), "1\n");
            put(root, &format!("{base}/hugepages/hugepages-2048kB/free_hugepages"), "1\n");
        }
        let inventory = read(root, "", None).unwrap();
        assert_eq!(inventory.cpus[3], Cpu { id: 3, package: 1, core: 2, node: 1 });
        assert_eq!(inventory.nodes[1].available, 1 << 20);
        assert_eq!(inventory.nodes[1].huge_pages, [HugePages { size: 2 << 20, total: 1, free: 1 }]);
        assert_eq!(inventory.distance(0, 1), 21);
        let some = read(root, "", Some(&CpuSet::parse("1-2").unwrap())).unwrap();
        assert_eq!(some.cpus.len(), 2);
    }

    #[test]
    fn a_host_without_numa_is_one_node() {
        let root = tempfile::tempdir().unwrap();
        put(root.path(), "devices/system/cpu/online", "0\n");
        let inventory = read(root.path(), "MemTotal: 100 kB\nMemAvailable: 60 kB\n", None).unwrap();
        assert_eq!(inventory.nodes.len(), 1);
        assert_eq!(inventory.nodes[0].available, 60 * 1024);
    }

    #[test]
    fn this_host_can_be_read() {
        let inventory = here().unwrap();
        assert!(!inventory.cpus.is_empty() && inventory.nodes[0].memory > 0);
    }

    #[test]
    fn without_sysfs_the_file_is_named() {
        let error = read(Path::new("/nowhere"), "", None).unwrap_err();
        assert!(error.to_string().contains("/nowhere/devices/system/cpu/online"), "{error}");
    }
}
