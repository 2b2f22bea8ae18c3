//! The devices of one partition, as its process is told: slots, kinds and what each kind needs.

use crate::declare::{Boot, Partition};
use crate::mac::Mac;
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

/// Most VLANs of one adapter besides its port VLAN (PowerVM: 20 with IEEE 802.1Q, here as many as its taps allow).
pub const MOST_TAGGED: usize = 15;
/// Most taps of one adapter, over its queue pairs and VLANs.
pub const MOST_TAPS: usize = 64;
/// Most descriptors of all devices of a partition: one packet brings them with those of its memory.
pub const MOST_DEVICE_DESCRIPTORS: usize = 160;
/// Longest name of a switch, bytes: an interface's has 15 (Linux, IFNAMSIZ less its final zero), five of which are
/// kept for the VLAN where each has a bridge of its own.
pub const LONGEST_SWITCH_NAME: usize = 10;
/// Largest payload of a frame, bytes, where nothing else is said (IEEE 802.3, section 3.2.7).
pub const MTU: u16 = 1500;

/// Name of the source of random numbers.
pub const ENTROPY: &str = "entropy";
/// Slot of the source of random numbers.
pub const ENTROPY_SLOT: u8 = 1;
/// Slot of the watchdog.
pub const WATCHDOG_SLOT: u8 = 2;
/// Name of the socket device.
pub const VSOCK: &str = "vsock";
/// Slot of the socket device.
pub const VSOCK_SLOT: u8 = 3;
/// Name of the console device.
pub const CONSOLE: &str = "console";
/// Slot of the console device.
pub const CONSOLE_SLOT: u8 = 4;
/// Name of the console device's first port, the second terminal: Linux's for it.
pub const TERMINAL: &str = "hvc0";
/// Most ports of a console device besides its terminal.
pub const MOST_PORTS: usize = 7;
/// Least and largest context identifier of a guest (virtio 1.2, section 5.10.4: 0 to 2 and the largest are reserved).
pub const CIDS: std::ops::RangeInclusive<u32> = 3..=u32::MAX - 1;
/// First slot of what has none of its own; those below are for devices of which there is one.
pub const FIRST_FREE_SLOT: u8 = 8;

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
    /// A network adapter. Taps that are attached to the switch already: as [`Attachment`] says, for each queue pair.
    Network(NetworkSpec),
    /// Streams between programs of the host and of the guest, which has this context identifier, in [`CIDS`]. One
    /// descriptor: a Unix socket that listens for the host's programs.
    Vsock(u32),
    /// A terminal and ports, of these names: [`TERMINAL`] is the first. One descriptor for each: a Unix socket that
    /// listens for the host's programs.
    Console(Vec<Name>),
}

/// Most threads that a device has: its own, and those of the host's kernel that wait in its place (io_uring(7)).
pub const MOST_THREADS: u64 = 4;

/// How a disk asks the host for what is in its image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskEngine {
    /// Several requests at once by io_uring(7), where the host lets partitions have it; else as [`DiskEngine::Sync`].
    #[default]
    Auto,
    /// One request after the other, by plain system calls.
    Sync,
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
    /// How the image is asked.
    pub engine: DiskEngine,
}

/// A network adapter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkSpec {
    /// Its address: the only one that it may send from.
    pub mac: Mac,
    /// The VLAN of frames without a tag (PowerVM: port VLAN identifier).
    pub vlan: u16,
    /// VLANs of which the guest may send and receive tagged frames.
    pub tagged: Vec<u16>,
    /// How its VLANs reach the switch.
    pub attachment: Attachment,
    /// Largest payload of a frame, bytes.
    pub mtu: u16,
    /// Queue pairs, 1..=[`MOST_QUEUE_PAIRS`].
    pub queues: u8,
    /// Most frames in a second, each way; no limit when absent.
    pub operations: Option<u64>,
    /// Most bytes in a second, each way; no limit when absent.
    pub bandwidth: Option<u64>,
}

/// How the VLANs of an adapter reach the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attachment {
    /// One tap that carries the frames of all of them, every one tagged.
    Trunk,
    /// A tap for each, which carries frames without tags: first the port VLAN's, then the others' in order.
    PerVlan,
}

impl NetworkSpec {
    /// Taps of one queue pair.
    #[must_use]
    pub const fn taps(&self) -> usize {
        match self.attachment {
            Attachment::Trunk => 1,
            Attachment::PerVlan => 1 + self.tagged.len(),
        }
    }
}

impl DeviceKind {
    /// How many descriptors go with the device.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        match self {
            Self::Entropy => 0,
            Self::Disk(_) | Self::Vsock(_) => 1,
            Self::Console(ports) => ports.len(),
            Self::Network(network) => network.queues as usize * network.taps(),
        }
    }
}

/// Gives a slot to each device that asks for none: the one that it had before, as `known` says, else the lowest
/// that is free. So a device that comes or goes moves no other. None where no slot is left.
#[must_use]
pub fn assign(asked: &[(Name, Option<u8>)], known: &[(Name, u8)]) -> Option<Vec<u8>> {
    let free = FIRST_FREE_SLOT..PCI_SLOTS;
    let mut given: Vec<Option<u8>> = asked.iter().map(|(_, slot)| *slot).collect();
    for ((name, _), place) in asked.iter().zip(0..) {
        let before = known.iter().find(|(other, _)| other == name).map(|(_, slot)| *slot);
        let before = before.filter(|slot| free.contains(slot) && !given.contains(&Some(*slot)));
        if let (Some(slot @ None), Some(before)) = (given.get_mut(place), before) {
            *slot = Some(before);
        }
    }
    for place in 0..given.len() {
        if given.get(place) == Some(&None) {
            let next = free.clone().find(|slot| !given.contains(&Some(*slot)))?;
            if let Some(slot) = given.get_mut(place) {
                *slot = Some(next);
            }
        }
    }
    given.into_iter().collect()
}

/// The devices of a partition of `frame` as it is declared; `known` are the slots that its devices had before.
///
/// # Errors
/// [`DeviceError::TooMany`] when there are not slots for all.
pub fn of(
    frame: &Name,
    partition: &Partition,
    known: &[(Name, u8)],
    attachment: Attachment,
) -> Result<Vec<DeviceSpec>, DeviceError> {
    let mut devices = vec![];
    let is_kernel = matches!(partition.boot, Boot::Kernel { .. });
    if partition.entropy.unwrap_or(is_kernel)
        && let Ok(name) = Name::new(ENTROPY)
    {
        devices.push(DeviceSpec { name, slot: ENTROPY_SLOT, kind: DeviceKind::Entropy });
    }
    let disks = partition.disks.iter().map(|disk| (disk.name.clone(), disk.slot));
    let networks = partition.networks.iter().map(|network| (network.name.clone(), network.slot));
    let asked: Vec<(Name, Option<u8>)> = disks.chain(networks).collect();
    let mut slots = assign(&asked, known).ok_or(DeviceError::TooMany(asked.len()))?.into_iter();
    for (disk, slot) in partition.disks.iter().zip(&mut slots) {
        let spec = DiskSpec {
            read_only: disk.read_only,
            serial: disk.serial.clone(),
            operations: disk.operations,
            bandwidth: disk.bandwidth,
            engine: disk.engine,
        };
        devices.push(DeviceSpec { name: disk.name.clone(), slot, kind: DeviceKind::Disk(spec) });
    }
    for (network, slot) in partition.networks.iter().zip(slots) {
        let spec = NetworkSpec {
            mac: network.address(frame, &partition.name),
            vlan: network.vlan,
            tagged: network.tagged.clone(),
            attachment,
            mtu: MTU,
            queues: network.queues,
            operations: network.operations,
            bandwidth: network.bandwidth,
        };
        devices.push(DeviceSpec { name: network.name.clone(), slot, kind: DeviceKind::Network(spec) });
    }
    if let (Some(cid), Ok(name)) = (partition.cid(), Name::new(VSOCK)) {
        devices.push(DeviceSpec { name, slot: VSOCK_SLOT, kind: DeviceKind::Vsock(cid) });
    }
    if let (Some(console), Ok(name)) = (&partition.console, Name::new(CONSOLE)) {
        devices.push(DeviceSpec { name, slot: CONSOLE_SLOT, kind: DeviceKind::Console(console.names()) });
    }
    Ok(devices)
}

/// Why a device cannot be had by anybody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// Too many.
    #[error("a partition has at most {MOST_DEVICES} devices, not {0}")]
    TooMany(usize),
    /// They need too many descriptors.
    #[error(
        "the disks and taps of a partition need {0} descriptors, at most {MOST_DEVICE_DESCRIPTORS} are supported: lower the queues or the VLANs of its adapters"
    )]
    Descriptors(usize),
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
    let descriptors = devices.iter().map(|device| device.kind.descriptors()).sum();
    if descriptors > MOST_DEVICE_DESCRIPTORS {
        return Err(DeviceError::Descriptors(descriptors));
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
            Self::Vsock(cid) if CIDS.contains(cid) => Ok(()),
            Self::Vsock(_) => Err("its context identifier is reserved"),
            Self::Console(ports) => {
                if ports.first().map(Name::as_str) != Some(TERMINAL) {
                    return Err("its first port is the terminal, hvc0");
                }
                if ports.len() > 1 + MOST_PORTS {
                    return Err("it has at most 7 ports besides its terminal");
                }
                if ports.iter().enumerate().any(|(at, name)| ports.iter().take(at).any(|before| before == name)) {
                    return Err("two of its ports have one name");
                }
                Ok(())
            }
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
                if !known(&network.vlan) || !network.tagged.iter().all(known) {
                    return Err("a VLAN identifier is 1 to 4094");
                }
                let mut vlans: Vec<u16> = network.tagged.iter().copied().chain([network.vlan]).collect();
                vlans.sort_unstable();
                if vlans.windows(2).any(|pair| pair.first() == pair.last()) {
                    return Err("one of its VLANs is named twice");
                }
                if network.tagged.len() > MOST_TAGGED {
                    return Err("it has at most 15 VLANs besides its port VLAN");
                }
                if network.mac.station().is_err() {
                    return Err("its address is not that of one station");
                }
                if network.operations == Some(0) || network.bandwidth == Some(0) {
                    return Err("a limit of nothing in a second lets nothing through");
                }
                if network.queues == 0 || network.queues > MOST_QUEUE_PAIRS {
                    return Err("it has 1 to 16 queue pairs");
                }
                if usize::from(network.queues) * network.taps() > MOST_TAPS {
                    return Err("its queue pairs and VLANs need more than 64 taps");
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

    proptest::proptest! {
        #[test]
        fn a_device_keeps_its_slot_whoever_comes_and_goes(
            asked in proptest::collection::btree_map("[a-m]{1,2}", proptest::option::weighted(0.2, FIRST_FREE_SLOT..PCI_SLOTS), 0..20),
            gone in proptest::collection::vec(proptest::prelude::any::<bool>(), 20),
        ) {
            let mut seen = vec![];
            let asked: Vec<(Name, Option<u8>)> = asked
                .into_iter()
                .map(|(name, slot)| (Name::new(name).unwrap(), slot.filter(|slot| !seen.contains(slot)).inspect(|slot| seen.push(*slot))))
                .collect();
            let slots = assign(&asked, &[]).unwrap();
            let unique: std::collections::BTreeSet<u8> = slots.iter().copied().collect();
            proptest::prop_assert_eq!(unique.len(), slots.len());
            proptest::prop_assert!(slots.iter().all(|slot| (FIRST_FREE_SLOT..PCI_SLOTS).contains(slot)));
            let known: Vec<(Name, u8)> = asked.iter().zip(&slots).map(|((name, _), slot)| (name.clone(), *slot)).collect();
            let left: Vec<(Name, Option<u8>)> =
                asked.iter().zip(&gone).filter(|(_, gone)| !**gone).map(|(one, _)| one.clone()).collect();
            let fewer = assign(&left, &known).unwrap();
            for ((name, _), slot) in left.iter().zip(fewer) {
                proptest::prop_assert!(known.contains(&(name.clone(), slot)), "{name} moved to {slot}");
            }
        }
    }

    fn device(name: &str, slot: u8, kind: DeviceKind) -> DeviceSpec {
        DeviceSpec { name: Name::new(name).unwrap(), slot, kind }
    }

    fn network() -> NetworkSpec {
        NetworkSpec {
            mac: Mac([2, 0, 0, 0, 0, 1]),
            vlan: 10,
            tagged: vec![20],
            attachment: Attachment::PerVlan,
            mtu: 1500,
            queues: 2,
            operations: None,
            bandwidth: None,
        }
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
            (|network| network.vlan = 0) as fn(&mut NetworkSpec),
            |network| network.vlan = 4095,
            |network| network.vlan = 20,
            |network| network.tagged.push(0),
            |network| network.tagged.push(20),
            |network| network.tagged = (100..116).collect(),
            |network| (network.tagged, network.queues) = ((100..112).collect(), 5),
            |network| network.mac.0[0] = 1,
            |network| network.mac = Mac([0; 6]),
            |network| network.operations = Some(0),
            |network| network.bandwidth = Some(0),
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
        let all = NetworkSpec { queues: 16, tagged: vec![1, 2, 3], ..tests::network() };
        let adapter = |name: &str, slot| device(name, slot, DeviceKind::Network(all.clone()));
        assert_eq!(validate(&[adapter("a", 1), adapter("b", 2)]), Ok(()));
        let three = [adapter("a", 1), adapter("b", 2), adapter("c", 3)];
        assert_eq!(validate(&three), Err(DeviceError::Descriptors(192)));
        assert_eq!(validate(&[device("v", 3, DeviceKind::Vsock(3))]), Ok(()));
        for cid in [0, 2, u32::MAX] {
            assert!(validate(&[device("v", 3, DeviceKind::Vsock(cid))]).is_err());
        }
        let serial = |serial: &str| DiskSpec { serial: serial.into(), ..DiskSpec::default() };
        assert_eq!(validate(&[device("a", 1, DeviceKind::Disk(serial("blkh-1")))]), Ok(()));
        assert!(validate(&[device("a", 1, DeviceKind::Disk(serial("a b")))]).is_err());
        assert!(validate(&[device("a", 1, DeviceKind::Disk(serial(&"x".repeat(21))))]).is_err());
    }
}
