//! What this host's KVM can do, and the last registers that it keeps of a virtual processor.

use frame::api::KvmReport;
use kvm_ioctls::{Cap, Kvm};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::Path;

/// The device.
pub const DEVICE: &str = "/dev/kvm";

/// Why a partition cannot have KVM.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// The device is not there.
    #[error(
        "/dev/kvm does not exist: this kernel has no KVM, or its module is not loaded; load kvm_intel or kvm_amd, and in a virtual machine switch nested virtualization on"
    )]
    Absent,
    /// The device is there, but not for this user.
    #[error("/dev/kvm: permission denied; run as the superuser, or as a member of the group that owns /dev/kvm")]
    NotPermitted,
    /// Opening it failed otherwise.
    #[error("/dev/kvm cannot be opened")]
    Open(#[source] std::io::Error),
}

/// Opens `/dev/kvm` for reading and writing.
///
/// # Errors
/// [`KvmError`] says what to do.
pub fn open() -> Result<OwnedFd, KvmError> {
    let opened = std::fs::OpenOptions::new().read(true).write(true).open(DEVICE);
    match opened {
        Ok(file) => Ok(file.into()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(KvmError::Absent),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Err(KvmError::NotPermitted),
        Err(error) => Err(KvmError::Open(error)),
    }
}

/// Capabilities without which no partition runs, and why.
const NEEDED: [(&str, Cap); 4] = [
    ("KVM_CAP_IRQCHIP", Cap::Irqchip),
    ("KVM_CAP_USER_MEMORY", Cap::UserMemory),
    ("KVM_CAP_IRQFD", Cap::Irqfd),
    ("KVM_CAP_IMMEDIATE_EXIT", Cap::ImmediateExit),
];

/// Capabilities that are used where they are there.
const USED: [(&str, Cap); 6] = [
    ("KVM_CAP_NR_MEMSLOTS", Cap::NrMemslots),
    ("KVM_CAP_MAX_VCPUS", Cap::MaxVcpus),
    ("KVM_CAP_TSC_DEADLINE_TIMER", Cap::TscDeadlineTimer),
    ("KVM_CAP_X2APIC_API", Cap::X2ApicApi),
    ("KVM_CAP_SYNC_REGS", Cap::SyncRegs),
    ("KVM_CAP_IRQ_ROUTING", Cap::IrqRouting),
];

/// Asks `/dev/kvm`, and gives the lines about what it lacks.
#[must_use]
pub fn probe() -> (KvmReport, Vec<String>) {
    let mut report = KvmReport { present: Path::new(DEVICE).exists(), ..KvmReport::default() };
    let mut lacks = Vec::new();
    let kvm = match open() {
        Ok(descriptor) => {
            use std::os::fd::{FromRawFd, IntoRawFd};
            // SAFETY: the descriptor is open and of /dev/kvm, and its ownership passes to the handle.
            unsafe { Kvm::from_raw_fd(descriptor.into_raw_fd()) }
        }
        Err(error) => {
            let mut text = error.to_string();
            if let Some(source) = std::error::Error::source(&error) {
                text = format!("{text}: {source}");
            }
            report.error = Some(text.clone());
            lacks.push(text);
            return (report, lacks);
        }
    };
    report.openable = true;
    report.api_version = Some(kvm.get_api_version());
    let mut capabilities = BTreeMap::new();
    let mut missing = Vec::new();
    for (name, capability) in NEEDED {
        let value = kvm.check_extension_int(capability);
        capabilities.insert(name.to_owned(), value);
        if value <= 0 {
            missing.push(name);
        }
    }
    for (name, capability) in USED {
        capabilities.insert(name.to_owned(), kvm.check_extension_int(capability));
    }
    let has = |name: &str| capabilities.get(name).is_some_and(|&value| value > 0);
    if report.api_version.is_none_or(|version| version < 0) {
        report.error = Some("/dev/kvm is another device than KVM's; load kvm_intel or kvm_amd anew".into());
    } else if report.api_version != Some(12) {
        report.error = Some("this KVM speaks another version than 12 of its interface; use a newer kernel".into());
    } else if !missing.is_empty() {
        report.error = Some(format!("this KVM lacks {}; partitions need it, use another kernel", missing.join(", ")));
    }
    lacks.extend(report.error.clone());
    if !has("KVM_CAP_SYNC_REGS") {
        lacks.push("this KVM lacks KVM_CAP_SYNC_REGS: a partition that is killed leaves no last registers".into());
    }
    if !has("KVM_CAP_TSC_DEADLINE_TIMER") {
        lacks.push("this KVM lacks the TSC deadline timer: guests use slower timers".into());
    }
    report.hardware = hardware();
    if report.hardware == Some(false) {
        lacks.push(
            "the processor's virtualization extensions (vmx, svm) are not there: KVM works in software, and ring 0 of a guest is slow"
                .into(),
        );
    }
    report.capabilities = capabilities;
    (report, lacks)
}

/// Whether the processor says that it has virtualization extensions; absent when it says nothing.
fn hardware() -> Option<bool> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let flags = text.lines().find_map(|line| line.strip_prefix("flags")?.split_once(':').map(|(_, flags)| flags))?;
    Some(flags.split_ascii_whitespace().any(|flag| flag == "vmx" || flag == "svm"))
}
