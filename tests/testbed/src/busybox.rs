//! Busybox in an initial ramdisk, under the name of each of its applets.

use std::path::Path;
use std::process::Command;

use crate::{Error, cpio::Archive};

/// Puts the static busybox at `path` and a link for each applet into `/bin`.
///
/// # Errors
/// [`Error::File`], [`Error::Program`] and [`Error::Archive`].
pub fn put_into(archive: &mut Archive, path: &Path) -> Result<(), Error> {
    let content = std::fs::read(path).map_err(Error::file("read", path))?;
    archive.file("/bin/busybox", 0o755, &content)?;
    let output = Command::new(path).arg("--list").output().map_err(Error::file("run", path))?;
    let applets = String::from_utf8_lossy(&output.stdout);
    for applet in applets.lines().filter(|applet| !applet.is_empty() && *applet != "busybox") {
        archive.symlink(&format!("/bin/{applet}"), "busybox")?;
    }
    Ok(())
}
