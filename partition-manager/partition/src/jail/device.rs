//! The thread of a device: its queues, and the file, the tap or the sockets behind it.
//!
//! A disk makes and restricts its ring before its thread is confined (`IORING_REGISTER_RESTRICTIONS`,
//! io_uring_register(2)); what the ring does is no system call of the thread and passes no filter.

use super::rule::{Call, KVM_IRQ_LINE, KVM_IRQFD, KVM_SET_GSI_ROUTING, KVM_SIGNAL_MSI, any, one_of};

const IOCTL: &[u32] = &[
    KVM_IRQ_LINE,        // the device's pin
    KVM_SIGNAL_MSI,      // its message, where the I/O APIC is here
    KVM_SET_GSI_ROUTING, // its messages are masked when it freezes
    KVM_IRQFD,
    0x4004_54d0, // TUNSETOFFLOAD (Linux, include/uapi/linux/if_tun.h): what frames may leave undone
];

/// The calls.
pub const CALLS: &[Call] = &[
    any(libc::SYS_epoll_pwait, "wait for the driver, the tap and time"),
    any(libc::SYS_epoll_ctl, "watch the tap, or do not"),
    one_of(libc::SYS_ioctl, 1, IOCTL, "the device's interrupts, and what its tap leaves undone"),
    any(libc::SYS_writev, "a frame to the tap"),
    any(libc::SYS_preadv, "read sectors"),
    any(libc::SYS_pwritev, "write sectors"),
    any(libc::SYS_pwrite64, "write zeros"),
    any(libc::SYS_io_uring_enter, "read, write and flush by the disk's ring, which can do no more"),
    any(libc::SYS_fdatasync, "flush"),
    any(libc::SYS_fallocate, "discard and zero sectors"),
    any(libc::SYS_accept4, "a program of the host comes to the socket device"),
    any(libc::SYS_sendto, "what the guest sends to it, and whom it calls"),
    any(libc::SYS_recvmsg, "the sockets that the guest's calls led to"),
    any(libc::SYS_shutdown, "the guest sends no more to it"),
    any(libc::SYS_getrandom, "the entropy device; keys of tables"),
];
