//! What a frame costs as it fills: the time of each activation, and the memory of each partition.

use crate::brought_up::{self, BroughtUp, processor_time};
use crate::statistics::Samples;
use anyhow::{Context, Result};
use frame::api::{PartitionDetail, PartitionRow};
use std::collections::BTreeMap;
use std::time::Instant;

/// Points of the curve.
const POINTS: usize = 10;
/// Most that the last activations may take of the manager's processor time against the first.
const MOST_GROWTH: f64 = 2.0;
/// Lists of the full frame that are timed.
const LISTS: usize = 20;

/// One point of the curve: the activations since the point before it.
#[derive(Debug, serde::Serialize)]
pub struct Point {
    /// Partitions that run now.
    pub running: usize,
    /// Half of the calls of `lpar activate` were no longer, milliseconds.
    pub activate_p50_ms: f64,
    /// 90 % of them.
    pub activate_p90_ms: f64,
    /// Processor time of the manager for each activation, milliseconds.
    pub manager_ms: f64,
}

/// What was measured of a frame that fills.
#[derive(Debug, serde::Serialize)]
pub struct Scale {
    /// Time by the number of partitions that run.
    pub curve: Vec<Point>,
    /// Processor time of the manager for an activation: the last point to the first.
    pub growth: f64,
    /// What the specification promises of it, at most.
    pub promised_growth: f64,
    /// `lpar ls` of all: the median, milliseconds.
    pub list_p50_ms: f64,
    /// Kibibytes for each partition, by what they are for.
    pub kib_each: BTreeMap<String, f64>,
    /// Calls of `lpar shutdown --immediate`: the median, milliseconds.
    pub shutdown_p50_ms: f64,
}

impl Scale {
    /// Whether the promise holds.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.growth <= self.promised_growth
    }
}

/// Activates `count` partitions of the payload in one frame, one after the other, and shuts them down again.
///
/// # Errors
/// When one cannot be activated or shut down.
pub fn measure(binaries: &std::path::Path, count: usize) -> Result<Scale> {
    // They beat every ten seconds, so that it is the manager that is measured and not the guests.
    let units = "{ minimum = 0.001, desired = 0.001, maximum = 0.1 }";
    let cpus = count.div_ceil(1000);
    let name = format!("scale{}", std::process::id());
    let text = brought_up::frame_file(&name, cpus, count, 4, units, "beat=10000");
    let frame = BroughtUp::new(binaries, &text)?;
    let manager = frame.manager()?;
    let before = kernel_memory()?;
    let mut curve = Vec::new();
    let step = count.div_ceil(POINTS).max(1);
    for begin in (0..count).step_by(step) {
        let numbers = begin..(begin + step).min(count);
        let (mut calls, used, activated) = (Samples::default(), processor_time(manager)?, numbers.len());
        for number in numbers {
            calls.push(timed(&frame, &["activate", &format!("b{number}")])?);
        }
        let used = processor_time(manager)?.saturating_sub(used);
        curve.push(Point {
            running: begin + activated,
            activate_p50_ms: calls.quantile(0.5),
            activate_p90_ms: calls.quantile(0.9),
            manager_ms: used.as_secs_f64() * 1e3 / activated as f64,
        });
    }
    let growth = match curve.as_slice() {
        [first, .., last] => last.manager_ms / first.manager_ms,
        _ => 1.0,
    };
    let kib_each = memory(&frame, count, &before)?;
    let mut lists = Samples::default();
    for _ in 0..LISTS {
        lists.push(timed(&frame, &["ls"])?);
    }
    let mut shutdowns = Samples::default();
    for number in 0..count {
        shutdowns.push(timed(&frame, &["shutdown", &format!("b{number}"), "--immediate"])?);
    }
    frame.down()?;
    Ok(Scale {
        curve,
        growth,
        promised_growth: MOST_GROWTH,
        list_p50_ms: lists.quantile(0.5),
        kib_each,
        shutdown_p50_ms: shutdowns.quantile(0.5),
    })
}

/// Milliseconds of one call of `lpar`.
fn timed(frame: &BroughtUp, arguments: &[&str]) -> Result<f64> {
    let begin = Instant::now();
    frame.lpar(arguments)?;
    Ok(begin.elapsed().as_secs_f64() * 1e3)
}

/// Fields of `/proc/meminfo` (`proc_meminfo(5)`) that hold what the kernel keeps, kibibytes. It is that of the
/// whole machine: what else starts or ends meanwhile is in it.
fn kernel_memory() -> Result<BTreeMap<&'static str, f64>> {
    const FIELDS: [&str; 6] = ["Slab", "KernelStack", "PageTables", "SecPageTables", "VmallocUsed", "Percpu"];
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let field = |name: &'static str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.split_whitespace().next());
        // Older kernels do not have them all.
        (name, value.and_then(|value| value.parse().ok()).unwrap_or(0.0))
    };
    Ok(FIELDS.into_iter().map(field).collect())
}

/// Kibibytes of each partition: of its process, and of the kernel for it.
fn memory(frame: &BroughtUp, count: usize, before: &BTreeMap<&str, f64>) -> Result<BTreeMap<String, f64>> {
    let rows: Vec<PartitionRow> = serde_json::from_slice(&frame.lpar(&["ls", "--json"])?.stdout)?;
    let each = |sum: f64| sum / count.max(1) as f64;
    let mut items = BTreeMap::new();
    for (name, now) in kernel_memory()? {
        items.insert(format!("kernel: {name}"), each(now - before.get(name).copied().unwrap_or(0.0)));
    }
    let mut process = BTreeMap::<&str, f64>::new();
    for pid in rows.iter().filter_map(|row| row.pid) {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
            .with_context(|| format!("process {pid} is gone"))?;
        for (field, what) in [("Pss_Anon:", "heap and stacks"), ("Pss_File:", "program")] {
            let line = text.lines().find_map(|line| line.strip_prefix(field)?.split_whitespace().next());
            *process.entry(what).or_default() += line.and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(0.0);
        }
    }
    items.extend(process.into_iter().map(|(what, sum)| (format!("process: {what}"), each(sum))));
    // What the control group counts is part of the above, seen from the other side; the guest's pages are in it.
    let detail: PartitionDetail = serde_json::from_slice(&frame.lpar(&["show", "b0", "--json"])?.stdout)?;
    for (file, what) in [
        ("memory.kmem.usage_in_bytes", "control group: kernel (version 1)"),
        ("memory.usage_in_bytes", "control group: all (version 1)"),
        ("memory.current", "control group: all (version 2)"),
    ] {
        let texts = detail.cgroup.iter().map(|group| std::fs::read_to_string(format!("{group}/{file}")));
        if let Some(bytes) = texts.flatten().find_map(|text| text.trim().parse::<f64>().ok()) {
            items.insert(what.to_owned(), bytes / 1024.0);
        }
    }
    Ok(items)
}
