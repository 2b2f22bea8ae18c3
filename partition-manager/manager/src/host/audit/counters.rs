//! What each CPU took of interrupts, and how long it was kept from this host (Linux,
//! Documentation/filesystems/proc.rst, `interrupts` and `stat`).

use frame::cpuset::CpuSet;
use std::collections::{BTreeMap, BTreeSet};

/// Ticks of `/proc/stat` in a second.
const TICKS: u64 = 100;

/// Its number and what it is for.
type Interrupt = (u32, String);

/// Counts since boot, or over a time.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Interrupts of devices, by name and CPU.
    interrupts: BTreeMap<(Interrupt, u32), u64>,
    /// Ticks in which another guest of the machine below had the CPU.
    steal: BTreeMap<u32, u64>,
}

impl Counters {
    /// The counts now.
    pub fn now() -> Self {
        let read = |file| std::fs::read_to_string(file).unwrap_or_default();
        Self { interrupts: interrupts(&read("/proc/interrupts")), steal: steal(&read("/proc/stat")) }
    }

    /// What was counted since `before`.
    pub fn since(self, before: &Self) -> Self {
        let less = |count: u64, before: Option<&u64>| count.saturating_sub(before.copied().unwrap_or(0));
        Self {
            interrupts: self
                .interrupts
                .into_iter()
                .map(|(of, count)| {
                    let count = less(count, before.interrupts.get(&of));
                    (of, count)
                })
                .collect(),
            steal: self.steal.into_iter().map(|(cpu, ticks)| (cpu, less(ticks, before.steal.get(&cpu)))).collect(),
        }
    }

    /// The interrupts of devices that some CPUs took, but for those with numbers among `own`, by number and name.
    pub fn interrupts(&self, cpus: &CpuSet, own: &BTreeSet<u32>) -> BTreeMap<String, u64> {
        let mut sums = BTreeMap::new();
        for (((number, name), cpu), count) in &self.interrupts {
            if cpus.contains(*cpu) && *count > 0 && !own.contains(number) {
                *sums.entry(format!("{number} {name}")).or_default() += count;
            }
        }
        sums
    }

    /// Milliseconds that some CPUs were kept from this host.
    pub fn steal_ms(&self, cpus: &CpuSet) -> u64 {
        let ticks = self.steal.iter().filter(|(cpu, _)| cpus.contains(**cpu)).map(|(_, ticks)| ticks);
        ticks.sum::<u64>() * 1000 / TICKS
    }
}

/// Devices' interrupts have numbers; others, such as the local timer's, are each CPU's own.
fn interrupts(text: &str) -> BTreeMap<(Interrupt, u32), u64> {
    let mut lines = text.lines();
    let cpus: Vec<u32> = lines
        .next()
        .unwrap_or_default()
        .split_ascii_whitespace()
        .filter_map(|word| word.strip_prefix("CPU")?.parse().ok())
        .collect();
    let mut counts = BTreeMap::new();
    for line in lines {
        let mut words = line.split_ascii_whitespace();
        let Some(number) = words.next().and_then(|word| word.strip_suffix(':')) else { continue };
        let Ok(number) = number.parse::<u32>() else { continue };
        let each: Vec<u64> = words.by_ref().take(cpus.len()).map_while(|word| word.parse().ok()).collect();
        let of = (number, line.split_ascii_whitespace().next_back().unwrap_or_default().to_owned());
        counts.extend(cpus.iter().zip(each).map(|(cpu, count)| ((of.clone(), *cpu), count)));
    }
    counts
}

fn steal(text: &str) -> BTreeMap<u32, u64> {
    let of = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let cpu = words.next()?.strip_prefix("cpu")?.parse().ok()?;
        // User, nice, system, idle, iowait, irq, softirq come before it.
        Some((cpu, words.nth(7)?.parse().ok()?))
    };
    text.lines().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERRUPTS: &str = "           CPU0       CPU2\n 24:          1          5  IO-APIC   5-edge      ACPI:Ged\n \
        36:          0         20  PCI-MSIX-0000:00:02.0   1-edge      virtio1-req.0\nNMI:          0          9   Non-maskable interrupts\n\
        LOC:    1380987    1446498   Local timer interrupts\nERR:          0\n";
    const STAT: &str = "cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1 2 3 4 5 6 7 8 9 10\ncpu2 1 2 3 4 5 6 7 30 9 10\nintr 5\n";

    #[test]
    fn devices_interrupts_are_counted_by_cpu() {
        let before = Counters { interrupts: interrupts(INTERRUPTS), steal: steal(STAT) };
        let later = INTERRUPTS.replace("20  PCI", "23  PCI").replace("1446498", "1999999");
        let counters =
            Counters { interrupts: interrupts(&later), steal: steal(&STAT.replace("30 9", "34 9")) }.since(&before);
        let counted = |cpus: &str, own: &[u32]| {
            counters.interrupts(&CpuSet::parse(cpus).unwrap(), &own.iter().copied().collect())
        };
        assert_eq!(counted("2", &[24]), [("36 virtio1-req.0".to_owned(), 3)].into());
        assert_eq!((counted("0", &[]), counted("2", &[36])), Default::default());
        assert_eq!(counters.steal_ms(&CpuSet::parse("0-2").unwrap()), 40);
        assert_eq!((interrupts("nonsense"), steal("cpux 1\ncpu1 2")), Default::default());
    }
}
