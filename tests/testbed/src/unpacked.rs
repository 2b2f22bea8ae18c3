//! The ELF file that a bzImage unpacks itself (kernel, Documentation/arch/x86/boot.rst, `payload_offset` and
//! `payload_length`).

use std::io::{Seek, Write};
use std::process::{Command, Stdio};

use crate::Error;

/// How an xz stream begins (The .xz File Format, section 2.1.1.1).
const XZ: &[u8] = b"\xfd7zXZ\0";

/// The kernel that is packed into `image`, if it is packed by xz, as Debian's standard kernel 6.1 is.
///
/// # Errors
/// [`Error::Program`] if `xz` cannot unpack it, and what keeps a temporary file from being written.
pub(crate) fn kernel_in(image: &[u8]) -> Result<Option<Vec<u8>>, Error> {
    let Some((packed, size)) = payload(image).filter(|(packed, _)| packed.starts_with(XZ)) else { return Ok(None) };
    let failed = |why: String| Error::Program { program: "xz".to_owned(), why };
    // A file, since what is written to a pipe and what is read from one could wait for each other.
    let input = tempfile::tempfile().and_then(|mut file| {
        file.write_all(packed)?;
        file.rewind()?;
        Ok(file)
    });
    let input = input.map_err(Error::file("write a temporary file in", std::env::temp_dir()))?;
    let ran = Command::new("xz").arg("-dc").stdin(Stdio::from(input)).output();
    let ran = ran.map_err(|error| failed(format!("cannot be run: {error}")))?;
    if !ran.status.success() || ran.stdout.len() as u64 != u64::from(size) {
        let message = String::from_utf8_lossy(&ran.stderr).into_owned();
        return Err(failed(format!("unpacked {} of the kernel's {size} bytes: {message}", ran.stdout.len())));
    }
    Ok(Some(ran.stdout))
}

/// The packed kernel, and its size when unpacked, which follows it.
fn payload(image: &[u8]) -> Option<(&[u8], u32)> {
    let number = |at: usize| Some(u32::from_le_bytes(image.get(at..at + 4)?.try_into().ok()?));
    let sectors = usize::from(*image.get(0x1f1)?);
    let start = (sectors + 1) * 512 + number(0x248)? as usize;
    let end = start.checked_add(number(0x24c)? as usize)?.checked_sub(4)?;
    Some((image.get(start..end)?, number(end)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_payload_is_found_by_the_header_and_its_size_follows() {
        let mut image = vec![0; 0x1000];
        image[0x1f1] = 1;
        image[0x248..0x24c].copy_from_slice(&0x100u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&10u32.to_le_bytes());
        image[0x500..0x50a].copy_from_slice(b"packed\x01\x02\0\0");
        assert_eq!(payload(&image), Some((&b"packed"[..], 0x201)));
        image[0x24c..0x250].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(payload(&image), None, "it is cut short");
        assert_eq!(payload(b"short"), None);
        assert!(kernel_in(&image).unwrap().is_none());
    }
}
