//! `check`, `doctor`: what needs no running frame.

use super::{json, print};
use crate::arguments::Common;
use crate::declaration::Declaration;
use crate::failure::Outcome;
use crate::host;
use crate::show::size;
use frame::api::HostReport;
use std::fmt::Write;
use std::path::Path;

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
        Err(error) => declaration.say(
            frame::rule::NO_INVENTORY,
            format!("whether the frame fits this host was not checked, because {error}"),
        ),
    }
    if let Some(root) = declaration.frame().and_then(|frame| crate::roots::of_frame(common, &frame.name).ok()) {
        declaration.at_root(&root);
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
