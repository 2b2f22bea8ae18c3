//! The devices of one partition, as its process is told: slots, kinds and what each kind needs.

use crate::name::Name;
use crate::platform::PCI_SLOTS;
use serde::{Deserialize, Serialize};

/// Most devices of one partition: a slot each, without that of the host bridge.
pub const MOST_DEVICES: usize = PCI_SLOTS as usize - 1;
/// Most queue pairs of one network adapter.
pub const MOST_QUEUE_PAIRS: u8 = 16;
/// Most bytes of a disk's serial number (virtio 1.2, section 5.2.6: `VIRTIO_BLK_T_GET_ID`).
pub const LONGEST_SERIAL: usize = 20;
/// Largest VLAN identifier; 0 and 4095 are reserved (IEEE 802.1Q, table 9-2).
pub const LARGEST_VLAN: u16 = 4094;

/// One device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceSpec {
    /// Its name, unique in the partition.
    pub name: Name,
    /// Its slot on PCI bus 0, 1..=31, unique in the partition.
    pub slot: u8,
    /// What it is.
    pub kind: DeviceKind,
}

/// What a device is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum DeviceKind {
    /// A source of random numbers. No descriptor.
    Entropy,
    /// A disk. One descriptor: the image or block device.
    Disk(DiskSpec),
    /// A network adapter. One descriptor for each queue pair: a tap that is attached to the switch already.
    Network(NetworkSpec),
}

/// A disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskSpec {
    /// Whether the guest may only read.
    pub read_only: bool,
    /// Serial number that the guest reads, at most [`LONGEST_SERIAL`] bytes of ASCII.
    pub serial: String,
    /// Most requests in a second; no limit when absent.
    pub operations: Option<u64>,
    /// Most bytes in a second; no limit when absent.
    pub bandwidth: Option<u64>,
}

/// A network adapter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkSpec {
    /// Its address: the only one that it may send from.
    pub mac: [u8; 6],
    /// The VLAN of frames without a tag (PowerVM: port VLAN identifier); none: the switch has no VLANs.
    pub vlan: Option<u16>,
    /// VLANs of which the guest may send and receive tagged frames.
    pub tagged: Vec<u16>,
    /// Whether the tap carries tagged frames: then untagged ones of the guest are tagged with `vlan` on the way
    /// out. Where it does not, the switch's port does that.
    pub trunk: bool,
    /// Largest payload of a frame, bytes.
    pub mtu: u16,
    /// Queue pairs, 1..=[`MOST_QUEUE_PAIRS`].
    pub queues: u8,
}

impl DeviceKind {
    /// How many descriptors go with the device.
    #[must_use]
    pub const fn descriptors(&self) -> usize {
        match self {
            Self::Entropy => 0,
            Self::Disk(_) => 1,
            Self::Network(network) => network.queues as usize,
        }
    }
}

/// Why a device cannot be had by anybody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// Too many.
    #[error("a partition has at most {MOST_DEVICES} devices, not {0}")]
    TooMany(usize),
    /// A slot that is not there, or taken twice.
    #[error("device {name}: PCI slot {slot} does not exist, is the host bridge's, or is taken")]
    Slot {
        /// The device.
        name: Name,
        /// The slot.
        slot: u8,
    },
    /// Two of one name.
    #[error("two devices are named {0}")]
    Name(Name),
    /// What it is contradicts itself.
    #[error("device {name}: {why}")]
    Kind {
        /// The device.
        name: Name,
        /// What is wrong.
        why: &'static str,
    },
}

/// Checks the devices of one partition.
///
/// # Errors
/// The first rule that is broken.
pub fn validate(devices: &[DeviceSpec]) -> Result<(), DeviceError> {
    if devices.len() > MOST_DEVICES {
        return Err(DeviceError::TooMany(devices.len()));
    }
    for (at, device) in devices.iter().enumerate() {
        let before = || devices.iter().take(at);
        let (name, slot) = (device.name.clone(), device.slot);
        if slot == 0 || slot >= PCI_SLOTS || before().any(|other| other.slot == slot) {
            return Err(DeviceError::Slot { name, slot });
        }
        if before().any(|other| other.name == name) {
            return Err(DeviceError::Name(name));
        }
        if let Err(why) = device.kind.validate() {
            return Err(DeviceError::Kind { name, why });
        }
    }
    Ok(())
}

impl DeviceKind {
    fn validate(&self) -> Result<(), &'static str> {
        match self {
            Self::Entropy => Ok(()),
            Self::Disk(disk) => {
                if disk.serial.len() > LONGEST_SERIAL || !disk.serial.bytes().all(|byte| byte.is_ascii_graphic()) {
                    return Err("its serial number is longer than 20 bytes or not of printable ASCII");
                }
                if disk.operations == Some(0) || disk.bandwidth == Some(0) {
                    return Err("a limit of nothing in a second lets nothing through");
                }
                Ok(())
            }
            Self::Network(network) => {
                let known = |vlan: &u16| (1..=LARGEST_VLAN).contains(vlan);
                if !network.vlan.iter().chain(&network.tagged).all(known) {
                    return Err("a VLAN identifier is 1 to 4094");
                }
                if network.mac[0] & 1 == 1 || network.mac == [0; 6] {
                    return Err("its address is not that of one station");
                }
                if network.queues == 0 || network.queues > MOST_QUEUE_PAIRS {
                    return Err("it has 1 to 16 queue pairs");
                }
                if network.mtu < 68 {
                    return Err("the largest payload is at least 68 bytes (RFC 791)");
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: &str, slot: u8, kind: DeviceKind) -> DeviceSpec {
        DeviceSpec { name: Name::new(name).unwrap(), slot, kind }
    }

    fn network() -> NetworkSpec {
        NetworkSpec { mac: [2, 0, 0, 0, 0, 1], vlan: Some(10), tagged: vec![20], trunk: true, mtu: 1500, queues: 2 }
    }

    #[test]
    fn refuses_what_nobody_can_do() {
        let network = |change: fn(&mut NetworkSpec)| {
            let mut network = network();
            change(&mut network);
            validate(&[device("a", 1, DeviceKind::Network(network))])
        };
        assert_eq!(network(|_| ()), Ok(()));
        for change in [
            (|network| network.vlan = Some(0)) as fn(&mut NetworkSpec),
            |network| network.vlan = Some(4095),
            |network| network.tagged.push(0),
            |network| network.mac[0] = 1,
            |network| network.mac = [0; 6],
            |network| network.queues = 0,
            |network| network.queues = 17,
            |network| network.mtu = 67,
        ] {
            assert!(matches!(network(change), Err(DeviceError::Kind { .. })));
        }
        let entropy = |name: &str, slot| device(name, slot, DeviceKind::Entropy);
        assert!(matches!(validate(&[entropy("a", 0)]), Err(DeviceError::Slot { slot: 0, .. })));
        assert!(matches!(validate(&[entropy("a", 32)]), Err(DeviceError::Slot { slot: 32, .. })));
        assert!(matches!(validate(&[entropy("a", 3), entropy("b", 3)]), Err(DeviceError::Slot { slot: 3, .. })));
        assert!(matches!(validate(&[entropy("a", 3), entropy("a", 4)]), Err(DeviceError::Name(_))));
        let many: Vec<DeviceSpec> = (0..40).map(|at| entropy(&format!("d{at}"), at)).collect();
        assert_eq!(validate(&many), Err(DeviceError::TooMany(40)));
        let serial = |serial: &str| DiskSpec { serial: serial.into(), ..DiskSpec::default() };
        assert_eq!(validate(&[device("a", 1, DeviceKind::Disk(serial("blkh-1")))]), Ok(()));
        assert!(validate(&[device("a", 1, DeviceKind::Disk(serial("a b")))]).is_err());
        assert!(validate(&[device("a", 1, DeviceKind::Disk(serial(&"x".repeat(21))))]).is_err());
    }
}
