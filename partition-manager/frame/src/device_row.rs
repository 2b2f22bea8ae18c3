//! What the devices of running partitions do: a row of `lpar devices` each.

use crate::adapter::FrameCounts;
use crate::device::DeviceKind;
use crate::launch::LaunchSpec;
use crate::name::Name;
use crate::wire::{DeviceState, DeviceStatus};
use serde::{Deserialize, Serialize};

/// Longest reason that is told, bytes.
const LONGEST_REASON: usize = 512;

/// One device, flat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeviceRow {
    /// The partition that has it.
    pub partition: Name,
    /// The device.
    pub device: Name,
    /// What it is: `disk`, `network`, `vsock`, `console` or `entropy`.
    pub kind: String,
    /// Its PCI slot.
    pub slot: u8,
    /// Whether it works.
    pub state: DeviceState,
    /// How often it froze.
    pub freezes: u64,
    /// What froze it last.
    pub reason: Option<String>,
    /// Of a network adapter: what became of its frames.
    pub frames: Option<FrameCounts>,
    /// Of a disk: whether io_uring has several of its requests under way at once.
    pub io_uring: Option<bool>,
}

/// The devices of a partition that was launched with `spec`, as its process says of them. What it says is not believed
/// beyond what it was launched with.
#[must_use]
pub fn rows(spec: &LaunchSpec, statuses: &[DeviceStatus]) -> Vec<DeviceRow> {
    let row = |(device, status): (&crate::device::DeviceSpec, &DeviceStatus)| {
        let kind = match device.kind {
            DeviceKind::Entropy => "entropy",
            DeviceKind::Disk(_) => "disk",
            DeviceKind::Network(_) => "network",
            DeviceKind::Vsock(_) => "vsock",
            DeviceKind::Console(_) => "console",
        };
        DeviceRow {
            partition: spec.name.clone(),
            device: device.name.clone(),
            kind: kind.to_owned(),
            slot: device.slot,
            state: status.state,
            freezes: status.freezes,
            reason: status.reason.as_ref().map(|reason| {
                let end = (0..=LONGEST_REASON.min(reason.len())).rev().find(|end| reason.is_char_boundary(*end));
                reason.get(..end.unwrap_or(0)).unwrap_or_default().to_owned()
            }),
            frames: status.frames.filter(|_| matches!(device.kind, DeviceKind::Network(_))),
            io_uring: status.io_uring.filter(|_| matches!(device.kind, DeviceKind::Disk(_))),
        }
    };
    spec.devices.iter().zip(statuses).map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::DeviceSpec;
    use crate::launch;

    #[test]
    fn a_process_is_believed_what_it_was_launched_with_and_no_more() {
        let name = |text| Name::new(text).unwrap();
        let mut spec = launch::tests::spec();
        spec.devices = vec![DeviceSpec { name: name("own"), slot: 8, kind: DeviceKind::Entropy }];
        let status = DeviceStatus {
            state: DeviceState::Frozen,
            freezes: 3,
            reason: Some("ä".repeat(LONGEST_REASON)),
            vectors: vec![],
            frames: Some(FrameCounts { sent: 7, ..FrameCounts::default() }),
            io_uring: Some(true),
        };
        let found = rows(&spec, &[status.clone(), status]);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].kind.as_str(), found[0].slot, found[0].freezes), ("entropy", 8, 3));
        assert_eq!(found[0].reason.as_ref().map(String::len), Some(LONGEST_REASON));
        assert_eq!((found[0].frames, found[0].io_uring), (None, None));
    }
}
