//! What stock Linux sees of its partition's machine, against what was planned.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testbed::{Error, Testbed, host, install_bulkhead};

use crate::console;
use crate::harness::{Test, output, skip};

const SOON: Duration = Duration::from_secs(90);

/// Of processors without CPUs of their own.
pub const FLOATING: &[Test] = &[("linux_on_eight_processors_sees_the_planned_machine", eight)];
/// Of processors on CPUs of two nodes.
pub const PLACED: &[Test] = &[("a_dedicated_partition_on_two_nodes_sees_them_as_planned", dedicated)];

/// What is asked of Linux: who it is, its clock, its complaints.
const WHO: &str = "cd /sys/class/dmi/id; echo seen=$(cat sys_vendor product_sku product_family chassis_serial); \
    echo seen=$(cat /sys/devices/system/clocksource/clocksource0/current_clocksource); \
    echo seen=$(dmesg | grep -cE 'ACPI (BIOS )?(Error|Warning)|Firmware (Bug|Warn)|not on the same node')";
/// A line for each processor: its number, core, socket, node and the identifiers of its caches, nearest first.
const PROCESSORS: &str = "lscpu -p=CPU,CORE,SOCKET,NODE,CACHE | grep -v ^# | sed s/^/seen=/";
/// The nodes: their distances, their processors, and the memory that the firmware tells of.
const DISTANCES: &str = "for n in /sys/devices/system/node/node[0-9]*; do echo seen=$(cat $n/distance); done";
const MEMORY: &str =
    "dmesg | sed -n 's/.*SRAT: Node \\([0-9]*\\) PXM .* \\[mem \\(.*\\)-\\(.*\\)\\]/seen=\\1 \\2 \\3/p'";
/// The first processor's caches.
const CACHES: &str = "for c in /sys/devices/system/cpu/cpu0/cache/index*; do \
    echo seen=$(cat $c/level $c/type $c/size $c/ways_of_associativity); done";
/// Each processor's machine-check banks.
const BANKS: &str =
    "for m in /sys/devices/system/machinecheck/machinecheck*; do echo seen=$(ls $m | grep -c ^bank); done";

fn eight(testbed: &mut Testbed) -> Result<()> {
    built()?;
    let processors = "{ mode = \"shared\", pool = \"default\", desired = 8, \
         units = { minimum = 0.4, desired = 0.8, maximum = 1.0 }, sharing = \"uncapped\", weight = 128 }";
    let plan = up(testbed, processors, "256MiB", host::GUEST_KERNEL, host::GUEST_INITRD)?;
    let count = plan["processors"].as_array().context("no processors in the plan")?.len();
    console::wait(testbed, "red", "BULKHEAD-GUEST name=red cpus=8 reached user space")?;
    ensure!(console::ask(testbed, "red", WHO)? == ["Bulkhead red bed bed", "kvm-clock", "0"]);
    // They float over the pool: to Linux each is a core of its own in one package.
    let seen = console::ask(testbed, "red", PROCESSORS)?;
    let places: Vec<String> = seen.iter().map(|line| line.split(',').take(4).collect::<Vec<_>>().join(",")).collect();
    let planned: Vec<String> = (0..count).map(|cpu| format!("{cpu},{cpu},0,0")).collect();
    ensure!(count == 8 && places == planned, "{seen:?}");
    down(testbed)
}

/// Linux must tell the planned CPUs apart exactly as the host does, whatever numbers it gives to them.
fn dedicated(testbed: &mut Testbed) -> Result<()> {
    built()?;
    // The cloud kernel 6.1 knows nothing of machine checks; that of the testbed itself is a standard one.
    let (kernel, initrd) = standard(testbed)?;
    let inventory: Value = json(testbed, "lpar doctor --inventory")?;
    let processors = "{ mode = \"dedicated\", minimum = 3, desired = 3, maximum = 3, io = \"pool:default\" }";
    let plan = up(testbed, processors, "512MiB", &kernel, &initrd)?;
    let shown = json(testbed, "lpar show red --json")?;
    ensure!(shown["resources"]["cpus"]["assigned"] == plan["cpus"], "{shown}\n{plan}");
    ensure!(shown["resources"]["extents"]["assigned"] == plan["memory"], "{shown}\n{plan}");
    let on: Vec<u64> = list(&plan["processors"])?
        .iter()
        .map(|one| Ok(one.as_str().context("no CPU")?.parse()?))
        .collect::<Result<_>>()?;
    let expected = Expected::of(&inventory, &on)?;
    ensure!(expected.several_nodes(), "the plan is on one node: {plan}");
    console::wait(testbed, "red", &format!("name=red cpus={} reached user space", on.len()))?;

    let seen = console::ask(testbed, "red", PROCESSORS)?;
    ensure!(seen.len() == on.len(), "{seen:?}");
    expected.check(&seen)?;
    let caches = console::ask(testbed, "red", CACHES)?;
    ensure!(caches == expected.caches, "{caches:?} instead of {:?}", expected.caches);

    let nodes: Vec<u64> = list(&plan["memory"])?.iter().filter_map(|extent| extent["node"].as_u64()).collect();
    let distances = console::ask(testbed, "red", DISTANCES)?;
    ensure!(distances == planned_distances(&inventory, &nodes)?, "{distances:?}");
    let memory = console::ask(testbed, "red", MEMORY)?;
    ensure!(sums(&memory, nodes.len())? == planned_memory(&plan)?, "{memory:?} {plan}");

    let banks = console::ask(testbed, "red", BANKS)?;
    ensure!(banks.len() == on.len() && banks.iter().all(|count| *count == banks[0] && count != "0"), "{banks:?}");
    ensure!(console::ask(testbed, "red", WHO)?.get(2).map(String::as_str) == Some("0"));
    down(testbed)
}

/// A standard kernel and its initial ramdisk.
fn standard(testbed: &mut Testbed) -> Result<(String, String)> {
    for (version, _) in host::OTHER_KERNELS.iter().filter(|(_, flavour)| *flavour == "standard") {
        let (kernel, initrd) = host::other_kernel(version, "standard");
        if testbed.run(&format!("test -e {kernel}"), SOON)?.success() {
            return Ok((kernel, initrd));
        }
    }
    anyhow::bail!("the testbed has no standard kernel, not even its own")
}

/// What Linux is to tell of processors on some CPUs of the host.
struct Expected {
    /// For each column of [`PROCESSORS`] after the first, what the CPU of each processor has there.
    columns: Vec<Vec<String>>,
    /// The first CPU's caches as [`CACHES`] prints them.
    caches: Vec<String>,
}

impl Expected {
    fn of(inventory: &Value, on: &[u64]) -> Result<Self> {
        let all = list(&inventory["cpus"])?;
        let cpus: Vec<&Value> = on
            .iter()
            .map(|id| all.iter().find(|cpu| cpu["id"] == *id).with_context(|| format!("no CPU {id}")))
            .collect::<Result<_>>()?;
        let column = |key: &str| cpus.iter().map(|cpu| format!("{} {}", cpu["package"], cpu[key])).collect();
        let mut columns: Vec<Vec<String>> = vec![column("core"), column("package"), column("node")];
        let caches = list(&inventory["caches"])?;
        let holds = |cache: &Value, id: u64| members(&cache["cpus"]).contains(&id);
        let mut own = Vec::new();
        for cache in caches.iter().filter(|cache| holds(cache, on[0])) {
            let like = |one: &&Value| one["level"] == cache["level"] && one["kind"] == cache["kind"];
            let around = |id: u64| caches.iter().filter(like).find(|one| holds(one, id)).map(|one| &one["cpus"]);
            columns.push(on.iter().map(|id| format!("{:?}", around(*id))).collect());
            let kind = match cache["kind"].as_str() {
                Some("data") => "Data",
                Some("instruction") => "Instruction",
                _ => "Unified",
            };
            let kib = cache["size"].as_u64().context("no size")? / 1024;
            own.push(format!("{} {kind} {kib}K {}", cache["level"], cache["ways"]));
        }
        ensure!(!own.is_empty(), "the host tells of no caches");
        Ok(Self { columns, caches: own })
    }

    fn several_nodes(&self) -> bool {
        self.columns[2].iter().any(|node| *node != self.columns[2][0])
    }

    /// Two processors are alike in a column where their CPUs are, and only there.
    fn check(&self, seen: &[String]) -> Result<()> {
        // Before its caches is a column that is always empty.
        let rows: Vec<Vec<&str>> = seen
            .iter()
            .map(|line| line.split([',', ':']).skip(1).filter(|field| !field.is_empty()).collect())
            .collect();
        for (at, planned) in self.columns.iter().enumerate() {
            for (one, row) in rows.iter().enumerate() {
                ensure!(
                    row.len() == self.columns.len(),
                    "{} columns instead of {}: {seen:?}",
                    row.len(),
                    self.columns.len()
                );
                for (other, another) in rows.iter().enumerate() {
                    ensure!(
                        (row[at] == another[at]) == (planned[one] == planned[other]),
                        "processors {one} and {other} in column {at} of {seen:?}: planned {planned:?}"
                    );
                }
            }
        }
        Ok(())
    }
}

fn planned_distances(inventory: &Value, nodes: &[u64]) -> Result<Vec<String>> {
    let all = list(&inventory["nodes"])?;
    let place = |id: u64| all.iter().position(|node| node["id"] == id).with_context(|| format!("no node {id}"));
    let row = |from: &u64| {
        let to = nodes.iter().map(|to| Ok(all[place(*from)?]["distances"][place(*to)?].to_string()));
        Ok(to.collect::<Result<Vec<_>>>()?.join(" "))
    };
    nodes.iter().map(row).collect()
}

/// Bytes of each node that the partition has memory on.
fn planned_memory(plan: &Value) -> Result<Vec<u64>> {
    const BLOCK: u64 = 2 << 20;
    let bytes = |extent: &Value| Ok(extent["blocks"].as_u64().context("no blocks")? * BLOCK);
    list(&plan["memory"])?.iter().map(bytes).collect()
}

/// Bytes of each node in lines `NODE FIRST LAST`.
fn sums(lines: &[String], nodes: usize) -> Result<Vec<u64>> {
    let mut sums = vec![0; nodes];
    for line in lines {
        let words: Vec<&str> = line.split(' ').collect();
        let [node, first, last] = words[..] else { anyhow::bail!("{lines:?}") };
        let address = |word: &str| u64::from_str_radix(word.trim_start_matches("0x"), 16);
        *sums.get_mut(node.parse::<usize>()?).context("another node")? += address(last)? + 1 - address(first)?;
    }
    Ok(sums)
}

/// The CPUs in a list such as `0-2,5`.
fn members(list: &Value) -> Vec<u64> {
    let ranges = list.as_str().unwrap_or_default().split(',');
    let range = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    ranges.filter_map(range).flatten().collect()
}

fn list(value: &Value) -> Result<&Vec<Value>> {
    value.as_array().with_context(|| format!("no list: {value}"))
}

fn json(testbed: &mut Testbed, command: &str) -> Result<Value> {
    let told = output(testbed, command, SOON)?;
    serde_json::from_str(&told).with_context(|| format!("`{command}`: {told}"))
}

fn built() -> Result<()> {
    match install_bulkhead() {
        Err(error @ Error::NotBuilt { .. }) => Err(skip(error.to_string())),
        _ => Ok(()),
    }
}

/// Activates Linux in the partition `red` of a frame of its own, and gives what is planned for it.
fn up(testbed: &mut Testbed, processors: &str, memory: &str, kernel: &str, initrd: &str) -> Result<Value> {
    let file = format!(
        "[frame]\nname = \"bed\"\nmemory_block = \"2MiB\"\nreserved = {{ cpus = 0, memory = \"256MiB\" }}\n\
         [[pool]]\nname = \"default\"\ncpus = 1\n[[partition]]\nname = \"red\"\nprocessors = {processors}\n\
         memory = {{ desired = \"{memory}\" }}\n\
         boot = {{ kernel = \"{kernel}\", initrd = \"{initrd}\", cmdline = \"console=ttyS0 name=red action=shell\" }}\n"
    );
    output(testbed, &format!("cat > /tmp/planned.toml <<'FILE'\n{file}FILE"), SOON)?;
    let plan = json(testbed, "lpar plan /tmp/planned.toml --json 2>/dev/null")?;
    output(testbed, "lpar up /tmp/planned.toml --detach", SOON)?;
    Ok(list(&plan["partitions"])?.first().context("no partition in the plan")?.clone())
}

fn down(testbed: &mut Testbed) -> Result<()> {
    output(testbed, "lpar down --immediate", SOON)?;
    Ok(())
}
