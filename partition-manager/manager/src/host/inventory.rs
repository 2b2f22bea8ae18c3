//! The host's inventory, read from sysfs (Linux, Documentation/admin-guide/cputopology.rst and
//! Documentation/ABI/stable/sysfs-devices-node).

use frame::cpuset::CpuSet;
use frame::inventory::{Cache, CacheKind, Cpu, Device, HugePages, Inventory, MOST_LEVELS, Node};
use std::collections::BTreeMap;
use std::ffi::OsString;
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
    let mut node_of = BTreeMap::new();
    for number in numbers.iter() {
        let directory = nodes_directory.join(format!("node{number}"));
        for cpu in set(&directory.join("cpulist")).unwrap_or_default().iter() {
            node_of.insert(cpu, number);
        }
        let mut node = node_memory(sysfs, number);
        node.distances = distances(&directory.join("distance"));
        nodes.push(node);
    }
    // A node without memory and CPUs is nobody's; its column of the distances goes with it.
    let kept: Vec<bool> =
        nodes.iter().map(|node| node.memory > 0 || node_of.values().any(|&of| of == node.id)).collect();
    let of_kept = |distances: Vec<u32>| match distances.len() == kept.len() {
        true => distances.into_iter().zip(&kept).filter(|(_, kept)| **kept).map(|(distance, _)| distance).collect(),
        false => vec![],
    };
    nodes.iter_mut().for_each(|node| node.distances = of_kept(std::mem::take(&mut node.distances)));
    nodes.retain(|node| node.memory > 0 || node_of.values().any(|&of| of == node.id));
    if nodes.len() <= 1 {
        nodes = vec![only_node(sysfs, meminfo, nodes.first().map_or(0, |node| node.id))];
    }
    let home = nodes.first().map_or(0, |node| node.id);
    let known = |id: u32| nodes.iter().any(|node| node.id == id);
    let caches = caches(&cpus, &online);
    let devices = devices(&sysfs.join("bus/pci/devices"), &nodes);
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
    let inventory = Inventory { cpus, nodes, caches, devices, guards: vec![] };
    inventory.validate()?;
    Ok(inventory)
}

/// Reads the inventory of this host, as far as this process may use its CPUs.
///
/// # Errors
/// [`InventoryError`].
pub fn here() -> Result<Inventory, InventoryError> {
    read(Path::new("/sys"), &meminfo()?, allowed().as_ref())
}

/// The inventory of a host that is looked at again and again. What a host has changes seldom and takes some
/// hundred files to read; what of its memory is free changes all the time and takes few.
#[derive(Debug, Default)]
pub struct Known {
    last: Option<(Outline, Inventory)>,
}

/// What tells that a host is no longer what it was: everything is read anew when any of it differs.
#[derive(Debug, PartialEq, Eq)]
struct Outline {
    /// The CPUs that are online, and those that this process may use.
    cpus: (String, Option<CpuSet>),
    /// The nodes that are online, and those that have memory.
    nodes: (String, String),
    /// The addresses of the PCI functions.
    devices: Vec<OsString>,
}

impl Outline {
    fn read(sysfs: &Path, allowed: Option<CpuSet>) -> Self {
        let system = sysfs.join("devices/system");
        let devices = std::fs::read_dir(sysfs.join("bus/pci/devices")).into_iter().flatten().flatten();
        let mut devices: Vec<OsString> = devices.map(|entry| entry.file_name()).collect();
        devices.sort();
        Self {
            cpus: (line(&system.join("cpu/online")), allowed),
            nodes: (line(&system.join("node/online")), line(&system.join("node/has_memory"))),
            devices,
        }
    }
}

impl Known {
    /// The inventory of this host as it is now.
    ///
    /// # Errors
    /// [`InventoryError`].
    pub fn here(&mut self) -> Result<Inventory, InventoryError> {
        self.look(Path::new("/sys"), &meminfo()?, allowed())
    }

    /// As [`read`], but reads what seldom changes only when the host is no longer what it was: other CPUs are
    /// online or allowed, other nodes are online or have memory, or there are other PCI functions.
    ///
    /// # Errors
    /// [`InventoryError`].
    pub fn look(&mut self, sysfs: &Path, meminfo: &str, allowed: Option<CpuSet>) -> Result<Inventory, InventoryError> {
        let outline = Outline::read(sysfs, allowed);
        if let Some((last, inventory)) = &mut self.last
            && *last == outline
        {
            weigh(inventory, sysfs, meminfo);
            inventory.validate()?;
            return Ok(inventory.clone());
        }
        self.last = None;
        let inventory = read(sysfs, meminfo, outline.cpus.1.as_ref())?;
        self.last = Some((outline, inventory.clone()));
        Ok(inventory)
    }
}

/// Reads again how much memory the nodes have, and how much of it is free.
fn weigh(inventory: &mut Inventory, sysfs: &Path, meminfo: &str) {
    if let [node] = inventory.nodes.as_mut_slice() {
        *node = only_node(sysfs, meminfo, node.id);
        return;
    }
    for node in &mut inventory.nodes {
        let distances = std::mem::take(&mut node.distances);
        *node = Node { distances, ..node_memory(sysfs, node.id) };
    }
}

fn meminfo() -> Result<String, InventoryError> {
    let path = PathBuf::from("/proc/meminfo");
    std::fs::read_to_string(&path).map_err(|source| InventoryError::Read { path, source })
}

/// The one node of a host, without distances.
fn only_node(sysfs: &Path, meminfo: &str, id: u32) -> Node {
    let mut node = memory(id, meminfo, &sysfs.join("kernel/mm/hugepages"));
    // The kernel's own estimate is better than the sum that a node's file allows.
    node.available = field(meminfo, "MemAvailable").unwrap_or(node.available).min(node.memory);
    node
}

/// One node of several, without distances.
fn node_memory(sysfs: &Path, id: u32) -> Node {
    let directory = sysfs.join(format!("devices/system/node/node{id}"));
    let text = std::fs::read_to_string(directory.join("meminfo")).unwrap_or_default();
    memory(id, &text, &directory.join("hugepages"))
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

/// One line of a file; empty when it is not there.
fn line(path: &Path) -> String {
    std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// The caches of the `online` CPUs, each once (Linux, Documentation/ABI/testing/sysfs-devices-system-cpu,
/// `cpuX/cache/index*`). A cache that says nothing of its size or its CPUs is left out, as in some virtual machines.
fn caches(cpus: &Path, online: &CpuSet) -> Vec<Cache> {
    let mut found: BTreeMap<(u8, CacheKind, u32), Cache> = BTreeMap::new();
    for cpu in online.iter() {
        for entry in std::fs::read_dir(cpus.join(format!("cpu{cpu}/cache"))).into_iter().flatten().flatten() {
            let path = entry.path();
            let kind = match line(&path.join("type")).as_str() {
                "Data" => CacheKind::Data,
                "Instruction" => CacheKind::Instruction,
                "Unified" => CacheKind::Unified,
                _ => continue,
            };
            let Ok(level) = line(&path.join("level")).parse::<u8>() else { continue };
            let size = cache_size(&line(&path.join("size")));
            let sharing = set(&path.join("shared_cpu_list")).unwrap_or_default().intersection(online);
            let first = sharing.iter().next();
            // Each cache is seen from every CPU that shares it: the lowest one speaks for all.
            let (Some(size), true, 1..=MOST_LEVELS) = (size, first == Some(cpu), level) else { continue };
            let number = |file: &str| line(&path.join(file)).parse::<u32>().unwrap_or(0);
            let width = number("coherency_line_size");
            let width = if width.is_power_of_two() { width } else { 0 };
            let cache = Cache { level, kind, size, line: width, ways: number("ways_of_associativity"), cpus: sharing };
            found.insert((level, kind, cpu), cache);
        }
    }
    // A host that contradicts itself here is still a host: what overlaps is left out.
    let mut seen: BTreeMap<(u8, CacheKind), CpuSet> = BTreeMap::new();
    let mut whole = |cache: &Cache| {
        let group = seen.entry((cache.level, cache.kind)).or_default();
        let fresh = group.intersection(&cache.cpus).is_empty();
        if fresh {
            *group = group.union(&cache.cpus);
        }
        fresh
    };
    found.into_values().filter(|cache| whole(cache)).collect()
}

/// The size of a cache, such as `48K`, in bytes; none when it is zero or no size.
fn cache_size(text: &str) -> Option<u64> {
    let (digits, factor) = match text.as_bytes().last()? {
        b'K' => (&text[..text.len() - 1], 1 << 10),
        b'M' => (&text[..text.len() - 1], 1 << 20),
        _ => (text, 1),
    };
    digits.parse::<u64>().ok()?.checked_mul(factor).filter(|&size| size > 0)
}

/// The PCI functions (Linux, Documentation/ABI/testing/sysfs-bus-pci), by address. One that does not say what
/// it is is left out.
fn devices(directory: &Path, nodes: &[Node]) -> Vec<Device> {
    let hex = |path: PathBuf| u32::from_str_radix(line(&path).strip_prefix("0x")?, 16).ok();
    let read = |path: PathBuf| {
        let node = line(&path.join("numa_node")).parse::<u32>().ok();
        let group = std::fs::read_link(path.join("iommu_group")).ok();
        Some(Device {
            address: path.file_name()?.to_str()?.to_owned(),
            class: hex(path.join("class"))?,
            vendor: u16::try_from(hex(path.join("vendor"))?).ok()?,
            device: u16::try_from(hex(path.join("device"))?).ok()?,
            // The kernel says -1 when it does not know.
            node: node.filter(|number| nodes.iter().any(|node| node.id == *number)),
            group: group.and_then(|path| path.file_name()?.to_str()?.parse().ok()),
        })
    };
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut devices: Vec<Device> = entries.filter_map(|entry| read(entry.path())).collect();
    devices.sort_by(|a, b| a.address.cmp(&b.address));
    devices
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

    fn cpu(root: &Path, id: u32, package: &str, siblings: &str) {
        let base = format!("devices/system/cpu/cpu{id}/topology");
        put(root, &format!("{base}/physical_package_id"), &format!("{package}\n"));
        put(root, &format!("{base}/thread_siblings_list"), &format!("{siblings}\n"));
    }

    fn cache(root: &Path, id: u32, index: u32, of: [&str; 4]) {
        let base = format!("devices/system/cpu/cpu{id}/cache/index{index}");
        for (file, text) in ["level", "type", "size", "shared_cpu_list"].iter().zip(of) {
            put(root, &format!("{base}/{file}"), &format!("{text}\n"));
        }
        put(root, &format!("{base}/coherency_line_size"), "64\n");
        put(root, &format!("{base}/ways_of_associativity"), "12\n");
    }

    #[test]
    fn each_cache_is_read_once_and_only_for_online_cpus() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        // CPU 1 is offline, but its sibling's cache still names it.
        put(root, "devices/system/cpu/online", "0,2-3\n");
        for (id, siblings) in [(0, "0"), (2, "2-3"), (3, "2-3")] {
            cpu(root, id, "0", siblings);
            cache(root, id, 0, ["1", "Data", "48K", if id == 0 { "0-1" } else { "2-3" }]);
            cache(root, id, 1, ["1", "Instruction", "64K", if id == 0 { "0-1" } else { "2-3" }]);
            cache(root, id, 3, ["3", "Unified", "480M", "0-3"]);
            cache(root, id, 4, ["9", "Unified", "1M", "0-3"]);
            cache(root, id, 5, ["2", "Unified", "0K", "0-3"]);
        }
        let inventory = read(root, "MemTotal: 100 kB\n", None).unwrap();
        let seen: Vec<_> = inventory.caches.iter().map(|c| (c.level, c.kind, c.size, c.cpus.to_string())).collect();
        let expected = [
            (1, CacheKind::Data, 48 << 10, "0"),
            (1, CacheKind::Data, 48 << 10, "2-3"),
            (1, CacheKind::Instruction, 64 << 10, "0"),
            (1, CacheKind::Instruction, 64 << 10, "2-3"),
            (3, CacheKind::Unified, 480 << 20, "0,2-3"),
        ];
        assert_eq!(seen, expected.map(|(level, kind, size, cpus)| (level, kind, size, cpus.to_owned())));
        assert_eq!((inventory.caches[0].line, inventory.caches[0].ways), (64, 12));
        let one = read(root, "MemTotal: 100 kB\n", Some(&CpuSet::parse("3").unwrap())).unwrap();
        assert!(one.caches.iter().all(|cache| cache.cpus.to_string() == "3") && one.caches.len() == 3, "{one:?}");
    }

    #[test]
    fn devices_are_read_with_class_node_and_group() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        put(root, "devices/system/cpu/online", "0\n");
        let device = |address: &str, class: &str, node: &str| {
            let base = format!("bus/pci/devices/{address}");
            for (file, text) in [("class", class), ("vendor", "0x8086"), ("device", "0x1572"), ("numa_node", node)] {
                put(root, &format!("{base}/{file}"), &format!("{text}\n"));
            }
        };
        device("0000:3b:00.1", "0x020000", "0");
        device("0000:3b:00.0", "0x020000", "-1");
        device("0000:3b:00.2", "what", "0");
        let groups = root.join("kernel/iommu_groups/42");
        std::fs::create_dir_all(&groups).unwrap();
        std::os::unix::fs::symlink(groups, root.join("bus/pci/devices/0000:3b:00.1/iommu_group")).unwrap();
        let inventory = read(root, "MemTotal: 100 kB\n", None).unwrap();
        let seen: Vec<_> = inventory.devices.iter().map(|d| (d.address.as_str(), d.node, d.group)).collect();
        assert_eq!(seen, [("0000:3b:00.0", None, None), ("0000:3b:00.1", Some(0), Some(42))]);
        assert_eq!((inventory.devices[0].class, inventory.devices[0].vendor), (0x02_0000, 0x8086));
    }

    #[test]
    fn hybrid_cores_holes_and_memoryless_nodes_are_read() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        // A core of two threads, one of a single thread, numbers with holes, a node without CPUs, one without memory,
        // and one with neither, which is left out.
        put(root, "devices/system/cpu/online", "0,4,9\n");
        cpu(root, 0, "0", "0,4");
        cpu(root, 4, "0", "0,4");
        cpu(root, 9, "-1", "9");
        put(root, "devices/system/node/online", "0,2,5,7\n");
        for (node, cpus, kib) in [(0, "0,4", 4096), (2, "9", 0), (5, "", 8192), (7, "", 0)] {
            let base = format!("devices/system/node/node{node}");
            put(root, &format!("{base}/cpulist"), &format!("{cpus}\n"));
            put(root, &format!("{base}/distance"), "10 20 30 40\n");
            put(root, &format!("{base}/meminfo"), &format!("Node {node} MemTotal: {kib} kB\n"));
        }
        let inventory = read(root, "", None).unwrap();
        let nodes: Vec<_> = inventory.nodes.iter().map(|node| (node.id, node.memory)).collect();
        assert_eq!(nodes, [(0, 4 << 20), (2, 0), (5, 8 << 20)]);
        let cores: Vec<_> = inventory.cpus.iter().map(|cpu| (cpu.id, cpu.package, cpu.core, cpu.node)).collect();
        assert_eq!(cores, [(0, 0, 0, 0), (4, 0, 0, 0), (9, 0, 9, 2)]);
        // The columns that are left: node 7 is gone.
        assert_eq!(inventory.nodes[0].distances, [10, 20, 30]);
    }

    #[test]
    fn what_is_known_is_read_again_only_when_the_host_changes() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        put(root, "devices/system/cpu/online", "0-1\n");
        cpu(root, 0, "0", "0");
        cpu(root, 1, "0", "1");
        let mut known = Known::default();
        let mut look = |kib: u64, allowed: &str| {
            let text = format!("MemTotal: 100000 kB\nMemAvailable: {kib} kB\n");
            known.look(root, &text, Some(CpuSet::parse(allowed).unwrap())).unwrap()
        };
        let first = look(60, "0-1");
        assert_eq!((first.cpus.len(), first.cpus[0].package, first.nodes[0].available), (2, 0, 60 << 10));
        // Memory is looked at each time; a package is not.
        cpu(root, 0, "1", "0");
        put(root, "kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "3\n");
        put(root, "kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "2\n");
        let second = look(40, "0-1");
        assert_eq!((second.cpus[0].package, second.nodes[0].available), (0, 40 << 10));
        assert_eq!(second.nodes[0].huge_pages, [HugePages { size: 2 << 20, total: 3, free: 2 }]);
        // Each of these is another host.
        assert_eq!(look(40, "0").cpus.iter().map(|cpu| (cpu.id, cpu.package)).collect::<Vec<_>>(), [(0, 1)]);
        put(root, "devices/system/cpu/online", "1\n");
        assert_eq!(look(40, "0-1").cpus.iter().map(|cpu| cpu.id).collect::<Vec<_>>(), [1]);
        for (file, text) in [("class", "0x020000"), ("vendor", "0x8086"), ("device", "0x1572")] {
            put(root, &format!("bus/pci/devices/0000:00:01.0/{file}"), text);
        }
        assert_eq!(look(40, "0-1").devices.len(), 1);
        for node in 0..2 {
            let base = format!("devices/system/node/node{node}");
            put(root, &format!("{base}/cpulist"), if node == 0 { "0\n" } else { "1\n" });
            put(root, &format!("{base}/meminfo"), &format!("Node {node} MemTotal: 50 kB\nNode {node} MemFree: 9 kB\n"));
            put(root, &format!("{base}/distance"), if node == 0 { "10 20\n" } else { "20 10\n" });
        }
        put(root, "devices/system/node/online", "0-1\n");
        put(root, "devices/system/node/has_memory", "0-1\n");
        assert_eq!(look(40, "0-1").nodes.len(), 2);
        put(root, "devices/system/node/node1/meminfo", "Node 1 MemTotal: 50 kB\nNode 1 MemFree: 3 kB\n");
        let last = look(40, "0-1");
        assert_eq!((last.nodes[0].available, last.nodes[1].available), (9 << 10, 3 << 10));
        assert_eq!((last.distance(0, 1), last), (20, look(40, "0-1")));
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
