//! Why `KVM_RUN` came back: `kvm_run` read by its exit reason.

use frame::record::{Cause, ExitReason};
use kvm_bindings::{
    KVM_EXIT_FAIL_ENTRY, KVM_EXIT_HLT, KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_INTR, KVM_EXIT_IO, KVM_EXIT_IO_IN,
    KVM_EXIT_IOAPIC_EOI, KVM_EXIT_IRQ_WINDOW_OPEN, KVM_EXIT_MEMORY_FAULT, KVM_EXIT_MMIO, KVM_EXIT_SET_TPR,
    KVM_EXIT_SHUTDOWN, KVM_EXIT_SYSTEM_EVENT, KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET,
    KVM_SYSTEM_EVENT_SHUTDOWN, kvm_run,
};

/// One exit.
#[derive(Debug, PartialEq, Eq)]
pub enum Exit<'run> {
    /// The guest reads a port: whole accesses of `size` bytes each.
    PortRead {
        /// The port.
        port: u16,
        /// Bytes of one access.
        size: usize,
        /// Where the answer goes.
        data: &'run mut [u8],
    },
    /// The guest writes a port.
    PortWrite {
        /// The port.
        port: u16,
        /// Bytes of one access.
        size: usize,
        /// What it writes.
        data: &'run [u8],
    },
    /// The guest reads where there is no memory.
    MmioRead {
        /// Guest-physical address.
        address: u64,
        /// Where the answer goes.
        data: &'run mut [u8],
    },
    /// The guest writes where there is no memory.
    MmioWrite {
        /// Guest-physical address.
        address: u64,
        /// What it writes.
        data: &'run [u8],
    },
    /// The guest halts, and its local APIC is not KVM's.
    Halt,
    /// The guest ended the level-triggered interrupt with this vector.
    Ended(u8),
    /// Nothing to do but to look for commands and interrupts.
    Again(ExitReason),
    /// The guest cannot or does not want to go on.
    End(ExitReason, Cause),
}

/// Most bytes of one MMIO exit (`kvm_run.mmio.data`).
const MMIO_BYTES: usize = 8;

impl<'run> Exit<'run> {
    /// Reads the exit that a successful `KVM_RUN` left in `run`, a mapping of `mapped` bytes.
    ///
    /// # Safety
    /// `run` points to a `kvm_run` with `mapped` bytes behind it, which nobody else uses during `'run`.
    pub unsafe fn read(run: *mut kvm_run, mapped: usize) -> Self {
        // SAFETY: the caller says that the mapping is there and that nobody else uses it.
        let state = unsafe { &mut *run };
        match state.exit_reason {
            KVM_EXIT_IO => {
                // SAFETY: the member of the union that goes with the exit reason.
                let io = unsafe { state.__bindgen_anon_1.io };
                let (size, at) = (usize::from(io.size), io.data_offset as usize);
                let length = size.saturating_mul(io.count as usize);
                let inside = at >= size_of::<kvm_run>() && at.checked_add(length).is_some_and(|end| end <= mapped);
                if !inside || size == 0 {
                    return Self::unhandled(KVM_EXIT_IO);
                }
                // SAFETY: inside the mapping and behind the structure, by the check above.
                let data = unsafe { std::slice::from_raw_parts_mut(run.cast::<u8>().wrapping_add(at), length) };
                if u32::from(io.direction) == KVM_EXIT_IO_IN {
                    Self::PortRead { port: io.port, size, data }
                } else {
                    Self::PortWrite { port: io.port, size, data }
                }
            }
            KVM_EXIT_MMIO => {
                // SAFETY: the member of the union that goes with the exit reason.
                let mmio = unsafe { &mut state.__bindgen_anon_1.mmio };
                let address = mmio.phys_addr;
                let length = (mmio.len as usize).min(MMIO_BYTES);
                match (mmio.data.get_mut(..length), mmio.is_write != 0) {
                    (Some(data), false) => Self::MmioRead { address, data },
                    (Some(data), true) => Self::MmioWrite { address, data },
                    (None, _) => Self::unhandled(KVM_EXIT_MMIO),
                }
            }
            KVM_EXIT_INTR => Self::Again(ExitReason::Interrupted),
            KVM_EXIT_IRQ_WINDOW_OPEN | KVM_EXIT_SET_TPR => Self::Again(ExitReason::Other),
            KVM_EXIT_IOAPIC_EOI => {
                // SAFETY: the member of the union that goes with the exit reason.
                Self::Ended(unsafe { state.__bindgen_anon_1.eoi.vector })
            }
            KVM_EXIT_HLT => Self::Halt,
            KVM_EXIT_SHUTDOWN => Self::End(ExitReason::Shutdown, Cause::TripleFault),
            KVM_EXIT_SYSTEM_EVENT => {
                // SAFETY: the member of the union that goes with the exit reason.
                let kind = unsafe { state.__bindgen_anon_1.system_event.type_ };
                let cause = match kind {
                    KVM_SYSTEM_EVENT_SHUTDOWN => Cause::PowerOff,
                    KVM_SYSTEM_EVENT_RESET => Cause::Reset,
                    KVM_SYSTEM_EVENT_CRASH => Cause::TripleFault,
                    _ => Cause::UnhandledExit { reason: KVM_EXIT_SYSTEM_EVENT },
                };
                Self::End(ExitReason::SystemEvent, cause)
            }
            KVM_EXIT_INTERNAL_ERROR => {
                // SAFETY: the member of the union that goes with the exit reason.
                let suberror = unsafe { state.__bindgen_anon_1.internal.suberror };
                Self::End(ExitReason::InternalError, Cause::InternalError { suberror })
            }
            KVM_EXIT_FAIL_ENTRY => {
                // SAFETY: the member of the union that goes with the exit reason.
                let reason = unsafe { state.__bindgen_anon_1.fail_entry.hardware_entry_failure_reason };
                Self::End(ExitReason::FailEntry, Cause::FailEntry { reason })
            }
            // The only exit that comes with an error number (kernel, Documentation/virt/kvm/api.rst, 5).
            KVM_EXIT_MEMORY_FAULT => Self::End(ExitReason::Other, Cause::RunFailed { errno: libc::EFAULT }),
            reason => Self::unhandled(reason),
        }
    }

    const fn unhandled(reason: u32) -> Self {
        Self::End(ExitReason::Other, Cause::UnhandledExit { reason })
    }

    /// How the exit is counted.
    #[must_use]
    pub const fn reason(&self) -> ExitReason {
        match self {
            Self::PortRead { .. } => ExitReason::IoIn,
            Self::PortWrite { .. } => ExitReason::IoOut,
            Self::MmioRead { .. } => ExitReason::MmioRead,
            Self::MmioWrite { .. } => ExitReason::MmioWrite,
            Self::Halt => ExitReason::Halt,
            Self::Ended(_) => ExitReason::IoapicEoi,
            Self::Again(reason) | Self::End(reason, _) => *reason,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvm_bindings::{KVM_EXIT_DEBUG, KVM_EXIT_IO_OUT};

    const PAGE: usize = 4096;

    /// A `kvm_run` with a page of data behind it, as the kernel maps it.
    #[repr(C, align(4096))]
    struct Run([u8; 2 * PAGE]);

    impl Run {
        fn new(fill: impl FnOnce(&mut kvm_run)) -> Box<Self> {
            let mut run = Box::new(Self([0; 2 * PAGE]));
            // SAFETY: the bytes are as many and as aligned as a kvm_run's, which any bytes are.
            fill(unsafe { &mut *run.0.as_mut_ptr().cast() });
            run
        }

        fn exit(&mut self) -> Exit<'_> {
            // SAFETY: the bytes are borrowed as long as the exit.
            unsafe { Exit::read(self.0.as_mut_ptr().cast(), 2 * PAGE) }
        }
    }

    fn io(size: u8, count: u32, offset: u64) -> Box<Run> {
        Run::new(|run| {
            run.exit_reason = KVM_EXIT_IO;
            let of = &mut run.__bindgen_anon_1;
            of.io.direction = KVM_EXIT_IO_OUT as u8;
            of.io.size = size;
            of.io.port = 0x3f8;
            of.io.count = count;
            of.io.data_offset = offset;
        })
    }

    #[test]
    fn a_string_of_bytes_is_not_one_wide_access() {
        let mut run = io(1, 4, PAGE as u64);
        run.0[PAGE..PAGE + 4].copy_from_slice(b"abcd");
        assert_eq!(run.exit(), Exit::PortWrite { port: 0x3f8, size: 1, data: b"abcd" });
        assert_eq!(run.exit().reason(), ExitReason::IoOut);
    }

    #[test]
    fn data_outside_of_the_mapping_is_refused() {
        for (size, count, offset) in [(4, 2000, PAGE as u64), (1, 1, 2 * PAGE as u64), (1, 1, 0), (1, 1, u64::MAX)] {
            let expected = Exit::End(ExitReason::Other, Cause::UnhandledExit { reason: KVM_EXIT_IO });
            assert_eq!(io(size, count, offset).exit(), expected);
        }
    }

    #[test]
    fn every_end_has_its_cause() {
        let end = |reason: u32, fill: fn(&mut kvm_run)| {
            let mut run = Run::new(|run| {
                run.exit_reason = reason;
                fill(run);
            });
            match run.exit() {
                Exit::End(_, cause) => cause,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(end(KVM_EXIT_SHUTDOWN, |_| ()), Cause::TripleFault);
        assert_eq!(end(KVM_EXIT_DEBUG, |_| ()), Cause::UnhandledExit { reason: KVM_EXIT_DEBUG });
        assert_eq!(end(KVM_EXIT_MEMORY_FAULT, |_| ()), Cause::RunFailed { errno: libc::EFAULT });
        let suberror = |run: &mut kvm_run| run.__bindgen_anon_1.internal.suberror = 3;
        assert_eq!(end(KVM_EXIT_INTERNAL_ERROR, suberror), Cause::InternalError { suberror: 3 });
        let fail = |run: &mut kvm_run| run.__bindgen_anon_1.fail_entry.hardware_entry_failure_reason = 9;
        assert_eq!(end(KVM_EXIT_FAIL_ENTRY, fail), Cause::FailEntry { reason: 9 });
        let off = |run: &mut kvm_run| run.__bindgen_anon_1.system_event.type_ = KVM_SYSTEM_EVENT_SHUTDOWN;
        assert_eq!(end(KVM_EXIT_SYSTEM_EVENT, off), Cause::PowerOff);
    }
}
