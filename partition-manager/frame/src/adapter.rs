//! What became of a network adapter's frames.

use serde::{Deserialize, Serialize};

/// Frames that went through an adapter since its partition was started, and those that did not, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct FrameCounts {
    /// Sent by the guest.
    pub sent: u64,
    /// Given to the guest.
    pub received: u64,
    /// Shorter than its header.
    pub short: u64,
    /// Sent from another address than the adapter's.
    pub source: u64,
    /// For bridges alone (IEEE 802.1Q, table 8-1).
    pub reserved: u64,
    /// Of a VLAN that is not the adapter's.
    pub vlan: u64,
    /// With a tag within a tag.
    pub tags: u64,
    /// For another station.
    pub destination: u64,
    /// Too large for the guest's buffers, or refused by the host.
    pub refused: u64,
}

impl FrameCounts {
    /// Those that did not go through: reason and count.
    #[must_use]
    pub const fn dropped(&self) -> [(&'static str, u64); 7] {
        [
            ("short", self.short),
            ("source", self.source),
            ("reserved", self.reserved),
            ("vlan", self.vlan),
            ("tags", self.tags),
            ("destination", self.destination),
            ("refused", self.refused),
        ]
    }
}
