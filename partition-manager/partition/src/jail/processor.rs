//! The thread of a virtual processor: it runs the guest, and serves its accesses to devices.

use super::rule::one_of;
use super::rule::{Call, KVM_IRQ_LINE, KVM_IRQFD, KVM_SET_GSI_ROUTING, KVM_SIGNAL_MSI, any, kvm, kvm_read, kvm_write};
use kvm_bindings::{kvm_interrupt, kvm_ioeventfd, kvm_regs, kvm_sregs, kvm_vcpu_events};

const IOCTL: &[u32] = &[
    kvm(0x80),                          // KVM_RUN; the first, since it is the most frequent
    KVM_IRQ_LINE,                       // pins of devices
    KVM_SIGNAL_MSI,                     // messages of the I/O APIC that is here
    kvm_write::<kvm_interrupt>(0x86),   // KVM_INTERRUPT, where the local APIC is here
    kvm(0x9a),                          // KVM_NMI
    kvm_read::<kvm_regs>(0x81),         // KVM_GET_REGS: the last registers
    kvm_read::<kvm_sregs>(0x83),        // KVM_GET_SREGS
    kvm_write::<kvm_regs>(0x82),        // KVM_SET_REGS: INIT and start-up, where the local APIC is here
    kvm_write::<kvm_sregs>(0x84),       // KVM_SET_SREGS
    kvm_read::<kvm_vcpu_events>(0x9f),  // KVM_GET_VCPU_EVENTS
    kvm_write::<kvm_vcpu_events>(0xa0), // KVM_SET_VCPU_EVENTS
    KVM_SET_GSI_ROUTING,                // the guest sets up a device's messages
    KVM_IRQFD,
    kvm_write::<kvm_ioeventfd>(0x79), // KVM_IOEVENTFD: the guest moves a device's doorbell
];

/// The calls.
pub const CALLS: &[Call] = &[
    one_of(libc::SYS_ioctl, 1, IOCTL, "run the guest, its registers, its interrupts, its doorbells"),
    any(libc::SYS_timer_settime, "the timer of a local APIC that is here"),
    any(libc::SYS_timer_delete, "the end of that timer"),
    any(libc::SYS_timerfd_gettime, "how long an alarm still takes"),
    any(libc::SYS_pread64, "how long the kernel let each processor wait, for the watchdog"),
];
