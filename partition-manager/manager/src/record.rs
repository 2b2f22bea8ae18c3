//! The shared record of a partition, made and read by its manager ([`frame::record`]).
//!
//! It is the partition's to write, so everything read from it is untrusted: bounded, and checked.

use frame::record::{
    CONSOLE_OFFSET, CONSOLE_SIZE, CONSOLE_TOTAL_OFFSET, COUNTERS_OFFSET, ExitReason, FINAL_LENGTH_OFFSET, FINAL_OFFSET,
    FINAL_SIZE, Final, MAGIC, SIZE, console_pieces, counter_offset, time_offset,
};
use rustix::fs::{MemfdFlags, SealFlags};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Why a record cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The system refused.
    #[error("the shared record cannot be made or read")]
    System(#[from] io::Error),
    /// A descriptor is not what it is said to be.
    #[error("the descriptor is no sealed memory of {expected} bytes")]
    Kind {
        /// Size that it should have, bytes.
        expected: u64,
    },
    /// A final record is there and says nothing that can be understood.
    #[error("the partition left a final record that cannot be read")]
    Final,
}

impl From<rustix::io::Errno> for RecordError {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::System(errno.into())
    }
}

const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// Makes a memfd of `bytes` that cannot change its size.
///
/// # Errors
/// The error of the system call that failed.
pub fn sealed(name: &str, bytes: u64, pages: MemfdFlags) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | pages;
    let memory = rustix::fs::memfd_create(name, flags)?;
    rustix::fs::ftruncate(&memory, bytes)?;
    rustix::fs::fcntl_add_seals(&memory, SEALS)?;
    Ok(memory)
}

/// Checks that a descriptor from a partition is memory of `bytes` that cannot change its size: only then
/// reading from it neither blocks nor comes to an end before it should.
///
/// # Errors
/// [`RecordError::Kind`].
pub fn check_sealed(descriptor: &OwnedFd, bytes: u64) -> Result<(), RecordError> {
    // Only memfds know about seals.
    let seals = rustix::fs::fcntl_get_seals(descriptor).unwrap_or(SealFlags::empty());
    let size = rustix::fs::fstat(descriptor).map(|stat| stat.st_size).unwrap_or(-1);
    let sized = u64::try_from(size).is_ok_and(|size| size == bytes);
    if sized && seals.contains(SEALS) { Ok(()) } else { Err(RecordError::Kind { expected: bytes }) }
}

/// The record of one partition. It outlives the partition's processes: the console goes on.
#[derive(Debug)]
pub struct Record {
    memory: OwnedFd,
}

impl Record {
    /// A new record.
    ///
    /// # Errors
    /// [`RecordError::System`].
    pub fn create() -> Result<Self, RecordError> {
        let record = Self { memory: sealed("bulkhead-record", SIZE, MemfdFlags::empty())? };
        record.write(0, &MAGIC.to_le_bytes())?;
        Ok(record)
    }

    /// Takes over the record that a partition hands back to a new manager.
    ///
    /// # Errors
    /// [`RecordError::Kind`] when it is something else.
    pub fn adopt(memory: OwnedFd) -> Result<Self, RecordError> {
        check_sealed(&memory, SIZE)?;
        Ok(Self { memory })
    }

    /// Makes it ready for the next process of the partition: counters and final record are cleared, the
    /// console goes on.
    ///
    /// # Errors
    /// [`RecordError::System`].
    pub fn clear(&self) -> Result<(), RecordError> {
        self.write(FINAL_LENGTH_OFFSET, &[0; 8])?;
        let counters = usize::try_from(CONSOLE_TOTAL_OFFSET - COUNTERS_OFFSET).unwrap_or(0);
        self.write(COUNTERS_OFFSET, &vec![0; counters])
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), RecordError> {
        let mut at = 0;
        while at < bytes.len() {
            let written = rustix::io::pwrite(&self.memory, &bytes[at..], offset + at as u64)?;
            if written == 0 {
                return Err(io::Error::from(io::ErrorKind::WriteZero).into());
            }
            at += written;
        }
        Ok(())
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let mut at = 0;
        while at < bytes.len() {
            match rustix::io::pread(&self.memory, &mut bytes[at..], offset + at as u64)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => at += count,
            }
        }
        Ok(())
    }

    fn number(&self, offset: u64) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.read(offset, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Exits of each of `processors` virtual processors, by the names of [`ExitReason`]; zeros are left out.
    ///
    /// # Errors
    /// The error of `pread(2)`.
    pub fn exits(&self, processors: usize) -> io::Result<Vec<BTreeMap<String, u64>>> {
        self.by_reason(processors, counter_offset)
    }

    /// Nanoseconds spent with the exits of each of `processors` virtual processors, as [`Record::exits`].
    ///
    /// # Errors
    /// The error of `pread(2)`.
    pub fn exit_times(&self, processors: usize) -> io::Result<Vec<BTreeMap<String, u64>>> {
        self.by_reason(processors, time_offset)
    }

    fn by_reason(
        &self,
        processors: usize,
        offset: fn(usize, ExitReason) -> u64,
    ) -> io::Result<Vec<BTreeMap<String, u64>>> {
        let most = processors.min(frame::launch::MOST_PROCESSORS);
        let of = |processor| {
            let mut figures = BTreeMap::new();
            for reason in ExitReason::ALL {
                let figure = self.number(offset(processor, reason))?;
                if figure > 0 {
                    figures.insert(reason.as_str().to_owned(), figure);
                }
            }
            Ok(figures)
        };
        (0..most).map(of).collect()
    }

    /// Bytes ever written to the console.
    ///
    /// # Errors
    /// The error of `pread(2)`.
    pub fn console_total(&self) -> io::Result<u64> {
        self.number(CONSOLE_TOTAL_OFFSET)
    }

    /// The console's output from position `from` on, as far as the ring still holds it, and the position
    /// that it begins at. At most [`CONSOLE_SIZE`] bytes.
    ///
    /// # Errors
    /// The error of `pread(2)`.
    pub fn console(&self, from: u64) -> io::Result<(u64, Vec<u8>)> {
        let (start, pieces) = console_pieces(from, self.console_total()?);
        let mut output = Vec::new();
        for (offset, length) in pieces {
            debug_assert!(offset >= CONSOLE_OFFSET && length <= CONSOLE_SIZE);
            let at = output.len();
            output.resize(at + usize::try_from(length).unwrap_or(0), 0);
            self.read(offset, &mut output[at..])?;
        }
        Ok((start, output))
    }

    /// How the last process of the partition ended, if it could still write that down.
    ///
    /// # Errors
    /// [`RecordError::Final`] when there is something that is no final record.
    pub fn last(&self) -> Result<Option<Final>, RecordError> {
        let length = self.number(FINAL_LENGTH_OFFSET)?;
        if length == 0 {
            return Ok(None);
        }
        if length > FINAL_SIZE {
            return Err(RecordError::Final);
        }
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        self.read(FINAL_OFFSET, &mut bytes)?;
        let last: Final = serde_json::from_slice(&bytes).map_err(|_| RecordError::Final)?;
        Ok(Some(bounded(last)))
    }
}

impl AsFd for Record {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }
}

/// Longest reason that a partition may give, bytes.
const LONGEST_REASON: usize = 1024;

/// What a partition says, cut to what an event may carry.
#[must_use]
pub fn bounded(mut last: Final) -> Final {
    last.registers.truncate(frame::launch::MOST_PROCESSORS);
    if let frame::record::Cause::MonitorFailed { reason } = &mut last.cause {
        *reason = bounded_text(std::mem::take(reason));
    }
    last
}

/// A text from a partition, cut, and without what would disturb a terminal.
#[must_use]
pub fn bounded_text(text: String) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST_REASON).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use frame::record::{Cause, Registers};
    use proptest::prelude::*;

    fn put_console(record: &Record, total: u64, bytes: &[u8]) {
        for (at, byte) in bytes.iter().enumerate() {
            let position = (total - bytes.len() as u64 + at as u64) % CONSOLE_SIZE;
            record.write(CONSOLE_OFFSET + position, &[*byte]).unwrap();
        }
        record.write(CONSOLE_TOTAL_OFFSET, &total.to_le_bytes()).unwrap();
    }

    #[test]
    fn the_console_goes_on_and_the_rest_is_cleared() {
        let record = Record::create().unwrap();
        let last = Final { cause: Cause::Reset, processor: None, registers: vec![Registers::default()] };
        let text = serde_json::to_vec(&last).unwrap();
        record.write(FINAL_OFFSET, &text).unwrap();
        record.write(FINAL_LENGTH_OFFSET, &(text.len() as u64).to_le_bytes()).unwrap();
        record.write(counter_offset(1, ExitReason::Halt), &7u64.to_le_bytes()).unwrap();
        record.write(time_offset(1, ExitReason::Halt), &900u64.to_le_bytes()).unwrap();
        put_console(&record, CONSOLE_SIZE + 3, b"hello");
        assert_eq!(record.last().unwrap(), Some(last));
        assert_eq!(record.exits(2).unwrap()[1]["halt"], 7);
        assert_eq!(record.exit_times(2).unwrap()[1]["halt"], 900);
        record.clear().unwrap();
        assert_eq!(record.last().unwrap(), None);
        assert!(record.exits(2).unwrap()[1].is_empty() && record.exit_times(2).unwrap()[1].is_empty());
        let (start, output) = record.console(CONSOLE_SIZE - 2).unwrap();
        assert_eq!((start, output.as_slice()), (CONSOLE_SIZE - 2, b"hello".as_slice()));
        let (start, output) = record.console(0).unwrap();
        assert_eq!((start, output.len() as u64), (3, CONSOLE_SIZE));
    }

    #[test]
    fn only_a_sealed_record_is_taken_over() {
        let record = Record::create().unwrap();
        assert!(Record::adopt(record.memory.try_clone().unwrap()).is_ok());
        let short = sealed("t", 4096, MemfdFlags::empty()).unwrap();
        assert!(Record::adopt(short).is_err());
        let open = rustix::fs::memfd_create("t", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&open, SIZE).unwrap();
        assert!(Record::adopt(open).is_err());
        assert!(Record::adopt(std::fs::File::open("/dev/zero").unwrap().into()).is_err());
        let (pipe, _) = rustix::pipe::pipe().unwrap();
        assert!(Record::adopt(pipe).is_err());
    }

    proptest! {
        #[test]
        fn hostile_records_are_read_within_bounds(
            total in any::<u64>(),
            from in any::<u64>(),
            length in prop_oneof![any::<u64>(), 0..=FINAL_SIZE],
            noise in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let record = Record::create().unwrap();
            record.write(CONSOLE_TOTAL_OFFSET, &total.to_le_bytes()).unwrap();
            record.write(FINAL_LENGTH_OFFSET, &length.to_le_bytes()).unwrap();
            record.write(FINAL_OFFSET, &noise).unwrap();
            let (start, output) = record.console(from).unwrap();
            prop_assert!(output.len() as u64 <= CONSOLE_SIZE && start + output.len() as u64 == total);
            if length > 0 {
                prop_assert!(record.last().is_err());
            }
            prop_assert!(record.exits(usize::MAX).unwrap().len() <= frame::launch::MOST_PROCESSORS);
        }
    }

    #[test]
    fn long_reasons_are_cut_and_tamed() {
        let text = bounded_text(format!("a\u{1b}[2J{}", "ä".repeat(5000)));
        assert!(text.starts_with("a [2J") && text.chars().count() == LONGEST_REASON);
    }
}
