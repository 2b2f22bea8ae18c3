//! One running partition: its virtual machine, virtual processors, memory, devices and interrupts.
//!
//! A partition knows neither other partitions nor the host. Everything it touches comes to it as an open
//! descriptor beside a fully resolved launch specification ([`frame::launch`]); it opens no path.
//!
//! The way of a guest's access: exit ([`vcpu`]) -> bus ([`devices::bus`]) -> device -> the manager's
//! descriptors. The way of the manager's wishes: packet ([`driver`]) -> decision ([`lifecycle`]) -> effect.

pub mod acpi;
pub mod boot;
pub mod descriptors;
pub mod devices;
pub mod diagnostics;
pub mod driver;
pub mod interrupts;
pub mod jail;
pub mod launch;
pub mod layout;
pub mod lifecycle;
pub mod memory;
pub mod record;
pub mod smbios;
pub mod vcpu;
pub mod vm;
