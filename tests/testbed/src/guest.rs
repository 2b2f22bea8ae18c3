//! The initial ramdisk of a Linux partition: busybox and one script.

use std::path::Path;

use crate::cache::{Cache, Kernel};
use crate::cpio::Archive;
use crate::{Error, busybox, program};

/// What may be loaded in a partition; the script loads the first two, for the ACPI power button.
const MODULES: &[&str] = &[
    "button",
    "evdev",
    "virtio_mmio",
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "virtio-rng",
    "8021q",
    "pvpanic-mmio",
    "virtio_console",
];

/// What not every kernel has: without it, the action that wants it says so by failing.
const OPTIONAL: &[&str] = &["i6300esb"];

/// Tells what Linux made of the processors and caches; there on every Debian, and in no busybox.
const LSCPU: &str = "/usr/bin/lscpu";

/// What runs as process 1 of a Linux partition.
const INIT: &str = include_str!("guest-init.sh");

/// The bytes of the initial ramdisk for `kernel`.
///
/// On the kernel command line it knows `name=`, `action=idle|shell|poweroff|reboot|disk|net|root|panic|watchdog|ports` (default `idle`) and
/// `after=` (seconds, default 0). It prints lines that start with `BULKHEAD-GUEST`.
///
/// # Errors
/// [`Error::NotProvisioned`], [`Error::Module`], [`Error::File`] and [`Error::Program`].
pub fn initial_ramdisk(cache: &Cache, kernel: &Kernel) -> Result<Vec<u8>, Error> {
    let mut archive = Archive::new();
    for directory in ["/dev", "/proc", "/sys", "/tmp"] {
        archive.directory(directory)?;
    }
    archive.character_device("/dev/console", 0o600, 5, 1)?;
    archive.file("/etc/passwd", 0o644, b"root:x:0:0:root:/:/bin/sh\n")?;
    busybox::put_into(&mut archive, &cache.busybox()?)?;
    if Path::new(LSCPU).exists() {
        program::put_program(&mut archive, Path::new(LSCPU), "/bin/lscpu")?;
    }
    let there = |module: &&&str| kernel.modules.in_order(&[**module]).is_ok();
    let modules: Vec<&str> = MODULES.iter().chain(OPTIONAL.iter().filter(there)).copied().collect();
    kernel.modules.put_into(&mut archive, &modules)?;
    archive.file("/init", 0o755, INIT.as_bytes())?;
    Ok(archive.finish())
}
