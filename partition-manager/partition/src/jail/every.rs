//! What every thread needs: its memory, its locks, its signals, its end.

use super::rule::{Call, Rule, any, one_of};

/// The signal of a kick: the first real-time one that the C library leaves to programs (signal(7)).
const KICK: u32 = 34;

/// Operations of `futex(2)` with their flags `FUTEX_PRIVATE_FLAG` (128) and `FUTEX_CLOCK_REALTIME` (256).
const FUTEX: &[u32] = &[
    0x80,  // FUTEX_WAIT, private: locks
    0x81,  // FUTEX_WAKE, private
    0x89,  // FUTEX_WAIT_BITSET, private: waits until a time
    0x189, // the same, by the clock of the day
];

/// The calls.
pub const CALLS: &[Call] = &[
    any(libc::SYS_read, "take what an eventfd, a timer or a tap has"),
    any(libc::SYS_write, "ring an eventfd: interrupts, doorbells, other threads; the words of a panic"),
    any(libc::SYS_close, "give up a descriptor"),
    one_of(libc::SYS_fcntl, 1, &[libc::F_GETFD as u32], "a build with checks looks whether what it closes is open"),
    one_of(libc::SYS_futex, 1, FUTEX, "locks and queues between threads"),
    any(libc::SYS_sched_yield, "a lock that is free at once"),
    any(libc::SYS_brk, "memory of the allocator"),
    Call {
        number: libc::SYS_mmap,
        rule: Rule::Without(2, libc::PROT_EXEC as u32),
        why: "memory of the allocator; never code",
    },
    Call {
        number: libc::SYS_mprotect,
        rule: Rule::Without(2, libc::PROT_EXEC as u32),
        why: "memory of the allocator grows; never code",
    },
    any(libc::SYS_munmap, "memory of the allocator, of stacks, of what ends"),
    any(libc::SYS_mremap, "memory of the allocator grows; it keeps its protection"),
    one_of(libc::SYS_madvise, 2, &[libc::MADV_DONTNEED as u32], "the allocator and ended threads give memory back"),
    any(libc::SYS_clock_gettime, "time, where the kernel's page for it is off"),
    any(libc::SYS_timerfd_settime, "alarms: clocks, storms, the watchdog"),
    any(libc::SYS_rt_sigprocmask, "the end of a thread, and of the process by a panic"),
    any(libc::SYS_rt_sigreturn, "back from a kick"),
    any(libc::SYS_restart_syscall, "go on waiting after a kick"),
    any(libc::SYS_sigaltstack, "the end of a thread"),
    any(libc::SYS_getpid, "the number that a kick is for"),
    any(libc::SYS_gettid, "the number of the thread that a panic ends by"),
    Call {
        number: libc::SYS_tgkill,
        rule: Rule::OwnSignal(&[KICK, libc::SIGABRT as u32]),
        why: "kick a virtual processor of this process; end by a panic",
    },
    any(libc::SYS_exit, "the end of a thread"),
    any(libc::SYS_exit_group, "the end of the process"),
];
