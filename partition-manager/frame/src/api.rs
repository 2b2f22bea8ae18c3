//! What the daemons' APIs say: HTTP and JSON over Unix sockets. Sizes are integer bytes.

use crate::assignment::Assignment;
use crate::change::Change;
use crate::declare::Frame;
use crate::event::Event;
use crate::inventory::Inventory;
use crate::name::Name;
use crate::state::State;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// A row of `lpar ls`: one partition, flat.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PartitionRow {
    /// The partition's name.
    pub name: Name,
    /// The partition's number.
    pub id: u32,
    /// Its state.
    pub state: State,
    /// Why it is in that state, where that needs saying; empty otherwise.
    pub reason: String,
    /// Virtual processors: assigned while it is active, desired otherwise.
    pub processors: u32,
    /// Processing units it is entitled to, likewise.
    pub units: f64,
    /// Memory, bytes, likewise.
    pub memory: u64,
    /// `dedicated` or `shared`.
    pub mode: String,
    /// Logical CPUs of the host that its virtual processors may use, in list format; empty when inactive.
    pub cpus: String,
    /// Availability priority.
    pub availability_priority: u8,
    /// Process number of the partition; absent when inactive.
    pub pid: Option<u32>,
    /// How often it was started in this frame.
    pub incarnation: u64,
    /// Seconds since it was last started; absent when inactive.
    pub uptime: Option<f64>,
    /// What its guest wrote to the exit device ([`crate::platform::EXIT_PORT`]) at its last end; absent when it
    /// did not, and from the next start on.
    #[serde(default)]
    pub exit_status: Option<u32>,
}

/// One resource with its three values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Resource {
    /// What the frame file says.
    pub declared: serde_json::Value,
    /// What it owns now; null when it owns nothing.
    pub assigned: serde_json::Value,
    /// What it gets at its next activation.
    pub pending: serde_json::Value,
}

/// Answer of `lpar show`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PartitionDetail {
    /// What `ls` says.
    #[serde(flatten)]
    pub row: PartitionRow,
    /// Each resource: `processors`, `units`, `memory`, `cpus`, `boot`, ….
    pub resources: BTreeMap<String, Resource>,
    /// Where its processes are confined; empty when they are not.
    pub cgroup: Vec<String>,
    /// The jail of its process as it is now; absent when it has no process.
    #[serde(default)]
    pub jail: Option<crate::jail::JailReport>,
}

/// Exits of one virtual processor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ProcessorStat {
    /// Number of the virtual processor.
    pub processor: u32,
    /// Exits by reason, since the partition was started.
    pub exits: BTreeMap<String, u64>,
    /// Nanoseconds that the partition's process spent with the exits of each reason: from the return of `KVM_RUN` until
    /// the processor was about to enter the guest again, or to wait for an interrupt. What the kernel spends comes on top.
    #[serde(default)]
    pub exit_time: BTreeMap<String, u64>,
    /// Processor time of its thread, nanoseconds; absent when the host does not say.
    pub cpu_time: Option<u64>,
}

/// Figures of one partition, for `lpar stat`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PartitionStat {
    /// The partition's name.
    pub name: Name,
    /// Its virtual processors; empty when it never ran.
    pub processors: Vec<ProcessorStat>,
    /// Bytes that the guest wrote to its console.
    pub console_bytes: u64,
    /// Memory of the partition that is resident on the host, bytes; absent when the host does not say.
    pub resident: Option<u64>,
}

/// The frame as its manager sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FrameStatus {
    /// The frame's name.
    pub name: Name,
    /// Epoch of the manager.
    pub epoch: u64,
    /// Process number of the manager.
    pub pid: u32,
    /// What this host lacks, one line each.
    pub lacks: Vec<String>,
    /// Events that wait for the service processor.
    pub outbox: u64,
    /// Whether the frame is being brought down.
    pub going_down: bool,
}

/// What is owned now in a running frame.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FrameAssignment {
    /// The frame's name.
    pub frame: Name,
    /// Who owns what.
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub assignment: Assignment,
}

/// Body of a request that declares the running frame anew.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ApplyRequest {
    /// The frame, every path absolute.
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub frame: Frame,
    /// Only say what would change.
    #[serde(default)]
    pub dry_run: bool,
}

/// Body of a request that sets values of one partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SetRequest {
    /// Values by key, as in the frame file: those of [`crate::set::KEYS`].
    pub values: BTreeMap<String, String>,
}

/// What a change of the declaration did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ChangeAnswer {
    /// What is different.
    pub changes: Vec<Change>,
    /// What does not come as it is declared, a sentence each.
    pub notes: Vec<String>,
}

/// What is declared of a running frame.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Declaration {
    /// The frame in force.
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub frame: Frame,
    /// What waits for the next activation of the partitions that run.
    pub pending: Vec<Change>,
}

/// The service processor's own status.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SurveillanceStatus {
    /// Process number of the service processor.
    pub pid: u32,
    /// Process number of the manager; absent while there is none.
    pub manager: Option<u32>,
    /// Whether the manager said that it is ready.
    pub manager_ready: bool,
    /// How often the manager was replaced since the frame came up.
    pub replaced: u64,
    /// Events in the log.
    pub events: u64,
    /// Whether the frame is being brought down.
    pub going_down: bool,
}

/// Body of a request that says that a device was serviced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ServiceRequest {
    /// Its name.
    pub device: Name,
}

/// Body of a shutdown request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct ShutdownRequest {
    /// Go straight to the last rung.
    pub immediate: bool,
    /// Start it again afterwards.
    pub restart: bool,
}

/// Body of a request to bring the frame down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct DownRequest {
    /// Kill the partitions instead of asking them.
    pub immediate: bool,
}

/// Answer of a wait.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WaitAnswer {
    /// Whether the state was reached in time.
    pub reached: bool,
    /// The partition now.
    pub partition: PartitionRow,
}

/// A delivery of events to the service processor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Delivery {
    /// Events of one source, in order; at most [`LARGEST_DELIVERY`](crate::event::LARGEST_DELIVERY).
    pub events: Vec<Event>,
}

/// What the service processor took over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Acknowledgement {
    /// How many events of the delivery are in the log now, new or known, counted from its beginning.
    pub taken: usize,
}

/// What went wrong, to people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ErrorBody {
    /// What happened, to what, why, what to do.
    pub error: String,
}

/// What this host is and can do, as `partition-manager probe --json` says it.
///
/// Not part of the HTTP API: a host can be asked before anything runs on it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostReport {
    /// What a plan needs to know.
    pub inventory: Inventory,
    /// The hypervisor.
    pub kvm: KvmReport,
    /// Confinement.
    pub cgroup: CgroupReport,
    /// Release of the kernel, as `uname -r` says it.
    pub kernel: String,
    /// What this host lacks and what to do about it, one plain line each. Partitions run nevertheless when
    /// [`KvmReport::error`] is absent.
    pub lacks: Vec<String>,
}

/// What the host's `/dev/kvm` is good for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvmReport {
    /// Whether `/dev/kvm` exists.
    pub present: bool,
    /// Whether this user may open it.
    pub openable: bool,
    /// Why partitions cannot run here: what failed and what to do; absent when they can.
    pub error: Option<String>,
    /// `KVM_GET_API_VERSION`; 12 on every current kernel.
    pub api_version: Option<i32>,
    /// The capabilities that matter, and the value that `KVM_CHECK_EXTENSION` gives.
    pub capabilities: BTreeMap<String, i32>,
    /// Whether the processor's virtualization extensions back it; absent when the host does not say.
    pub hardware: Option<bool>,
}

/// How partitions can be confined on this host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupReport {
    /// `v2`, `v1`, `mixed`, or `none`.
    pub version: String,
    /// The controllers that can be used for partitions: of `cpu`, `cpuset`, `memory`, `pids`.
    pub controllers: Vec<String>,
    /// Directories below which the partitions' groups are made.
    pub directories: Vec<String>,
}

/// How long bringing `frame` down may take in order: its longest shutdown ladder, and what the manager needs
/// besides.
#[must_use]
pub fn down_patience(frame: &Frame, immediate: bool) -> Duration {
    if immediate {
        return Duration::from_secs(10);
    }
    let ladders = frame.partitions.iter().map(|partition| {
        let shutdown = partition.shutdown;
        [shutdown.ask_ms, shutdown.button_ms, shutdown.nmi_ms].into_iter().map(u64::from).sum::<u64>()
    });
    Duration::from_millis(ladders.max().unwrap_or_default()) + Duration::from_secs(20)
}

/// Exit status of a service processor that was asked to bring the frame down and could not: whoever supervises
/// it ends what is left.
pub const NOT_DOWN: u8 = 3;

/// Exit status of a manager that was told to end by itself (`SIGTERM`) and left the partitions running: the frame
/// is not down, and whoever keeps the manager alive starts the next one.
pub const LEFT: u8 = 4;

/// Path of the list of partitions.
pub const PARTITIONS: &str = "/v1/partitions";
/// Path of the interrupt sources; with `?partition=NAME` of one partition.
pub const INTERRUPTS: &str = "/v1/interrupts";
/// Path of the interrupts of the host that the frame steers.
pub const HOST_INTERRUPTS: &str = "/v1/interrupts/host";
/// Path of the devices; with `?partition=NAME` of one partition.
pub const DEVICES: &str = "/v1/devices";
/// Path of the frame's status.
pub const FRAME: &str = "/v1/frame";
/// Path of what is owned now.
pub const ASSIGNMENT: &str = "/v1/assignment";
/// Path of what is declared.
pub const DECLARATION: &str = "/v1/declaration";
/// Path that declares the frame anew.
pub const APPLY: &str = "/v1/apply";
/// Path that brings the frame down.
pub const DOWN: &str = "/v1/down";
/// Path of the event log, to read (GET) and to deliver to (POST).
pub const EVENTS: &str = "/v1/events";
/// Path of the service processor's status.
pub const STATUS: &str = "/v1/status";
/// Path of the API's description.
pub const OPENAPI: &str = "/openapi.json";
