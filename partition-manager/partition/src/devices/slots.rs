//! The devices that a launch specification puts into slots.

use super::pci::config::NoRoom;
use super::pci::msix::Msix;
use super::pci::root::Function;
use super::pci::storms::{Guarded, Keeper};
use super::virtio::Model;
use super::virtio::console::Console;
use super::virtio::console::ports::Ports;
use super::virtio::disk::Disk;
use super::virtio::disk::image::Image;
use super::virtio::disk::requests::Requests;
use super::virtio::entropy::{Entropy, Source};
use super::virtio::freezer::{Freezer, Witness};
use super::virtio::function::{BAR_BYTES, Parts, VirtioFunction};
use super::virtio::interrupter::Interrupter;
use super::virtio::network::Network;
use super::virtio::network::adapter::Adapter;
use super::virtio::network::tap::Tap;
use super::virtio::vsock::Vsock;
use super::virtio::vsock::streams::Streams;
use super::virtio::worker::{Service, Worker};
use crate::interrupts::doorbells::KvmDoorbells;
use crate::interrupts::pins::SharedPin;
use crate::vm::{Vm, VmError};
use frame::device::{DeviceKind, DeviceSpec};
use frame::platform::{PCI_APERTURE, PCI_GSI, PCI_PINS};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

/// Why a device cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    /// What is behind it is not what it must be.
    #[error("device {name}: {why}")]
    Backend {
        /// The device.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// KVM or the operating system refused something.
    #[error("device {name} cannot be made")]
    System {
        /// The device.
        name: String,
        /// What failed.
        #[source]
        source: io::Error,
    },
    /// KVM refused an interrupt.
    #[error("device {name} cannot have its interrupts")]
    Interrupts {
        /// The device.
        name: String,
        /// What failed.
        #[source]
        source: VmError,
    },
    /// It has too many queues.
    #[error("device {name} cannot be described")]
    Layout {
        /// The device.
        name: String,
        /// What is too much.
        #[source]
        source: NoRoom,
    },
}

/// The device of a kind, with the descriptors that came for it: what is known of it, and what it does.
fn device(spec: &DeviceSpec, descriptors: Vec<OwnedFd>) -> Result<Device, SlotError> {
    let refused = |why: String| SlotError::Backend { name: spec.name.to_string(), why };
    match &spec.kind {
        DeviceKind::Entropy => Ok((Arc::new(Entropy), Box::new(Source))),
        DeviceKind::Disk(disk) => {
            let image = descriptors.into_iter().next().ok_or_else(|| refused("no image came with it".into()))?;
            let image = Image::new(image.into(), disk.read_only).map_err(|error| refused(error.to_string()))?;
            let system = |source| SlotError::System { name: spec.name.to_string(), source };
            let service = Requests::new(image.clone(), disk).map_err(system)?;
            Ok((Arc::new(Disk::new(&image, service.io_uring())), Box::new(service)))
        }
        DeviceKind::Vsock(cid) => {
            let listener = descriptors.into_iter().next().ok_or_else(|| refused("no socket came with it".into()))?;
            let streams = Streams::new(*cid, listener);
            let streams = streams.map_err(|error| refused(format!("what came with it does not listen: {error}")))?;
            Ok((Arc::new(Vsock::new(*cid)), Box::new(streams)))
        }
        DeviceKind::Console(names) => {
            let ports = Ports::new(names, descriptors);
            let ports = ports.map_err(|error| refused(format!("what came with it does not listen: {error}")))?;
            Ok((Arc::new(Console::new(names.len())), Box::new(ports)))
        }
        DeviceKind::Network(network) => {
            let taps = descriptors.into_iter().map(Tap::new).collect::<Result<Vec<_>, _>>();
            let taps = taps.map_err(|error| refused(format!("what came with it is no tap: {error}")))?;
            let model = Network::new(network);
            let service = Adapter::new(network, taps, model.counters());
            let service = service.map_err(|source| SlotError::System { name: spec.name.to_string(), source })?;
            Ok((Arc::new(model), Box::new(service)))
        }
    }
}

type Device = (Arc<dyn Model>, Box<dyn Service>);

/// Makes the functions of `specs`, each with the descriptors that came for it. Their threads stand where the
/// calling thread stands.
///
/// # Errors
/// [`SlotError`] names the first that cannot be made.
pub fn functions(
    vm: &Vm,
    specs: &[DeviceSpec],
    descriptors: Vec<Vec<OwnedFd>>,
    memory: &GuestMemoryMmap,
    witness: &Arc<dyn Witness>,
    keeper: &Arc<Keeper>,
) -> Result<Vec<(u8, Arc<VirtioFunction>)>, SlotError> {
    if specs.is_empty() {
        return Ok(vec![]);
    }
    let pins: Vec<Arc<SharedPin>> =
        (PCI_GSI..PCI_GSI + PCI_PINS).map(|gsi| SharedPin::new(vm.interrupts.line(gsi))).collect();
    specs
        .iter()
        .zip(descriptors)
        .map(|(spec, given)| function(vm, spec, given, &pins, memory, (witness, keeper)))
        .collect()
}

fn function(
    vm: &Vm,
    spec: &DeviceSpec,
    descriptors: Vec<OwnedFd>,
    pins: &[Arc<SharedPin>],
    memory: &GuestMemoryMmap,
    (witness, keeper): (&Arc<dyn Witness>, &Arc<Keeper>),
) -> Result<(u8, Arc<VirtioFunction>), SlotError> {
    let name = || spec.name.to_string();
    let system = |source| SlotError::System { name: name(), source };
    let interrupts = |source| SlotError::Interrupts { name: name(), source };
    let (model, service) = device(spec, descriptors)?;
    let queues = model.queues().len();
    let vectors = (0..=queues).map(|_| vm.interrupts.vector()).collect::<Result<_, _>>().map_err(interrupts)?;
    let pin = u32::from(spec.slot) % PCI_PINS;
    let line = pins.get(pin as usize).map(|pin| pin.share(spec.slot));
    let line = line.ok_or_else(|| interrupts(VmError::Table("the pin of a slot")))?;
    let guard = |vector| Some(Guarded::new(keeper, spec.name.as_str(), vector));
    let interrupter = Arc::new(Interrupter::new(queues, Msix::guarded(vectors, guard), line));
    let freezer = Arc::new(Freezer::new(spec.name.as_str(), Arc::clone(&interrupter), Arc::clone(witness)));
    let kick = || EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map(Arc::new);
    let kicks: Vec<Arc<EventFd>> = (0..queues).map(|_| kick()).collect::<Result<_, _>>().map_err(system)?;
    let worker = Worker::spawn(&name(), kicks.clone(), service, Arc::clone(&freezer)).map_err(system)?;
    let parts = Parts {
        name: name(),
        model,
        worker,
        kicks: kicks.clone(),
        interrupter,
        freezer,
        doorbells: Box::new(KvmDoorbells::new(Arc::clone(&vm.fd), kicks)),
        memory: memory.clone(),
        address: PCI_APERTURE as u32 + u32::from(spec.slot) * BAR_BYTES,
        gsi: (PCI_GSI + pin) as u8,
    };
    let function = VirtioFunction::new(parts).map_err(|source| SlotError::Layout { name: name(), source })?;
    Ok((spec.slot, Arc::new(function)))
}

/// The functions as the root complex takes them.
#[must_use]
pub fn for_root(functions: &[(u8, Arc<VirtioFunction>)]) -> Vec<(u8, Arc<dyn Function>)> {
    functions.iter().map(|(slot, function)| (*slot, Arc::clone(function) as Arc<dyn Function>)).collect()
}
