//! Work of the host that belongs to no task, and where it may go: interrupts, and workqueues that are bound to no CPU.

use frame::cpuset::CpuSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// One kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    /// An interrupt, by its number.
    Interrupt(u32),
    /// Interrupts that are yet to be set up.
    NewInterrupts,
    /// What workqueues do that are bound to no CPU.
    Workqueues,
}

impl std::fmt::Display for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Interrupt(number) => write!(f, "{number}"),
            Self::NewInterrupts => f.pad("new interrupts"),
            Self::Workqueues => f.pad("workqueues"),
        }
    }
}

/// Where the kernel says and is told where work goes.
#[derive(Clone, Debug)]
pub struct Places {
    proc: PathBuf,
    sysfs: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Self { proc: "/proc".into(), sysfs: "/sys".into() }
    }
}

impl Places {
    /// All work that there is now.
    #[must_use]
    pub fn all(&self) -> Vec<Work> {
        let entries = fs::read_dir(self.proc.join("irq")).into_iter().flatten().flatten();
        let mut numbers: Vec<u32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        numbers.sort_unstable();
        numbers.into_iter().map(Work::Interrupt).chain([Work::NewInterrupts, Work::Workqueues]).collect()
    }

    /// CPUs that are online.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn online(&self) -> io::Result<CpuSet> {
        list(&self.sysfs.join("devices/system/cpu/online"))
    }

    fn file(&self, work: Work) -> PathBuf {
        match work {
            Work::Interrupt(number) => self.proc.join(format!("irq/{number}/smp_affinity_list")),
            Work::NewInterrupts => self.proc.join("irq/default_smp_affinity"),
            Work::Workqueues => self.sysfs.join("devices/virtual/workqueue/cpumask"),
        }
    }

    /// Where some work may go.
    ///
    /// # Errors
    /// When the kernel does not say: this work is no more, or its kernel knows none such.
    pub fn read(&self, work: Work) -> io::Result<CpuSet> {
        match work {
            Work::Interrupt(_) => list(&self.file(work)),
            Work::NewInterrupts | Work::Workqueues => {
                let text = fs::read_to_string(self.file(work))?;
                read_mask(&text).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
            }
        }
    }

    /// Sends some work elsewhere. What is under way goes where it went.
    ///
    /// # Errors
    /// The kernel's refusal: `EIO` or, in newer kernels, `EPERM` when it manages an interrupt itself
    /// (Linux, kernel/irq/proc.c, `write_irq_affinity`), `EACCES` for others than the superuser.
    pub fn write(&self, work: Work, cpus: &CpuSet) -> io::Result<()> {
        let text = match work {
            Work::Interrupt(_) => cpus.to_string(),
            Work::NewInterrupts | Work::Workqueues => mask(cpus),
        };
        fs::OpenOptions::new().write(true).open(self.file(work)).and_then(|mut file| {
            // One write: the kernel takes the value of each write by itself.
            io::Write::write_all(&mut file, text.as_bytes())
        })
    }

    /// Where the kernel sends an interrupt, which may be less than where it may go.
    #[must_use]
    pub fn effective(&self, interrupt: u32) -> Option<CpuSet> {
        list(&self.proc.join(format!("irq/{interrupt}/effective_affinity_list"))).ok()
    }

    /// Who handles an interrupt; empty when nobody does.
    #[must_use]
    pub fn name(&self, interrupt: u32) -> String {
        let text = fs::read_to_string(self.sysfs.join(format!("kernel/irq/{interrupt}/actions"))).unwrap_or_default();
        text.trim().trim_matches(',').to_owned()
    }
}

fn list(path: &Path) -> io::Result<CpuSet> {
    let text = fs::read_to_string(path)?;
    CpuSet::parse(text.trim()).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// A set as the kernel's bitmaps are written: words of 32 bits in hexadecimal digits, the highest first
/// (lib/vsprintf.c, `bitmap_string`).
fn mask(cpus: &CpuSet) -> String {
    let highest = cpus.iter().next_back().unwrap_or(0);
    let mut words = vec![0u32; highest as usize / 32 + 1];
    for cpu in cpus.iter() {
        if let Some(word) = words.get_mut(cpu as usize / 32) {
            *word |= 1 << (cpu % 32);
        }
    }
    let words: Vec<String> = words.into_iter().rev().map(|word| format!("{word:08x}")).collect();
    words.join(",")
}

fn read_mask(text: &str) -> Option<CpuSet> {
    let mut cpus = CpuSet::new();
    for (at, word) in text.trim().rsplit(',').enumerate() {
        let word = u32::from_str_radix(word, 16).ok()?;
        let first = u32::try_from(at).ok()?.checked_mul(32)?;
        for bit in (0..32).filter(|bit| word >> bit & 1 == 1) {
            cpus.insert(first.checked_add(bit)?);
        }
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str) -> CpuSet {
        CpuSet::parse(text).unwrap()
    }

    #[test]
    fn bitmaps_are_read_and_written_as_the_kernel_does() {
        for (text, cpus) in [("3", "0-1"), ("00000001,80000000", "31-32"), ("ff,00000000,00000001", "0,64-71")] {
            assert_eq!(read_mask(text), Some(set(cpus)), "{text}");
            assert_eq!(read_mask(&mask(&set(cpus))), Some(set(cpus)), "{text}");
        }
        assert_eq!(mask(&set("0,33")), "00000002,00000001");
        assert_eq!((read_mask("x"), read_mask("")), (None, None));
    }

    #[test]
    fn work_is_found_read_and_sent() {
        let directory = tempfile::tempdir().unwrap();
        let places = Places { proc: directory.path().join("proc"), sysfs: directory.path().join("sys") };
        let put = |file: &str, text: &str| {
            let path = directory.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("proc/irq/10/smp_affinity_list", "0-3\n");
        put("proc/irq/10/effective_affinity_list", "2\n");
        put("proc/irq/9/smp_affinity_list", "0-3\n");
        put("proc/irq/default_smp_affinity", "f\n");
        put("sys/kernel/irq/10/actions", "nvme0q1\n");
        put("sys/devices/system/cpu/online", "0-3\n");
        assert_eq!(places.all(), [Work::Interrupt(9), Work::Interrupt(10), Work::NewInterrupts, Work::Workqueues]);
        assert_eq!((places.online().unwrap(), places.effective(10)), (set("0-3"), Some(set("2"))));
        assert_eq!((places.name(10), places.name(9)), ("nvme0q1".to_owned(), String::new()));
        assert_eq!(places.read(Work::NewInterrupts).unwrap(), set("0-3"));
        assert!(places.read(Work::Workqueues).is_err() && places.write(Work::Workqueues, &set("0")).is_err());
        fs::write(directory.path().join("proc/irq/9/smp_affinity_list"), "").unwrap();
        places.write(Work::Interrupt(9), &set("0-1")).unwrap();
        assert_eq!(places.read(Work::Interrupt(9)).unwrap(), set("0-1"));
    }

    #[test]
    fn this_hosts_interrupts_can_be_read() {
        let places = Places::default();
        let online = places.online().unwrap();
        assert!(!online.is_empty());
        // Some kernels let nobody but the superuser look.
        for work in places.all() {
            if let Ok(cpus) = places.read(work) {
                assert!(cpus.iter().count() <= 65_536, "{work}");
            }
        }
    }
}
