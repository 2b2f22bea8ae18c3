//! The shared record ([`frame::record`]) as the partition writes it.
//!
//! Nothing here takes a lock or makes a system call: the record is memory, and it stays when the process
//! is gone.

use frame::record::{
    CONSOLE_OFFSET, CONSOLE_SIZE, CONSOLE_TOTAL_OFFSET, ExitReason, FINAL_LENGTH_OFFSET, FINAL_OFFSET, FINAL_SIZE,
    Final, MAGIC, SIZE, console_pieces, counter_offset, time_offset,
};
use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use vm_memory::mmap::MmapRegionError;
use vm_memory::{FileOffset, MmapRegion, VolatileMemory, VolatileSlice};

/// The mapped record.
#[derive(Debug)]
pub struct Record {
    region: MmapRegion,
    concluded: AtomicBool,
}

impl Record {
    /// Maps the record's memfd, which has [`SIZE`] bytes, and marks it as begun.
    ///
    /// The count of console bytes is kept: a restarted guest's output follows the former's.
    ///
    /// # Errors
    /// When it cannot be mapped.
    pub fn map(memfd: File) -> Result<Self, MmapRegionError> {
        let flags = libc::MAP_SHARED | libc::MAP_NORESERVE;
        let offset = FileOffset::new(memfd, 0);
        let region = MmapRegion::build(Some(offset), SIZE as usize, libc::PROT_READ | libc::PROT_WRITE, flags)?;
        let record = Self { region, concluded: AtomicBool::new(false) };
        record.store(FINAL_LENGTH_OFFSET, 0, Ordering::Relaxed);
        record.store(0, MAGIC, Ordering::Release);
        Ok(record)
    }

    fn word(&self, offset: u64) -> Option<&AtomicU64> {
        // Every offset is one of the layout's, all of which are inside and aligned; see the test.
        self.region.get_atomic_ref(offset as usize).ok()
    }

    fn store(&self, offset: u64, value: u64, order: Ordering) {
        if let Some(word) = self.word(offset) {
            word.store(value, order);
        }
    }

    fn slice(&self, offset: u64, length: usize) -> Option<VolatileSlice<'_>> {
        self.region.get_slice(offset as usize, length).ok()
    }

    /// Counts one exit. Only the virtual processor's own thread counts its exits, so that a plain load and
    /// store do.
    pub fn count(&self, processor: usize, reason: ExitReason) {
        if let Some(counter) = self.word(counter_offset(processor, reason)) {
            counter.store(counter.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        }
    }

    /// Adds the nanoseconds that were spent with an exit, as [`Record::count`] counts it.
    pub fn spend(&self, processor: usize, reason: ExitReason, nanoseconds: u64) {
        if let Some(time) = self.word(time_offset(processor, reason)) {
            time.store(time.load(Ordering::Relaxed).wrapping_add(nanoseconds), Ordering::Relaxed);
        }
    }

    /// Bytes of console output so far. Untrusted: others can write the record.
    #[must_use]
    pub fn console_total(&self) -> u64 {
        self.word(CONSOLE_TOTAL_OFFSET).map_or(0, |total| total.load(Ordering::Relaxed))
    }

    /// Puts console output into the ring behind the `total` bytes before it, and gives the new total.
    /// One caller at a time.
    pub fn console_write(&self, total: u64, bytes: &[u8]) -> u64 {
        let after = total.wrapping_add(bytes.len() as u64);
        // Of more than the ring holds, only the end is put there.
        let mut rest = bytes.get(bytes.len().saturating_sub(CONSOLE_SIZE as usize)..).unwrap_or_default();
        for (offset, length) in pieces(after, rest.len() as u64) {
            let (piece, behind) = rest.split_at(rest.len().min(length as usize));
            if let Some(slice) = self.slice(offset, piece.len()) {
                slice.copy_from(piece);
            }
            rest = behind;
        }
        self.store(CONSOLE_TOTAL_OFFSET, after, Ordering::Release);
        after
    }

    /// Writes the final record, once; a second call does nothing. `false` when it did nothing, or when the
    /// record is longer than [`FINAL_SIZE`].
    pub fn conclude(&self, last: &Final) -> bool {
        if self.concluded.swap(true, Ordering::Relaxed) {
            return false;
        }
        let Ok(text) = serde_json::to_vec(last) else { return false };
        if text.len() as u64 > FINAL_SIZE {
            return false;
        }
        let Some(slice) = self.slice(FINAL_OFFSET, text.len()) else { return false };
        slice.copy_from(&text);
        self.store(FINAL_LENGTH_OFFSET, text.len() as u64, Ordering::Release);
        true
    }
}

/// Where the last `length` bytes before position `after` lie, also when the count wrapped.
fn pieces(after: u64, length: u64) -> Vec<(u64, u64)> {
    match after.checked_sub(length) {
        Some(from) => console_pieces(from, after).1,
        None => {
            let start = after.wrapping_sub(length) % CONSOLE_SIZE;
            let first = length.min(CONSOLE_SIZE - start);
            vec![(CONSOLE_OFFSET + start, first), (CONSOLE_OFFSET, length - first)]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use frame::launch::MOST_PROCESSORS;
    use frame::record::{COUNTERS, Cause};
    use proptest::prelude::*;
    use std::os::unix::fs::FileExt;

    fn record() -> (File, Record) {
        let file = tempfile::tempfile().unwrap();
        file.set_len(SIZE).unwrap();
        let record = Record::map(file.try_clone().unwrap()).unwrap();
        (file, record)
    }

    fn word(file: &File, offset: u64) -> u64 {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, offset).unwrap();
        u64::from_le_bytes(bytes)
    }

    #[test]
    fn counters_are_where_the_layout_says() {
        let (file, record) = record();
        assert_eq!(word(&file, 0), MAGIC);
        for processor in [0, MOST_PROCESSORS - 1] {
            for reason in ExitReason::ALL {
                record.count(processor, reason);
                record.count(processor, reason);
                record.spend(processor, reason, 30);
                record.spend(processor, reason, 12);
            }
        }
        for processor in [0, MOST_PROCESSORS - 1] {
            for reason in ExitReason::ALL {
                assert_eq!(word(&file, counter_offset(processor, reason)), 2);
                assert_eq!(word(&file, time_offset(processor, reason)), 42);
            }
        }
        assert!(2 * ExitReason::ALL.len() <= COUNTERS);
    }

    #[test]
    fn the_final_record_is_written_once_with_its_length() {
        let (file, record) = record();
        let last = Final { cause: Cause::TripleFault, processor: Some(1), registers: vec![] };
        assert_eq!(word(&file, FINAL_LENGTH_OFFSET), 0);
        assert!(record.conclude(&last));
        assert!(!record.conclude(&Final { cause: Cause::Stopped, ..last.clone() }));
        let mut text = vec![0; word(&file, FINAL_LENGTH_OFFSET) as usize];
        file.read_exact_at(&mut text, FINAL_OFFSET).unwrap();
        assert_eq!(serde_json::from_slice::<Final>(&text).unwrap(), last);
    }

    proptest! {
        #[test]
        fn the_ring_holds_the_last_of_what_was_written(
            start in prop_oneof![any::<u64>(), Just(u64::MAX), Just(0)],
            lengths in proptest::collection::vec(0usize..70_000, 1..5),
        ) {
            let (file, record) = record();
            let mut total = start;
            let mut all = Vec::new();
            for (index, length) in lengths.into_iter().enumerate() {
                let bytes: Vec<u8> = (0..length).map(|at| (at * 7 + index) as u8).collect();
                total = record.console_write(total, &bytes);
                all.extend(bytes);
            }
            prop_assert_eq!(total, start.wrapping_add(all.len() as u64));
            prop_assert_eq!(record.console_total(), total);
            let held = all.len().min(CONSOLE_SIZE as usize);
            for (back, expected) in all.iter().rev().take(held).enumerate() {
                let at = total.wrapping_sub(1 + back as u64) % CONSOLE_SIZE;
                let mut byte = [0];
                file.read_exact_at(&mut byte, CONSOLE_OFFSET + at).unwrap();
                prop_assert_eq!(byte[0], *expected);
            }
        }
    }
}
