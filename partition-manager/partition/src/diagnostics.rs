//! The built-in payload (`boot = "diagnostics"`): its image, and the tests of those parts of it that are pure.

/// The payload as an ELF file of 64 bits with a PVH note (Xen's `XEN_ELFNOTE_PHYS32_ENTRY`): linked at 1 MiB,
/// below 2 MiB as a whole, stripped.
pub const IMAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/diagnostics.elf"));

// The payload's sources that need no machine, compiled for the host to be tested.
#[cfg(test)]
#[path = "../diagnostics/command.rs"]
mod command;
#[cfg(test)]
#[path = "../diagnostics/digits.rs"]
mod digits;
#[cfg(test)]
#[path = "../diagnostics/histogram.rs"]
mod histogram;
#[cfg(test)]
#[path = "../diagnostics/options.rs"]
mod options;

#[cfg(test)]
mod tests {
    use super::IMAGE;

    #[test]
    fn the_image_is_a_small_elf_file() {
        assert!(IMAGE.starts_with(b"\x7fELF\x02\x01\x01"));
        assert!(IMAGE.len() < 96 << 10, "{} bytes", IMAGE.len());
    }
}
