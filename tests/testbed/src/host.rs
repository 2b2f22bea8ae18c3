//! The initial ramdisk of the emulated machine: a host for the four binaries.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::cache::{Cache, Kernel};
use crate::cpio::Archive;
use crate::program::{self, libraries_of, put_file};
use crate::{Error, busybox, guest, unpacked};

/// Loaded at boot, in this order: the agent's port and KVM.
const MODULES_AT_BOOT: &[&str] = &["virtio_pci", "virtio_console", "kvm_amd"];
/// There for `modprobe`.
const MODULES_ON_DEMAND: &[&str] =
    &["tun", "bridge", "veth", "loop", "vhost_net", "dummy", "null_blk", "virtio_blk", "ahci", "sd_mod"];

/// What makes and checks file systems; there on every Debian. A machine without them serves all other tests.
const FILE_SYSTEM_PROGRAMS: &[&str] = &[MKE2FS, E2FSCK];
/// Where the one is, here and there; its name alone is busybox's.
pub const MKE2FS: &str = "/sbin/mke2fs";
/// And where the other is.
pub const E2FSCK: &str = "/sbin/e2fsck";

/// What runs as process 1 of the emulated machine.
const INIT: &str = include_str!("host-init.sh");

/// Where the stock kernel for partitions lies in the emulated machine.
pub const GUEST_KERNEL: &str = "/guest/vmlinuz";
/// Where the initial ramdisk for partitions lies in the emulated machine.
pub const GUEST_INITRD: &str = "/guest/initrd.img";

/// Stock kernels that partitions can boot beside [`GUEST_KERNEL`]: version and flavour.
pub const OTHER_KERNELS: &[(&str, &str)] =
    &[("6.1", "cloud"), ("6.1", "standard"), ("6.12", "cloud"), ("6.12", "standard")];
/// Where the ELF file of the standard kernel 6.1 lies in the emulated machine, if the host has it. Its initial ramdisk
/// is the packed one's.
pub const UNPACKED_KERNEL: &str = "/guest/vmlinux";
/// Where memtest86+ lies in the emulated machine, if the host has it.
pub const MEMTEST: &str = "/guest/memtest.bin";

/// Where one of [`OTHER_KERNELS`] lies in the emulated machine, with its initial ramdisk, if the host has it.
#[must_use]
pub fn other_kernel(version: &str, flavour: &str) -> (String, String) {
    let directory = format!("/guest/{version}-{flavour}");
    (format!("{directory}/vmlinuz"), format!("{directory}/initrd.img"))
}

/// The bytes of the initial ramdisk, with `files` (path here, path there) and the libraries that they link.
///
/// # Errors
/// [`Error::NotProvisioned`], [`Error::Module`], [`Error::File`], [`Error::Program`] and [`Error::Archive`].
pub fn initial_ramdisk(cache: &Cache, kernel: &Kernel, files: &[(PathBuf, String)]) -> Result<Vec<u8>, Error> {
    let mut archive = Archive::new();
    for directory in ["/dev", "/proc", "/sys", "/run", "/tmp", "/root", "/var/lib", "/usr/bin"] {
        archive.directory(directory)?;
    }
    archive.character_device("/dev/console", 0o600, 5, 1)?;
    archive.file("/etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")?;
    archive.file("/etc/group", 0o644, b"root:x:0:\nkvm:x:100:\nnogroup:x:65534:\n")?;
    busybox::put_into(&mut archive, &cache.busybox()?)?;

    for program in FILE_SYSTEM_PROGRAMS.iter().map(Path::new).filter(|program| program.exists()) {
        program::put_program(&mut archive, program, &program.to_string_lossy())?;
    }
    let modules: Vec<_> = MODULES_AT_BOOT.iter().chain(MODULES_ON_DEMAND).copied().collect();
    kernel.modules.put_into(&mut archive, &modules)?;
    let at_boot = kernel.modules.in_order(MODULES_AT_BOOT)?;
    let at_boot: String =
        at_boot.iter().map(|file| format!("/lib/modules/{}/{file}\n", kernel.modules.release())).collect();
    archive.file("/etc/modules", 0o644, at_boot.as_bytes())?;

    let guest_kernel = cache.guest_kernel()?;
    put_file(&mut archive, &guest_kernel.image, GUEST_KERNEL)?;
    archive.file(GUEST_INITRD, 0o644, &guest::initial_ramdisk(cache, &guest_kernel)?)?;

    // A machine without them serves all other tests.
    for &(version, flavour) in OTHER_KERNELS {
        let kernel = match cache.kernel_of(version, flavour) {
            Err(Error::NotProvisioned { .. }) => continue,
            other => other?,
        };
        let (image, initrd) = other_kernel(version, flavour);
        put_file(&mut archive, &kernel.image, &image)?;
        archive.file(&initrd, 0o644, &guest::initial_ramdisk(cache, &kernel)?)?;
    }
    if let Ok(kernel) = cache.kernel_of("6.1", "standard") {
        let image = std::fs::read(&kernel.image).map_err(Error::file("read", &kernel.image))?;
        if let Some(unpacked) = unpacked::kernel_in(&image)? {
            archive.file(UNPACKED_KERNEL, 0o644, &unpacked)?;
        }
    }
    if let Ok(memtest) = cache.memtest() {
        put_file(&mut archive, &memtest, MEMTEST)?;
    }

    let mut libraries = BTreeSet::new();
    for (here, there) in files {
        put_file(&mut archive, here, there)?;
        libraries.extend(libraries_of(here)?);
    }
    for library in libraries {
        put_file(&mut archive, &library, &library.to_string_lossy())?;
    }
    archive.file("/init", 0o755, INIT.as_bytes())?;
    Ok(archive.finish())
}
