//! The memory of a monitor's process, without its guest's.

use anyhow::Result;
use std::collections::BTreeMap;

/// Proportional memory of one monitor process, without guest memory.
#[derive(Debug, serde::Serialize)]
pub struct MemoryFigure {
    /// Whose.
    pub subject: String,
    /// Kibibytes.
    pub overhead_kib: u64,
    /// What the specification promises, at most.
    pub promised_kib: Option<u64>,
    /// The largest parts: mapping and kibibytes.
    pub parts: Vec<(String, u64)>,
}

/// Proportional memory of a process in kibibytes by its `/proc/PID/smaps` (proc(5)), without its guest's memory:
/// the mappings of just that size, and those of a partition's guest memory; and its largest parts.
///
/// # Errors
/// When a size cannot be read.
pub fn overhead(smaps: &str, guest_kib: u64) -> Result<(u64, Vec<(String, u64)>)> {
    let mut parts = BTreeMap::<String, u64>::new();
    let (mut mapping, mut is_guest) = (String::new(), false);
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        if first.contains('-') && !first.ends_with(':') {
            mapping = words.nth(4).unwrap_or("anonymous").to_owned();
        } else if first == "Size:" {
            is_guest = words.next().unwrap_or_default().parse() == Ok(guest_kib) || mapping.contains("guest-memory");
        } else if first == "Pss:" && !is_guest {
            *parts.entry(mapping.clone()).or_default() += words.next().unwrap_or_default().parse::<u64>()?;
        }
    }
    let overhead_kib = parts.values().sum();
    let mut parts: Vec<(String, u64)> = parts.into_iter().filter(|(_, kib)| *kib > 0).collect();
    parts.sort_by_key(|(_, kib)| std::cmp::Reverse(*kib));
    parts.truncate(8);
    Ok((overhead_kib, parts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_memory_does_not_count() {
        let smaps = "7f00-7f10 rw-p 00000000 00:00 0 \nSize:  64 kB\nPss:  12 kB\nPss_Dirty: 9 kB\n\
                     7f10-7f20 rw-s 00000000 00:01 7 /memfd:guest-memory-0 (deleted)\nSize: 128 kB\nPss: 128 kB\n\
                     7f20-7f30 rw-p 00000000 00:00 0 \nSize: 4096 kB\nPss: 4000 kB\n\
                     7f30-7f40 r-xp 00000000 08:01 9 /bin/monitor\nSize: 100 kB\nPss: 50 kB\n";
        let (all, parts) = overhead(smaps, 4096).unwrap();
        assert_eq!(all, 62);
        assert_eq!(parts, [("/bin/monitor".to_owned(), 50), ("anonymous".to_owned(), 12)]);
        assert!(overhead("7f00-7f10 rw-p 0 0 0 x\nSize: 1 kB\nPss: much\n", 0).is_err());
    }
}
