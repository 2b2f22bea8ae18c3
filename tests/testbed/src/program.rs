//! Files of this host in an initial ramdisk, with the libraries that they link.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Error;
use crate::cpio::Archive;

/// Puts the program `here` at `there`, and what it links at the same paths as here.
///
/// # Errors
/// [`Error::File`], [`Error::Program`] and [`Error::Archive`].
pub fn put_program(archive: &mut Archive, here: &Path, there: &str) -> Result<(), Error> {
    put_file(archive, here, there)?;
    for library in libraries_of(here)? {
        put_file(archive, &library, &library.to_string_lossy())?;
    }
    Ok(())
}

/// Puts the host's file `here` at `there`, with its own permission bits.
pub fn put_file(archive: &mut Archive, here: &Path, there: &str) -> Result<(), Error> {
    use std::os::unix::fs::PermissionsExt;
    let content = std::fs::read(here).map_err(Error::file("read", here))?;
    let mode = std::fs::metadata(here).map_err(Error::file("read", here))?.permissions().mode();
    archive.file(there, mode & 0o777, &content)?;
    Ok(())
}

/// The loader and the libraries that the dynamic linker would map for `file`; none if it is no dynamic executable.
pub fn libraries_of(file: &Path) -> Result<Vec<PathBuf>, Error> {
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
