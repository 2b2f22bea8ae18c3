//! `lpar audit`: what is as it was divided, and each breach of it that a superuser can make.

use anyhow::{Context, Result, ensure};
use end_to_end::frame::Frame;
use frame::audit::{AuditReport, PartitionAudit, Verdict};
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_setaffinity};
use std::path::{Path, PathBuf};

/// A partition with a CPU of its own, and one that shares.
pub const TWO: &str = r#"
[frame]
name = "@NAME@"
memory_block = "2MiB"
reserved = { cpus = 0, memory = "64MiB" }

[[pool]]
name = "default"
cpus = 1

[defaults]
memory = { desired = "16MiB" }
boot = "diagnostics"

[[partition]]
name = "alone"
processors = { mode = "dedicated", desired = 1 }

[[partition]]
name = "sharer"
processors = { mode = "shared", pool = "default", desired = 1, units = { minimum = 0.1, desired = 0.4, maximum = 1.0 } }
"#;

/// Why this machine has no CPU for each; none when it has.
pub fn lacks() -> Option<String> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    (cpus < 2).then(|| format!("needs 2 CPUs, this machine has {cpus}"))
}

/// The host's own tasks may be anywhere: what is asked is what concerns the partition itself.
fn says(audit: &PartitionAudit, text: &str) -> bool {
    audit.findings.iter().any(|finding| finding.verdict == Verdict::Broken && finding.what.contains(text))
}

fn audited(frame: &Frame) -> Result<(AuditReport, i32)> {
    let answer = frame.lpar.run("audit --for 100ms --json")?;
    let report = serde_json::from_str(&answer.stdout).with_context(|| format!("{answer:?}"))?;
    Ok((report, answer.status))
}

fn one<'a>(report: &'a AuditReport, name: &str) -> Result<&'a PartitionAudit> {
    report.partitions.iter().find(|one| one.name.as_str() == name).with_context(|| format!("no {name}: {report:?}"))
}

/// Above all groups of frames.
fn above(group: &Path) -> Option<PathBuf> {
    group.ancestors().find(|one| one.ends_with("bulkhead"))?.parent().map(Path::to_path_buf)
}

pub fn breaches() -> Result<()> {
    let frame = Frame::up(TWO)?;
    let (report, status) = audited(&frame)?;
    ensure!((status == 1) == (report.verdict == Verdict::Broken), "status {status}: {report:?}");
    let (alone, sharer) = (one(&report, "alone")?, one(&report, "sharer")?);
    ensure!((alone.mode.as_str(), sharer.mode.as_str()) == ("dedicated", "shared"), "{report:?}");
    ensure!(sharer.verdict == Verdict::Holds, "{sharer:?}");
    for text in ["not its own", "other partitions", "jail", "group", "memory"] {
        ensure!(!says(alone, text), "{text}: {alone:?}");
    }
    let resident: u64 = alone.figures.memory.iter().map(|one| one.bytes).sum();
    ensure!((1..=16 << 20).contains(&resident), "{alone:?}");
    ensure!(alone.figures.ran_ms > 0.0 && !alone.figures.exits.is_empty(), "it beats: {alone:?}");
    // The sharer leaves its groups, and then its CPUs.
    let pid = u32::try_from(frame.lpar.row("sharer")?["pid"].as_u64().context("no pid")?)?;
    let detail = frame.lpar.json("show sharer")?;
    let groups: Vec<PathBuf> = serde_json::from_value(detail["cgroup"].clone())?;
    for above in groups.iter().filter_map(|group| above(group)) {
        std::fs::write(above.join("cgroup.procs"), pid.to_string())?;
    }
    let mut everywhere = CpuSet::new();
    [0, 1].into_iter().for_each(|cpu| everywhere.set(cpu));
    sched_setaffinity(Pid::from_raw(i32::try_from(pid)?), &everywhere)?;
    let page = frame.directory().join("audit.html");
    let answer = frame.lpar.run(&format!("audit --for 100ms --report {}", page.display()))?.expect(1)?;
    ensure!(answer.stdout.contains("not its own: partition"), "{}", answer.stdout);
    ensure!(std::fs::read_to_string(&page)?.contains("not its own"), "the page does not say it");
    std::fs::remove_file(page)?;
    let (report, status) = audited(&frame)?;
    ensure!(status == 1, "status {status}");
    let (alone, sharer) = (one(&report, "alone")?, one(&report, "sharer")?);
    ensure!(says(alone, "threads of other partitions may run on its CPUs: partition"), "{alone:?}");
    ensure!(says(sharer, "threads may run on CPUs that are not its own"), "{sharer:?}");
    ensure!(groups.is_empty() || says(sharer, "not in its group"), "{sharer:?}");
    // What is asked for wrongly.
    let wrong = frame.lpar.run("audit --for 0s")?.expect(1)?;
    ensure!(wrong.stderr.contains("1ms to 1h"), "{}", wrong.stderr);
    frame.lpar.run("audit --for soon")?.expect(2)?;
    frame.down()
}
