//! The host's own interrupts and the CPUs that are partitions' alone.

use crate::audit::TWO;
use crate::claims::Place;
use anyhow::{Context, Result, ensure};
use end_to_end::frame::Frame;
use end_to_end::{host, wait};
use frame::cpuset::CpuSet;
use frame::steer::{HostInterruptRow, HostRoute};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Everything that says where the host's work may go.
fn everywhere() -> Result<BTreeMap<PathBuf, String>> {
    let mut found = BTreeMap::new();
    let interrupts = std::fs::read_dir("/proc/irq")?.flatten().map(|entry| entry.path().join("smp_affinity_list"));
    let others = ["/proc/irq/default_smp_affinity", "/sys/devices/virtual/workqueue/cpumask"].map(PathBuf::from);
    for path in interrupts.chain(others) {
        // Interrupts come and go.
        if let Ok(text) = std::fs::read_to_string(&path) {
            found.insert(path, text);
        }
    }
    Ok(found)
}

fn rows(frame: &Frame) -> Result<Vec<HostInterruptRow>> {
    Ok(serde_json::from_value(frame.lpar.json("interrupts --host")?)?)
}

/// Interrupts that may still go to `own` and of which the kernel did not refuse to move them.
fn left(frame: &Frame, own: &CpuSet) -> Result<Vec<PathBuf>> {
    let rows = rows(frame)?;
    let refused = |path: &PathBuf| {
        let number = path.parent().and_then(|parent| parent.file_name()?.to_str()?.parse::<u32>().ok());
        rows.iter().any(|row| Some(row.interrupt) == number && row.state == HostRoute::Refused)
    };
    let stays = |(path, text): (PathBuf, String)| {
        let cpus = CpuSet::parse(text.trim()).ok()?;
        let list = path.ends_with("smp_affinity_list");
        (list && !cpus.intersection(own).is_empty() && !refused(&path)).then_some(path)
    };
    Ok(everywhere()?.into_iter().filter_map(stays).collect())
}

pub fn moved() -> Result<()> {
    let before = everywhere()?;
    let place = Place::new()?;
    let frame = place.frame_of(&TWO.replacen("[frame]", "[frame]\nshared_host = false", 1))?;
    frame.lpar.run_all([Path::new("up"), &frame.file(), Path::new("--detach")])?.expect(0)?;
    let own = frame.lpar.json("show alone")?["resources"]["cpus"]["assigned"].clone();
    let own = CpuSet::parse(own.as_str().context("no CPUs")?)?;
    wait::until("the host's interrupts leave", || Ok(left(&frame, &own)?.is_empty().then_some(())))?;
    let now = everywhere()?;
    for path in ["/proc/irq/default_smp_affinity", "/sys/devices/virtual/workqueue/cpumask"].map(PathBuf::from) {
        ensure!(!before.contains_key(&path) || before.get(&path) != now.get(&path), "{} stays", path.display());
    }
    // A manager that takes over knows what was moved.
    host::signal(frame.manager()?, Signal::KILL)?;
    frame.lpar.event("B17B0001", "")?;
    frame.lpar.run("shutdown alone")?.expect(0)?;
    wait::until("the host's interrupts come back", || Ok((everywhere()? == before).then_some(())))?;
    frame.lpar.run("activate alone")?.expect(0)?;
    wait::until("the host's interrupts leave again", || Ok(left(&frame, &own)?.is_empty().then_some(())))?;
    frame.down()?;
    let after = everywhere()?;
    ensure!(after == before, "not as before: {after:?} instead of {before:?}");
    Ok(())
}
