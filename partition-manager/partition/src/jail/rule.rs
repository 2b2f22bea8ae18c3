//! Rules of the filters, as tables that people read and the kernel obeys.

use seccompiler::{
    BackendError, SeccompCmpArgLen as Length, SeccompCmpOp as Op, SeccompCondition as Condition, SeccompRule,
};

/// A system call that a class of thread may do.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Its number (x86-64).
    pub number: i64,
    /// With which arguments.
    pub rule: Rule,
    /// What for.
    pub why: &'static str,
}

/// What is asked of a call's arguments. All that is compared is 32 bits wide for the kernel too.
#[derive(Clone, Copy, Debug)]
pub enum Rule {
    /// Nothing: its arguments are descriptors of this process, addresses and lengths.
    Any,
    /// Argument `.0`, from 0, is one of these.
    OneOf(u8, &'static [u32]),
    /// Argument `.0` has none of these bits.
    Without(u8, u32),
    /// The first argument is this process, and the third one of these signals.
    OwnSignal(&'static [u32]),
}

/// A call with any arguments.
pub(super) const fn any(number: i64, why: &'static str) -> Call {
    Call { number, rule: Rule::Any, why }
}

/// A call with one of `values` as argument `argument`.
pub(super) const fn one_of(number: i64, argument: u8, values: &'static [u32], why: &'static str) -> Call {
    Call { number, rule: Rule::OneOf(argument, values), why }
}

/// The rule as the compiler takes it: alternatives, none of them for any arguments.
pub(super) fn compiled(rule: &Rule, process: u32) -> Result<Vec<SeccompRule>, BackendError> {
    let is = |argument, value: u32| Condition::new(argument, Length::Dword, Op::Eq, value.into());
    match rule {
        Rule::Any => Ok(vec![]),
        Rule::OneOf(argument, values) => {
            values.iter().map(|value| SeccompRule::new(vec![is(*argument, *value)?])).collect()
        }
        Rule::Without(argument, bits) => {
            let clear = Condition::new(*argument, Length::Dword, Op::MaskedEq((*bits).into()), 0)?;
            Ok(vec![SeccompRule::new(vec![clear])?])
        }
        Rule::OwnSignal(signals) => {
            signals.iter().map(|signal| SeccompRule::new(vec![is(0, process)?, is(2, *signal)?])).collect()
        }
    }
}

/// `_IO` of KVM (Linux, include/uapi/linux/kvm.h and Documentation/userspace-api/ioctl/ioctl-number.rst).
pub(super) const fn kvm(number: u32) -> u32 {
    kvm_bindings::KVMIO << 8 | number
}

/// `_IOW` of KVM with a structure.
pub(super) const fn kvm_write<T>(number: u32) -> u32 {
    1 << 30 | (size_of::<T>() as u32) << 16 | kvm(number)
}

/// `_IOR` of KVM with a structure.
pub(super) const fn kvm_read<T>(number: u32) -> u32 {
    2 << 30 | (size_of::<T>() as u32) << 16 | kvm(number)
}

/// `KVM_GET_IRQCHIP`: the state of a controller in the kernel.
pub(super) const KVM_GET_IRQCHIP: u32 = 3 << 30 | (size_of::<kvm_bindings::kvm_irqchip>() as u32) << 16 | kvm(0x62);
/// `KVM_IRQ_LINE`: a pin of a controller in the kernel.
pub(super) const KVM_IRQ_LINE: u32 = kvm_write::<kvm_bindings::kvm_irq_level>(0x61);
/// `KVM_SET_GSI_ROUTING`: where messages of a device go.
pub(super) const KVM_SET_GSI_ROUTING: u32 = kvm_write::<u64>(0x6a);
/// `KVM_IRQFD`: the eventfd that raises a message.
pub(super) const KVM_IRQFD: u32 = kvm_write::<kvm_bindings::kvm_irqfd>(0x76);
/// `KVM_SIGNAL_MSI`: a message, from the I/O APIC that is here.
pub(super) const KVM_SIGNAL_MSI: u32 = kvm_write::<kvm_bindings::kvm_msi>(0xa5);
