//! The shared record of a partition: what stays readable when its process is gone.
//!
//! One sealed memfd, written by the partition process and read by the manager with `pread`. It holds the
//! exits of each virtual processor by reason and the time spent with them, the console's output as a ring, and the final record. The
//! layout is fixed; numbers are little-endian. What is read from it is untrusted.

use serde::{Deserialize, Serialize};

/// What the record begins with: `BLKHREC1` in memory order.
pub const MAGIC: u64 = u64::from_le_bytes(*b"BLKHREC1");
/// Byte offset of the exit counters: [`COUNTERS`] u64 for each virtual processor.
pub const COUNTERS_OFFSET: u64 = 0x1000;
/// Counters of one virtual processor (one page holds eight processors).
pub const COUNTERS: usize = 64;
/// Byte offset of the console's count of bytes ever written, u64.
pub const CONSOLE_TOTAL_OFFSET: u64 = 0xa000;
/// Byte offset of the console ring's data.
pub const CONSOLE_OFFSET: u64 = 0xb000;
/// Size of the console ring, bytes; a power of two.
pub const CONSOLE_SIZE: u64 = 64 * 1024;
/// Byte offset of the final record's length in bytes, u64; 0 while there is none. Written last.
pub const FINAL_LENGTH_OFFSET: u64 = 0x1b000;
/// Byte offset of the final record: JSON of [`Final`].
pub const FINAL_OFFSET: u64 = 0x1c000;
/// Most bytes of the final record.
pub const FINAL_SIZE: u64 = 256 * 1024;
/// Size of the whole record, bytes.
pub const SIZE: u64 = FINAL_OFFSET + FINAL_SIZE;

/// Why a virtual processor left the guest, as counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(usize)]
pub enum ExitReason {
    /// `KVM_EXIT_IO`, read.
    IoIn,
    /// `KVM_EXIT_IO`, write.
    IoOut,
    /// `KVM_EXIT_MMIO`, read.
    MmioRead,
    /// `KVM_EXIT_MMIO`, write.
    MmioWrite,
    /// `KVM_EXIT_HLT`.
    Halt,
    /// `KVM_EXIT_INTR`: a kick or another signal.
    Interrupted,
    /// `KVM_EXIT_IOAPIC_EOI`.
    IoapicEoi,
    /// `KVM_EXIT_SHUTDOWN`: a triple fault.
    Shutdown,
    /// `KVM_EXIT_SYSTEM_EVENT`.
    SystemEvent,
    /// `KVM_EXIT_INTERNAL_ERROR`.
    InternalError,
    /// `KVM_EXIT_FAIL_ENTRY`.
    FailEntry,
    /// Any other exit.
    Other,
}

impl ExitReason {
    /// Every reason, in the order of their counters.
    pub const ALL: [Self; 12] = [
        Self::IoIn,
        Self::IoOut,
        Self::MmioRead,
        Self::MmioWrite,
        Self::Halt,
        Self::Interrupted,
        Self::IoapicEoi,
        Self::Shutdown,
        Self::SystemEvent,
        Self::InternalError,
        Self::FailEntry,
        Self::Other,
    ];

    /// The reason's name in tables and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::IoIn => "io_in",
            Self::IoOut => "io_out",
            Self::MmioRead => "mmio_read",
            Self::MmioWrite => "mmio_write",
            Self::Halt => "halt",
            Self::Interrupted => "interrupted",
            Self::IoapicEoi => "ioapic_eoi",
            Self::Shutdown => "shutdown",
            Self::SystemEvent => "system_event",
            Self::InternalError => "internal_error",
            Self::FailEntry => "fail_entry",
            Self::Other => "other",
        }
    }
}

/// The reasons' times follow their counts at this distance, in counters.
const TIMES: usize = COUNTERS / 2;

/// Byte offset of the time that the monitor spent with exits of one reason, nanoseconds.
#[must_use]
pub const fn time_offset(processor: usize, reason: ExitReason) -> u64 {
    counter_offset(processor, reason) + (TIMES * 8) as u64
}

/// Byte offset of one counter.
#[must_use]
pub const fn counter_offset(processor: usize, reason: ExitReason) -> u64 {
    COUNTERS_OFFSET + ((processor * COUNTERS + reason as usize) * 8) as u64
}

/// How a partition ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Final {
    /// Why.
    pub cause: Cause,
    /// The virtual processor that saw it; absent when none did.
    pub processor: Option<u32>,
    /// Registers of every virtual processor, in order.
    pub registers: Vec<Registers>,
}

/// Why a partition ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The guest powered itself off (ACPI S5).
    PowerOff,
    /// The guest asked to be restarted.
    Reset,
    /// The manager stopped it.
    Stopped,
    /// The guest wrote to its exit device ([`crate::platform::EXIT_PORT`]).
    Exit {
        /// What it wrote, as it is, in 1, 2 or 4 bytes.
        status: u32,
    },
    /// The guest took a triple fault.
    TripleFault,
    /// The guest's kernel said that it panicked ([`crate::platform::PANIC_PORT`]).
    Panicked,
    /// The guest did not reload its watchdog in the time that it had set itself.
    Watchdog {
        /// Whether the partition is to be started again.
        restart: bool,
    },
    /// KVM could not go on (`KVM_EXIT_INTERNAL_ERROR`).
    InternalError {
        /// `KVM_INTERNAL_ERROR_*`.
        suberror: u32,
    },
    /// The processor refused the guest's state (`KVM_EXIT_FAIL_ENTRY`).
    FailEntry {
        /// The hardware's reason.
        reason: u64,
    },
    /// `KVM_RUN` failed.
    RunFailed {
        /// The error number.
        errno: i32,
    },
    /// An exit that this monitor does not handle.
    UnhandledExit {
        /// `kvm_run.exit_reason`.
        reason: u32,
    },
    /// The monitor itself failed; the guest is not at fault.
    MonitorFailed {
        /// What happened.
        reason: String,
    },
}

impl Cause {
    /// Whether the partition ended as its guest or its operator wanted.
    #[must_use]
    pub const fn is_orderly(&self) -> bool {
        matches!(self, Self::PowerOff | Self::Reset | Self::Stopped | Self::Exit { .. })
    }
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::PowerOff => f.write_str("the guest powered off"),
            Self::Reset => f.write_str("the guest asked to be restarted"),
            Self::Stopped => f.write_str("stopped by the manager"),
            Self::Exit { status } => write!(f, "the guest ended with exit status {status}"),
            Self::TripleFault => f.write_str("the guest took a triple fault"),
            Self::Panicked => f.write_str("the guest's kernel panicked"),
            Self::Watchdog { .. } => f.write_str("the guest hung: it did not reload its watchdog in time"),
            Self::InternalError { suberror } => {
                write!(f, "KVM could not emulate or run the guest (internal error, suberror {suberror})")
            }
            Self::FailEntry { reason } => {
                write!(f, "the processor refused to enter the guest (hardware reason {reason:#x})")
            }
            Self::RunFailed { errno } => {
                write!(f, "KVM_RUN failed: {}", std::io::Error::from_raw_os_error(*errno))
            }
            Self::UnhandledExit { reason } => write!(f, "KVM left the guest for a reason not handled ({reason})"),
            Self::MonitorFailed { reason } => write!(f, "the partition's own process failed: {reason}"),
        }
    }
}

/// The registers of one virtual processor that a first look needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are the processor's own (Intel SDM, volume 1, section 3.4)")]
pub struct Registers {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rsp: u64,
    pub rbp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rip: u64,
    pub rflags: u64,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub efer: u64,
    pub cs: u64,
    pub ss: u64,
    pub gdt: u64,
    pub idt: u64,
}

/// Where in the ring the bytes `from..to` of the console's output lie, as at most two pieces of
/// (byte offset in the record, length). Bytes that the ring no longer holds are left out; the first value
/// is the position that the pieces begin at.
#[must_use]
pub fn console_pieces(from: u64, to: u64) -> (u64, Vec<(u64, u64)>) {
    let oldest = to.saturating_sub(CONSOLE_SIZE);
    let from = from.clamp(oldest, to);
    let start = from % CONSOLE_SIZE;
    let length = to - from;
    let first = length.min(CONSOLE_SIZE - start);
    let mut pieces = Vec::new();
    if first > 0 {
        pieces.push((CONSOLE_OFFSET + start, first));
    }
    if length > first {
        pieces.push((CONSOLE_OFFSET, length - first));
    }
    (from, pieces)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_regions_do_not_overlap() {
        let counters_end = counter_offset(crate::launch::MOST_PROCESSORS - 1, ExitReason::Other) + 8;
        assert!(counters_end <= CONSOLE_TOTAL_OFFSET);
        const { assert!(CONSOLE_OFFSET + CONSOLE_SIZE <= FINAL_LENGTH_OFFSET) };
        assert!(ExitReason::ALL.len() <= COUNTERS);
        for (index, reason) in ExitReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
        }
    }

    proptest! {
        #[test]
        fn pieces_cover_what_is_asked_and_held(from in any::<u64>(), to in any::<u64>()) {
            let (start, pieces) = console_pieces(from, to);
            let length: u64 = pieces.iter().map(|piece| piece.1).sum();
            prop_assert_eq!(start + length, to);
            prop_assert!(length <= CONSOLE_SIZE);
            for (offset, length) in pieces {
                prop_assert!(offset >= CONSOLE_OFFSET && offset + length <= CONSOLE_OFFSET + CONSOLE_SIZE);
            }
        }
    }

    #[test]
    fn a_full_final_record_fits() {
        let most = Registers { rip: u64::MAX, ..Registers::default() };
        let all = Final {
            cause: Cause::TripleFault,
            processor: Some(0),
            registers: vec![Registers { rax: u64::MAX, ..most }; crate::launch::MOST_PROCESSORS],
        };
        // Every register at its longest is 20 digits: 27 of them and their names.
        assert!(serde_json::to_vec(&all).unwrap().len() + 64 * 27 * 20 < FINAL_SIZE as usize);
    }
}
