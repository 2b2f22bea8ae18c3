//! The initial ramdisk of the emulated machine: a host for the four binaries.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache::{Cache, Kernel};
use crate::cpio::Archive;
use crate::{Error, busybox, guest};

/// Loaded at boot, in this order: the agent's port and KVM.
const MODULES_AT_BOOT: &[&str] = &["virtio_pci", "virtio_console", "kvm_amd"];
/// There for `modprobe`.
const MODULES_ON_DEMAND: &[&str] = &["tun", "bridge", "veth", "loop", "vhost_net", "dummy"];

/// What runs as process 1 of the emulated machine.
const INIT: &str = include_str!("host-init.sh");

/// Where the stock kernel for partitions lies in the emulated machine.
pub const GUEST_KERNEL: &str = "/guest/vmlinuz";
/// Where the initial ramdisk for partitions lies in the emulated machine.
pub const GUEST_INITRD: &str = "/guest/initrd.img";

/// Stock kernels that partitions can boot beside [`GUEST_KERNEL`]: version and flavour.
pub const OTHER_KERNELS: &[(&str, &str)] =
    &[("6.1", "cloud"), ("6.1", "standard"), ("6.12", "cloud"), ("6.12", "standard")];
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

/// Puts the host's file `here` at `there`, with its own permission bits.
fn put_file(archive: &mut Archive, here: &Path, there: &str) -> Result<(), Error> {
    use std::os::unix::fs::PermissionsExt;
    let content = std::fs::read(here).map_err(Error::file("read", here))?;
    let mode = std::fs::metadata(here).map_err(Error::file("read", here))?.permissions().mode();
    archive.file(there, mode & 0o777, &content)?;
    Ok(())
}

/// The loader and the libraries that the dynamic linker would map for `file`; none if it is no dynamic executable.
fn libraries_of(file: &Path) -> Result<Vec<PathBuf>, Error> {
    let output = Command::new("ldd").arg(file).env("LC_ALL", "C").output();
    let output =
        output.map_err(|error| Error::Program { program: "ldd".to_owned(), why: format!("cannot be run: {error}") })?;
    // `ldd` fails for what is no dynamic executable: then nothing is needed.
    if !output.status.success() {
        return Ok(Vec::new());
    }
    parse_ldd(&String::from_utf8_lossy(&output.stdout))
        .map_err(|library| Error::Program { program: "ldd".to_owned(), why: format!("{}: {library}", file.display()) })
}

/// The paths in what `ldd` prints; the line of a library that was not found is the error.
fn parse_ldd(text: &str) -> Result<Vec<PathBuf>, String> {
    let mut libraries = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.ends_with("=> not found") {
            return Err(line.to_owned());
        }
        let path = line.split_once("=> ").map_or(line, |(_, path)| path);
        let path = path.split(" (").next().unwrap_or_default();
        if path.starts_with('/') {
            libraries.push(PathBuf::from(path));
        }
    }
    Ok(libraries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_library_and_the_loader_are_found_in_the_output_of_ldd() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd1)\n\tlibgcc_s.so.1 => /lib/x86_64-linux-gnu/libgcc_s.so.1 (0x00007f)\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f0)\n";
        let found = parse_ldd(text).unwrap();
        assert_eq!(found, [Path::new("/lib/x86_64-linux-gnu/libgcc_s.so.1"), Path::new("/lib64/ld-linux-x86-64.so.2")]);
        assert!(parse_ldd("\tstatically linked\n").unwrap().is_empty());
    }

    #[test]
    fn a_library_that_is_not_there_is_an_error_that_names_it() {
        assert_eq!(parse_ldd("\tlibnone.so.9 => not found\n").unwrap_err(), "libnone.so.9 => not found");
    }
}
