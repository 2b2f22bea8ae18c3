//! The main thread: it talks with the manager over sockets that it has, and keeps time for devices.

use super::rule::{Call, KVM_GET_IRQCHIP, KVM_IRQ_LINE, KVM_IRQFD, KVM_SET_GSI_ROUTING, KVM_SIGNAL_MSI, any, one_of};

const IOCTL: &[u32] = &[
    KVM_IRQ_LINE,        // alarms of devices
    KVM_SIGNAL_MSI,      // the same, where the I/O APIC is here
    KVM_SET_GSI_ROUTING, // a source that is quiet again
    KVM_IRQFD,
    KVM_GET_IRQCHIP,      // where the I/O APIC's pins lead, for who asks
    libc::FIONBIO as u32, // a connection that must not block
];

/// The calls.
pub const CALLS: &[Call] = &[
    any(libc::SYS_epoll_pwait, "wait for packets, processors and time"),
    any(libc::SYS_epoll_ctl, "a connection comes or goes"),
    any(libc::SYS_accept4, "a manager connects"),
    one_of(libc::SYS_getsockopt, 2, &[libc::SO_PEERCRED as u32], "who connected"),
    any(libc::SYS_recvmsg, "packets of the manager, with their descriptors"),
    any(libc::SYS_sendmsg, "packets to the manager"),
    any(libc::SYS_recvfrom, "what is left of a connection that is closed"),
    one_of(libc::SYS_shutdown, 1, &[libc::SHUT_RD as u32], "close a connection so that its last packet is read"),
    one_of(libc::SYS_ioctl, 1, IOCTL, "interrupts of alarms, and connections that do not block"),
    any(libc::SYS_pread64, "how long the kernel let each processor wait, for the watchdog"),
    any(libc::SYS_timerfd_gettime, "how long an alarm still takes"),
];
