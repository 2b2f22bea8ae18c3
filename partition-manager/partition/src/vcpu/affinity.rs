//! Where threads run. An affinity is a promise here: one that cannot be kept as a whole is an error.

use frame::cpuset::{CpuSet, HIGHEST};
use std::io;

/// Why threads cannot run where they should.
#[derive(Debug, thiserror::Error)]
pub enum AffinityError {
    /// The system call failed.
    #[error("the CPU affinity {cpus} cannot be set")]
    Refused {
        /// What was asked for.
        cpus: String,
        /// The error.
        #[source]
        source: io::Error,
    },
    /// The kernel left some out.
    #[error("CPUs {missing} of the affinity {cpus} are offline or outside of the process's cgroup")]
    Missing {
        /// What was asked for.
        cpus: String,
        /// What was left out.
        missing: String,
    },
}

const WORDS: usize = (HIGHEST as usize + 1) / 64;

/// Where the current thread may run.
///
/// # Errors
/// The error of `sched_getaffinity(2)`.
pub fn current() -> io::Result<CpuSet> {
    let mut words = vec![0u64; WORDS];
    let size = size_of_val(words.as_slice());
    // SAFETY: the buffer has `size` bytes, and the kernel writes at most that many bits of a mask there.
    let result = unsafe { libc::sched_getaffinity(0, size, words.as_mut_ptr().cast()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let words = (0u32..).step_by(64).zip(words).filter(|(_, word)| *word != 0);
    Ok(words
        .flat_map(|(first, word)| (0..64).filter(move |bit| word >> bit & 1 != 0).map(move |bit| first + bit))
        .collect())
}

/// Makes the current thread, and those that it will start, run on `cpus` and nowhere else.
///
/// # Errors
/// [`AffinityError`], also when the kernel would leave some of `cpus` out.
pub fn set(cpus: &CpuSet) -> Result<(), AffinityError> {
    let refused = |source| AffinityError::Refused { cpus: cpus.to_string(), source };
    let mut words = vec![0u64; cpus.iter().next_back().map_or(1, |last| last as usize / 64 + 1)];
    for cpu in cpus.iter() {
        if let Some(word) = words.get_mut(cpu as usize / 64) {
            *word |= 1 << (cpu % 64);
        }
    }
    let size = size_of_val(words.as_slice());
    // SAFETY: the buffer has `size` bytes, which the kernel reads as a mask of bits.
    let result = unsafe { libc::sched_setaffinity(0, size, words.as_ptr().cast()) };
    if result < 0 {
        return Err(refused(io::Error::last_os_error()));
    }
    let missing = cpus.difference(&current().map_err(refused)?);
    if missing.is_empty() {
        return Ok(());
    }
    Err(AffinityError::Missing { cpus: cpus.to_string(), missing: missing.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_affinity_is_kept_as_a_whole_or_refused() {
        std::thread::spawn(|| {
            let here = current().unwrap();
            let first: CpuSet = here.iter().take(1).collect();
            set(&first).unwrap();
            assert_eq!(current().unwrap(), first);
            let mut more = first;
            more.insert(HIGHEST);
            assert!(
                matches!(set(&more), Err(AffinityError::Missing { missing, .. }) if missing == HIGHEST.to_string())
            );
            assert!(matches!(set(&CpuSet::new()), Err(AffinityError::Refused { .. })));
        })
        .join()
        .unwrap();
    }
}
