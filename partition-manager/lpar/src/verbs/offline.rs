//! `check`, `plan`, `explain`, `doctor`: what needs no running frame.

use super::{json, print};
use crate::arguments::Common;
use crate::declaration::Declaration;
use crate::failure::{Outcome, refuse};
use crate::host;
use crate::show::{Table, size};
use anyhow::Context;
use frame::api::HostReport;
use frame::code::REGISTRY;
use frame::inventory::Inventory;
use frame::plan::{Backing, Plan};
use std::fmt::Write;
use std::io::Read;
use std::path::Path;

/// Largest inventory file, bytes.
const LARGEST_INVENTORY: u64 = 64 << 20;

/// `lpar check FILE`.
///
/// # Errors
/// When the file has mistakes or cannot be read.
pub fn check(common: &Common, file: &Path) -> Outcome {
    let mut declaration = Declaration::load(file)?;
    let host = host::report();
    match &host {
        Ok(report) => {
            declaration.plan(&report.inventory);
        }
        Err(error) => declaration
            .warn("no-inventory", format!("whether the frame fits this host was not checked, because {error}")),
    }
    if common.json {
        json(&declaration.json())?;
        return declaration.verdict();
    }
    declaration.judge()?;
    let Some(frame) = declaration.frame() else { return declaration.verdict() };
    let partitions = counted(frame.partitions.len(), "partition");
    let verdict = match &host {
        Ok(HostReport { kvm, .. }) if kvm.error.is_none() => "can be brought up here",
        Ok(_) => "fits this host, but no partition can run here; `lpar doctor` says why",
        Err(_) => "is well declared",
    };
    print(&format!("{}: frame {} with {partitions} {verdict}\n", file.display(), frame.name))
}

/// `lpar plan FILE [--inventory FILE]`.
///
/// # Errors
/// When the file has mistakes, or its frame does not fit the host.
pub fn plan(common: &Common, file: &Path, inventory: Option<&Path>) -> Outcome {
    let mut declaration = Declaration::load(file)?;
    let inventory = match inventory {
        Some(path) => read_inventory(path)?,
        None => host::report()?.inventory,
    };
    let plan = declaration.plan(&inventory);
    declaration.judge()?;
    match plan {
        Some(plan) if common.json => json(&plan),
        Some(plan) => print(&text(&plan)),
        None => declaration.verdict(),
    }
}

fn read_inventory(path: &Path) -> Outcome<Inventory> {
    let shown = path.display();
    let file = std::fs::File::open(path).with_context(|| format!("cannot open the inventory {shown}"))?;
    let mut text = String::new();
    let length =
        file.take(LARGEST_INVENTORY).read_to_string(&mut text).with_context(|| format!("cannot read {shown}"))?;
    if length as u64 == LARGEST_INVENTORY {
        refuse!("the inventory {shown} has {LARGEST_INVENTORY} bytes or more; check that this is the file you mean");
    }
    Ok(Inventory::from_json(&text).with_context(|| format!("cannot use the inventory {shown}"))?)
}

fn text(plan: &Plan) -> String {
    let mut out = String::new();
    let mut table =
        Table::new(&["partition", ">id", "mode", ">processors", ">units", "cpus", ">memory", "nodes", ">score"]);
    for partition in &plan.partitions {
        let mode = match &partition.backing {
            Backing::Dedicated => "dedicated".to_owned(),
            Backing::Shared { pool, .. } => format!("shared:{pool}"),
        };
        let nodes: Vec<String> = partition.memory.iter().map(|extent| extent.node.to_string()).collect();
        table.row([
            partition.name.to_string(),
            partition.id.to_string(),
            mode,
            partition.processors.len().to_string(),
            partition.units().to_string(),
            partition.cpus.to_string(),
            size(partition.memory_bytes(plan.memory_block)),
            nodes.join(","),
            partition.score.to_string(),
        ]);
    }
    // Writing into a string cannot fail.
    let _ = write!(out, "{table}");
    let mut pools = Table::new(&["pool", "cpus"]);
    for pool in &plan.pools {
        pools.row([pool.name.to_string(), pool.cpus.to_string()]);
    }
    let overhead: u64 = plan.overhead.iter().fold(0, |sum, item| sum.saturating_add(item.bytes));
    let or_none = |set: String| if set.is_empty() { "none".to_owned() } else { set };
    let _ = write!(
        out,
        "\n{pools}\nthe host's own CPUs: {}; unassigned: {}; memory beside the partitions' own: about {}\n",
        or_none(plan.reserved.to_string()),
        or_none(plan.unassigned.to_string()),
        size(overhead)
    );
    out
}

/// `lpar explain CODE`.
///
/// # Errors
/// When there is no such code.
pub fn explain(common: &Common, code: &str) -> Outcome {
    let wanted = code.to_ascii_uppercase();
    let Some(entry) = REGISTRY.iter().find(|entry| entry.reference == wanted) else {
        let shown: String = code.chars().take(40).collect();
        refuse!("there is no reference code {shown:?}; `lpar events` shows codes that occurred, eight characters each");
    };
    if common.json {
        return json(entry);
    }
    let word = |value: serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    print(&format!(
        "{}  {}\nseverity: {}\nconcerns: {}\ncause:    {}\naction:   {}\n",
        entry.reference,
        entry.text,
        word(serde_json::to_value(entry.severity)?),
        word(serde_json::to_value(entry.scope)?),
        entry.cause,
        entry.action
    ))
}

/// `lpar doctor`.
///
/// # Errors
/// When the host cannot be examined.
pub fn doctor(common: &Common, inventory: bool) -> Outcome {
    let report = host::report()?;
    match (inventory, common.json) {
        (true, _) => json(&report.inventory),
        (false, true) => json(&report),
        (false, false) => print(&describe(&report)),
    }
}

/// A number of things, such as `1 node` and `2 nodes`.
fn counted(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn describe(report: &HostReport) -> String {
    let mut out = String::new();
    let HostReport { inventory, kvm, cgroup, kernel, lacks } = report;
    let mut cores: Vec<_> = inventory.cpus.iter().map(|cpu| (cpu.package, cpu.core)).collect();
    cores.sort_unstable();
    cores.dedup();
    let memory = inventory.nodes.iter().fold(0u64, |sum, node| sum.saturating_add(node.memory));
    let available = inventory.nodes.iter().fold(0u64, |sum, node| sum.saturating_add(node.available));
    let huge: u64 = inventory
        .nodes
        .iter()
        .flat_map(|node| &node.huge_pages)
        .fold(0, |sum, pages| sum.saturating_add(pages.free.saturating_mul(pages.size)));
    let backing = match kvm.hardware {
        Some(true) => "with hardware virtualization",
        Some(false) => "without hardware virtualization",
        None => "backing not known",
    };
    let able = match (&kvm.error, kvm.api_version) {
        (Some(error), _) => format!("partitions cannot run here: {error}"),
        (None, Some(version)) => format!("usable, API version {version}, {backing}"),
        (None, None) => format!("usable, {backing}"),
    };
    let confinement = match cgroup.controllers.is_empty() {
        true => format!("{}, no controller usable", cgroup.version),
        false => format!("{}, controllers {}", cgroup.version, cgroup.controllers.join(", ")),
    };
    // Writing into a string cannot fail.
    let _ = write!(
        out,
        "kernel:      {kernel}\nKVM:         {able}\nprocessors:  {} in {} on {}\nmemory:      {}, {} available, {} in free huge pages\nconfinement: {confinement}\n",
        inventory.cpus.len(),
        counted(cores.len(), "core"),
        counted(inventory.nodes.len(), "node"),
        size(memory),
        size(available),
        size(huge),
    );
    if lacks.is_empty() {
        out.push_str("This host lacks nothing.\n");
    } else {
        out.push_str("This host lacks:\n");
        for lack in lacks {
            let _ = writeln!(out, "  - {}", crate::show::plain(lack));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use frame::assignment::Assignment;
    use frame::inventory::{Cpu, Node};

    const TEXT: &str = r#"
        [frame]
        name = "t"
        reserved = { cpus = 0 }
        [[pool]]
        name = "default"
        cpus = 1
        [[partition]]
        name = "alpha"
        processors = { mode = "shared", pool = "default", desired = 2, units = { minimum = 0.1, desired = 0.4, maximum = 1.0 }, sharing = "capped" }
        memory = { desired = "64MiB" }
        boot = "diagnostics"
    "#;

    #[test]
    fn a_plan_reads_as_a_table() {
        let node = Node { id: 0, memory: 1 << 30, available: 1 << 30, huge_pages: vec![], distances: vec![] };
        let inventory = Inventory {
            cpus: vec![Cpu { id: 0, package: 0, core: 0, node: 0 }],
            nodes: vec![node],
            ..Inventory::default()
        };
        let frame = frame::file::read(TEXT).frame.unwrap();
        let text = text(&frame::plan::plan(&frame, &inventory, &Assignment::new()).unwrap());
        let cells: Vec<&str> = text.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(cells, ["alpha", "1", "shared:default", "2", "0.40", "0", "64MiB", "0", "100"]);
    }
}
