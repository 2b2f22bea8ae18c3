//! Disk and adapter of a Linux partition against those of QEMU's microvm, in the testbed.

mod guests;

use crate::memory::{MemoryFigure, overhead};
use crate::statistics::{Samples, spread};
use anyhow::{Context, Result, bail, ensure};
use guests::{Guest, INITRD, LOAD, MEMORY_MIB, PARTITION, SHAPES, succeeds};
use std::path::{Path, PathBuf};
use std::time::Duration;
use testbed::cache::Cache;
use testbed::cpio::Archive;
use testbed::{BINARIES, Options, Testbed, guest, program};

/// At least this part of the best other's rate is promised.
const PROMISED: f64 = 1.0;
/// Memory of a partition with one disk and one adapter, KiB, at most.
const PROMISED_KIB: u64 = 2560;
/// How long the loads of all rounds may take.
const DEADLINE: Duration = Duration::from_secs(1800);
/// What QEMU needs of its own besides its libraries.
const FIRMWARE: [&str; 6] =
    ["bios-microvm.bin", "linuxboot_dma.bin", "pvh.bin", "kvmvapic.bin", "qboot.rom", "efi-virtio.rom"];
/// CPUs of the testbed: that of the virtual processors, that of the monitors' other threads, and the driver's own. Who
/// makes the load shall not take the time of those who carry it.
const CPUS: u32 = 3;
const INIT: &str = include_str!("guest-init.sh");

/// One load: the partition's rate against those of the others.
#[derive(Debug, serde::Serialize)]
pub struct DeviceFigure {
    /// What was done.
    pub load: String,
    /// Of what the rates are; more is better.
    pub unit: String,
    /// Whose figure it is.
    pub subject: String,
    /// Its rate in the median of the rounds.
    pub own: f64,
    /// The others, with theirs.
    pub others: Vec<(String, f64)>,
    /// Own rate to the best other's.
    pub ratio: f64,
    /// Where nine in ten of such ratios lie.
    pub ratio_between: (f64, f64),
    /// A second turn of the partition to its first: how far from 1.0 is chance.
    pub noise: f64,
    /// At least this is promised of `ratio`.
    pub promised: f64,
}

impl DeviceFigure {
    /// Whether the promise holds.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.ratio >= self.promised
    }
}

/// What the driver says of one guest at one load.
#[derive(Debug, serde::Deserialize)]
struct Rates {
    load: String,
    unit: String,
    subject: String,
    again: bool,
    rates: Vec<f64>,
}

/// Measures all loads in `rounds` rounds, and the memory of each monitor after them.
///
/// # Errors
/// When the testbed cannot be booted, a guest does not come, or a load fails.
pub fn measure(binaries: &Path, rounds: usize) -> Result<(Vec<DeviceFigure>, Vec<MemoryFigure>)> {
    let directory = tempfile::tempdir()?;
    let options =
        Options { cores: CPUS, memory_mib: 4096, files: files(binaries, directory.path())?, ..Options::default() };
    eprintln!("booting the testbed");
    let mut testbed = Testbed::boot(&options)?;
    let testbed = &mut testbed;
    guests::prepare(testbed)?;
    let own = guests::partition(testbed)?;
    ensure!(own.processor != own.others, "the device threads are on the virtual processor's CPU {}", own.processor);
    let mut others = Vec::new();
    for (shape, number) in SHAPES.iter().zip(1..) {
        others.push((shape.name, guests::microvm(testbed, shape, number, &own)?));
    }
    for (name, guest) in &others {
        let same = guest.processor == own.processor && guest.others == own.others;
        ensure!(same, "{name} has other CPUs: {} and {}", guest.processor, guest.others);
    }
    eprintln!("measuring {rounds} rounds");
    let names: Vec<&str> = [PARTITION].into_iter().chain(SHAPES.iter().map(|shape| shape.name)).collect();
    let taken = [own.processor.parse::<u32>().context("not one CPU")?, own.others.parse().context("not one CPU")?];
    let free = (0..CPUS).find(|cpu| !taken.contains(cpu)).context("no CPU is left for the driver")?;
    let command = format!("taskset {:x} {LOAD} drive 0.0.0.0:7000 {} --rounds {rounds}", 1u64 << free, names.join(" "));
    let output = testbed.run(&command, DEADLINE)?;
    if !output.success() {
        let consoles = testbed.run("tail -n 5 /tmp/*.console /tmp/*.said; lpar events | tail -n 5", DEADLINE)?.stdout;
        bail!("the loads failed: {}\n{consoles}", output.stderr);
    }
    let rates: Vec<Rates> = serde_json::from_str(&output.stdout)?;
    let mut memory = vec![memory_of(testbed, PARTITION, &own, Some(PROMISED_KIB))?];
    for (name, guest) in &others {
        memory.push(memory_of(testbed, name, guest, None)?);
    }
    let events = succeeds(testbed, "lpar events")?;
    ensure!(!events.contains("froze"), "a device froze:\n{events}");
    Ok((figures(&rates), memory))
}

fn memory_of(testbed: &mut Testbed, subject: &str, guest: &Guest, promised: Option<u64>) -> Result<MemoryFigure> {
    let smaps = succeeds(testbed, &format!("cat /proc/{}/smaps", guest.pid))?;
    let (overhead_kib, parts) = overhead(&smaps, MEMORY_MIB << 10)?;
    Ok(MemoryFigure { subject: subject.to_owned(), overhead_kib, promised_kib: promised, parts })
}

/// The figures of all loads, in their order.
fn figures(all: &[Rates]) -> Vec<DeviceFigure> {
    let samples = |one: &Rates| {
        let mut samples = Samples::default();
        one.rates.iter().for_each(|rate| samples.push(*rate));
        samples
    };
    let of_partition = all.iter().filter(|one| one.subject == PARTITION && !one.again);
    let figure = |own: &Rates| {
        let same = || all.iter().filter(|one| one.load == own.load);
        let again = same().find(|one| one.again)?;
        let others: Vec<_> = same().filter(|one| one.subject != PARTITION).map(|one| (one, samples(one))).collect();
        let best = others.iter().max_by(|one, two| one.1.quantile(0.5).total_cmp(&two.1.quantile(0.5)))?;
        let rates = samples(own);
        let median = rates.quantile(0.5);
        Some(DeviceFigure {
            load: own.load.clone(),
            unit: own.unit.clone(),
            subject: own.subject.clone(),
            own: median,
            ratio: median / best.1.quantile(0.5),
            ratio_between: spread(&rates, &best.1),
            noise: samples(again).quantile(0.5) / median,
            others: others.iter().map(|(one, samples)| (one.subject.clone(), samples.quantile(0.5))).collect(),
            promised: PROMISED,
        })
    };
    of_partition.filter_map(figure).collect()
}

/// What goes into the testbed: the binaries, QEMU with its firmware, and an initial RAM disk with the agent.
fn files(binaries: &Path, directory: &Path) -> Result<Vec<(PathBuf, String)>> {
    let load = binaries.join("load");
    let mut files = Vec::new();
    for binary in BINARIES.iter().map(|name| binaries.join(name)).chain([load.clone()]) {
        ensure!(binary.exists(), "{} is not built; `cargo build --release --workspace` builds it", binary.display());
        let name = binary.file_name().unwrap_or_default().to_string_lossy().into_owned();
        files.push((binary, format!("/usr/bin/{name}")));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let qemu = std::env::split_paths(&path).map(|one| one.join("qemu-system-x86_64")).find(|file| file.is_file());
    let qemu = qemu.context("qemu-system-x86_64 is not on the PATH")?;
    let prefix = qemu.parent().and_then(Path::parent).context("qemu-system-x86_64 has no prefix")?;
    for name in FIRMWARE {
        let places = ["share/qemu", "share/seabios", "share/qboot", "lib/ipxe/qemu"];
        if let Some(file) = places.iter().map(|place| prefix.join(place).join(name)).find(|file| file.is_file()) {
            files.push((file, format!("/usr/share/qemu/{name}")));
        }
    }
    files.push((qemu, "/usr/bin/qemu-system-x86_64".to_owned()));
    let cache = Cache::find()?;
    // One archive behind another: later files take the place of earlier ones (Linux, driver-api/early-userspace).
    let mut initrd = guest::initial_ramdisk(&cache, &cache.guest_kernel()?)?;
    let mut agent = Archive::new();
    program::put_program(&mut agent, &load, "/bin/load")?;
    agent.file("/init", 0o755, INIT.as_bytes())?;
    initrd.extend(agent.finish());
    let file = directory.join("load.img");
    std::fs::write(&file, initrd)?;
    files.push((file, INITRD.to_owned()));
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_partition_is_held_against_the_best_other_at_each_load() {
        let rates = |load: &str, subject: &str, again, rate: f64| Rates {
            load: load.into(),
            unit: "a second".into(),
            subject: subject.into(),
            again,
            rates: vec![rate; 3],
        };
        let all = [
            rates("read", PARTITION, false, 30.0),
            rates("read", "slow", false, 10.0),
            rates("read", "fast", false, 20.0),
            rates("read", PARTITION, true, 33.0),
            rates("send", PARTITION, false, 5.0),
            rates("send", "fast", false, 10.0),
            rates("send", PARTITION, true, 5.0),
        ];
        let found = figures(&all);
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].ratio, found[0].noise, found[0].holds()), (1.5, 1.1, true));
        assert_eq!((found[1].ratio, found[1].others.len(), found[1].holds()), (0.5, 1, false));
    }
}
