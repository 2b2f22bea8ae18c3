//! Reference codes: eight characters that name what happened.
//!
//! The first digits follow Power's system reference codes: `B1` service processor error, `B2` partition
//! failure, `C1`, `C2` and `C7` progress, `D2` shutdown status, `A2` attention about a partition.

use serde::{Deserialize, Serialize};

/// How bad an event is (after the platform event log of Power).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Nothing is wrong.
    Informational,
    /// Something went wrong and was put right without help.
    Recovered,
    /// Something is likely to go wrong.
    Predictive,
    /// Something went wrong and stays wrong until somebody acts.
    Unrecoverable,
    /// The frame is in danger.
    Critical,
}

/// Whom an event concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// One partition.
    Partition,
    /// More than one, not all.
    Several,
    /// The whole frame.
    Frame,
}

/// One registered code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// The code.
    pub code: Code,
    /// What it looks like, eight characters.
    pub reference: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// Whom it concerns.
    pub scope: Scope,
    /// What happened.
    pub text: &'static str,
    /// Why it usually happens.
    pub cause: &'static str,
    /// What to do.
    pub action: &'static str,
}

macro_rules! registry {
    ($($(#[doc = $doc:literal])* $name:ident = $reference:literal, $severity:ident, $scope:ident, $text:literal, $cause:literal, $action:literal;)*) => {
        /// A registered reference code.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
        pub enum Code {
            $(#[doc = $text] #[serde(rename = $reference)] $name,)*
        }

        /// Every registered code.
        pub const REGISTRY: &[Entry] = &[
            $(Entry {
                code: Code::$name,
                reference: $reference,
                severity: Severity::$severity,
                scope: Scope::$scope,
                text: $text,
                cause: $cause,
                action: $action,
            },)*
        ];
    };
}

registry! {
    PartitionRunning = "C2000001", Informational, Partition,
        "The partition runs.",
        "It was activated.", "None.";
    PartitionRestarted = "C2000002", Informational, Partition,
        "The partition restarts.",
        "Its guest asked for a restart, or an operator did.", "None.";
    DeviceServiced = "C2000003", Informational, Partition,
        "A device of the partition was serviced: it may be reset by its guest, and its interrupt sources are not quarantined.",
        "An operator said so.", "None.";
    PartitionPoweredOff = "D2000001", Informational, Partition,
        "The partition powered itself off.",
        "Its guest used ACPI soft off.", "None; `lpar activate` starts it again.";
    PartitionStopped = "D2000002", Informational, Partition,
        "The partition was shut down.",
        "An operator asked for it.", "None.";
    PartitionExited = "D2000004", Informational, Partition,
        "The partition ended with an exit status.",
        "Its guest wrote to the exit device, port 0xf4.", "None; `lpar activate` starts it again.";
    ShutdownEscalated = "D2000003", Predictive, Partition,
        "A rung of the shutdown ladder had no effect in its time; the next one is taken.",
        "The guest does not listen to the request, or is busy or hung.",
        "If the guest only needs longer, raise the deadlines in the partition's `shutdown` table.";
    ShutdownDenied = "A2000001", Predictive, Partition,
        "The guest objects to its shutdown; it keeps running.",
        "Software in the guest answered the communication channel with a denial.",
        "Settle it inside the guest, or use `lpar shutdown --immediate`.";
    TripleFault = "B2000001", Unrecoverable, Partition,
        "The partition crashed: its guest took a triple fault.",
        "The guest's kernel overwrote its own tables or stack, or was built for other hardware.",
        "Read the registers in the event and the console's history; `lpar activate` starts it again.";
    InternalError = "B2000002", Unrecoverable, Partition,
        "The partition crashed: KVM could not emulate or run its guest.",
        "The guest executed from memory that is not there, or an instruction that this host's KVM does not emulate.",
        "Read the registers in the event; `lpar doctor` says what this host's KVM can do.";
    ProcessLost = "B2000003", Unrecoverable, Partition,
        "The partition's process ended without a final record.",
        "It was killed from outside, for instance by the out-of-memory killer or an operator.",
        "Look for the signal in the event and in the host's log; `lpar activate` starts it again.";
    ActivationFailed = "B2000004", Unrecoverable, Partition,
        "The partition could not be activated.",
        "A resource, its kernel or the host's KVM is not as the frame file needs it.",
        "The event says what failed; mend it, then `lpar activate`.";
    MonitorFailed = "B2000005", Unrecoverable, Partition,
        "The partition's own process failed; its guest is not at fault.",
        "A defect in Bulkhead, or a host that took something away.",
        "Keep the event and report it; `lpar activate` starts the partition again.";
    RunFailed = "B2000006", Unrecoverable, Partition,
        "KVM refused to go on running the partition.",
        "Guest memory is gone or poisoned on the host, or the guest's state is impossible.",
        "Read the registers and the error in the event and the host's kernel log; `lpar activate` starts it again.";
    DeviceFrozen = "B2000007", Recovered, Partition,
        "A device of the partition went wrong and is frozen until its guest resets it.",
        "The guest's driver gave it impossible descriptors or addresses, or what is behind the device failed.",
        "None if its guest resets it; the event says what was wrong. A device that freezes for the sixth time in an hour stays frozen.";
    DeviceFailed = "B2000008", Unrecoverable, Partition,
        "A device of the partition froze for the sixth time in an hour; it stays frozen.",
        "The guest's driver is broken or hostile, or what is behind the device keeps failing.",
        "Mend what the event names, then `lpar service PARTITION DEVICE`, or restart the partition.";
    SourceQuarantined = "B2000009", Recovered, Partition,
        "An interrupt source of the partition storms; nothing of it is delivered until it is quiet for a second.",
        "A device was raised without end: by its guest's driver, or by what is behind it.",
        "None if it ends; `lpar interrupts` counts the storms. A source that storms for the sixth time in an hour stays quarantined.";
    SourceFailed = "B200000A", Unrecoverable, Partition,
        "An interrupt source of the partition stormed for the sixth time in an hour; it stays quarantined.",
        "The guest's driver is broken or hostile, or `interrupt_limit` is far below what the device does.",
        "Mend the driver or raise the limit, then `lpar service PARTITION DEVICE`, or restart the partition.";
    GuestPanicked = "B200000B", Unrecoverable, Partition,
        "The guest's kernel panicked; the partition is in Error.",
        "A defect of the guest's kernel or of its drivers, or memory that was changed beneath it.",
        "Look at its console and at the registers in the event; activate it again. With `panic_device = false` the guest does after a panic what its own settings say.";
    GuestHung = "B200000C", Unrecoverable, Partition,
        "The guest hung: it did not reload its watchdog in the time that it had set itself, counted without what its processors had to wait for the host.",
        "A defect of the guest's kernel or of its drivers, or the program that reloads the watchdog is gone.",
        "Look at its console and at the registers in the event. With `watchdog = \"restart\"` it was started again; otherwise activate it.";
    CallForbidden = "B200000D", Unrecoverable, Partition,
        "The jail's filter ended the partition's process: one of its threads did a system call that it never does.",
        "A guest took the process over, or a defect in Bulkhead.",
        "Treat its guest and its images as hostile until it is known which it was. Keep the event, which has the last registers and, where the host's kernel log tells it, the system call; `lpar activate` starts it again.";
    InterruptKept = "B200000E", Informational, Partition,
        "The host's kernel refused to send interrupts of a device that is dedicated to the partition to the partition's CPUs.",
        "The kernel manages them itself, one queue of the device for each CPU or group of CPUs, or they cannot be moved.",
        "`lpar interrupts --host` says where they go. Requests of a CPU of the partition mostly come back to that CPU by the kernel's own management; boot the host with isolcpus=managed_irq to keep those of others away.";
    ManagerStarted = "C7000001", Informational, Frame,
        "The partition manager is in control.",
        "The frame was brought up, or a manager replaced one that was lost.", "None.";
    FrameChanged = "C7000003", Informational, Frame,
        "What is declared of the frame changed.",
        "An operator applied a frame file or set a value.", "None; the event says what changed, and `lpar diff` what waits.";
    PartitionAdopted = "C7000002", Informational, Partition,
        "A running partition was taken over from an earlier manager.",
        "The manager was replaced.", "None.";
    LeftoverRemoved = "B7000001", Recovered, Frame,
        "Something that an earlier run left behind was removed.",
        "A daemon or the host was killed half-way.", "None.";
    ManagerLost = "B17B0001", Recovered, Frame,
        "The service processor lost the partition manager; it is replaced, the partitions run on.",
        "The manager's process ended.",
        "Look at the manager's log for the reason if it repeats.";
    ManagerHung = "B17B0002", Recovered, Frame,
        "The partition manager did not answer in time; it is killed and replaced, the partitions run on.",
        "The manager was stopped or starved.",
        "Look at the host's load and the manager's log if it repeats.";
    ServiceProcessorLost = "B17A0001", Recovered, Frame,
        "The partition manager lost the service processor; the partitions run on.",
        "The service processor's process ended or hung.",
        "Look at the service processor's log for the reason if it repeats.";
    EventLogDamaged = "B1810001", Unrecoverable, Frame,
        "The event log could not be read; it was set aside and a new one begun.",
        "The host crashed, or the file was written by something else.",
        "The old file stands beside the new one; keep it for whoever looks into it.";
    FrameDown = "D1000001", Informational, Frame,
        "The frame is brought down.",
        "An operator asked for it.", "None.";
}

impl Code {
    /// The registry's entry of this code.
    #[must_use]
    pub fn entry(self) -> &'static Entry {
        // The macro makes one entry for each variant, in order.
        &REGISTRY[self as usize]
    }

    /// The eight characters.
    #[must_use]
    pub fn reference(self) -> &'static str {
        self.entry().reference
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.reference())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_its_own_entry() {
        for (index, entry) in REGISTRY.iter().enumerate() {
            assert_eq!(entry.code as usize, index);
            assert_eq!(entry.reference.len(), 8);
            assert!(entry.reference.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase()));
            assert_eq!(serde_json::to_value(entry.code).unwrap(), entry.reference);
            assert_eq!(REGISTRY.iter().filter(|other| other.reference == entry.reference).count(), 1);
        }
    }
}
