//! Messages between the manager and a partition.
//!
//! One message is one packet of a `SOCK_SEQPACKET` Unix socket: JSON, with descriptors beside it where the
//! message says so. The partition listens, the manager connects: so a new manager finds what the old one
//! left. Every packet carries the protocol's version and the manager's epoch; a partition that has served
//! an epoch refuses every lower one, so that a manager that was replaced can do nothing.

use crate::adapter::FrameCounts;
use crate::latency::Histogram;
use crate::launch::LaunchSpec;
use crate::record::Final;
use crate::storm::Quarantine;
use serde::{Deserialize, Serialize};

/// Version of the messages.
pub const VERSION: u16 = 7;
/// Largest packet, bytes: what a Unix socket takes at once with the kernel's usual send buffer of 208 KiB
/// (`net.core.wmem_default`, `socket(7)`).
pub const LARGEST_PACKET: usize = 200 * 1024;
/// Most descriptors beside one packet (Linux, `SCM_MAX_FD`).
pub const MOST_DESCRIPTORS: usize = 253;
/// Largest epoch: an epoch is about the milliseconds since 1970, and it must fit the integers of a database.
pub const LARGEST_EPOCH: u64 = 1 << 62;
/// By how much an epoch may be higher than the one before, as far as a partition believes it: ten years. So that
/// one wild number does not lock out all managers to come.
pub const LARGEST_STEP: u64 = 10 * 366 * 24 * 3600 * 1000;
/// The highest epoch that a partition believes first: the year 9999.
pub const LARGEST_FIRST_EPOCH: u64 = 253_402_300_800_000;
/// Most console input in one packet, bytes.
pub const LARGEST_INPUT: usize = 1024;

/// What every packet begins with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Packet<M> {
    /// [`VERSION`] of the sender.
    pub version: u16,
    /// Epoch of the manager that sends, or that is answered.
    pub epoch: u64,
    /// The message.
    pub message: M,
}

impl<M> Packet<M> {
    /// A packet of this version.
    pub fn new(epoch: u64, message: M) -> Self {
        Self { version: VERSION, epoch, message }
    }
}

/// From the manager to a partition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// First on every connection. Answered by [`Report::Welcome`] or [`Report::Refused`].
    Hello,
    /// Make the virtual machine. Descriptors: [`LaunchSpec::descriptors`]. Answered by [`Report::Ready`] or
    /// [`Report::Failed`]. Only once in the life of a process.
    Launch(Box<LaunchSpec>),
    /// Enter the guest. Answered by [`Report::Running`] at the first entry.
    Start,
    /// First rung of the ladder: ask over the communication channel. Answered by [`Report::Channel`].
    Ask,
    /// Second rung: press the ACPI power button.
    PowerButton,
    /// Third rung: a non-maskable interrupt to every virtual processor.
    Nmi,
    /// Last orderly rung: stop all virtual processors and end. Answered by [`Report::Final`].
    Stop,
    /// Bytes typed on the console, at most [`LARGEST_INPUT`].
    Input(Vec<u8>),
    /// The final record was taken over; the process may end.
    Acknowledge,
    /// Answered by [`Report::Pong`].
    Ping,
    /// Answered by [`Report::Devices`].
    Devices,
    /// A device was serviced: one that stays frozen may be reset by its guest, and its interrupt sources are no longer
    /// quarantined. One that is not there is nothing.
    Service {
        /// Its name.
        device: String,
    },
}

/// From a partition to the manager.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// Answer to [`Request::Hello`]. When the partition was launched, its descriptors come along so that a
    /// new manager holds what the old one held: record, doorbell, memory in order, and virtual processors
    /// in order (these once [`Phase`] is at least `Ready`).
    Welcome(Welcome),
    /// The connection is of no use: a lower epoch or another version. The partition closes it.
    Refused {
        /// Why.
        reason: String,
    },
    /// The virtual machine stands. Descriptors: one for each virtual processor, in order; each can be
    /// mapped to read `kvm_run`.
    Ready,
    /// A launch could not be done; the process ends.
    Failed {
        /// What happened, to what, why: the error chain.
        reason: String,
    },
    /// A virtual processor entered the guest for the first time.
    Running,
    /// What the guest said on the communication channel.
    Channel(ChannelAnswer),
    /// How it ended. The process waits for [`Request::Acknowledge`], for a while, and exits.
    Final(Box<Final>),
    /// Answer to [`Request::Ping`].
    Pong,
    /// A device froze. Those that froze while no manager was there follow [`Report::Welcome`].
    Frozen(Frozen),
    /// An interrupt source was quarantined, told as [`Report::Frozen`] is.
    Stormed(Stormed),
    /// Answer to [`Request::Devices`].
    Devices {
        /// One entry for each of [`LaunchSpec::devices`], in order.
        devices: Vec<DeviceStatus>,
        /// The lines to the I/O APIC.
        lines: Vec<LineStatus>,
    },
}

/// A device that froze.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frozen {
    /// Its name.
    pub device: String,
    /// What was wrong.
    pub reason: String,
    /// Whether it stays frozen until it is serviced.
    pub permanent: bool,
}

/// An interrupt source that was raised far beyond its limit, and is quarantined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stormed {
    /// The device.
    pub device: String,
    /// Its vector.
    pub vector: u16,
    /// Interrupts that it may raise in a second.
    pub rate: u32,
    /// Whether it stays quarantined until it is cleared.
    pub lasting: bool,
}

/// What a device does and did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceStatus {
    /// Whether it works, is frozen, or is frozen until it is serviced.
    pub state: DeviceState,
    /// How often it froze.
    pub freezes: u64,
    /// What froze it last.
    pub reason: Option<String>,
    /// Its message-signalled interrupts, by vector.
    pub vectors: Vec<VectorStatus>,
    /// Of a network adapter: what became of its frames.
    #[serde(default)]
    pub frames: Option<FrameCounts>,
    /// Of a disk: whether io_uring has several of its requests under way at once.
    #[serde(default)]
    pub io_uring: Option<bool>,
}

/// What a line to the I/O APIC does and did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineStatus {
    /// Its number: a pin of the I/O APIC.
    pub gsi: u32,
    /// The address of the message that the pin stands for; none while it is masked.
    pub address: Option<u64>,
    /// That message's data.
    pub data: u32,
    /// How often it was raised.
    pub raised: u64,
}

/// Whether a device works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum DeviceState {
    /// It works.
    Working,
    /// It is frozen until the guest resets it.
    Frozen,
    /// It is frozen until it is serviced.
    Permanent,
}

/// What one message-signalled interrupt does and did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VectorStatus {
    /// Address of the message (Intel SDM, volume 3, section 11.11.1); none while it is masked or off.
    pub address: Option<u64>,
    /// Data of the message; 0 while there is none.
    pub data: u32,
    /// Whether it waits to be unmasked.
    pub pending: bool,
    /// Messages sent.
    pub delivered: u64,
    /// Times it was raised while it was masked.
    pub masked: u64,
    /// Times it was raised beyond its limit, and one with another that waited.
    pub coalesced: u64,
    /// Storms: times it was quarantined.
    pub storms: u64,
    /// Whether it is quarantined.
    pub quarantine: Quarantine,
    /// How long it took from a message to what the guest is known to have made of it; empty where that is not known.
    #[serde(default)]
    pub latency: Histogram,
}

/// What a partition says of itself to a manager that connects.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Welcome {
    /// Where in its life the process is.
    pub phase: Phase,
    /// What it was launched with; absent before the launch.
    pub spec: Option<Box<LaunchSpec>>,
    /// How it ended, when it has.
    pub ended: Option<Box<Final>>,
}

/// Where in its life a partition process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Waits for its launch specification.
    Empty,
    /// The virtual machine stands, the guest was not entered.
    Ready,
    /// The guest runs.
    Running,
    /// The guest does not run any more; the final record is written.
    Ended,
}

/// What a guest says on the communication channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChannelAnswer {
    /// No guest software listens to the channel: the next rung may be taken at once.
    Absent,
    /// The request was put before the guest.
    Pending,
    /// The guest agrees and acts.
    Approved,
    /// The guest objects.
    Denied,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn hostile_packets_are_errors_not_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = serde_json::from_slice::<Packet<Request>>(&bytes);
            let _ = serde_json::from_slice::<Packet<Report>>(&bytes);
        }
    }

    #[test]
    fn packets_survive_a_round_trip() {
        let packet = Packet::new(7, Request::Input(b"ls\n".to_vec()));
        let text = serde_json::to_string(&packet).unwrap();
        assert_eq!(text, r#"{"version":7,"epoch":7,"message":{"input":[108,115,10]}}"#);
        assert_eq!(serde_json::from_str::<Packet<Request>>(&text).unwrap(), packet);
    }
}
